package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// NoAck ("no-ack") demands that nothing invoked in the window is acked in it, and that clients hear so.
type NoAck struct {
	Window            Window   `json:"window"`
	GraceSeconds      float64  `json:"grace_seconds,omitempty"`       // operations invoked so soon after From are not judged
	Kinds             []string `json:"kinds,omitempty"`               // empty means all writes: publish, put, create, update
	Targets           []string `json:"targets,omitempty"`             // empty means all
	Nodes             []string `json:"nodes,omitempty"`               // only what was sent over a connection to one of them that lasted until the answer; empty means everything
	MinAttempts       int      `json:"min_attempts,omitempty"`        // fewer operations are Inconclusive; 0 means 1
	MaxSilenceSeconds float64  `json:"max_silence_seconds,omitempty"` // an operation must return within it; 0 means not judged
	UnchangedAllowed  bool     `json:"unchanged_allowed,omitempty"`   // an answer that nothing had to be done (Dup) is no ack: nothing was written
}

// Check implements Checker. An ack that arrives after the window is not judged: the quorum was back. Nor is one that says that a message id is there
// already, where an earlier attempt with that id was made before the window: it repeats what the quorum had acked, and writes nothing. (Whether that
// message is really there is for the accounting of the stream to say.)
func (c NoAck) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	acked := violation{code: CodeAckedNoQuorum, promise: promiseQuorum}
	silent := violation{code: CodeSilent, promise: promiseErrors}
	var tried, failed, unknown, later, unchanged int
	var waits []float64
	end, limit := h.End(), nanos(c.MaxSilenceSeconds)
	before := idsBefore(h, w.from)
	for _, op := range c.judged(h, w) {
		tried++
		done := cmp.Or(op.Complete, end)
		waits = append(waits, seconds(done-op.Invoke))
		switch {
		case op.Outcome == history.OK && op.Dup && (c.UnchangedAllowed || op.Kind == history.Publish && before[messageID{op.Target, op.Value}]):
			unchanged++
		case op.Outcome == history.OK && op.Complete <= w.to:
			acked.count++
			acked.seen.add(op.Complete, []int64{op.ID}, "%s %d by %s, invoked %.3f s into the window, was acked %.3f s into it", op.Kind, op.ID, op.Client, seconds(op.Invoke-w.from), seconds(op.Complete-w.from))
		case op.Outcome == history.OK:
			later++
		case op.Outcome == history.Failed:
			failed++
		default:
			unknown++
		}
		if limit > 0 && done-op.Invoke > limit {
			silent.count++
			silent.seen.add(op.Invoke, []int64{op.ID}, "%s %d by %s heard nothing for %.3f s", op.Kind, op.ID, op.Client, seconds(done-op.Invoke))
		}
	}
	slices.Sort(waits)
	figures := []Figure{count("attempts", tried), count("acked", acked.count), count("acked_after", later), count("unchanged", unchanged), count("failed", failed), count("unknown", unknown),
		inSecs("answer_median_s", median(waits)), inSecs("answer_max_s", quantile(waits, 1)), secs("window_s", w.to-w.from)}
	acked.reason = fmt.Sprintf("%d of %d operations invoked in the window were acked in it, though no quorum was there to ack them.", acked.count, tried)
	silent.reason = fmt.Sprintf("%d of %d operations got no answer, not even an error, within %g s.", silent.count, tried, c.MaxSilenceSeconds)
	if r, bad := found(figures, acked, silent); bad {
		return r
	}
	if need := orDefault(c.MinAttempts, 1); tried < need {
		return inconclusive(figures, CodeTooFewTries, "%d operations were attempted in the window, at least %d are needed.", tried, need)
	}
	return passed(figures, "None of %d operations invoked in %.1f s was acked; the slowest answer took %.3f s.", tried, seconds(w.to-w.from), quantile(waits, 1))
}

// messageID is what a stream deduplicates by: clients send a message's value as its Nats-Msg-Id.
type messageID struct{ target, value string }

// idsBefore is every message that somebody tried to publish before a time.
func idsBefore(h *history.History, at int64) map[messageID]bool {
	ids := map[messageID]bool{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Publish && op.Invoke < at {
			ids[messageID{op.Target, op.Value}] = true
		}
	}
	return ids
}

// judged is the operations invoked in the window, after the grace.
func (c NoAck) judged(h *history.History, w span) []*history.Op {
	f := newFilter(c.Kinds, c.Targets)
	from := w.from + nanos(c.GraceSeconds)
	var changes map[string][]int64
	if len(c.Nodes) > 0 {
		changes = connectionChanges(h)
	}
	var ops []*history.Op
	for i := range h.Ops {
		if op := &h.Ops[i]; f.has(op) && op.Invoke >= from && op.Invoke <= w.to && c.sentTo(op, changes) {
			ops = append(ops, op)
		}
	}
	return ops
}

// sentTo tells whether an operation is about the nodes that are judged. One during which its client lost its connection may have been answered by another
// node: clients send again what was on its way.
func (c NoAck) sentTo(op *history.Op, changes map[string][]int64) bool {
	if len(c.Nodes) == 0 {
		return true
	}
	moved := slices.ContainsFunc(changes[op.Client], func(at int64) bool { return at >= op.Invoke && (op.Complete == 0 || at <= op.Complete) })
	return slices.Contains(c.Nodes, op.Node) && !moved
}

// connectionChanges is when each client's connection came and went.
func connectionChanges(h *history.History) map[string][]int64 {
	at := map[string][]int64{}
	for _, x := range h.Conns {
		at[x.Client] = append(at[x.Client], x.At)
	}
	return at
}

