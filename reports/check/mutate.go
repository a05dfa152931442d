package check

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Mutation damages a copy of a history that a checker passed, in a way that this checker must catch. Mutations are negative controls:
// a checker that does not notice them on this very run has not been shown to notice anything.
type Mutation struct {
	Name    string
	Checker string  // the name of the checker that must catch it
	Verdict Verdict // what it must say: Fail, or Inconclusive where the damage is to the record's own sense
	Code    string  // and why
	// Apply returns a damaged copy and a note of what was changed, or ok=false with the reason why it does not apply. It changes nothing that h refers to.
	Apply func(h *history.History, params json.RawMessage, rng *rand.Rand) (mutated *history.History, note string, ok bool)
}

// MutationResult is one mutation run against one claim's checker.
type MutationResult struct {
	Spec     int     // index into the specs given to RunMutations
	Mutation string  // its name
	Want     string  // the code that it must be caught with
	Verdict  Verdict // the verdict that it must be caught with
	Applied  bool    // false: it could not be made on this history; Note says why
	Result   Result  // of the checker on the mutated history
	Fired    bool    // the wanted verdict with the wanted code
	Note     string
}

// Mutations is every mutation.
var Mutations = []Mutation{
	{"drop-acked", "stream-accounting", Fail, CodeAckedMissing, on(dropAcked)},
	{"swap-two", "stream-accounting", Fail, CodeWrongSequence, on(swapTwo)},
	{"reorder-acked", "stream-accounting", Fail, CodeReordered, on(reorderAcked)},
	{"duplicate-one", "stream-accounting", Fail, CodeDuplicated, on(duplicateOne)},
	{"insert-never-sent", "stream-accounting", Fail, CodeNeverSent, on(insertNeverSent)},
	{"fail-present", "stream-accounting", Fail, CodeFailedPresent, on(failPresent)},
	{"skip-sequence", "stream-accounting", Fail, CodeSequenceGap, on(skipSequence)},
	{"move-ack-before-invoke", "stream-accounting", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "kv-linearizable", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "kv-durable", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "no-ack", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "availability", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "health-truth", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "client-gaps", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "preconditions", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "consumer", Inconclusive, CodeBadClock, on(moveAck)},

	{"drop-replica-message", "replica-agreement", Fail, CodeReplicasDiffer, on(dropReplicaMessage)},
	{"damage-replica", "replica-agreement", Fail, CodeReplicaDamaged, on(damageReplica)},
	{"drop-replica", "replica-agreement", Fail, CodeReplicaMissing, on(dropReplica)},

	{"stale-read", "kv-linearizable", Fail, CodeNotLinear, on(staleRead)},
	{"double-cas", "kv-linearizable", Fail, CodeCASViolation, on(doubleCAS)},
	{"reuse-revision", "kv-linearizable", Fail, CodeRevReused, on(reuseRevision)},
	{"cas-twice", "cas-serialized", Fail, CodeCASViolation, on(casTwice)},
	{"move-ack-before-invoke", "cas-serialized", Inconclusive, CodeBadClock, on(moveAck)},
	{"forget-stream", "stream-metadata", Fail, CodeStreamGone, on(remake(func(m *history.Metadata) { m.Status = history.StreamAbsent }))},
	{"recreate-stream", "stream-metadata", Fail, CodeStreamReset, on(remake(func(m *history.Metadata) { m.Created += "x" }))},
	{"change-config", "stream-metadata", Fail, CodeConfigChanged, on(remake(func(m *history.Metadata) { m.Config += " " }))},
	{"silence-stream", "stream-metadata", Inconclusive, CodeUnanswered, on(remake(func(m *history.Metadata) { m.Status = history.StreamSilence }))},
	{"lose-start", "stream-metadata", Fail, CodeStartLost, on(loseStart)},
	{"age-read", "monotonic-direct", Fail, CodeStaleRead, on(ageRead)},
	{"move-ack-before-invoke", "monotonic-direct", Inconclusive, CodeBadClock, on(moveAck)},
	{"drop-mark", "preconditions", Inconclusive, CodeNoMark, on(dropMark)},
	{"drop-drain", "preconditions", Inconclusive, CodeNoDrain, on(dropDrain)},
	{"drop-after", "preconditions", Inconclusive, CodeTooFewAfter, on(dropAfter)},

	{"store-twice", "deduplication", Fail, CodeDuplicated, on(storeTwice)},
	{"ack-as-new", "deduplication", Fail, CodeDuplicated, on(ackAsNew)},
	{"lose-repeated", "deduplication", Fail, CodeAckedMissing, on(loseRepeated)},
	{"duplicate-of-another", "deduplication", Fail, CodeWrongSequence, on(duplicateOfAnother)},
	{"move-ack-before-invoke", "deduplication", Inconclusive, CodeBadClock, on(moveAck)},
	{"drop-acked", "appends", Fail, CodeAckedMissing, on(dropAppend)},
	{"expect-the-same", "appends", Fail, CodeCASViolation, on(expectTheSame)},
	{"expect-another", "appends", Fail, CodeExpectation, on(expectAnother)},
	{"expect-another-unanswered", "appends", Fail, CodeExpectation, on(expectAnotherUnanswered)},
	{"misplace-ack", "appends", Fail, CodeWrongSequence, on(misplaceAppend)},
	{"insert-never-sent", "appends", Fail, CodeNeverSent, on(insertAppend)},
	{"duplicate-one", "appends", Fail, CodeDuplicated, on(duplicateAppend)},
	{"fail-present", "appends", Fail, CodeFailedPresent, on(failAppend)},
	{"skip-sequence", "appends", Fail, CodeSequenceGap, on(skipAppend)},
	{"move-ack-before-invoke", "appends", Inconclusive, CodeBadClock, on(moveAck)},
	{"lose-job", "work-queue", Fail, CodeAckedMissing, on(loseJob)},
	{"redeliver-acked", "work-queue", Fail, CodeRedelivered, on(redeliverJob)},
	{"deliver-never-sent", "work-queue", Fail, CodeNeverSent, on(inventJob)},
	{"fork-job", "work-queue", Fail, CodeDuplicated, on(forkJob)},
	{"fail-present", "work-queue", Fail, CodeFailedPresent, on(changeJob(func(op *history.Op) { op.Outcome, op.Seq = history.Failed, 0 }))},
	{"misplace-ack", "work-queue", Fail, CodeWrongSequence, on(changeJob(func(op *history.Op) { op.Seq += 1 << 40 }))},
	{"move-ack-before-invoke", "work-queue", Inconclusive, CodeBadClock, on(moveAck)},
	{"drop-key", "kv-durable", Fail, CodeAckedMissing, on(dropKey)},
	{"age-key", "kv-durable", Fail, CodeAckedMissing, on(ageKey)},
	{"change-value", "kv-durable", Fail, CodeWrongValue, on(changeValue)},
	{"insert-never-sent", "kv-durable", Fail, CodeNeverSent, on(insertKey)},

	{"ack-in-outage", "no-ack", Fail, CodeAckedNoQuorum, on(ackInOutage)},
	{"silence", "no-ack", Fail, CodeSilent, on(silence)},
	{"no-acks", "availability", Fail, CodeUnavailable, on(noAcks)},
	{"stretch-gap", "availability", Fail, CodeGapTooLong, on(stretchGap)},
	{"strand-client", "client-gaps", Fail, CodeStranded, on(strandClient)},

	{"health-200-in-outage", "health", Fail, CodeReadyNoQuorum, on(healthFlip(CodeReadyNoQuorum))},
	{"health-refused", "health", Fail, CodeRefused, on(healthFlip(CodeRefused))},
	{"health-never-ready", "health", Fail, CodeNeverReady, on(healthFlip(CodeNeverReady))},
	{"health-silent-reason", "health", Fail, CodeNoReason, on(dropReasons)},
	{"health-200-in-outage", "health-truth", Fail, CodeReadyUnwritten, on(truth200)},
	{"outage-while-ready", "health-truth", Fail, CodeReadyUnwritten, on(truthOutage)},

	{"unconverged", "converged", Fail, CodeNotConverged, on(unconverge(func(v *history.Convergence) { v.OK = false }))},
	{"replica-not-current", "converged", Fail, CodeNotConverged, on(unconverge(func(v *history.Convergence) { v.Current = false }))},
	{"contents-differ", "converged", Fail, CodeContentsDiffer, on(unconverge(func(v *history.Convergence) { v.Identical = false }))},
	{"under-replicate", "converged", Fail, CodeUnderRepl, on(underReplicate)},

	{"drop-fault-in-force", "faults", Fail, CodeNotInForce, on(dropInForce)},
	{"drop-fault-healed", "faults", Fail, CodeNotHealed, on(dropHealed)},
	{"hit-bystander", "faults", Fail, CodeBystanderHit, on(hitBystander)},
	{"fault-there-before", "faults", Fail, CodeWasThere, on(thereBefore)},

	{"drop-delivery", "consumer", Fail, CodeSkipped, on(dropDelivery)},
	{"skip-revision", "consumer", Fail, CodeSkipped, on(skipRevision)},
	{"redeliver-acked", "consumer", Fail, CodeRedelivered, on(redeliverAcked)},
	{"swap-deliveries", "consumer", Fail, CodeOutOfOrder, on(swapDeliveries)},
	{"deliver-never-sent", "consumer", Fail, CodeNeverSent, on(deliverNeverSent)},
	{"silence-consumer", "consumer", Fail, CodeSkipped, on(silenceConsumer)},
	{"forget-consumer", "consumer", Inconclusive, CodeTooFewClients, on(forgetConsumer)},

	{"drop-core-delivery", "core-delivered", Fail, CodeSkipped, on(dropCore)},
	{"silence-subscriber", "core-delivered", Fail, CodeSkipped, on(silenceSubscriber)},
	{"forget-subscriber", "core-delivered", Inconclusive, CodeTooFewClients, on(forgetSubscriber)},
	{"move-ack-before-invoke", "core-delivered", Inconclusive, CodeBadClock, on(moveAck)},

	{"measure-beyond", "measured", Fail, CodeOutOfBounds, on(measureBeyond)},
	{"measure-unlike", "measured", Fail, CodeNotSame, on(measureUnlike)},
	{"measure-unchanged", "measured", Fail, CodeStillSame, on(measureUnchanged)},
	{"drop-measures", "measured", Inconclusive, CodeTooFewEvents, on(dropMeasures)},
	{"disconnect", "connections", Fail, CodeDisconnected, on(disconnect)},
	{"slow-down", "latency", Fail, CodeTooSlow, on(slowDown)},
	{"fail-some", "latency", Fail, CodeOpsFailed, on(failSome)},
	{"move-ack-before-invoke", "latency", Inconclusive, CodeBadClock, on(moveAck)},
	{"move-ack-before-invoke", "acl", Inconclusive, CodeBadClock, on(moveAck)},
	{"allow-forbidden", "acl", Fail, CodeForbidden, on(flipAccess(history.Failed))},
	{"refuse-allowed", "acl", Fail, CodeWronglyRefused, on(flipAccess(history.OK))},
	{"move-ack-before-invoke", "effect", Inconclusive, CodeBadClock, on(moveAck)},
	{"stale-node", "effect", Fail, CodeNeverInForce, on(staleNode)},
	{"slow-time", "effect", Inconclusive, CodeUnsettled, on(slowTime)},
	{"move-ack-before-invoke", "users", Inconclusive, CodeBadClock, on(moveAck)},
	{"drop-user", "users", Fail, CodeAckedMissing, on(dropUser)},
	{"change-key", "users", Fail, CodeWrongValue, on(restore("key", func(u *UserRecord) { u.Key = foreign }))},
	{"mix-role", "users", Fail, CodeHalfWritten, on(restore("role", func(u *UserRecord) { u.Role = foreign }))},
	{"lose-role", "users", Fail, CodeHalfWritten, on(restore("role", func(u *UserRecord) { u.Role = "" }))},
	{"insert-never-sent", "users", Fail, CodeNeverSent, on(insertUser)},
	{"second-owner", "users", Fail, CodeTwoOwners, on(secondOwner)},
	{"again-changes", "users", Fail, CodeNotIdempotent, on(againChanges)},
	{"refuse-adds", "users", Fail, CodeFailedPresent, on(refuseAdds)},
	{"refuse-login", "users", Fail, CodeWronglyRefused, on(turnLogin(history.OK))},
	{"allow-login", "users", Fail, CodeForbidden, on(turnLogin(history.Failed))},
}

