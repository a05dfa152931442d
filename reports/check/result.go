package check

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Codes of results. They are stable words: scenarios, policies and negative controls compare them.
const (
	// The evidence does not allow a judgement (Inconclusive).
	CodeBadRecord     = "bad-record"    // the record contradicts itself
	CodeBadClock      = "bad-clock"     // an operation completes before it is invoked
	CodeBadParams     = "bad-params"    // the checker's own parameters make no sense
	CodeNoMark        = "no-mark"       // a mark that the check needs is not in the record
	CodeNoOps         = "no-ops"        // nothing to judge
	CodeTooFewOps     = "too-few-ops"   //
	CodeTooFewAcked   = "too-few-acked" //
	CodeTooFewKeys    = "too-few-keys"  //
	CodeTooFewTries   = "too-few-attempts"
	CodeTooFewSamples = "too-few-samples"
	CodeTooFewBefore  = "too-few-before"
	CodeTooFewDuring  = "too-few-during"
	CodeTooFewAfter   = "too-few-after"
	CodeTooFewClients = "too-few-clients"
	CodeTooFewEvents  = "too-few-events"
	CodeTooFewNodes   = "too-few-nodes"
	CodeTooFewArrived = "too-few-deliveries"
	CodeNoDrain       = "no-drain"
	CodeDrainPartial  = "drain-incomplete"
	CodeOpsAfterDrain = "ops-after-drain"
	CodeNoReplicas    = "no-replicas"
	CodeUnreadable    = "unreadable"
	CodeSearchTimeout = "search-timeout"
	CodeNoFaults      = "no-faults"
	CodeNotProbed     = "not-probed"
	CodeNotNoop       = "not-a-noop"
	CodeUnsettled     = "unsettled"     // too much of what was tried had no certain answer
	CodeIdle          = "workload-idle" // no client tried while the cluster is said to have been away

	// A promise is broken (Fail).
	CodeAckedMissing   = "acked-missing"
	CodeNeverSent      = "never-sent"
	CodeFailedPresent  = "failed-present"
	CodeDuplicated     = "duplicated"
	CodeWrongSequence  = "wrong-sequence"
	CodeReordered      = "reordered"
	CodeSequenceGap    = "sequence-gap"
	CodeReplicasDiffer = "replicas-differ"
	CodeReplicaMissing = "replica-missing"
	CodeReplicaDamaged = "replica-damaged"
	CodeNotLinear      = "not-linearizable"
	CodeCASViolation   = "cas-violation"
	CodeRevReused      = "revision-reused"
	CodeRevOrder       = "revision-order"
	CodeWrongValue     = "wrong-value"
	CodeAckedNoQuorum  = "acked-without-quorum"
	CodeSilent         = "silent"
	CodeUnavailable    = "unavailable"
	CodeGapTooLong     = "gap-too-long"
	CodeLate           = "late"
	CodeReadyNoQuorum  = "ready-without-quorum"
	CodeRefused        = "refused"
	CodeNeverReady     = "never-ready"
	CodeNoReason       = "no-reason"
	CodeReadyUnwritten = "ready-while-unwritable"
	CodeNotConverged   = "not-converged"
	CodeUnderRepl      = "under-replicated"
	CodeContentsDiffer = "contents-differ"
	CodeTooSlow        = "too-slow"
	CodeNotInForce     = "not-in-force"
	CodeNotHealed      = "not-healed"
	CodeBystanderHit   = "bystander-hit"
	CodeWasThere       = "was-there-before"
	CodeSkipped        = "skipped"
	CodeRedelivered    = "redelivered-after-ack"
	CodeOutOfOrder     = "out-of-order"
	CodeDelivDiffers   = "delivered-differs"
	CodeStranded       = "stranded"
	CodeForbidden      = "forbidden-allowed" // access that the rules forbid
	CodeWronglyRefused = "allowed-refused"   // access that the rules give
	CodeNeverInForce   = "never-in-effect"
	CodeHalfWritten    = "half-written"
	CodeTwoOwners      = "two-owners"
	CodeNotIdempotent  = "not-idempotent"
	CodeOutOfBounds    = "out-of-bounds"
	CodeNotSame        = "not-the-same"
	CodeStillSame      = "still-the-same"
	CodeOpsFailed      = "operations-failed"
	CodeDisconnected   = "disconnected"
	CodeExpectation    = "expectation-ignored"
	CodeStartLost      = "start-lost"
)

