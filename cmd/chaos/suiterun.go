package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/scenarios/suite"
)

// After Ctrl-C the suite's processes have this long to remove their clusters; Ginkgo's own grace period is shorter.
const suiteWait = 4 * time.Minute

// suite starts Ginkgo on the prepared configuration. A suite in which specs failed is not an error here: the proofs say what failed.
func (s *session) suite(ctx context.Context) error {
	dir, err := newRunDir()
	if err != nil {
		return err
	}
	defer dir.close()
	cfg := filepath.Join(dir.path, "config.json")
	b, err := json.Marshal(s.cfg)
	if err != nil {
		return fmt.Errorf("write the run's configuration: %w", err)
	}
	if err := os.WriteFile(cfg, b, 0o600); err != nil {
		return fmt.Errorf("write the run's configuration: %w", err)
	}
	socket := filepath.Join(dir.path, "progress")
	stop, err := newDisplay(s.out, s.flags.json, s.began).listen(socket)
	if err != nil {
		return err
	}
	defer stop()
	return s.ginkgo(ctx, dir, cfg, socket)
}

func (s *session) ginkgo(ctx context.Context, dir *runDir, cfg, socket string) error {
	logPath := filepath.Join(s.cfg.OutDir, "ginkgo.log")
	log, err := os.Create(logPath)
	if err != nil {
		return fmt.Errorf("open the suite's log: %w", err)
	}
	procs := min(s.flags.procs, len(s.list))
	args := []string{"tool", "ginkgo", "run", "--procs=" + strconv.Itoa(procs), "--keep-going", "--no-color", "--succinct", "--timeout=12h",
		"--junit-report=junit.xml", "--output-dir=" + s.cfg.OutDir, "./scenarios/suite"}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = s.tree
	cmd.Env = append(dir.env(), suite.ConfigEnv+"="+cfg, suite.ProgressEnv+"="+socket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{dir.lock, s.lock} // inherited down to the suite's processes, which write to both folders as long as one of them lives
	// A group of its own: the terminal's Ctrl-C reaches this process alone, which passes one interrupt on, so that specs clean up once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = suiteWait
	s.note("compiling and starting the suite (its own output: %s)", filepath.Join(s.flags.out, "ginkgo.log"))
	runErr := cmd.Run()
	if err := log.Close(); err != nil {
		return fmt.Errorf("write the suite's log: %w", err)
	}
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) && ctx.Err() == nil {
		return fmt.Errorf("start the suite: %w", runErr)
	}
	if runErr != nil {
		return fmt.Errorf("the suite ended with %w; see %s", runErr, logPath)
	}
	return nil
}

// sweepOwn removes what this run may have left, whatever happened to the suite.
func (s *session) sweepOwn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	rep, err := docker.Sweep(ctx, docker.SweepOptions{RunID: s.cfg.RunID})
	if err != nil {
		s.sweepErr = fmt.Errorf("not everything of this run could be removed (%w); run 'chaos sweep'", err)
		s.note("%v", s.sweepErr)
		return
	}
	if n := rep.Containers + rep.Networks + rep.Volumes; n > 0 {
		s.note("removed what scenarios had left: %d containers, %d networks, %d volumes", rep.Containers, rep.Networks, rep.Volumes)
	}
}
