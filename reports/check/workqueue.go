package check

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// WorkQueue ("work-queue") accounts for the jobs of a stream with the work-queue policy: each that was acked to its publisher was handed to a worker or is still in the stream;
// none came again in answer to a pull that was made after a worker's double ack had been confirmed. Until then a job may come as often as it likes. All workers share one
// consumer, and nothing but their acks takes jobs out.
type WorkQueue struct {
	Target     string `json:"target"`                // the stream, as in Op.Target and Delivery.Target
	MinAcked   int    `json:"min_acked,omitempty"`   // publishes; fewer are Inconclusive; 0 means 1
	MinHandled int    `json:"min_handled,omitempty"` // jobs whose double ack was confirmed; fewer are Inconclusive; 0 means 1
}

// job is what the record says of one message id.
type job struct {
	op       *history.Op // its first attempt that was acked, or the first one
	attempts int
	possible bool   // an attempt did not certainly fail
	seq      uint64 // where it was first seen, by a worker or in the stream; 0 for nowhere
	again    bool   // it was seen at another sequence too
}

// queue is the evidence about one stream.
type queue struct {
	target string
	jobs   map[string]*job
	order  []*job

	acked, handled, left, late, restored int

	lost, again, never, failed, twice, wrong violation
}

// Check implements Checker.
func (c WorkQueue) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	rb, no := drained(h, c.Target)
	if no != nil {
		return *no
	}
	q := newQueue(h, c.Target)
	if len(q.order) == 0 {
		return inconclusive(nil, CodeNoOps, "The record has no publish to %s.", c.Target)
	}
	q.deliveries(h)
	for _, it := range rb.items {
		q.left++
		q.place(it.Value, it.Seq, rb.drain.At, "the stream")
	}
	q.account()
	q.reasons()
	figures := []Figure{count("jobs", len(q.order)), count("acked", q.acked), count("handled", q.handled), count("left", q.left), count("lost", q.lost.count),
		count("redelivered_after_ack", q.again.count), count("arrived_late", q.late), count("never_sent", q.never.count), count("stored_twice", q.twice.count), count("stored_again_after_retry", q.restored),
		count("wrong_sequence", q.wrong.count)}
	if r, bad := found(figures, q.lost, q.again, q.never, q.failed, q.twice, q.wrong); bad {
		return r
	}
	if need := orDefault(c.MinAcked, 1); q.acked < need {
		return inconclusive(figures, CodeTooFewAcked, "%d jobs of %s were acked to their publishers, at least %d are needed.", q.acked, c.Target, need)
	}
	if need := orDefault(c.MinHandled, 1); q.handled < need {
		return inconclusive(figures, CodeTooFewArrived, "The ack of %d jobs of %s was confirmed, at least %d are needed.", q.handled, c.Target, need)
	}
	return passed(figures, "All %d acked jobs of %s were handed to a worker or are there (%d are), and none of the %d whose ack was confirmed came again.", q.acked, c.Target, q.left, q.handled)
}

func newQueue(h *history.History, target string) *queue {
	q := &queue{
		target: target, jobs: map[string]*job{},
		lost:   violation{code: CodeAckedMissing, promise: promiseQueue},
		again:  violation{code: CodeRedelivered, promise: promiseQueue},
		never:  violation{code: CodeNeverSent, promise: promiseLog},
		failed: violation{code: CodeFailedPresent, promise: promiseOutcome},
		twice:  violation{code: CodeDuplicated, promise: promiseLog},
		wrong:  violation{code: CodeWrongSequence, promise: promiseLog},
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Publish || op.Target != target {
			continue
		}
		j := q.jobs[op.Value]
		if j == nil {
			j = &job{op: op}
			q.jobs[op.Value] = j
			q.order = append(q.order, j)
		}
		j.attempts++
		j.possible = j.possible || op.Outcome != history.Failed
		if op.Outcome == history.OK && j.op.Outcome != history.OK {
			j.op = op
		}
	}
	return q
}

func (q *queue) reasons() {
	q.lost.reason = fmt.Sprintf("%d of %d acked jobs were handed to nobody and are not in %s.", q.lost.count, q.acked, q.target)
	q.again.reason = fmt.Sprintf("%d jobs of %s were handed out again after their acknowledgement had been confirmed.", q.again.count, q.target)
	q.never.reason = fmt.Sprintf("%d jobs of %s were never sent.", q.never.count, q.target)
	q.failed.reason = fmt.Sprintf("%d jobs of %s exist though every attempt to send them had certainly failed.", q.failed.count, q.target)
	q.twice.reason = fmt.Sprintf("%d jobs of %s that were sent once have two sequences.", q.twice.count, q.target)
	q.wrong.reason = fmt.Sprintf("%d acks named a sequence of %s at which something else was.", q.wrong.count, q.target)
}

// deliveries enters what workers were given.
func (q *queue) deliveries(h *history.History) {
	confirmed := map[uint64]*history.Delivery{} // sequence -> the delivery whose ack was confirmed first
	takes := func(d *history.Delivery) bool { return d.Target == q.target && d.Kind == kindPull }
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		if !takes(d) {
			continue
		}
		q.place(d.Value, d.Seq, d.At, d.Client)
		if old, ok := confirmed[d.Seq]; d.Ack == history.OK && d.Acked > 0 && (!ok || d.Acked < old.Acked) {
			confirmed[d.Seq] = d
		}
	}
	q.handled = len(confirmed)
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		first, ok := confirmed[d.Seq]
		switch {
		case !takes(d) || !ok || d.At <= first.Acked:
		case sentAfter(d, first.Acked, nanos(defaultSlack)):
			q.again.count++
			q.again.seen.add(d.At, nil, "%q (sequence %d) came to %s %.3f s after its ack by %s had been confirmed (the server counts %d deliveries)", d.Value, d.Seq, d.Client, seconds(d.At-first.Acked), first.Client, d.Count)
		default: // sent before, and long on its way
			q.late++
		}
	}
}

// place enters that a job was seen at a sequence.
func (q *queue) place(id string, seq uint64, at int64, where string) {
	j := q.jobs[id]
	switch {
	case j == nil:
		q.never.count++
		q.never.seen.add(at, nil, "%s had %q at sequence %d, which no client sent", where, id, seq)
	case j.seq == 0:
		j.seq = seq
		if !j.possible {
			q.failed.count++
			q.failed.seen.add(at, []int64{j.op.ID}, "the job of publish %d, which failed (%s), was at sequence %d (%s)", j.op.ID, orDash(j.op.Err), seq, where)
		}
	case j.seq != seq && !j.again:
		j.again = true
		if j.attempts > 1 { // a work queue's memory of ids is not durable for what was consumed
			q.restored++
			return
		}
		q.twice.count++
		q.twice.seen.add(at, []int64{j.op.ID}, "%q, sent once, was at sequence %d and at %d (%s)", id, j.seq, seq, where)
	}
}

// account holds the publishers' acks against where the jobs were seen.
func (q *queue) account() {
	for _, j := range q.order {
		if j.op.Outcome != history.OK {
			continue
		}
		q.acked++
		switch {
		case j.seq == 0:
			q.lost.count++
			q.lost.seen.add(j.op.Complete, []int64{j.op.ID}, "%q was acked at sequence %d, was handed to nobody and is not in the stream", j.op.Value, j.op.Seq)
		case !j.again && j.seq != j.op.Seq:
			q.wrong.count++
			q.wrong.seen.add(j.op.Complete, []int64{j.op.ID}, "%q was acked at sequence %d and was at %d", j.op.Value, j.op.Seq, j.seq)
		}
	}
}
