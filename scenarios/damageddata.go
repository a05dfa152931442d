package scenarios

import (
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios about damaged data.
const (
	damagedFamily  = "damaged-data"
	damagedFlip    = "damaged-flip"
	damagedPayload = 32 << 10 // bytes: 250 messages to a block of 8 MiB
	damagedMsgs    = 600
	damagedWithin  = 90 * time.Second // to fill two blocks, each write synced
)

// damagedData are the scenarios of this file.
func damagedData() []Scenario {
	return []Scenario{
		damagedNode(damagedFlip, "one bit flipped in", faults.BitFlip(flipAt)),
		damagedNode("damaged-cut", "cut off in the middle:", faults.Truncate(0.5)),
	}
}

// damagedNode damages the first block of a stopped node, which then comes back and leads. Plain nats-server serves what is left of the block and says nothing:
// that is nats-io/nats-server#7549 in the track record, which is the negative control.
func damagedNode(name, doc string, d faults.Damage) Scenario {
	return Scenario{
		Name: name, Family: damagedFamily, Only: membershipd, Seconds: 80,
		Doc:   doc + " the first block of a node that is down: it gets its data back from the others, then leads, and nothing acked is missing on any node",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), converge("first start"), loadUp(damagedLoad()), moreOps(damagedMsgs, damagedWithin), pauseLoad(), converge("before the damage"), inspect(observedBefore, ordersStream),
				mark("damage"), inject("down", faults.Kill, faults.Follower(ordersCopies)),
				onVictims("damaged", "down", faults.Disk(d, faults.StreamBlock("BUS", ordersStream, 1))), heal("damaged"),
				heal("down"), mark("damage-end"), converge("after the damage"), leadFromVictim("down", ordersStream), converge("led by the victim"),
				inspect(observedAfter, ordersStream), drainResting(readBackWithin),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			return []reports.Claim{
				streamIntact(damagedMsgs), convergedEach(r), copiesAgree(ordersCopies), faultsInForce(2), knownStream(ordersStream),
				exercised(check.Preconditions{MinOps: damagedMsgs, Marks: []string{"damage", "damage-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}

func damagedLoad() *workload.Streams {
	w := streamLoad()
	w.PayloadBytes, w.Rate, w.Timeout = damagedPayload, blockRate, 5*time.Second
	return w
}