// onlyWith names the parameter that a claim must have for a mutation to be made at all. A claim without it does not see the damage, and a proof that is older than the
// parameter lists no such control.
var onlyWith = map[string]string{"silence-consumer": "clients", "forget-consumer": "min_clients", "silence-subscriber": "clients", "forget-subscriber": "min_clients"}

// belongs says whether the mutation is made under a claim.
func (m Mutation) belongs(s Spec) bool {
	need, picky := onlyWith[m.Name]
	if m.Checker != s.Checker || !picky {
		return m.Checker == s.Checker
	}
	var params map[string]json.RawMessage
	err := json.Unmarshal(s.Params, &params)
	_, is := params[need]
	return err == nil && is
}

// RunMutations applies every mutation that belongs to one of the specs, and judges the results. Specs that do not pass on h
// itself are left out: there is nothing to show by damaging what is damaged already.
func RunMutations(specs []Spec, h *history.History, seed uint64) []MutationResult {
	var out []MutationResult
	for i, s := range specs {
		if r, err := s.Run(h); err != nil || r.Verdict != Pass {
			continue
		}
		for _, m := range Mutations {
			if m.belongs(s) {
				out = append(out, m.run(i, s, h, seed))
			}
		}
	}
	return out
}

func (m Mutation) run(i int, s Spec, h *history.History, seed uint64) MutationResult {
	name := fnv.New64a()
	_, _ = fmt.Fprintf(name, "%d %s %s", i, m.Checker, m.Name) // a hash takes every write
	out := MutationResult{Spec: i, Mutation: m.Name, Want: m.Code, Verdict: m.Verdict}
	mutated, note, ok := m.Apply(h, s.Params, rand.New(rand.NewPCG(seed, name.Sum64())))
	out.Note, out.Applied = note, ok
	if !ok {
		return out
	}
	r, err := s.Run(mutated)
	if err != nil {
		out.Note += ": " + err.Error()
		return out
	}
	out.Result = r
	out.Fired = r.Verdict == m.Verdict && r.Code == m.Code
	return out
}

