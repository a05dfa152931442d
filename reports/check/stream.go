package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// StreamAccounting ("stream-accounting") accounts for every message id of a stream from which nothing may leave: what was
// acked must be there, at its sequence, once, in each producer's order; what was never sent must not be there. It is set
// accounting, linear in the record but for sorting, and not a search. The workload must have stopped before the drain began,
// and retries must stay within the stream's deduplication window.
type StreamAccounting struct {
	Target   string `json:"target"`              // the stream, as in Op.Target
	MinAcked int    `json:"min_acked,omitempty"` // fewer acked messages are Inconclusive; 0 means 1
	First    uint64 `json:"first,omitempty"`     // the sequence that the stream was made to begin with; 0 means 1
}

// message is everything that the record says of one message id.
type message struct {
	client  int32
	op      int64  // id of the first attempt in the record, for witnesses
	invoked int64  // when the first attempt was made
	acked   int64  // when the first ack came; 0 for never
	seq     uint64 // where it was read back; 0 for nowhere
	again   bool   // it was read back more than once
	unsure  bool   // an attempt's outcome is unknown
	lost    bool   // it was acked and is nowhere; said once per message
}

// ledger is the accounting of one stream.
type ledger struct {
	target  string
	first   uint64 // see StreamAccounting
	rb      readback
	msgs    []message
	ids     map[string]int32 // message id -> index into msgs
	ofOp    []int32          // index of the message, by position in History.Ops; -1 for other operations
	clients map[string]int32

	attempts, ok, failed, unknown, dupAcks int
}

// Check implements Checker.
func (c StreamAccounting) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	rb, no := drained(h, c.Target)
	if no != nil {
		return *no
	}
	if !rb.ascending() {
		return inconclusive(nil, CodeBadRecord, "What was read back from %s is not in the order of its sequences.", c.Target)
	}
	l := newLedger(h, c.Target, rb)
	l.first = c.First
	if r, bad := l.unusable(h); bad {
		return r
	}
	return l.judge(h, orDefault(c.MinAcked, 1))
}

func newLedger(h *history.History, target string, rb readback) *ledger {
	n := 0
	for i := range h.Ops {
		if h.Ops[i].Kind == history.Publish && h.Ops[i].Target == target {
			n++
		}
	}
	l := &ledger{target: target, rb: rb, msgs: make([]message, 0, n), ids: make(map[string]int32, n), ofOp: make([]int32, len(h.Ops)), clients: map[string]int32{}}
	for i := range h.Ops {
		l.ofOp[i] = -1
		if op := &h.Ops[i]; op.Kind == history.Publish && op.Target == target {
			l.ofOp[i] = l.enter(op)
		}
	}
	return l
}

func (l *ledger) enter(op *history.Op) int32 {
	l.attempts++
	i, ok := l.ids[op.Value]
	if !ok {
		i = int32(len(l.msgs))
		l.ids[op.Value] = i
		l.msgs = append(l.msgs, message{client: l.client(op.Client), op: op.ID, invoked: op.Invoke})
	}
	m := &l.msgs[i]
	m.invoked = min(m.invoked, op.Invoke)
	switch op.Outcome {
	case history.OK:
		l.ok++
		if m.acked == 0 || op.Complete < m.acked {
			m.acked = op.Complete
		}
		if op.Dup {
			l.dupAcks++
		}
	case history.Failed:
		l.failed++
	default:
		l.unknown++
		m.unsure = true
	}
	return i
}

func (l *ledger) client(name string) int32 {
	i, ok := l.clients[name]
	if !ok {
		i = int32(len(l.clients))
		l.clients[name] = i
	}
	return i
}

// unusable looks for what would make the accounting meaningless.
func (l *ledger) unusable(h *history.History) (Result, bool) {
	if l.attempts == 0 {
		return inconclusive(nil, CodeNoOps, "The record has no publish to %s.", l.target), true
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		switch {
		case l.ofOp[i] < 0:
		case op.Value == "":
			return inconclusive(nil, CodeBadRecord, "Publish %d has no message id.", op.ID), true
		case op.Outcome == history.OK && op.Seq == 0:
			return inconclusive(nil, CodeBadRecord, "Publish %d was acked without a sequence.", op.ID), true
		case op.Invoke > l.rb.drain.At || op.Outcome == history.OK && op.Complete > l.rb.drain.At:
			return inconclusive(nil, CodeOpsAfterDrain, "Publish %d was still going on after %s had been read back.", op.ID, l.target), true
		}
	}
	return Result{}, false
}

