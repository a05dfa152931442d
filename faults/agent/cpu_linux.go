package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/sut/cluster"
)

const (
	// cpuPeriod is the scheduler's bandwidth period in microseconds: its default, so that a lifted limit is as if there had never been one.
	cpuPeriod = 100_000
	// leastProcessors is the least that the kernel gives in such a period, a millisecond; maxProcessors is more than any machine has.
	leastProcessors = 0.01
	maxProcessors   = 1024
	// lapseEvery is how often the agent looks for a limit that nobody has renewed.
	lapseEvery = Lease / 8
)

// cpu limits the daemon's processor time, in its control group, while the harness wants it. The kernel knows no lease for that: the agent lifts what nobody
// renews, and at the end of its stream. One that is killed or frozen itself leaves the limit behind until the daemon's life ends, and its group with it.
//
//	set, renew -> the group of the present life -> cpu.cfs_quota_us, or cpu.max
type cpu struct {
	proc processes
	root string // where the host's control groups are; "" means that they cannot be reached

	mu      sync.Mutex
	want    float64       // processors; 0 means that nothing is wanted
	life    ProcessResult // that has the limit
	applied time.Time     // when it was set there
	expiry  time.Time
}

func (p CPUParams) check() error {
	if p.Processors != 0 && (p.Processors < leastProcessors || p.Processors > maxProcessors) {
		return badRequest("a daemon is given %v to %d processors, or 0 for no limit, not %v", leastProcessors, maxProcessors, p.Processors)
	}
	return nil
}

// set sets the limit, or lifts it for 0.
func (c *cpu) set(p CPUParams) (CPUResult, error) {
	if err := p.check(); err != nil {
		return CPUResult{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Processors == 0 {
		if err := c.lift(); err != nil {
			return CPUResult{}, err
		}
		return c.look()
	}
	c.want, c.expiry = p.Processors, time.Now().Add(Lease)
	if err := c.apply(); err != nil {
		return CPUResult{}, errors.Join(err, c.lift())
	}
	return c.look()
}

// apply sets the limit in the present life.
func (c *cpu) apply() error {
	p, err := c.proc.find()
	switch {
	case err != nil:
		return err
	case !p.Running:
		return errNotRunning
	}
	if err := c.put(p.PID, int64(c.want*cpuPeriod)); err != nil {
		return err
	}
	c.life, c.applied = p, time.Now()
	return nil
}

func sameLife(a, b ProcessResult) bool { return a.PID == b.PID && a.StartTime == b.StartTime }

// lift lifts the limit from the life that has it; another life has never had it.
func (c *cpu) lift() error {
	c.want = 0
	p, err := c.proc.find()
	if err != nil || !p.Running || !sameLife(p, c.life) {
		return err
	}
	if err := c.put(p.PID, -1); err != nil {
		return err
	}
	c.life = ProcessResult{}
	return nil
}

// renew extends the lease, also in a life of the daemon that has begun since. While the daemon is down there is nothing to do. It brings no lapsed limit back,
// whichever of it and overdue comes first: a life that has begun meanwhile was without.
func (c *cpu) renew() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.want == 0:
		return nil
	case over(c.expiry):
		return c.lift()
	}
	c.expiry = time.Now().Add(Lease)
	p, err := c.proc.find()
	if err != nil || !p.Running || sameLife(p, c.life) {
		return err
	}
	err = c.apply()
	if errors.Is(err, errNotRunning) {
		return nil
	}
	return err
}

// overdue lifts a limit that nobody renews.
func (c *cpu) overdue() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.want == 0 || !over(c.expiry) {
		return nil
	}
	return c.lift()
}

// close lifts the limit for good.
func (c *cpu) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.want == 0 {
		return nil
	}
	return c.lift()
}

