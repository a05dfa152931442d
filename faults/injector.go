package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// Stages that an Injector reports, in the order in which a run goes through them. They are history.Stage's words.
const (
	StageAbsent    = "absent"    // the probe before: not in force
	StageDecided   = "decided"   // Inject begins
	StageInForce   = "in-force"  // the probe says that it is in force
	StageBystander = "bystander" // the probe on unaffected nodes
	StageStillOn   = "still-on"  // a probe in the middle of the hold: still in force
	StageHealing   = "healing"   // Heal begins
	StageHealed    = "healed"    // the probe says that it is gone
	StageNotSeen   = "not-seen"  // a probe did not see what it should have; Detail says what
)

// Limits are the bounds of an Injector; zero values mean the defaults.
type Limits struct {
	InForce time.Duration // from the end of Inject until the probe sees the fault
	Healed  time.Duration // from the begin of healing until the probe sees it gone
	Probe   time.Duration // one probe
	Poll    time.Duration // between the first two probes; later ones are further apart
}

// Defaults of Limits. Faults take milliseconds; a loaded machine takes longer.
const (
	defaultInForce = 5 * time.Second
	defaultHealed  = 60 * time.Second
	defaultProbe   = 10 * time.Second
	defaultPoll    = 2 * time.Millisecond
	maxPoll        = 50 * time.Millisecond
	healRetry      = 100 * time.Millisecond // between two tries of a Heal that failed
)

// Injector takes faults through their stages and reports every one of them.
//
//	                     Inject                                       Heal
//	absent -> decided -> (inject) -> in-force -> bystander ... still-on ... healing -> (heal) -> healed
//	   |                    |            |           |            |                                 |
//	   +--------------------+------------+-----------+------------+--- not-seen, and an error ------+
//
// Whatever fails in Inject, the fault is healed before Inject returns.
type Injector struct {
	Cluster cluster.Cluster
	// Report is called at every stage; took is the time since the fault was decided, since healing began, or that the probe took.
	// For what is in force it ends when the fault took effect, where the victim says when that was, and not when the probe had measured it. May be nil.
	Report func(stage string, f Fault, o Observation, took time.Duration)
	Limits Limits

	mu     sync.Mutex
	active map[string]bool // by name, from the decision until healing begins: true once it was seen in force
}

// Run injects f, holds it and heals it, whatever hold returns.
func (i *Injector) Run(ctx context.Context, f Fault, hold func(context.Context) error) error {
	if err := i.Inject(ctx, f); err != nil {
		return err
	}
	return errors.Join(hold(ctx), i.Heal(ctx, f))
}

// Inject makes sure that f is absent, injects it, waits until the probe sees it in force, and looks at a bystander.
// The error is what probes saw where [Seen] says so, and else the harness's own.
func (i *Injector) Inject(ctx context.Context, f Fault) error {
	if err := i.absent(ctx, f); err != nil {
		return err
	}
	i.setActive(f, false)
	i.report(StageDecided, f, Observation{Detail: "injecting " + f.Name()}, 0)
	began := time.Now()
	err := f.Inject(ctx, i.Cluster)
	if err != nil {
		err = fmt.Errorf("inject %s: %w", f.Name(), err)
		i.report(StageNotSeen, f, Observation{Detail: err.Error()}, time.Since(began))
	}
	if err == nil {
		err = i.awaitInForce(ctx, f, began)
	}
	if err == nil {
		err = i.bystander(ctx, f)
	}
	if err != nil {
		i.take(f)
		return errors.Join(err, i.heal(ctx, f, i.report))
	}
	return nil
}

func (i *Injector) setActive(f Fault, inForce bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.active == nil {
		i.active = map[string]bool{}
	}
	i.active[f.Name()] = inForce
}

// take forgets an active fault and tells whether there was one, and whether it was seen in force.
func (i *Injector) take(f Fault) (known, inForce bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	inForce, known = i.active[f.Name()]
	delete(i.active, f.Name())
	return known, inForce
}

// absentTries is how often something that is not a fault may look like a trace of one: a busy machine is slow, too.
const absentTries = 3

// look probes f, and again while it is seen in part only, tries times at most.
func (i *Injector) look(ctx context.Context, f Fault, tries int) (Observation, error) {
	o, err := i.probe(ctx, f)
	for try := 1; err == nil && o.Partial && !o.InForce && try < tries; try++ {
		o, err = i.probe(ctx, f)
	}
	return o, err
}

func (i *Injector) absent(ctx context.Context, f Fault) error {
	began := time.Now()
	o, err := i.look(ctx, f, absentTries)
	if err != nil {
		return err
	}
	if o.InForce || o.Partial {
		return notSeen(i.report, f, o, ErrAlready, time.Since(began))
	}
	i.report(StageAbsent, f, o, time.Since(began))
	return nil
}

func (i *Injector) awaitInForce(ctx context.Context, f Fault, began time.Time) error {
	bound, cancel := context.WithTimeout(ctx, or(i.Limits.InForce, defaultInForce))
	defer cancel()
	o, err := i.poll(ctx, bound.Done(), f, func(o Observation) bool { return o.InForce })
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("wait until %s is in force: %w", f.Name(), ctx.Err())
	case err != nil:
		return unknown(i.report, f, o, ErrNotInForce, err, time.Since(began))
	case !o.InForce:
		return notSeen(i.report, f, o, ErrNotInForce, time.Since(began))
	}
	i.setActive(f, true)
	i.report(StageInForce, f, o, max(0, time.Since(began)-o.Ago))
	return nil
}

