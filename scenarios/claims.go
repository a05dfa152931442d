package scenarios

import (
	"fmt"
	"strings"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Targets of the standard workloads, as they stand in histories.
const (
	ordersStream = "ORDERS"
	ordersBucket = "kv-orders"
	jobsStream   = "JOBS"
	ledgerStream = "LEDGER"
	settings     = "control/settings"

	// As nodes name their own copies: ACCOUNT/STREAM.
	ordersCopies   = "BUS/ORDERS"
	bucketCopies   = "BUS/KV_kv-orders"
	settingsBucket = "UNIBUS_settings"
	settingsCopies = "CONTROL/KV_" + settingsBucket
)

// quorumWords is what a node must say when it refuses for want of a quorum.
var quorumWords = []string{"no quorum"}

// claim is a claim that must pass.
func claim(id, text string, c check.Checker) reports.Claim {
	return reports.Claim{ID: id, Text: text, Spec: check.Of(c), Expect: check.Pass}
}

// control is a claim that must fail for the reason that code names: it shows that the checker can see.
func control(id, text, code string, c check.Checker) reports.Claim {
	return reports.Claim{ID: id, Text: text, Spec: check.Of(c), Expect: check.Fail, ExpectCode: code}
}

func window(from, to string) check.Window { return check.Window{From: from, To: to} }

// faultsInForce claims that every fault was measured in force and gone again.
func faultsInForce(n int) reports.Claim {
	return claim("faults-in-force", "Every fault was absent before, measured in force while it was wanted, and gone after it was healed.", check.Faults{Min: n})
}

// convergedEach claims that each wait for convergence ended well.
func convergedEach(r *Run) reports.Claim {
	c := check.Converged{Min: r.waits(), Buckets: buckets}
	text := "Each time the cluster converged: all nodes ready, six buckets at R3 with a leader, every replica current, all copies alike."
	if r.Plan.Kind != cluster.Membershipd {
		c.Buckets = -1
		text = "Each time the cluster converged: all nodes ready, every replica current, all copies alike."
	}
	return claim("converged", text, c)
}

// streamIntact claims that the orders stream holds what was acked and nothing else.
func streamIntact(minAcked int) reports.Claim {
	return claim("stream-intact", "Nothing acked is lost, nothing appears that was not sent or twice, and each producer's order holds.",
		check.StreamAccounting{Target: ordersStream, MinAcked: minAcked})
}

// kvLinear claims that the data bucket is a linearizable register per key.
func kvLinear(minOps int) reports.Claim {
	return claim("kv-linearizable", "The key-value history is linearizable for each key (reads answered by the leader).",
		check.KVLinearizable{Target: ordersBucket, Keys: kvKeys, MinOps: minOps})
}

// kvWritesLinear claims the same of the writes alone, for scenarios in which a leader may be cut off without knowing it.
func kvWritesLinear(minOps int) reports.Claim {
	return claim("kv-writes-linearizable", "The writes to each key are linearizable and no compare-and-set won twice; stale reads of a leader that was cut off are counted.",
		check.KVLinearizable{Target: ordersBucket, Keys: kvKeys, MinOps: minOps, WritesOnly: true})
}

// kvDurable claims that the data bucket ends with its last acked values.
func kvDurable() reports.Claim {
	return claim("kv-durable", "Each key ends with its last acked value.", check.KVDurable{Target: ordersBucket, MinKeys: kvKeys})
}

// loadIntact is what is claimed of the rest of the standard load, in every scenario at whose end the cluster is well.
func loadIntact() []reports.Claim {
	kept := func(target string, keepsStart bool) reports.Claim {
		return claim("kept-"+strings.ToLower(target), fmt.Sprintf("%s is the stream that it was: neither deleted nor made anew, with the same configuration.", target),
			check.StreamMetadata{Target: target, Last: workload.DescribedLast, KeepsStart: keepsStart})
	}
	return []reports.Claim{
		claim("deduplicated", "What was acked and published again under the same id is stored once, and no publish is taken for a duplicate of what is not there.",
			check.Deduplication{Target: ordersStream, MinRepeats: 5}),
		claim("ordered-consumer", "The ordered consumers see every message once and in order.",
			check.Consumers{Target: ordersStream, Kinds: []string{"ordered"}, Clients: []string{"ordered-"}, MinClients: followers, MinDeliveries: 100, Complete: true}),
		claim("kv-watcher", "The watchers see every revision that is left, in order, and end with the last value of every key.",
			check.Consumers{Target: ordersBucket, Kinds: []string{"watch"}, Clients: []string{"watch-"}, MinClients: followers, MinDeliveries: 20, Complete: true}),
		claim("work-queue", "Every job was handed to a worker or is still there, and none came again after its ack had been confirmed.",
			check.WorkQueue{Target: jobsStream, MinAcked: 20, MinHandled: 20}),
		claim("appends-serialized", "Every message that expected the stream to end with a sequence stands behind that one, and no two acked ones expected the same.",
			check.Appends{Target: ledgerStream, MinAcked: 10}),
		kept(ordersStream, true), kept(bucketStream, false), kept(jobsStream, false), kept(ledgerStream, true),
	}
}

// settingsIntact claims the same of the control plane, where there is one.
func settingsIntact(r *Run) []reports.Claim {
	if r.Plan.Kind != cluster.Membershipd {
		return nil
	}
	return []reports.Claim{
		claim("control-linearizable", "The control plane's settings are linearizable for each name, through whichever node answers.",
			check.KVLinearizable{Target: settings, Keys: controlKeys, MinOps: 10}),
		claim("control-durable", "Each setting ends with its last acked value.", check.KVDurable{Target: settings, MinKeys: controlKeys}),
	}
}

// copiesAgree claims that the three nodes' own files hold the same.
func copiesAgree(targets ...string) reports.Claim {
	return claim("copies-agree", "The three nodes' own files, read offline with every checksum, hold the same messages.",
		check.ReplicaAgreement{Targets: targets, Source: "blocks", Nodes: 3, AllowDeleted: true})
}

// truthful claims that no node called itself ready while nobody could write anything of the standard load.
func truthful() reports.Claim {
	return claim("health-truth", "No node said that it was ready in a stretch in which no client could write anything, later than 5 s into it.",
		check.HealthTruth{Targets: []string{ordersStream, ordersBucket, settings}, GraceSeconds: healthGrace, MinSamples: 100})
}

// exercised claims that the run did enough to be judged.
func exercised(p check.Preconditions) reports.Claim {
	return claim("exercised", "The run did enough before, during and after the faults to be judged, and read everything back.", p)
}

// doneMark is written after the last step.
const doneMark = "steps-done"

// carriedThrough is a claim of every scenario: one that gave up half-way does not pass, even if what it did until then satisfies its other claims.
func carriedThrough() reports.Claim {
	return claim("carried-through", "Every step of the scenario was done; none gave up on the cluster.", check.Preconditions{MinOps: -1, Marks: []string{doneMark}})
}
