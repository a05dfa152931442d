package scenarios

import (
	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios about damaged data.
const (
	damagedFamily = "damaged-data"
	damagedFlip   = "damaged-flip"
)

// damagedData are the scenarios of this file.
func damagedData() []Scenario {
	return []Scenario{
		damagedNode(damagedFlip, "one bit flipped in", faults.BitFlip(flipAt)),
		damagedNode("damaged-cut", "cut off in the middle:", faults.Truncate(0.5)),
	}
}

// damagedNode damages the first block of a stopped node, which then comes back and leads. Plain nats-server serves what is left of the block and says nothing:
// that is nats-io/nats-server#7549 in the track record, which is the negative control, beside the planted bug audit-skipped. So many messages are written
// that the Raft log has been compacted: what it still holds would be written again at the start, damage or not.
func damagedNode(name, doc string, d faults.Damage) Scenario {
	return Scenario{
		Name: name, Family: damagedFamily, Only: membershipd, Seconds: 80,
		Doc:   doc + " the first block of a node that is down: it gets its data back from the others, then leads, and nothing acked is missing on any node",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(*Plan) []Step {
			steps := []Step{
				startAll(), converge("first start"), loadUp(blockLoad()), moreOps(twoBlocks, fillWithin), pauseLoad(), converge("before the damage"), inspect(observedBefore, ordersStream),
				mark("damage"), inject("down", faults.Kill, faults.Follower(ordersCopies)),
				onVictims("damaged", "down", faults.Disk(d, faults.StreamBlock("BUS", ordersStream, 1))), heal("damaged"),
				heal("down"), mark("damage-end"), converge("after the damage"), leadFromVictim("down", leadWithin), converge("led by the victim"),
				inspect(observedAfter, ordersStream),
			}
			return append(steps, readBackFromVictim("down")...)
		},
		Claims: func(r *Run) []reports.Claim {
			return []reports.Claim{
				streamIntact(twoBlocks), convergedEach(r), copiesAgree(ordersCopies), faultsInForce(2), knownStream(ordersStream), victimLed(),
				exercised(check.Preconditions{MinOps: twoBlocks, Marks: []string{"damage", "damage-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}
