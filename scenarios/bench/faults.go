package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
)

// What is wanted of the time from the decision for a fault to the probe that sees it in force, in milliseconds.
const (
	wantFaultMedian = 20
	wantFaultP99    = 100
	wantClockP99    = 300
	// faultBound is for all injections of one fault: those that take long are measured less often.
	faultBound = 20 * time.Second
)

// excluded are faults whose time depends on how much data there is.
const excluded = "disk"

// polite are the faults that are in force when a process has ended of its own will, or has used up its memory: how long that takes is the victim's affair, so nothing is wanted of it.
var polite = map[string]bool{"fault-stop": true, "fault-restart": true, "fault-oom-kill": true}

func faultsPart() part {
	p := part{name: "faults", doc: "from the decision for a fault to the probe that sees it in force", bound: 12 * time.Minute, run: measureFaults}
	for _, e := range faults.Catalogue() {
		if e.Group != excluded {
			p.rows = append(p.rows, "fault-"+e.Name)
		}
	}
	return p
}

// measureFaults injects every fault again and again into one healthy cluster. A fault that this machine cannot do has a row that says why.
func measureFaults(ctx context.Context, s *suite, rows []string) (out []Row, err error) {
	missing := s.Backend.Capabilities()
	_, _, err = s.upDown(ctx, "faults", s.Plain, func(c cluster.Cluster) error {
		for _, e := range faults.Catalogue() {
			name := "fault-" + e.Name
			if len(only([]Row{{Name: name}}, rows)) == 0 {
				continue
			}
			row := Row{Name: name, What: e.Name + ", decided to in force", Unit: "ms"}
			if why := missing.Missing(e.Needs...); why != "" {
				row.Figure = "NOT RUN: " + why
				out = append(out, row)
				continue
			}
			ms, err := injectOften(ctx, c, e, s.Repeats)
			if err != nil {
				return fmt.Errorf("fault %s: %w", e.Name, err)
			}
			out = append(out, faultRow(row, e.Group, spreadOf(ms)))
			s.Note("%s: %s", name, out[len(out)-1].Figure)
		}
		return nil
	})
	return out, err
}

func injectOften(ctx context.Context, c cluster.Cluster, e faults.Entry, repeats int) (ms []float64, err error) {
	inj := &faults.Injector{Cluster: c, Report: func(stage string, _ faults.Fault, _ faults.Observation, took time.Duration) {
		if stage == faults.StageInForce {
			ms = append(ms, float64(took.Microseconds())/1000)
		}
	}}
	began := time.Now()
	for i := range repeats {
		if i > 0 && time.Since(began) > faultBound {
			break
		}
		if err := inj.Run(ctx, e.Make(victims(c, i, 1+e.More())...), func(context.Context) error { return nil }); err != nil {
			return ms, err
		}
	}
	return ms, nil
}

// victims are n nodes of a cluster, other ones each time.
func victims(c cluster.Cluster, turn, n int) (ids []cluster.NodeID) {
	nodes := c.Nodes()
	for k := range n {
		ids = append(ids, nodes[(turn+k)%len(nodes)].ID())
	}
	return ids
}

func faultRow(row Row, group string, x Spread) Row {
	p99 := float64(wantFaultP99)
	if group == "clock" {
		p99 = wantClockP99
	}
	row.Spread, row.Value, row.Certain = &x, x.P99, true
	row.Figure = fmt.Sprintf("median %.1f ms, p99 %.1f ms, max %.1f ms (n=%d)", x.Median, x.P99, x.Max, x.N)
	if polite[row.Name] {
		row.Figure += ", the daemon's own part in its end included"
		return row
	}
	row.Wanted = fmt.Sprintf("median < %d ms, p99 < %.0f ms", wantFaultMedian, p99)
	row.Met = x.N > 0 && x.Median < wantFaultMedian && x.P99 < p99
	return row
}
