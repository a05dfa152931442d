package docker_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/sut/cluster"
)

const (
	noEngineEnv = "UNIBUS_TEST_NO_ENGINE"
	harnessEnv  = "UNIBUS_TEST_HARNESS"

	livingRun = "test-living"
	deadRun   = "test-dead"
	madeIt    = "made it"
)

// runAgain runs one test of this binary in a process of its own.
func runAgain(t *testing.T, test string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	began := time.Now()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+test, "-test.v")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v after %v: %v\n%s", env, time.Since(began), err, out)
	}
}

// TestHarnessToKill is the child process of TestSweep: it makes a cluster and waits to be killed.
func TestHarnessToKill(t *testing.T) {
	if os.Getenv(harnessEnv) == "" {
		t.Skip("TestSweep runs this as a child process")
	}
	d, sub := backend(t)
	c, err := d.NewCluster(t.Context(), cluster.Spec{RunID: deadRun, Name: "t", Subject: sub, AdminKey: adminKey})
	if err != nil {
		t.Fatal(err)
	}
	startTogether(t, c)
	_, _ = io.WriteString(os.Stdout, madeIt+"\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills this process, or dies itself
}

func TestSweep(t *testing.T) {
	d, sub := backend(t)
	if err := sweepRun(t, deadRun); err != nil { // of an earlier test that was interrupted
		t.Fatal(err)
	}
	living := newCluster(t, d, sub, livingRun)
	startTogether(t, living)
	before := things(t, livingRun)
	if !sweepsDead(t) {
		t.Skip("another harness on this machine sweeps faster: what this one removes cannot be told apart")
	}
	if left := things(t, deadRun); len(left) > 0 {
		t.Errorf("after the sweep: %v", left)
	}
	if now := things(t, livingRun); strings.Join(now, "\n") != strings.Join(before, "\n") {
		t.Errorf("of the living harness there is %v; there was %v", now, before)
	}
	for _, n := range living.Nodes() {
		if s := mustState(t, n); !s.Running {
			t.Errorf("%s of the living harness: %+v", n.ID(), s)
		}
	}
}

// sweepsDead kills a harness, and has several sweeps at the same things at once, as when several harnesses start: none fails. Any other harness that starts
// just now may remove them first, in part or in whole, as it should: then nothing is shown, and it is done again. It is false when that happened every time.
func sweepsDead(t *testing.T) bool {
	t.Helper()
	for range 3 {
		killedHarness(t)
		found := len(things(t, deadRun))
		var (
			mu  sync.Mutex
			all sync.WaitGroup
			rep docker.SweepReport
		)
		for range 3 {
			all.Go(func() {
				r, err := docker.Sweep(t.Context(), docker.SweepOptions{})
				if err != nil {
					t.Errorf("sweep: %+v, %v", r, err)
				}
				mu.Lock()
				defer mu.Unlock()
				rep = docker.SweepReport{Containers: rep.Containers + r.Containers, Networks: rep.Networks + r.Networks, Volumes: rep.Volumes + r.Volumes}
			})
		}
		all.Wait()
		if found == 9+1+3 && rep.Containers >= 9 && rep.Networks >= 1 && rep.Volumes >= 3 { // more where other dead harnesses had left something
			return true
		}
		t.Logf("the dead harness had left %d things, these sweeps removed %+v", found, rep)
	}
	return false
}

func sweepRun(t *testing.T, run string) error {
	t.Helper()
	_, err := docker.Sweep(t.Context(), docker.SweepOptions{RunID: run})
	return err
}

// killedHarness makes a harness with a cluster and ends it with SIGKILL.
func killedHarness(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHarnessToKill$", "-test.v")
	cmd.Env = append(os.Environ(), harnessEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	made := false
	var said []string
	for sc := bufio.NewScanner(out); !made && sc.Scan(); {
		said = append(said, sc.Text())
		made = sc.Text() == madeIt
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if !made {
		t.Fatalf("the child process made no cluster: %q", said)
	}
}
