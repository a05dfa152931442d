package main

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/scenarios"
)

func TestDisplay(t *testing.T) {
	var out text
	d := newDisplay(&out, false, time.Now().Add(-83*time.Second))
	for _, p := range []scenarios.Progress{
		{Scenario: "node-kill", Phase: "load", Ops: 0},
		{Scenario: "node-kill", Phase: "load", Ops: 90}, // nothing that is new
		{Scenario: "node-kill", Phase: "hold", Fault: "kill-1", Ops: 100, OK: 98},
		{Scenario: "cold-start", Phase: "load"},
		{Scenario: "node-kill", Phase: "hold", Ops: 120, OK: 110},
		{Scenario: "node-kill", Phase: "hold", Done: "pass", Why: "All is well."},
		{Scenario: "cold-start", Phase: "hold", Done: "inconclusive", Why: "It did too little."},
	} {
		d.show(p)
	}
	want := []string{
		"   1:23  node-kill           load",
		"   1:23  node-kill           hold  [in force: kill-1]  100 ops, 98 ok",
		"   1:23  cold-start          load",
		"   1:23  node-kill           hold  120 ops, 110 ok",
		"   1:23  node-kill           PASS  All is well.",
		"   1:23  cold-start          INCONCLUSIVE  It did too little.",
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), out.String())
	}
	for i := range want {
		if g, w := got[i][8:], want[i][8:]; g != w { // without the time, which goes on
			t.Errorf("line %d is %q, want %q", i+1, g, w)
		}
	}
}

func TestEveryStatusHasAWord(t *testing.T) {
	for status, want := range map[string]string{"pass": "PASS", "fail": "FAIL", "not-run": "NOT RUN", "inconclusive": "INCONCLUSIVE", "": "INCONCLUSIVE", "new": "INCONCLUSIVE"} {
		if got := word(status); got != want {
			t.Errorf("%q is %q, want %q", status, got, want)
		}
	}
}

// TestListen: several processes write at once, one of them rubbish, and one goes away in the middle of a line.
func TestListen(t *testing.T) {
	var out text
	d := newDisplay(&out, true, time.Now())
	path := filepath.Join(t.TempDir(), "s")
	stop, err := d.listen(path)
	if err != nil {
		t.Fatal(err)
	}
	send := func(text string) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := fmt.Fprint(c, text); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	send(`{"scenario":"a","phase":"one"}` + "\nrubbish\n" + `{"scenario":"a","phase":"two"}` + "\n")
	send(`{"scenario":"b","phase":"one"}` + "\n" + `{"scenario":"b","pha`)
	eventually(t, badLuckEnd, "three lines", func() bool { return strings.Count(out.String(), "\n") == 3 })
	for line := range strings.Lines(out.String()) {
		var p scenarios.Progress
		if err := json.Unmarshal([]byte(line), &p); err != nil || p.Scenario == "" || p.Phase == "" {
			t.Errorf("line %q: %v", line, err)
		}
	}
	stop()
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("somebody still listens")
	}
	if _, err := d.listen(filepath.Join(path, "below", "a", "file")); err == nil {
		t.Error("no error for a socket that cannot be")
	}
}
