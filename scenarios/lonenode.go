package scenarios

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the lone-node family.
const (
	aloneFor    = 20 * time.Second // plain nats-server's false 200 comes back between 6.5 and 17.6 s
	freshTwoFor = 10 * time.Second // two of three on empty stores
	serveWithin = 30.0             // seconds from the second node's start to writes again: an election, generously
	liveGrace   = 10.0             // seconds from the start of a container to its first answer: half a second, and 4 s on two cores that run four clusters
	healthGrace = 5.0              // seconds that a node has to notice that it lost its quorum
	minHealthHz = 10.0
)

// loneNode tells, for one node: alone on an empty store, with a second, complete; then alone after the cluster had run; then left alone.
func loneNode(id cluster.NodeID) Scenario {
	var rest []cluster.NodeID // the others, in the plan's order
	return Scenario{
		Name: "lone-node-" + string(id), Family: "lone-node", Only: cluster.Membershipd, Seconds: 125,
		Doc:   fmt.Sprintf("%s alone: on an empty store, after the cluster had run, and left by the other two; never ready, never an ack", id),
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			rest = others(id)
			p.Rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
			second, third := rest[0], rest[1]
			knock := &workload.Control{Clients: 3, Keys: controlKeys, Rate: 4}
			return []Step{
				mark("empty-alone"), start(0, id), loadUp(knock), hold("alone on an empty store", aloneFor),
				mark("empty-second"), start(0, second), hold("two of three on empty stores", freshTwoFor),
				mark("empty-third"), start(0, third), converge("third node on empty stores"),
				loadUp(streamLoad()), moreOps(150, 30*time.Second),
				stopAll(syscall.SIGTERM),
				mark("ran-alone"), start(0, id), hold("alone after the cluster had run", aloneFor),
				mark("ran-second"), start(0, second), ready(convergeTimeout, id, second), moreOps(60, 30*time.Second),
				moreAcked(ordersStream, ackedAgain, 30*time.Second),
				mark("ran-third"), start(0, third), converge("third node after the cluster had run"),
				inject("left", faults.Kill, faults.Named(rest...)), mark("left"), hold("left alone by the other two", aloneFor), mark("left-end"),
				heal("left"), converge("the others are back"), moreOps(60, 30*time.Second), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim { return loneClaims(r, id, rest[0]) },
	}
}

func loneClaims(r *Run, id, second cluster.NodeID) []reports.Claim {
	me, two := []string{string(id)}, []string{string(id), string(second)}
	never := func(id, text string, nodes []string, w check.Window, grace float64, words []string) reports.Claim {
		return claim(id, text, check.HealthCheck{Probe: "ready", Nodes: nodes, Window: w, GraceSeconds: grace, Want: check.WantNever200,
			ReasonContains: words, MinHz: minHealthHz})
	}
	live := func(id string, w check.Window) reports.Claim {
		return claim(id, "The lone node's /livez is always 200.", check.HealthCheck{Probe: "live", Nodes: me, Window: w, GraceSeconds: liveGrace,
			Want: check.WantAlways200, MinHz: minHealthHz})
	}
	refused := func(id, text string, w check.Window) reports.Claim {
		return claim(id, text, check.NoAck{Window: w, MinAttempts: 30, MaxSilenceSeconds: 8})
	}
	cs := []reports.Claim{
		never("never-ready-empty", "Alone on an empty store for 20 s: never ready, and it names the missing quorum.", me, window("empty-alone", "empty-second"), 0, quorumWords),
		live("live-empty", window("empty-alone", "empty-second")),
		refused("no-ack-empty", "Alone on an empty store: no write is acked, and clients hear so.", window("empty-alone", "empty-third")),
		never("two-fresh-never-ready", "Two of three on empty stores: still not ready, and they say that the first start needs all nodes.",
			two, window("empty-second", "empty-third"), 0, []string{"first start"}),
		never("never-ready-after-run", "Alone after the cluster had run: never ready, and it names the missing quorum.", me, window("ran-alone", "ran-second"), 0, quorumWords),
		live("live-after-run", window("ran-alone", "ran-second")),
		refused("no-ack-after-run", "Alone after the cluster had run: no write is acked.", window("ran-alone", "ran-second")),
		claim("second-serves", "With the second node writes to the orders succeed again.",
			check.Availability{Window: window("ran-second", "ran-third"), Targets: []string{ordersStream}, WithinSeconds: serveWithin, MinOK: 10}),
		claim("second-ready", "With the second node both are ready.", check.HealthCheck{Probe: "ready", Nodes: two, Window: window("ran-second", "ran-third"),
			Want: check.WantEnds200, MinHz: minHealthHz}),
		never("never-ready-left", "Left alone by the other two: not ready from 5 s on, for the rest of 20 s.", me, window("left", "left-end"), healthGrace, quorumWords),
		live("live-left", window("left", "left-end")),
		refused("no-ack-left", "Left alone: no write that is invoked after the loss is acked, and clients hear so.", window("left", "left-end")),
		streamIntact(100), convergedEach(r), copiesAgree(ordersCopies, settingsCopies), faultsInForce(1),
		exercised(check.Preconditions{MinOps: 300, MinBefore: 50, MinDuring: 30, MinAfter: 20, Drained: []string{ordersStream, settings}}),
	}
	return append(cs, settingsIntact(r)...)
}

// loneLeader leaves the meta leader alone. On plain nats-server it is the control: there the claim must fail.
func loneLeader(isControl bool) Scenario {
	name, family, doc := "lone-node-leader", "lone-node", "the meta leader left alone by killing the other two: never ready again until one is back"
	if isControl {
		name, family = "lone-node-control", "lone-node-control"
		doc = "negative control: the same on plain nats-server, whose /healthz must be caught saying 200 again"
	}
	return Scenario{
		Name: name, Family: family, Control: isControl, Seconds: 60,
		Doc:   doc,
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), converge("first start"), loadUp(streamLoad()), moreOps(100, 30*time.Second),
				pickSurvivor(),
				{"kill the others", func(ctx context.Context, r *Run) error {
					return r.inject(ctx, "left", faults.Kill, faults.Named(others(r.picked["survivor"]...)...))
				}},
				mark("left"), hold("left alone by the other two", aloneFor), mark("left-end"),
				heal("left"), converge("the others are back"), moreOps(60, 30*time.Second), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim { return leaderClaims(r, isControl) },
	}
}

