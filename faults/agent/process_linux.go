package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// signalBound is how long the kernel may take to carry out a signal. It takes microseconds, but the machine may be loaded.
	signalBound = 10 * time.Second
	// signalPoll is the time between two looks at the process meanwhile.
	signalPoll = time.Millisecond
	// commLen is how much of a program's name the kernel keeps in comm.
	commLen = 15
)

// stat is what /proc/PID/stat says.
type stat struct {
	comm  string
	state byte
	start uint64
}

func (s stat) dead() bool   { return s.state == 'Z' || s.state == 'X' }
func (s stat) paused() bool { return s.state == 'T' }

// processes finds and signals the daemon among the processes of this PID namespace.
type processes struct {
	proc  string // "/proc"
	names []string
}

var (
	errNotRunning = &Error{Code: CodeNotRunning, Text: "the daemon does not run"}
	errNoKill     = &Error{Code: CodeUnsupported, Text: "the agent may not signal the daemon, which has another user: it lacks the capability KILL"}
)

// find returns the daemon's process. Several of them are an error: it is not clear whom a fault would hit.
func (p processes) find() (ProcessResult, error) {
	entries, err := os.ReadDir(p.proc)
	if err != nil {
		return ProcessResult{}, fmt.Errorf("list processes: %w", err)
	}
	var found []ProcessResult
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() { // 1 is the pod's holder
			continue
		}
		s, err := p.stat(pid)
		if err != nil || s.dead() || !p.isDaemon(pid, s.comm) { // an error means that it is gone by now
			continue
		}
		found = append(found, ProcessResult{Running: true, Paused: s.paused(), PID: pid, StartTime: s.start, Comm: s.comm})
	}
	switch len(found) {
	case 0:
		return ProcessResult{}, nil
	case 1:
		return found[0], nil
	default:
		return ProcessResult{}, fmt.Errorf("%d processes could be the daemon (%d and %d are two of them)", len(found), found[0].PID, found[1].PID)
	}
}

// isDaemon compares the program's name as the kernel keeps it, and its file where the agent may see that.
func (p processes) isDaemon(pid int, comm string) bool {
	exe, err := os.Readlink(filepath.Join(p.proc, strconv.Itoa(pid), "exe"))
	base := ""
	if err == nil {
		base = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	return slices.ContainsFunc(p.names, func(n string) bool {
		return n != "" && (n == base || comm == n[:min(len(n), commLen)])
	})
}

func (p processes) stat(pid int) (stat, error) {
	return readStat(filepath.Join(p.proc, strconv.Itoa(pid), "stat"))
}

func readStat(path string) (stat, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, fmt.Errorf("read process: %w", err)
	}
	return parseStat(b)
}

// parseStat reads the fields 2, 3 and 22. The name may hold spaces and brackets: it ends at the last one.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("read process: no name in %q", b)
	}
	const state, start = 0, 19 // of the fields after the name
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) <= start || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("read process: too few fields in %q", b)
	}
	t, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read process: start time: %w", err)
	}
	return stat{comm: string(b[open+1 : end]), state: fields[state][0], start: t}, nil
}

// signal sends sig to the daemon and returns when the kernel has carried it out. SIGTERM and SIGHUP are only sent.
func (p processes) signal(ctx context.Context, sig syscall.Signal) (ProcessResult, error) {
	target, err := p.find()
	if err != nil {
		return target, err
	}
	if !target.Running {
		return target, errNotRunning
	}
	if err := p.send(target, sig); err != nil {
		return target, err
	}
	if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
		return target, nil
	}
	ctx, cancel := context.WithTimeout(ctx, signalBound)
	defer cancel()
	if err := p.await(ctx, target, sig); err != nil {
		return target, fmt.Errorf("wait until %v has taken effect on process %d: %w", sig, target.PID, err)
	}
	return p.find()
}

// send signals through a pidfd that was checked to be that life of the process: a PID can be used again.
func (p processes) send(target ProcessResult, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(target.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return errNotRunning
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", target.PID, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	if s, err := p.stat(target.PID); err != nil || s.start != target.StartTime {
		return errNotRunning
	}
	switch err := unix.PidfdSendSignal(fd, sig, nil, 0); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH):
		return errNotRunning
	case errors.Is(err, unix.EPERM):
		return errNoKill
	default:
		return fmt.Errorf("signal process %d: %w", target.PID, err)
	}
}

func (p processes) await(ctx context.Context, target ProcessResult, sig syscall.Signal) error {
	t := time.NewTicker(signalPoll)
	defer t.Stop()
	for {
		if done, err := p.effective(target, sig); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// effective tells whether the signal has had its effect on that life.
func (p processes) effective(target ProcessResult, sig syscall.Signal) (bool, error) {
	s, err := p.stat(target.PID)
	gone := err != nil || s.dead() || s.start != target.StartTime
	switch {
	case sig == syscall.SIGKILL:
		return gone, nil
	case gone:
		return false, errNotRunning
	case sig == syscall.SIGCONT:
		return !s.paused(), nil
	default:
		return p.allStopped(target.PID), nil
	}
}

// allStopped looks at every thread: each one stops by itself, and the first may do so while another still writes.
func (p processes) allStopped(pid int) bool {
	dir := filepath.Join(p.proc, strconv.Itoa(pid), "task")
	tasks, err := os.ReadDir(dir)
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, t := range tasks {
		s, err := readStat(filepath.Join(dir, t.Name(), "stat"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // that thread has ended
		}
		if err != nil || !s.paused() && !s.dead() {
			return false
		}
	}
	return true
}
