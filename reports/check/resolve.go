package check

import (
	"errors"
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// ErrUnsettled is wrapped by Resolve where the record cannot settle anything.
var ErrUnsettled = errors.New("unknown publishes cannot be settled")

// Settlement is what became of one publish whose client never learned its outcome.
type Settlement struct {
	Op      int64           `json:"op"`
	Outcome history.Outcome `json:"outcome"`       // OK: its message id is in the stream; Failed: it is not, and the run is over
	Seq     uint64          `json:"seq,omitempty"` // where it is
}

// Resolution settles every Unknown publish of one stream from what was read back. It is kept beside the record, never in it.
type Resolution struct {
	Target  string       `json:"target"`
	Present int          `json:"present"`
	Absent  int          `json:"absent"`
	Settled []Settlement `json:"settled"` // in the order of the record
}

// Resolve settles the Unknown publishes to target. That is sound only because message ids are unique, a retry being the same
// message, and because nothing may leave the stream: what is not there after a complete drain did not take effect. A message that
// is present may be another attempt's doing; for the message that makes no difference.
func Resolve(h *history.History, target string) (Resolution, error) {
	rb, no := drained(h, target)
	if no != nil {
		return Resolution{}, fmt.Errorf("%w: %s", ErrUnsettled, no.Reason)
	}
	return resolve(h, target, rb), nil
}

func resolve(h *history.History, target string, rb readback) Resolution {
	r := Resolution{Target: target}
	open := map[string]uint64{} // only the ids in question, so that a run without timeouts costs nothing
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Publish && op.Target == target && op.Outcome == history.Unknown {
			open[op.Value] = 0
		}
	}
	if len(open) == 0 {
		return r
	}
	for i := range rb.items {
		if seq, ok := open[rb.items[i].Value]; ok && seq == 0 {
			open[rb.items[i].Value] = rb.items[i].Seq
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Publish || op.Target != target || op.Outcome != history.Unknown {
			continue
		}
		s := Settlement{Op: op.ID, Outcome: history.Failed}
		if seq := open[op.Value]; seq != 0 {
			s.Outcome, s.Seq = history.OK, seq
			r.Present++
		} else {
			r.Absent++
		}
		r.Settled = append(r.Settled, s)
	}
	return r
}
