package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// activeFault is one that was injected and is not known to be healed.
type activeFault struct {
	f      faults.Fault
	record string // its name in the record: "left kill[n2]"
	noop   bool
}

// inject picks victims and injects a fault under a name that heal refers to. The victims are remembered under that name.
func inject(name string, verb faults.Verb, sel faults.Selector) Step {
	return Step{fmt.Sprintf("%s%s on %s", injectPrefix, name, sel.Name()), func(ctx context.Context, r *Run) error {
		return r.inject(ctx, name, verb, sel)
	}}
}

func (r *Run) inject(ctx context.Context, name string, verb faults.Verb, sel faults.Selector) error {
	ids, err := r.victims(ctx, sel)
	if err != nil {
		return err
	}
	r.picked[name] = ids
	return r.injectFault(ctx, name, verb(ids...))
}

// victims picks, and waits for a leader to be there to be picked: hunting a leader in the middle of an election is lawful.
func (r *Run) victims(ctx context.Context, sel faults.Selector) ([]cluster.NodeID, error) {
	var ids []cluster.NodeID
	var last error
	err := r.until(ctx, convergeTimeout, "node that is "+sel.Name(), func(ctx context.Context) bool {
		ids, last = sel.Pick(ctx, r.Cluster, r.Plan.Rand)
		return last == nil && len(ids) > 0
	})
	if err != nil && last != nil {
		return nil, fmt.Errorf("%w (%w)", err, last)
	}
	return ids, err
}

func (r *Run) injectFault(ctx context.Context, name string, f faults.Fault) error {
	a := &activeFault{f: f, record: name + " " + f.Name(), noop: faults.IsNoop(f)}
	r.mu.Lock()
	r.active[name] = a
	r.mu.Unlock()
	err := r.injector.Inject(ctx, f)
	if err == nil {
		return nil
	}
	r.forget(name) // the injector has healed what it could not put in force
	if faults.Seen(err) {
		return fmt.Errorf("%w: %w", errGiveUp, err) // the record shows it, and the claim about faults judges it
	}
	return err
}

func (r *Run) forget(name string) {
	r.mu.Lock()
	delete(r.active, name)
	r.mu.Unlock()
}

// heal undoes the fault of that name and waits until it is measured gone.
func heal(name string) Step {
	return Step{"heal " + name, func(ctx context.Context, r *Run) error { return r.heal(ctx, name) }}
}

func (r *Run) heal(ctx context.Context, name string) error {
	r.mu.Lock()
	a := r.active[name]
	r.mu.Unlock()
	if a == nil {
		return fmt.Errorf("heal %s: there is no such fault in force", name)
	}
	err := r.injector.Heal(ctx, a.f)
	r.forget(name)
	r.setLastStart()
	if faults.Seen(err) {
		return fmt.Errorf("%w: %w", errGiveUp, err)
	}
	return err
}

// healAll leaves nothing in force, also after a step failed.
func (r *Run) healAll(ctx context.Context) {
	r.mu.Lock()
	var names []string
	for name := range r.active {
		names = append(names, name)
	}
	r.mu.Unlock()
	for _, name := range names {
		if err := r.heal(ctx, name); err != nil && !errors.Is(err, errGiveUp) {
			r.fail("heal "+name, err)
		}
	}
}

// reportFault records what the injector measured.
func (r *Run) reportFault(stage string, f faults.Fault, o faults.Observation, took time.Duration) {
	e := history.Event{Kind: "fault", Stage: history.Stage(stage), Detail: o.Detail, Data: map[string]any{"in_force": o.InForce}}
	for k, v := range o.Figures {
		e.Data[k] = v
	}
	if history.Stage(stage) == history.StageInForce {
		e.Data["force_ms"] = float64(took.Microseconds()) / 1000
	}
	for _, id := range f.Victims() {
		e.Nodes = append(e.Nodes, string(id))
	}
	r.mu.Lock()
	for _, a := range r.active {
		if a.f == f {
			e.Name, e.Noop = a.record, a.noop
		}
	}
	r.mu.Unlock()
	if e.Name == "" {
		e.Name = f.Name()
	}
	r.Rec.Event(e)
}

// pauseLoad lets the workloads record what is in flight and wait; resumeLoad goes on with them.
func pauseLoad() Step {
	return Step{"pause the load", func(_ context.Context, r *Run) error {
		r.resting = append(r.resting, r.loads...)
		r.stopLoads()
		return nil
	}}
}

func resumeLoad() Step {
	return Step{"resume the load", func(ctx context.Context, r *Run) error {
		for _, l := range r.resting {
			r.loads = append(r.loads, r.background(ctx, l.w))
		}
		r.resting = nil
		return nil
	}}
}
