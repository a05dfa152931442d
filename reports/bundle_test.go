package reports_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// smallHistory is a run with few records, for tests that write many bundles.
func smallHistory() *history.History {
	h := &history.History{}
	for i := int64(1); i <= 60; i++ {
		at := i * second / 10
		h.Ops = append(h.Ops, history.Op{ID: i, Client: "p", Kind: history.Publish, Target: "ORDERS", Key: "a", Value: fmt.Sprintf("m%d", i), Invoke: at, Complete: at + 1e6, Outcome: history.OK, Seq: uint64(i)})
		h.Items = append(h.Items, history.Item{Target: "ORDERS", Seq: uint64(i), Key: "a", Value: fmt.Sprintf("m%d", i)})
	}
	h.Drains = append(h.Drains, history.Drain{Target: "ORDERS", At: 7 * second, Complete: true, Items: 60, First: 1, Last: 60})
	h.Events = append(h.Events, history.Event{At: second, Kind: "mark", Name: "steady"})
	h.Health = append(h.Health, history.Health{Node: "n1", Probe: "ready", At: second, Took: 1, Code: 200, Reason: "ok"})
	return h
}

func intact() reports.Claim {
	return positive("stream-intact", "Nothing acked is lost.", check.StreamAccounting{Target: "ORDERS", MinAcked: 50})
}

func smallBundle(t testing.TB) string {
	dir := seal(t, smallHistory(), sampleEvidence("node-kill", intact()))
	finish(t, dir)
	return dir
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	dir := smallBundle(t)
	if _, err := reports.Create(dir); !errors.Is(err, reports.ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
}

func TestSnapshotNames(t *testing.T) {
	b, err := reports.Create(t.TempDir())
	must(t, err)
	for _, name := range []string{"", "../x", "a/b", ".hidden", "a\nb", strings.Repeat("x", 200)} {
		if b.SaveSnapshot(name, 1) == nil {
			t.Errorf("snapshot name %q was accepted", name)
		}
	}
	must(t, b.SaveSnapshot("ok-1.statusz", 1))
	must(t, b.Abort())
}

func TestRecorderThroughBundle(t *testing.T) {
	b, err := reports.Create(t.TempDir() + "/x")
	must(t, err)
	op := &history.Op{Client: "c", Kind: history.Publish, Target: "ORDERS", Value: "m1"}
	b.Recorder().Invoke(op)
	op.Outcome, op.Seq = history.OK, 1
	b.Recorder().Complete(op)
	b.Recorder().Item(history.Item{Target: "ORDERS", Seq: 1, Value: "m1"})
	b.Recorder().Drain(history.Drain{Target: "ORDERS", Complete: true, Items: 1, First: 1, Last: 1})
	must(t, b.Seal(sampleEvidence("x", positive("a", "A.", check.StreamAccounting{Target: "ORDERS"}))))
	if p := finish(t, b.Dir()); p.Status != reports.StatusPass || p.Ops != 1 {
		t.Errorf("status %s (%s), %d operations", p.Status, p.Why, p.Ops)
	}
	if b.Seal(reports.Evidence{}) == nil {
		t.Error("a second Seal was accepted")
	}
	if b.SaveSnapshot("late", 1) == nil {
		t.Error("a snapshot after Seal was accepted")
	}
}

func TestJudgeIsRepeatable(t *testing.T) {
	dir := seal(t, sampleHistory(3), sampleEvidence("node-kill", goodClaims()...))
	first := finish(t, dir)
	if first.Status != reports.StatusPass {
		t.Fatalf("status %s: %s", first.Status, first.Why)
	}
	again, err := reports.Judge(dir)
	must(t, err)
	if a, b := encode(t, first), encode(t, again); !bytes.Equal(a, b) {
		t.Errorf("judging again gives something else:\n%s\n%s", a, b)
	}
	before := snapshot(t, dir)
	must(t, reports.Finish(dir, again))
	for name, was := range before {
		if now := read(t, filepath.Join(dir, name)); !bytes.Equal(was, now) {
			t.Errorf("%s is different after finishing again", name)
		}
	}
	if rep, err := reports.Verify(dir); err != nil || !rep.OK || rep.Proof == nil {
		t.Errorf("verify: %v", err)
	}
}

func encode(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// snapshot is every file of a bundle.
func snapshot(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		m[rel] = read(t, p)
		return err
	}))
	return m
}

