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
				startApart(), converge("first start"), settleRoutes(), loadUp(streamLoad()), moreOps(50, opsWithin), hold("past one sync interval", pastInterval),
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
				startApart(), converge("first start"), settleRoutes(), loadUp(streamLoad()), moreOps(50, opsWithin), hold("past one sync interval", pastInterval),
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
