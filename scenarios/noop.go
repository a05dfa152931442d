package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// noopPatience is how long a no-op is given to be seen in force: real faults take milliseconds.
const noopPatience = 2 * time.Second

// noop takes one verb through its stages without doing it.
func (r *Run) noop(ctx context.Context, v faults.Entry, ids []cluster.NodeID) error {
	r.injector.Limits.InForce = noopPatience
	defer func() { r.injector.Limits.InForce = 0 }()
	err := r.injectFault(ctx, "noop-"+v.Name, faults.Noop(v.Make(ids...)))
	if err == nil {
		return r.heal(ctx, "noop-"+v.Name) // the probe was fooled: the claim, which must fail, will pass and say so
	}
	if !errors.Is(err, errGiveUp) {
		return fmt.Errorf("no-op of %s: %w", v.Name, err)
	}
	return nil
}

// whileStopped does something while nodes are stopped: a verb on stopped nodes, whose probe has nothing to say of those that run.
func (r *Run) whileStopped(ctx context.Context, verb string, ids []cluster.NodeID, do func() error) error {
	stop := "stop-for-noop-" + verb
	if err := r.inject(ctx, stop, faults.Stop, faults.Named(ids...)); err != nil {
		return err
	}
	err := do()
	if err := errors.Join(err, r.heal(ctx, stop)); err != nil {
		return err
	}
	return r.converge(ctx, "after the no-op of "+verb)
}

// noopFaults runs every verb of the catalogue without doing it: each must be caught as not in force.
func noopFaults() Scenario {
	return Scenario{
		Name: "noop-faults", Family: "noop-faults", Seconds: 60,
		Doc:   "negative control: each fault of the catalogue, not injected, must be caught as not in force",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},
		Steps: func(*Plan) []Step {
			steps := []Step{startAll(), converge("first start")}
			for _, v := range faults.Catalogue() {
				steps = append(steps, Step{"no-op of " + v.Name, func(ctx context.Context, r *Run) error {
					if why := r.set.Backend.Capabilities().Missing(v.Needs...); why != "" {
						return nil // named as left out by the list of faults, and not among the claims
					}
					r.counts["noops"]++
					ids := victimsOf(v, "n2", "n3", "n1")
					if v.Name == "wipe" {
						return r.whileStopped(ctx, v.Name, ids, func() error { return r.noop(ctx, v, ids) })
					}
					return r.noop(ctx, v, ids)
				}})
			}
			return steps
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, v := range faults.Catalogue() {
				if r.set.Backend.Capabilities().Missing(v.Needs...) != "" {
					continue
				}
				cs = append(cs, control("noop-"+v.Name, fmt.Sprintf("%s was in force. (Must fail: it was not injected.)", v.Name), "not-in-force",
					check.Faults{Min: 1, Noop: true, Names: []string{"noop-" + v.Name + " "}}))
			}
			return cs
		},
	}
}
