package reports

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

//go:embed assets
var assets embed.FS

// rendererSources is everything that decides how a report looks. Its digest names the renderer, so that Verify can tell a report that
// was edited from one that another version has drawn.
//
//go:embed assets html.go chart.go gaps.go table.go faults.go
var rendererSources embed.FS

// rendererTag stands in every report.
func rendererTag() string {
	s := sha256.New()
	err := fs.WalkDir(rendererSources, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := rendererSources.ReadFile(p)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s, "%s %d\n%s", p, len(b), b)
		return err
	})
	if err != nil {
		return "unibus-report/1 unknown"
	}
	return "unibus-report/1 " + hex.EncodeToString(s.Sum(nil))[:24]
}

// page is what both templates start from.
type page struct {
	Tag    string
	Title  string
	Style  template.CSS
	Script template.JS
	Policy string // Content-Security-Policy: nothing from anywhere, and no script but ours
}

func newPage(title string) (page, error) {
	css, err := assets.ReadFile("assets/style.css")
	if err != nil {
		return page{}, err
	}
	js, err := assets.ReadFile("assets/report.js")
	if err != nil {
		return page{}, err
	}
	sum := sha256.Sum256(js)
	return page{
		Tag: rendererTag(), Title: title,
		Style:  template.CSS(css), // #nosec: our own files, embedded
		Script: template.JS(js),
		Policy: "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
	}, nil
}

func parse(name string) (*template.Template, error) {
	return template.New(name).Funcs(template.FuncMap{
		"stamp": stamp, "thousands": thousands, "millis": millis, "figure": figureLine, "name": figureName, "number": number, "word": statusWord,
		"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"secs": func(s float64) string { return number(s) + " s" },
	}).ParseFS(assets, "assets/"+name, "assets/parts.tmpl")
}

func execute(name string, data any) ([]byte, error) {
	t, err := parse(name)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("execute template: %w", err)
	}
	return b.Bytes(), nil
}

// claimView is a claim as the report shows it.
type claimView struct {
	Judged
	Word, Class string
	Params      string
	Figures     []check.Figure // those that say something
	Zero        string         // the names of those that are 0
}

// faultView is a fault with its durations.
type faultView struct {
	FaultRun
	Took, Held, Gone string
}

type reportPage struct {
	page
	Proof
	Word, Class string
	Heading     string
	Positive    []claimView
	Negative    []claimView
	Mutations   []ControlRun
	Skipped     []ControlRun
	Faults      []faultView
	Chart       *chart
	Gaps        []gapChart
	Caught      int
	Held        int
	Marks       []history.Event
	Images      []string
	Timing      bool // timing figures may be compared with others
}

// reportHTML draws the proof as one file that needs nothing else.
func reportHTML(p Proof, h *history.History) ([]byte, error) {
	base, err := newPage(string(p.Status) + ": " + title(p.Evidence))
	if err != nil {
		return nil, fmt.Errorf("draw report: %w", err)
	}
	r := reportPage{page: base, Proof: p, Heading: title(p.Evidence), Word: statusWord(p.Status), Class: statusClass(p.Status)}
	r.claims()
	for _, c := range p.Controls {
		if c.Skipped {
			r.Skipped = append(r.Skipped, c)
			continue
		}
		r.Mutations = append(r.Mutations, c)
		if c.Fired {
			r.Caught++
		}
	}
	for _, f := range p.Faults {
		r.Faults = append(r.Faults, viewFault(f))
	}
	for _, e := range h.Events {
		if e.Kind == "mark" || e.Kind == "phase" || e.Kind == "converged" || e.Kind == "note" || e.Kind == "node" {
			r.Marks = append(r.Marks, e)
		}
	}
	for n, id := range p.Evidence.Env.Images {
		r.Images = append(r.Images, n+" "+id)
	}
	slices.Sort(r.Images)
	r.Timing = p.Evidence.Env.Clusters <= 1
	r.Chart, r.Gaps = safeChart(h, p.Faults), drawGaps(p.Claims, h)
	return execute("report.html.tmpl", r)
}

