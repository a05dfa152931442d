package agent

import (
	"errors"
	"sync"
	"time"
)

// Bounds of a wrong clock.
const (
	maxClockSeconds = 10 * 365 * 24 * 3600 // ten years either way
	maxSwingMS      = 24 * 3600 * 1000
	maxPeriodMS     = 3600 * 1000
	maxDriftPPM     = million // twice as fast, or standing still
	// rateShift is how many binary places the code's rate has.
	rateShift = 30
	// followEvery is how often it is looked whether a new life of the daemon has begun: its runtime alone takes longer to start.
	followEvery = 2 * time.Millisecond
)

// clock makes the daemon's CLOCK_REALTIME wrong while the harness wants it. What is added is worked out by code in the daemon's own memory, drift and
// strobe included: nobody has to do anything at each change. That code compares the true time with an expiry before it adds anything: with nobody
// there to renew the lease the clock is right again.
//
//	set, renew, follow -> life known? -- no --> patch (stop threads, map a page, divert the vDSO's clock_gettime)
//	                           |                   |
//	                           +--> write what is wanted, and the expiry, into the page
//
// A daemon that is started again while its clock is to be wrong must not see the true time first: that is what follow is for. It extends no lease.
type clock struct {
	proc processes

	mu     sync.Mutex
	want   ClockParams // the zero value means that nothing is wanted
	since  time.Time   // when it was first applied; zero before that
	expiry time.Time   // of the lease
	patch  *clockPatch
	stop   chan struct{} // ends follow; nil while it does not run
}

// clockPatch is one life of the daemon that was patched.
type clockPatch struct {
	pid    int
	start  uint64
	cell   uint64 // address of the words behind the code
	expiry time.Time
	shown  ClockParams // what the words say
}

// rate is the drift as the code wants it.
func (p ClockParams) rate() int64 { return p.DriftPPM << rateShift / million }

func (p ClockParams) check() error {
	switch {
	case p.OffsetSeconds < -maxClockSeconds || p.OffsetSeconds > maxClockSeconds:
		return badRequest("a clock is moved by at most %d seconds, not %d", maxClockSeconds, p.OffsetSeconds)
	case p.DriftPPM < -maxDriftPPM || p.DriftPPM > maxDriftPPM:
		return badRequest("a clock drifts by at most %d millionths, not %d", maxDriftPPM, p.DriftPPM)
	case p.SwingMS < 0 || p.SwingMS > maxSwingMS || p.PeriodMS < 0 || p.PeriodMS > maxPeriodMS || (p.SwingMS == 0) != (p.PeriodMS == 0):
		return badRequest("a clock strobes by up to %d ms, for up to %d ms at a time, not by %d ms for %d ms", maxSwingMS, maxPeriodMS, p.SwingMS, p.PeriodMS)
	}
	return nil
}

// set makes the daemon's clock wrong, or puts it right again for the zero value.
func (c *clock) set(p ClockParams) (ClockResult, error) {
	if err := p.check(); err != nil {
		return ClockResult{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want, c.since = p, time.Time{}
	if p == (ClockParams{}) {
		return ClockResult{}, c.lift()
	}
	c.lease()
	err := c.apply()
	if c.stop == nil {
		c.stop = make(chan struct{})
		go c.follow(c.stop)
	}
	return c.result(), err
}

// lease begins anew. The code compares whole seconds.
func (c *clock) lease() { c.expiry = time.Unix(time.Now().Add(Lease).Unix(), 0) }

// follow patches each new life of the daemon as soon as it is seen, until stop is closed.
func (c *clock) follow(stop <-chan struct{}) {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		c.mu.Lock()
		if c.want != (ClockParams{}) && !over(c.expiry) && !c.patched() {
			_ = c.apply() // while there is no daemon there is nothing to do; what goes wrong otherwise the next renewal says
		}
		c.mu.Unlock()
	}
}

// patched tells whether the life that was patched still lasts.
func (c *clock) patched() bool {
	if c.patch == nil {
		return false
	}
	s, err := c.proc.stat(c.patch.pid)
	return err == nil && s.start == c.patch.start && !s.dead()
}

// renew extends the lease, also in a life of the daemon that has begun since. While the daemon is down there is nothing to do. It brings no lapsed clock back:
// the daemon would have had the right time meanwhile, and nobody saw that. The time is read again after the work, since the agent may have been frozen in the
// middle.
func (c *clock) renew() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := c.expiry
	switch {
	case c.want == (ClockParams{}):
		return nil
	case over(until):
		return c.lapse()
	}
	c.lease()
	err := c.apply()
	if errors.Is(err, errNotRunning) {
		err = nil
	}
	if over(until) {
		return errors.Join(err, c.lapse())
	}
	return err
}

// over tells whether a lease has run out.
func over(until time.Time) bool { return !time.Now().Before(until) }

// lapse ends what was wanted, as nobody renewed it in time.
func (c *clock) lapse() error {
	c.want, c.since = ClockParams{}, time.Time{}
	return c.lift()
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
	if c.since.IsZero() {
		c.since = time.Now()
		c.patch.shown = ClockParams{} // the same again begins anew
	}
	if c.patch.shown == c.want {
		err = extendClock(c.patch.pid, c.patch.cell, c.expiry.Unix())
	} else {
		err = writeClock(c.patch.pid, c.patch.cell, c.want, c.since, c.expiry.Unix())
	}
	if err != nil {
		return err
	}
	c.patch.shown, c.patch.expiry = c.want, c.expiry
	return nil
}

// lift writes an expiry that has passed. The diversion stays: it costs a system call and changes nothing.
func (c *clock) lift() error {
	if c.stop != nil {
		close(c.stop)
		c.stop = nil
	}
	if c.patch == nil {
		return nil
	}
	p, err := c.proc.find()
	if err != nil || !p.Running || p.PID != c.patch.pid || p.StartTime != c.patch.start {
		return err // that life is over, and its clock with it
	}
	c.patch.shown, c.patch.expiry = ClockParams{}, time.Time{}
	return extendClock(c.patch.pid, c.patch.cell, 0)
}

// read says what is in force, as far as the agent knows; what the daemon's clock really says has to be asked of the daemon.
func (c *clock) read() ClockResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result()
}

func (c *clock) result() ClockResult {
	r := ClockResult{ClockParams: c.want}
	if c.patch != nil && c.want != (ClockParams{}) && c.patch.shown == c.want {
		r.Remaining = max(0, time.Until(c.patch.expiry).Seconds())
		r.Applied = r.Remaining > 0
		r.SinceMS = float64(time.Since(c.since).Microseconds()) / 1000
	}
	return r
}

// close puts the clock right for good.
func (c *clock) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = ClockParams{}
	return c.lift()
}
