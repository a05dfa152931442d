package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/flock"
	"github.com/unibus/unibus/sut/process"
)

const (
	runDirPrefix = "unibus-run-"
	runDirLock   = "lock"
	// A folder without a lock file is one that is just being made, or whose maker died between two system calls.
	runDirOrphan = time.Hour
	// How often a sweep may be faster than the lock of a folder that was just made.
	runDirTries = 10
)

// runDir is a run's folder for temporary files: its configuration, the progress socket, and everything that its suite's processes put into their
// folder for temporary files, copies of stores among them. Its lock file is held by this process and by all of the suite's, which inherit
// it, and the kernel gives it up when the last of them is dead, however it died: that is how sweepRunDirs knows.
type runDir struct {
	path string
	lock *os.File
}

func newRunDir() (*runDir, error) {
	for range runDirTries {
		dir, err := os.MkdirTemp("", runDirPrefix)
		if err != nil {
			return nil, fmt.Errorf("make the run's folder: %w", err)
		}
		lock, err := lockDir(dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make the run's folder: %w", err), os.RemoveAll(dir))
		}
		if lock != nil {
			return &runDir{path: dir, lock: lock}, nil
		}
	}
	return nil, fmt.Errorf("make the run's folder: a sweep removed it %d times", runDirTries)
}

// close removes the folder. A suite that outlives this call would lose its files, and so it is the last thing of a run.
func (d *runDir) close() {
	_ = os.RemoveAll(d.path) // what stays is removed by the next sweep
	_ = d.lock.Close()       // nothing was written
}

// lockDir returns nil when somebody else has the lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, runDirLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if ok, err := flock.Try(f); !ok {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweepFolders removes what dead runs left in the system's folder for temporary files, and counts the folders.
func sweepFolders(ctx context.Context) (process.Report, error) {
	rep, err := process.Sweep(ctx, "")
	dirs, lerr := filepath.Glob(filepath.Join(os.TempDir(), runDirPrefix+"*"))
	errs := []error{err, lerr}
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue
		}
		one, err := sweepRunDir(ctx, dir)
		errs = append(errs, err)
		rep.Directories += one.Directories
		rep.Processes += one.Processes
	}
	if err := errors.Join(errs...); err != nil {
		return rep, fmt.Errorf("remove the folders of dead runs: %w", err)
	}
	return rep, nil
}

func sweepRunDir(ctx context.Context, dir string) (rep process.Report, err error) {
	if young(dir) {
		return rep, nil
	}
	lock, err := lockDir(dir)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return rep, nil // another user's, or another sweep was faster
	}
	if err != nil || lock == nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if rep, err = process.Sweep(ctx, dir); err != nil { // daemons that outlived their harness, where the kernel does not end them
		return rep, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return rep, err
	}
	rep.Directories++
	return rep, nil
}

// young tells whether a folder without a lock may still get one.
func young(dir string) bool {
	if _, err := os.Lstat(filepath.Join(dir, runDirLock)); err == nil {
		return false
	}
	info, err := os.Lstat(dir)
	return err != nil || time.Since(info.ModTime()) < runDirOrphan
}

// env is the environment of the suite's processes.
func (d *runDir) env() []string {
	var kept []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TMPDIR=") {
			kept = append(kept, e)
		}
	}
	return append(kept, "TMPDIR="+d.path)
}
