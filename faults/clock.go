package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

const (
	// CommonJump is how far a clock jumps.
	CommonJump = time.Hour
	// CommonDrift is by how much a clock is too fast, in millionths: ten per cent, far beyond what NTP mends by slewing.
	CommonDrift = 100_000
	// CommonSwing is how far a strobing clock goes, ahead and back.
	CommonSwing = 30 * time.Second
	// CommonPeriod is how long a strobing clock stays there, and right in between.
	CommonPeriod = 250 * time.Millisecond

	// clockTolerance is by how much a node's clock may differ from what it should say: the probe asks over HTTP on a loaded machine.
	clockTolerance = 3 * time.Second
	// clockLook bounds how long a probe watches a clock, and clockPause is the time between two looks.
	clockLook  = 4 * time.Second
	clockPause = 60 * time.Millisecond
)

// skew makes the clocks of daemons wrong.
type skew struct {
	target
	want agent.ClockParams
	keep keeper
}

// Jump makes a verb that moves CLOCK_REALTIME of the victims' daemons by offset, in whole seconds; their monotonic clocks go on. It is leased: see
// package agent.
func Jump(offset time.Duration) Verb {
	verb := fmt.Sprintf("clock(%v)", offset)
	switch offset {
	case CommonJump:
		verb = "clock-forward"
	case -CommonJump:
		verb = "clock-back"
	}
	return wrongClock(verb, agent.ClockParams{OffsetSeconds: int64(offset / time.Second)})
}

// Drift makes a verb that lets CLOCK_REALTIME of the victims' daemons run too fast, by millionths, or too slow for less than 0. Healing takes back what
// has gathered, at once. It is leased as Jump is.
func Drift(ppm int64) Verb {
	verb := "clock-drift"
	if ppm != CommonDrift {
		verb = fmt.Sprintf("clock-drift(%d)", ppm)
	}
	return wrongClock(verb, agent.ClockParams{DriftPPM: ppm})
}

// Strobe makes a verb that lets CLOCK_REALTIME of the victims' daemons jump back and forth: for one period each it is right, swing ahead, right, swing
// behind. Both are in whole milliseconds; a swing of less than 7 s is too small to be measured. It is leased as Jump is.
func Strobe(swing, period time.Duration) Verb {
	verb := "clock-strobe"
	if swing != CommonSwing || period != CommonPeriod {
		verb = fmt.Sprintf("clock-strobe(%v,%v)", swing, period)
	}
	return wrongClock(verb, agent.ClockParams{SwingMS: swing.Milliseconds(), PeriodMS: period.Milliseconds()})
}

func wrongClock(verb string, want agent.ClockParams) Verb {
	return func(victims ...cluster.NodeID) Fault { return &skew{target: newTarget(verb, victims), want: want} }
}

// Needs lists the capabilities that a backend must have.
func (f *skew) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapClock} }

func (f *skew) hosts(c cluster.Cluster) ([]host, error) {
	nodes, err := f.nodes(c)
	if err != nil {
		return nil, err
	}
	var hosts []host
	for _, n := range nodes {
		h, err := newHost(n)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// Inject makes the clocks wrong and keeps their lease.
func (f *skew) Inject(ctx context.Context, c cluster.Cluster) error {
	hosts, err := f.hosts(c)
	if err != nil {
		return err
	}
	f.keep.begin(ctx, hosts)
	return f.set(ctx, hosts, f.want)
}

func (f *skew) set(ctx context.Context, hosts []host, p agent.ClockParams) error {
	return eachIndex(len(hosts), func(i int) error {
		return nodeError(hosts[i].id, "move clock of", hosts[i].agent.Call(ctx, agent.MethodClock, p, nil))
	})
}

// Heal puts the clocks right.
func (f *skew) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	hosts, err := f.hosts(c)
	if err != nil {
		return err
	}
	return f.set(ctx, hosts, agent.ClockParams{})
}

// InForce asks each victim for the time, as often as it takes to tell one way of being wrong from another, and its agent for the lease.
func (f *skew) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	return f.observe(ctx, c, f.look)
}

