package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Latency ("latency") compares how long operations take in one stretch of a run with how long the same operations of the same clients took in a calm
// one. Operations that are not answered OK count too: nobody waits for less because the answer was no.
type Latency struct {
	Calm     Window   `json:"calm"`
	Loaded   Window   `json:"loaded"`
	Kinds    []string `json:"kinds"`              // each is judged for itself
	Targets  []string `json:"targets,omitempty"`  // empty means all
	Quantile float64  `json:"quantile,omitempty"` // 0 means 0.99
	MaxRatio float64  `json:"max_ratio"`          // loaded : calm
	FloorMs  float64  `json:"floor_ms,omitempty"` // a calm figure below it counts as it: a ratio of microseconds says nothing
	MaxBad   int      `json:"max_bad,omitempty"`  // operations in the loaded stretch that may end otherwise than OK
	MinOps   int      `json:"min_ops,omitempty"`  // of each kind in each stretch; 0 means 100
}

const (
	defaultQuantile = 0.99
	defaultTimedOps = 100
)

// timed is what the operations of one kind took in one stretch.
type timed struct {
	ms  []float64 // ascending
	bad []*history.Op
}

// Check implements Checker.
func (c Latency) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	if len(c.Kinds) == 0 || c.MaxRatio <= 0 {
		return inconclusive(nil, CodeBadParams, "No kind of operation is named, or no ratio.")
	}
	calm, no := bounds(h, c.Calm)
	if no != nil {
		return *no
	}
	loaded, no := bounds(h, c.Loaded)
	if no != nil {
		return *no
	}
	slow := violation{code: CodeTooSlow, promise: promiseAvail}
	failed := violation{code: CodeOpsFailed, promise: promiseAvail}
	q := orDefault(c.Quantile, defaultQuantile)
	var figures []Figure
	var few *Result
	worst := 0.0
	for _, kind := range c.Kinds {
		was, is := c.time(h, kind, calm), c.time(h, kind, loaded)
		before, after := quantile(was.ms, q), quantile(is.ms, q)
		ratio := after / max(before, c.FloorMs, 1e-6)
		worst = max(worst, ratio)
		figures = append(figures, count(kind+" calm_ops", len(was.ms)), count(kind+" loaded_ops", len(is.ms)), count(kind+" not_ok", len(is.bad)),
			millis(kind+" calm_ms", before), millis(kind+" loaded_ms", after), Figure{Name: kind + " ratio", Value: round(ratio)})
		if need := orDefault(c.MinOps, defaultTimedOps); min(len(was.ms), len(is.ms)) < need && few == nil {
			r := inconclusive(nil, CodeTooFewOps, "There are %d operations %s in the calm stretch and %d in the loaded one, at least %d are needed.", len(was.ms), kind, len(is.ms), need)
			few = &r
			continue
		}
		if ratio > c.MaxRatio {
			slow.count++
			slow.seen.add(loaded.from, nil, "%s: %g of the operations took up to %.3f ms, %.3f ms in the calm stretch", kind, q, after, before)
		}
		failed.count += len(is.bad)
		for _, op := range is.bad {
			failed.seen.add(op.Invoke, []int64{op.ID}, "%s %d by %s ended %s (%s)", op.Kind, op.ID, op.Client, op.Outcome, orDash(op.Err))
		}
	}
	if few != nil {
		few.Figures = figures
		return *few
	}
	if failed.count <= c.MaxBad {
		failed.count = 0
	}
	slow.reason = fmt.Sprintf("%d kinds of operation became slower than %g times (quantile %g).", slow.count, c.MaxRatio, q)
	failed.reason = fmt.Sprintf("%d operations in the loaded stretch were not answered OK, %d may be.", failed.count, c.MaxBad)
	if r, bad := found(figures, failed, slow); bad {
		return r
	}
	return passed(figures, "Quantile %g became at most %.2f times of the calm one, %g are allowed.", q, worst, c.MaxRatio)
}

// time collects the operations of a kind that were invoked in w and answered, or given up.
func (c Latency) time(h *history.History, kind string, w span) (t timed) {
	f := newFilter([]string{kind}, c.Targets)
	for i := range h.Ops {
		op := &h.Ops[i]
		if !f.has(op) || !w.has(op.Invoke) {
			continue
		}
		done := op.Complete
		if done == 0 {
			done = h.End()
		}
		t.ms = append(t.ms, float64(done-op.Invoke)/1e6)
		if op.Outcome != history.OK && !lawful(op) {
			t.bad = append(t.bad, op)
		}
	}
	slices.Sort(t.ms)
	return t
}

// lawful says of a refused operation that it is how compare-and-set works: another client was first.
func lawful(op *history.Op) bool {
	return op.Outcome == history.Failed && op.Err == "conflict" && (op.Kind == history.Update || op.Kind == history.Create)
}

func millis(name string, v float64) Figure { return Figure{Name: name, Value: round(v), Unit: "ms"} }

// slowDown makes the operations of one kind in the loaded stretch take longer than the ratio allows.
func slowDown(h *history.History, c Latency, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Loaded)
	if no != nil {
		return no.Reason, false
	}
	calm, no := bounds(h, c.Calm)
	if no != nil {
		return no.Reason, false
	}
	kind := c.Kinds[rng.IntN(len(c.Kinds))]
	base := max(quantile(c.time(h, kind, calm).ms, orDefault(c.Quantile, defaultQuantile)), c.FloorMs)
	f := newFilter([]string{kind}, c.Targets)
	h.Ops = slices.Clone(h.Ops)
	n := 0
	for i := range h.Ops {
		if op := &h.Ops[i]; f.has(op) && w.has(op.Invoke) && op.Complete > 0 {
			op.Complete += int64((base*c.MaxRatio + 1) * 1e6)
			n++
		}
	}
	return fmt.Sprintf("made %d operations %s slower", n, kind), n > 0
}

// failSome makes more operations of the loaded stretch fail than may.
func failSome(h *history.History, c Latency, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Loaded)
	if no != nil {
		return no.Reason, false
	}
	f := newFilter(c.Kinds, c.Targets)
	h.Ops = slices.Clone(h.Ops)
	for n := range c.MaxBad + 1 {
		i := pick(rng, h.Ops, func(op *history.Op) bool { return f.has(op) && w.has(op.Invoke) && op.Outcome == history.OK })
		if i < 0 {
			return fmt.Sprintf("only %d operations could be made to fail", n), false
		}
		h.Ops[i].Outcome, h.Ops[i].Err, h.Ops[i].Seq = history.Unknown, "timeout", 0
	}
	return fmt.Sprintf("made %d operations of the loaded stretch fail", c.MaxBad+1), true
}
