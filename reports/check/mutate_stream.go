package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// repeated picks a publish that was answered as a duplicate, and where its message is.
func (c Deduplication) repeated(h *history.History, rng *rand.Rand) (op, item int) {
	at := map[string]int{}
	for i := range h.Items {
		if h.Items[i].Target == c.Target {
			at[h.Items[i].Value] = i
		}
	}
	op = pick(rng, h.Ops, func(op *history.Op) bool {
		i, ok := at[op.Value]
		return op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && op.Dup && ok && h.Items[i].Seq == op.Seq
	})
	if op < 0 {
		return -1, -1
	}
	return op, at[h.Ops[op].Value]
}

// storeTwice keeps a repeated message a second time.
func storeTwice(h *history.History, c Deduplication, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		return op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && op.Dup
	})
	if i < 0 {
		return "no publish was answered as a duplicate", false
	}
	id := h.Ops[i].Value
	for k := range h.Ops { // an attempt without an answer may have come when the window was over
		if op := &h.Ops[k]; op.Value == id && op.Outcome == history.Unknown {
			return "an attempt had no answer", false
		}
	}
	it := appendItem(h, c.Target, history.Item{Value: id})
	return fmt.Sprintf("put %q a second time at sequence %d", id, it.Seq), true
}

// ackAsNew makes the answer to a repeated publish name a sequence of its own.
func ackAsNew(h *history.History, c Deduplication, rng *rand.Rand) (string, bool) {
	first := map[string]*history.Op{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if was := first[op.Value]; op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && (was == nil || op.Complete < was.Complete) {
			first[op.Value] = op
		}
	}
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		return op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && op.Dup && first[op.Value].Complete < op.Invoke
	})
	if i < 0 {
		return "no publish repeated an acked one", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Dup = false
	h.Ops[i].Seq++
	return fmt.Sprintf("made the ack of publish %d that of a new message", h.Ops[i].ID), true
}

func loseRepeated(h *history.History, c Deduplication, rng *rand.Rand) (string, bool) {
	_, i := c.repeated(h, rng)
	if i < 0 {
		return "no publish was answered as a duplicate", false
	}
	id := h.Items[i].Value
	removeItem(h, i)
	return fmt.Sprintf("took %q out, which a publish was said to be a duplicate of", id), true
}

func duplicateOfAnother(h *history.History, c Deduplication, rng *rand.Rand) (string, bool) {
	i, _ := c.repeated(h, rng)
	if i < 0 {
		return "no publish was answered as a duplicate", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Seq += 1 << 40
	return fmt.Sprintf("made publish %d a duplicate of sequence %d", h.Ops[i].ID, h.Ops[i].Seq), true
}

// pickAppend picks an acked conditional publish.
func (c Appends) pickAppend(h *history.History, rng *rand.Rand) int {
	return pick(rng, h.Ops, func(op *history.Op) bool {
		return op.Kind == history.Append && op.Target == c.Target && op.Outcome == history.OK
	})
}

// expectAnother changes what one acked conditional publish had expected.
func expectAnother(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	i := c.pickAppend(h, rng)
	if i < 0 {
		return "no conditional publish was acked", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	if op.After != "" && op.Seq == 1 {
		return "the first message has none before it", false
	}
	if op.After != "" {
		op.After = foreign
	} else {
		op.Prev += 1 << 40
	}
	return fmt.Sprintf("made publish %d expect the stream to end with %s", op.ID, wanted(op)), true
}

// expectAnotherUnanswered does so where the publisher never heard that its message was taken.
func expectAnotherUnanswered(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	note, ok := expectAnother(h, c, rng)
	if !ok {
		return note, false
	}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Append && (op.After == foreign || op.Prev >= 1<<40) {
			op.Outcome, op.Seq, op.Err = history.Unknown, 0, "timeout"
		}
	}
	return note + ", and took its ack away", true
}

// expectTheSame adds an acked publish that expects what another one expected.
func expectTheSame(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	i := c.pickAppend(h, rng)
	if i < 0 {
		return "no conditional publish was acked", false
	}
	op := h.Ops[i]
	op.ID, op.Value = invented(h), foreign
	it := appendItem(h, c.Target, history.Item{Value: foreign})
	op.Seq = it.Seq
	h.Ops = append(slices.Clone(h.Ops), op)
	return fmt.Sprintf("added an acked publish that expects what publish %d expects", h.Ops[i].ID), true
}

func dropAppend(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	acked := map[string]bool{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Append && op.Target == c.Target && op.Outcome == history.OK {
			acked[op.Value] = true
		}
	}
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target && acked[it.Value] })
	if i < 0 {
		return "no acked message was read back", false
	}
	it := h.Items[i]
	removeItem(h, i)
	return fmt.Sprintf("took acked message %q (sequence %d) out of what was read back", it.Value, it.Seq), true
}

