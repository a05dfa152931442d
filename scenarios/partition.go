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

// Settings of the partition scenarios.
const (
	isolatedFor  = 20 * time.Second // the lost quorum is noticed after 10 s by nats-server's own clock
	cutGap       = 15               // seconds without an acked publish, where a majority is left: an election of up to 10 s, and less than the cut lasts
	unservedMore = 8 * time.Second
	// cutGrace is by when, in seconds, what was under way at the cut has its answer or none.
	cutGrace = 5
)

// losers are the nodes that a cut costs their quorum.
type losers int

const (
	nobody    losers = iota
	thePicked        // the nodes that were picked
	theRest          // all others
	everybody
)

func (l losers) of(picked []cluster.NodeID) []cluster.NodeID {
	switch l {
	case thePicked:
		return picked
	case theRest:
		return others(picked...)
	case everybody:
		return others()
	case nobody:
	}
	return nil
}

// cut is one way of cutting links, and for whom.
type cut struct {
	name string
	verb faults.Verb
	sel  faults.Selector
	lost losers
}

// partitions are the shapes of a partition, each a scenario of its own: they fail in different ways.
func partitions() []Scenario {
	leader, follower, both := faults.Leader(ordersCopies), faults.Follower(ordersCopies), faults.LeaderAndFollower(ordersCopies)
	all := []Scenario{
		partition("partition", "a leader and a follower cut off from both peers while clients still reach them: nothing acked lost, all converged after the heal",
			cut{"cut-leader", faults.Isolate, leader, thePicked}, cut{"cut-follower", faults.Isolate, follower, thePicked}),
		partition("partition-bridge", "the leader and a follower cut off from each other, and the third node reaches both: reachability is not transitive",
			cut{"bridge", faults.Sever, both, nobody}),
		partition("partition-one-way", "a leader that nobody hears, then one that hears nobody: what is sent the other way arrives",
			cut{"mute-leader", faults.Mute, leader, thePicked}, cut{"deaf-leader", faults.Deafen, leader, thePicked}),
	}
	for _, s := range []Scenario{
		partition("partition-split", "two halves, once with the leader in the larger one and once in the smaller: the larger one serves",
			cut{"leader-in-majority", faults.Split, both, theRest}, cut{"leader-in-minority", faults.Split, leader, thePicked}),
		partition("partition-ring", "each node hears one other and is heard by the third: no two of them can agree, and nobody acks anything",
			cut{"ring", faults.Ring, faults.All(), everybody}),
		partition("partition-clients", "clients lose the leader while its peers still hear it: it leads on, and whoever connects elsewhere is served",
			cut{"leader-unreachable", faults.CutClients, leader, nobody}),
		partition("partition-routes", "the route port of the leader, then of a follower, is cut and all its other ports pass",
			cut{"leader-unrouted", faults.CutRoutes, leader, thePicked}, cut{"follower-unrouted", faults.CutRoutes, follower, thePicked}),
	} {
		s.Nightly = true
		all = append(all, s)
	}
	return all
}

// partition cuts links under load while clients reach every node that the cut leaves to them.
func partition(name, doc string, cuts ...cut) Scenario {
	return Scenario{
		Name: name, Family: "partition", Seconds: 25 + 33*len(cuts), Doc: doc,
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, k := range cuts {
				steps = append(steps, inject(k.name, k.verb, k.sel), mark(k.name), hold("cut off", isolatedFor), mark(k.name+"-end"),
					heal(k.name), converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			if slices.ContainsFunc(cuts, func(k cut) bool { return k.lost == everybody }) {
				steps = append(steps, hold("as much again as was refused", unservedMore)) // so that there is enough to judge
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, k := range cuts {
				cs = append(cs, k.claims(r.picked[k.name])...)
			}
			cs = append(cs, streamIntact(300), kvWritesLinear(40), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), faultsInForce(len(cuts)),
				exercised(check.Preconditions{MinOps: 300 + 100*len(cuts), MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
			return append(cs, loadIntact()...)
		},
	}
}

// claims are what is claimed of the time during a cut.
func (k cut) claims(picked []cluster.NodeID) []reports.Claim {
	var cs []reports.Claim
	w := window(k.name, k.name+"-end")
	if k.lost != everybody {
		cs = append(cs, claim(k.name+"-majority-serves", fmt.Sprintf("A majority goes on: no stretch without an acked publish to the orders is longer than %d s during the cut.", cutGap),
			check.Availability{Window: w, Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: cutGap, MinOK: 20}))
	}
	if k.lost == nobody {
		return cs
	}
	var who []string
	for _, id := range k.lost.of(picked) {
		who = append(who, string(id))
	}
	return append(cs,
		claim(k.name+"-not-ready", "A node that is cut off turns not ready within 5 s and stays so.",
			check.HealthCheck{Probe: "ready", Nodes: who, Window: w, GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}),
		claim(k.name+"-refuses", "Nothing that is sent to a node that is cut off, later than 5 s into it, is acked during the cut.",
			check.NoAck{Window: w, GraceSeconds: cutGrace, Nodes: who, MinAttempts: 5}))
}
