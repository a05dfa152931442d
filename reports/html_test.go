package reports_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

func drawn(t testing.TB, p reports.Proof, h *history.History) string {
	t.Helper()
	b, err := reports.ReportHTML(p, h)
	must(t, err)
	return string(b)
}

func TestReportNeedsNothingElse(t *testing.T) {
	dir := seal(t, sampleHistory(5), sampleEvidence("node-kill", goodClaims()...))
	finish(t, dir)
	page := string(read(t, filepath.Join(dir, reports.ReportFile)))
	for _, want := range []string{"PASS", "node-kill", "make chaos SCENARIO=node-kill SEED=7", "chaos verify .", "kill[n1]#1", "8.70 ms", "stream-intact",
		"No node said that it was ready", "acks-nothing", "drop-acked", digestA, "What was not run", "prefers-color-scheme", "@media print", "ready n1", "no answer", "of 16,000 operations are drawn"} {
		if !strings.Contains(page, want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	if m := regexp.MustCompile(`(?i)(src|href)\s*=|@import|url\((?:[^#])|https?://`).FindString(page); m != "" {
		t.Errorf("the report refers to something outside: %q", m)
	}
	if strings.Contains(page, "ZgotmplZ") || strings.Contains(page, "NaN") || strings.Contains(page, "%!") {
		t.Error("something was not rendered well")
	}
	if first, claims := strings.Index(page, `class="word"`), strings.Index(page, "<h2>Claims"); first < 0 || claims < first {
		t.Error("the verdict is not first")
	}
}

func TestReportEscapes(t *testing.T) {
	const evil = `</script><script>alert(1)</script><img src=x onerror=alert(2)>"'`
	ev := sampleEvidence("node-kill")
	ev.Scenario, ev.Doc, ev.Command, ev.Variant, ev.Subject.Version, ev.Errors = evil, evil, evil, evil, evil, []string{evil}
	ev.Env.Images = map[string]string{evil: evil}
	p := reports.Proof{Evidence: ev, Status: reports.StatusFail, Why: evil}
	r := check.Result{Verdict: check.Fail, Code: evil, Reason: evil, Promise: evil, Figures: []check.Figure{{Name: evil, Value: 1, Unit: evil}}, Witnesses: []check.Witness{{Text: evil, At: 1}}}
	p.Claims = []reports.Judged{{Claim: reports.Claim{ID: evil, Text: evil, Expect: check.Pass}, Result: r}, {Claim: reports.Claim{ID: evil, Text: evil, Expect: check.Fail, ExpectCode: evil}, Result: r}}
	p.Controls = []reports.ControlRun{{Name: evil, Claim: evil, Want: evil, Note: evil}, {Name: evil, Skipped: true, Note: evil}}
	h := smallHistory()
	h.Events = append(h.Events,
		history.Event{At: 5, Kind: "fault", Name: evil, Stage: history.StageDecided, Nodes: []string{evil}, Detail: evil},
		history.Event{At: 9, Kind: "fault", Name: evil, Stage: history.StageInForce, Nodes: []string{evil}, Detail: evil},
		history.Event{At: 10, Kind: "leader", Name: evil, Nodes: []string{evil}, Detail: evil},
		history.Event{At: 11, Kind: "mark", Name: evil, Detail: evil}, history.Event{At: 12, Kind: evil, Name: evil})
	h.Health = append(h.Health, history.Health{Node: evil, Probe: evil, At: 4, Took: 1, Code: 503, Reason: evil})
	p.Faults = reports.Faults(h)
	page := drawn(t, p, h)
	if n := strings.Count(page, "<script>"); n != 1 {
		t.Errorf("%d scripts, want the one of ours", n)
	}
	if strings.Contains(page, "<img") || strings.Contains(page, "alert(1)</script>") {
		t.Error("text from outside became markup")
	}
}

func TestReportDrawsEveryStatus(t *testing.T) {
	for s, word := range map[reports.Status]string{reports.StatusPass: "PASS", reports.StatusFail: "FAIL", reports.StatusInconclusive: "INCONCLUSIVE", reports.StatusNotRun: "NOT RUN", "": ""} {
		page := drawn(t, reports.Proof{Status: s, Evidence: sampleEvidence("x")}, &history.History{})
		if !strings.Contains(page, `<div class="word">`+word+"</div>") {
			t.Errorf("status %q: no word %q", s, word)
		}
		if strings.Contains(page, "<svg class=\"chart\"") {
			t.Errorf("status %q: a chart of nothing", s)
		}
	}
}

// TestSamplingIsBoundedAndSaid draws a run that is far too large, with one very slow operation in it.
func TestSamplingIsBoundedAndSaid(t *testing.T) {
	h := &history.History{}
	for i := int64(0); i < 50_000; i++ {
		op := history.Op{ID: i, Client: "c", Kind: history.Publish, Target: "T", Invoke: i * 1e6, Complete: i*1e6 + 2e6, Outcome: history.OK}
		switch {
		case i == 31_007:
			op.Complete = op.Invoke + 7*second
		case i%1000 == 3:
			op.Outcome = history.Failed
		case i%1000 == 5:
			op.Outcome, op.Complete = history.Unknown, 0
		}
		h.Ops = append(h.Ops, op)
	}
	page := drawn(t, reports.Proof{Evidence: sampleEvidence("x"), Ops: len(h.Ops)}, h)
	d := regexp.MustCompile(`<path class="(ok|bad|unk)" d="(M[^"]{100,})"`).FindAllStringSubmatch(page, -1)
	count := map[string]int{}
	for _, m := range d {
		count[m[1]] += strings.Count(m[2], "M")
	}
	if count["bad"] != 50 || count["unk"] != 50 {
		t.Errorf("failed and unknown dots: %v, want all 50 and 50", count)
	}
	if n := count["ok"]; n > reports.MaxDots || n < reports.MaxDots/2 {
		t.Errorf("%d acked dots", n)
	}
	if !strings.Contains(page, "of 50,000 operations are drawn") || !strings.Contains(page, "Every failed and unknown one is drawn.") {
		t.Error("the report does not say how it sampled")
	}
	if len(page) > 400_000 {
		t.Errorf("the page has %d bytes", len(page))
	}
}

func TestLongRunsAndOddRecordsDraw(t *testing.T) {
	for name, h := range map[string]*history.History{
		"one op":       {Ops: []history.Op{{Invoke: 1, Complete: 1, Outcome: history.OK}}},
		"a day":        {Ops: []history.Op{{Invoke: 1, Complete: 5, Outcome: history.OK}, {Invoke: 86400 * second, Complete: 86400*second + 5, Outcome: history.Failed}}},
		"backwards":    {Ops: []history.Op{{Invoke: 10, Complete: 5, Outcome: history.OK}}},
		"negative":     {Ops: []history.Op{{Invoke: -10, Complete: -5, Outcome: history.OK}, {Invoke: 3, Complete: 9}}},
		"only unknown": {Ops: []history.Op{{Invoke: 10}}},
		"only health":  {Health: []history.Health{{Node: "n1", Probe: "ready", At: 5, Took: 2}}},
		"no stages":    {Events: []history.Event{{At: 7, Kind: "fault", Name: "kill[n1]"}}},
		"noop":         {Events: []history.Event{{At: 7, Kind: "fault", Name: "kill[n1]", Stage: history.StageDecided, Noop: true}, {At: 9, Kind: "fault", Name: "kill[n1]", Stage: history.StageNotSeen, Noop: true, Detail: "runs"}}},
	} {
		page := drawn(t, reports.Proof{Evidence: sampleEvidence("x"), Faults: reports.Faults(h)}, h)
		if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
			t.Errorf("%s: a coordinate is not a number", name)
		}
	}
}

func TestIndex(t *testing.T) {
	out := t.TempDir()
	for _, s := range []string{"cold-start", "node-kill"} {
		dir := filepath.Join(out, s)
		sealIn(t, dir, smallHistory(), sampleEvidence(s, intact()))
		finish(t, dir)
	}
	sealIn(t, filepath.Join(out, "unjudged"), smallHistory(), sampleEvidence("unjudged", intact()))
	must(t, os.Mkdir(filepath.Join(out, "not-a-bundle"), 0o755))
	must(t, reports.WriteIndex(out, reports.RunInfo{ID: "r1", Command: "make chaos", Seed: 7, Started: time.Unix(0, 0), LeftOut: []string{"partition: no <Docker>"}}))
	page := string(read(t, filepath.Join(out, reports.IndexHTML)))
	for _, want := range []string{`href="cold-start/report.html"`, `href="node-kill/report.html"`, "unjudged", "No proof can be read here", "no &lt;Docker&gt;", "3 proofs: 2 pass, 1 inconclusive."} {
		if !strings.Contains(page, want) {
			t.Errorf("the index does not say %q", want)
		}
	}
	names, err := reports.Listed(out)
	if err != nil || fmt.Sprint(names) != "[cold-start node-kill unjudged]" {
		t.Errorf("listed %v, %v", names, err)
	}
}

func TestTable(t *testing.T) {
	good := finish(t, seal(t, sampleHistory(2), sampleEvidence("node-kill", goodClaims()...)))
	ev := sampleEvidence("partition", intact())
	ev.NotRun = "needs the network capability\x1b[31m"
	skipped := finish(t, seal(t, nil, ev))
	text := reports.Table([]reports.Proof{good, skipped}, reports.Claims)
	for _, want := range []string{"SCENARIO", "node-kill", "stream-intact", "PASS", "FAIL, wanted", "CAUGHT", "NOT RUN", "make chaos SCENARIO=node-kill SEED=7", "acked 13,005", "2 proofs: 1 pass, 1 not run."} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("the plain table has escape sequences")
	}
	for _, width := range []int{0, 80, 120, 140, 160, 500} {
		for _, l := range strings.Split(reports.RenderTable([]reports.Proof{good, skipped}, width, false, reports.Claims), "\n") {
			if n, most := len([]rune(l)), min(max(width, 120), 160); n > most {
				t.Errorf("width %d: a line has %d characters: %s", width, n, l)
			}
		}
	}
	if !strings.Contains(reports.RenderTable([]reports.Proof{good}, 160, true, reports.Claims), "\x1b[32mPASS") {
		t.Error("the coloured table has no colour")
	}
	if got := reports.Table(nil, reports.Brief); !strings.Contains(got, "nothing was shown") {
		t.Errorf("table of nothing: %s", got)
	}
}

