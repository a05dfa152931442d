package check

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/reports/history"
)

// HealthCheck ("health") judges what nodes say of themselves on one endpoint.
type HealthCheck struct {
	Probe          string   `json:"probe"` // "ready" or "live"
	Nodes          []string `json:"nodes"` // all of them are judged
	Window         Window   `json:"window"`
	GraceSeconds   float64  `json:"grace_seconds,omitempty"`   // samples taken so soon after From are not judged
	Want           string   `json:"want"`                      // WantNever200, WantAlways200, WantEnds200 or WantEndsNot200
	SilentShare    float64  `json:"silent_share,omitempty"`    // with WantAlways200: of a node's samples, the part that may have no answer at all
	ReasonContains []string `json:"reason_contains,omitempty"` // the last 503, or nine in ten of them, must say one of these
	MinHz          float64  `json:"min_hz,omitempty"`          // a node sampled at less than 0.8 of it is Inconclusive; 0 means 1
}

// What HealthCheck can want of the judged samples.
const (
	WantNever200   = "never-200"
	WantAlways200  = "always-200"
	WantEnds200    = "ends-200"
	WantEndsNot200 = "ends-not-200"
)

const (
	// enoughHz is the share of the wanted rate that a loaded machine must still reach.
	enoughHz = 0.8
	// enoughReasons is the share of 503 answers with a proper reason that is enough without the last one.
	enoughReasons = 0.9
)

// samples is what one node said in the window.
type samples struct {
	node               string
	all                int // in the window, grace included
	judged             []history.Health
	first200, last200  int64 // times, grace included; -1 for never
	codes              map[int]int
	unavailable, named int // judged 503 answers, and those with a wanted reason
	lastNamed          bool
}

// Check implements Checker.
func (c HealthCheck) Check(h *history.History) Result {
	if r, bad := c.badParams(); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	w.from += nanos(c.GraceSeconds)
	if w.to <= w.from {
		return inconclusive(nil, CodeNoMark, "The grace of %g s leaves nothing of the window.", c.GraceSeconds)
	}
	bad := c.violation()
	reason := violation{code: CodeNoReason, promise: promiseHealth}
	var figures []Figure
	var few *Result
	total := 0
	for _, node := range c.Nodes {
		s := c.sample(h, node, w)
		hz := float64(len(s.judged)) / seconds(w.to-w.from)
		total += len(s.judged)
		figures = append(figures, c.figures(s, hz, w)...)
		c.judge(s, &bad, &reason)
		if need := orDefault(c.MinHz, 1) * enoughHz; (hz < need || len(s.judged) == 0) && few == nil {
			r := inconclusive(nil, CodeTooFewSamples, "%s was asked %d times in %.1f s (%.2f Hz), at least %.2f Hz are needed.", node, len(s.judged), seconds(w.to-w.from), hz, need)
			few = &r
		}
	}
	figures = append([]Figure{count("samples", total), count("nodes", len(c.Nodes)), secs("window_s", w.to-w.from)}, figures...)
	reason.reason = fmt.Sprintf("%d nodes did not say any of %q on the %s endpoint.", reason.count, c.ReasonContains, c.Probe)
	if r, yes := found(figures, bad, reason); yes {
		return r
	}
	if few != nil {
		few.Figures = figures
		return *few
	}
	return passed(figures, "All %d answers of %s on the %s endpoint in %.1f s were as they must be (%s).", total, strings.Join(c.Nodes, ", "), c.Probe, seconds(w.to-w.from), c.Want)
}

func (c HealthCheck) badParams() (Result, bool) {
	switch {
	case len(c.Nodes) == 0:
		return inconclusive(nil, CodeBadParams, "No node is named."), true
	case c.Probe != "ready" && c.Probe != "live":
		return inconclusive(nil, CodeBadParams, "There is no endpoint %q.", c.Probe), true
	case !slices.Contains([]string{WantNever200, WantAlways200, WantEnds200, WantEndsNot200}, c.Want):
		return inconclusive(nil, CodeBadParams, "Nothing can be wanted by %q.", c.Want), true
	}
	return Result{}, false
}

func (c HealthCheck) sample(h *history.History, node string, w span) samples {
	s := samples{node: node, first200: -1, last200: -1, codes: map[int]int{}}
	from := w.from - nanos(c.GraceSeconds)
	for _, x := range h.Health {
		if x.Node != node || x.Probe != c.Probe || x.At < from || x.At > w.to {
			continue
		}
		s.all++
		if x.Code == http.StatusOK {
			if s.first200 < 0 || x.At < s.first200 {
				s.first200 = x.At
			}
			s.last200 = max(s.last200, x.At)
		}
		if x.At < w.from {
			continue
		}
		s.judged = append(s.judged, x)
		s.codes[x.Code]++
	}
	slices.SortStableFunc(s.judged, func(a, b history.Health) int { return int(max(min(a.At-b.At, 1), -1)) })
	for _, x := range s.judged {
		if x.Code == http.StatusServiceUnavailable {
			s.unavailable++
			s.lastNamed = slices.ContainsFunc(c.ReasonContains, func(word string) bool { return strings.Contains(x.Reason, word) })
			if s.lastNamed {
				s.named++
			}
		}
	}
	return s
}

