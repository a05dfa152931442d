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
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Settings of the scenarios that damage files.
const (
	blockPayload   = 512    // bytes
	blockRate      = 1000   // a second and publisher: as fast as the cluster takes them
	twoBlocks      = 30_000 // messages: more than two blocks of 8 MiB
	largePayload   = 2048   // bytes, with which blocks are full sooner
	twoLargeBlocks = 9_000
	fillWithin     = 75 * time.Second
	readBackWithin = 150 * time.Second // of many messages, one by one from the leader: 45 s do not suffice on two cores that run four clusters
	askWithin      = 15 * time.Second  // a cluster that does not serve is not asked for longer
	flipAt         = 1.0 / 3           // of the block
	leadWithin     = 40 * time.Second  // for a leadership to go where it is sent: where it does not at once there is an election first, of up to 10 s
	snapshotMid    = 0.5
	headStart      = 3500 * time.Millisecond // the node with the damaged snapshot is the first to stand for election: it waits 4 to 9 s
	orphansAfter   = 16 * time.Second        // nats-server looks for orphaned streams some ten seconds after it has found a meta leader
)

// blockLoad fills blocks.
func blockLoad() *workload.Streams {
	w := streamLoad()
	w.PayloadBytes, w.Rate, w.Timeout = blockPayload, blockRate, 5*time.Second
	return w
}

// largeLoad fills blocks with fewer messages.
func largeLoad() *workload.Streams {
	w := blockLoad()
	w.PayloadBytes = largePayload
	return w
}

// drainResting reads the paused workloads back and ends them: nothing is written any more.
func drainResting(within time.Duration) Step {
	return Step{"read everything back", func(ctx context.Context, r *Run) error {
		for _, l := range r.resting {
			dctx, cancel := context.WithTimeout(ctx, within)
			err := l.w.Drain(dctx, r.Env)
			cancel()
			l.w.Close()
			if err != nil { // the record then holds no complete drain, and the claims that need one say so
				r.Rec.Event(history.Event{Kind: "note", Name: "drain of " + l.w.Name(), Detail: err.Error()})
			}
		}
		r.resting = nil
		return nil
	}}
}

// onVictims injects a fault on the nodes that an earlier fault picked.
func onVictims(name, of string, verb faults.Verb) Step {
	return Step{fmt.Sprintf("inject %s on the victims of %s", name, of), func(ctx context.Context, r *Run) error {
		return r.inject(ctx, name, verb, faults.Named(r.picked[of]...))
	}}
}

// leadPrefix begins the names of steps that make the victim of a fault the leader of the orders, and tryLeadPrefix of those that go on where it does not become it.
const (
	leadPrefix    = "make the leader: the victim of "
	tryLeadPrefix = "try to " + leadPrefix
)

// leadFromVictim makes the victim of a fault the leader of the orders. One that does not become it ends the steps: what comes next is about what it serves.
func leadFromVictim(of string, within time.Duration) Step {
	return Step{leadPrefix + of, func(ctx context.Context, r *Run) error {
		return giveUp(r.Env.LeadFrom(ctx, ordersStream, r.picked[of][0], within))
	}}
}

// tryLeadFromVictim is for nodes that may be too damaged to lead. That is an answer too: it is recorded, and the steps go on, as what the nodes hold may differ none the
// less. The claim of victimLed says whether the rest shows anything.
func tryLeadFromVictim(of string, within time.Duration) Step {
	return Step{tryLeadPrefix + of, func(ctx context.Context, r *Run) error {
		err := r.Env.LeadFrom(ctx, ordersStream, r.picked[of][0], within)
		if err != nil && ctx.Err() == nil {
			r.Rec.Event(history.Event{Kind: "note", Name: "the victim does not lead", Detail: err.Error()})
			return nil
		}
		return err
	}}
}

// Looks at who leads, around what is read back.
const (
	ledPrefix = "victim-led-"
	ledBefore = ledPrefix + "before"
	ledAfter  = ledPrefix + "after"
)