// damage is what a typed mutation does: h is a copy of the struct whose slices are still the original's.
type damage[C any] func(h *history.History, c C, rng *rand.Rand) (note string, ok bool)

// on decodes the parameters of checker C for a mutation, and hands it a copy.
func on[C any](d damage[C]) func(*history.History, json.RawMessage, *rand.Rand) (*history.History, string, bool) {
	return func(h *history.History, params json.RawMessage, rng *rand.Rand) (*history.History, string, bool) {
		var c C
		if err := strict(params, &c); err != nil {
			return nil, err.Error(), false
		}
		cp := *h
		note, ok := d(&cp, c, rng)
		if !ok {
			return nil, note, false
		}
		return &cp, note, true
	}
}

// pick returns the index of one element that fits, by rng; -1 for none.
func pick[T any](rng *rand.Rand, s []T, fits func(x *T) bool) int {
	var is []int
	for i := range s {
		if fits(&s[i]) {
			is = append(is, i)
		}
	}
	if len(is) == 0 {
		return -1
	}
	return is[rng.IntN(len(is))]
}

// foreign is a value that no workload sends.
const foreign = "never sent by anybody"

// invented is an id for an operation that a mutation makes up.
func invented(h *history.History) int64 {
	var top int64
	for i := range h.Ops {
		top = max(top, h.Ops[i].ID)
	}
	return top + 1
}

