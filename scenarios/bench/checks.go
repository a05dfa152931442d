package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

const (
	accountingOps  = 1_000_000
	accountedPubs  = 100
	checkedOps     = 200_000
	wantChecked    = 3.0 // seconds
	checkedRepeats = 3
)

// Rows of the part.
const (
	rowAccounting = "accounting"
	rowChecks     = "checks"
)

func checksPart() part {
	return part{name: "checkers", doc: "the speed of judging a record", rows: []string{rowAccounting, rowChecks}, bound: 3 * time.Minute, run: checks}
}

func checks(_ context.Context, s *suite, rows []string) (out []Row, err error) {
	if slices.Contains(rows, rowAccounting) {
		row, err := accounting()
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	if slices.Contains(rows, rowChecks) {
		row, err := allChecks(s)
		if err != nil {
			return out, err
		}
		out = append(out, row)
	}
	return out, nil
}

// accounting judges a made-up history of a million acked publishes.
func accounting() (Row, error) {
	h := &history.History{}
	for i := range int64(accountingOps) {
		v := fmt.Sprintf("m-%d", i)
		h.Ops = append(h.Ops, history.Op{ID: i + 1, Client: fmt.Sprintf("p-%d", i%accountedPubs), Kind: history.Publish, Target: "T", Value: v,
			Invoke: i * 1000, Complete: i*1000 + 900, Outcome: history.OK, Seq: uint64(i + 1)})
		h.Items = append(h.Items, history.Item{Target: "T", Seq: uint64(i + 1), Value: v})
	}
	h.Drains = []history.Drain{{Target: "T", At: accountingOps * 1000, Complete: true, Items: accountingOps, First: 1, Last: accountingOps}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	r := check.StreamAccounting{Target: "T", MinAcked: accountingOps}.Check(h)
	took := time.Since(began).Seconds()
	runtime.ReadMemStats(&after)
	if r.Verdict != check.Pass {
		return Row{}, fmt.Errorf("a good history is judged %s: %s", r.Verdict, r.Reason)
	}
	return Row{Name: rowAccounting, What: "stream accounting of 1,000,000 operations", Value: took, Unit: "s", Certain: true,
		Figure: fmt.Sprintf("%.2f s, %.0f bytes allocated an operation", took, float64(after.TotalAlloc-before.TotalAlloc)/accountingOps)}, nil
}

// allChecks judges a made-up history by every checker that the standard scenarios use, one after the other.
func allChecks(s *suite) (Row, error) {
	h := madeHistory(checkedOps)
	var total []float64
	var slowest string
	most := 0.0
	for range checkedRepeats {
		began := time.Now()
		for _, c := range madeClaims() {
			one := time.Now()
			r, err := c.Spec.Run(h)
			if err != nil {
				return Row{}, err
			}
			if r.Verdict != check.Pass {
				return Row{}, fmt.Errorf("%s: a good history is judged %s: %s", c.ID, r.Verdict, r.Reason)
			}
			if d := time.Since(one).Seconds(); d > most {
				most, slowest = d, c.ID
			}
		}
		total = append(total, time.Since(began).Seconds())
		s.Note("all checkers: %.2f s", total[len(total)-1])
	}
	x := spreadOf(total)
	row := Row{Name: rowChecks, What: fmt.Sprintf("%d checkers on %s operations with %s deliveries", len(madeClaims()), short(checkedOps), short(float64(len(h.Deliveries)))),
		Spread: &x, Value: x.Median, Unit: "s", Figure: fmt.Sprintf("%.2f s (median of %d), most of it %s with %.2f s", x.Median, x.N, slowest, most)}
	return row.below(wantChecked, "< 3 s"), nil
}
