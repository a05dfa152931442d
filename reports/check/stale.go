package check

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// StaleReads ("monotonic-direct") measures how many reads were older than an acked write of the same client to the same key. NATS documents
// that any replica may answer a direct get, so for those this is reported and never Fail, unless a claim demands otherwise.
type StaleReads struct {
	Target string `json:"target"`           // the bucket, as in Op.Target
	Kind   string `json:"kind,omitempty"`   // "direct" or "get"; "" means "direct"
	Forbid bool   `json:"forbid,omitempty"` // a stale read is a Fail: the claim is that clients read their own writes
}

// CodeStaleRead means that a client did not read its own acked write.
const CodeStaleRead = "stale-read"

// ownKey is one client's view of one key.
type ownKey struct{ client, key string }

// ownWrites are a client's acked writes to a key, in order of completion, with the highest revision so far.
type ownWrites struct {
	done []int64
	high []uint64
}

// before is the highest revision that the client knew to be written at time t.
func (o *ownWrites) before(t int64) uint64 {
	for i := len(o.done) - 1; i >= 0; i-- { // a client writes one after the other: the last ones are the near ones
		if o.done[i] < t {
			return o.high[i]
		}
	}
	return 0
}

// Check implements Checker.
func (c StaleReads) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	kind := history.Direct
	if c.Kind != "" {
		kind = history.Kind(c.Kind)
	}
	if kind != history.Direct && kind != history.Get {
		return inconclusive(nil, CodeBadParams, "There is no read of kind %q.", c.Kind)
	}
	own := map[ownKey]*ownWrites{}
	var direct, compared, stale int
	var worst uint64
	var seen witnesses
	for i := range h.Ops { // the record is in the order of completion
		op := &h.Ops[i]
		if op.Target != c.Target || op.Outcome != history.OK {
			continue
		}
		k := ownKey{op.Client, op.Key}
		o := own[k]
		switch {
		case op.Kind == kind:
			direct++
			if o == nil {
				continue
			}
			rev := o.before(op.Invoke)
			if rev == 0 {
				continue
			}
			compared++
			if op.Seq < rev {
				stale++
				worst = max(worst, rev-op.Seq)
				seen.add(op.Complete, []int64{op.ID}, "client %s read key %q at revision %d after its own write of revision %d was acked", op.Client, op.Key, op.Seq, rev)
			}
		case writes[op.Kind]:
			if o == nil {
				o = &ownWrites{}
				own[k] = o
			}
			high := op.Seq
			if n := len(o.high); n > 0 {
				high = max(high, o.high[n-1])
			}
			o.done, o.high = append(o.done, op.Complete), append(o.high, high)
		}
	}
	figures := []Figure{count(string(kind)+"_reads", direct), count("comparable", compared), count("stale", stale), {Name: "worst_revisions_behind", Value: float64(worst)}}
	if compared == 0 {
		return inconclusive(figures, CodeTooFewOps, "No %s read of %s followed an acked write of the same client to the same key.", kind, c.Target)
	}
	share := 100 * float64(stale) / float64(compared)
	figures = append(figures, Figure{Name: "stale_share", Value: round(share), Unit: "%"})
	if c.Forbid && stale > 0 {
		v := violation{code: CodeStaleRead, count: stale, promise: promiseKV, seen: seen,
			reason: fmt.Sprintf("%d of %d %s reads (%.2f %%) were older than the client's own acked write.", stale, compared, kind, share)}
		r, _ := found(figures, v)
		return r
	}
	if kind == history.Get {
		r := passed(figures, "%d of %d reads answered by the leader (%.2f %%) were older than the client's own acked write.", stale, compared, share)
		r.Witnesses = seen
		return r
	}
	r := passed(figures, "%d of %d direct reads (%.2f %%) were older than the client's own acked write; NATS documents that any replica may answer a direct get.", stale, compared, share)
	r.Witnesses = seen
	return r
}
