package scenarios

import (
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the gray failures: long enough for what only happens now and then.
const (
	grayFor  = 20 * time.Second
	grayGap  = 15  // seconds
	heavyBad = 200 // packets in a thousand: TCP still gets through, slowly

	farAway   = 200 * time.Millisecond
	farJitter = 50 * time.Millisecond
)

// Impairments that are several at a time.
var (
	garbled  = agent.Impairment{Corrupt: faults.CommonCorrupt, Duplicate: faults.CommonDuplicate, Reorder: faults.CommonReorder, DelayMS: 20, Seed: 1}
	farLossy = agent.Impairment{DelayMS: float64(farAway.Milliseconds()), JitterMS: float64(farJitter.Milliseconds()), Loss: faults.CommonLoss, Seed: 1}
)

// grayFailures are a leader that is neither well nor gone.
func grayFailures() []Scenario {
	return []Scenario{
		gray("gray-network", "the leader loses 5 %, then 20 % of its packets, then is 200 +- 50 ms away: nothing acked lost, what clients see is reported, all converged after",
			cluster.CapNetwork, grayLinks()),
		gray("gray-starved", "the leader gets a twentieth of a processor: nothing acked lost, what clients see is reported, all converged after",
			cluster.CapResources, []cut{{name: "starved", verb: faults.Starve(faults.StarvedCPU), sel: faults.Leader(ordersCopies)}}),
		gray("gray-connections", "the leader's connections go half-open, then its name server does not answer: nothing acked lost, what clients see and who leads is reported, all converged after",
			cluster.CapNetwork, []cut{
				{name: "half-open", verb: faults.HalfOpen, sel: faults.Leader(ordersCopies)},
				{name: "nameless", verb: faults.DNSFailure, sel: faults.Leader(ordersCopies)},
			}),
		gray("gray-follower", "what reaches a follower is damaged, doubled and out of order, then it gets 2 Mbit/s: nothing acked lost, it does not disturb the others, all converged after",
			cluster.CapNetwork, []cut{
				{name: "garbled", verb: faults.Impair("garbled", garbled, faults.Incoming), sel: faults.Follower(ordersCopies)},
				{name: "throttled", verb: faults.Throttle(faults.CommonRate), sel: faults.Follower(ordersCopies)},
			}),
		gray("gray-way", "the leader is 200 +- 50 ms away and loses 5 %, then loses a fifth of what it sends, then of what it is sent: nothing acked lost, all converged after",
			cluster.CapNetwork, []cut{
				{name: "far-lossy", verb: faults.Impair("far-lossy", farLossy, faults.Outgoing), sel: faults.Leader(ordersCopies)},
				{name: "loses-out", verb: faults.Impair("loses-out", agent.Impairment{Loss: heavyBad, Seed: 1}, faults.Outgoing), sel: faults.Leader(ordersCopies)},
				{name: "loses-in", verb: faults.Impair("loses-in", agent.Impairment{Loss: heavyBad, Seed: 1}, faults.Incoming), sel: faults.Leader(ordersCopies)},
			}),
	}
}

// clockJump lets the leader believe another hour.
func clockJump() Scenario {
	leader := faults.Leader(ordersCopies)
	s := gray("clock-jump", "the leader's clock jumps an hour ahead, then another leader's an hour back: nothing acked lost, what clients see is reported, all converged after",
		cluster.CapClock, []cut{
			{name: "ahead", verb: faults.Jump(faults.CommonJump), sel: leader},
			{name: "back", verb: faults.Jump(-faults.CommonJump), sel: leader},
		})
	s.Family = "clock"
	return s
}

// clockStrobe and clockDrift let the leader believe times that do not fit together.
func clockStrobe() Scenario {
	return clockOnce("clock-strobe", "strobing", "the leader's clock jumps back and forth by 30 s, four times a second", faults.Strobe(faults.CommonSwing, faults.CommonPeriod))
}

func clockDrift() Scenario {
	return clockOnce("clock-drift", "drifting", "the leader's clock runs ten per cent too fast, and is put right at once", faults.Drift(faults.CommonDrift))
}

func clockOnce(name, fault, doc string, verb faults.Verb) Scenario {
	s := gray(name, doc+": nothing acked lost, what clients see is reported, all converged after", cluster.CapClock,
		[]cut{{name: fault, verb: verb, sel: faults.Leader(ordersCopies)}})
	s.Family = "clock"
	return s
}

// gray lets the leader be unwell under load, in one way after the other.
func gray(name, doc string, need cluster.Capability, cuts []cut) Scenario {
	return Scenario{
		Name: name, Family: "gray-failure", Seconds: 25 + 28*len(cuts), Nightly: true, Doc: doc,
		Needs: []cluster.Capability{cluster.CapLifecycle, need},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin)}
			if need == cluster.CapClock {
				steps = append([]Step{supervise()}, steps...) // a node whose clock is wrong gives up; nothing else may
			}
			for _, k := range cuts {
				steps = append(steps, inject(k.name, k.verb, k.sel), mark(k.name), watchLeader(k.name, k.sel, grayFor), mark(k.name+"-end"),
					heal(k.name), converge("after "+k.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, k := range cuts {
				cs = append(cs, claim(k.name+"-serves", fmt.Sprintf("Writes go on: the longest stretch without an acked publish to the orders is reported, and stays under %d s.", grayGap),
					check.Availability{Window: window(k.name, k.name+"-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: grayGap, MinOK: 20}), takeoverSeen(k.name, grayFor))
			}
			cs = append(cs, streamIntact(300), kvWritesLinear(kvOpsWanted/2), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(len(cuts)),
				exercised(check.Preconditions{MinOps: 500, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
			return append(cs, settingsIntact(r)...)
		},
	}
}

// grayLinks are links that are bad but never quite down.
func grayLinks() []cut {
	leader := faults.Leader(ordersCopies)
	return []cut{
		{name: "some-loss", verb: faults.Lossy(faults.CommonLoss), sel: leader},
		{name: "heavy-loss", verb: faults.Lossy(heavyBad), sel: leader},
		{name: "far-away", verb: faults.Slow(farAway, farJitter, 1), sel: leader},
	}
}
