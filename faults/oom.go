package faults

import (
	"context"
	"fmt"

	"github.com/unibus/unibus/sut/cluster"
)

// OutOfMemory lowers the limit of the victims' memory until the kernel kills them. It is in force when that is how the process ended: the kernel has counted a kill
// in the daemon's control group. Healing starts the victims again, without a limit.
func OutOfMemory(victims ...cluster.NodeID) Fault {
	return &process{target: newTarget("oom-kill", victims), needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapMemory}, kind: processKind{
		inject: func(ctx context.Context, n cluster.Node, sent func()) error {
			m, ok := n.(cluster.MemoryLimited)
			if !ok {
				return fmt.Errorf("limit memory of %s: %w", n.ID(), ErrUnsupported)
			}
			sent() // before: a call that failed may have killed it all the same
			_, err := m.ExhaustMemory(ctx)
			return err
		},
		heal: startAgain,
		probe: func(_, now cluster.State, _ bool) presence {
			return down(now, now.OOMKilled && (now.ExitCode == exitKilled || now.ExitCode == exitUnknown))
		},
		strays: lostLife, ready: mustRun,
	}}
}
