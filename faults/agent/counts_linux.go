package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/sut/cluster"
)

// counts leaves the daemon no more of something that the kernel counts, while the harness wants it. The limit is what is in use at that moment. What is given
// back meanwhile is taken away at the next renewal. The kernel knows no lease for that: the agent lifts what nobody renews, and at the end of its stream.
// One that is killed or frozen itself leaves the limit behind until the daemon's life ends.
//
//	descriptors -> prlimit(RLIMIT_NOFILE), the soft limit: the lowest number that is not in use
//	threads     -> pids.max of the daemon's control group: as many as there are
type counts struct {
	proc  processes
	kinds map[cluster.CountKind]countable

	mu   sync.Mutex
	held map[cluster.CountKind]*heldCount
}

// countable is something that the kernel counts for a process.
type countable interface {
	look(pid int) (tally, error)
	limit(pid int, n uint64) error
}

// tally is a count, and the limit that would leave nothing more.
type tally struct {
	cluster.Count
	floor uint64
}

// heldCount is a limit that is wanted.
type heldCount struct {
	life    ProcessResult // that has it; none: the daemon did not run since it was wanted
	before  uint64        // the limit that it had
	applied time.Time
	expiry  time.Time
}

func newCounts(proc processes, root string) *counts {
	return &counts{
		proc: proc, held: map[cluster.CountKind]*heldCount{},
		kinds: map[cluster.CountKind]countable{cluster.Descriptors: descriptors{proc: proc.proc}, cluster.Threads: threads{root: root}},
	}
}

// set leaves no more, or lifts the limit.
func (c *counts) set(p CountParams) (CountResult, error) {
	k, ok := c.kinds[p.What]
	if !ok {
		return CountResult{}, badRequest("the kernel's count of %q is not limited here", p.What)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.Exhaust {
		if err := c.lift(p.What, k); err != nil {
			return CountResult{}, err
		}
		return c.look(p.What, k)
	}
	h := c.held[p.What]
	if h == nil {
		h = &heldCount{}
		c.held[p.What] = h
	}
	h.expiry = time.Now().Add(Lease)
	if err := c.apply(k, h); err != nil {
		return CountResult{}, errors.Join(err, c.lift(p.What, k))
	}
	return c.look(p.What, k)
}

// apply sets the limit in the present life, or lowers it there.
func (c *counts) apply(k countable, h *heldCount) error {
	p, err := c.proc.find()
	switch {
	case err != nil:
		return err
	case !p.Running:
		return errNotRunning
	}
	t, err := k.look(p.PID)
	if err != nil {
		return err
	}
	if !sameLife(p, h.life) {
		h.before = t.Limit
		h.life, h.applied = p, time.Now()
	} else if t.floor >= t.Limit {
		return nil
	}
	return k.limit(p.PID, t.floor)
}

// lift gives back what the life that has the limit had before; another life has never had it.
func (c *counts) lift(what cluster.CountKind, k countable) error {
	h := c.held[what]
	if h == nil {
		return nil
	}
	p, err := c.proc.find()
	if err != nil {
		return err
	}
	if p.Running && sameLife(p, h.life) {
		if err := k.limit(p.PID, h.before); err != nil {
			return err
		}
	}
	delete(c.held, what)
	return nil
}

// renew extends the lease, also in a life of the daemon that has begun since. It brings no lapsed limit back, whichever of it and overdue comes first: a life
// that has begun meanwhile was without.
func (c *counts) renew() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, h := range c.held {
		k := c.kinds[what]
		if over(h.expiry) {
			err = errors.Join(err, c.lift(what, k))
			continue
		}
		h.expiry = time.Now().Add(Lease)
		err = errors.Join(err, c.again(k, h))
	}
	return err
}

// again applies a limit once more. A daemon that is down, or goes down meanwhile, has no use for one.
func (c *counts) again(k countable, h *heldCount) error {
	err := c.apply(k, h)
	if p, gone := c.proc.find(); errors.Is(err, errNotRunning) || gone == nil && !p.Running {
		return nil
	}
	return err
}

// overdue lifts what nobody renews, and sees to the others.
func (c *counts) overdue() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, h := range c.held {
		k := c.kinds[what]
		if over(h.expiry) {
			err = errors.Join(err, c.lift(what, k))
		} else {
			err = errors.Join(err, c.again(k, h))
		}
	}
	return err
}

// close lifts everything for good.
func (c *counts) close() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, k := range c.kinds {
		err = errors.Join(err, c.lift(what, k))
	}
	return err
}

