package scenarios

import (
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the graceful-stop scenario.
const (
	coreClients  = 6                // senders, and as many subscribers: two at home on each node
	coreFast     = 40               // messages a second of each sender
	stoppedFor   = 12 * time.Second // longer than graceMaxGap, or a gap could not be seen
	corePairs    = 300              // deliveries that must be judged in each stop
	graceMaxGap  = 10.0
	gracefulName = "graceful-stop"
)

// gracefulStop stops each node politely under load, as an operator does before an upgrade.
func gracefulStop() Scenario {
	var order []cluster.NodeID
	return Scenario{
		Name: gracefulName, Family: gracefulName, Seconds: 80,
		Doc:   "each node stopped with SIGTERM under load: no message that a server had taken is lost on the way, at-most-once ones included",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			order = []cluster.NodeID{"n1", "n2", "n3"}
			p.Rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			steps := []Step{startAll(), converge("first start"), loadUp(streamLoad(),
				&workload.Subscribers{Subject: coreSubject, Clients: coreClients}, &workload.Senders{Subject: coreSubject, Clients: coreClients, Rate: coreFast, Timeout: opTimeout}),
				moreOps(steadyBefore, opsWithin)}
			for _, id := range order {
				name := "stop-" + string(id)
				steps = append(steps, mark(name), inject(name, faults.Stop, faults.Named(id)), hold("one node is away", stoppedFor), mark(name+"-end"),
					heal(name), converge("after "+name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			cs := []reports.Claim{streamIntact(200), convergedEach(r), copiesAgree(ordersCopies), faultsInForce(len(order)),
				exercised(check.Preconditions{MinOps: 500, MinBefore: 100, MinDuring: 50, MinAfter: 20, Drained: []string{ordersStream}})}
			for _, id := range order {
				w := window("stop-"+string(id), "stop-"+string(id)+"-end")
				cs = append(cs,
					claim("core-delivered-"+string(id), fmt.Sprintf("While %s stops, every core message that a server has taken reaches every subscriber that stays connected.", id),
						check.CoreDelivered{Window: w, Target: coreSubject, MinPairs: corePairs, Clients: []string{"sub-"}, MinClients: coreClients}),
					claim("write-gap-"+string(id), fmt.Sprintf("While %s stops, writes to the orders go on: no gap above %g s.", id, graceMaxGap),
						check.Availability{Window: w, Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: graceMaxGap, MinOK: 20}))
			}
			return cs
		},
	}
}