func (l *ledger) judge(h *history.History, minAcked int) Result {
	never, dups := l.place()
	missing, wrong := l.acks(h)
	failed := l.failedPresent()
	order := l.order()
	gap := l.gaps()
	acked := 0
	for i := range l.msgs {
		if l.msgs[i].acked != 0 {
			acked++
		}
	}
	res := resolve(h, l.target, l.rb)
	figures := append([]Figure{
		count("attempts", l.attempts), count("messages", len(l.msgs)), count("acked", acked), count("failed", l.failed),
		count("unknown", l.unknown), count("unknown_present", res.Present), count("unknown_absent", res.Absent),
		count("retries", l.attempts-len(l.msgs)), count("dup_acks", l.dupAcks), count("producers", len(l.clients)), count("items", len(l.rb.items)),
	}, missing.figures...)
	figures = append(figures, count("never_sent", never.count), count("duplicated", dups.count), count("wrong_sequence", wrong.count),
		count("reordered", order.count), count("sequence_gaps", gap.count))
	if r, bad := found(figures, missing.violation, wrong, never, failed, dups, order, gap); bad {
		return r
	}
	if acked < minAcked {
		return inconclusive(figures, CodeTooFewAcked, "%d messages of %s were acked, at least %d are needed.", acked, l.target, minAcked)
	}
	return passed(figures, "All %d acked messages of %d attempts are in %s, each once, at its sequence and in its producer's order; %d of %d unknown outcomes turned out to be in.",
		acked, l.attempts, l.target, res.Present, l.unknown)
}

// place enters where each message was read back.
func (l *ledger) place() (never, dups violation) {
	never = violation{code: CodeNeverSent, promise: promiseLog}
	dups = violation{code: CodeDuplicated, promise: promiseDedup}
	for i := range l.rb.items {
		it := &l.rb.items[i]
		j, ok := l.ids[it.Value]
		if !ok {
			never.count++
			never.seen.add(l.rb.drain.At, nil, "sequence %d holds %q, which no client sent", it.Seq, it.Value)
			continue
		}
		m := &l.msgs[j]
		if m.seq == 0 {
			m.seq = it.Seq
			continue
		}
		m.again = true
		dups.count++
		dups.seen.add(m.invoked, []int64{m.op}, "%q is at sequence %d and again at %d", it.Value, m.seq, it.Seq)
	}
	never.reason = fmt.Sprintf("%d messages in %s were never sent.", never.count, l.target)
	dups.reason = fmt.Sprintf("%d messages in %s are there a second time.", dups.count, l.target)
	return never, dups
}

// losses is a violation with the figures that say where in the stream the messages were.
type losses struct {
	violation
	figures []Figure
}

// acks holds every ack against what was read back.
func (l *ledger) acks(h *history.History) (losses, violation) {
	lost := losses{violation: violation{code: CodeAckedMissing, promise: promiseAck}}
	wrong := violation{code: CodeWrongSequence, promise: promiseLog}
	var part [3]int // before, inside and after what is left
	for i, j := range l.ofOp {
		if j < 0 || h.Ops[i].Outcome != history.OK {
			continue
		}
		op, m := &h.Ops[i], &l.msgs[j]
		switch {
		case m.seq == 0 && !m.lost:
			m.lost = true
			lost.count++
			part[l.part(op.Seq)]++
			lost.seen.add(op.Complete, []int64{op.ID}, "%q was acked at sequence %d and is not in the stream", op.Value, op.Seq)
		case m.seq == 0 || m.seq == op.Seq:
		default:
			if it, ok := l.rb.at(op.Seq); !ok || it.Value != op.Value { // at its second place it is a duplicate, not a wrong ack
				wrong.count++
				wrong.seen.add(op.Complete, []int64{op.ID}, "%q was acked at sequence %d, which holds %q; it is at %d", op.Value, op.Seq, it.Value, m.seq)
			}
		}
	}
	lost.reason = fmt.Sprintf("%d acked messages are not in %s: %d before the first that is left (prefix), %d among them (middle), %d after the last (suffix).",
		lost.count, l.target, part[0], part[1], part[2])
	lost.figures = []Figure{count("acked_missing", lost.count), count("missing_prefix", part[0]), count("missing_middle", part[1]), count("missing_suffix", part[2])}
	wrong.reason = fmt.Sprintf("%d acks named a sequence of %s that holds something else.", wrong.count, l.target)
	return lost, wrong
}

