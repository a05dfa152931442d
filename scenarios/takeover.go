package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

const (
	takeoverPoll   = 100 * time.Millisecond
	takeoverPrefix = "takeover-"
)

// takeover is what was seen of who leads while a fault lasted.
type takeover struct {
	looks, leaderless, changes int
	seconds                    float64 // until another node than at first led; how long was looked where none did
	moved                      bool
	was                        cluster.NodeID // who led at the last look with a leader
}

// see takes one look, after so many seconds. No leader is "".
func (t *takeover) see(leader cluster.NodeID, after float64) {
	t.looks++
	switch {
	case leader == "":
		t.leaderless++
	case leader != t.was:
		if !t.moved {
			t.moved, t.seconds = true, after
		}
		t.changes++
		t.was = leader
	}
	if !t.moved {
		t.seconds = after
	}
}

// watchLeader keeps the cluster as it is for d, and measures after how long another node leads the orders stream than the one that did when the fault of
// that name was decided on. That of which nobody hears leads until its peers elect another one.
func watchLeader(name string, sel faults.Selector, d time.Duration) Step {
	return Step{fmt.Sprintf("unwell for %v; who leads", d), func(ctx context.Context, r *Run) error {
		t := takeover{}
		leads := sel.Name() == faults.Leader(ordersCopies).Name()
		if leads {
			t.was = r.picked[name][0]
		} else if id, err := observe.Leader(ctx, r.Cluster, ordersCopies); err == nil {
			t.was = id
		}
		first, began := t.was, time.Now()
		for time.Since(began) < d {
			id, err := observe.Leader(ctx, r.Cluster, ordersCopies)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				id = ""
			}
			t.see(id, time.Since(began).Seconds())
			if err := wait(ctx, takeoverPoll); err != nil {
				return err
			}
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: takeoverPrefix + name, Nodes: []string{string(first)}, Data: map[string]any{
			"another_leads": flag(t.moved), "seconds": t.seconds, "changes": float64(t.changes), "looks": float64(t.looks), "led_looks": float64(t.looks - t.leaderless)}})
		return nil
	}}
}

// takeoverSeen claims that it was looked who leads, and reports what was seen. A leader that is merely unwell may go on leading.
func takeoverSeen(name string, d time.Duration) reports.Claim {
	looks := d.Seconds() / 5 // a look may take seconds where a node hardly answers
	return claim(name+"-takeover", "Somebody led while the fault lasted; after how many seconds another node led than at first, if one did, is reported.",
		check.Measured{Names: []string{takeoverPrefix + name}, Needs: []check.Bound{check.AtLeast("looks", looks), check.AtLeast("seconds", 0), check.AtLeast("another_leads", 0)},
			Bounds: []check.Bound{check.AtLeast("led_looks", 1)}})
}