func TestStatus(t *testing.T) {
	good := intact()
	failing := positive("gone", "Nothing is acked.", check.NoAck{})
	open := positive("nothing-there", "Nothing acked is lost.", check.StreamAccounting{Target: "NOT-THERE"})
	fires := negative("acked", "Must fail.", "acked-without-quorum", check.NoAck{})
	silent := negative("too-good", "Must fail.", "acked-missing", check.StreamAccounting{Target: "ORDERS"})
	wrongCode := negative("other-code", "Must fail.", "silent", check.NoAck{})
	noCode := negative("no-code", "Must fail.", "", check.NoAck{})
	unknown := reports.Claim{ID: "unknown", Spec: check.Spec{Checker: "no-such-checker"}, Expect: check.Pass}
	badParams := reports.Claim{ID: "bad-params", Spec: check.Spec{Checker: "availability", Params: json.RawMessage(`{"max_gap":1}`)}, Expect: check.Pass}
	noExpect := reports.Claim{ID: "no-expect", Spec: good.Spec}
	for name, c := range map[string]struct {
		ev   func(*reports.Evidence)
		cs   []reports.Claim
		want reports.Status
		why  string
	}{
		"pass":             {nil, []reports.Claim{good}, reports.StatusPass, "The claim holds. "},
		"pass and control": {nil, []reports.Claim{good, fires}, reports.StatusPass, "1 negative control failed for the named reason"},
		"only a control":   {nil, []reports.Claim{fires}, reports.StatusPass, "1 negative control"},
		"fail":             {nil, []reports.Claim{good, failing}, reports.StatusFail, "gone failed (acked-without-quorum)"},
		"fail and open":    {nil, []reports.Claim{open, failing}, reports.StatusFail, "gone failed"},
		"open":             {nil, []reports.Claim{good, open}, reports.StatusInconclusive, "1 of 2 claims could not be judged: nothing-there."},
		"silent control":   {nil, []reports.Claim{good, silent}, reports.StatusInconclusive, "A control did not fire: too-good"},
		"wrong code":       {nil, []reports.Claim{good, wrongCode}, reports.StatusInconclusive, "A control did not fire: other-code"},
		"no code":          {nil, []reports.Claim{good, noCode}, reports.StatusInconclusive, "A control did not fire: no-code"},
		"no claims":        {nil, nil, reports.StatusInconclusive, "The scenario makes no claim."},
		"doubled":          {nil, []reports.Claim{good, good}, reports.StatusInconclusive, "Two claims have the id"},
		"unknown checker":  {nil, []reports.Claim{good, unknown}, reports.StatusInconclusive, "could not be judged: unknown"},
		"bad parameters":   {nil, []reports.Claim{good, badParams}, reports.StatusInconclusive, "could not be judged: bad-params"},
		"no expectation":   {nil, []reports.Claim{good, noExpect}, reports.StatusInconclusive, "could not be judged: no-expect"},
		"harness errors":   {func(e *reports.Evidence) { e.Errors = []string{"docker went away"} }, []reports.Claim{good}, reports.StatusInconclusive, "The harness itself failed: docker went away."},
		"errors and fail":  {func(e *reports.Evidence) { e.Errors = []string{"x"} }, []reports.Claim{failing}, reports.StatusInconclusive, "Besides, these claims failed: gone."},
		"not run":          {func(e *reports.Evidence) { e.NotRun = "no Docker engine answers" }, []reports.Claim{good}, reports.StatusNotRun, "Not run: no Docker engine answers."},
	} {
		t.Run(name, func(t *testing.T) {
			ev := sampleEvidence("node-kill", c.cs...)
			if c.ev != nil {
				c.ev(&ev)
			}
			dir := seal(t, smallHistory(), ev)
			p := finish(t, dir)
			if p.Status != c.want || !strings.Contains(p.Why, c.why) {
				t.Errorf("got %s: %s\nwant %s: %s", p.Status, p.Why, c.want, c.why)
			}
			if _, err := reports.Verify(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNotRunHasNoHistory(t *testing.T) {
	ev := sampleEvidence("partition", intact())
	ev.NotRun = "the process backend has no network of its own"
	dir := seal(t, nil, ev)
	if _, err := os.Stat(filepath.Join(dir, reports.HistoryFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("history of a scenario that did not run: %v", err)
	}
	p := finish(t, dir)
	if p.Status != reports.StatusNotRun || p.Claims[0].Satisfied {
		t.Errorf("got %s, satisfied %v", p.Status, p.Claims[0].Satisfied)
	}
	if _, err := reports.Verify(dir); err != nil {
		t.Error(err)
	}
}

func TestCrashedCheckerIsInconclusive(t *testing.T) {
	r := reports.RunChecker(intact().Spec, nil) // a nil history makes any checker crash
	if r.Verdict != check.Inconclusive || r.Code != reports.CodeCrashed || !strings.Contains(r.Reason, "crashed") {
		t.Errorf("got %+v", r)
	}
}

// TestEveryByte changes one byte in each file of a bundle, and takes each away.
func TestEveryByte(t *testing.T) {
	dir := smallBundle(t)
	for name, was := range snapshot(t, dir) {
		full := filepath.Join(dir, name)
		for _, at := range []int{0, len(was) / 2, len(was) - 1} {
			b := slices.Clone(was)
			b[at] ^= 1
			must(t, os.WriteFile(full, b, 0o644))
			if rep, err := reports.Verify(dir); err == nil || rep.OK || len(rep.Problems) == 0 || rep.Proof != nil {
				t.Errorf("%s with byte %d changed verifies", name, at)
			}
		}
		must(t, os.WriteFile(full, was[:len(was)/2], 0o644))
		if _, err := reports.Verify(dir); err == nil {
			t.Errorf("%s cut in half verifies", name)
		}
		must(t, os.Remove(full))
		if _, err := reports.Verify(dir); !errors.Is(err, reports.ErrIncomplete) {
			t.Errorf("without %s: got %v, want ErrIncomplete", name, err)
		}
		must(t, os.WriteFile(full, was, 0o644))
	}
	if _, err := reports.Verify(dir); err != nil {
		t.Errorf("put back: %v", err)
	}
}

// TestForgery edits a bundle and makes the manifest right again: only judging the evidence anew can tell.
func TestForgery(t *testing.T) {
	replace := func(name, old, with string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			p := filepath.Join(dir, name)
			b := read(t, p)
			if !bytes.Contains(b, []byte(old)) {
				t.Fatalf("%s has no %q", name, old)
			}
			must(t, os.WriteFile(p, bytes.Replace(b, []byte(old), []byte(with), 1), 0o644))
		}
	}
	rewrite := func(f func(*reports.Proof)) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			p, err := reports.ReadProof(dir)
			must(t, err)
			f(&p)
			b, err := json.MarshalIndent(p, "", "  ")
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, reports.ProofFile), b, 0o644))
		}
	}
	lossy := func(t testing.TB, dir string) {
		h := smallHistory()
		h.Items = h.Items[:50]
		b, err := reports.EncodeHistory(h)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, reports.HistoryFile), reports.Pack(b), 0o644))
	}
	for name, c := range map[string]struct {
		do   func(testing.TB, string)
		want error
		says string
	}{
		"status":             {rewrite(func(p *reports.Proof) { p.Status = reports.StatusFail }), reports.ErrDisagree, "status"},
		"verdict":            {rewrite(func(p *reports.Proof) { p.Claims[0].Result.Verdict = check.Fail }), reports.ErrDisagree, "verdict of claim stream-intact"},
		"code":               {rewrite(func(p *reports.Proof) { p.Claims[0].Result.Code = "x" }), reports.ErrDisagree, "code of claim"},
		"reason":             {rewrite(func(p *reports.Proof) { p.Claims[0].Result.Reason = "x" }), reports.ErrDisagree, "reason of claim"},
		"figure":             {rewrite(func(p *reports.Proof) { p.Claims[0].Result.Figures[0].Value++ }), reports.ErrDisagree, "figures of claim"},
		"satisfied":          {rewrite(func(p *reports.Proof) { p.Claims[0].Satisfied = false }), reports.ErrDisagree, "satisfied of claim"},
		"claim dropped":      {rewrite(func(p *reports.Proof) { p.Claims = p.Claims[:0] }), reports.ErrDisagree, "number of claims"},
		"control":            {rewrite(func(p *reports.Proof) { p.Controls[0].Fired = !p.Controls[0].Fired }), reports.ErrDisagree, "control "},
		"controls dropped":   {rewrite(func(p *reports.Proof) { p.Controls = p.Controls[:0] }), reports.ErrDisagree, "number of controls"},
		"operations":         {rewrite(func(p *reports.Proof) { p.Ops++ }), reports.ErrDisagree, "operations"},
		"seed in proof":      {rewrite(func(p *reports.Proof) { p.Evidence.Seed++ }), reports.ErrDisagree, "evidence"},
		"subject in proof":   {rewrite(func(p *reports.Proof) { p.Evidence.Subject.Digest = digestB }), reports.ErrDisagree, "evidence"},
		"faults":             {rewrite(func(p *reports.Proof) { p.Faults = append(p.Faults, reports.FaultRun{Name: "x"}) }), reports.ErrDisagree, "faults"},
		"subject everywhere": {replace(reports.EvidenceFile, digestA, digestB), reports.ErrDisagree, "digest of the evidence"},
		"bound in evidence":  {replace(reports.EvidenceFile, `"min_acked": 50`, `"min_acked": 5`), reports.ErrDisagree, "evidence"},
		"history":            {lossy, reports.ErrDisagree, "verdict of claim stream-intact"},
		"log":                {replace("logs/n1.log", "ready", "READY"), reports.ErrDisagree, "digest of the evidence"},
		"events":             {replace(reports.EventsFile, "steady", "stormy"), reports.ErrDisagree, reports.EventsFile},
		"junit":              {replace(reports.JUnitFile, `failures="0"`, `failures="1"`), reports.ErrDisagree, reports.JUnitFile},
		"report":             {replace(reports.ReportFile, "PASS", "FAIL"), reports.ErrDisagree, reports.ReportFile},
		"unknown field":      {replace(reports.ProofFile, `"format"`, `"x": 1, "format"`), reports.ErrTampered, "unknown field"},
		"another format":     {replace(reports.ProofFile, reports.ProofFormat, "unibus-proof/9"), reports.ErrTampered, "unibus-proof/9"},
		"trailing":           {func(t testing.TB, dir string) { appendTo(t, filepath.Join(dir, reports.ProofFile), "{}") }, reports.ErrTampered, "something follows"},
		"no history":         {func(t testing.TB, dir string) { must(t, os.Remove(filepath.Join(dir, reports.HistoryFile))) }, reports.ErrIncomplete, reports.HistoryFile},
		"no proof":           {func(t testing.TB, dir string) { must(t, os.Remove(filepath.Join(dir, reports.ProofFile))) }, reports.ErrIncomplete, reports.ProofFile},
		"history is junk": {func(t testing.TB, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, reports.HistoryFile), []byte("junk"), 0o644))
		}, reports.ErrTampered, "history"},
		"history is cut": {func(t testing.TB, dir string) {
			b, err := reports.EncodeHistory(smallHistory())
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, reports.HistoryFile), reports.Pack(b[:len(b)-5]), 0o644))
		}, reports.ErrTampered, "cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallBundle(t)
			c.do(t, dir)
			must(t, reports.Rehash(dir))
			rep, err := reports.Verify(dir)
			if !errors.Is(err, c.want) || rep.OK || !strings.Contains(strings.Join(rep.Problems, "\n"), c.says) {
				t.Errorf("got %v %q\nwant %v, with %q", err, rep.Problems, c.want, c.says)
			}
		})
	}
}

