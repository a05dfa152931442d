package check

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/unibus/unibus/reports/history"
)

// KVLinearizable ("kv-linearizable") searches, key by key, for an order of the operations that a register with revisions could have
// produced: put, create, update and get, all answered by the leader. Direct reads are not among them, because any replica may answer those.
//
// What each outcome means to the search:
//
//	OK                  took effect between invoke and complete
//	Failed              left out, conflicts too: a conflict tells of a revision, but which one it met is not in the record, and leaving
//	                    an observation out can only make the check more lenient
//	Unknown, a read     left out
//	Unknown, a write    settled first: if its value, unique on the key, was read, watched or drained with a revision, it took effect at that
//	                    revision. If every revision that anybody saw is explained, the others are left out: nobody saw them, so no
//	                    order needs them. Only where some revision is unexplained do they stay, free to take effect at any later time or never.
//
// Settling is what keeps the search small: it is exponential in operations that may float to the end.
type KVLinearizable struct {
	Target         string  `json:"target"`                    // the bucket, as in Op.Target
	Keys           int     `json:"keys,omitempty"`            // fewer keys with OK operations are Inconclusive; 0 means 1
	MinOps         int     `json:"min_ops,omitempty"`         // fewer OK operations are Inconclusive; 0 means 1
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"` // for the whole search; 0 means 20
	// WritesOnly leaves reads out and counts those that were stale. A stream's leader answers reads without asking anybody, also for seconds after
	// the others have elected another one: where links are cut, no NATS document promises more of a read.
	WritesOnly bool `json:"writes_only,omitempty"`
}

const (
	defaultSearch = 20.0
	// prefixSearch bounds the search for the shortest prefix that cannot be ordered: the verdict does not depend on it.
	prefixSearch = 5 * time.Second
)

// Check implements Checker.
func (c KVLinearizable) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	b := newBucket(h, c.Target, c.WritesOnly)
	if b.blank != 0 {
		return inconclusive(nil, CodeBadRecord, "Write %d was acked without a revision.", b.blank)
	}
	if b.ok == 0 {
		return inconclusive(nil, CodeNoOps, "The record has no successful operation on %s.", c.Target)
	}
	cas, reused, order := b.cas(), b.reused(), b.order()
	figures := []Figure{count("ok", b.ok), count("keys", len(b.keys)), count("failed", b.failed), count("conflicts", b.conflicts), count("unknown_writes", b.unknown), count("unknown_reads", b.unknownReads)}
	if c.WritesOnly {
		figures = append(figures, count("reads", b.reads), count("stale_reads", b.stale()))
	}
	if r, bad := found(append(figures, count("cas_violations", cas.count), count("revisions_reused", reused.count), count("revisions_out_of_order", order.count)), cas, reused, order); bad {
		return r // a search would only find the same again, and slower
	}
	s := b.search(nanos(orDefault(c.TimeoutSeconds, defaultSearch)))
	figures = append(figures, count("settled", s.settled), count("left_out", s.dropped), count("floating", s.floating), count("longest_key", s.longest), count("keys_not_linearizable", s.bad.count))
	if r, bad := found(figures, s.bad); bad {
		return r
	}
	switch {
	case s.timeout != "":
		return inconclusive(figures, CodeSearchTimeout, "The search was given up on key %q after %g s: %d operations, %d of them floating.", s.timeout, orDefault(c.TimeoutSeconds, defaultSearch), s.longest, s.floating)
	case len(b.keys) < orDefault(c.Keys, 1):
		return inconclusive(figures, CodeTooFewKeys, "%d keys of %s were used, at least %d are needed.", len(b.keys), c.Target, c.Keys)
	case b.ok < orDefault(c.MinOps, 1):
		return inconclusive(figures, CodeTooFewOps, "%d operations on %s succeeded, at least %d are needed.", b.ok, c.Target, c.MinOps)
	}
	return passed(figures, "%d operations on %d keys of %s are linearizable; %d unknown writes were settled, %d were seen by nobody.", b.ok, len(b.keys), c.Target, s.settled, s.dropped)
}