func (c HealthCheck) figures(s samples, hz float64, w span) []Figure {
	from := w.from - nanos(c.GraceSeconds)
	fs := []Figure{
		count(s.node+" samples", len(s.judged)), {Name: s.node + " rate", Value: round(hz), Unit: "Hz"},
		count(s.node+" 200", s.codes[http.StatusOK]), count(s.node+" 503", s.codes[http.StatusServiceUnavailable]), count(s.node+" no answer", s.codes[0]),
	}
	if s.last200 >= 0 { // grace included: when it turned
		fs = append(fs, secs(s.node+" first_200_s", s.first200-from), secs(s.node+" turned_s", s.last200-from))
	}
	return fs
}

// violation is the one that the wanted behaviour can end in.
func (c HealthCheck) violation() violation {
	switch c.Want {
	case WantAlways200:
		return violation{code: CodeRefused, promise: promiseLive}
	case WantEnds200:
		return violation{code: CodeNeverReady, promise: promiseLive}
	}
	return violation{code: CodeReadyNoQuorum, promise: promiseHealth}
}

// maySkip says whether so few answers are missing that a busy machine explains it. What was answered is judged all the same.
func (c HealthCheck) maySkip(s samples) bool {
	return float64(s.codes[0]) <= c.SilentShare*float64(len(s.judged))
}

func (c HealthCheck) judge(s samples, bad, reason *violation) {
	if len(s.judged) == 0 {
		return // too few samples
	}
	is200 := func(x history.Health) bool { return x.Code == http.StatusOK }
	last := s.judged[len(s.judged)-1]
	judged := s.judged
	wrong := is200
	switch c.Want {
	case WantAlways200:
		wrong = func(x history.Health) bool { return !is200(x) && (x.Code != 0 || !c.maySkip(s)) }
	case WantEnds200:
		judged, wrong = []history.Health{last}, func(x history.Health) bool { return !is200(x) }
	case WantEndsNot200:
		judged = []history.Health{last}
	}
	n := 0
	for _, x := range judged {
		if wrong(x) {
			n++
			bad.seen.add(x.At, nil, "%s answered %d on its %s endpoint: %s", s.node, x.Code, c.Probe, orDash(x.Reason))
		}
	}
	if n > 0 {
		bad.count += n
		bad.reason = strings.TrimSpace(fmt.Sprintf("%s %d of %d judged %s answers of %s were wrong (want %s).", bad.reason, n, len(s.judged), c.Probe, s.node, c.Want))
	}
	if len(c.ReasonContains) > 0 && !s.lastNamed && (s.unavailable == 0 || float64(s.named) < enoughReasons*float64(s.unavailable)) {
		reason.count++
		reason.seen.add(last.At, nil, "%s gave a wanted reason in %d of %d refusals; its last answer was %d: %s", s.node, s.named, s.unavailable, last.Code, orDash(last.Reason))
	}
}

// HealthTruth ("health-truth") demands that no node says that it is ready while nobody can write. An outage is a stretch without any
// acked write that is longer than the grace. A 200 in it, later than the grace, is a lie if at least MinWrites writes, and one at least to each
// target that was written in the window, were invoked after that answer and came back without success before the stretch ended: clients tried
// everything after the node had said so, and could do nothing. (Each stream elects a leader of its own: that one of them has none is no outage of the node.)
type HealthTruth struct {
	Window       Window   `json:"window"`
	Targets      []string `json:"targets,omitempty"`       // whose writes count; empty means all
	GraceSeconds float64  `json:"grace_seconds,omitempty"` // 0 means 5
	MinSamples   int      `json:"min_samples,omitempty"`   // fewer ready samples in the window are Inconclusive; 0 means 1
	MinWrites    int      `json:"min_writes,omitempty"`    // 0 means 3
}

const (
	defaultTruthGrace  = 5.0
	defaultTruthWrites = 3
	// idleTries is for how long no client may be trying to write before it counts as rest: at most clients wait a second between two attempts.
	idleTries = int64(time.Second)
)

// outage is a stretch without an acked write, with the invocations of the writes that came back in it without success: ascending, by target.
type outage struct {
	span
	tried map[string][]int64
}

