package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
)

func TestParseShard(t *testing.T) {
	env := map[string]string{}
	get := func(k string) string { return env[k] }
	for in, want := range map[string]shard{"": {}, "1/1": {1, 1}, "2/4": {2, 4}, "4/4": {4, 4}} {
		if got, err := parseShard(in, get); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"0/4", "5/4", "1/0", "-1/4", "1", "/", "/4", "a/b", "1/2/3", "1/ 2"} {
		if got, err := parseShard(in, get); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
	env[testSharding] = "2"
	if got, err := parseShard("/4", get); err != nil || got != (shard{3, 4}) {
		t.Errorf("from %s: %v, %v", testSharding, got, err)
	}
	env[indexedJob] = "0"
	if got, err := parseShard("/4", get); err != nil || got != (shard{1, 4}) {
		t.Errorf("from %s: %v, %v", indexedJob, got, err)
	}
}

// TestShardsMakeUpTheWhole: every scenario is in exactly one part, and no part has much more to do than it must.
func TestShardsMakeUpTheWhole(t *testing.T) {
	all := scenarios.All()
	total, longest := 0, 0
	for _, sc := range all {
		total += max(sc.Seconds, 1)
		longest = max(longest, sc.Seconds)
	}
	for count := 1; count <= len(all); count++ {
		var names []string
		for i := range count {
			load := 0
			for _, sc := range (shard{i + 1, count}).pick(all) {
				names = append(names, sc.Name)
				load += max(sc.Seconds, 1)
			}
			if most := total/count + longest; load > most { // the bound of list scheduling
				t.Errorf("part %d of %d takes %d s, at most %d s would do", i+1, count, load, most)
			}
		}
		slices.Sort(names)
		if len(slices.Compact(slices.Clone(names))) != len(all) || len(names) != len(all) {
			t.Errorf("%d parts: %d scenarios, %d of them different, want %d", count, len(names), len(slices.Compact(names)), len(all))
		}
	}
}

// partRun is the id of every part's run.
const partRun = "r1"

// ofRun makes a bundle one of a run.
func ofRun(seed uint64, changes ...func(*reports.Evidence)) func(*reports.Evidence) {
	return func(ev *reports.Evidence) {
		ev.Run, ev.Seed, ev.Harness = partRun, seed, reports.Subject{Kind: "chaos", Digest: "sha256:" + strings.Repeat("c", 64)}
		for _, change := range changes {
			change(ev)
		}
	}
}

// part writes one part of a sharded run.
func part(t *testing.T, dir string, seed uint64, planned []string, names ...string) string {
	t.Helper()
	for _, n := range names {
		writeBundleOf(t, filepath.Join(dir, n), false, ofRun(seed))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := reports.WriteIndex(dir, reports.RunInfo{ID: partRun, Seed: seed, Planned: planned}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMerge(t *testing.T) {
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	plan := []string{"a", "b", "c"}
	ab, c := part(t, in("ab"), 7, plan, "a", "b"), part(t, in("c"), 7, plan, "c")
	stale := func(name string, seed uint64, change func(*reports.Evidence)) string {
		writeBundleOf(t, filepath.Join(in(name), "c"), false, ofRun(seed, change))
		return part(t, in(name), 7, plan)
	}
	elsewhere := stale("elsewhere", 7, func(ev *reports.Evidence) { ev.Subject.Digest = "sha256:" + strings.Repeat("b", 64) })
	control := stale("control", 7, func(ev *reports.Evidence) {
		ev.Variant, ev.Subject = "nats-server", reports.Subject{Kind: "nats-server"}
	})
	whole := in("whole")
	expect(t, exitOK, "3 bundles of 2 parts", "merge", "--out", whole, ab, c)
	expect(t, exitOK, "sound", "verify", whole)
	expect(t, exitOK, "3 bundles of 2 parts", "merge", "--out", in("with a control"), ab, control)
	for name, bad := range map[string]struct {
		parts []string
		says  string
	}{
		"one missing":   {[]string{ab}, "c is in none of them"},
		"one twice":     {[]string{ab, c, part(t, in("c2"), 7, plan, "c")}, "c is there twice"},
		"other seed":    {[]string{ab, part(t, in("seed"), 8, plan, "c")}, "has seed 8"},
		"other plan":    {[]string{ab, part(t, in("plan"), 7, []string{"c"}, "c")}, "another plan"},
		"not planned":   {[]string{ab, c, part(t, in("d"), 7, plan, "d")}, "was not planned"},
		"no plan":       {[]string{part(t, in("none"), 7, nil, "a")}, "does not say what was planned"},
		"no index":      {[]string{t.TempDir()}, "index.json is missing"},
		"damaged":       {[]string{ab, damaged(t, part(t, in("bad"), 7, plan, "c"))}, "another digest"},
		"other subject": {[]string{ab, elsewhere}, "speaks of subject"},
		// What an earlier run left where this one made nothing is not taken in its place.
		"left over, by its seed":    {[]string{ab, stale("seeds", 8, func(*reports.Evidence) {})}, in("seeds/c") + " has seed 8, the run has 7; it was left over"},
		"left over, by its run":     {[]string{ab, stale("runs", 7, func(ev *reports.Evidence) { ev.Run = "r0" })}, in("runs/c") + " is of run r0"},
		"left over, by its harness": {[]string{ab, stale("harness", 7, func(ev *reports.Evidence) { ev.Harness.Digest = "sha256:old" })}, in("harness/c") + " was made by harness sha256:old"},
		"left over, by its sync":    {[]string{ab, stale("sync", 7, func(ev *reports.Evidence) { ev.Subject.Sync = "2m" })}, "in " + in("sync/c") + " the subject ran with sync 2m"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			expect(t, exitUsage, bad.says, append([]string{"merge", "--out", out}, bad.parts...)...)
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
	expect(t, exitUsage, "is not empty", "merge", "--out", whole, ab, c)
}

// TestMergeTakesAScenariosOwnSync: a scenario that sets the sync policy itself is no other run's because the run has another one.
func TestMergeTakesAScenariosOwnSync(t *testing.T) {
	const own = "power-failure"
	plan := []string{"node-kill", own}
	tmp := t.TempDir()
	dirs := map[string]string{"node-kill": "2m", own: "always"}
	for name, sync := range dirs {
		writeBundleOf(t, filepath.Join(tmp, "part-"+name, name), false, ofRun(7, func(ev *reports.Evidence) { ev.Subject.Sync = sync }))
		part(t, filepath.Join(tmp, "part-"+name), 7, plan)
	}
	for i, order := range [][]string{{"node-kill", own}, {own, "node-kill"}} {
		expect(t, exitOK, "2 bundles of 2 parts", "merge", "--out", filepath.Join(tmp, fmt.Sprint("whole-", i)), filepath.Join(tmp, "part-"+order[0]), filepath.Join(tmp, "part-"+order[1]))
	}
}

func damaged(t *testing.T, part string) string {
	t.Helper()
	cut(t, filepath.Join(part, "c", reports.HistoryFile))
	return part
}
