package scenarios

import (
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the gray failures: long enough for what only happens now and then.
const (
	grayFor  = 20 * time.Second
	heavyBad = 200 // packets in a thousand: TCP still gets through, slowly

	farAway   = 200 * time.Millisecond
	farJitter = 50 * time.Millisecond
)

// grayNetwork makes the leader's links bad, in three ways, so that nothing is ever quite down.
func grayNetwork() Scenario {
	return Scenario{
		Name: "gray-network", Family: "gray-failure", Seconds: 110, Nightly: true,
		Doc:   "the leader loses 5 %, then 20 % of its packets, then is 200 +- 50 ms away: nothing acked lost, what clients see is reported, all converged after",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, k := range grayLinks() {
				steps = append(steps, inject(k.name, k.verb, k.sel), mark(k.name), hold("bad links", grayFor), mark(k.name+"-end"),
					heal(k.name), converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, k := range grayLinks() {
				cs = append(cs, claim(k.name+"-serves", "Writes go on over bad links: the longest stretch without any acked publish is reported, and stays under 15 s.",
					check.Availability{Window: window(k.name, k.name+"-end"), Kinds: []string{"publish"}, MaxGapSeconds: 15, MinOK: 20}))
			}
			cs = append(cs, streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(len(grayLinks())),
				exercised(check.Preconditions{MinOps: 500, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
			return append(cs, settingsIntact(r)...)
		},
	}
}

func grayLinks() []cut {
	leader := faults.Leader(ordersCopies)
	return []cut{
		{name: "some-loss", verb: faults.Lossy(faults.CommonLoss), sel: leader},
		{name: "heavy-loss", verb: faults.Lossy(heavyBad), sel: leader},
		{name: "far-away", verb: faults.Slow(farAway, farJitter, 1), sel: leader},
	}
}
