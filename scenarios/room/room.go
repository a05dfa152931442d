// Package room lets clusters begin only when the machine has room for them. A cluster on a machine that is too busy is slower than anything that is asked
// of it, and what is then found is not the cluster's fault: fewer clusters at once also end sooner, since none waits for starved ones.
package room

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

	"github.com/unibus/unibus/sut/flock"
)

// Room is a machine's room, shared by every process that uses the same folder. The zero values of the durations and of Limit are not useful: see Machine.
type Room struct {
	Dir string // of the locks; it is made
	// Pressure is the share of the last ten seconds, in per cent, in which something that could run had to wait for a processor. Error: nobody knows;
	// then there is always room.
	Pressure func() (float64, error)
	Limit    float64       // a cluster begins below it
	Apart    time.Duration // from one beginning to the next one at the limit, so that the pressure tells of the one before; less below it, in proportion
	Every    time.Duration // between two looks
}

// Defaults of a machine's room. On two cores a cluster under load makes a pressure of about 50 %, and three make more than 90 %.
const (
	limit = 80
	apart = 12 * time.Second
	every = 500 * time.Millisecond
)

// Machine is the room of this machine and user. Error: there is no folder for it.
func Machine() (Room, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Room{}, fmt.Errorf("make room: %w", err)
	}
	return Room{Dir: filepath.Join(cache, "unibus", "room"), Pressure: CPUPressure, Limit: limit, Apart: apart, Every: every}, nil
}

const (
	gateFile = "gate"
	inside   = "in-"
	dirMode  = 0o700
	fileMode = 0o600
)

// Enter waits until there is room, and keeps it until leave is called or the process ends. Who is alone never waits. waiting, if not nil, is told from time
// to time why it takes so long. Errors: ctx ended, or the folder cannot be used.
func (r Room) Enter(ctx context.Context, waiting func(why string)) (leave func(), err error) {
	if err := r.claimDir(); err != nil {
		return nil, err
	}
	gate, err := r.lock(ctx, waiting)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gate.Close()) }() // which lets the next one look
	for {
		why, err := r.full(gate)
		if err != nil {
			return nil, err
		}
		if why == "" {
			break
		}
		if waiting != nil {
			waiting(why)
		}
		if err := r.pause(ctx); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	if err := os.Chtimes(gate.Name(), now, now); err != nil {
		return nil, fmt.Errorf("make room: %w", err)
	}
	return r.take()
}

// claimDir makes the folder, and refuses one that somebody else has put there.
func (r Room) claimDir() error {
	if err := os.MkdirAll(r.Dir, dirMode); err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	st, err := os.Lstat(r.Dir)
	if err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || ok && int(sys.Uid) != os.Getuid() {
		return fmt.Errorf("make room: %s is not a folder of this user; remove it", r.Dir)
	}
	return nil
}

func (r Room) pause(ctx context.Context) error {
	t := time.NewTimer(r.Every)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for room: %w", context.Cause(ctx))
	case <-t.C:
		return nil
	}
}

// lock takes the gate: one looks at a time.
func (r Room) lock(ctx context.Context, waiting func(why string)) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.Dir, gateFile), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("make room: %w", err)
	}
	for {
		ok, err := flock.Try(f)
		if ok {
			return f, nil
		}
		if err == nil && waiting != nil {
			waiting("others wait, too")
		}
		if err == nil {
			err = r.pause(ctx)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

// full says why there is no room; "" when there is.
func (r Room) full(gate *os.File) (string, error) {
	n, err := r.clusters()
	if err != nil || n == 0 {
		return "", err
	}
	p, err := r.Pressure()
	if err != nil {
		return "", nil //nolint:nilerr // where nobody tells, nobody is held up
	}
	st, err := gate.Stat()
	if err != nil {
		return "", fmt.Errorf("make room: %w", err)
	}
	if p >= r.Limit {
		return fmt.Sprintf("the machine is busy with %d others: something waited for a processor in %.0f %% of the last 10 s, %.0f %% is the limit", n, p, r.Limit), nil
	}
	if time.Since(st.ModTime()) < time.Duration(p/r.Limit*float64(r.Apart)) {
		return "another one has just begun", nil
	}
	return "", nil
}

// clusters counts those that are inside, and forgets those whose process has ended without leaving.
func (r Room) clusters() (n int, err error) {
	files, err := filepath.Glob(filepath.Join(r.Dir, inside+"*"))
	if err != nil {
		return 0, fmt.Errorf("make room: %w", err)
	}
	for _, path := range files {
		f, err := os.Open(path) //nolint:gosec // in a folder of this user
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("make room: %w", err)
		}
		free, err := flock.Try(f)
		switch {
		case err != nil:
		case free:
			err = os.Remove(path)
		default:
			n++
		}
		if err = errors.Join(err, f.Close()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	return n, nil
}

// take goes inside. The gate is held.
func (r Room) take() (leave func(), err error) {
	f, err := os.CreateTemp(r.Dir, inside+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, fmt.Errorf("make room: %w", err)
	}
	leave = func() {
		_ = os.Remove(f.Name())
		_ = f.Close() // with it the lock is gone, which is what counts
	}
	if ok, err := flock.Try(f); !ok {
		leave()
		return nil, errors.Join(fmt.Errorf("make room: %s is locked", f.Name()), err)
	}
	return leave, nil
}

const pressureFile = "/proc/pressure/cpu"

// ErrNoPressure means that the kernel does not tell how busy the processors are.
var ErrNoPressure = errors.New("the kernel does not tell the pressure on its processors")

// CPUPressure reads the kernel's own figure (Linux 4.20 and later, see Documentation/accounting/psi.rst).
func CPUPressure() (float64, error) {
	b, err := os.ReadFile(pressureFile)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoPressure, err)
	}
	return parsePressure(string(b))
}

func parsePressure(s string) (float64, error) {
	for line := range strings.Lines(s) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "some" {
			continue
		}
		v, ok := strings.CutPrefix(words[1], "avg10=")
		p, err := strconv.ParseFloat(v, 64)
		if !ok || err != nil || !(p >= 0 && p <= 100) {
			break
		}
		return p, nil
	}
	return 0, fmt.Errorf("%w: %q", ErrNoPressure, s)
}
