package check

import (
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// ClientGaps ("client-gaps") measures how long each client went without success: an operation that was answered OK, or a delivery.
// The stretch before a client's first success counts from its first sign of life or the window's start, whichever is later; the stretch after its last
// success counts to the window's end.
type ClientGaps struct {
	Window        Window              `json:"window"`
	Clients       []string            `json:"clients,omitempty"`         // prefixes of names; empty means all
	MaxGapSeconds float64             `json:"max_gap_seconds,omitempty"` // 0 means that gaps are only reported
	EndSeconds    float64             `json:"end_seconds,omitempty"`     // a client without success in so many last seconds is stranded; 0 means 5
	MinClients    int                 `json:"min_clients,omitempty"`     // fewer are Inconclusive; 0 means 1
	Classes       map[string][]string `json:"classes,omitempty"`         // class -> prefixes of names, for the figures; empty means one class "all"
}

const defaultEnd = 5.0

// life is what one client did in the window.
type life struct {
	name      string
	from      int64 // first sign of life, at least the window's start
	successes []int64
	lastConn  history.Conn
	gap       span
}

// Check implements Checker.
func (c ClientGaps) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	lives := c.lives(h, w)
	stranded := violation{code: CodeStranded, promise: promiseClients}
	long := violation{code: CodeGapTooLong, promise: promiseClients}
	end := nanos(orDefault(c.EndSeconds, defaultEnd))
	for _, l := range lives {
		slices.Sort(l.successes)
		l.gap = longestGap(l.successes, span{l.from, w.to})
		n := len(l.successes)
		switch {
		case l.lastConn.State == "closed":
			stranded.count++
			stranded.seen.add(l.lastConn.At, nil, "the connection of %s ended closed: %s", l.name, orDash(l.lastConn.Err))
		case n == 0:
			stranded.count++
			stranded.seen.add(l.from, nil, "%s had no success at all", l.name)
		case l.successes[n-1] < w.to-end:
			stranded.count++
			stranded.seen.add(l.successes[n-1], nil, "%s had its last success %.3f s before the end of the window", l.name, seconds(w.to-l.successes[n-1]))
		}
		if c.MaxGapSeconds > 0 && l.gap.to-l.gap.from > nanos(c.MaxGapSeconds) {
			long.count++
			long.seen.add(l.gap.from, nil, "%s had no success for %.3f s", l.name, seconds(l.gap.to-l.gap.from))
		}
	}
	figures := append([]Figure{count("clients", len(lives)), count("stranded", stranded.count), count("gap_too_long", long.count), secs("window_s", w.to-w.from)}, c.classes(lives)...)
	stranded.reason = fmt.Sprintf("%d of %d clients were stranded: without success in the last %g s, or closed.", stranded.count, len(lives), seconds(end))
	long.reason = fmt.Sprintf("%d of %d clients were without success for longer than %g s.", long.count, len(lives), c.MaxGapSeconds)
	if r, bad := found(figures, stranded, long); bad {
		return r
	}
	if need := orDefault(c.MinClients, 1); len(lives) < need {
		return inconclusive(figures, CodeTooFewClients, "%d clients are in the window, at least %d are needed.", len(lives), need)
	}
	var longest int64
	for _, l := range lives {
		longest = max(longest, l.gap.to-l.gap.from)
	}
	return passed(figures, "All %d clients were served to the end; the longest time without success was %.3f s.", len(lives), seconds(longest))
}

// lives gathers the clients that showed up before the window's end, by name.
func (c ClientGaps) lives(h *history.History, w span) []*life {
	byName := map[string]*life{}
	seen := func(name string, at int64) *life {
		if at > w.to || !hasPrefix(name, c.Clients) {
			return nil
		}
		l := byName[name]
		if l == nil {
			l = &life{name: name, from: max(at, w.from)}
			byName[name] = l
		}
		l.from = min(l.from, max(at, w.from))
		return l
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if l := seen(op.Client, op.Invoke); l != nil && op.Outcome == history.OK && w.has(op.Complete) {
			l.successes = append(l.successes, op.Complete)
		}
	}
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		if l := seen(d.Client, d.At); l != nil && w.has(d.At) {
			l.successes = append(l.successes, d.At)
		}
	}
	for _, x := range h.Conns {
		if l := seen(x.Client, x.At); l != nil && x.At >= l.lastConn.At {
			l.lastConn = x
		}
	}
	lives := make([]*life, 0, len(byName))
	for _, name := range sortedKeys(byName) {
		lives = append(lives, byName[name])
	}
	return lives
}

// classes is the distribution of the clients' longest gaps, per class.
func (c ClientGaps) classes(lives []*life) []Figure {
	classes := c.Classes
	if len(classes) == 0 {
		classes = map[string][]string{"all": nil}
	}
	var figures []Figure
	for _, class := range sortedKeys(classes) {
		var gaps []float64
		for _, l := range lives {
			if hasPrefix(l.name, classes[class]) {
				gaps = append(gaps, seconds(l.gap.to-l.gap.from))
			}
		}
		slices.Sort(gaps)
		figures = append(figures, count(class+" clients", len(gaps)), inSecs(class+" gap_median_s", median(gaps)), inSecs(class+" gap_p90_s", quantile(gaps, 0.9)), inSecs(class+" gap_max_s", quantile(gaps, 1)))
	}
	return figures
}
