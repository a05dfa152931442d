package reports

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/unibus/unibus/reports/history"
)

// Layout of the chart, in the units of its viewBox. Everything shares one time axis.
const (
	chartWidth  = 1240.0
	gutterLeft  = 104.0
	gutterRight = 14.0
	laneHeight  = 20.0
	panelGap    = 26.0
	latencyTall = 270.0
	rateTall    = 100.0
	stripTall   = 13.0
	charWidth   = 6.1 // of the chart's 11 px font, to see whether a label fits

	maxDots      = 4000 // drawn operations
	maxBadDots   = 2500 // of which failed and unknown
	perSlice     = 4    // acked operations kept of each slice of time, where they are too many
	maxFaultLane = 8
	maxLeadLane  = 4
	maxRateBins  = 600
	maxMarkRows  = 3
	maxSpans     = 4000 // of one health strip
)

// chart is what the template draws. Paths are finished, because thousands of separate elements make a page slow.
type chart struct {
	Width, Height          float64
	Left, Right            float64
	Top, Bottom            float64 // of the shaded bands and grid lines
	Ticks                  []tick
	Bands                  []band
	FaultLanes             []lane
	LeaderLanes            []lane
	Lat                    panel
	OK, Failed, Unknown    string
	NOK, NFailed, NUnknown int
	Never                  float64 // y of the row for operations without any answer; 0 for none
	Sampling               string
	Rate                   panel
	RateOK, RateBad        string
	RateUnit               string
	Strips                 []strip
	StripLabelY            float64
	Marks                  []mark
	MarksY                 float64
	AxisY                  float64
	Seconds                float64
}

type tick struct {
	X     float64
	Label string
}

type band struct {
	X, W  float64
	Class string
	Title string
}

type lane struct {
	Label string
	Y     float64
	Bars  []bar
}

type bar struct {
	X, W          float64
	Class         string
	Title         string
	Label         string
	LabelX, TextY float64
}

type panel struct {
	Title string
	Y, H  float64
	Lines []tickY
}

type tickY struct {
	Y     float64
	Label string
}

type strip struct {
	Label string
	Y     float64
	Spans []band
}

type mark struct {
	X, Y  float64
	Label string
	Title string
	Class string
}

// axis maps ns to x.
type axis struct{ end float64 }

func (a axis) x(ns int64) float64 {
	f := min(1, max(0, float64(ns)/a.end))
	return gutterLeft + f*(chartWidth-gutterLeft-gutterRight)
}

// safeChart is drawChart for records that may come from anywhere: one that cannot be drawn costs the picture, not the report.
func safeChart(h *history.History, fs []FaultRun) (c *chart) {
	defer func() {
		if recover() != nil {
			c = nil
		}
	}()
	return drawChart(h, fs)
}

// drawChart lays everything that the record has on one time axis. It is nil for a record with nothing to draw.
func drawChart(h *history.History, fs []FaultRun) *chart {
	end := h.End()
	if end <= 0 {
		return nil
	}
	a := axis{float64(end)}
	c := &chart{Width: chartWidth, Left: gutterLeft, Right: chartWidth - gutterRight, Seconds: float64(end) / 1e9}
	c.Ticks = timeTicks(a)
	c.Bands = faultBands(a, fs, end)
	y := c.faults(a, fs, end, 16)
	y = c.leaders(a, h, y)
	c.Top = y
	y = c.latency(a, h, y+42)
	y = c.rates(a, h, y+panelGap)
	y = c.health(a, h, y+panelGap)
	c.Bottom, c.AxisY = y+4, y+18
	c.Height = c.marks(a, h, y+28) + 6
	return c
}

func timeTicks(a axis) []tick {
	secs := a.end / 1e9
	step := 0.1
	for _, s := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400} {
		if step = s; secs/s <= 16 {
			break
		}
	}
	var ts []tick
	for i := 0; float64(i)*step <= secs && i < 1000; i++ {
		ts = append(ts, tick{a.x(int64(float64(i) * step * 1e9)), number(float64(i)*step) + " s"})
	}
	return ts
}

// faultBands shade what the faults did over the panels: the time in force, and lighter the time until the probe saw it gone.
func faultBands(a axis, fs []FaultRun, end int64) []band {
	var bs []band
	for _, f := range fs {
		if f.InForce == 0 {
			continue
		}
		bs = append(bs, span(a, f.InForce, orEnd(f.Healing, end), "inforce", f.Name+" in force"))
		if f.Healing > 0 {
			bs = append(bs, span(a, f.Healing, orEnd(f.Healed, end), "healing", f.Name+" healing"))
		}
	}
	return bs
}

