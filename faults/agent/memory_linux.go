package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// exhaustPoll is the time between two looks at the kernel's count; the limit is lowered at each.
	exhaustPoll = time.Millisecond
	// maxExhaustMS bounds ExhaustParams.
	maxExhaustMS = 60_000
	// leastMemory is what a limit is not lowered below: a page.
	leastMemory = 4096
)

// memory is the daemon's control group of memory. The engine makes a new one at each start.
//
//	version 1: limit_in_bytes cannot go below what is used and cannot be reclaimed (EBUSY): it is set to what is used, again and again, until the
//	           daemon wants a page more and the kernel has none to give
//	version 2: max may go below what is used: the kernel kills at once
type memory struct {
	root string // where the host's control groups are mounted; "": the agent has none at hand
	proc processes
}

// exhaust lowers the limit until the kernel has killed the daemon, and returns as soon as it has counted that.
func (m memory) exhaust(ctx context.Context, p ExhaustParams) (r ExhaustResult, err error) {
	if p.BoundMS < 1 || p.BoundMS > maxExhaustMS {
		return r, badRequest("the memory is used up within 1 to %d ms, not %d", maxExhaustMS, p.BoundMS)
	}
	now, err := m.proc.find()
	switch {
	case err != nil:
		return r, err
	case !now.Running:
		return r, errNotRunning
	}
	dir, _, err := daemonGroup(m.root, now.PID, "memory")
	if err != nil {
		return r, err
	}
	g, err := openGroup(dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.BoundMS)*time.Millisecond)
	defer cancel()
	began := time.Now()
	if r.Usage, err = g.used(); err != nil {
		return r, err
	}
	before := g.killed()
	t := time.NewTicker(exhaustPoll)
	defer t.Stop()
	for {
		g.lower(&r)
		r.Kills = max(r.Kills, g.killed()-before)
		r.TookMS = float64(time.Since(began).Microseconds()) / 1000
		if s, err := m.proc.stat(now.PID); err != nil || s.dead() || s.start != now.StartTime {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, errors.Join(fmt.Errorf("use up the daemon's memory (%d bytes, limit %d): %w", r.Usage, r.Limit, ctx.Err()), g.lift())
		case <-t.C:
		}
	}
}

// memoryGroup is one control group with its files open: its count is still to be read in the moment in which the group goes away.
type memoryGroup struct {
	limit, usage, events, fails *os.File // fails is nil with version 2
	unlimited                   string
	lowest                      func(usage uint64) uint64
}

func openGroup(dir string) (g *memoryGroup, err error) {
	g = &memoryGroup{unlimited: "-1", lowest: func(usage uint64) uint64 { return max(leastMemory, usage) }}
	names := []string{"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "memory.failcnt"}
	if _, err := os.Stat(filepath.Join(dir, "memory.max")); err == nil {
		names = []string{"memory.max", "memory.current", "memory.events"}
		g.unlimited, g.lowest = "max", func(uint64) uint64 { return leastMemory }
	}
	at := []**os.File{&g.limit, &g.usage, &g.events, &g.fails}
	for i, name := range names {
		flag := os.O_RDONLY
		if i == 0 {
			flag = os.O_RDWR
		}
		f, err := os.OpenFile(filepath.Join(dir, name), flag, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open the daemon's control group: %w", err), g.close())
		}
		*at[i] = f
	}
	return g, nil
}

func (g *memoryGroup) close() (err error) {
	for _, f := range []*os.File{g.limit, g.usage, g.events, g.fails} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

func (g *memoryGroup) used() (uint64, error) { return number(g.usage) }

// killed is how many processes the kernel has killed there. A group that is gone has nothing more to say: what was read before counts.
func (g *memoryGroup) killed() uint64 {
	for line := range strings.Lines(content(g.events)) {
		var n uint64
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n
		}
	}
	return 0
}

// lower sets the limit as low as it goes. The kernel refuses (EBUSY) what it cannot reclaim.
func (g *memoryGroup) lower(r *ExhaustResult) {
	usage, err := g.used()
	if err != nil {
		return // the group is gone, or about to be
	}
	limit := g.lowest(usage)
	if _, err := g.limit.WriteAt([]byte(strconv.FormatUint(limit, 10)), 0); err == nil {
		r.Limit = limit
	}
	if g.fails != nil {
		if n, err := number(g.fails); err == nil {
			r.Failed = n
		}
	}
}

func (g *memoryGroup) lift() error {
	if _, err := g.limit.WriteAt([]byte(g.unlimited), 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("lift the limit of memory: %w", err)
	}
	return nil
}

func content(f *os.File) string {
	b := make([]byte, os.Getpagesize())
	n, _ := f.ReadAt(b, 0) // ends with io.EOF; a group that is gone says nothing
	return string(b[:n])
}

func number(f *os.File) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(content(f)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", filepath.Base(f.Name()), err)
	}
	return n, nil
}
