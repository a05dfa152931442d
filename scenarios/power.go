package scenarios

import (
	"context"
	"fmt"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
)

// Scenarios about power failures keep the nodes' data on a file system that knows what was synced (Scenario.Power), and take what was not away with
// [powerFail]. What was lost, to the byte, is in the bundle: snapshots/power-NAME.json.
//
//	Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},   // as ext4 and XFS do
//	Sync:  "10s",                                                              // nats-server's sync_interval, or always
//	Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
//	steps: powerFail("cut", faults.All(), allLost), hold(...), heal("cut"), converge(...)

// allLost is the worst that a power failure may do: nothing that was not synced survives.
const allLost = 0

// powerFS is the file system that the scenario asks for; a backend without one makes clusters without it.
func (r *Run) powerFS() cluster.PowerFS {
	if r.set.Backend.Capabilities().Missing(cluster.CapPowerFail) != "" {
		return cluster.PowerFS{}
	}
	return r.Scenario.Power
}

// powerFail cuts the power of nodes, all at the same moment, under a name that heal refers to. keepPercent is the chance of each unsynced page and
// directory entry to survive; the plan's seed draws. The record of what was lost goes into the bundle.
func powerFail(name string, sel faults.Selector, keepPercent int) Step {
	return Step{fmt.Sprintf("inject %s on %s", name, sel.Name()), func(ctx context.Context, r *Run) error {
		ids, err := r.victims(ctx, sel)
		if err != nil {
			return err
		}
		r.picked[name] = ids
		f := faults.PowerFailure(cluster.PowerLoss{Seed: r.Plan.Rand.Uint64(), KeepPercent: keepPercent})(ids...)
		err = r.injectFault(ctx, name, f)
		if saved := r.bundle.SaveSnapshot("power-"+name, faults.PowerRecord(f)); saved != nil {
			return fmt.Errorf("save the record of %s: %w", name, saved)
		}
		return err
	}}
}
