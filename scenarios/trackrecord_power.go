package scenarios

import (
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the power failures.
const (
	syncInterval = "8s"             // nats-server's default is two minutes: the same loss, sooner
	pastInterval = 10 * time.Second // writes go on past one interval, so that the stream itself is on disk
	lossWithin   = 45 * time.Second // for the nodes that are left to serve again
)

// powerLost: what was acked since the last sync is in no file when the power fails everywhere.
func powerLost() Bug {
	always := powerLostScenario(trackPrefix+"7564-control", "")
	return Bug{
		ID: "7564", Title: "acked messages since the last sync are lost when the power fails on all nodes", Source: "nats-io/nats-server#7564, Jepsen NATS 2.12.1",
		Bad: []string{"v2.15.2"}, Finding: "sync_interval of " + syncInterval + " for the default of two minutes",
		Signs:   []Sign{{"stream-intact", []string{check.CodeAckedMissing}}, {"stream-known", []string{check.CodeStreamGone, check.CodeStreamReset}}},
		Control: &always, ControlWord: "sync_interval: always",
		Scenario: powerLostScenario(trackPrefix+"7564", syncInterval),
	}
}

func powerLostScenario(name, sync string) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 70, Sync: sync,
		Doc:   "the power of all nodes fails under load, later than one sync interval after the first write: every acked message must still be there",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},
		Steps: func(*Plan) []Step {
			return []Step{
				startApart(), converge("first start"), loadUp(streamLoad()), moreOps(50, opsWithin), hold("past one sync interval", pastInterval),
				inspect(observedBefore, ordersStream), mark("cut"), powerFail("cut", faults.All(), allLost), pauseLoad(), heal("cut"), mark("cut-end"),
				awaitHealthy(healthyWithin), calm("after the power failure", calmWithin), inspect(observedAfter, ordersStream), drainResting(askWithin),
			}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				streamIntact(100), claim("stream-known", "The cluster still knows the stream.", check.StreamMetadata{Target: ordersStream, Last: observedAfter}), faultsInForce(1),
				exercised(check.Preconditions{MinOps: 150, Marks: []string{"cut", "cut-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}

// powerSplit: one power failure is enough when the only other node that has the acked messages is away for a moment.
func powerSplit() Bug {
	always := powerSplitScenario(trackPrefix+"7567-control", "")
	return Bug{
		ID: "7567", Title: "acked messages are lost when the power fails on one node while another is down", Source: "nats-io/nats-server#7567, Jepsen NATS 2.12.1",
		Bad: []string{"v2.15.2"}, Finding: "sync_interval of " + syncInterval + " for the default of two minutes",
		Signs:   []Sign{{"stream-intact", []string{check.CodeAckedMissing}}, {"replicas-alike", []string{check.CodeReplicasDiffer}}},
		Control: &always, ControlWord: "sync_interval: always",
		Scenario: powerSplitScenario(trackPrefix+"7567", syncInterval),
	}
}

func powerSplitScenario(name, sync string) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 90, Sync: sync,
		Doc:   "n1 is killed, n2 and n3 ack, the power of n3 fails, n2 is killed, n1 and n3 serve, n2 comes back: every acked message must still be there, three times",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},
		Steps: func(*Plan) []Step {
			return []Step{
				startApart(), converge("first start"), loadUp(streamLoad()), moreOps(50, opsWithin), hold("past one sync interval", pastInterval),
				mark("cut"), inject("first", faults.Kill, faults.Named("n1")), moreOps(100, lossWithin), powerFail("cut", faults.Named("n3"), allLost),
				inject("second", faults.Kill, faults.Named("n2")), heal("first"), heal("cut"), moreOps(50, lossWithin), heal("second"), mark("cut-end"),
				awaitHealthy(healthyWithin), pauseLoad(), calm("all three again", calmWithin), drainResting(askWithin),
			}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				streamIntact(150),
				claim("replicas-alike", "The three nodes' own files, read offline with every checksum, hold the same messages.",
					check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "blocks", Nodes: 3}),
				faultsInForce(3), exercised(check.Preconditions{MinOps: 200, Marks: []string{"cut", "cut-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}

// Settings of the sync that throws away.
const (
	eagerInterval = "10ms"           // nats-server's default is two minutes: the same looks at idle files, more often
	eagerRate     = 150              // a second and publisher
	idleFor       = 45 * time.Second // a block whose last message is older than 30 s has an idle file: what was written in the first 15 s counts
	catchUpWithin = 8 * time.Second  // where the copies stay different this is waited out twice
)

// syncDrops: a sync closes the files of idle blocks, and takes a block for idle whose last message is old. A node that catches up writes old messages.
func syncDrops() Bug {
	never := syncDropsScenario(trackPrefix+"7594-control", false)
	return Bug{
		ID: "7594", Title: "a node that was paused under load throws messages away while it catches up", Source: "nats-io/nats-server#7594, Jepsen NATS 2.12.1",
		Bad: []string{"v2.12.1"}, Clean: []string{"v2.12.3", "v2.15.2"}, Finding: "sync_interval of " + eagerInterval + " for the default of two minutes",
		Signs:   []Sign{{"stream-intact", []string{check.CodeAckedMissing}}, {"copies-agree", []string{check.CodeReplicasDiffer, check.CodeReplicaDamaged}}},
		Control: &never, ControlWord: "the same without the pause",
		Scenario: syncDropsScenario(trackPrefix+"7594", true),
	}
}

func syncDropsScenario(name string, paused bool) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 100, Sync: eagerInterval,
		Doc:   "a follower is paused for 45 s under load, catches up, is killed and started again, and leads: every acked message must still be there",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			load := streamLoad()
			load.Rate = eagerRate
			steps := []Step{startApart(), converge("first start"), loadUp(load), moreOps(50, opsWithin), mark("away")}
			down := inject("down", faults.Kill, faults.Follower(ordersCopies))
			if paused {
				steps = append(steps, inject("away", faults.Pause, faults.Follower(ordersCopies)), hold("a node stands still", idleFor), heal("away"))
				down = onVictims("down", "away", faults.Kill)
			}
			steps = append(steps, mark("away-end"), moreOps(300, opsWithin), calm("after the pause", catchUpWithin), pauseLoad(), hold("the last writes", 3*time.Second), inspect(observedBefore, ordersStream),
				down, heal("down"), awaitHealthy(healthyWithin), calm("all three again", catchUpWithin),
				tryLeadFromVictim("down", leadWithin), calm("led by the victim", calmWithin), inspect(observedAfter, ordersStream))
			return append(steps, readBackFromVictim("down")...)
		},
		Claims: func(*Run) []reports.Claim {
			faulty := 1
			if paused {
				faulty = 2
			}
			return []reports.Claim{
				streamIntact(100), knownStream(ordersStream), victimLed(),
				claim("copies-agree", "The three nodes' own files, read offline with every checksum, hold the same messages.",
					check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "blocks", Nodes: 3}),
				faultsInForce(faulty),
				exercised(check.Preconditions{MinOps: 150, Marks: []string{"away", "away-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}
