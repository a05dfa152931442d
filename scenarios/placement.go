package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenario about making streams.
const (
	placeRounds = 4
	// placeApart is from one reset to the next. A node tells its resources every ten seconds, so that four resets come at four different quarters of that
	// time: after at least one of them nothing is told for longer than the claim allows.
	placeApart = 12500 * time.Millisecond
	// resetFor is long enough for every connection of a route's pool to break, the idle ones with the ping that they send each second: a node forgets
	// what a peer told only with the first connection after the last one. And it is too short for an election, whose winner tells its resources.
	resetFor    = 3 * time.Second / 2
	placeEvery  = 250 * time.Millisecond
	placeFor    = 5 * time.Second
	placeWithin = 3 // seconds

	placementName = "placement"
)

// placement resets the connections of a node, and makes streams as soon as every node says that it is well again.
func placement(name, family string) Scenario {
	return Scenario{
		Name: name, Family: family, Seconds: 65, Nightly: true,
		Doc: fmt.Sprintf("all connections between a follower and the other nodes are reset, %d times: once that is over and all nodes are ready, a replicated stream can be made within %d s",
			placeRounds, placeWithin),
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(*Plan) []Step {
			steps := []Step{startApart(), converge("first start"), loadUp(streamLoad()), moreOps(100, opsWithin)}
			var last time.Time
			for i := range placeRounds {
				reset, well := resetName(i), wellAfter(i)
				steps = append(steps, sinceLast(placeApart, &last), inject(reset, faults.Reset, faults.Follower("meta")), hold("without connections", resetFor), heal(reset), awaitHealthy(healthyWithin),
					mark(well), makeStreams("MADE_"+fmt.Sprint(i+1)), mark(well+"-end"))
			}
			return append(steps, pauseLoad(), calm("at the end", behindWithin), drainResting(askWithin))
		},
		Claims: func(*Run) []reports.Claim {
			var cs []reports.Claim
			for i := range placeRounds {
				cs = append(cs, claim(fmt.Sprintf("placed-%d", i+1), fmt.Sprintf("After reset %d, once all nodes say that they are ready, a replicated stream is made within %d s.", i+1, placeWithin),
					check.Availability{Window: window(wellAfter(i), wellAfter(i)+"-end"), Kinds: []string{"make"}, WithinSeconds: placeWithin, MinOK: 5}))
			}
			return append(cs, streamIntact(200), faultsInForce(placeRounds),
				exercised(check.Preconditions{MinOps: 200, MinBefore: 100, MinDuring: 20, MinAfter: 20, Drained: []string{ordersStream}}))
		},
	}
}

// sinceLast waits until d has passed since the step before that has the same last; the first one waits for nothing.
func sinceLast(d time.Duration, last *time.Time) Step {
	return Step{fmt.Sprintf("%v since the last time", d), func(ctx context.Context, _ *Run) error {
		if !last.IsZero() {
			if err := wait(ctx, time.Until(last.Add(d))); err != nil {
				return err
			}
		}
		*last = time.Now()
		return nil
	}}
}

func resetName(i int) string { return fmt.Sprintf("reset-%d", i+1) }
func wellAfter(i int) string { return fmt.Sprintf("well-%d", i+1) }

func makeStreams(name string) Step {
	return Step{fmt.Sprintf("make streams for %v", placeFor), func(ctx context.Context, r *Run) error {
		return r.Env.MakeStreams(ctx, name, 3, placeEvery, placeFor)
	}}
}

// placedSigns: one late stream is enough; a reset may come just before the node tells its resources anyway.
func placedSigns() (signs []Sign) {
	for i := range placeRounds {
		signs = append(signs, Sign{fmt.Sprintf("placed-%d", i+1), []string{check.CodeLate, check.CodeUnavailable}})
	}
	return signs
}

// placedLate: what a peer told of its storage is forgotten with every new route to it, and until it tells that again no stream is placed on it.
func placedLate() Bug {
	return Bug{
		ID: "placement", Title: "after connections between nodes broke, replicated streams are refused for up to ten seconds (\"peer offline\") though all nodes are well", Source: "found with this harness",
		Bad: []string{"v2.15.2"}, Clean: []string{membershipdVersion},
		Signs:    placedSigns(),
		AnySeed:  3,
		Scenario: placement(trackPrefix+"placement", trackFamily),
	}
}
