package agent

import (
	"errors"
	"sync"
	"time"
)

// maxClockSeconds bounds an offset: ten years either way.
const maxClockSeconds = 10 * 365 * 24 * 3600

// clock skews the daemon's CLOCK_REALTIME while the harness wants it. The offset is applied by code in the daemon's own memory, and that code
// compares the true time with an expiry before it adds anything: with nobody there to renew the lease the clock is right again.
//
//	set, renew -> life known? -- no --> patch (stop threads, map a page, divert the vDSO's clock_gettime)
//	                   |                   |
//	                   +--> write offset and expiry into the page
type clock struct {
	proc processes

	mu     sync.Mutex
	offset int64 // seconds; 0 means that nothing is wanted
	patch  *clockPatch
}

// clockPatch is one life of the daemon that was patched.
type clockPatch struct {
	pid    int
	start  uint64
	cell   uint64 // address of offset and expiry, 8 bytes each
	expiry time.Time
}

func (p ClockParams) check() error {
	if p.OffsetSeconds < -maxClockSeconds || p.OffsetSeconds > maxClockSeconds {
		return badRequest("a clock is moved by at most %d seconds, not %d", maxClockSeconds, p.OffsetSeconds)
	}
	return nil
}

// set moves the daemon's clock, or puts it right again for an offset of 0.
func (c *clock) set(p ClockParams) (ClockResult, error) {
	if err := p.check(); err != nil {
		return ClockResult{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = p.OffsetSeconds
	if p.OffsetSeconds == 0 {
		return ClockResult{}, c.lift()
	}
	err := c.apply()
	return c.result(), err
}

// renew extends the lease, also in a life of the daemon that has begun since. While the daemon is down there is nothing to do.
func (c *clock) renew() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offset == 0 {
		return nil
	}
	err := c.apply()
	if errors.Is(err, errNotRunning) {
		return nil
	}
	return err
}

func (c *clock) apply() error {
	p, err := c.proc.find()
	switch {
	case err != nil:
		return err
	case !p.Running:
		return errNotRunning
	case c.patch == nil || c.patch.pid != p.PID || c.patch.start != p.StartTime:
		cell, err := patchClock(p.PID)
		if err != nil {
			return err
		}
		c.patch = &clockPatch{pid: p.PID, start: p.StartTime, cell: cell}
	}
	expiry := time.Unix(time.Now().Add(Lease).Unix(), 0) // the code compares whole seconds
	if err := writeClock(c.patch.pid, c.patch.cell, c.offset, expiry.Unix()); err != nil {
		return err
	}
	c.patch.expiry = expiry
	return nil
}

// lift writes an expiry that has passed. The diversion stays: it costs a system call and changes nothing.
func (c *clock) lift() error {
	if c.patch == nil {
		return nil
	}
	p, err := c.proc.find()
	if err != nil || !p.Running || p.PID != c.patch.pid || p.StartTime != c.patch.start {
		return err // that life is over, and its clock with it
	}
	c.patch.expiry = time.Time{}
	return writeClock(c.patch.pid, c.patch.cell, 0, 0)
}

// read says what is in force, as far as the agent knows; what the daemon's clock really says has to be asked of the daemon.
func (c *clock) read() ClockResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result()
}

func (c *clock) result() ClockResult {
	r := ClockResult{OffsetSeconds: c.offset}
	if c.patch != nil && c.offset != 0 {
		r.Remaining = max(0, time.Until(c.patch.expiry).Seconds())
		r.Applied = r.Remaining > 0
	}
	return r
}

// close puts the clock right for good.
func (c *clock) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = 0
	return c.lift()
}
