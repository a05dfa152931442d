package check

import (
	"fmt"
	"math"

	"github.com/unibus/unibus/reports/history"
)

// Appends ("appends") judges publishes that state what the stream ends with (Nats-Expected-Last-Sequence, Nats-Expected-Last-Msg-Id): what was stored must stand where its
// expectation says, whether it was acked or not, and no two acked ones may have expected the same. The stream must be written by such publishes alone,
// each with a message id of its own, and nothing may leave it. One pass, no search.
type Appends struct {
	Target   string `json:"target"`              // the stream, as in Op.Target
	MinAcked int    `json:"min_acked,omitempty"` // fewer are Inconclusive; 0 means 1
}

// appends is the evidence about one stream.
type appends struct {
	rb   readback
	byID map[string]*history.Op
	ops  []*history.Op

	acked, refused, unknown int

	missing, wrong, twice, ignored, never, failed, dups, gap violation
}

// Check implements Checker.
func (c Appends) Check(h *history.History) Result {
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
	a := &appends{rb: rb, byID: map[string]*history.Op{}}
	if r := a.gather(h, c.Target); r != nil {
		return *r
	}
	a.promises()
	a.expectations()
	a.answers()
	a.stored()
	a.reasons(c.Target)
	figures := []Figure{count("attempts", len(a.ops)), count("acked", a.acked), count("refused", a.refused), count("unknown", a.unknown), count("items", len(rb.items)),
		count("same_expectation", a.twice.count), count("expectation_ignored", a.ignored.count), count("acked_missing", a.missing.count), count("wrong_sequence", a.wrong.count),
		count("never_sent", a.never.count), count("duplicated", a.dups.count), count("sequence_gaps", a.gap.count)}
	if r, bad := found(figures, a.missing, a.twice, a.ignored, a.wrong, a.never, a.failed, a.dups, a.gap); bad {
		return r
	}
	if need := orDefault(c.MinAcked, 1); a.acked < need {
		return inconclusive(figures, CodeTooFewAcked, "%d conditional publishes to %s were acked, at least %d are needed.", a.acked, c.Target, need)
	}
	return passed(figures, "All %d messages of %s stand where they expected to stand, and no two of %d acked publishes expected the same; %d were refused or unanswered.",
		len(rb.items), c.Target, a.acked, a.refused+a.unknown)
}

func (a *appends) promises() {
	a.missing = violation{code: CodeAckedMissing, promise: promiseAck}
	a.wrong = violation{code: CodeWrongSequence, promise: promiseLog}
	a.twice = violation{code: CodeCASViolation, promise: promiseExpect}
	a.ignored = violation{code: CodeExpectation, promise: promiseExpect}
	a.never = violation{code: CodeNeverSent, promise: promiseLog}
	a.failed = violation{code: CodeFailedPresent, promise: promiseOutcome}
	a.dups = violation{code: CodeDuplicated, promise: promiseDedup}
	a.gap = violation{code: CodeSequenceGap, promise: promiseLog}
}

func (a *appends) reasons(target string) {
	a.missing.reason = fmt.Sprintf("%d of %d acked messages are not in %s.", a.missing.count, a.acked, target)
	a.wrong.reason = fmt.Sprintf("%d acks named a sequence of %s that holds something else.", a.wrong.count, target)
	a.twice.reason = fmt.Sprintf("%d of %d acked publishes to %s expected what an earlier acked one had expected too.", a.twice.count, a.acked, target)
	a.ignored.reason = fmt.Sprintf("%d messages were taken by %s against what they expected.", a.ignored.count, target)
	a.never.reason = fmt.Sprintf("%d messages in %s were never sent.", a.never.count, target)
	a.failed.reason = fmt.Sprintf("%d messages are in %s though the attempt had certainly failed.", a.failed.count, target)
	a.dups.reason = fmt.Sprintf("%d messages are in %s a second time.", a.dups.count, target)
	a.gap.reason = fmt.Sprintf("%d sequences of %s are not there, though nothing is ever deleted from it.", a.gap.count, target)
}

// gather takes the attempts out of the record, or says what is wrong with it.
func (a *appends) gather(h *history.History, target string) *Result {
	bad := func(code, format string, args ...any) *Result {
		r := inconclusive(nil, code, format, args...)
		return &r
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Append || op.Target != target {
			continue
		}
		switch {
		case op.Value == "" || a.byID[op.Value] != nil:
			return bad(CodeBadRecord, "Conditional publish %d has no message id of its own.", op.ID)
		case op.Outcome == history.OK && op.Seq == 0:
			return bad(CodeBadRecord, "Conditional publish %d was acked without a sequence.", op.ID)
		case op.Invoke > a.rb.drain.At || op.Outcome == history.OK && op.Complete > a.rb.drain.At:
			return bad(CodeOpsAfterDrain, "Conditional publish %d was still going on after %s had been read back.", op.ID, target)
		}
		a.byID[op.Value] = op
		a.ops = append(a.ops, op)
		switch op.Outcome {
		case history.OK:
			a.acked++
		case history.Failed:
			a.refused++
		default:
			a.unknown++
		}
	}
	if len(a.ops) == 0 {
		return bad(CodeNoOps, "The record has no conditional publish to %s.", target)
	}
	return nil
}

