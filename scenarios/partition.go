package scenarios

import (
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the partition scenario.
const isolatedFor = 15 * time.Second // the lost quorum is noticed after 10 s by nats-server's own clock

// partition isolates the leader and then a follower from their peers, both ways, while their clients still reach them.
func partition() Scenario {
	return Scenario{
		Name: "partition", Family: "partition", Seconds: 80,
		Doc:   "a leader and a follower cut off from both peers while clients still reach them: nothing acked lost, all converged after the heal",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, rd := range []struct {
				name string
				sel  faults.Selector
			}{{"cut-leader", faults.Leader(ordersCopies)}, {"cut-follower", faults.Follower(ordersCopies)}} {
				steps = append(steps, inject(rd.name, faults.Isolate, rd.sel), mark(rd.name), hold("cut off", isolatedFor), mark(rd.name+"-end"),
					heal(rd.name), converge("after "+rd.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, m := range []string{"cut-leader", "cut-follower"} {
				var who []string
				for _, id := range r.picked[m] {
					who = append(who, string(id))
				}
				cs = append(cs,
					claim(m+"-majority-serves", "The majority goes on: writes are acked during the cut, after an election.",
						check.Availability{Window: window(m, m+"-end"), Kinds: []string{"publish"}, MaxGapSeconds: 30, MinOK: 20}),
					claim(m+"-not-ready", "The node that is cut off turns not ready within 5 s and stays so.",
						check.HealthCheck{Probe: "ready", Nodes: who, Window: window(m, m+"-end"), GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}))
			}
			return append(cs, streamIntact(300), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), faultsInForce(2),
				exercised(check.Preconditions{MinOps: 500, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
		},
	}
}
