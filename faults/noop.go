package faults

import (
	"context"

	"github.com/unibus/unibus/sut/cluster"
)

// noop is a fault that is never injected.
type noop struct{ Fault }

// Noop is the negative control of a fault's probe: Inject does nothing, everything else is f's. It must be found not in force.
func Noop(f Fault) Fault { return noop{f} }

// IsNoop tells whether f was made by [Noop].
func IsNoop(f Fault) bool {
	_, ok := f.(noop)
	return ok
}

// Name is "noop(kill[n2])".
func (n noop) Name() string { return "noop(" + n.Fault.Name() + ")" }

// Inject does nothing.
func (n noop) Inject(context.Context, cluster.Cluster) error { return nil }

func (n noop) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	return askBystander(ctx, c, n.Fault, exclude)
}
