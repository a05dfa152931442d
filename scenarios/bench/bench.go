// Package bench measures membershipd against plain nats-server of the same version with the same settings, and the harness itself.
//
// Seconds of one machine at one time say little, so what can be is a ratio of two systems that were measured in turn, A B B A, on one machine, with its
// interval. Each result is a [Row] that says what is wanted and whether it was met.
package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// Options of Run. Backend, RunID, Subject and Plain are required.
type Options struct {
	Backend cluster.Backend
	RunID   string
	Subject cluster.Subject // membershipd
	Plain   cluster.Subject // nats-server of the version that membershipd embeds
	Only    []string        // names of rows or of parts; empty means all
	Rounds  int             // pairs of measurements; 0 means 8
	Window  time.Duration   // of one measurement of a rate; 0 means one second
	Repeats int             // injections of each fault; 0 means 30
	Users   int             // in the buckets; 0 means 100,000
	Note    func(format string, a ...any)
}

// Defaults of Options.
const (
	DefaultRounds  = 8
	DefaultWindow  = time.Second
	DefaultRepeats = 30
	DefaultUsers   = 100_000
)

// Row is one result.
type Row struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Figure string `json:"figure"` // in words, for people
	// Of a ratio: the medians of both systems, in Unit, and the ratio of the pairs.
	Ours  *Spread `json:"membershipd,omitempty"`
	Plain *Spread `json:"nats_server,omitempty"` // or, where it says so, a membershipd without users
	Ratio *Ratio  `json:"ratio,omitempty"`
	// Of a figure of one system.
	Spread *Spread `json:"spread,omitempty"`
	Value  float64 `json:"value"` // what is held against what is wanted, in Unit
	Unit   string  `json:"unit"`
	Wanted string  `json:"wanted,omitempty"` // "" for a figure that is only told
	Met    bool    `json:"met"`
	// Certain: the whole interval is on the same side of what is wanted. Always true of what has no interval.
	Certain bool `json:"certain"`
}

// Verdict is the last column of the table.
func (r Row) Verdict() string {
	word := "met"
	switch {
	case r.Wanted == "":
		return ""
	case !r.Met:
		word = "MISSED"
	}
	if !r.Certain {
		word += ", within the noise"
	}
	return word
}

// Result is everything that was measured.
type Result struct {
	Backend     string `json:"backend"`
	Environment string `json:"environment"`
	Subject     string `json:"membershipd"`
	Plain       string `json:"nats_server"`
	Rows        []Row  `json:"rows"`
}

// part measures one or more rows.
type part struct {
	name  string
	doc   string
	rows  []string      // names
	bound time.Duration // it is given up after that
	run   func(ctx context.Context, s *suite, rows []string) ([]Row, error)
}

func parts() []part {
	return []part{
		checksPart(), trafficPart(), usersPart(), startPart(), faultsPart(),
	}
}

// Names lists what Only takes, parts before their rows, each with what it measures.
func Names() (names [][2]string) {
	for _, p := range parts() {
		names = append(names, [2]string{p.name, p.doc})
		for _, r := range p.rows {
			if r != p.name {
				names = append(names, [2]string{"  " + r, ""})
			}
		}
	}
	return names
}

// ErrUnknown is wrapped by the error for a name in Only that is none.
var ErrUnknown = errors.New("nothing is measured under that name")

// chosen are the rows of each part that are wanted.
func chosen(only []string) (map[string][]string, error) {
	want := map[string][]string{}
	if len(only) == 0 {
		for _, p := range parts() {
			want[p.name] = p.rows
		}
		return want, nil
	}
	for _, name := range only {
		found := false
		for _, p := range parts() {
			switch {
			case name == p.name:
				want[p.name], found = p.rows, true
			case slices.Contains(p.rows, name):
				want[p.name], found = append(want[p.name], name), true
			}
		}
		if !found {
			return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
		}
	}
	return want, nil
}

// Check says what is wrong with the options, before anything is built.
func (o Options) Check() error {
	if o.Rounds < 0 || o.Window < 0 || o.Repeats < 0 || o.Users < 0 {
		return errors.New("rounds, window, repeats and users cannot be negative")
	}
	_, err := chosen(o.Only)
	return err
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Rounds, DefaultRounds)
	def(&o.Repeats, DefaultRepeats)
	def(&o.Users, DefaultUsers)
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.Note == nil {
		o.Note = func(string, ...any) {}
	}
	return o
}

// suite is one run.
type suite struct {
	Options
}

// Run measures part after part. With an error the rows that were finished are in the result all the same.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.Check(); err != nil {
		return Result{}, err
	}
	want, err := chosen(o.Only)
	if err != nil {
		return Result{}, err
	}
	s := &suite{Options: o.withDefaults()}
	res := Result{Backend: o.Backend.Name(), Environment: fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), runtime.Version()), Subject: o.Subject.Version, Plain: o.Plain.String()}
	var errs []error
	for _, p := range parts() {
		rows := want[p.name]
		if len(rows) == 0 || ctx.Err() != nil {
			continue
		}
		s.Note("%s: %s", p.name, p.doc)
		bounded, cancel := context.WithTimeoutCause(ctx, p.bound, fmt.Errorf("it took longer than %v", p.bound))
		got, err := p.run(bounded, s, rows)
		if err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", p.name, withCause(bounded, err)))
		}
		cancel()
		res.Rows = append(res.Rows, got...)
	}
	return res, errors.Join(append(errs, ctx.Err())...)
}

func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return errors.Join(err, cause)
	}
	return err
}

// atLeast and atMost hold a ratio against what is wanted.
func atLeast(want float64, r Ratio) (wanted string, met, certain bool) {
	return fmt.Sprintf(">= %.2fx", want), r.Estimate >= want, r.Low >= want || r.High < want
}

func atMost(want float64, r Ratio) (wanted string, met, certain bool) {
	return fmt.Sprintf("<= %.2fx", want), r.Estimate <= want, r.High <= want || r.Low > want
}

// ratioRow compares a with b, which were measured in turn.
func ratioRow(name, what, unit string, a, b []float64, judge func(Ratio) (string, bool, bool)) Row {
	ours, plain, r := spreadOf(a), spreadOf(b), ratioOf(a, b)
	row := Row{Name: name, What: what, Ours: &ours, Plain: &plain, Ratio: &r, Value: r.Estimate, Unit: unit, Certain: true,
		Figure: fmt.Sprintf("%.2fx (%.2f to %.2f), %s against %s %s", r.Estimate, r.Low, r.High, short(ours.Median), short(plain.Median), unit)}
	if judge != nil {
		row.Wanted, row.Met, row.Certain = judge(r)
	}
	return row
}

// below holds one figure against its bound.
func (r Row) below(limit float64, text string) Row {
	r.Wanted, r.Met, r.Certain = text, r.Value < limit, true
	return r
}

// short writes a figure with three digits and thousands separated.
func short(v float64) string {
	switch {
	case v >= 1000:
		digits := fmt.Sprintf("%.0f", v)
		var b strings.Builder
		for i, d := range digits {
			if i > 0 && (len(digits)-i)%3 == 0 {
				b.WriteByte(',')
			}
			b.WriteRune(d)
		}
		return b.String()
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