func appendTo(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, append(read(t, path), text...), 0o644))
}

func TestExtraThings(t *testing.T) {
	for name, do := range map[string]func(dir string) error{
		"file":          func(dir string) error { return os.WriteFile(filepath.Join(dir, "extra"), nil, 0o644) },
		"hidden file":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "logs/.x"), nil, 0o644) },
		"link":          func(dir string) error { return os.Symlink("proof.json", filepath.Join(dir, "logs/l")) },
		"linked folder": func(dir string) error { return os.Symlink("/", filepath.Join(dir, "logs/root")) },
		"file as link": func(dir string) error {
			p := filepath.Join(dir, reports.ProofFile)
			away := filepath.Join(filepath.Dir(dir), "proof-elsewhere.json")
			return errors.Join(os.Rename(p, away), os.Symlink(away, p))
		},
		"manifest as link": func(dir string) error {
			p := filepath.Join(dir, reports.ManifestFile)
			away := filepath.Join(filepath.Dir(dir), "manifest-elsewhere")
			return errors.Join(os.Rename(p, away), os.Symlink(away, p))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallBundle(t)
			must(t, do(dir))
			if _, err := reports.Verify(dir); !errors.Is(err, reports.ErrTampered) {
				t.Errorf("got %v, want ErrTampered", err)
			}
		})
	}
}