// The promises that checkers hold the cluster to, and who makes them.
const (
	promiseAck      = "NATS (JetStream documentation, streams): a publish is acknowledged only after the stream has stored it, for a replicated stream on a quorum of its replicas; an acknowledged message survives the loss of a minority."
	promiseLog      = "NATS (JetStream documentation, streams): a stream is one log; a message keeps the sequence that its acknowledgement named, and nothing leaves a stream without limits, purges or deletes."
	promiseOutcome  = "This harness (package history): a client records Failed only where the answer says that the operation certainly was not done."
	promiseDedup    = "NATS (JetStream documentation, message deduplication): within the deduplication window a message id is stored once."
	promiseExpect   = "NATS (JetStream documentation, publishing): a message with Nats-Expected-Last-Sequence or Nats-Expected-Last-Msg-Id is stored only if the stream ends with that sequence or that message."
	promiseQueue    = "NATS (JetStream documentation, work queues): a message stays in the stream until a consumer has acknowledged it, is delivered until then, and never again once its acknowledgement was confirmed."
	promiseReplicas = "NATS (JetStream documentation, clustering): the replicas of a stream are copies of one Raft log, and hold the same messages once they are current."
	promiseKV       = "NATS (key/value documentation): within a bucket, operations answered by the leader are immediately consistent, and revisions grow with every change."
	promiseCAS      = "NATS (key/value documentation): Update succeeds only if the key's latest revision is the expected one, Create only if the key does not exist."
	promiseQuorum   = "NATS (JetStream documentation, clustering): without a quorum of its replicas a stream does not accept writes."
	promiseErrors   = "unibus (daemon documentation): without quorum clients get a clear error within seconds."
	promiseAvail    = "unibus (the scenario's claim): a cluster with a quorum serves unaffected clients within the stated time."
	promiseHealth   = "unibus (daemon documentation, health): 200 on /healthz means that this node can serve; a node without a quorum never says so, and says why."
	promiseLive     = "unibus (daemon documentation, health): the endpoint answers 200 whenever what it stands for holds."
	promiseConverge = "unibus (daemon documentation, cold start): every start order converges: all nodes ready, all buckets replicated with a leader and all replicas current, contents identical."
	promiseFault    = "This harness: every fault is measured absent, in force and gone again, and leaves bystanders alone."
	promiseConsumer = "NATS (JetStream documentation, consumers): a consumer delivers every matching message at least once, in order for ordered consumers and watchers, and never again once its acknowledgement was confirmed."
	promiseCore     = "NATS (core documentation, delivery): at most once; unibus (daemon documentation, TLS, secrets, hardening): a node that is stopped with SIGTERM lets its clients move first, so that nobody who stays connected misses what a server has taken."
	promiseKept     = "unibus (daemon documentation, TLS): certificates are reloaded without dropping healthy connections."
	promiseMeasured = "unibus (the scenario's claim): what a step measures is within the bounds that the claim states."
	promiseAccess   = "unibus (daemon documentation, users and access): every user has exactly the permissions of its role and rooms, denied by default; a change is in force on a node once that node confirmed it, also after it was restarted."
	promiseEffect   = "unibus (daemon documentation, users and access): a change is in effect on every node that confirmed it, within the stated time."
	promiseUsers    = "unibus (daemon documentation, user add): idempotent, never half-written, never lost once confirmed; the same name with another key is refused."
	promiseClients  = "unibus (the scenario's claim): every client is served again by another node without a restart of the client."
)

// violation is one way in which a promise was broken, with how often.
type violation struct {
	code    string
	count   int
	reason  string
	promise string
	seen    witnesses
}

// witnesses keeps the first MaxWitnesses.
type witnesses []Witness

// add formats only what it keeps, because a badly broken history has as many witnesses as operations.
func (w *witnesses) add(at int64, ops []int64, format string, args ...any) {
	if len(*w) < MaxWitnesses {
		*w = append(*w, Witness{Text: fmt.Sprintf(format, args...), At: at, Ops: ops})
	}
}

// found turns violations into a Result. The code is that of the first one that occurred, so callers list them by weight; the
// reason tells all of them. ok is false if none occurred.
func found(figures []Figure, all ...violation) (Result, bool) {
	all = slices.DeleteFunc(all, func(v violation) bool { return v.count == 0 })
	if len(all) == 0 {
		return Result{}, false
	}
	r := Result{Verdict: Fail, Code: all[0].code, Promise: all[0].promise, Figures: figures}
	var reasons []string
	for _, v := range all {
		reasons = append(reasons, v.reason)
	}
	r.Reason = strings.Join(reasons, " ")
	// Each violation shows something before any shows more.
	for i := 0; i < MaxWitnesses && len(r.Witnesses) < MaxWitnesses; i++ {
		for _, v := range all {
			if i < len(v.seen) && len(r.Witnesses) < MaxWitnesses {
				r.Witnesses = append(r.Witnesses, v.seen[i])
			}
		}
	}
	return r, true
}

func inconclusive(figures []Figure, code, format string, args ...any) Result {
	return Result{Verdict: Inconclusive, Code: code, Reason: fmt.Sprintf(format, args...), Figures: figures}
}

func passed(figures []Figure, format string, args ...any) Result {
	return Result{Verdict: Pass, Reason: fmt.Sprintf(format, args...), Figures: figures}
}

func count(name string, n int) Figure      { return Figure{Name: name, Value: float64(n)} }
func secs(name string, ns int64) Figure    { return Figure{Name: name, Value: seconds(ns), Unit: "s"} }
func inSecs(name string, s float64) Figure { return Figure{Name: name, Value: round(s), Unit: "s"} }

// seconds is ns in seconds, to the microsecond.
func seconds(ns int64) float64 { return round(float64(ns) / 1e9) }

func round(s float64) float64 { return math.Round(s*1e6) / 1e6 }

// nanos is s in nanoseconds.
func nanos(s float64) int64 { return int64(math.Round(s * 1e9)) }

// orDefault is v, or d where v is not set.
func orDefault[T int | float64](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

// quantile of sorted values by nearest rank; 0 for none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// median of sorted values; 0 for none.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
