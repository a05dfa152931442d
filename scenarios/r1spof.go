package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the R1 scenarios.
const (
	holderDownFor = 10 * time.Second
	wipedFor      = 3 * time.Second
	scaleWithin   = 60 * time.Second
	controlOps    = 40
	vainTries     = 6 // of three clients in ten seconds: where the audit trail is down, too, each waits two seconds for it before it is refused
)

// holder picks the one node that holds the settings bucket at R1.
func holder() faults.Selector { return faults.HolderOf(settingsCopies) }

// r1SPOF shows what R1 means: its claims about availability and durability must fail.
func r1SPOF() Scenario {
	return Scenario{
		Name: "r1-spof", Family: "r1-spof", Only: membershipd, Replicas: 1, Seconds: 60,
		Doc:   "negative control: with the buckets at R1 the loss of one node stops the control plane, and the loss of its volume loses the data",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), converge("first start at R1"), loadUp(writeLoad()), moreOps(controlOps, opsWithin),
				inject("kill-holder", faults.Kill, holder()), mark("down"), hold("the holder of the settings is down", holderDownFor),
				mark("returns"), heal("kill-holder"), moreOps(controlOps, opsWithin), mark("returned"),
				inject("wipe-holder", faults.KillAndWipe, holder()), hold("its volume is gone", wipedFor),
				heal("wipe-holder"), hold("the wiped node is back", downFor), stopLoad(),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			down := window("down", "returns")
			return []reports.Claim{
				control("r1-available", "With the holder of an R1 bucket down its settings can be written. (Must fail: R1 is a single point of failure.)",
					"unavailable", check.Availability{Window: down, Targets: []string{settings}}),
				control("r1-durable", "The settings survive the loss of one volume. (Must fail: there was one copy.)",
					"acked-missing", check.KVDurable{Target: settings, MinKeys: controlKeys}),
				claim("unusable-is-said", "While the holder is down nothing is acked, and clients get errors, not silence.",
					check.NoAck{Window: down, GraceSeconds: 1, Targets: []string{settings}, MinAttempts: vainTries, MaxSilenceSeconds: maxSilence}),
				claim("not-ready-while-unusable", "No node says that it is ready later than 5 s into it.",
					check.HealthCheck{Probe: "ready", Nodes: []string{"n1", "n2", "n3"}, Window: down, GraceSeconds: healthGrace, Want: check.WantNever200, MinHz: minHealthHz}),
				claim("back-with-its-node", "Once the node is back its settings can be written again.",
					check.Availability{Window: window("returns", "returned"), Targets: []string{settings}, WithinSeconds: backWithin, MinOK: 5}),
				faultsInForce(2),
				exercised(check.Preconditions{MinOps: 100, MinBefore: 20, MinDuring: vainTries, Drained: []string{settings}}),
			}
		},
	}
}

// r1ToR3 scales the buckets up in place under load; the same kill is then survived.
func r1ToR3() Scenario {
	return Scenario{
		Name: "r1-to-r3", Family: "r1-spof", Only: membershipd, Replicas: 1, Seconds: 60,
		Doc:   "the six buckets scaled from R1 to R3 in place under load: nothing lost, and the kill that R1 does not survive is survived",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), converge("first start at R1"), loadUp(controlLoad()), moreOps(controlOps, opsWithin),
				pick("holder", holder()), mark("scale"), scale(3), converge("scaled to R3 in place"), mark("scaled"), moreOps(controlOps, opsWithin),
				{"kill the node that held the settings", func(ctx context.Context, r *Run) error {
					return r.inject(ctx, "kill-holder", faults.Kill, faults.Named(r.picked["holder"]...))
				}},
				mark("down"), moreOps(controlOps/2, opsWithin), mark("returns"), // an election may come first
				heal("kill-holder"), converge("all back"), moreOps(controlOps, opsWithin), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			cs := []reports.Claim{
				claim("scales-under-load", "While the buckets go from R1 to R3 writes go on.",
					check.Availability{Window: window("scale", "scaled"), Targets: []string{settings}, MaxGapSeconds: 15, MinOK: 1}),
				claim("available-without-holder", "With the former holder down settings can be written, after an election.",
					check.Availability{Window: window("down", "returns"), Targets: []string{settings}, MinOK: 3}),
				converged3(r), copiesAgree(settingsCopies), truthful(), faultsInForce(1),
				exercised(check.Preconditions{MinOps: 150, MinBefore: 40, MinDuring: 20, MinAfter: 20, Drained: []string{settings}}),
			}
			return append(cs, settingsIntact(r)...)
		},
	}
}

// converged3 is convergedEach for a cluster that begins at R1: the first event is at R1 on purpose.
func converged3(r *Run) reports.Claim {
	return claim("converged", "Each time the cluster converged, at first at R1, from the scaling on at R3.", check.Converged{Min: r.waits(), Buckets: buckets, Replicas: 1})
}

// pick remembers what a selector finds now.
func pick(as string, sel faults.Selector) Step {
	return Step{"pick the " + as, func(ctx context.Context, r *Run) error {
		ids, err := sel.Pick(ctx, r.Cluster, r.Plan.Rand)
		if err != nil {
			return fmt.Errorf("%w: pick %s: %w", errGiveUp, sel.Name(), err)
		}
		r.picked[as] = ids
		return nil
	}}
}

// scale asks membershipd for R replicas of its buckets, in place.
func scale(replicas int) Step {
	return Step{fmt.Sprintf("scale the buckets to R%d in place", replicas), func(ctx context.Context, r *Run) error {
		if err := workload.Scale(ctx, r.Env, replicas); err != nil {
			return fmt.Errorf("%w: scale to R%d: %w", errGiveUp, replicas, err)
		}
		r.counts["scaled"]++
		r.Rec.Event(history.Event{Kind: "note", Name: fmt.Sprintf("scale to R%d confirmed", replicas)})
		return nil
	}}
}