// misplaceAppend makes an ack name the place behind the stream's end, and the publish expect that: only the stream shows that it is wrong.
func misplaceAppend(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	i := c.pickAppend(h, rng)
	if i < 0 {
		return "no conditional publish was acked", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	op.Seq += 1 << 40
	op.Prev, op.After = op.Seq-1, ""
	return fmt.Sprintf("made the ack of publish %d name sequence %d", op.ID, op.Seq), true
}

func insertAppend(h *history.History, c Appends, _ *rand.Rand) (string, bool) {
	it := appendItem(h, c.Target, history.Item{Value: foreign})
	return fmt.Sprintf("put a message that nobody sent at sequence %d", it.Seq), true
}

func duplicateAppend(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target })
	if i < 0 {
		return "nothing was read back", false
	}
	it := appendItem(h, c.Target, history.Item{Value: h.Items[i].Value})
	return fmt.Sprintf("put %q a second time at sequence %d", it.Value, it.Seq), true
}

func failAppend(h *history.History, c Appends, rng *rand.Rand) (string, bool) {
	i := c.pickAppend(h, rng)
	if i < 0 {
		return "no conditional publish was acked", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Outcome, h.Ops[i].Seq = history.Failed, 0
	return fmt.Sprintf("made publish %d fail, whose message is there", h.Ops[i].ID), true
}

func skipAppend(h *history.History, c Appends, _ *rand.Rand) (string, bool) {
	adjustDrain(h, c.Target, func(d *history.Drain) {
		d.Last++
		d.Missing++
	})
	return "made the stream's leader claim one more sequence than was read back", true
}

// pickJob picks a delivery of a job, of those that fit.
func (c WorkQueue) pickJob(h *history.History, rng *rand.Rand, fits func(d *history.Delivery) bool) int {
	return pick(rng, h.Deliveries, func(d *history.Delivery) bool {
		return d.Target == c.Target && d.Kind == kindPull && fits(d)
	})
}

func anyJob(*history.Delivery) bool { return true }

// loseJob takes an acked job away from every worker, and from the stream.
func loseJob(h *history.History, c WorkQueue, rng *rand.Rand) (string, bool) {
	acked, confirmed := ackedPublishes(h, c.Target), map[string]bool{}
	for i := range h.Deliveries {
		if d := &h.Deliveries[i]; d.Target == c.Target && d.Ack == history.OK {
			confirmed[d.Value] = true
		}
	}
	i := c.pickJob(h, rng, func(d *history.Delivery) bool { return acked[d.Value] != nil })
	if i < 0 || len(confirmed) < 2 {
		return "too few acked jobs were handed out", false
	}
	id := h.Deliveries[i].Value
	h.Deliveries = slices.DeleteFunc(slices.Clone(h.Deliveries), func(d history.Delivery) bool { return d.Target == c.Target && d.Value == id })
	for i := range h.Items {
		if h.Items[i].Target == c.Target && h.Items[i].Value == id {
			removeItem(h, i)
			break
		}
	}
	return fmt.Sprintf("took job %q away from everybody", id), true
}

func redeliverJob(h *history.History, c WorkQueue, rng *rand.Rand) (string, bool) {
	i := c.pickJob(h, rng, func(d *history.Delivery) bool { return d.Ack == history.OK && d.Acked > 0 })
	if i < 0 {
		return "no ack of a worker was confirmed", false
	}
	return deliverAgain(h, i, nanos(defaultSlack)), true
}

func inventJob(h *history.History, c WorkQueue, rng *rand.Rand) (string, bool) {
	i := c.pickJob(h, rng, anyJob)
	if i < 0 {
		return "no job was handed out", false
	}
	d := h.Deliveries[i]
	d.Value, d.Seq, d.Ack, d.Acked = foreign, d.Seq+1<<40, history.Unknown, 0
	h.Deliveries = append(slices.Clone(h.Deliveries), d)
	return fmt.Sprintf("handed a job that nobody sent to %s", d.Client), true
}

// forkJob hands a job out at a second sequence.
func forkJob(h *history.History, c WorkQueue, rng *rand.Rand) (string, bool) {
	i := c.pickJob(h, rng, anyJob)
	if i < 0 {
		return "no job was handed out", false
	}
	d := h.Deliveries[i]
	d.Seq, d.Ack, d.Acked = d.Seq+1<<40, history.Unknown, 0
	h.Deliveries = append(slices.Clone(h.Deliveries), d)
	return fmt.Sprintf("handed job %q out at sequence %d too", d.Value, d.Seq), true
}

// changeJob changes the publish of a job that was handed out.
func changeJob(f func(op *history.Op)) damage[WorkQueue] {
	return func(h *history.History, c WorkQueue, rng *rand.Rand) (string, bool) {
		out := map[string]bool{}
		for i := range h.Deliveries {
			if d := &h.Deliveries[i]; d.Target == c.Target && d.Kind == kindPull {
				out[d.Value] = true
			}
		}
		i := pick(rng, h.Ops, func(op *history.Op) bool {
			return op.Kind == history.Publish && op.Target == c.Target && op.Outcome == history.OK && out[op.Value]
		})
		if i < 0 {
			return "no acked job was handed out", false
		}
		h.Ops = slices.Clone(h.Ops)
		f(&h.Ops[i])
		return fmt.Sprintf("changed publish %d of job %q", h.Ops[i].ID, h.Ops[i].Value), true
	}
}

// ageRead makes a read return what was there before the client's own write.
func ageRead(h *history.History, c StaleReads, rng *rand.Rand) (string, bool) {
	if !c.Forbid {
		return "the check only counts", false
	}
	kind := history.Direct
	if c.Kind != "" {
		kind = history.Kind(c.Kind)
	}
	wrote := map[ownKey]int64{}
	for i := range h.Ops {
		op := &h.Ops[i]
		k := ownKey{op.Client, op.Key}
		if at, ok := wrote[k]; kvWrite(op, c.Target) && (!ok || op.Complete < at) {
			wrote[k] = op.Complete
		}
	}
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		at, ok := wrote[ownKey{op.Client, op.Key}]
		return op.Target == c.Target && op.Kind == kind && op.Outcome == history.OK && ok && at < op.Invoke
	})
	if i < 0 {
		return "nobody read what it had written", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Seq, h.Ops[i].Value = 0, ""
	return fmt.Sprintf("made read %d find nothing", h.Ops[i].ID), true
}

