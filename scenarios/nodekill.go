package scenarios

import (
	"fmt"
	"slices"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the node-kill scenario.
const (
	downFor     = 3 * time.Second // a killed node's time down
	impatient   = 4 * time.Second // between an impatient round's start and the next kill: shorter than many elections
	politeKills = 3               // these wait for convergence; known bugs hide from them
	hastyKills  = 3               // these do not: faults overlap with catch-up and elections
	kvOpsWanted = 200
	// killGap bounds the stretch without an acked publish to the orders, in seconds: elections of up to 9 s that split votes repeat, and less than the kills take.
	killGap = 25
)

// nodeKill kills leaders and followers again and again under load.
func nodeKill() Scenario {
	return Scenario{
		Name: "node-kill", Family: "node-kill", Seconds: 90,
		Doc:   "stream leader, meta leader and followers killed again and again under load, each time waiting until all is well, and then without",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin), mark("kills")}
			victims := []faults.Selector{faults.Leader(ordersCopies), faults.MetaLeader(), faults.Follower(ordersCopies)}
			p.Rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
			for i := range politeKills + hastyKills {
				name := fmt.Sprintf("kill-%d", i+1)
				steps = append(steps, inject(name, faults.Kill, victims[i%len(victims)]), hold("one node down", downFor), heal(name))
				if i < politeKills {
					steps = append(steps, converge("after "+name), moreOps(opsBetween, opsWithin))
				} else {
					steps = append(steps, hold("not waiting for health", impatient))
				}
			}
			return append(steps, converge("after the last kill"), moreOps(opsBetween, opsWithin), mark("kills-end"), stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			cs := []reports.Claim{
				streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...),
				claim("write-gap", fmt.Sprintf("Writes go on: the longest stretch without an acked publish to the orders is reported, and stays under %d s.", killGap),
					check.Availability{Window: window("kills", "kills-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: killGap, MinOK: 100}),
				claim("no-client-stranded", "Every publisher and key-value client is served again.",
					check.ClientGaps{Window: window("kills", "kills-end"), Clients: []string{"pub", "kv"}, MinClients: publishers + kvClients, EndSeconds: 10}),
				truthful(), faultsInForce(politeKills + hastyKills),
				exercised(check.Preconditions{MinOps: 800, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}),
			}
			return slices.Concat(cs, loadIntact(), settingsIntact(r))
		},
	}
}
