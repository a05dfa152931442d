package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// KindMeasured is the kind of the events that Measured judges: what a step of the scenario measured, in Data.
const KindMeasured = "measured"

// Measured ("measured") judges what steps of the scenario measured. Every such event whose name fits is judged by every bound and pair; one that lacks
// a figure proves nothing.
type Measured struct {
	Names  []string    `json:"names"`            // prefixes of the events' names
	Min    int         `json:"min,omitempty"`    // fewer events are Inconclusive; 0 means 1
	Nodes  int         `json:"nodes,omitempty"`  // the events must be about so many different nodes; 0 means not judged
	Needs  []Bound     `json:"needs,omitempty"`  // what it takes to judge: where one does not hold the check is Inconclusive
	Bounds []Bound     `json:"bounds,omitempty"` //
	Same   [][2]string `json:"same,omitempty"`   // two data that must be equal
	Differ [][2]string `json:"differ,omitempty"` // two data that must not be
}

// Bound is what a figure may be; both ends belong to it.
type Bound struct {
	Figure  string   `json:"figure"`
	AtLeast *float64 `json:"at_least,omitempty"`
	AtMost  *float64 `json:"at_most,omitempty"`
}

// AtLeast makes a bound from below.
func AtLeast(figure string, v float64) Bound { return Bound{Figure: figure, AtLeast: &v} }

// AtMost makes a bound from above.
func AtMost(figure string, v float64) Bound { return Bound{Figure: figure, AtMost: &v} }

// Exactly makes a bound that leaves one value.
func Exactly(figure string, v float64) Bound { return Bound{Figure: figure, AtLeast: &v, AtMost: &v} }

// String is the bound as a reader would write it.
func (b Bound) String() string {
	var s []string
	if b.AtLeast != nil {
		s = append(s, fmt.Sprintf(">= %g", *b.AtLeast))
	}
	if b.AtMost != nil {
		s = append(s, fmt.Sprintf("<= %g", *b.AtMost))
	}
	return b.Figure + " " + strings.Join(s, " and ")
}

func (b Bound) holds(v float64) bool {
	return (b.AtLeast == nil || v >= *b.AtLeast) && (b.AtMost == nil || v <= *b.AtMost)
}

// Check implements Checker.
func (c Measured) Check(h *history.History) Result {
	if len(c.Names) == 0 || len(c.Bounds)+len(c.Same)+len(c.Differ) == 0 {
		return inconclusive(nil, CodeBadParams, "No measurement is named, or nothing is wanted of it.")
	}
	out := violation{code: CodeOutOfBounds, promise: promiseMeasured}
	unlike := violation{code: CodeNotSame, promise: promiseMeasured}
	alike := violation{code: CodeStillSame, promise: promiseMeasured}
	nodes := map[string]bool{}
	judged, short := 0, ""
	var figures []Figure
	for i := range h.Events {
		e := &h.Events[i]
		if !c.takes(e) {
			continue
		}
		judged++
		for _, n := range e.Nodes {
			nodes[n] = true
		}
		if r := c.lacking(e); r != nil {
			return *r
		}
		for _, b := range c.Needs {
			v, _ := number(e, b.Figure)
			figures = append(figures, Figure{Name: e.Name + " " + b.Figure, Value: v})
			if !b.holds(v) && short == "" {
				short = fmt.Sprintf("%s of %s: %s is %g, %s is needed", e.Name, orDash(strings.Join(e.Nodes, ", ")), b.Figure, v, b)
			}
		}
		for _, b := range c.Bounds {
			v, _ := number(e, b.Figure)
			figures = append(figures, Figure{Name: e.Name + " " + b.Figure, Value: v})
			if !b.holds(v) {
				out.count++
				out.seen.add(e.At, nil, "%s of %s: %s is %g, wanted %s", e.Name, orDash(strings.Join(e.Nodes, ", ")), b.Figure, v, b)
			}
		}
		for _, p := range c.Same {
			if a, b := word(e, p[0]), word(e, p[1]); a != b {
				unlike.count++
				unlike.seen.add(e.At, nil, "%s of %s: %s is %s, %s is %s", e.Name, orDash(strings.Join(e.Nodes, ", ")), p[0], a, p[1], b)
			}
		}
		for _, p := range c.Differ {
			if a, b := word(e, p[0]), word(e, p[1]); a == b {
				alike.count++
				alike.seen.add(e.At, nil, "%s of %s: %s and %s are both %s", e.Name, orDash(strings.Join(e.Nodes, ", ")), p[0], p[1], a)
			}
		}
	}
	figures = append(figures, count("events", judged), count("nodes", len(nodes)))
	out.reason = fmt.Sprintf("%d measured figures are out of their bounds.", out.count)
	unlike.reason = fmt.Sprintf("%d times two things that must be the same are not.", unlike.count)
	alike.reason = fmt.Sprintf("%d times two things that must differ are the same.", alike.count)
	if r, bad := found(figures, alike, unlike, out); bad {
		return r
	}
	if short != "" {
		return inconclusive(figures, CodeTooFewTries, "%s.", short)
	}
	if need := orDefault(c.Min, 1); judged < need {
		return inconclusive(figures, CodeTooFewEvents, "%d measurements %q are in the record, at least %d are needed.", judged, c.Names, need)
	}
	if len(nodes) < c.Nodes {
		return inconclusive(figures, CodeTooFewNodes, "%d nodes were measured, at least %d are needed.", len(nodes), c.Nodes)
	}
	return passed(figures, "%d measurements are as they must be.", judged)
}

