package check

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// CASSerialized ("cas-serialized") looks for two acked conditional writes of one key that both expected the same revision: only one of them can have
// found it. It counts, in one pass, and searches nothing; KVLinearizable says more about a history that it can search. The workload must not
// delete keys, or a second Create would be lawful.
type CASSerialized struct {
	Target   string `json:"target"`              // the bucket, as in Op.Target
	MinAcked int    `json:"min_acked,omitempty"` // fewer acked conditional writes are Inconclusive; 0 means 1
}

// expectation is what a conditional write claims to have found.
type expectation struct {
	key  string
	prev uint64
}

// Check implements Checker.
func (c CASSerialized) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	twice := violation{code: CodeCASViolation, promise: promiseCAS}
	first := map[expectation]*history.Op{}
	attempts, acked, refused := 0, 0, 0
	keys := map[string]bool{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Target != c.Target || op.Kind != history.Update && op.Kind != history.Create {
			continue
		}
		attempts++
		if op.Outcome == history.Failed {
			refused++
		}
		if op.Outcome != history.OK {
			continue
		}
		if op.Seq == 0 {
			return inconclusive(nil, CodeBadRecord, "Write %d was acked without a revision.", op.ID)
		}
		acked++
		keys[op.Key] = true
		e := expectation{op.Key, op.Prev}
		if op.Kind == history.Create {
			e.prev = 0
		}
		was := first[e]
		if was == nil {
			first[e] = op
			continue
		}
		if was.Seq == op.Seq && was.Value == op.Value {
			continue // one write, acked again
		}
		twice.count++
		twice.seen.add(op.Complete, []int64{was.ID, op.ID}, "key %q: writes %d (of %s, revision %d) and %d (of %s, revision %d) were both acked and both expected revision %d",
			op.Key, was.ID, was.Client, was.Seq, op.ID, op.Client, op.Seq, e.prev)
	}
	figures := []Figure{count("attempts", attempts), count("acked", acked), count("refused", refused), count("keys", len(keys)), count("violations", twice.count)}
	twice.reason = fmt.Sprintf("%d of %d acked conditional writes to %s expected a revision that an earlier acked one had expected too.", twice.count, acked, c.Target)
	if r, bad := found(figures, twice); bad {
		return r
	}
	if need := orDefault(c.MinAcked, 1); acked < need {
		return inconclusive(figures, CodeTooFewAcked, "%d conditional writes to %s were acked, at least %d are needed.", acked, c.Target, need)
	}
	return passed(figures, "All %d acked conditional writes to %d keys of %s expected a revision of their own; %d were refused.", acked, len(keys), c.Target, refused)
}