// adjustDrain copies the drains and changes the last one of target.
func adjustDrain(h *history.History, target string, f func(d *history.Drain)) {
	h.Drains = slices.Clone(h.Drains)
	for i := len(h.Drains) - 1; i >= 0; i-- {
		if h.Drains[i].Target == target {
			f(&h.Drains[i])
			return
		}
	}
}

// acked finds the publishes of target that were acked, by message id.
func ackedPublishes(h *history.History, target string) map[string]*history.Op {
	acked := map[string]*history.Op{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Publish && op.Target == target && op.Outcome == history.OK && acked[op.Value] == nil {
			acked[op.Value] = op
		}
	}
	return acked
}

// removeItem takes an item out and makes the last drain of its target say so.
func removeItem(h *history.History, i int) {
	it := h.Items[i]
	h.Items = slices.Delete(slices.Clone(h.Items), i, i+1)
	adjustDrain(h, it.Target, func(d *history.Drain) { d.Items-- })
}

// appendItem adds an item behind the last of target.
func appendItem(h *history.History, target string, it history.Item) history.Item {
	at := 0
	for i := range h.Items {
		if h.Items[i].Target == target {
			at = i + 1
			it.Seq = max(it.Seq, h.Items[i].Seq+1)
		}
	}
	it.Target = target
	it.Seq = max(it.Seq, 1)
	h.Items = slices.Insert(slices.Clone(h.Items), at, it)
	adjustDrain(h, target, func(d *history.Drain) {
		d.Items++
		d.Last = max(d.Last, it.Seq)
	})
	return it
}

func dropAcked(h *history.History, c StreamAccounting, rng *rand.Rand) (string, bool) {
	acked := ackedPublishes(h, c.Target)
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target && acked[it.Value] != nil })
	if i < 0 {
		return "no acked message was read back", false
	}
	it := h.Items[i]
	removeItem(h, i)
	return fmt.Sprintf("took acked message %q (sequence %d) out of what was read back", it.Value, it.Seq), true
}

