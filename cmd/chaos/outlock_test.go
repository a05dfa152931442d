package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
)

// playHolder writes to the folder that it is given, says so, and waits.
func playHolder() {
	if _, err := lockOut(os.Args[1]); err != nil {
		_, _ = fmt.Fprintln(os.Stdout, err)
		os.Exit(exitUsage)
	}
	_, _ = fmt.Fprintln(os.Stdout, "locked")
	select {}
}

// TestOneRunAtATime: a folder that somebody writes to takes no other run, and what is in it stays; those below it do.
func TestOneRunAtATime(t *testing.T) {
	out := t.TempDir()
	bundle := filepath.Join(out, "noop-faults")
	writeBundle(t, bundle, false)
	write(t, "{}", out, mutantsJSON)
	lock, err := lockOut(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "--scenario", "noop-faults"},
		{"soak", "--scenario", "noop-faults"},
		{"shrink"},
		{"faults"},
		{"matrix", "--scenario", "noop-faults", "--suts", "membershipd"},
		{"mutants", "--mutant", "cas-ignored"},
		{"track-record", "--bug", "6888"},
	} {
		t.Run(args[0], func(t *testing.T) {
			expect(t, exitUsage, "another run writes to "+out+": wait for it, or give another --out", append(args, "--out", out, "--backend", "process")...)
		})
	}
	if _, err := reports.Verify(bundle); err != nil {
		t.Errorf("the bundle that was there: %v", err)
	}
	for _, below := range []string{"round-7", "membershipd"} { // of a soak and of a matrix
		l, err := lockOut(filepath.Join(out, below))
		if err != nil {
			t.Fatalf("a run below: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockOut(out)
	if err != nil {
		t.Fatalf("after the run: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockOfAKilledRun is gone with it; what keeps it is every process that it was handed on to.
func TestLockOfAKilledRun(t *testing.T) {
	out := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, out)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleHolder)
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // it may have ended
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || strings.TrimSpace(line) != "locked" {
		t.Fatalf("the run says %q, %v", line, err)
	}
	if l, err := lockOut(out); err == nil {
		t.Error("the folder is not locked", l.Close())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	lock, err := lockOut(out)
	if err != nil {
		t.Fatalf("after the run was killed: %v", err)
	}
	heir := exec.Command("sleep", "1000")
	heir.ExtraFiles = []*os.File{lock}
	if err := heir.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = heir.Process.Kill(), heir.Wait() }) // it may have ended
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err := lockOut(out); err == nil {
		t.Error("a process of the run lives, and the folder is not locked", l.Close())
	}
	_, _ = heir.Process.Kill(), heir.Wait()
	if lock, err = lockOut(out); err != nil {
		t.Fatalf("after the last process: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockIsNoEvidence: nobody who reads an output folder sees the lock.
func TestLockIsNoEvidence(t *testing.T) {
	out := t.TempDir()
	writeBundleOf(t, filepath.Join(out, "a"), false, ofRun(7))
	lock, err := lockOut(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() }) // nothing was written
	part(t, out, 7, []string{"a"})
	expect(t, exitOK, "sound", "verify", out)
	expect(t, exitInconclusive, "1 bundles", "gate", out)
	whole := filepath.Join(t.TempDir(), "whole")
	expect(t, exitOK, "1 bundles of 1 parts", "merge", "--out", whole, out)
	if err := os.RemoveAll(filepath.Join(whole, "a")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{reports.IndexJSON, reports.IndexHTML} {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || strings.Contains(string(b), outLock) {
			t.Errorf("%s: %v, speaks of the lock", name, err)
		}
		if err := os.Remove(filepath.Join(whole, name)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, exitOK, "1 bundles of 1 parts", "merge", "--out", whole, out) // the lock's file alone is nothing
}
