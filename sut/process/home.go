package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/flock"
)

const (
	homePrefix = "unibus-process-"
	lockName   = "lock"
	pidSuffix  = ".pid"
	// homeTries is how often a sweep may take away a directory that is just being made.
	homeTries = 10
	// orphanAge is the age from which a directory without a lock file counts as left behind: somebody died between two system calls.
	orphanAge = time.Hour
)

// home is a cluster's directory. Its lock file is locked as long as the harness lives, and the kernel gives the lock up however it dies:
// that is how Sweep knows.
type home struct {
	dir  string
	lock *os.File
}

func newHome(parent string) (*home, error) {
	for range homeTries {
		dir, err := os.MkdirTemp(parent, homePrefix)
		if err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
		lock, err := takeLock(dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock directory: %w", err), os.RemoveAll(dir))
		}
		if lock != nil {
			return &home{dir: dir, lock: lock}, nil
		}
	}
	return nil, fmt.Errorf("make directory: a sweep removed it %d times", homeTries)
}

// takeLock returns nil when somebody else has the lock, or has removed the directory meanwhile.
func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, secretMode)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if ok, err := flock.Try(f); !ok {
		return nil, errors.Join(err, f.Close())
	}
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		return nil, f.Close()
	}
	return f, nil
}

// note writes down a daemon's process for Sweep.
func (h *home) note(id cluster.NodeID, pid int) error {
	l, err := lookAt(pid)
	if gone(err) {
		return nil // it has ended already: nothing to remember
	}
	if err != nil {
		return fmt.Errorf("note process: %w", err)
	}
	line := strconv.Itoa(pid) + " " + strconv.FormatUint(l.start, 10) + "\n"
	if err := os.WriteFile(filepath.Join(h.dir, string(id)+pidSuffix), []byte(line), secretMode); err != nil {
		return fmt.Errorf("note process: %w", err)
	}
	return nil
}

// remove keeps the lock until the directory is gone.
func (h *home) remove() error {
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("remove directory: %w", err)
	}
	_ = h.lock.Close() // the file is gone
	return nil
}

// Report says what Sweep removed.
type Report struct {
	Directories int `json:"directories"`
	Processes   int `json:"processes"` // daemons that outlived their harness; none on Linux
}

// Sweep removes the directories of clusters whose harness is dead, and ends daemons that it left. Those of a living one are not touched.
// dir is that of Options.
func Sweep(ctx context.Context, dir string) (Report, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	var rep Report
	if _, err := host.Sweep(dir); err != nil { // before the directories that they are mounted in
		return rep, fmt.Errorf("sweep: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return rep, fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), homePrefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return rep, errors.Join(append(errs, fmt.Errorf("sweep: %w", err))...)
		}
		if err := rep.sweep(filepath.Join(dir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", e.Name(), err))
		}
	}
	return rep, errors.Join(errs...)
}

func (r *Report) sweep(dir string) error {
	if unfinished(dir) {
		return nil
	}
	lock, err := takeLock(dir)
	if errors.Is(err, os.ErrPermission) {
		return nil // another user's
	}
	if err != nil || lock == nil {
		return err
	}
	h := &home{dir: dir, lock: lock}
	r.Processes += endLeftovers(dir)
	if err := h.remove(); err != nil {
		return errors.Join(err, lock.Close())
	}
	r.Directories++
	return nil
}

// unfinished tells whether a directory is just being made, or just being removed.
func unfinished(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, lockName)); !gone(err) {
		return false
	}
	info, err := os.Stat(dir)
	return err != nil || time.Since(info.ModTime()) < orphanAge
}

// endLeftovers kills processes that were noted, each only if it is still that life.
func endLeftovers(dir string) int {
	notes, err := filepath.Glob(filepath.Join(dir, "*"+pidSuffix))
	if err != nil {
		return 0
	}
	ended := 0
	for _, path := range notes {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var pid int
		var start uint64
		if _, err := fmt.Sscan(string(b), &pid, &start); err != nil || pid <= 1 {
			continue
		}
		if l, err := lookAt(pid); err == nil && l.start == start && !l.zombie && syscall.Kill(pid, syscall.SIGKILL) == nil {
			ended++
		}
	}
	return ended
}