func TestManifestForm(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for name, text := range map[string]string{
		"traversal":   sum + "  ../x\n",
		"inner":       sum + "  logs/../../x\n",
		"absolute":    sum + "  /etc/passwd\n",
		"twice":       sum + "  a\n" + sum + "  a\n",
		"unsorted":    sum + "  b\n" + sum + "  a\n",
		"short":       sum[:10] + "  a\n",
		"upper":       strings.ToUpper(sum) + "  a\n",
		"no path":     sum + "  \n",
		"itself":      sum + "  MANIFEST\n",
		"backslash":   sum + "  a\\b\n",
		"no line end": sum + "  a",
		"blank line":  sum + "  a\n\n",
	} {
		if err := reports.ParseManifest([]byte(text)); !errors.Is(err, reports.ErrTampered) {
			t.Errorf("%s: got %v, want ErrTampered", name, err)
		}
	}
	if err := reports.ParseManifest([]byte(sum + "  a\n" + sum + "  logs/b\n")); err != nil {
		t.Error(err)
	}
}

func TestUnpackedSizeIsBounded(t *testing.T) {
	dir := smallBundle(t)
	if err := reports.ReadHistoryLimit(dir, 1000); !errors.Is(err, reports.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	// Eight megabytes without a line end pack into some hundred bytes.
	must(t, os.WriteFile(filepath.Join(dir, reports.HistoryFile), reports.Pack(bytes.Repeat([]byte("x"), 8<<20)), 0o644))
	if err := reports.ReadHistoryLimit(dir, 1<<30); !strings.Contains(fmt.Sprint(err), "line 1 is longer") {
		t.Errorf("got %v, want a bound on lines", err)
	}
}

func TestFinishRefusesAnotherProof(t *testing.T) {
	a := seal(t, smallHistory(), sampleEvidence("node-kill", intact()))
	p, err := reports.Judge(a)
	must(t, err)
	b := seal(t, smallHistory(), sampleEvidence("quorum-loss", intact()))
	if err := reports.Finish(b, p); !errors.Is(err, reports.ErrDisagree) {
		t.Errorf("got %v, want ErrDisagree", err)
	}
}

func TestEvidenceIsSealed(t *testing.T) {
	dir := seal(t, smallHistory(), sampleEvidence("node-kill", intact()))
	appendTo(t, filepath.Join(dir, reports.EvidenceFile), "\n")
	if _, err := reports.Judge(dir); !errors.Is(err, reports.ErrTampered) {
		t.Errorf("got %v, want ErrTampered", err)
	}
}

func TestLogChangedAfterSealIsFound(t *testing.T) {
	dir := seal(t, smallHistory(), sampleEvidence("node-kill", intact()))
	appendTo(t, filepath.Join(dir, "logs/n1.log"), "late\n")
	finish(t, dir)
	if _, err := reports.Verify(dir); !errors.Is(err, reports.ErrTampered) {
		t.Errorf("got %v, want ErrTampered: Finish must not bless a changed file", err)
	}
}

func TestRerender(t *testing.T) {
	dir := smallBundle(t)
	path := filepath.Join(dir, reports.ReportFile)
	want := read(t, path)
	must(t, os.WriteFile(path, []byte("<p>old looks</p>"), 0o644))
	at, err := reports.Rerender(dir)
	must(t, err)
	if at != path || !bytes.Equal(read(t, path), want) {
		t.Error("the report was not drawn again")
	}
	if _, err := reports.Verify(dir); err != nil {
		t.Error(err)
	}
	appendTo(t, filepath.Join(dir, "logs/n1.log"), "x")
	if _, err := reports.Rerender(dir); !errors.Is(err, reports.ErrTampered) {
		t.Errorf("got %v, want ErrTampered", err)
	}
}

func TestReportOfAnotherVersionIsNoted(t *testing.T) {
	dir := smallBundle(t)
	path := filepath.Join(dir, reports.ReportFile)
	must(t, os.WriteFile(path, bytes.ReplaceAll(read(t, path), []byte(reports.RendererTag()), []byte("unibus-report/1 other")), 0o644))
	must(t, reports.Rehash(dir))
	rep, err := reports.Verify(dir)
	if err == nil && (len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "another version")) {
		t.Errorf("notes %q", rep.Notes)
	}
	must(t, err)
}