// expectations finds acked publishes that expected the same: only one of them can have found it.
func (a *appends) expectations() {
	type end struct {
		seq uint64
		id  string
	}
	first := map[end]*history.Op{}
	for _, op := range a.ops {
		if op.Outcome != history.OK {
			continue
		}
		e := end{op.Prev, op.After}
		if op.After != "" {
			e.seq = 0
		}
		was := first[e]
		if was == nil {
			first[e] = op
			continue
		}
		a.twice.count++
		a.twice.seen.add(op.Complete, []int64{was.ID, op.ID}, "publishes %d (of %s, acked at %d) and %d (of %s, acked at %d) both expected the stream to end with %s",
			was.ID, was.Client, was.Seq, op.ID, op.Client, op.Seq, wanted(op))
	}
}

// wanted spells what a conditional publish expects.
func wanted(op *history.Op) string {
	if op.After != "" {
		return fmt.Sprintf("message %q", op.After)
	}
	return fmt.Sprintf("sequence %d", op.Prev)
}

// against says what the stream had at the end when op was stored at seq, where that is not what op expected.
func (a *appends) against(op *history.Op, seq uint64) (string, bool) {
	if op.After == "" {
		return fmt.Sprintf("sequence %d", seq-1), seq != op.Prev+1
	}
	it, ok := a.rb.at(seq - 1)
	return fmt.Sprintf("message %q", it.Value), ok && it.Value != op.After
}

// answers holds every ack against the stream.
func (a *appends) answers() {
	places := map[string]uint64{}
	for _, it := range a.rb.items {
		places[it.Value] = it.Seq
	}
	for _, op := range a.ops {
		if op.Outcome != history.OK {
			continue
		}
		if end, bad := a.against(op, op.Seq); bad {
			a.ignore(op, op.Seq, end)
		}
		if it, ok := a.rb.at(op.Seq); ok && it.Value == op.Value {
			continue
		}
		if at, is := places[op.Value]; is {
			a.wrong.count++
			a.wrong.seen.add(op.Complete, []int64{op.ID}, "%q was acked at sequence %d and is at %d", op.Value, op.Seq, at)
			continue
		}
		a.missing.count++
		a.missing.seen.add(op.Complete, []int64{op.ID}, "%q was acked at sequence %d and is not in the stream", op.Value, op.Seq)
	}
}

func (a *appends) ignore(op *history.Op, seq uint64, end string) {
	a.ignored.count++
	a.ignored.seen.add(op.Invoke, []int64{op.ID}, "%q, which expected the stream to end with %s, was taken at sequence %d, after %s", op.Value, wanted(op), seq, end)
}

// stored looks at what is in the stream, which also settles what had no answer.
func (a *appends) stored() {
	seen := map[string]uint64{}
	next := uint64(1)
	for _, it := range a.rb.items {
		a.absent(next, it.Seq)
		next = it.Seq + 1
		op := a.byID[it.Value]
		switch at, again := seen[it.Value]; {
		case op == nil:
			a.never.count++
			a.never.seen.add(a.rb.drain.At, nil, "sequence %d holds %q, which no client sent", it.Seq, it.Value)
		case again:
			a.dups.count++
			a.dups.seen.add(op.Invoke, []int64{op.ID}, "%q is at sequence %d and again at %d", it.Value, at, it.Seq)
		case op.Outcome == history.Failed:
			a.failed.count++
			a.failed.seen.add(op.Invoke, []int64{op.ID}, "the message of publish %d, which failed (%s), is at sequence %d", op.ID, orDash(op.Err), it.Seq)
		case op.Outcome == history.Unknown:
			if end, bad := a.against(op, it.Seq); bad {
				a.ignore(op, it.Seq, end)
			}
		}
		seen[it.Value] = it.Seq
	}
	a.absent(next, a.rb.drain.Last+1)
	a.gap.count = max(a.gap.count, a.rb.drain.Missing)
}

// absent notes that the sequences from..to-1 are not there.
func (a *appends) absent(from, to uint64) {
	if from < to {
		a.gap.count += int(min(to-from, math.MaxInt32))
		a.gap.seen.add(a.rb.drain.At, nil, "sequences %d to %d are not there", from, to-1)
	}
}