// look asks a victim until it answers, or ctx is over: a daemon may end because of its clock, and is asked in its next life.
func (f *skew) look(ctx context.Context, n cluster.Node) (finding, error) {
	h, err := newHost(n)
	if err != nil {
		return finding{}, err
	}
	for {
		fd, err := f.lookOnce(ctx, n, h)
		if !errors.Is(err, errNoTime) || over(ctx) {
			return fd, err
		}
		rest(ctx)
	}
}

// rest is the time between two looks at a clock.
func rest(ctx context.Context) {
	t := time.NewTimer(clockPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// errNoTime means that a daemon did not say what time it is.
var errNoTime = errors.New("it does not say what time it is")

func (f *skew) lookOnce(ctx context.Context, n cluster.Node, h host) (finding, error) {
	var r agent.ClockResult
	if err := h.agent.Call(ctx, agent.MethodClockRead, nil, &r); err != nil {
		return finding{}, nodeError(n.ID(), "read clock of", err)
	}
	asked := time.Now()
	var w watch
	if err := w.until(ctx, n, func() bool { return w.enough(f.want, r.Applied) }); err != nil {
		return finding{}, nodeError(n.ID(), "ask the time of", fmt.Errorf("%w: %w", errNoTime, err))
	}
	fd := finding{detail: fmt.Sprintf("%s, lease %.1f s", w.sentence(f.want), r.Remaining), figures: w.figures()}
	fd.figures["lease_seconds"] = r.Remaining
	switch {
	case r.Applied && r.ClockParams == f.want && w.shows(f.want):
		fd.presence = full
		fd.ago = time.Duration(r.SinceMS*float64(time.Millisecond)) + time.Since(asked)
	case r.Applied || !w.right():
		fd.presence = part
	}
	return fd, nil
}

func near(got, want time.Duration) bool { return (got - want).Abs() <= clockTolerance }

// reading is what a daemon's clock said once: between least and most ahead of the harness's, as the answer was made between question and answer.
type reading struct {
	at          time.Time
	least, most time.Duration
}

func (r reading) middle() time.Duration { return (r.least + r.most) / 2 }

// watch is a daemon's clock, looked at again and again.
type watch []reading

// until looks at the clock until that is enough, or clockLook or ctx is over. The error is nil once there is a reading.
func (w *watch) until(ctx context.Context, n cluster.Node, enough func() bool) error {
	began := time.Now()
	for {
		r, err := readClock(ctx, n)
		switch {
		case err == nil:
			*w = append(*w, r)
		case len(*w) == 0 || !over(ctx): // else what was read until then counts
			return err
		}
		if over(ctx) || enough() || time.Since(began) > clockLook {
			return nil
		}
		rest(ctx)
	}
}

func over(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// enough tells whether the readings can decide. A clock that nobody makes wrong is watched until it would have shown a strobe.
func (w watch) enough(want agent.ClockParams, applied bool) bool {
	switch {
	case want.PeriodMS == 0 && want.DriftPPM == 0:
		return true
	case applied:
		return w.shows(want)
	case want.PeriodMS > 0:
		return !w.right() || w.span() >= 4*time.Duration(want.PeriodMS)*time.Millisecond
	default:
		return true
	}
}

func (w watch) span() time.Duration { return w[len(w)-1].at.Sub(w[0].at) }

// right tells whether every reading is.
func (w watch) right() bool {
	return !slices.ContainsFunc(w, func(r reading) bool { return !near(r.middle(), 0) })
}

// shows tells whether the clock was seen to be wrong in that way.
func (w watch) shows(want agent.ClockParams) bool {
	switch {
	case want.PeriodMS > 0:
		at := w.strobe(want)
		return at[0] > 0 && at[1] > 0 && at[2] > 0 && at[0]+at[1]+at[2] == len(w)
	case want.DriftPPM != 0:
		least, most := w.drift()
		wanted, half := float64(want.DriftPPM), math.Abs(float64(want.DriftPPM))/2
		return least > wanted-half && most < wanted+half
	default:
		last := w[len(w)-1]
		return near(last.middle(), time.Duration(want.OffsetSeconds)*time.Second)
	}
}

// strobe counts the readings in which the clock was behind, right and ahead.
func (w watch) strobe(want agent.ClockParams) (at [3]int) {
	swing := time.Duration(want.SwingMS) * time.Millisecond
	for _, r := range w {
		for i, where := range []time.Duration{-swing, 0, swing} {
			if near(r.middle(), where) {
				at[i]++
				break
			}
		}
	}
	return at
}

// drift is by how much the clock was too fast between the first and the last reading, in millionths: at least and at most.
func (w watch) drift() (least, most float64) {
	first, last := w[0], w[len(w)-1]
	span := w.span().Seconds()
	if span <= 0 {
		return math.Inf(-1), math.Inf(1)
	}
	return (last.least - first.most).Seconds() / span * 1e6, (last.most - first.least).Seconds() / span * 1e6
}

func (w watch) figures() map[string]float64 {
	last := w[len(w)-1].middle()
	lowest, highest := last, last
	for _, r := range w {
		lowest, highest = min(lowest, r.middle()), max(highest, r.middle())
	}
	return map[string]float64{
		"ahead_seconds": last.Seconds(), "samples": float64(len(w)), "lowest_seconds": lowest.Seconds(), "highest_seconds": highest.Seconds(),
		"watched_seconds": w.span().Seconds(),
	}
}

func (w watch) sentence(want agent.ClockParams) string {
	switch {
	case want.PeriodMS > 0:
		at := w.strobe(want)
		return fmt.Sprintf("of %d looks at its clock in %v, %d were about %d ms behind, %d right and %d as much ahead",
			len(w), w.span().Round(time.Millisecond), at[0], want.SwingMS, at[1], at[2])
	case want.DriftPPM != 0 && len(w) > 1:
		least, most := w.drift()
		return fmt.Sprintf("in %v, %d looks, its clock ran %.1f to %.1f %% too fast", w.span().Round(time.Millisecond), len(w), least/1e4, most/1e4)
	default:
		return fmt.Sprintf("its clock is %v ahead of the harness's", w[len(w)-1].middle().Round(time.Millisecond))
	}
}

// readClock asks the daemon for the time, as nats-server's own monitoring says it. A daemon whose server does not run says it in whole seconds, with whatever
// else it answers.
func readClock(ctx context.Context, n cluster.Node) (reading, error) {
	r, err := readVarz(ctx, n)
	if err == nil || n.Endpoints().Ready == "" {
		return r, err
	}
	before := time.Now()
	date, errDate := observe.Date(ctx, n.Endpoints().Ready)
	if errDate != nil {
		return reading{}, errors.Join(err, errDate)
	}
	after := time.Now()
	return reading{before.Add(after.Sub(before) / 2), date.Sub(after), date.Add(time.Second).Sub(before)}, nil
}

func readVarz(ctx context.Context, n cluster.Node) (reading, error) {
	before := time.Now()
	_, body, err := observe.Get(ctx, n.Endpoints().Monitor+"/varz")
	if err != nil {
		return reading{}, err
	}
	after := time.Now()
	var varz struct {
		Now time.Time `json:"now"`
	}
	if err := json.Unmarshal(body, &varz); err != nil || varz.Now.IsZero() {
		return reading{}, fmt.Errorf("read the time from /varz: %w", err)
	}
	return reading{before.Add(after.Sub(before) / 2), varz.Now.Sub(after), varz.Now.Sub(before)}, nil
}

// Bystander asks the other nodes for the time.
func (f *skew) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

func (f *skew) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	return bystanders(c, exclude, "the other nodes' clocks are right", "ahead_seconds", func(n cluster.Node) (float64, string, error) {
		r, err := readClock(ctx, n)
		ahead := r.middle()
		if err != nil || near(ahead, 0) {
			return ahead.Seconds(), "", nodeError(n.ID(), "ask the time of", err)
		}
		return ahead.Seconds(), fmt.Sprintf("the clock of %s is %v ahead", n.ID(), ahead), nil
	})
}