// lookWhoLeads measures whether the victim of a fault leads the orders, by the nodes' own word.
func lookWhoLeads(name, of string) Step {
	return Step{"look who leads: " + name, func(ctx context.Context, r *Run) error {
		victim, leader := r.picked[of][0], cluster.NodeID("")
		err := r.until(ctx, askWithin, "leader of "+ordersCopies, func(ctx context.Context) (found bool) {
			id, err := observe.Leader(ctx, r.Cluster, ordersCopies)
			leader = id
			return err == nil
		})
		if err != nil && !errors.Is(err, errGiveUp) {
			return err
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{string(victim)}, Data: map[string]any{"victim_leads": flag(leader == victim), "leader": string(leader)}})
		return nil
	}}
}

// readBackFromVictim reads the paused workloads back, and looks before and after it who leads: what a leader gives back is what that node holds, and no other.
func readBackFromVictim(of string) []Step {
	return []Step{lookWhoLeads(ledBefore, of), drainResting(readBackWithin), lookWhoLeads(ledAfter, of)}
}

// victimLed claims that everything was read back from the victim. Where another node led the run is neither good nor bad, but Inconclusive: it does not show what it is about.
func victimLed() reports.Claim {
	return claim("victim-led", "The node that was down led the stream when everything was read back, before and after.",
		check.Measured{Names: []string{ledPrefix}, Min: 2, Needs: []check.Bound{check.Exactly("victim_leads", 1)}, Bounds: []check.Bound{check.AtLeast("victim_leads", 0)}})
}

// damagedBlock: a server that finds a bad checksum in a block forgets the rest of the block without a word, and may lead with what is left. Where it does not lead, the
// copies may still be seen to differ; where they are not, the run is not reproduced, and never clean.
func damagedBlock(id, title string, d faults.Damage) Bug {
	undamaged := blockScenario(trackPrefix+id+"-control", nil)
	return Bug{
		ID: id, Title: title, Source: "nats-io/nats-server#7549, Jepsen NATS 2.12.1",
		Bad:     []string{"v2.12.1", "v2.15.2"},
		Signs:   []Sign{{"stream-intact", []string{check.CodeAckedMissing}}, {"copies-agree", []string{check.CodeReplicasDiffer, check.CodeReplicaDamaged}}},
		Control: &undamaged, ControlWord: "the same without the damage",
		Scenario: blockScenario(trackPrefix+id, &d),
	}
}