// bucket is the operations of one bucket, by key.
type bucket struct {
	keys map[string]*register
	all  []*history.Op // acked writes, in the order of the record

	writesOnly bool
	leftOut    []*history.Op // OK reads that are not judged

	ok, failed, conflicts, unknown, unknownReads, reads int
	blank                                               int64 // an acked write without a revision
}

// register is one key.
type register struct {
	reads, writes, open []*history.Op         // OK reads, OK writes, Unknown writes
	seen                map[string][]sighting // value -> where it was seen, only for values of open writes
}

// sighting is a value that somebody saw with a revision. at bounds when it had taken effect; 0 where the seer proves nothing about
// time, as a replica that may be ahead of the leader's answers.
type sighting struct {
	rev uint64
	at  int64
}

func newBucket(h *history.History, target string, writesOnly bool) *bucket {
	b := &bucket{keys: map[string]*register{}, writesOnly: writesOnly}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Target != target {
			continue
		}
		switch op.Kind {
		case history.Put, history.Create, history.Update, history.Get:
			b.enter(op)
		}
	}
	b.sightings(h, target)
	return b
}

func (b *bucket) enter(op *history.Op) {
	read := op.Kind == history.Get
	switch {
	case op.Outcome == history.Failed:
		b.failed++
		if op.Err == "conflict" {
			b.conflicts++
		}
		return
	case op.Outcome == history.Unknown && read:
		b.unknownReads++
		return
	case read && b.writesOnly:
		b.reads++
		b.leftOut = append(b.leftOut, op)
		return
	}
	k := b.keys[op.Key]
	if k == nil {
		k = &register{seen: map[string][]sighting{}}
		b.keys[op.Key] = k
	}
	switch {
	case op.Outcome == history.Unknown:
		b.unknown++
		k.open = append(k.open, op)
		k.seen[op.Value] = nil
	case read:
		b.ok++
		k.reads = append(k.reads, op)
	default:
		b.ok++
		if op.Seq == 0 && b.blank == 0 {
			b.blank = op.ID
		}
		k.writes = append(k.writes, op)
		b.all = append(b.all, op)
	}
}

// stale counts the reads that returned a revision below that of a write which was acked before they were invoked.
func (b *bucket) stale() (n int) {
	type done struct {
		at  int64
		rev uint64 // the highest so far
	}
	acked := map[string][]done{}
	byEnd := slices.Clone(b.all)
	slices.SortStableFunc(byEnd, func(x, y *history.Op) int { return cmp.Compare(x.Complete, y.Complete) })
	for _, op := range byEnd {
		l := acked[op.Key]
		rev := op.Seq
		if len(l) > 0 {
			rev = max(rev, l[len(l)-1].rev)
		}
		acked[op.Key] = append(l, done{op.Complete, rev})
	}
	for _, op := range b.leftOut {
		l := acked[op.Key]
		i, _ := slices.BinarySearchFunc(l, op.Invoke, func(d done, t int64) int { return cmp.Compare(d.at, t) })
		if i > 0 && op.Seq < l[i-1].rev {
			n++
		}
	}
	return n
}

