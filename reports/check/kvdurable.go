package check

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// reservedKeys are keys that unibus itself writes into its settings bucket.
var reservedKeys = []string{"unibus."}

// KVDurable ("kv-durable") compares the bucket as read back with what was acked: each key holds its last acked write, or a later one
// whose outcome the client never learned. Nothing in the workload deletes.
type KVDurable struct {
	Target  string   `json:"target"`             // the bucket, as in Op.Target
	MinKeys int      `json:"min_keys,omitempty"` // fewer keys with an acked write are Inconclusive; 0 means 1
	Ignore  []string `json:"ignore,omitempty"`   // prefixes of keys that are not the workload's; empty means "unibus."
}

// keyWrites is what was written to one key.
type keyWrites struct {
	last   *history.Op            // the acked write with the highest revision
	values map[string]*history.Op // value -> a write of it, one that may have taken effect if there is one
	acked  int
}

// Check implements Checker.
func (c KVDurable) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	rb, no := drained(h, c.Target)
	if no != nil {
		return *no
	}
	keys, byRev, n, r := c.writes(h, rb)
	if r != nil {
		return *r
	}
	if n == 0 {
		return inconclusive(nil, CodeNoOps, "The record has no write to %s.", c.Target)
	}
	missing, wrong, never, failed := c.compare(keys, byRev, rb)
	withAck := 0
	acked := 0
	for _, k := range keys {
		acked += k.acked
		if k.last != nil {
			withAck++
		}
	}
	figures := []Figure{count("writes", n), count("acked", acked), count("keys", len(keys)), count("keys_acked", withAck), count("items", len(rb.items)),
		count("acked_missing", missing.count), count("wrong_value", wrong.count), count("never_sent", never.count), count("failed_present", failed.count)}
	if r, bad := found(figures, missing, wrong, never, failed); bad {
		return r
	}
	if need := orDefault(c.MinKeys, 1); withAck < need {
		return inconclusive(figures, CodeTooFewKeys, "%d keys of %s had an acked write, at least %d are needed.", withAck, c.Target, need)
	}
	return passed(figures, "All %d keys of %s with acked writes (%d of %d writes) hold the last acked value or a later one that was sent.", withAck, c.Target, acked, n)
}

// writes indexes the writes to the bucket by key and by acked revision.
func (c KVDurable) writes(h *history.History, rb readback) (map[string]*keyWrites, map[uint64]*history.Op, int, *Result) {
	keys, byRev, n := map[string]*keyWrites{}, map[uint64]*history.Op{}, 0
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Target != c.Target || !writes[op.Kind] {
			continue
		}
		n++
		if op.Outcome == history.OK && op.Seq == 0 {
			r := inconclusive(nil, CodeBadRecord, "Write %d was acked without a revision.", op.ID)
			return nil, nil, 0, &r
		}
		if op.Invoke > rb.drain.At || op.Outcome == history.OK && op.Complete > rb.drain.At {
			r := inconclusive(nil, CodeOpsAfterDrain, "Write %d was still going on after %s had been read back.", op.ID, c.Target)
			return nil, nil, 0, &r
		}
		k := keys[op.Key]
		if k == nil {
			k = &keyWrites{values: map[string]*history.Op{}}
			keys[op.Key] = k
		}
		if old := k.values[op.Value]; old == nil || old.Outcome == history.Failed || old.Outcome == history.OK && op.Outcome == history.Unknown {
			k.values[op.Value] = op
		}
		if op.Outcome == history.OK {
			k.acked++
			byRev[op.Seq] = op
			if k.last == nil || op.Seq > k.last.Seq {
				k.last = op
			}
		}
	}
	return keys, byRev, n, nil
}

func (c KVDurable) compare(keys map[string]*keyWrites, byRev map[uint64]*history.Op, rb readback) (missing, wrong, never, failed violation) {
	missing = violation{code: CodeAckedMissing, promise: promiseAck}
	wrong = violation{code: CodeWrongValue, promise: promiseLog}
	never = violation{code: CodeNeverSent, promise: promiseLog}
	failed = violation{code: CodeFailedPresent, promise: promiseOutcome}
	ignore := c.Ignore
	if len(ignore) == 0 {
		ignore = reservedKeys
	}
	latest := map[string]history.Item{}
	for _, it := range rb.items {
		if old, ok := latest[it.Key]; !ok || it.Seq > old.Seq {
			latest[it.Key] = it
		}
	}
	absent, older := 0, 0
	for _, key := range sortedKeys(keys) {
		k := keys[key]
		it, ok := latest[key]
		switch {
		case k.last == nil:
		case !ok:
			absent++
			missing.seen.add(k.last.Complete, []int64{k.last.ID}, "key %q was acked at revision %d and is not in the bucket", key, k.last.Seq)
			continue
		case it.Seq < k.last.Seq:
			older++
			missing.seen.add(k.last.Complete, []int64{k.last.ID}, "key %q was acked at revision %d; the bucket holds revision %d", key, k.last.Seq, it.Seq)
			continue
		}
		if ok {
			judgeValue(it, k, byRev, rb.drain.At, &wrong, &never, &failed)
		}
	}
	for _, key := range sortedKeys(latest) {
		if keys[key] == nil && !hasPrefix(key, ignore) {
			never.count++
			never.seen.add(rb.drain.At, nil, "key %q at revision %d was never written by a client", key, latest[key].Seq)
		}
	}
	missing.count = absent + older
	missing.reason = fmt.Sprintf("%d keys of %s lost acked writes: %d are gone, %d hold an older revision.", missing.count, c.Target, absent, older)
	wrong.reason = fmt.Sprintf("%d keys of %s hold something else than what was acked at that revision.", wrong.count, c.Target)
	never.reason = fmt.Sprintf("%d keys of %s hold something that was never sent.", never.count, c.Target)
	failed.reason = fmt.Sprintf("%d keys of %s hold a write that had certainly failed.", failed.count, c.Target)
	return missing, wrong, never, failed
}

// judgeValue judges a key whose revision is not older than the last acked one.
func judgeValue(it history.Item, k *keyWrites, byRev map[uint64]*history.Op, at int64, wrong, never, failed *violation) {
	op := k.values[it.Value]
	acked := byRev[it.Seq]
	switch {
	case it.Del:
		wrong.count++
		wrong.seen.add(at, nil, "key %q is deleted at revision %d, and nothing deletes", it.Key, it.Seq)
	case acked != nil && (acked.Key != it.Key || acked.Value != it.Value):
		wrong.count++
		wrong.seen.add(at, []int64{acked.ID}, "revision %d was acked for key %q with value %q; it holds key %q with %q", it.Seq, acked.Key, acked.Value, it.Key, it.Value)
	case acked != nil:
	case op == nil:
		never.count++
		never.seen.add(at, nil, "key %q holds %q at revision %d, which no client sent", it.Key, it.Value, it.Seq)
	case op.Outcome == history.Failed:
		failed.count++
		failed.seen.add(op.Complete, []int64{op.ID}, "key %q holds the value of write %d, which failed", it.Key, op.ID)
	case op.Outcome == history.OK: // acked at another revision, and written once
		wrong.count++
		wrong.seen.add(op.Complete, []int64{op.ID}, "key %q holds at revision %d the value that was acked at revision %d", it.Key, it.Seq, op.Seq)
	}
}