func blockScenario(name string, d *faults.Damage) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 70,
		Doc:   "a replica's first block is damaged while it is down; it comes back and leads: every acked message must still be there",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(*Plan) []Step {
			steps := []Step{
				startAll(), converge("first start"), settleRoutes(), loadUp(largeLoad()), moreOps(twoLargeBlocks, fillWithin), pauseLoad(), converge("before the damage"),
				inspect(observedBefore, ordersStream), mark("damage"), inject("down", faults.Kill, faults.Follower(ordersCopies)),
			}
			if d != nil {
				steps = append(steps, onVictims("damaged", "down", faults.Disk(*d, faults.StreamBlock("BUS", ordersStream, 1))), heal("damaged"))
			}
			steps = append(steps, heal("down"), mark("damage-end"), awaitHealthy(healthyWithin), calm("after the damage", calmWithin), tryLeadFromVictim("down", leadWithin),
				calm("led by the victim", calmWithin), inspect(observedAfter, ordersStream))
			return append(steps, readBackFromVictim("down")...)
		},
		Claims: func(*Run) []reports.Claim {
			n := 2
			if d == nil {
				n = 1
			}
			return []reports.Claim{
				streamIntact(twoLargeBlocks), knownStream(ordersStream), victimLed(),
				claim("copies-agree", "The three nodes say themselves that they hold the same messages.", check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "jsz", Nodes: 3}),
				faultsInForce(n),
				exercised(check.Preconditions{MinOps: twoLargeBlocks, Marks: []string{"damage", "damage-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}

// laterLoad publishes to a second stream.
func laterLoad() *workload.Streams {
	return &workload.Streams{Label: "later", Target: "LATER", Subjects: []string{"later.>"}, Replicas: 3, Publishers: 3, Rate: publishRate, PayloadBytes: payload, Timeout: opTimeout}
}

// damagedMeta: a server that cannot read its snapshot of the meta group starts without it, takes the streams that it has for orphans, and deletes them.
func damagedMeta() Bug {
	undamaged := metaScenario(trackPrefix+"7556-control", false)
	return Bug{
		ID: "7556", Title: "streams are deleted as orphans after one flipped bit in a snapshot of the meta group", Source: "nats-io/nats-server#7556, Jepsen NATS 2.12.1",
		Bad: []string{"v2.12.1"}, Clean: []string{"v2.14.9", "v2.15.2"}, AnySeed: 3,
		Signs: []Sign{
			{"stream-known", []string{check.CodeStreamGone, check.CodeStreamReset}},
			{"files-kept", []string{check.CodeReplicaMissing, check.CodeReplicasDiffer}},
		},
		Control: &undamaged, ControlWord: "the same without the damage",
		Safe: func(p reports.Proof) (string, bool) {
			known, files := claimOf(p, "stream-known"), claimOf(p, "files-kept")
			serve := claimOf(p, "all-serve")
			if known == nil || files == nil || serve == nil || files.Result.Verdict != check.Pass || serve.Result.Verdict == check.Pass {
				return "", false
			}
			if known.Result.Verdict != check.Pass && known.Result.Code != check.CodeUnanswered {
				return "", false
			}
			return "nothing is lost, all three copies are whole on disk, and a node does not serve: " + serve.Result.Reason, true
		},
		Scenario: metaScenario(trackPrefix+"7556", true),
	}
}

func metaScenario(name string, damaged bool) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 70,
		Doc:   "all nodes stopped, one bit flipped in the newest meta snapshot of one of them, which is started first: no stream and no replica may be deleted",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(p *Plan) []Step {
			ids := others()
			p.Rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			steps := []Step{
				startAll(), converge("first start"), settleRoutes(), loadUp(streamLoad()), moreOps(150, opsWithin), pauseLoad(),
				stopAll(syscall.SIGTERM), // a clean stop writes the snapshot that holds the stream
				startAll(), converge("second start"), settleRoutes(),
				loadUp(laterLoad()), moreOps(50, opsWithin), pauseLoad(), converge("before the damage"), // what comes after the snapshot is in the log
				inspect(observedBefore, ordersStream), mark("damage"), stopAll(syscall.SIGKILL),
			}
			if damaged {
				steps = append(steps, inject("damaged", faults.Disk(faults.BitFlip(snapshotMid), faults.MetaSnapshot()), faults.Named(ids[0])), heal("damaged"))
			}
			return append(steps, start(0, ids[0]), hold("the damaged node alone", headStart), start(0, ids[1:]...), mark("damage-end"), awaitHealthy(healthyWithin),
				hold("orphans are cleaned up", orphansAfter), inspect(observedAfter, ordersStream), drainResting(askWithin))
		},
		Claims: func(*Run) []reports.Claim {
			cs := []reports.Claim{
				knownStream(ordersStream),
				claim("files-kept", "The three nodes' own files, read offline with every checksum, hold the same messages.",
					check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "blocks", Nodes: 3}),
				claim("all-serve", "Every node calls itself healthy at the end.",
					check.HealthCheck{Probe: "ready", Nodes: []string{"n1", "n2", "n3"}, Window: check.Window{From: "damage-end"}, Want: check.WantEnds200}),
				streamIntact(100),
				exercised(check.Preconditions{MinOps: 200, Marks: []string{"damage", "damage-end"}}),
			}
			if damaged {
				cs = append(cs, faultsInForce(1))
			}
			return cs
		},
	}
}
