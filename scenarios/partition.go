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

// cut is one way of cutting links, and for whom.
type cut struct {
	name string
	verb faults.Verb
	sel  faults.Selector
	// lost: the nodes that are picked have no quorum, and must say so.
	lost bool
}

// partitions are the shapes of a partition, each a scenario of its own: they fail in different ways.
func partitions() []Scenario {
	leader, follower := faults.Leader(ordersCopies), faults.Follower(ordersCopies)
	return []Scenario{
		partition("partition", "a leader and a follower cut off from both peers while clients still reach them: nothing acked lost, all converged after the heal",
			cut{"cut-leader", faults.Isolate, leader, true}, cut{"cut-follower", faults.Isolate, follower, true}),
		partition("partition-bridge", "the leader and a follower cut off from each other, and the third node reaches both: reachability is not transitive",
			cut{"bridge", faults.Sever, faults.LeaderAndFollower(ordersCopies), false}),
		partition("partition-one-way", "a leader that nobody hears, then one that hears nobody: what is sent the other way arrives",
			cut{"mute-leader", faults.Mute, leader, true}, cut{"deaf-leader", faults.Deafen, leader, true}),
	}
}

// partition cuts links under load while clients reach every node.
func partition(name, doc string, cuts ...cut) Scenario {
	return Scenario{
		Name: name, Family: "partition", Seconds: 25 + 28*len(cuts), Doc: doc,
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, k := range cuts {
				steps = append(steps, inject(k.name, k.verb, k.sel), mark(k.name), hold("cut off", isolatedFor), mark(k.name+"-end"),
					heal(k.name), converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, k := range cuts {
				cs = append(cs, claim(k.name+"-majority-serves", "A majority goes on: writes are acked during the cut, after an election.",
					check.Availability{Window: window(k.name, k.name+"-end"), Kinds: []string{"publish"}, MaxGapSeconds: 30, MinOK: 20}))
				if !k.lost {
					continue
				}
				var who []string
				for _, id := range r.picked[k.name] {
					who = append(who, string(id))
				}
				cs = append(cs, claim(k.name+"-not-ready", "The node that is cut off turns not ready within 5 s and stays so.",
					check.HealthCheck{Probe: "ready", Nodes: who, Window: window(k.name, k.name+"-end"), GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}))
			}
			cs = append(cs, streamIntact(300), kvWritesLinear(40), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), faultsInForce(len(cuts)),
				exercised(check.Preconditions{MinOps: 300 + 100*len(cuts), MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
			return append(cs, loadIntact()...)
		},
	}
}