func (c Measured) takes(e *history.Event) bool {
	return e.Kind == KindMeasured && hasPrefix(e.Name, c.Names)
}

// lacking says which datum an event does not have.
func (c Measured) lacking(e *history.Event) *Result {
	var keys []string
	for _, b := range slices.Concat(c.Needs, c.Bounds) {
		if _, ok := number(e, b.Figure); !ok {
			keys = append(keys, b.Figure)
		}
	}
	for _, p := range slices.Concat(c.Same, c.Differ) {
		for _, k := range p {
			if word(e, k) == "" {
				keys = append(keys, k)
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	r := inconclusive(nil, CodeBadRecord, "The measurement %q lacks %s.", e.Name, strings.Join(keys, ", "))
	return &r
}

func number(e *history.Event, key string) (float64, bool) {
	switch v := e.Data[key].(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// word is a datum as text; "" for none.
func word(e *history.Event, key string) string {
	if v, ok := e.Data[key]; ok && v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// remeasure changes the data of one event that the check judges.
func (c Measured) remeasure(h *history.History, rng *rand.Rand, change func(data map[string]any)) (string, bool) {
	i := pick(rng, h.Events, c.takes)
	if i < 0 {
		return "nothing was measured", false
	}
	data := map[string]any{}
	for k, v := range h.Events[i].Data {
		data[k] = v
	}
	change(data)
	h.Events = slices.Clone(h.Events)
	h.Events[i].Data = data
	return fmt.Sprintf("changed what %q measured", h.Events[i].Name), true
}

func measureBeyond(h *history.History, c Measured, rng *rand.Rand) (string, bool) {
	if len(c.Bounds) == 0 {
		return "the check has no bounds", false
	}
	b := c.Bounds[rng.IntN(len(c.Bounds))]
	beyond := 0.0
	switch {
	case b.AtMost != nil:
		beyond = *b.AtMost*1.01 + 1
	case b.AtLeast != nil:
		beyond = *b.AtLeast - max(1, *b.AtLeast/100)
	default:
		return "the bound bounds nothing", false
	}
	return c.remeasure(h, rng, func(data map[string]any) { data[b.Figure] = beyond })
}

func measureUnlike(h *history.History, c Measured, rng *rand.Rand) (string, bool) {
	if len(c.Same) == 0 {
		return "the check compares nothing", false
	}
	p := c.Same[rng.IntN(len(c.Same))]
	return c.remeasure(h, rng, func(data map[string]any) { data[p[0]] = foreign })
}

func measureUnchanged(h *history.History, c Measured, rng *rand.Rand) (string, bool) {
	if len(c.Differ) == 0 {
		return "the check compares nothing", false
	}
	p := c.Differ[rng.IntN(len(c.Differ))]
	return c.remeasure(h, rng, func(data map[string]any) { data[p[1]] = data[p[0]] })
}

func dropMeasures(h *history.History, c Measured, _ *rand.Rand) (string, bool) {
	was := len(h.Events)
	h.Events = slices.DeleteFunc(slices.Clone(h.Events), func(e history.Event) bool { return c.takes(&e) })
	return fmt.Sprintf("removed %d measurements", was-len(h.Events)), was > len(h.Events)
}