// sightings gathers the revisions at which the values of Unknown writes were seen.
func (b *bucket) sightings(h *history.History, target string) {
	if b.unknown == 0 {
		return
	}
	see := func(key, value string, s sighting) {
		if k := b.keys[key]; k != nil && s.rev != 0 {
			if _, wanted := k.seen[value]; wanted {
				k.seen[value] = append(k.seen[value], s)
			}
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Target != target || op.Outcome != history.OK {
			continue
		}
		switch op.Kind {
		case history.Get:
			see(op.Key, op.Value, sighting{op.Seq, op.Complete})
		case history.Direct:
			see(op.Key, op.Value, sighting{op.Seq, 0})
		}
	}
	for i := range h.Items {
		if it := &h.Items[i]; it.Target == target && !it.Del {
			see(it.Key, it.Value, sighting{it.Seq, 0})
		}
	}
	for i := range h.Deliveries {
		if d := &h.Deliveries[i]; d.Target == target && d.Kind == "watch" {
			see(d.Key, d.Value, sighting{d.Seq, 0})
		}
	}
}

// cas finds compare-and-sets that both won: updates of one key that expected the same revision, and second creates, as nothing deletes.
func (b *bucket) cas() violation {
	v := violation{code: CodeCASViolation, promise: promiseCAS}
	type expected struct {
		key  string
		prev uint64
	}
	won := map[expected]*history.Op{}
	for _, op := range b.all {
		e := expected{op.Key, op.Prev}
		switch op.Kind {
		case history.Create:
			e.prev = 0
		case history.Update:
		default:
			continue
		}
		if old := won[e]; old != nil {
			v.count++
			v.seen.add(op.Complete, []int64{old.ID, op.ID}, "key %q: both expected revision %d, one got revision %d and the other %d", op.Key, e.prev, old.Seq, op.Seq)
			continue
		}
		won[e] = op
	}
	v.reason = fmt.Sprintf("%d compare-and-sets were acked although another one with the same expected revision had been.", v.count)
	return v
}

// reused finds acked writes that were given the same revision.
func (b *bucket) reused() violation {
	v := violation{code: CodeRevReused, promise: promiseLog}
	by := map[uint64]*history.Op{}
	for _, op := range b.all {
		if old := by[op.Seq]; old != nil {
			v.count++
			v.seen.add(op.Complete, []int64{old.ID, op.ID}, "revision %d was given to key %q (%q) and to key %q (%q)", op.Seq, old.Key, old.Value, op.Key, op.Value)
			continue
		}
		by[op.Seq] = op
	}
	v.reason = fmt.Sprintf("%d acked writes were given a revision that another acked write has.", v.count)
	return v
}

// order finds writes of the bucket, across keys, that were acked before another was invoked and yet have the later revision: a bucket is one log.
func (b *bucket) order() violation {
	v := violation{code: CodeRevOrder, promise: promiseKV}
	acked, sent := slices.Clone(b.all), slices.Clone(b.all)
	slices.SortStableFunc(acked, func(x, y *history.Op) int { return cmp.Compare(x.Complete, y.Complete) })
	slices.SortStableFunc(sent, func(x, y *history.Op) int { return cmp.Compare(x.Invoke, y.Invoke) })
	var highest *history.Op
	next := 0
	for _, op := range sent {
		for ; next < len(acked) && acked[next].Complete < op.Invoke; next++ {
			if highest == nil || acked[next].Seq > highest.Seq {
				highest = acked[next]
			}
		}
		if highest != nil && highest.Seq > op.Seq {
			v.count++
			v.seen.add(op.Invoke, []int64{highest.ID, op.ID}, "write %d was invoked after revision %d had been acked, but got revision %d", op.ID, highest.Seq, op.Seq)
		}
	}
	v.reason = fmt.Sprintf("%d acked writes got a revision below one that had been acked before they were sent.", v.count)
	return v
}

// searched is what the search of all keys came to.
type searched struct {
	bad                                 violation
	timeout                             string // the first key that took too long
	settled, dropped, floating, longest int
}

func (b *bucket) search(budget int64) searched {
	s := searched{bad: violation{code: CodeNotLinear, promise: promiseKV}}
	deadline := time.Now().Add(time.Duration(budget))
	for _, key := range sortedKeys(b.keys) {
		k := b.keys[key]
		ops := k.settle(&s)
		s.longest = max(s.longest, len(ops))
		verdict, at := order(ops, time.Until(deadline))
		switch verdict {
		case porcupine.Illegal:
			s.bad.count++
			s.bad.seen = append(s.bad.seen, stuck(key, ops, at, time.Until(deadline)))
		case porcupine.Unknown:
			if s.timeout == "" {
				s.timeout = key
			}
		}
	}
	if len(s.bad.seen) > MaxWitnesses {
		s.bad.seen = s.bad.seen[:MaxWitnesses]
	}
	s.bad.reason = fmt.Sprintf("The operations on %d of %d keys cannot be ordered as a register could have produced them.", s.bad.count, len(b.keys))
	return s
}

// never is a return that does not come.
const never = math.MaxInt64

// step is one operation as the model sees it.
type step struct {
	op *history.Op
	// rev is the revision that the write got or that the read saw; 0 for a write that nobody saw, and for a read of nothing.
	rev       uint64
	call, ret int64
	// maybe: a write that need not take effect. It returns never, so it can be put after everything else, where it is invisible.
	maybe bool
}

func (st *step) writes() bool { return st.op.Kind != history.Get }

// settle makes the steps of one key; see KVLinearizable for the rules.
func (k *register) settle(s *searched) []step {
	var steps []step
	known := map[uint64]bool{0: true}
	times := map[string]int{}
	for _, op := range k.writes {
		steps = append(steps, step{op: op, rev: op.Seq, call: op.Invoke, ret: op.Complete})
		known[op.Seq] = true
		times[op.Value]++
	}
	for _, op := range k.open {
		times[op.Value]++
	}
	var floating []step
	for _, op := range k.open {
		st := step{op: op, call: op.Invoke, ret: never, maybe: true}
		if rev, at, ok := settledBy(k.seen[op.Value]); ok && times[op.Value] == 1 {
			st.rev, st.maybe = rev, false
			if at >= op.Invoke {
				st.ret = at
			}
			known[rev] = true
			s.settled++
			steps = append(steps, st)
			continue
		}
		floating = append(floating, st)
	}
	explained := true
	for _, op := range k.reads {
		steps = append(steps, step{op: op, rev: op.Seq, call: op.Invoke, ret: op.Complete})
		explained = explained && known[op.Seq]
	}
	for _, st := range steps {
		explained = explained && (st.op.Kind != history.Update || known[st.op.Prev])
	}
	if explained {
		s.dropped += len(floating)
		return steps
	}
	s.floating += len(floating)
	return append(steps, floating...)
}

// settledBy is the one revision that all sightings agree on, and the earliest time that bounds it; never for no bound.
func settledBy(seen []sighting) (rev uint64, at int64, ok bool) {
	at = never
	for _, s := range seen {
		if rev != 0 && s.rev != rev {
			return 0, 0, false
		}
		rev = s.rev
		if s.at != 0 {
			at = min(at, s.at)
		}
	}
	return rev, at, rev != 0
}

func operations(steps []step) []porcupine.Operation {
	ops := make([]porcupine.Operation, len(steps))
	for i := range steps {
		ops[i] = porcupine.Operation{Input: &steps[i], Call: steps[i].call, Return: steps[i].ret}
	}
	return ops
}

// state is what a key holds. After a write that nobody saw its revision is only known to be above rev.
type state struct {
	value  string
	rev    uint64
	vague  bool
	exists bool
}

// at says whether the key can be at revision rev.
func (s state) at(rev uint64) bool {
	switch {
	case !s.exists:
		return rev == 0
	case s.vague:
		return rev > s.rev
	}
	return rev == s.rev
}

// registerModel is a register with revisions, for one key that holds this at first.
func registerModel(from state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return from },
		StepContext: func(_ context.Context, s, input, _ any) (bool, any) {
			ok, next := input.(*step).apply(s.(state))
			return ok, next
		},
		Equal: func(a, b any) bool { return a.(state) == b.(state) },
		Hash:  func(s any) uint64 { return s.(state).rev * 0x9e3779b97f4a7c15 },
	}
}

