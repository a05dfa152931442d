package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/scenarios/suite"
)

// sessionOf is a session that has looked at its flags.
func sessionOf(t *testing.T, words string) *session {
	t.Helper()
	s := newSession(&runFlags{scenario: words, sut: "membershipd", procs: 1, backend: "process", out: t.TempDir()}, io.Discard)
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	s.cfg = suite.Config{OutDir: s.flags.out}
	return s
}

func proof(scenario string, status reports.Status) reports.Proof {
	return reports.Proof{Status: status, Evidence: reports.Evidence{Scenario: scenario}}
}

// TestVerdict: a fail outranks everything, and nothing that was left out, cut off or left behind is a pass.
func TestVerdict(t *testing.T) {
	pass, fail := proof("node-kill", reports.StatusPass), proof("quorum-loss", reports.StatusFail)
	open, left := proof("cold-start", reports.StatusInconclusive), proof("partition", reports.StatusNotRun)
	gone := errors.New("the socket is gone; run 'chaos sweep'")
	for name, c := range map[string]struct {
		words       string
		proofs      []reports.Proof
		missing     []string
		err, sweep  error
		interrupted bool
		code        int
		says        string
	}{
		"pass":                   {"", []reports.Proof{pass}, nil, nil, nil, false, exitOK, ""},
		"fail":                   {"", []reports.Proof{pass, fail, open}, nil, nil, nil, false, exitFail, fmt.Sprintf("1 of %d scenarios failed: quorum-loss", len(daily(t)))},
		"fail, then interrupted": {"", []reports.Proof{fail}, []string{"x"}, nil, gone, true, exitFail, "quorum-loss"},
		"inconclusive":           {"", []reports.Proof{pass, open}, nil, nil, nil, false, exitInconclusive, "inconclusive: cold-start"},
		"interrupted":            {"", []reports.Proof{pass}, []string{"cold-start"}, nil, nil, true, exitInconclusive, "interrupted; the clusters are removed"},
		"interrupted, not swept": {"", []reports.Proof{pass}, nil, nil, gone, true, exitInconclusive, "the evidence so far is kept, but the socket is gone"},
		"pass, not swept":        {"", []reports.Proof{pass}, nil, nil, gone, false, exitInconclusive, "run 'chaos sweep'"},
		"no proof":               {"", []reports.Proof{pass}, []string{"cold-start (no file)"}, errors.New("see the log"), nil, false, exitInconclusive, "no proof was written for cold-start"},
		"not run, required":      {"", []reports.Proof{pass, proof("cold-start", reports.StatusNotRun)}, nil, nil, nil, false, exitInconclusive, "NOT RUN here: cold-start"},
		"not run, an extra":      {"", []reports.Proof{pass, left}, nil, nil, nil, false, exitOK, ""},
		"not run, asked for":     {"partition", []reports.Proof{left}, nil, nil, nil, false, exitInconclusive, "NOT RUN here: partition"},
		"passed in a sick suite": {"", []reports.Proof{pass}, nil, errors.New("the suite ended with exit status 2"), nil, false, exitInconclusive, "the suite ended"},
		"nothing at all":         {"", nil, nil, nil, nil, false, exitInconclusive, "no proof"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sessionOf(t, c.words)
			s.sweepErr = c.sweep
			ctx, cancel := context.WithCancel(t.Context())
			if c.interrupted {
				cancel()
			}
			defer cancel()
			err := verdict(ctx, s, c.proofs, c.missing, c.err)
			var e *exitError
			code, says := exitOK, ""
			if errors.As(err, &e) {
				code, says = e.code, e.Error()
			} else if err != nil {
				t.Fatalf("no exit code: %v", err)
			}
			if code != c.code || !strings.Contains(says, c.says) {
				t.Errorf("exit %d, %q; want %d, %q", code, says, c.code, c.says)
			}
		})
	}
}