// part says where a lost sequence lay: 0 before, 1 among, 2 after the sequences that are left. Of an empty stream all is suffix.
func (l *ledger) part(seq uint64) int {
	n := len(l.rb.items)
	switch {
	case n == 0 || seq > l.rb.items[n-1].Seq:
		return 2
	case seq < l.rb.items[0].Seq:
		return 0
	}
	return 1
}

// failedPresent finds messages that are in the stream although every attempt certainly failed.
func (l *ledger) failedPresent() violation {
	v := violation{code: CodeFailedPresent, promise: promiseOutcome}
	for i := range l.msgs {
		if m := &l.msgs[i]; m.seq != 0 && m.acked == 0 && !m.unsure {
			v.count++
			v.seen.add(m.invoked, []int64{m.op}, "the message of publish %d, which failed, is at sequence %d", m.op, m.seq)
		}
	}
	v.reason = fmt.Sprintf("%d messages are in %s though every attempt to send them had certainly failed.", v.count, l.target)
	return v
}

// order finds, per producer, messages m1 and m2 where m1 was acked before m2's first attempt was invoked, and yet m1's sequence is the later one.
func (l *ledger) order() violation {
	v := violation{code: CodeReordered, promise: promiseLog}
	sent := make([][]*message, len(l.clients)) // by producer: a record is nearly in the order of time, so that sorting is nearly linear
	for i := range l.msgs {
		if m := &l.msgs[i]; m.seq != 0 && !m.again {
			sent[m.client] = append(sent[m.client], m)
		}
	}
	for _, msgs := range sent {
		overtaken(msgs, &v)
	}
	v.reason = fmt.Sprintf("%d messages of %s stand before a message of the same producer that had been acked before they were sent.", v.count, l.target)
	return v
}

// overtaken sweeps one producer's messages in time: whatever had been acked before an invocation has the highest sequence so far to compare with.
func overtaken(sent []*message, v *violation) {
	acked := slices.DeleteFunc(slices.Clone(sent), func(m *message) bool { return m.acked == 0 })
	slices.SortStableFunc(sent, func(a, b *message) int { return cmp.Compare(a.invoked, b.invoked) })
	slices.SortStableFunc(acked, func(a, b *message) int { return cmp.Compare(a.acked, b.acked) })
	var highest *message
	for _, m := range sent {
		for ; len(acked) > 0 && acked[0].acked < m.invoked; acked = acked[1:] {
			if highest == nil || acked[0].seq > highest.seq {
				highest = acked[0]
			}
		}
		if highest != nil && highest.seq > m.seq {
			v.count++
			v.seen.add(m.invoked, []int64{highest.op, m.op}, "publish %d was invoked after publish %d had been acked, but is at sequence %d, before %d", m.op, highest.op, m.seq, highest.seq)
		}
	}
}

// gaps counts the sequences from the stream's first on that it does not have.
func (l *ledger) gaps() violation {
	v := violation{code: CodeSequenceGap, promise: promiseLog}
	last := l.rb.drain.Last
	if n := len(l.rb.items); n > 0 {
		last = max(last, l.rb.items[n-1].Seq)
	}
	before := max(l.first, 1) - 1
	if absent := last - before - uint64(len(l.rb.items)); last >= before+uint64(len(l.rb.items)) {
		v.count = int(min(absent, math.MaxInt32))
	}
	v.count = max(v.count, l.rb.drain.Missing)
	next := before + 1
	for i := range l.rb.items {
		if seq := l.rb.items[i].Seq; seq != next {
			v.seen.add(l.rb.drain.At, nil, "sequences %d to %d are not there", next, seq-1)
			next = seq
		}
		next++
	}
	if next <= last {
		v.seen.add(l.rb.drain.At, nil, "sequences %d to %d are not there", next, last)
	}
	v.reason = fmt.Sprintf("%d of the %d sequences of %s are not there (its leader admits %d), though nothing is ever deleted from it.", v.count, last-min(before, last), l.target, l.rb.drain.Missing)
	return v
}