// apply takes one step from s.
func (st *step) apply(s state) (bool, state) {
	if st.op.Kind == history.Get {
		return st.read(s)
	}
	allowed := true
	switch st.op.Kind {
	case history.Create:
		allowed = !s.exists
	case history.Update:
		allowed = s.exists && s.at(st.op.Prev) && (st.rev == 0 || st.rev > st.op.Prev)
	}
	next := state{value: st.op.Value, rev: st.rev, exists: true}
	if st.rev == 0 {
		next.rev, next.vague = s.rev, true
		if st.op.Kind == history.Update {
			next.rev = st.op.Prev
		}
	} else if st.rev <= s.rev {
		allowed = false // revisions only grow
	}
	if allowed {
		return true, next
	}
	return st.maybe, s
}

func (st *step) read(s state) (bool, state) {
	if st.rev == 0 && st.op.Value == "" {
		return !s.exists, s
	}
	if !s.exists || s.value != st.op.Value {
		return false, s
	}
	if st.rev == 0 { // the client did not learn the revision
		return true, s
	}
	if !s.at(st.rev) {
		return false, s
	}
	s.rev, s.vague = st.rev, false
	return true, s
}

// stuck finds the first return, in time, up to which the operations on the key cannot be ordered; the pieces before at can. What had not returned by
// then is pending: reads are left out, writes may or may not have taken effect. A prefix of a linearizable history is linearizable, so that
// halving finds it.
func stuck(key string, steps []step, at piece, left time.Duration) Witness {
	left = max(min(left, prefixSearch), time.Second)
	deadline := time.Now().Add(left)
	rets := returns(at.steps)
	w := Witness{Text: fmt.Sprintf("key %q: its %d operations cannot be ordered", key, len(steps))}
	lo, hi := 0, len(rets)-1
	for lo < hi {
		mid := (lo + hi) / 2
		part := piece{prefix(at.steps, rets[mid].ret), at.from}
		switch part.search(max(time.Until(deadline), time.Millisecond)) {
		case porcupine.Illegal:
			hi = mid
		case porcupine.Ok:
			lo = mid + 1
		default:
			return w
		}
	}
	if hi < 0 {
		return w
	}
	st := rets[hi]
	all := returns(steps)
	n := slices.IndexFunc(all, func(r step) bool { return r.op == st.op }) + 1
	w.Text = fmt.Sprintf("key %q: the first %d of %d answers cannot be ordered; the last of them is %s", key, n, len(all), st.String())
	w.At, w.Ops = st.op.Complete, lastWriteBefore(steps, st)
	return w
}