func orEnd(t, end int64) int64 {
	if t == 0 {
		return end
	}
	return t
}

func span(a axis, from, to int64, class, title string) band {
	x := a.x(from)
	return band{X: r1(x), W: r1(max(1, a.x(to)-x)), Class: class, Title: title}
}

// faults draws a lane for each set of victims.
func (c *chart) faults(a axis, fs []FaultRun, end int64, y float64) float64 {
	at := map[string]int{}
	for _, f := range fs {
		key := strings.Join(f.Nodes, " ")
		k, ok := at[key]
		if !ok && len(c.FaultLanes) < maxFaultLane {
			k = len(c.FaultLanes)
			at[key] = k
			c.FaultLanes = append(c.FaultLanes, lane{Label: "faults " + key, Y: y + float64(k)*laneHeight})
		} else if !ok {
			k = len(c.FaultLanes) - 1
			c.FaultLanes[k].Label = "more faults"
		}
		l := &c.FaultLanes[k]
		l.Bars = append(l.Bars, faultBars(a, f, end, l.Y)...)
	}
	for i := range c.FaultLanes {
		placeLabels(c.FaultLanes[i].Bars)
	}
	return y + float64(len(c.FaultLanes))*laneHeight
}

// faultBars are a fault's stages: decided, in force, healing.
func faultBars(a axis, f FaultRun, end int64, y float64) []bar {
	short, _, _ := strings.Cut(f.Name, "#")
	title := fmt.Sprintf("%s: decided %s", f.Name, stamp(f.Decided))
	if f.InForce > 0 {
		title += fmt.Sprintf(", in force after %s", millis(f.InForce-f.Decided))
	}
	if f.Healed > 0 {
		title += ", gone " + stamp(f.Healed)
	}
	if f.NotSeen != "" {
		title += ". Not seen: " + f.NotSeen
	}
	mk := func(from, to int64, class string) bar {
		b := span(a, from, to, class, title)
		return bar{X: b.X, W: b.W, Class: b.Class, Title: title, TextY: y + 13}
	}
	if f.InForce == 0 {
		class := "decided"
		if f.Noop {
			class = "noop"
		}
		b := mk(f.Decided, max(f.Until(), f.Decided+1), class)
		b.Label = short
		return []bar{b}
	}
	in := mk(f.InForce, orEnd(f.Healing, end), "inforce")
	in.Label = short
	bars := []bar{mk(f.Decided, f.InForce, "decided"), in}
	if f.Healing > 0 {
		bars = append(bars, mk(f.Healing, orEnd(f.Healed, end), "healing"))
	}
	return bars
}

// placeLabels puts each label into its bar, or behind it where that is free, or nowhere: the title still has it.
func placeLabels(bars []bar) {
	last := -1
	for i := range bars {
		if bars[i].Label != "" {
			if last >= 0 && bars[last].LabelX+width(bars[last].Label) > bars[i].X {
				bars[last].Label = ""
			}
			bars[i].LabelX = bars[i].X + 4
			last = i
		}
		if end := bars[i].LabelX + width(bars[i].Label); bars[i].Label != "" && end > chartWidth-gutterRight {
			bars[i].LabelX = chartWidth - gutterRight - width(bars[i].Label)
		}
	}
}

func width(s string) float64 { return float64(utf8.RuneCountInString(s)) * charWidth }

// leaders draws a lane of leader changes for each group that has any.
func (c *chart) leaders(a axis, h *history.History, y float64) float64 {
	at := map[string]int{}
	for i := range h.Events {
		e := &h.Events[i]
		if e.Kind != "leader" {
			continue
		}
		k, ok := at[e.Name]
		if !ok {
			if len(c.LeaderLanes) == maxLeadLane {
				continue
			}
			k = len(c.LeaderLanes)
			at[e.Name] = k
			c.LeaderLanes = append(c.LeaderLanes, lane{Label: "leader " + e.Name, Y: y + 4 + float64(k)*laneHeight})
		}
		who := strings.Join(e.Nodes, " ")
		if who == "" {
			who = "none"
		}
		l := &c.LeaderLanes[k]
		l.Bars = append(l.Bars, bar{X: r1(a.x(e.At)), W: 2, Class: "leader", Label: who, Title: stamp(e.At) + " " + e.Name + " led by " + who + " " + e.Detail, TextY: l.Y + 13})
	}
	for i := range c.LeaderLanes {
		placeLabels(c.LeaderLanes[i].Bars)
	}
	if len(c.LeaderLanes) == 0 {
		return y
	}
	return y + 4 + float64(len(c.LeaderLanes))*laneHeight
}

