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

const membershipd = cluster.Membershipd

// Settings of the quorum-loss scenario.
const (
	lossFor      = 12 * time.Second // without a quorum, of which the first five are the node's time to notice
	backWithin   = 30.0             // seconds from the first node's return to writes again
	maxSilence   = 8.0              // seconds in which a client must hear something
	opsBetween   = 60
	opsWithin    = 40 * time.Second
	steadyBefore = 200
	ackedAgain   = 20 // operations on the stream that a claim is about, whatever else has succeeded
)

// quorumLoss kills each pair of nodes under load, and brings them back one at a time.
func quorumLoss() Scenario {
	var pairs [][2]cluster.NodeID // in the plan's order
	return Scenario{
		Name: "quorum-loss", Family: "quorum-loss", Seconds: 110,
		Doc:   "each pair of nodes killed under load: no acks without a quorum, writes again with one node back, nothing acked lost",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			pairs = [][2]cluster.NodeID{{"n1", "n2"}, {"n1", "n3"}, {"n2", "n3"}}
			p.Rand.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for i, pair := range pairs {
				steps = append(steps, losePair(i, pair)...)
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim { return quorumLossClaims(r, pairs) },
	}
}

func losePair(i int, pair [2]cluster.NodeID) []Step {
	m := func(s string) string { return fmt.Sprintf("%s-%d", s, i+1) }
	a, b := m("kill-a"), m("kill-b")
	return []Step{
		inject(a, faults.Kill, faults.Named(pair[0])), inject(b, faults.Kill, faults.Named(pair[1])), mark(m("lost")),
		hold("without a quorum", lossFor),
		mark(m("back")), heal(a), moreOps(opsBetween, opsWithin), moreAcked(ordersStream, ackedAgain, opsWithin), mark(m("third")),
		heal(b), converge("after the loss of " + string(pair[0]) + " and " + string(pair[1])), moreOps(opsBetween, opsWithin),
	}
}

func quorumLossClaims(r *Run, pairs [][2]cluster.NodeID) []reports.Claim {
	var cs []reports.Claim
	for i, pair := range pairs {
		m := func(s string) string { return fmt.Sprintf("%s-%d", s, i+1) }
		left := others(pair[0], pair[1])[0]
		lost := window(m("lost"), m("back"))
		ready := check.HealthCheck{Probe: "ready", Nodes: []string{string(left)}, Window: lost, GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}
		if r.Plan.Kind == membershipd {
			ready.ReasonContains = quorumWords
		}
		cs = append(cs,
			claim(m("no-ack"), fmt.Sprintf("%s and %s killed: nothing that is invoked after the loss is acked; clients get errors, not silence.", pair[0], pair[1]),
				check.NoAck{Window: lost, MinAttempts: 30, MaxSilenceSeconds: maxSilence}),
			claim(m("survivor-not-ready"), fmt.Sprintf("%s, left alone, turns not ready within 5 s and stays so.", left), ready),
			claim(m("writes-return"), fmt.Sprintf("%s back: writes to the orders succeed again.", pair[0]),
				check.Availability{Window: window(m("back"), m("third")), Targets: []string{ordersStream}, WithinSeconds: backWithin, MinOK: 10}),
		)
	}
	cs = append(cs, streamIntact(200), kvLinear(100), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(6),
		exercised(check.Preconditions{MinOps: 500, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: drained(r)}))
	return slices.Concat(cs, loadIntact(), settingsIntact(r))
}

// dataCopies lists the streams whose copies must agree at the end.
func dataCopies(r *Run) []string {
	ts := []string{ordersCopies, bucketCopies}
	if r.Plan.Kind == membershipd {
		ts = append(ts, settingsCopies)
	}
	return ts
}

// drained lists the targets that the standard load reads back.
func drained(r *Run) []string {
	ts := []string{ordersStream, ordersBucket}
	if r.Plan.Kind == membershipd {
		ts = append(ts, settings)
	}
	return ts
}