// Availability ("availability") measures how long acked operations stay away. The stretches before the first and after the last
// ack of the window count as gaps.
type Availability struct {
	Window        Window   `json:"window"`
	Kinds         []string `json:"kinds,omitempty"`           // empty means all writes: publish, put, create, update
	Targets       []string `json:"targets,omitempty"`         // empty means all
	MaxGapSeconds float64  `json:"max_gap_seconds,omitempty"` // 0 means that the gap is only reported
	WithinSeconds float64  `json:"within_seconds,omitempty"`  // the first operation invoked in the window must be acked so soon after From; 0 means no bound
	MinOK         int      `json:"min_ok,omitempty"`          // fewer acked operations in the window are Inconclusive (none at all is Fail); 0 means 1
}

// activity is what happened in a window.
type activity struct {
	acks                   []int64 // times of completion, ascending
	tried, failed, unknown int
	firstOK                int64 // first ack of an operation that was invoked in the window; -1 for none
	firstOp                *history.Op
	gap                    span // the longest
	triedInGap             int
}

// Check implements Checker.
func (c Availability) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	a := c.measure(h, w)
	figures := []Figure{count("ok", len(a.acks)), count("failed", a.failed), count("unknown", a.unknown), count("attempts", a.tried), secs("longest_gap_s", a.gap.to-a.gap.from),
		secs("longest_gap_from_s", a.gap.from-w.from), secs("window_s", w.to-w.from)}
	if a.firstOK >= 0 {
		figures = append(figures, secs("first_ok_s", a.firstOK-w.from))
	}
	if a.tried == 0 {
		return inconclusive(figures, CodeNoOps, "No operation was attempted in the window.")
	}
	if r, bad := found(figures, c.violations(a, w)...); bad {
		if r.Code != CodeUnavailable && r.Code != CodeLate && a.triedInGap == 0 {
			return inconclusive(figures, CodeIdle, "Nothing was acked for %.3f s, but nothing was attempted then either.", seconds(a.gap.to-a.gap.from))
		}
		return r
	}
	if need := orDefault(c.MinOK, 1); len(a.acks) < need {
		return inconclusive(figures, CodeTooFewAcked, "%d operations were acked in the window, at least %d are needed.", len(a.acks), need)
	}
	return passed(figures, "%d of %d operations were acked; the longest time without an ack was %.3f s.", len(a.acks), a.tried, seconds(a.gap.to-a.gap.from))
}

func (c Availability) measure(h *history.History, w span) activity {
	f := newFilter(c.Kinds, c.Targets)
	a := activity{firstOK: -1}
	for i := range h.Ops {
		op := &h.Ops[i]
		if !f.has(op) {
			continue
		}
		if op.Outcome == history.OK && w.has(op.Complete) {
			a.acks = append(a.acks, op.Complete)
		}
		if !w.has(op.Invoke) {
			continue
		}
		a.tried++
		switch op.Outcome {
		case history.Failed:
			a.failed++
		case history.Unknown:
			a.unknown++
		case history.OK:
			if w.has(op.Complete) && (a.firstOK < 0 || op.Complete < a.firstOK) {
				a.firstOK, a.firstOp = op.Complete, op
			}
		}
	}
	slices.Sort(a.acks)
	a.gap = longestGap(a.acks, w)
	for i := range h.Ops {
		if op := &h.Ops[i]; f.has(op) && c.waited(op, a.gap) {
			a.triedInGap++
		}
	}
	return a
}

// waited says whether op shows that clients tried in the gap: one that was under way in it, but not merely the one whose quick ack ended it.
func (c Availability) waited(op *history.Op, gap span) bool {
	if op.Invoke > gap.to || op.Complete != 0 && op.Complete <= gap.from {
		return false
	}
	return op.Outcome != history.OK || op.Complete != gap.to || gap.to-op.Invoke > nanos(c.MaxGapSeconds)
}

func (c Availability) violations(a activity, w span) []violation {
	none := violation{code: CodeUnavailable, promise: promiseAvail, reason: fmt.Sprintf("None of %d operations in %.1f s was acked.", a.tried, seconds(w.to-w.from))}
	long := violation{code: CodeGapTooLong, promise: promiseAvail, reason: fmt.Sprintf("Nothing was acked for %.3f s, %g s are allowed.", seconds(a.gap.to-a.gap.from), c.MaxGapSeconds)}
	late := violation{code: CodeLate, promise: promiseAvail}
	if len(a.acks) == 0 {
		none.count++
		none.seen.add(w.from, nil, "no ack from here to %.3f s later", seconds(w.to-w.from))
		return []violation{none}
	}
	if c.MaxGapSeconds > 0 && a.gap.to-a.gap.from > nanos(c.MaxGapSeconds) {
		long.count++
		long.seen.add(a.gap.from, nil, "no ack from %.3f s to %.3f s into the window, %d attempts", seconds(a.gap.from-w.from), seconds(a.gap.to-w.from), a.triedInGap)
	}
	if c.WithinSeconds > 0 && (a.firstOK < 0 || a.firstOK-w.from > nanos(c.WithinSeconds)) {
		late.count++
		late.reason = fmt.Sprintf("No operation invoked in the window was acked within %g s of its start.", c.WithinSeconds)
		if a.firstOp != nil {
			late.seen.add(a.firstOK, []int64{a.firstOp.ID}, "the first ack came after %.3f s", seconds(a.firstOK-w.from))
		}
	}
	return []violation{long, late}
}

// longestGap between the ascending times, and from and to the ends of w.
func longestGap(times []int64, w span) span {
	gap, last := span{w.from, w.from}, w.from
	for _, t := range append(slices.Clone(times), w.to) {
		if t = min(max(t, w.from), w.to); t-last > gap.to-gap.from {
			gap = span{last, t}
		}
		last = max(last, t)
	}
	return gap
}