func TestSeed(t *testing.T) {
	for name, c := range map[string]struct {
		f    runFlags
		want uint64
	}{"given": {runFlags{seed: 7, seeded: true}, 7}, "given as zero": {runFlags{seeded: true}, 0}} {
		f := c.f
		f.sut, f.procs, f.backend = "membershipd", 1, "auto"
		if err := newSession(&f, io.Discard).check(); err != nil || f.seed != c.want {
			t.Errorf("%s: %d, %v; want %d", name, f.seed, err, c.want)
		}
	}
	f := &runFlags{sut: "membershipd", procs: 1, backend: "auto"}
	s := newSession(f, io.Discard)
	if err := s.check(); err != nil || !f.seeded {
		t.Fatalf("a drawn seed counts as given: %v, %v", f.seeded, err)
	}
	first := f.seed
	if err := s.check(); err != nil || f.seed != first {
		t.Errorf("the seed was %d and is %d (%v)", first, f.seed, err)
	}
}

// daily are the scenarios of a run that names none.
func daily(t *testing.T) []scenarios.Scenario {
	t.Helper()
	list, err := scenarios.Select(scenarios.All(), "", false)
	if err != nil || len(list) == len(scenarios.All()) {
		t.Fatalf("%d scenarios, %v: the nightly ones should be left out", len(list), err)
	}
	return list
}

func TestLongestFirst(t *testing.T) {
	s := sessionOf(t, "")
	if !slices.IsSortedFunc(s.list, func(a, b scenarios.Scenario) int { return b.Seconds - a.Seconds }) || len(s.list) != len(daily(t)) {
		t.Errorf("%d scenarios, not the longest first", len(s.list))
	}
}

// TestOutKeepsWhatIsNotOurs: earlier bundles of the same scenarios are replaced, everything else stays.
func TestOutKeepsWhatIsNotOurs(t *testing.T) {
	s := sessionOf(t, "node-kill,cold-start,partition")
	out := s.cfg.OutDir
	writeBundle(t, filepath.Join(out, "node-kill"), false)
	writeBundle(t, filepath.Join(out, "quorum-loss"), false)
	write(t, "", out, "cold-start", reports.HistoryFile) // its run died
	mine := write(t, "mine", out, "notes.txt")
	if err := os.Mkdir(filepath.Join(out, "partition"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.checkOut(), s.clearOut()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node-kill", "cold-start", "partition"} {
		if exists(filepath.Join(out, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := reports.Verify(filepath.Join(out, "quorum-loss")); err != nil || !exists(mine) {
		t.Errorf("what is not replaced: %v; notes.txt there: %t", err, exists(mine))
	}
	write(t, "mine", out, "partition", "map.png")
	if err := s.clearOut(); err == nil || !exists(filepath.Join(out, "partition", "map.png")) {
		t.Errorf("a folder that holds something else: %v", err)
	}
}

func TestAgain(t *testing.T) {
	s := sessionOf(t, "node-kill")
	s.cfg.Seed = 7
	s.flags.full, s.flags.sut = true, "nats-server@v2.15.2"
	if got, want := s.command(), "make chaos SEED=7 SCENARIO=node-kill SUT=nats-server@v2.15.2 FULL=1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSweepFolders: folders of dead runs go, with what is in them; those of living ones, and what only looks like one, stay.
func TestSweepFolders(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	living, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newRunDir()
	if err != nil {
		t.Fatal(err)
	}
	write(t, "large", dead.path, "unibus-stores-1", "n1", "1.blk")
	if err := dead.lock.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	file := write(t, "", tmp, runDirPrefix+"file")
	young := filepath.Dir(write(t, "", tmp, runDirPrefix+"young", "config.json"))
	old := filepath.Dir(write(t, "", tmp, runDirPrefix+"old", "config.json"))
	ago := time.Now().Add(-2 * runDirOrphan)
	if err := os.Chtimes(old, ago, ago); err != nil {
		t.Fatal(err)
	}
	other := write(t, "", tmp, "thesis", "lock")
	rep, err := sweepFolders(t.Context())
	if err != nil || rep.Directories != 2 {
		t.Errorf("%+v, %v; want 2 folders", rep, err)
	}
	for path, want := range map[string]bool{living.path: true, dead.path: false, file: true, young: true, old: false, other: true} {
		if exists(path) != want {
			t.Errorf("%s is there: %t, want %t", filepath.Base(path), !want, want)
		}
	}
	living.close()
	if exists(living.path) {
		t.Error("a run that ends leaves its folder")
	}
}
