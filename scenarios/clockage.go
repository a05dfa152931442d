package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Streams that forget by time, by an age that is longer than a jump of the clock, by one that is shorter, and one that forgets message ids only.
const (
	daysStream    = "DAYS"
	minutesStream = "MINUTES"
	windowStream  = "WINDOW"
	agingSown     = 40
	agingHold     = 10 * time.Second
	agingGap      = 15 // seconds without an acked publish to the orders: an election of up to 10 s, and less than the clock is wrong
	agingWithin   = 30 * time.Second
	runningHold   = 20 * time.Second // longer than agingGap: an election of up to 10 s, and the time to notice
	agingPrefix   = "aging-"
	minutesCopies = "BUS/" + minutesStream
	goneWrong     = "gone-wrong"

	clockRunningName = "clock-running"
)

var agingTerms = []workload.Term{
	{Target: daysStream, MaxAge: 24 * time.Hour}, {Target: minutesStream, MaxAge: 10 * time.Minute}, {Target: windowStream, Window: 2 * time.Minute},
}

// runningTerms are of streams of which one is always about to forget something, so that a clock that goes wrong makes a difference at once.
var runningTerms = []workload.Term{
	{Target: daysStream, MaxAge: 24 * time.Hour}, {Target: minutesStream, MaxAge: 10 * time.Minute, Fleeting: true},
}

// clockAge lets the clock of the node that leads streams with ages be an hour ahead, also at a start: nats-server then drops, from that node's copies alone,
// what is older by that clock, and says so nowhere.
func clockAge() Scenario {
	return Scenario{
		Name: "clock-age", Family: "clock", Seconds: 90, Nightly: true,
		Doc: "the clock of the node that leads streams with ages jumps an hour ahead, it is restarted with that clock, the clock is put right, and it leads again: " +
			"nothing is forgotten before its time, the copies agree; what becomes of message ids is reported",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapClock},
		Steps: func(p *Plan) []Step {
			settled := calm("after the clock was put right", agingWithin) // where the copies differ for good there is still something to be seen
			if p.Kind == membershipd {
				settled = converge("after the clock was put right")
			}
			w := &workload.Aging{Terms: agingTerms, Messages: agingSown, Timeout: opTimeout}
			a := aging{w}
			wrong := func(r *Run) faults.Selector { return faults.Named(r.picked["ahead"]...) }
			return []Step{
				startAll(), supervise(), converge("first start"), loadUp(streamLoad(), w), {"sow", a.sow}, a.lead("at first", func(*Run) faults.Selector { return faults.Leader(minutesCopies) }),
				a.look("before"), moreOps(steadyBefore, opsWithin),
				inject("ahead", faults.Jump(faults.CommonJump), faults.Leader(minutesCopies)), mark("ahead"), hold("an hour ahead", agingHold), a.look("ahead"),
				{injectPrefix + "restart on the same", func(ctx context.Context, r *Run) error { return r.inject(ctx, "restart", faults.Restart, wrong(r)) }},
				heal("restart"), hold("started with a wrong clock", agingHold), a.look("restarted"), mark("ahead-end"),
				heal("ahead"), settled, a.lead("again", wrong), a.look("after"), moreOps(opsBetween, opsWithin), stopLoad(),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			all := float64(agingSown)
			ids := func(id, text, name string) reports.Claim {
				return claim(id, text, check.Measured{Names: []string{agingPrefix + name}, Bounds: []check.Bound{check.AtLeast("ids_known", 0), check.AtLeast("ids_anew", 0)}})
			}
			cs := []reports.Claim{
				claim("days-intact", "Nothing acked is lost whose age may be longer than the jump.", check.StreamAccounting{Target: daysStream, MinAcked: agingSown}),
				agesKept(4),
				claim("ids-known", "While the clocks are right, every message id of the last two minutes is known.",
					check.Measured{Names: []string{agingPrefix + "before"}, Bounds: []check.Bound{check.Exactly("ids_known", all), check.Exactly("ids_anew", 0)}}),
				ids("ids-ahead", "With the leader an hour ahead: how many ids are known, and how many messages are stored anew, is reported.", "ahead"),
				ids("ids-after", "With the clock put right, and the same leader: the same is reported.", "after"),
				servesAged("ahead"),
				streamIntact(200), convergedEach(r), copiesAgree(ordersCopies, "BUS/"+daysStream, minutesCopies, "BUS/"+windowStream), faultsInForce(2),
				exercised(check.Preconditions{MinOps: 300, MinBefore: 100, MinDuring: 50, MinAfter: 20, Drained: []string{ordersStream, daysStream}}),
			}
			return cs
		},
	}
}