// read asks the kernel.
func (c *counts) read(p CountParams) (CountResult, error) {
	k, ok := c.kinds[p.What]
	if !ok {
		return CountResult{}, badRequest("the kernel's count of %q is not limited here", p.What)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look(p.What, k)
}

func (c *counts) look(what cluster.CountKind, k countable) (r CountResult, err error) {
	p, err := c.proc.find()
	if err != nil {
		return r, err
	}
	if h := c.held[what]; h != nil {
		mine := p.Running && sameLife(p, h.life)
		r.Exhausted, r.Ended = mine, h.life.PID != 0 && !mine
		r.AgoMS = float64(time.Since(h.applied).Microseconds()) / 1000
		r.Remaining = max(0, time.Until(h.expiry).Seconds())
	}
	if !p.Running {
		return r, nil
	}
	t, err := k.look(p.PID)
	if err != nil {
		if again, gone := c.proc.find(); gone == nil && !again.Running {
			return r, nil // it has ended meanwhile
		}
		return r, err
	}
	r.Limit, r.Used, r.Free, r.Refused = t.Limit, t.Used, t.Free, t.Refused
	return r, nil
}

// descriptors are those of the process itself. A limit is about the numbers: a new descriptor gets the lowest one that is not in use.
type descriptors struct{ proc string }

func (d descriptors) look(pid int) (t tally, err error) {
	lim, err := d.limits(pid)
	if err != nil {
		return t, err
	}
	t.Limit = lim.Cur
	entries, err := os.ReadDir(filepath.Join(d.proc, strconv.Itoa(pid), "fd"))
	if err != nil {
		return t, limitError("list the descriptors of", pid, err)
	}
	used := make(map[uint64]bool, len(entries))
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			used[n] = true
		}
	}
	t.Used = uint64(len(used))
	for used[t.floor] {
		t.floor++
	}
	below := uint64(0)
	for n := range used {
		if n < t.Limit {
			below++
		}
	}
	t.Free = t.Limit - below
	return t, nil
}

func (d descriptors) limit(pid int, n uint64) error {
	lim, err := d.limits(pid)
	if err != nil {
		return err
	}
	lim.Cur = min(n, lim.Max) // the hard limit stays: it could not be raised again
	if err := d.as(pid, func() error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &lim, nil) }); err != nil {
		return limitError("limit the descriptors of", pid, err)
	}
	return nil
}

func (d descriptors) limits(pid int) (lim unix.Rlimit, err error) {
	if err := d.as(pid, func() error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &lim) }); err != nil {
		return lim, limitError("read the limit of descriptors of", pid, err)
	}
	return lim, nil
}

// as calls f in a thread that has the user and the group of a process, which is whom the kernel lets limit it without the capability SYS_RESOURCE: engines that
// run in a container themselves do not have that one to give. The thread ends with the call.
func (d descriptors) as(pid int, f func() error) error {
	st, err := os.Stat(filepath.Join(d.proc, strconv.Itoa(pid)))
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Getuid() && int(owner.Gid) == os.Getgid() {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime throws the thread away
		done <- func() error {
			uid, gid := uintptr(owner.Uid), uintptr(owner.Gid)
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
				return e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
				return e
			}
			return f()
		}()
	}()
	return <-done
}

func limitError(what string, pid int, err error) error {
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, os.ErrNotExist):
		return errNotRunning
	case errors.Is(err, os.ErrPermission):
		return &Error{Code: CodeUnsupported, Text: fmt.Sprintf("the agent may not %s the daemon: it lacks the capabilities SETUID and SETGID, or SYS_PTRACE", what)}
	}
	return fmt.Errorf("%s process %d: %w", what, pid, err)
}

// threads are those of all processes in the daemon's control group, which is the daemon alone.
type threads struct{ root string }

func (h threads) look(pid int) (t tally, err error) {
	dir, _, err := daemonGroup(h.root, pid, "pids")
	if err != nil {
		return t, groupGone(err)
	}
	if t.Limit, err = countFile(filepath.Join(dir, "pids.max")); err != nil {
		return t, groupGone(err)
	}
	if t.Used, err = countFile(filepath.Join(dir, "pids.current")); err != nil {
		return t, groupGone(err)
	}
	t.floor, t.Free = t.Used, t.Limit-min(t.Limit, t.Used)
	b, err := os.ReadFile(filepath.Join(dir, "pids.events"))
	if err != nil {
		return t, groupGone(err)
	}
	_, _ = fmt.Sscanf(string(b), "max %d", &t.Refused) // an old kernel says nothing
	return t, nil
}

func (h threads) limit(pid int, n uint64) error {
	dir, _, err := daemonGroup(h.root, pid, "pids")
	if err != nil {
		return groupGone(err)
	}
	word := "max"
	if n != math.MaxUint64 {
		word = strconv.FormatUint(n, 10)
	}
	err = os.WriteFile(filepath.Join(dir, "pids.max"), []byte(word), 0)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		return &Error{Code: CodeUnsupported, Text: "the agent may not change the daemon's control group: " + err.Error()}
	}
	return groupGone(err)
}

// groupGone makes an error of a group that went away one of its process.
func groupGone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return errNotRunning
	}
	return err
}

// countFile reads a number, or "max" for no limit.
func countFile(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read a control group: %w", err)
	}
	s := strings.TrimSpace(string(b))
	if s == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return n, nil
}

// lapse calls overdue again and again until ctx ends: it lifts what nobody renews.
func lapse(ctx context.Context, overdue func() error, failed func(error)) {
	t := time.NewTicker(lapseEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := overdue(); err != nil {
				failed(err)
			}
		}
	}
}
