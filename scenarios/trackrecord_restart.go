package scenarios

import (
	"syscall"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios in which nodes only stop and start, or only lose a link.
const (
	customFirst = 1000             // the sequence that a stream begins with
	cutFor      = 12 * time.Second // a leader that is cut off notices it after 10 s by nats-server's own clock
	// behindWithin is for a replica to catch up under load. (An idle stream gives one that is behind no occasion to notice, in any release.)
	behindWithin = 45 * time.Second
)

// firstSequencePurged: a restarted node takes the first sequence that the stream was made with for an order to purge.
func firstSequencePurged() Bug {
	return Bug{
		ID: "6753", Title: "a stream with a first sequence of its own is empty after a polite restart", Source: "nats-io/nats-server#6753",
		Bad: []string{"v2.11.1"}, Clean: []string{"v2.11.2", "v2.15.2"},
		Signs: []Sign{{"stream-intact", []string{check.CodeAckedMissing}}, {"stream-known", []string{check.CodeStreamReset}}},
		Scenario: Scenario{
			Name: trackPrefix + "6753", Family: trackFamily, Only: cluster.NATSServer, Seconds: 30,
			Doc:   "an R3 stream that begins at sequence 1000, all nodes stopped politely and started again: every acked message must still be there",
			Needs: []cluster.Capability{cluster.CapLifecycle},
			Steps: func(*Plan) []Step {
				load := streamLoad()
				load.FirstSeq = customFirst
				return []Step{
					startApart(), converge("first start"), loadUp(load), moreOps(150, opsWithin), inspect(observedBefore, ordersStream), pauseLoad(),
					mark("restart"), stopAll(syscall.SIGTERM), startApart(), mark("restart-end"), awaitHealthy(healthyWithin), calm("all three again", calmWithin),
					inspect(observedAfter, ordersStream), drainResting(askWithin),
				}
			},
			Claims: func(*Run) []reports.Claim {
				return []reports.Claim{
					claim("stream-intact", "Nothing acked is lost, and the stream still begins where it was made to begin.",
						check.StreamAccounting{Target: ordersStream, MinAcked: 100, First: customFirst}),
					knownStream(ordersStream),
					exercised(check.Preconditions{MinOps: 100, Marks: []string{"restart", "restart-end"}, Drained: []string{ordersStream}}),
				}
			},
		},
	}
}

// leaderStaysBehind: a leader that was cut off with entries of its own drops them one by one, every two seconds, before it takes what the others have.
func leaderStaysBehind() Bug {
	return Bug{
		ID: "catch-up", Title: "a leader that was cut off while clients still reached it stays behind for minutes after the heal", Source: "found with this harness",
		Bad: []string{"v2.15.2"}, Clean: []string{membershipdVersion},
		Signs: []Sign{{"replicas-alike", []string{check.CodeReplicasDiffer}}},
		Scenario: Scenario{
			Name: trackPrefix + "catch-up", Family: trackFamily, Seconds: 80,
			Doc:   "the leader of a stream is cut off from both peers for 12 s while clients publish to every node: 45 s after the heal, with writes going on, the three copies must be alike",
			Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork},
			Steps: func(*Plan) []Step {
				return []Step{
					startApart(), converge("first start"), loadUp(streamLoad()), moreOps(100, opsWithin),
					inject("cut", faults.Isolate, faults.Leader(ordersCopies)), mark("cut"), hold("cut off", cutFor), mark("cut-end"), heal("cut"),
					calm("after the heal, under load", behindWithin), pauseLoad(), hold("the last writes", 2*time.Second), drainResting(askWithin),
				}
			},
			Claims: func(*Run) []reports.Claim {
				return []reports.Claim{
					claim("replicas-alike", "The three nodes' own files, read offline with every checksum, hold the same messages.",
						check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "blocks", Nodes: 3, AllowDeleted: true}),
					streamIntact(150), faultsInForce(1),
					exercised(check.Preconditions{MinOps: 200, Marks: []string{"cut", "cut-end"}, Drained: []string{ordersStream}}),
				}
			},
		},
	}
}

// acksForgotten: what a consumer without a Raft group knows is written to its file, and synced by nobody, however long ago it was.
func acksForgotten() Bug {
	always := acksScenario(trackPrefix+"8036-control", "")
	return Bug{
		ID: "8036", Title: "messages whose ack was confirmed longer ago than the sync interval are delivered again after a power failure", Source: "nats-io/nats-server#8036",
		Bad: []string{"v2.15.2"}, Finding: "sync_interval of " + syncInterval + " for the default of two minutes",
		Signs:   []Sign{{"acks-kept", []string{check.CodeRedelivered}}},
		Control: &always, ControlWord: "sync_interval: always",
		Scenario: acksScenario(trackPrefix+"8036", syncInterval),
	}
}

// ackers are the clients of one durable consumer that confirms its acks.
func ackers() *workload.PullConsumer {
	return &workload.PullConsumer{Target: ordersStream, Durable: "billing", Clients: planeEach, Replicas: 3, AckWait: pullAckWait, Timeout: opTimeout}
}

func acksScenario(name, sync string) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 70, Sync: sync,
		Doc:   "the power of all nodes fails one sync interval after an unreplicated pull consumer had its last ack confirmed: nothing may be delivered again",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},
		Steps: func(*Plan) []Step {
			stream, consumer := streamLoad(), ackers()
			stream.Replicas, consumer.Replicas = 1, 1
			return []Step{
				startApart(), converge("first start"), loadUp(stream, consumer), moreOps(400, opsWithin), pauseLoad(),
				hold("past one sync interval", pastInterval), mark("cut"), powerFail("cut", faults.All(), allLost), hold("without power", darkFor), heal("cut"), mark("cut-end"),
				awaitHealthy(healthyWithin), calm("after the power failure", calmWithin), resumeLoad(), moreOps(100, afterwards), hold("the last deliveries", 3*time.Second), stopLoad(),
			}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				claim("acks-kept", "Nothing is delivered again after its ack was confirmed.", check.Consumers{Target: ordersStream, Kinds: []string{"pull"}, MinDeliveries: 200}),
				streamIntact(100), faultsInForce(1),
				exercised(check.Preconditions{MinOps: 300, Marks: []string{"cut", "cut-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}
