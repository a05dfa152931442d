package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/scenarios"
)

const (
	// playedStart is the file by which a run that is played says that it has begun, and playedEnd the one that it writes when it has cleaned up.
	playedStart = "started"
	playedEnd   = "cleaned"
	// playedCleaning is how long that takes: long enough for a second interrupt to come.
	playedCleaning = time.Second
)

// playRun takes interrupts as main does.
func playRun() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-ctx.Done(); stop() }()
	out := os.Args[slices.Index(os.Args, "--out")+1]
	if err := os.MkdirAll(out, 0o755); err != nil {
		os.Exit(exitUsage)
	}
	if err := os.WriteFile(filepath.Join(out, playedStart), nil, 0o600); err != nil {
		os.Exit(exitUsage)
	}
	<-ctx.Done()
	<-time.After(playedCleaning)
	if err := os.WriteFile(filepath.Join(out, playedEnd), nil, 0o600); err != nil {
		os.Exit(exitUsage)
	}
	os.Exit(exitInconclusive)
}

// played is the command in a process group of its own, as a shell starts it, with its runs played by the test binary.
func played(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleCommand)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // it may have ended
	return cmd
}

// TestCtrlC: the terminal interrupts everything in the foreground, and each run cleans up once.
func TestCtrlC(t *testing.T) {
	bugs, err := scenarios.SelectMutants(scenarios.Mutants(), "cas-ignored")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		dir  string // of the run that it starts
	}{
		"soak":    {[]string{"soak", "--rounds", "1", "--seed", "7"}, "round-7"},
		"mutants": {[]string{"mutants", "--mutant", bugs[0].Name, "--procs", "1"}, mutantFolder(cleanRuns(bugs)[0])},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := t.TempDir()
			cmd := played(t, append(c.args, "--backend", "process", "--out", out)...)
			eventually(t, commandBound, "a run begins", func() bool { return exists(filepath.Join(out, c.dir, playedStart)) })
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // how it ended is in its state
			if code := cmd.ProcessState.ExitCode(); code != exitInconclusive {
				t.Errorf("exit %d, want %d", code, exitInconclusive)
			}
			if !exists(filepath.Join(out, c.dir, playedEnd)) {
				t.Error("the run was ended before it had cleaned up")
			}
		})
	}
}
