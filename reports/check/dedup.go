package check

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// Deduplication ("deduplication") holds publishes that were repeated under one message id against each other: inside the stream's window they are one message. It needs a
// workload that publishes again what was acked already; StreamAccounting says what became of the messages as such. It judges nothing whose attempts may lie
// further apart than the window, and an attempt without an answer may take effect at any time until the stream was read back.
type Deduplication struct {
	Target        string  `json:"target"`                   // the stream, as in Op.Target
	WindowSeconds float64 `json:"window_seconds,omitempty"` // the stream's duplicate window; 0 means 120
	MinRepeats    int     `json:"min_repeats,omitempty"`    // acked publishes of what had been acked before; fewer are Inconclusive; 0 means 1
}

const defaultWindow = 120.0

// identity is what the record says of one message id.
type identity struct {
	id       string
	from, to int64       // of all attempts that may have taken effect
	attempts int         //
	first    *history.Op // the ack that came first
	places   []uint64    // where it was read back
}

// Check implements Checker.
func (c Deduplication) Check(h *history.History) Result {
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
	ids, byID := c.identities(h, rb)
	twice := violation{code: CodeDuplicated, promise: promiseDedup}
	nowhere := violation{code: CodeAckedMissing, promise: promiseDedup}
	wrong := violation{code: CodeWrongSequence, promise: promiseDedup}
	window := nanos(orDefault(c.WindowSeconds, defaultWindow))
	beyond := 0
	for i := range ids {
		x := &ids[i]
		switch {
		case len(x.places) < 2:
		case x.to-x.from >= window:
			beyond++
		default:
			twice.count++
			twice.seen.add(x.from, nil, "%q is stored at sequences %d and %d; its %d attempts were made within %.3f s", x.id, x.places[0], x.places[1], x.attempts, seconds(x.to-x.from))
		}
	}
	repeats, recognized := 0, 0
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Publish || op.Target != c.Target || op.Outcome != history.OK {
			continue
		}
		x := &ids[byID[op.Value]]
		again := x.first != op && x.first.Complete < op.Invoke && op.Complete-x.from < window
		if again {
			repeats++
		}
		if !op.Dup {
			if again && op.Seq != x.first.Seq {
				twice.count++
				twice.seen.add(op.Complete, []int64{x.first.ID, op.ID}, "%q was acked at sequence %d, and %.3f s later again, as a new message, at %d", op.Value, x.first.Seq, seconds(op.Complete-x.first.Complete), op.Seq)
			}
			continue
		}
		recognized++
		switch it, ok := rb.at(op.Seq); {
		case ok && it.Value == op.Value:
		case len(x.places) == 0:
			nowhere.count++
			nowhere.seen.add(op.Complete, []int64{op.ID}, "%q was refused as a duplicate of sequence %d, and is not in the stream", op.Value, op.Seq)
		default:
			wrong.count++
			wrong.seen.add(op.Complete, []int64{op.ID}, "%q was refused as a duplicate of sequence %d, which holds %q; it is at %d", op.Value, op.Seq, it.Value, x.places[0])
		}
	}
	figures := []Figure{count("ids", len(ids)), count("repeats", repeats), count("recognized", recognized), count("stored_twice", twice.count), count("beyond_window", beyond),
		count("duplicate_of_nothing", nowhere.count), count("duplicate_of_another", wrong.count)}
	twice.reason = fmt.Sprintf("%d message ids were taken by %s twice within its window of %g s.", twice.count, c.Target, seconds(window))
	nowhere.reason = fmt.Sprintf("%d publishes were answered as duplicates of messages that are not in %s.", nowhere.count, c.Target)
	wrong.reason = fmt.Sprintf("%d publishes were answered as duplicates of another message of %s.", wrong.count, c.Target)
	if r, bad := found(figures, nowhere, twice, wrong); bad {
		return r
	}
	if need := orDefault(c.MinRepeats, 1); repeats < need {
		return inconclusive(figures, CodeTooFewTries, "%d publishes to %s repeated an acked one, at least %d are needed.", repeats, c.Target, need)
	}
	return passed(figures, "%d publishes repeated an acked message, and %s holds each of %d ids once.", repeats, c.Target, len(ids))
}

// identities gathers the message ids of the target, with an index by id.
func (c Deduplication) identities(h *history.History, rb readback) ([]identity, map[string]int32) {
	var ids []identity
	byID := make(map[string]int32, len(rb.items))
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Publish || op.Target != c.Target || op.Outcome == history.Failed {
			continue
		}
		n, ok := byID[op.Value]
		if !ok {
			n = int32(len(ids))
			byID[op.Value] = n
			ids = append(ids, identity{id: op.Value, from: op.Invoke})
		}
		x, end := &ids[n], op.Complete
		if op.Outcome == history.Unknown {
			end = max(end, rb.drain.At)
		}
		x.attempts++
		x.from, x.to = min(x.from, op.Invoke), max(x.to, end)
		if op.Outcome == history.OK && (x.first == nil || op.Complete < x.first.Complete) {
			x.first = op
		}
	}
	for i := range rb.items {
		if n, ok := byID[rb.items[i].Value]; ok {
			ids[n].places = append(ids[n].places, rb.items[i].Seq)
		}
	}
	return ids, byID
}