// Check implements Checker.
func (c HealthTruth) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	outages, tried := c.outages(h, w)
	if tried == 0 {
		return inconclusive(nil, CodeNoOps, "No write was attempted in the window.")
	}
	lies := violation{code: CodeReadyUnwritten, promise: promiseHealth}
	total, in := 0, 0
	nodes := map[string]bool{}
	for _, x := range h.Health {
		if x.Probe != "ready" || !w.has(x.At) {
			continue
		}
		total++
		o, ok := c.judged(outages, x)
		if !ok {
			continue
		}
		in++
		if x.Code == http.StatusOK {
			lies.count++
			nodes[x.Node] = true
			lies.seen.add(x.At, nil, "%s said 200 %.3f s into a stretch of %.3f s in which no write succeeded; %d writes were tried after that answer", x.Node, seconds(x.At-o.from), seconds(o.to-o.from), o.after(x.At+x.Took))
		}
	}
	var longest int64
	for _, o := range outages {
		longest = max(longest, o.to-o.from)
	}
	figures := []Figure{count("samples", total), count("outages", len(outages)), secs("longest_outage_s", longest), count("samples_in_outage", in),
		count("ready_while_unwritable", lies.count), count("writes", tried)}
	lies.reason = fmt.Sprintf("%d ready answers of %s were given while no client could write.", lies.count, strings.Join(sortedKeys(nodes), ", "))
	if r, bad := found(figures, lies); bad {
		return r
	}
	if need := orDefault(c.MinSamples, 1); total < need {
		return inconclusive(figures, CodeTooFewSamples, "%d samples of the ready endpoint are in the window, at least %d are needed.", total, need)
	}
	return passed(figures, "None of %d samples in %d outages (of %d samples in all) said ready while no client could write.", in, len(outages), total)
}

// outages lists the stretches in which clients tried to write all the time and no write was acked, longer than the grace, and how many writes were
// attempted. Where nobody tried for longer than idleTries there is no outage: it ends, and another one may begin with the next attempt. The targets
// of an outage are those that were ever acked in the window, or all that were tried when none was.
func (c HealthTruth) outages(h *history.History, w span) ([]outage, int) {
	f := newFilter(nil, c.Targets)
	var acks []int64
	var vain []*history.Op
	tried, targets := 0, map[string]bool{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if !f.has(op) {
			continue
		}
		if w.has(op.Invoke) {
			tried++
		}
		if op.Outcome == history.OK && w.has(op.Complete) {
			acks = append(acks, op.Complete)
			targets[op.Target] = true
		} else if op.Outcome != history.OK && op.Complete != 0 && w.has(op.Invoke) && w.has(op.Complete) {
			vain = append(vain, op)
		}
	}
	slices.Sort(acks)
	// since is from when on an attempt shows that nobody could write: its invocation, or the last ack that others got before it came back.
	since := func(op *history.Op) int64 {
		i, _ := slices.BinarySearch(acks, op.Complete)
		if i == 0 {
			return op.Invoke
		}
		return max(op.Invoke, acks[i-1])
	}
	slices.SortFunc(vain, func(a, b *history.Op) int { return cmp.Compare(since(a), since(b)) })
	var out []outage
	for _, op := range vain {
		from := since(op)
		next, _ := slices.BinarySearch(acks, from+1) // the first ack after that; none came before the attempt ended
		if n := len(out); n == 0 || from > out[n-1].to+idleTries || next > 0 && acks[next-1] > out[n-1].from {
			out = append(out, outage{span: span{from, from}, tried: map[string][]int64{}})
			for target := range targets {
				out[n].tried[target] = nil
			}
		}
		o := &out[len(out)-1]
		o.to = max(o.to, op.Complete)
		if next < len(acks) && acks[next] <= o.to+idleTries {
			o.to = acks[next] // served again
		}
		if op.Invoke >= o.from && (len(acks) == 0 || targets[op.Target]) {
			o.tried[op.Target] = append(o.tried[op.Target], op.Invoke)
		}
	}
	for i := range out {
		for _, t := range out[i].tried {
			slices.Sort(t)
		}
	}
	return slices.DeleteFunc(out, func(o outage) bool { return o.to-o.from <= c.grace() }), tried
}

func (c HealthTruth) grace() int64 { return nanos(orDefault(c.GraceSeconds, defaultTruthGrace)) }

// judged returns the outage that x must not call ready.
func (c HealthTruth) judged(outages []outage, x history.Health) (*outage, bool) {
	o := around(outages, x.At)
	if o == nil || x.At <= o.from+c.grace() || x.At+x.Took >= o.to {
		return nil, false
	}
	return o, o.after(x.At+x.Took) >= orDefault(c.MinWrites, defaultTruthWrites)
}

// around returns the outage that t lies in, or nil.
func around(outages []outage, t int64) *outage {
	i, _ := slices.BinarySearchFunc(outages, t, func(o outage, t int64) int {
		if o.to < t {
			return -1
		}
		return 1
	})
	if i < len(outages) && outages[i].has(t) {
		return &outages[i]
	}
	return nil
}

// after is how many writes were tried in vain from t on: 0 when one of the targets was not tried.
func (o outage) after(t int64) int {
	n := 0
	for _, tried := range o.tried {
		i, _ := slices.BinarySearch(tried, t)
		if i == len(tried) {
			return 0
		}
		n += len(tried) - i
	}
	return n
}
