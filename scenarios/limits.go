package scenarios

import (
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios about limits.
const (
	limitsFamily = "limits"
	deadFor      = 20 * time.Second // between an OOM kill and the new start: the others elect somebody else meanwhile, and serve
	exhaustedFor = 20 * time.Second
	// limitGap bounds the stretch without an acked publish, in seconds: an election of up to 10 s, and less than the limit is in force.
	limitGap = 15
)

// oomKill lets the kernel kill a follower, then the leader, for want of memory.
func oomKill() Scenario {
	cuts := []cut{
		{name: "follower-oom", verb: faults.OutOfMemory, sel: faults.Follower(ordersCopies)},
		{name: "leader-oom", verb: faults.OutOfMemory, sel: faults.Leader(ordersCopies)},
	}
	return Scenario{
		Name: "oom", Family: limitsFamily, Nightly: true, Seconds: 85,
		Doc:   "the kernel kills a follower of the stream, then its leader, for want of memory under load: nothing acked lost, writes go on, both come back",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapMemory},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, k := range cuts {
				steps = append(steps, mark(k.name), inject(k.name, k.verb, k.sel), hold("killed", deadFor), mark(k.name+"-end"), heal(k.name),
					converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim { return limitClaims(r, cuts...) },
	}
}

// exhausted leaves a follower, then the leader, no more of what the kernel counts. A daemon may give up for it, and is started again as its unit would, with
// the same limit until it is lifted.
func exhausted(name, of, doc string, verb faults.Verb) Scenario {
	cuts := []cut{
		{name: "follower-" + of, verb: verb, sel: faults.Follower(ordersCopies)},
		{name: "leader-" + of, verb: verb, sel: faults.Leader(ordersCopies)},
	}
	return Scenario{
		Name: name, Family: limitsFamily, Nightly: true, Seconds: 85, Doc: doc,
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapCounts},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), supervise(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, k := range cuts {
				steps = append(steps, mark(k.name), inject(k.name, k.verb, k.sel), hold("exhausted", exhaustedFor), mark(k.name+"-end"), heal(k.name),
					converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim { return limitClaims(r, cuts...) },
	}
}

// limitClaims are those of every limit.
func limitClaims(r *Run, cuts ...cut) []reports.Claim {
	var cs []reports.Claim
	for _, k := range cuts {
		cs = append(cs, claim(k.name+"-serves", fmt.Sprintf("Writes go on: no stretch without an acked publish to the orders is longer than %d s.", limitGap),
			check.Availability{Window: window(k.name, k.name+"-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: limitGap, MinOK: 20}))
	}
	cs = append(cs, streamIntact(200), kvWritesLinear(60), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(len(cuts)),
		exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 20, MinAfter: 20, Drained: drained(r)}))
	return append(cs, settingsIntact(r)...)
}
