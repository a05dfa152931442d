package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// Layout of the gap chart.
const (
	gapRow     = 26.0
	gapLeft    = 190.0
	gapTop     = 8.0
	gapFloorMS = 1.0 // the log scale starts here
)

// gapChart is the longest time that each client went without success, by class.
type gapChart struct {
	Claim         string
	Width, Height float64
	Left, Right   float64
	Rows          []gapRowData
	Ticks         []tick
	AxisY         float64
}

type gapRowData struct {
	Label          string
	Y              float64
	Dots           []gapDot
	Median, Longer float64 // x of the median; y of the text
	Text           string
}

type gapDot struct {
	X     float64
	Title string
}

// gapOf is one client's longest gap.
type gapOf struct {
	client string
	ms     float64
}

// drawGaps draws the clients' gaps for each claim that speaks of them.
func drawGaps(claims []Judged, h *history.History) []gapChart {
	var cs []gapChart
	for _, j := range claims {
		if j.Claim.Spec.Checker != "client-gaps" {
			continue
		}
		var p check.ClientGaps
		if json.Unmarshal(j.Claim.Spec.Params, &p) != nil {
			continue // the checker itself has refused it
		}
		from, to, err := p.Window.Bounds(h)
		if err != nil {
			continue
		}
		if g := gapsOf(h, p, from, to); len(g) > 0 {
			cs = append(cs, layoutGaps(j.Claim.ID, g, p.Classes))
		}
	}
	return cs
}

// life is when a client showed up, and its successes.
type life struct {
	from int64
	ok   []int64
}

// gapsOf measures between successes (acked operations and deliveries), from a client's first sign of life in the window to the window's end.
func gapsOf(h *history.History, p check.ClientGaps, from, to int64) []gapOf {
	by := map[string]*life{}
	see := func(client string, sign, success int64) {
		if sign > to || len(p.Clients) > 0 && !hasPrefix(client, p.Clients) {
			return
		}
		l := by[client]
		if l == nil {
			l = &life{from: max(sign, from)}
			by[client] = l
		}
		l.from = min(l.from, max(sign, from))
		if success >= from && success <= to && success > 0 {
			l.ok = append(l.ok, success)
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		success := int64(0)
		if op.Outcome == history.OK {
			success = op.Complete
		}
		see(op.Client, op.Invoke, success)
	}
	for i := range h.Deliveries {
		see(h.Deliveries[i].Client, h.Deliveries[i].At, h.Deliveries[i].At)
	}
	for i := range h.Conns {
		see(h.Conns[i].Client, h.Conns[i].At, 0)
	}
	var gs []gapOf
	for client, l := range by {
		gs = append(gs, gapOf{client, float64(l.longest(to)) / 1e6})
	}
	slices.SortFunc(gs, func(a, b gapOf) int { return strings.Compare(a.client, b.client) })
	return gs
}

func (l *life) longest(to int64) int64 {
	slices.Sort(l.ok)
	longest, last := int64(0), l.from
	for _, t := range append(l.ok, to) {
		longest, last = max(longest, t-last), t
	}
	return longest
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

func classOf(client string, classes map[string][]string, names []string) string {
	for _, n := range names {
		if hasPrefix(client, classes[n]) {
			return n
		}
	}
	return "clients"
}

func layoutGaps(claim string, gs []gapOf, classes map[string][]string) gapChart {
	var names []string
	for n := range classes {
		names = append(names, n)
	}
	slices.Sort(names)
	c := gapChart{Claim: claim, Width: chartWidth, Left: gapLeft, Right: chartWidth - 250}
	top := gapFloorMS * 10
	by := map[string][]gapOf{}
	for _, g := range gs {
		n := classOf(g.client, classes, names)
		by[n] = append(by[n], g)
		top = max(top, g.ms)
	}
	hi := math.Ceil(math.Log10(top))
	x := func(v float64) float64 { return r1(c.Left + (c.Right-c.Left)*math.Log10(max(v, gapFloorMS))/hi) }
	for _, n := range append(names, "clients") {
		if len(by[n]) > 0 {
			c.Rows = append(c.Rows, gapLine(n, by[n], gapTop+float64(len(c.Rows))*gapRow, x))
		}
	}
	c.AxisY = gapTop + float64(len(c.Rows))*gapRow + 4
	c.Height = c.AxisY + 20
	for e := 0.0; e <= hi; e++ {
		label := number(math.Pow(10, e)) + " ms"
		if e >= 3 {
			label = number(math.Pow(10, e-3)) + " s"
		}
		c.Ticks = append(c.Ticks, tick{x(math.Pow(10, e)), label})
	}
	return c
}

func gapLine(name string, gs []gapOf, y float64, x func(float64) float64) gapRowData {
	r := gapRowData{Label: name, Y: y + gapRow/2, Longer: y + gapRow/2 + 4}
	var vs []float64
	for _, g := range gs {
		vs = append(vs, g.ms)
		r.Dots = append(r.Dots, gapDot{x(g.ms), fmt.Sprintf("%s: %s", g.client, seconds(g.ms))})
	}
	slices.Sort(vs)
	mid := vs[len(vs)/2]
	if len(vs)%2 == 0 {
		mid = (vs[len(vs)/2-1] + vs[len(vs)/2]) / 2
	}
	r.Median = x(mid)
	r.Text = fmt.Sprintf("n %d, median %s, max %s", len(vs), seconds(mid), seconds(vs[len(vs)-1]))
	return r
}

func seconds(ms float64) string {
	if ms >= 1000 {
		return number(math.Round(ms/10)/100) + " s"
	}
	return number(math.Round(ms*10)/10) + " ms"
}

// LabelX is where the labels of classes end.
func (g gapChart) LabelX() float64 { return g.Left - 12 }

// TextX is where the numbers of a class begin.
func (g gapChart) TextX() float64 { return g.Right + 10 }

// TickY is the base line of the axis.
func (g gapChart) TickY() float64 { return g.AxisY + 13 }

// MedFrom and MedTo are the ends of the median's bar.
func (r gapRowData) MedFrom() float64 { return r.Y - 11 }

// MedTo is the lower end.
func (r gapRowData) MedTo() float64 { return r.Y + 11 }
