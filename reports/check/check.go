// Package check judges a recorded history. Checkers are pure functions: the same history and parameters give the same result,
// so that anybody can judge a proof again. It links no Docker, no NATS and no testing package.
package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	"github.com/unibus/unibus/reports/history"
)

// Verdict of a check or a run. The zero value never passes.
type Verdict uint8

// Verdicts.
const (
	Inconclusive Verdict = iota // the evidence does not allow a judgement
	Pass
	Fail
)

var verdictNames = [...]string{"inconclusive", "pass", "fail"}

// String is the name used in files.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; an unknown word is an error.
func (v *Verdict) UnmarshalText(b []byte) error {
	for i, n := range verdictNames {
		if n == string(b) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verdict %q", b)
}

// Figure is one number of a result.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // "s", "ms", "ops", "Hz", ...; "" for a plain count
}

// Witness is one concrete piece of the history that shows the verdict: enough to find it in the record.
type Witness struct {
	Text string  `json:"text"`
	At   int64   `json:"at,omitempty"`  // ns in the record
	Ops  []int64 `json:"ops,omitempty"` // ids of operations
}

// Result of one checker on one history. Code is a stable word for the reason ("acked-missing"), set for Fail and Inconclusive;
// negative controls compare it. A Result says at most MaxWitnesses witnesses; Figures carry the full counts.
type Result struct {
	Verdict   Verdict   `json:"verdict"`
	Code      string    `json:"code,omitempty"`
	Reason    string    `json:"reason"`            // a sentence: what was found, with numbers
	Promise   string    `json:"promise,omitempty"` // for Fail: the promise that was broken and who makes it
	Figures   []Figure  `json:"figures,omitempty"`
	Witnesses []Witness `json:"witnesses,omitempty"`
}

// MaxWitnesses is how many witnesses a Result keeps.
const MaxWitnesses = 8

// Figure returns the figure with that name.
func (r Result) Figure(name string) (float64, bool) {
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value, true
		}
	}
	return 0, false
}

// Checker judges a history.
type Checker interface {
	Check(h *history.History) Result
}

// Spec names a checker with its parameters, as it stands in a scenario and in proof.json.
type Spec struct {
	Checker string          `json:"checker"`
	Params  json.RawMessage `json:"params"`
}

// Of makes a Spec from a checker's parameter struct, or a pointer to one. The checkers of this package are those structs.
func Of(c Checker) Spec {
	for name, mk := range checkers {
		if t := fmt.Sprintf("%T", mk()); t == fmt.Sprintf("*%T", c) || t == fmt.Sprintf("%T", c) {
			b, err := json.Marshal(c)
			if err != nil {
				panic("check: parameters of " + name + " do not encode: " + err.Error()) // a programming error: plain structs always do
			}
			return Spec{Checker: name, Params: b}
		}
	}
	panic(fmt.Sprintf("check: %T is not in the table of checkers", c))
}

// ErrUnknownChecker is returned by Run for a name that is not in the table.
var ErrUnknownChecker = errors.New("no checker has that name")

// Run decodes the parameters strictly and judges h.
func (s Spec) Run(h *history.History) (Result, error) {
	mk, ok := checkers[s.Checker]
	if !ok {
		return Result{}, fmt.Errorf("%w: %q", ErrUnknownChecker, s.Checker)
	}
	c := mk()
	if err := strict(s.Params, c); err != nil {
		return Result{}, fmt.Errorf("parameters of checker %s: %w", s.Checker, err)
	}
	return c.Check(h), nil
}

// Names lists all checkers.
func Names() []string {
	var ns []string
	for n := range checkers {
		ns = append(ns, n)
	}
	sort.Strings(ns)
	return ns
}

// Window is a stretch of the record between two marks. "" means the record's start or end.
type Window struct {
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Bounds resolves the window; a mark that is not in the record is an error, which callers turn into Inconclusive.
func (w Window) Bounds(h *history.History) (from, to int64, err error) {
	to = h.End()
	if w.From != "" {
		var ok bool
		if from, ok = h.Mark(w.From); !ok {
			return 0, 0, fmt.Errorf("the record has no mark %q", w.From)
		}
	}
	if w.To != "" {
		var ok bool
		if to, ok = h.Mark(w.To); !ok {
			return 0, 0, fmt.Errorf("the record has no mark %q", w.To)
		}
	}
	if to < from {
		return 0, 0, fmt.Errorf("mark %q comes before mark %q", w.To, w.From)
	}
	return from, to, nil
}