// TestBriefTable: a line for what passed, and for the rest the claims that are not as wanted and no others.
func TestBriefTable(t *testing.T) {
	good := finish(t, seal(t, sampleHistory(2), sampleEvidence("node-kill", goodClaims()...)))
	bad := good
	bad.Evidence.Scenario, bad.Status, bad.Claims = "partition", reports.StatusFail, slices.Clone(good.Claims)
	bad.Claims[0].Satisfied, bad.Claims[0].Result.Verdict, bad.Claims[0].Result.Code = false, check.Fail, "acked-missing"
	lines := strings.Split(strings.TrimSpace(reports.Table([]reports.Proof{good, bad}, reports.Brief)), "\n")
	if len(lines) != 7 { // head, rule, one, two, its claim, nothing, summary
		t.Fatalf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for i, want := range map[int][]string{
		2: {"node-kill", " hold", "PASS", " ops", "fired", "damaged copies caught"},
		3: {"partition", "as wanted", "FAIL", "make chaos SCENARIO=node-kill"},
		4: {bad.Claims[0].Claim.ID, "FAIL", "acked-missing"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d does not say %q: %s", i, w, lines[i])
			}
		}
	}
}

func TestFaultsOfARecord(t *testing.T) {
	e := func(at int64, st history.Stage, data map[string]any) history.Event {
		return history.Event{At: at, Kind: "fault", Name: "kill[n1]#1", Stage: st, Nodes: []string{"n1"}, Detail: string(st), Data: data}
	}
	force := func(b bool) map[string]any { return map[string]any{"in_force": b} }
	h := &history.History{Events: []history.Event{e(1, history.StageAbsent, force(false)), e(2, history.StageDecided, nil), e(3, history.StageInForce, force(true)), e(4, history.StageHealing, nil), e(5, history.StageHealed, force(false))}}
	if f := reports.Faults(h)[0]; f.Decided != 2 || f.InForce != 3 || f.Healing != 4 || f.Healed != 5 || f.NotSeen != "" || f.Measured != "in-force" {
		t.Errorf("got %+v", f)
	}
	h.Events[2].Data, h.Events[4].Data = force(false), force(true)
	if f := reports.Faults(h)[0]; f.InForce != 0 || f.Healed != 0 || f.NotSeen == "" {
		t.Errorf("a probe that says otherwise was not believed: %+v", f)
	}
}