func (r *reportPage) claims() {
	for _, j := range r.Claims {
		v := claimView{Judged: j, Params: compactParams(j.Claim)}
		v.figures()
		var tone string
		v.Word, tone = verdictWord(j, r.Status == StatusNotRun)
		v.Class = map[string]string{ansiGood: "pass", ansiBad: "fail", ansiOpen: "open"}[tone]
		if v.Class == "" {
			v.Class = "skip"
		}
		if j.Claim.Control() {
			r.Negative = append(r.Negative, v)
			continue
		}
		r.Positive = append(r.Positive, v)
		if j.Satisfied {
			r.Held++
		}
	}
}

// figures puts the telling ones first, and takes the names of those that are 0 together.
func (v *claimView) figures() {
	v.Figures = telling(v.Judged, maxFigures)
	var zero []string
	for _, f := range v.Result.Figures {
		switch {
		case slices.Contains(v.Figures, f):
		case f.Value == 0:
			zero = append(zero, figureName(f))
		default:
			v.Figures = append(v.Figures, f)
		}
	}
	v.Zero = strings.Join(zero, ", ")
}

// compactParams is the checker with its parameters on one line: exactly what was judged.
func compactParams(c Claim) string {
	b := brief(c.Spec.Params)
	if b == "null" {
		b = "{}"
	}
	return c.Spec.Checker + " " + b
}

func viewFault(f FaultRun) faultView {
	v := faultView{FaultRun: f, Took: "never seen", Held: "–", Gone: "never seen"}
	if f.InForce > 0 {
		v.Took = millis(f.InForce - f.Decided)
		if f.Healing > 0 {
			v.Held = number(float64(f.Healing-f.InForce)/1e9) + " s"
		}
	}
	if f.Healed > 0 && f.Healing > 0 {
		v.Gone = millis(f.Healed - f.Healing)
	}
	return v
}

func figureLine(f check.Figure) string { return strings.TrimSpace(number(f.Value) + " " + f.Unit) }

func statusWord(s Status) string { return strings.ToUpper(strings.ReplaceAll(string(s), "-", " ")) }

func statusClass(s Status) string {
	switch s {
	case StatusPass:
		return "pass"
	case StatusFail:
		return "fail"
	case StatusNotRun:
		return "skip"
	}
	return "open"
}

type indexRow struct {
	IndexEntry
	Word, Class string
	Claims      []claimView
	Controls    string
}

type indexPage struct {
	page
	Index
	Rows    []indexRow
	Overall string // the class of the worst bundle
}

// indexHTML draws the table over all bundles.
func indexHTML(x Index) ([]byte, error) {
	base, err := newPage("Proofs")
	if err != nil {
		return nil, fmt.Errorf("draw index: %w", err)
	}
	ip := indexPage{page: base, Index: x}
	for _, e := range x.Bundles {
		row := indexRow{IndexEntry: e, Word: statusWord(e.Status), Class: statusClass(e.Status)}
		if e.Proof != nil {
			r := reportPage{Proof: *e.Proof}
			r.claims()
			row.Claims = append(r.Positive, r.Negative...)
			if t := count(*e.Proof); t.caught+t.missed > 0 {
				row.Controls = fmt.Sprintf("%d of %d damaged copies caught", t.caught, t.caught+t.missed)
			}
		}
		ip.Rows = append(ip.Rows, row)
	}
	ip.Overall = overall(x.Bundles)
	return execute("index.html.tmpl", ip)
}

// overall colours the index: a fail outranks what is open, and nothing at all is open.
func overall(es []IndexEntry) string {
	worst := StatusPass
	if len(es) == 0 {
		worst = StatusInconclusive
	}
	for _, e := range es {
		switch {
		case e.Status == StatusFail:
			return statusClass(StatusFail)
		case e.Status != StatusPass:
			worst = StatusInconclusive
		}
	}
	return statusClass(worst)
}