func swapTwo(h *history.History, c StreamAccounting, rng *rand.Rand) (string, bool) {
	acked := ackedPublishes(h, c.Target)
	fits := func(it *history.Item) bool { return it.Target == c.Target && acked[it.Value] != nil }
	i := pick(rng, h.Items, fits)
	j := pick(rng, h.Items, func(it *history.Item) bool { return fits(it) && it.Seq != h.Items[i].Seq })
	if i < 0 || j < 0 {
		return "fewer than two acked messages were read back", false
	}
	h.Items = slices.Clone(h.Items)
	h.Items[i].Value, h.Items[j].Value = h.Items[j].Value, h.Items[i].Value
	return fmt.Sprintf("swapped the messages at sequences %d and %d", h.Items[i].Seq, h.Items[j].Seq), true
}

// reorderAcked swaps two messages of one producer, acks included, where one had been acked before the other was sent.
func reorderAcked(h *history.History, c StreamAccounting, rng *rand.Rand) (string, bool) {
	tries := map[string]int{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Publish && op.Target == c.Target {
			tries[op.Value]++
		}
	}
	single := func(op *history.Op) bool {
		return op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && tries[op.Value] == 1
	}
	first := map[string]int{} // client -> its first such publish in the record
	for i := range h.Ops {
		if op := &h.Ops[i]; single(op) {
			if _, ok := first[op.Client]; !ok {
				first[op.Client] = i
			}
		}
	}
	j := pick(rng, h.Ops, func(op *history.Op) bool {
		i, ok := first[op.Client]
		return ok && single(op) && h.Ops[i].Complete < op.Invoke
	})
	if j < 0 {
		return "no producer sent one message after another was acked", false
	}
	i := first[h.Ops[j].Client]
	h.Ops, h.Items = slices.Clone(h.Ops), slices.Clone(h.Items)
	a, b := &h.Ops[i], &h.Ops[j]
	for k := range h.Items {
		if it := &h.Items[k]; it.Target == c.Target {
			switch it.Value {
			case a.Value:
				it.Value = b.Value
			case b.Value:
				it.Value = a.Value
			}
		}
	}
	a.Seq, b.Seq = b.Seq, a.Seq
	return fmt.Sprintf("swapped the places and the acks of publishes %d and %d of %s", a.ID, b.ID, a.Client), true
}

func duplicateOne(h *history.History, c StreamAccounting, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target })
	if i < 0 {
		return "nothing was read back", false
	}
	from := h.Items[i].Seq
	it := appendItem(h, c.Target, history.Item{Key: h.Items[i].Key, Value: h.Items[i].Value})
	return fmt.Sprintf("put the message of sequence %d a second time at %d", from, it.Seq), true
}

func insertNeverSent(h *history.History, c StreamAccounting, _ *rand.Rand) (string, bool) {
	it := appendItem(h, c.Target, history.Item{Value: foreign})
	return fmt.Sprintf("put a message that nobody sent at sequence %d", it.Seq), true
}

// failPresent makes every attempt of a message that is there certainly failed.
func failPresent(h *history.History, c StreamAccounting, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target })
	if i < 0 {
		return "nothing was read back", false
	}
	h.Ops = slices.Clone(h.Ops)
	for k := range h.Ops {
		if op := &h.Ops[k]; op.Kind == history.Publish && op.Target == c.Target && op.Value == h.Items[i].Value {
			op.Outcome, op.Seq = history.Failed, 0
			op.Complete = max(op.Complete, op.Invoke+1)
		}
	}
	return fmt.Sprintf("made every attempt at message %q fail, which is at sequence %d", h.Items[i].Value, h.Items[i].Seq), true
}

func skipSequence(h *history.History, c StreamAccounting, _ *rand.Rand) (string, bool) {
	adjustDrain(h, c.Target, func(d *history.Drain) {
		d.Last++
		d.Missing++
	})
	return "made the stream's leader claim one more sequence than was read back", true
}

// moveAck works for every checker that looks at operations: their parameters do not matter to it.
func moveAck(h *history.History, _ json.RawMessage, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Ops, func(op *history.Op) bool { return op.Outcome == history.OK && op.Invoke > 1 })
	if i < 0 {
		return "no operation was acked", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	op.Complete = op.Invoke - 1
	return fmt.Sprintf("moved the ack of operation %d before its invocation", op.ID), true
}
