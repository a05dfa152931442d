package scenarios

import (
	"context"
	"syscall"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of bugs that need no more than an edit or one wrong expectation.
const (
	absentKeys = 5
	editTimes  = 3
)

// casOnAbsent: without replication, the check of an expected revision takes a key that does not exist for one that was deleted just now.
func casOnAbsent() Bug {
	return Bug{
		ID: "5840", Title: "an unreplicated bucket acks a compare-and-set of a key that does not exist", Source: "nats-io/nats-server#5840",
		Bad: []string{"v2.10.19"}, Clean: []string{"v2.10.20"},
		Signs: []Sign{{"kv-linearizable", []string{check.CodeNotLinear}}},
		Scenario: Scenario{
			Name: "track-5840", Family: trackFamily, Only: cluster.NATSServer, Seconds: 25,
			Doc:   "keys of an R1 bucket that were never written are updated, each expecting a revision of another key: every one must be refused",
			Needs: []cluster.Capability{cluster.CapLifecycle},
			Steps: func(*Plan) []Step {
				return []Step{
					startApart(), converge("first start"),
					{"make the bucket", func(ctx context.Context, r *Run) error { return r.Env.MakeBucket(ctx, ordersBucket, 1, true) }},
					loadUp(kvLoad()), moreOps(150, opsWithin),
					{"update keys that do not exist", func(ctx context.Context, r *Run) error { return r.Env.UpdateAbsent(ctx, ordersBucket, absentKeys) }},
					stopLoad(),
				}
			},
			Claims: func(*Run) []reports.Claim {
				return []reports.Claim{kvLinear(50), exercised(check.Preconditions{MinOps: 100 + absentKeys, Drained: []string{ordersBucket}})}
			},
		},
	}
}

// streamEdited: replaying the meta group's log, a server forgets that a stream was added once it reads that the stream was changed.
func streamEdited() Bug {
	unedited := editScenario(trackPrefix+"edited-control", false)
	return Bug{
		ID: "edited", Title: "a new R3 stream that was edited is deleted when all nodes are killed and started again", Source: "nats-server, release notes of 2.12.3: stream missing after add and update",
		Bad: []string{"v2.12.1"}, Clean: []string{"v2.12.3"}, AnySeed: 3,
		Signs:   []Sign{{"stream-known", []string{check.CodeStreamGone, check.CodeStreamReset}}, {"files-kept", []string{check.CodeReplicaMissing}}},
		Control: &unedited, ControlWord: "the same without the edit",
		Scenario: editScenario(trackPrefix+"edited", true),
	}
}

func editScenario(name string, edited bool) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 50,
		Doc:   "a new R3 stream's description is changed, then all nodes are killed at once and started again: the stream must still be known",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			steps := []Step{startApart(), converge("first start"), loadUp(streamLoad()), moreOps(100, opsWithin)}
			if edited {
				steps = append(steps, Step{"edit the stream", func(ctx context.Context, r *Run) error { return r.Env.Describe(ctx, ordersStream, editTimes) }})
			}
			return append(steps, inspect(observedBefore, ordersStream), mark("kills"), pauseLoad(), stopAll(syscall.SIGKILL), startAll(), mark("kills-end"), awaitHealthy(healthyWithin),
				hold("orphans are cleaned up", orphansAfter), inspect(observedAfter, ordersStream), drainResting(askWithin))
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				knownStream(ordersStream),
				claim("files-kept", "The three nodes' own files, read offline with every checksum, hold the same messages.",
					check.ReplicaAgreement{Targets: []string{ordersCopies}, Source: "blocks", Nodes: 3}),
				streamIntact(50), exercised(check.Preconditions{MinOps: 80, Marks: []string{"kills", "kills-end"}, Drained: []string{ordersStream}}),
			}
		},
	}
}