// read asks the kernel.
func (c *cpu) read() (CPUResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

// look asks the kernel. A daemon that does not run has no group, and so no limit.
func (c *cpu) look() (r CPUResult, err error) {
	p, err := c.proc.find()
	if err != nil || !p.Running {
		return r, err
	}
	dir, v2, err := c.group(p.PID)
	if err != nil {
		return r, err
	}
	b, err := os.ReadFile(filepath.Join(dir, quotaFile(v2)))
	if err != nil {
		return r, fmt.Errorf("read limit of processors: %w", err)
	}
	r.CPU = parseQuota(string(b))
	stat, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return r, fmt.Errorf("read processor time: %w", err)
	}
	r.Periods, r.Throttled = parseThrottled(string(stat))
	if c.want != 0 && sameLife(p, c.life) {
		r.AgoMS = float64(time.Since(c.applied).Microseconds()) / 1000
		r.Remaining = max(0, time.Until(c.expiry).Seconds())
	}
	return r, nil
}

// quotaFile is called differently in the two versions of control groups.
func quotaFile(v2 bool) string {
	if v2 {
		return "cpu.max"
	}
	return "cpu.cfs_quota_us" // the period is a file of its own, which stays as it is
}

// put gives a process's group so many microseconds in a period, or as many as it likes for -1.
func (c *cpu) put(pid int, quota int64) error {
	dir, v2, err := c.group(pid)
	if err != nil {
		return err
	}
	word := strconv.FormatInt(quota, 10)
	if v2 {
		if quota < 0 {
			word = "max"
		}
		word = fmt.Sprintf("%s %d", word, cpuPeriod)
	}
	err = os.WriteFile(filepath.Join(dir, quotaFile(v2)), []byte(word), 0)
	switch {
	case errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS):
		return &Error{Code: CodeUnsupported, Text: "the agent may not change the daemon's control group: " + err.Error()}
	case err != nil:
		return fmt.Errorf("limit processors of process %d: %w", pid, err)
	}
	return nil
}

func (c *cpu) group(pid int) (dir string, v2 bool, err error) { return daemonGroup(c.root, pid, "cpu") }

// daemonGroup is the directory of a process's control group for a controller, under the root where the host's are mounted. The agent's own and the root
// are refused: nothing but the daemon is to be limited.
func daemonGroup(root string, pid int, controller string) (dir string, v2 bool, err error) {
	if root == "" {
		return "", false, &Error{Code: CodeUnsupported, Text: "the agent was not given the host's control groups"}
	}
	path, v2, err := groupOf(strconv.Itoa(pid), controller)
	if err != nil {
		return "", v2, err
	}
	own, _, err := groupOf("self", controller)
	if err != nil {
		return "", v2, err
	}
	if path == own || path == "/" || strings.Contains(path, "..") {
		return "", v2, &Error{Code: CodeUnsupported, Text: "the daemon has no control group of its own that the agent can see: it is in " + path}
	}
	if v2 {
		return filepath.Join(root, path), v2, nil
	}
	return filepath.Join(root, controller, path), v2, nil
}

// groupOf reads a process's group for a controller.
func groupOf(pid, controller string) (path string, v2 bool, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return "", false, fmt.Errorf("read control groups of process %s: %w", pid, err)
	}
	path, v2, ok := parseGroups(string(b), controller)
	if !ok {
		return "", v2, &Error{Code: CodeUnsupported, Text: "the process is in no control group for " + controller}
	}
	return path, v2, nil
}

// parseGroups finds a controller's line. Version 2 has one line for everything, which is there beside those of version 1 where both are mounted.
func parseGroups(s, controller string) (path string, v2, ok bool) {
	for line := range strings.Lines(s) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			if c == controller {
				return parts[2], false, true
			}
		}
		if parts[0] == "0" && parts[1] == "" {
			path, v2, ok = parts[2], true, true
		}
	}
	return path, v2, ok
}

// parseQuota reads "5000", "-1", "5000 100000" or "max 100000".
func parseQuota(s string) (c cluster.CPU) {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return c
	}
	period := float64(cpuPeriod)
	if len(fields) > 1 {
		if p, err := strconv.ParseFloat(fields[1], 64); err == nil && p > 0 {
			period = p
		}
	}
	if quota, err := strconv.ParseFloat(fields[0], 64); err == nil && quota > 0 {
		c.Limit = quota / period
	}
	return c
}

// parseThrottled reads cpu.stat, which both versions have.
func parseThrottled(s string) (periods, throttled uint64) {
	for line := range strings.Lines(s) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "nr_periods":
			periods = n
		case "nr_throttled":
			throttled = n
		}
	}
	return periods, throttled
}