// dot is one operation of the latency panel.
type dot struct {
	at, took int64
	never    bool // there was no answer
}

func (c *chart) latency(a axis, h *history.History, y float64) float64 {
	var kinds [3][]dot // by outcome
	for i := range h.Ops {
		op := &h.Ops[i]
		d := dot{at: op.Invoke, took: op.Complete - op.Invoke}
		if op.Complete == 0 {
			d.never, d.took = true, 0
		}
		if int(op.Outcome) < len(kinds) {
			kinds[op.Outcome] = append(kinds[op.Outcome], d)
		}
	}
	if len(h.Ops) == 0 {
		c.Lat = panel{Title: "No operations were recorded.", Y: y, H: 8}
		return y + 8
	}
	ok, failed, unknown := kinds[history.OK], kinds[history.Failed], kinds[history.Unknown]
	c.NOK, c.NFailed, c.NUnknown = len(ok), len(failed), len(unknown)
	all := [3][]dot{ok, failed, unknown}
	c.sample(&all)
	lo, hi := decades(all)
	c.Lat = panel{Title: "Latency of operations at the time of their invocation (log scale)", Y: y, H: latencyTall, Lines: decadeLines(lo, hi, y, latencyTall)}
	place := func(d dot) (float64, float64) {
		if d.never {
			c.Never = y - 14
			return a.x(d.at), c.Never
		}
		f := (math.Log10(ms(d.took)) - lo) / (hi - lo)
		return a.x(d.at), y + latencyTall*(1-f)
	}
	c.OK = dots(all[0], place, "M%.1f %.1fh0")
	c.Failed = dots(all[1], place, "M%.1f %.1fm-3-3l6 6m0-6l-6 6")
	c.Unknown = dots(all[2], place, "M%.1f %.1fm0-4l4 7h-8z")
	return y + latencyTall
}

// sample thins the dots where they are too many, and says so.
func (c *chart) sample(all *[3][]dot) {
	total := len(all[0]) + len(all[1]) + len(all[2])
	bad := len(all[1]) + len(all[2])
	thinned := []string{}
	if bad > maxBadDots {
		for i := 1; i <= 2; i++ {
			all[i] = thin(all[i], maxBadDots*len(all[i])/bad)
		}
		thinned = append(thinned, "failed and unknown")
	}
	if room := maxDots - len(all[1]) - len(all[2]); len(all[0]) > room {
		all[0] = thin(all[0], room)
		thinned = append(thinned, "acked")
	}
	drawn := len(all[0]) + len(all[1]) + len(all[2])
	if len(thinned) == 0 {
		c.Sampling = fmt.Sprintf("All %s operations are drawn.", thousands(total))
		return
	}
	c.Sampling = fmt.Sprintf("%s of %s operations are drawn. The %s ones are thinned: of each short slice of time the fastest and the slowest are kept, and an even choice of the rest.",
		thousands(drawn), thousands(total), strings.Join(thinned, " and the "))
	if bad <= maxBadDots {
		c.Sampling += " Every failed and unknown one is drawn."
	}
}

// thin keeps at most n dots: of each slice of time the fastest and the slowest, then evenly spaced ones.
func thin(ds []dot, n int) []dot {
	if len(ds) <= n || n <= 0 {
		return ds[:min(len(ds), max(n, 0))]
	}
	ds = slices.Clone(ds)
	slices.SortStableFunc(ds, func(x, y dot) int { return cmp64(x.at, y.at) })
	slots := max(1, n/perSlice)
	first, last := ds[0].at, ds[len(ds)-1].at
	var kept []dot
	for i := 0; i < len(ds); {
		s := slot(ds[i].at, first, last, slots)
		j := i
		for j < len(ds) && slot(ds[j].at, first, last, slots) == s {
			j++
		}
		kept = append(kept, choose(ds[i:j])...)
		i = j
	}
	return kept
}

func slot(at, first, last int64, slots int) int {
	return min(slots-1, int(float64(at-first)/float64(last-first+1)*float64(slots)))
}