// dropMark takes away a mark that had to be there.
func dropMark(h *history.History, c Preconditions, rng *rand.Rand) (string, bool) {
	if len(c.Marks) == 0 {
		return "the check wants no mark", false
	}
	name := c.Marks[rng.IntN(len(c.Marks))]
	h.Events = slices.DeleteFunc(slices.Clone(h.Events), func(e history.Event) bool { return e.Kind == "mark" && e.Name == name })
	return fmt.Sprintf("took the mark %q away", name), true
}

// dropDrain takes away that a target was read back.
func dropDrain(h *history.History, c Preconditions, rng *rand.Rand) (string, bool) {
	if len(c.Drained) == 0 {
		return "the check wants nothing read back", false
	}
	target := c.Drained[rng.IntN(len(c.Drained))]
	h.Drains = slices.DeleteFunc(slices.Clone(h.Drains), func(d history.Drain) bool { return d.Target == target })
	return fmt.Sprintf("took away that %s was read back", target), true
}

// dropAfter takes the successes after the faults away.
func dropAfter(h *history.History, c Preconditions, _ *rand.Rand) (string, bool) {
	if c.MinAfter == 0 {
		return "the check wants nothing after the faults", false
	}
	var end int64
	for _, f := range faultRuns(h) {
		if f.healed != nil {
			end = max(end, f.healed.At)
		}
	}
	n := unack(h, opFilter{kinds: allKinds(h)}, span{end, h.End()})
	return fmt.Sprintf("made the %d acks after the last fault unknown", n), n > 0
}

func allKinds(h *history.History) map[history.Kind]bool {
	kinds := map[history.Kind]bool{}
	for i := range h.Ops {
		kinds[h.Ops[i].Kind] = true
	}
	return kinds
}

// skipRevision takes away from a watcher a revision that was written while it watched, and that is not the last one.
func skipRevision(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	began, last, wrote, held := map[string]int64{}, map[string]uint64{}, map[string]int64{}, map[uint64]bool{}
	for _, d := range h.Deliveries {
		if d.Target != c.Target || d.Kind != kindWatch {
			continue
		}
		if _, ok := began[d.Client]; !ok {
			began[d.Client] = d.At
		}
		last[d.Client] = max(last[d.Client], d.Seq)
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if at, ok := wrote[op.Value]; op.Target == c.Target && writes[op.Kind] && op.Outcome != history.Failed && (!ok || op.Invoke < at) {
			wrote[op.Value] = op.Invoke
		}
	}
	for _, it := range h.Items {
		if it.Target == c.Target {
			held[it.Seq] = true
		}
	}
	i := pick(rng, h.Deliveries, func(d *history.Delivery) bool {
		return d.Target == c.Target && d.Kind == kindWatch && c.takes(d.Kind) && wrote[d.Value] > began[d.Client] && d.Seq < last[d.Client] && held[d.Seq] && !hasPrefix(d.Key, reservedKeys)
	})
	if i < 0 {
		return "no watcher was given what was written after it had begun", false
	}
	d := h.Deliveries[i]
	h.Deliveries = slices.Delete(slices.Clone(h.Deliveries), i, i+1)
	return fmt.Sprintf("took revision %d away from watcher %s", d.Seq, d.Client), true
}
