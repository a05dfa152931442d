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
	placeRounds = 4 // nodes tell their resources every ten seconds: after one reset of four that is likely not just then
	// resetFor is too short for an election: who wins one tells its resources.
	resetFor    = time.Second / 2
	placeEvery  = 250 * time.Millisecond
	placeFor    = 5 * time.Second
	placeWithin = 3 // seconds

	placementName = "placement"
)

// placement resets the connections of a node, and makes streams as soon as every node says that it is well again.
func placement(name, family string) Scenario {
	return Scenario{
		Name: name, Family: family, Seconds: 55, Nightly: true,
		Doc: fmt.Sprintf("all connections between a follower and the other nodes are reset, %d times: once that is over and all nodes are ready, a replicated stream can be made within %d s",
			placeRounds, placeWithin),
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(*Plan) []Step {
			steps := []Step{startApart(), converge("first start"), loadUp(streamLoad()), moreOps(100, opsWithin)}
			for i := range placeRounds {
				reset, well := resetName(i), wellAfter(i)
				steps = append(steps, inject(reset, faults.Reset, faults.Follower("meta")), hold("without connections", resetFor), heal(reset), awaitHealthy(healthyWithin),
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

func resetName(i int) string { return fmt.Sprintf("reset-%d", i+1) }
func wellAfter(i int) string { return fmt.Sprintf("well-%d", i+1) }

func makeStreams(name string) Step {
	return Step{fmt.Sprintf("make streams for %v", placeFor), func(ctx context.Context, r *Run) error {
		return r.Env.MakeStreams(ctx, name, 3, placeEvery, placeFor)
	}}
}

// placedSigns: one late stream is enough; whether a reset hits a moment at which the nodes are about to tell their resources anyway is chance.
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