func choose(ds []dot) []dot {
	if len(ds) <= perSlice {
		return ds
	}
	lo, hi := 0, 0
	for i := range ds {
		if ds[i].took < ds[lo].took {
			lo = i
		}
		if ds[i].took > ds[hi].took {
			hi = i
		}
	}
	out := []dot{ds[lo], ds[hi]}
	for k := range perSlice - 2 {
		out = append(out, ds[(k+1)*len(ds)/(perSlice-1)])
	}
	return out
}

// decades are the whole powers of ten of milliseconds around what is drawn.
func decades(all [3][]dot) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, ds := range all {
		for _, d := range ds {
			if !d.never {
				lo, hi = min(lo, math.Log10(ms(d.took))), max(hi, math.Log10(ms(d.took)))
			}
		}
	}
	if lo > hi {
		return 0, 1
	}
	lo, hi = math.Floor(lo), math.Ceil(hi)
	return lo, max(hi, lo+1)
}

// ms is a latency for the log scale; below a microsecond it has no place there.
func ms(ns int64) float64 { return max(0.001, float64(ns)/1e6) }

func decadeLines(lo, hi, y, h float64) []tickY {
	var ls []tickY
	for e := lo; e <= hi; e++ {
		label := number(math.Pow(10, e)) + " ms"
		if e >= 3 {
			label = number(math.Pow(10, e-3)) + " s"
		}
		ls = append(ls, tickY{r1(y + h*(1-(e-lo)/(hi-lo))), label})
	}
	return ls
}

func dots(ds []dot, place func(dot) (float64, float64), format string) string {
	var b strings.Builder
	for _, d := range ds {
		x, y := place(d)
		fmt.Fprintf(&b, format, x, y)
	}
	return b.String()
}

// rates draws acked operations, and those that were not, per second (or per longer bin in a long run).
func (c *chart) rates(a axis, h *history.History, y float64) float64 {
	if len(h.Ops) == 0 {
		return y - panelGap
	}
	bin := math.Ceil(a.end / 1e9 / maxRateBins)
	n := int(a.end/1e9/bin) + 1
	ok, bad := make([]float64, n), make([]float64, n)
	for i := range h.Ops {
		op := &h.Ops[i]
		at := op.Complete
		if at == 0 {
			at = op.Invoke
		}
		k := min(n-1, max(0, int(float64(at)/1e9/bin)))
		if op.Outcome == history.OK {
			ok[k]++
		} else {
			bad[k]++
		}
	}
	top := nice(max(slices.Max(ok), slices.Max(bad)) / bin)
	c.RateUnit = "per second"
	if bin > 1 {
		c.RateUnit = fmt.Sprintf("per second, averaged over %s s", number(bin))
	}
	c.Rate = panel{Title: "Operations " + c.RateUnit, Y: y, H: rateTall, Lines: []tickY{{y, number(top)}, {y + rateTall/2, number(top / 2)}, {y + rateTall, "0"}}}
	c.RateOK = steps(a, ok, bin, top, y, true)
	c.RateBad = steps(a, bad, bin, top, y, false)
	return y + rateTall
}

// nice is the next round number.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10} {
		if v <= m*p {
			return m * p
		}
	}
	return 10 * p
}

func steps(a axis, vs []float64, bin, top, y float64, area bool) string {
	var b strings.Builder
	height := func(v float64) float64 { return y + rateTall*(1-v/bin/top) }
	if area {
		fmt.Fprintf(&b, "M%.1f %.1f", a.x(0), y+rateTall)
	}
	for i, v := range vs {
		from, to := a.x(int64(float64(i)*bin*1e9)), a.x(int64(float64(i+1)*bin*1e9))
		move := "L"
		if !area && (i == 0 || v == 0 && vs[i-1] == 0 || v > 0 && vs[i-1] == 0) {
			move = "M"
		}
		if !area && v == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s%.1f %.1fH%.1f", move, from, height(v), to)
	}
	if area {
		fmt.Fprintf(&b, "V%.1fZ", y+rateTall)
	}
	return b.String()
}

