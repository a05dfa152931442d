package suite

import (
	"context"
	"time"

	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/scenarios/room"
)

// waitSaid is how often a scenario says that it still waits for room.
const waitSaid = 10 * time.Second

// Enter waits until the machine has room for one more cluster, and says so in the meantime. Where no folder can be used for that, there is room: it is a
// courtesy to the other clusters, and nothing that a verdict depends on. Error: ctx ended.
func Enter(ctx context.Context, scenario string, progress func(scenarios.Progress)) (leave func(), err error) {
	say := func(phase string) {
		if progress != nil {
			progress(scenarios.Progress{Scenario: scenario, Phase: phase})
		}
	}
	machine, err := room.Machine()
	if err == nil {
		var said time.Time
		leave, err = machine.Enter(ctx, func(why string) {
			if now := time.Now(); now.Sub(said) >= waitSaid {
				said = now
				say("waits for room: " + why)
			}
		})
	}
	if err != nil && ctx.Err() == nil {
		say("does not look for room: " + err.Error())
		return func() {}, nil
	}
	return leave, err
}
