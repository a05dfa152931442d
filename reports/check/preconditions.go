package check

import (
	"fmt"
	"math"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// Preconditions ("preconditions") says whether the run exercised enough to be judged. It never says Fail: a run that did too little
// says nothing against the cluster.
type Preconditions struct {
	MinOps    int      `json:"min_ops,omitempty"`    // in the whole record; 0 means 1, and -1 none
	MinBefore int      `json:"min_before,omitempty"` // OK operations that returned before the first fault was decided
	MinDuring int      `json:"min_during,omitempty"` // operations invoked while a fault was in force
	MinAfter  int      `json:"min_after,omitempty"`  // OK operations invoked after the last fault was healed
	Targets   []string `json:"targets,omitempty"`    // whose operations count; empty means all
	Marks     []string `json:"marks,omitempty"`      // that the record must have
	Drained   []string `json:"drained,omitempty"`    // targets with a complete drain
}

// Check implements Checker.
func (c Preconditions) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	t := c.tally(h)
	figures := []Figure{count("ops", t.ops), count("ok", t.ok), count("before", t.before), count("during", t.during), count("after", t.after), count("faults", t.faults)}
	for _, x := range []struct {
		code, what string
		have, need int
	}{
		{CodeTooFewOps, "operations in the record", t.ops, orDefault(c.MinOps, 1)},
		{CodeTooFewBefore, "operations acked before the first fault", t.before, c.MinBefore},
		{CodeTooFewDuring, "operations invoked while a fault was in force", t.during, c.MinDuring},
		{CodeTooFewAfter, "operations acked after the last fault was healed", t.after, c.MinAfter},
	} {
		if x.have < x.need {
			return inconclusive(figures, x.code, "There are %d %s, at least %d are needed.", x.have, x.what, x.need)
		}
	}
	var lack []string
	for _, m := range c.Marks {
		if _, ok := h.Mark(m); !ok {
			lack = append(lack, fmt.Sprintf("%q", m))
		}
	}
	if len(lack) > 0 {
		return inconclusive(figures, CodeNoMark, "These things had to happen and did not: %s.", strings.Join(lack, ", "))
	}
	for _, target := range c.Drained {
		if _, no := drained(h, target); no != nil {
			no.Figures = figures
			return *no
		}
	}
	return passed(figures, "%d operations (%d before, %d during, %d after %d faults), %d marks and %d complete drains are there.",
		t.ops, t.before, t.during, t.after, t.faults, len(c.Marks), len(c.Drained))
}

type tally struct{ ops, ok, before, during, after, faults int }

func (c Preconditions) tally(h *history.History) tally {
	runs := faultRuns(h)
	t := tally{faults: len(runs)}
	begin, end := int64(math.MaxInt64), int64(math.MaxInt64)
	var on []span
	if len(runs) > 0 {
		end = 0
	}
	for _, f := range runs {
		if f.decided != nil {
			begin = min(begin, f.decided.At)
		}
		if f.inForce != nil {
			s := span{f.inForce.At, math.MaxInt64}
			if f.healing != nil {
				s.to = f.healing.At
			}
			on = append(on, s)
		}
		if f.healed == nil {
			end = math.MaxInt64
		} else {
			end = max(end, f.healed.At)
		}
	}
	filter := opFilter{targets: newFilter(nil, c.Targets).targets}
	for i := range h.Ops {
		op := &h.Ops[i]
		if filter.targets != nil && !filter.targets[op.Target] {
			continue
		}
		t.ops++
		good := op.Outcome == history.OK
		if good {
			t.ok++
		}
		if good && t.faults > 0 && op.Complete < begin {
			t.before++
		}
		if good && op.Invoke > end {
			t.after++
		}
		for _, s := range on {
			if s.has(op.Invoke) {
				t.during++
				break
			}
		}
	}
	return t
}