// clockRunning lets the clock of the node that leads streams with ages jump an hour ahead while it runs. nats-server looks at its clock whenever something is
// about to be forgotten, and then forgets, in that node's copies alone, what is older by that clock.
func clockRunning() Scenario {
	return Scenario{
		Name: clockRunningName, Family: "clock", Seconds: 90, Nightly: true,
		Doc: "the clock of the node that leads streams with ages jumps an hour ahead while it runs, is put right, and the node leads again: nothing is forgotten " +
			"before its time once the node had time to notice, the copies agree",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapClock},
		Steps: func(p *Plan) []Step {
			settled := calm("after the clock was put right", agingWithin)
			if p.Kind == membershipd {
				settled = converge("after the clock was put right")
			}
			w := &workload.Aging{Terms: runningTerms, Messages: agingSown, Timeout: opTimeout}
			a := aging{w}
			return []Step{
				startAll(), supervise(), converge("first start"), loadUp(streamLoad(), w), {"sow", a.sow},
				a.lead("at first", func(*Run) faults.Selector { return faults.Leader(minutesCopies) }), a.look("before"), moreOps(steadyBefore, opsWithin),
				inject(goneWrong, faults.Jump(faults.CommonJump), faults.Leader(minutesCopies)), mark(goneWrong), hold("an hour ahead", runningHold), a.look("ahead"),
				mark(goneWrong + "-end"), heal(goneWrong), settled, a.lead("again", func(r *Run) faults.Selector { return faults.Named(r.picked[goneWrong]...) }),
				a.look("after"), moreOps(opsBetween, opsWithin), stopLoad(),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			return []reports.Claim{
				agesKept(3),
				servesAged(goneWrong),
				streamIntact(200), convergedEach(r), copiesAgree(ordersCopies, "BUS/"+daysStream, minutesCopies), faultsInForce(1),
				exercised(check.Preconditions{MinOps: 300, MinBefore: 100, MinDuring: 50, MinAfter: 20, Drained: []string{ordersStream}}),
			}
		},
	}
}

// agesKept claims that every look saw everything.
func agesKept(looks int) reports.Claim {
	return claim("kept", "At every look all messages are there, those that are kept for a day and those that are kept for ten minutes: no clock that is right has reached their age.",
		check.Measured{Names: []string{agingPrefix}, Min: looks, Bounds: []check.Bound{check.Exactly("days_left", agingSown), check.Exactly("minutes_left", agingSown)}})
}

// servesAged claims that writes go on while a clock is wrong.
func servesAged(fault string) reports.Claim {
	return claim("serves", fmt.Sprintf("Writes go on: the longest stretch without an acked publish to the orders is reported, and stays under %d s.", agingGap),
		check.Availability{Window: window(fault, fault+"-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: agingGap, MinOK: 50})
}

// agedTooSoon is the same on releases of nats-server.
func agedTooSoon() Bug {
	s := clockRunning()
	s.Name, s.Family = trackPrefix+"clock-age", trackFamily
	return Bug{
		ID: "clock-age", Title: "a node whose clock is ahead drops messages before their time, from its own copies only", Source: "found with this harness",
		Bad: []string{"v2.15.2"}, Clean: []string{membershipdVersion},
		Signs:    []Sign{{"kept", []string{check.CodeOutOfBounds}}, {"copies-agree", []string{check.CodeReplicasDiffer}}},
		Scenario: s,
	}
}

type aging struct{ w *workload.Aging }

func (a aging) sow(ctx context.Context, _ *Run) error { return giveUp(a.w.Sow(ctx)) }

// lead makes one node the leader of all three streams.
func (a aging) lead(name string, pick func(*Run) faults.Selector) Step {
	return Step{fmt.Sprintf("one node leads them all: %s", name), func(ctx context.Context, r *Run) error {
		ids, err := r.victims(ctx, pick(r))
		if err != nil {
			return err
		}
		for _, t := range a.w.Terms {
			if err := r.Env.LeadFrom(ctx, t.Target, ids[0], convergeTimeout); err != nil {
				return giveUp(err)
			}
		}
		return nil
	}}
}

// look measures what is left, and what is known.
func (a aging) look(name string) Step {
	return Step{"what is left: " + name, func(ctx context.Context, r *Run) error {
		data := map[string]any{}
		for figure, target := range map[string]string{"days_left": daysStream, "minutes_left": minutesStream} {
			n, err := a.w.Left(ctx, target, convergeTimeout)
			if err != nil {
				return giveUp(err)
			}
			data[figure] = float64(n)
		}
		if slices.ContainsFunc(a.w.Terms, func(t workload.Term) bool { return t.Target == windowStream }) {
			known, anew := a.w.Repeat(ctx, windowStream)
			data["ids_known"], data["ids_anew"] = float64(known), float64(anew)
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: agingPrefix + name, Data: data})
		return ctx.Err()
	}}
}