// returns are the steps that return, in that order.
func returns(steps []step) []step {
	rets := slices.DeleteFunc(slices.Clone(steps), func(st step) bool { return st.ret == never })
	slices.SortStableFunc(rets, func(a, b step) int { return cmp.Compare(a.ret, b.ret) })
	return rets
}

// String tells the operation.
func (st step) String() string {
	if st.op.Kind == history.Get {
		return fmt.Sprintf("get %d, which read %q at revision %d", st.op.ID, st.op.Value, st.rev)
	}
	return fmt.Sprintf("%s %d, which wrote %q at revision %d (expected %d)", st.op.Kind, st.op.ID, st.op.Value, st.rev, st.op.Prev)
}

// lastWriteBefore pairs the step with the highest revision that had been acked before it was invoked.
func lastWriteBefore(steps []step, st step) []int64 {
	var best *step
	for i := range steps {
		if s := &steps[i]; s.op.Kind != history.Get && s.ret < st.call && (best == nil || s.rev > best.rev) {
			best = s
		}
	}
	if best == nil {
		return []int64{st.op.ID}
	}
	return []int64{best.op.ID, st.op.ID}
}

// prefix is the steps as they stood at time t.
func prefix(steps []step, t int64) []step {
	var out []step
	for _, st := range steps {
		switch {
		case st.call > t:
			continue
		case st.ret > t && st.op.Kind == history.Get:
			continue
		case st.ret > t:
			st.ret, st.maybe = never, true
		}
		out = append(out, st)
	}
	return out
}