// health draws a strip for each node and endpoint: what it answered, from each sample to the next.
func (c *chart) health(a axis, h *history.History, y float64) float64 {
	by := map[string][]history.Health{}
	var keys []string
	for _, s := range h.Health {
		key := s.Probe + " " + s.Node
		if _, ok := by[key]; !ok {
			keys = append(keys, key)
		}
		by[key] = append(by[key], s)
	}
	if len(keys) == 0 {
		return y - panelGap
	}
	// "ready" of all nodes first: it is what the claims are about.
	slices.SortFunc(keys, func(x, y string) int {
		if rx, ry := strings.HasPrefix(x, "ready "), strings.HasPrefix(y, "ready "); rx != ry {
			if rx {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	c.StripLabelY = y - 5
	for _, k := range keys {
		c.Strips = append(c.Strips, strip{Label: k, Y: y, Spans: healthSpans(a, by[k])})
		y += stripTall + 4
	}
	return y
}

func healthSpans(a axis, ss []history.Health) []band {
	slices.SortStableFunc(ss, func(x, y history.Health) int { return cmp64(x.At, y.At) })
	var bs []band
	for i := 0; i < len(ss) && len(bs) < maxSpans; {
		class := answer(ss[i].Code)
		j := i
		for j < len(ss) && answer(ss[j].Code) == class && ss[j].Reason == ss[i].Reason {
			j++
		}
		to := ss[j-1].At + ss[j-1].Took
		if j < len(ss) {
			to = ss[j].At
		}
		title := fmt.Sprintf("%s to %s: %s", stamp(ss[i].At), stamp(to), answerText(ss[i]))
		bs = append(bs, span(a, ss[i].At, to, class, title))
		i = j
	}
	return bs
}

func answer(code int) string {
	switch code {
	case 0:
		return "none"
	case 200:
		return "up"
	}
	return "down"
}

func answerText(s history.Health) string {
	text := "no answer"
	if s.Code != 0 {
		text = fmt.Sprintf("%d", s.Code)
	}
	if s.Reason != "" && s.Reason != "-" {
		text += ", " + s.Reason
	}
	return ellipsis(text, 200)
}

// marks draws named moments below the axis, each label in the first row where it fits.
func (c *chart) marks(a axis, h *history.History, y float64) float64 {
	c.MarksY = y
	free := [maxMarkRows]float64{}
	rows := 0
	for i := range h.Events {
		e := &h.Events[i]
		if e.Kind == "fault" || e.Kind == "leader" {
			continue
		}
		m := mark{X: r1(a.x(e.At)), Title: strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", stamp(e.At), e.Kind, e.Name, strings.Join(e.Nodes, " "), e.Detail)), Class: e.Kind}
		if e.Kind == "mark" || e.Kind == "phase" || e.Kind == "converged" {
			label := e.Name
			for r := range free {
				if m.X >= free[r] && m.X+width(label) < chartWidth {
					m.Label, m.Y = label, y+12+float64(r)*14
					free[r] = m.X + width(label) + 8
					rows = max(rows, r+1)
					break
				}
			}
		}
		c.Marks = append(c.Marks, m)
	}
	return y + 8 + float64(rows)*14
}

func r1(v float64) float64 { return math.Round(v*10) / 10 }

func cmp64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// millis is a duration of a probe.
func millis(ns int64) string {
	if ns >= 1e9 {
		return number(math.Round(float64(ns)/1e7)/100) + " s"
	}
	return number(math.Round(float64(ns)/1e5)/10) + " ms"
}

// thousands is 12,345.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Helpers for the template: places that follow from others.

// BandHeight is how far the shading of faults reaches.
func (c chart) BandHeight() float64 { return r1(c.Bottom - c.Top) }

// LabelX is where labels of lanes end.
func (c chart) LabelX() float64 { return c.Left - 8 }

// TextY is the base line of a lane's label.
func (c chart) TextY(y float64) float64 { return r1(y + 13) }

// BarY is the top of a lane's bars.
func (c chart) BarY(y float64) float64 { return r1(y + 3) }

// Mid centres a text on a line.
func (c chart) Mid(y float64) float64 { return r1(y + 4) }

// StripText is the base line of a strip's label.
func (c chart) StripText(y float64) float64 { return r1(y + 10) }

// LatTitleY is above the latency panel, and above its row for operations without an answer.
func (c chart) LatTitleY() float64 {
	if c.Never > 0 {
		return r1(c.Lat.Y - 27)
	}
	return r1(c.Lat.Y - 7)
}

// RateTitleY is above the rate panel.
func (c chart) RateTitleY() float64 { return r1(c.Rate.Y - 6) }

// MarkEnd is the lower end of a mark's tick.
func (c chart) MarkEnd(y float64) float64 { return max(c.Bottom+5, y) }

// After is behind a tick.
func (c chart) After(x float64) float64 { return r1(x + 3) }
