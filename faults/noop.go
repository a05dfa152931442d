package faults

import (
	"context"

	"github.com/unibus/unibus/sut/cluster"
)

// noop is a fault that is never injected.
type noop struct{ Fault }

// Noop is the negative control of a fault's probe: Inject notes what the probe compares with, as f's own does, and has no effect; everything else is f's. It
// must be found not in force.
func Noop(f Fault) Fault { return noop{f} }

// pretender is implemented by faults whose probe compares with what Inject saw: without that it would say nothing of a no-op.
type pretender interface {
	// pretend is Inject up to its effect, and without it.
	pretend(ctx context.Context, c cluster.Cluster) error
}

// IsNoop tells whether f was made by [Noop].
func IsNoop(f Fault) bool {
	_, ok := f.(noop)
	return ok
}

// Name is "noop(kill[n2])".
func (n noop) Name() string { return "noop(" + n.Fault.Name() + ")" }

// Inject does nothing to the victims.
func (n noop) Inject(ctx context.Context, c cluster.Cluster) error { return pretend(ctx, c, n.Fault) }

func pretend(ctx context.Context, c cluster.Cluster, f Fault) error {
	if p, ok := f.(pretender); ok {
		return p.pretend(ctx, c)
	}
	return nil
}

func (n noop) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	return askBystander(ctx, c, n.Fault, exclude)
}