func pickSurvivor() Step {
	return Step{"pick the meta leader", func(ctx context.Context, r *Run) error {
		ids, err := faults.MetaLeader().Pick(ctx, r.Cluster, r.Plan.Rand)
		if err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		if len(ids) != 1 {
			return errors.New("the selector of the meta leader did not pick one node")
		}
		r.picked["survivor"] = ids
		return nil
	}}
}

func leaderClaims(r *Run, isControl bool) []reports.Claim {
	var me []string
	for _, id := range r.picked["survivor"] {
		me = append(me, string(id))
	}
	hc := check.HealthCheck{Probe: "ready", Nodes: me, Window: window("left", "left-end"), GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}
	text := "The meta leader left alone: not ready from 5 s on, for the rest of 20 s."
	var ready reports.Claim
	if isControl {
		ready = control("never-ready-alone", text+" Plain nats-server must fail this.", "ready-without-quorum", hc)
	} else {
		if r.Plan.Kind == cluster.Membershipd {
			hc.ReasonContains = quorumWords
		}
		ready = claim("never-ready-alone", text, hc)
	}
	return []reports.Claim{
		ready,
		claim("no-ack-left", "No write that is invoked after the loss is acked, and clients hear so.",
			check.NoAck{Window: window("left", "left-end"), MinAttempts: 30, MaxSilenceSeconds: 8}),
		streamIntact(80), convergedEach(r), copiesAgree(ordersCopies), faultsInForce(1),
		exercised(check.Preconditions{MinOps: 150, MinBefore: 50, MinDuring: 30, MinAfter: 20, Marks: []string{"left", "left-end"}, Drained: []string{ordersStream}}),
	}
}