func (i *Injector) bystander(ctx context.Context, f Fault) error {
	began := time.Now()
	bound, cancel := context.WithTimeout(ctx, or(i.Limits.Probe, defaultProbe))
	defer cancel()
	o, ok, err := f.Bystander(bound, i.Cluster)
	if err != nil {
		return fmt.Errorf("probe bystander of %s: %w", f.Name(), err)
	}
	if !ok {
		return nil // every node is a victim
	}
	i.report(StageBystander, f, o, time.Since(began))
	if o.InForce {
		return &StageError{Fault: f.Name(), Last: o, Err: ErrBystander}
	}
	return nil
}

// stillTries is how often a fault that was in force may be seen in part only: on a busy machine, what measures it comes too late to see all of it. One that
// is gone is not seen at all, or at no look.
const stillTries = 4

// StillOn checks that f is still in force. Heal does so by itself; this is for looks in between.
func (i *Injector) StillOn(ctx context.Context, f Fault) error {
	began := time.Now()
	o, err := i.look(ctx, f, stillTries)
	if err != nil {
		return err
	}
	if !o.InForce {
		return notSeen(i.report, f, o, ErrNotInForce, time.Since(began))
	}
	i.report(StageStillOn, f, o, time.Since(began))
	return nil
}

// Heal checks that f is still in force, heals it, and waits until the probe sees nothing of it. It heals even if ctx has ended or the fault
// was not in force any more: an interrupted run must leave nothing. A fault that is not active, because it never was or because Inject
// healed it after a failure, is healed again without a report.
func (i *Injector) Heal(ctx context.Context, f Fault) error {
	ctx = context.WithoutCancel(ctx)
	known, inForce := i.take(f)
	if !known {
		return i.heal(ctx, f, func(string, Fault, Observation, time.Duration) {})
	}
	var err error
	if inForce {
		err = i.StillOn(ctx, f)
	}
	return errors.Join(err, i.heal(ctx, f, i.report))
}

func (i *Injector) heal(ctx context.Context, f Fault, report reporter) error {
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), or(i.Limits.Healed, defaultHealed))
	defer cancel()
	report(StageHealing, f, Observation{Detail: "healing " + f.Name()}, 0)
	began := time.Now()
	if err := i.tryHeal(bound, f); err != nil {
		return unknown(report, f, Observation{}, ErrNotHealed, fmt.Errorf("heal: %w", err), time.Since(began))
	}
	o, err := i.poll(context.WithoutCancel(ctx), bound.Done(), f, gone)
	switch {
	case err != nil:
		return unknown(report, f, o, ErrNotHealed, err, time.Since(began))
	case !gone(o):
		return notSeen(report, f, o, ErrNotHealed, time.Since(began))
	}
	report(StageHealed, f, o, time.Since(began))
	return nil
}

func gone(o Observation) bool { return !o.InForce && !o.Partial }

// tryHeal heals until that works: what stands in the way, such as a port that is still taken, often goes away.
func (i *Injector) tryHeal(ctx context.Context, f Fault) error {
	t := time.NewTicker(healRetry)
	defer t.Stop()
	var last error
	for {
		err := f.Heal(ctx, i.Cluster)
		if err == nil || hopeless(err) {
			return err
		}
		if ctx.Err() == nil || last == nil { // a try that the bound cut short says less than the one before
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-t.C:
		}
	}
}

// hopeless tells errors that no second try can mend.
func hopeless(err error) bool {
	return errors.Is(err, ErrUnscoped) || errors.Is(err, ErrUnknownNode) || errors.Is(err, ErrUnsupported)
}

// poll probes until the wanted observation, the end of ctx, or over, which cuts no probe short: the last one has the last word. The error is that of the
// last probe: where it failed, nobody knows whether what was seen before is still so.
func (i *Injector) poll(ctx context.Context, over <-chan struct{}, f Fault, wanted func(Observation) bool) (Observation, error) {
	pause := or(i.Limits.Poll, defaultPoll)
	t := time.NewTimer(pause)
	defer t.Stop()
	var last Observation
	for {
		o, err := i.probe(ctx, f)
		switch {
		case err == nil && wanted(o):
			return o, nil
		case err == nil:
			last = o
		}
		select {
		case <-over: // also when ctx ends, of which it comes
			return last, err
		case <-t.C:
		}
		pause = max(pause, min(2*pause, maxPoll))
		t.Reset(pause)
	}
}

func (i *Injector) probe(ctx context.Context, f Fault) (Observation, error) {
	bound, cancel := context.WithTimeout(ctx, or(i.Limits.Probe, defaultProbe))
	defer cancel()
	o, err := f.InForce(bound, i.Cluster)
	if err != nil {
		return o, fmt.Errorf("probe %s: %w", f.Name(), err)
	}
	return o, nil
}

type reporter func(stage string, f Fault, o Observation, took time.Duration)

func notSeen(report reporter, f Fault, o Observation, err error, took time.Duration) error {
	seen := o
	seen.Detail = fmt.Sprintf("%v: %s", err, o.Detail)
	report(StageNotSeen, f, seen, took)
	return &StageError{Fault: f.Name(), Last: o, Err: err}
}

// unknown notes that nothing was seen, as notSeen does, and why: the harness could not look, or not do what it should. That says nothing of the fault, and the
// error is no [*StageError].
func unknown(report reporter, f Fault, last Observation, what, why error, took time.Duration) error {
	seen := last
	seen.Detail = fmt.Sprintf("%v: nobody could tell: %v", what, why)
	if last.Detail != "" {
		seen.Detail += "; seen before: " + last.Detail
	}
	report(StageNotSeen, f, seen, took)
	return fmt.Errorf("%s: %w: %w", f.Name(), what, why)
}

func (i *Injector) report(stage string, f Fault, o Observation, took time.Duration) {
	if i.Report != nil {
		i.Report(stage, f, o, took)
	}
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
