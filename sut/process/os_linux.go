package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// attributes give the daemon a process group of its own, so that the terminal's Ctrl-C reaches the harness alone, and kill it with the
// harness, even with SIGKILL.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// look is what the kernel says of a process.
type look struct {
	start   uint64 // clock ticks since boot
	paused  bool   // its first thread is stopped
	stopped bool   // all threads are
	zombie  bool
}

// lookAt reads /proc. fs.ErrNotExist means that there is no such process.
func lookAt(pid int) (look, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	state, start, err := readStat(filepath.Join(dir, "stat"))
	if err != nil {
		return look{}, err
	}
	l := look{start: start, paused: state == 'T', zombie: state == 'Z' || state == 'X'}
	l.stopped, err = allStopped(filepath.Join(dir, "task"))
	return l, err
}

// allStopped looks at every thread: each one stops by itself, and the first may do so while another still writes.
func allStopped(dir string) (bool, error) {
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return false, ended(err)
	}
	for _, t := range tasks {
		state, _, err := readStat(filepath.Join(dir, t.Name(), "stat"))
		if gone(err) {
			continue // that thread has ended
		}
		if err != nil || state != 'T' && state != 'Z' && state != 'X' {
			return false, err
		}
	}
	return len(tasks) > 0, nil
}

// readStat returns the fields 3 and 22. The name before them may hold spaces and brackets: it ends at the last one.
func readStat(path string) (state byte, start uint64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, ended(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const startField = 19
	if len(f) <= startField || len(f[0]) != 1 {
		return 0, 0, fmt.Errorf("read %s: too few fields", path)
	}
	if start, err = strconv.ParseUint(f[startField], 10, 64); err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	return f[0][0], start, nil
}

// ended makes one error of the two that /proc gives for a process that has just ended.
func ended(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return fs.ErrNotExist
	}
	return err
}