func TestJUnit(t *testing.T) {
	ev := sampleEvidence("node-kill", intact(), positive("gone", "Nothing is acked.", check.NoAck{}),
		positive("open", "Open.", check.StreamAccounting{Target: "X"}), negative("silent", "Must fail.", "acked-missing", check.StreamAccounting{Target: "ORDERS"}))
	dir := seal(t, smallHistory(), ev)
	p := finish(t, dir)
	var doc struct {
		Suites []struct {
			Name     string `xml:"name,attr"`
			Tests    int    `xml:"tests,attr"`
			Failures int    `xml:"failures,attr"`
			Errors   int    `xml:"errors,attr"`
			Skipped  int    `xml:"skipped,attr"`
		} `xml:"testsuite"`
	}
	must(t, xml.Unmarshal(read(t, filepath.Join(dir, reports.JUnitFile)), &doc))
	skipped := 0
	for _, c := range p.Controls {
		if c.Skipped {
			skipped++
		}
	}
	if s := doc.Suites[0]; s.Name != "node-kill" || s.Failures != 1 || s.Errors != 2 || s.Skipped != skipped || s.Tests != 4+len(p.Controls) {
		t.Errorf("got %+v, %d controls", s, len(p.Controls))
	}
}

func TestFiguresThatJSONCannotHold(t *testing.T) {
	for _, v := range []check.Verdict{check.Pass, check.Fail} {
		r := reports.Finite(check.Result{Verdict: v, Figures: []check.Figure{{Name: "a", Value: math.Inf(1)}, {Name: "b", Value: 1}}})
		if v == check.Pass && r.Verdict != check.Inconclusive || v == check.Fail && r.Verdict != check.Fail || len(r.Figures) != 1 {
			t.Errorf("%s: got %+v", v, r)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add(encode(f, sampleEvidence("x", intact())))
	f.Add([]byte(`{"format":"unibus-evidence/1","claims":[{"expect":"pass"}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := reports.DecodeEvidence(b)
		if err != nil {
			return
		}
		p := reports.JudgeEvidence(ev, &history.History{})
		if p.Status == reports.StatusPass {
			t.Errorf("an empty history passes: %s", b)
		}
		if _, err := reports.ReportHTML(p, &history.History{}); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(strings.Repeat("ab", 32) + "  a\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = reports.ParseManifest(b) })
}
