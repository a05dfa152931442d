package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// Codes that this package gives to results, beside those of the checkers.
const (
	CodeCrashed   = "checker-crashed"   // the checker panicked
	CodeRefused   = "checker-refused"   // no such checker, or parameters that it does not have
	CodeNotFinite = "figure-not-finite" // a figure was infinite or not a number
	CodeNotJudged = "not-judged"        // the scenario did not run
)

// Judge judges the sealed bundle in dir from what is on disk, and nothing else: the same bundle gives the same proof, byte for byte.
// It refuses evidence that is not what was sealed.
func Judge(dir string) (Proof, error) {
	p, _, err := judge(dir)
	return p, err
}

func judge(dir string) (Proof, *history.History, error) {
	ev, h, m, err := load(dir)
	if err != nil {
		return Proof{}, nil, fmt.Errorf("judge bundle: %w", err)
	}
	p := judgeEvidence(ev, h)
	p.EvidenceDigest = m.evidence().digest()
	if p, err = canonical(p); err != nil {
		return Proof{}, nil, fmt.Errorf("judge bundle: %w", err)
	}
	return p, h, nil
}

// load reads the evidence and holds both files against the manifest.
func load(dir string) (Evidence, *history.History, manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return Evidence{}, nil, nil, err
	}
	ev, sum, err := readEvidence(dir)
	if err != nil {
		return Evidence{}, nil, nil, err
	}
	if m[EvidenceFile] != sum {
		return Evidence{}, nil, nil, fmt.Errorf("%w: %s is not what was sealed", ErrTampered, EvidenceFile)
	}
	if _, has := m[HistoryFile]; !has && ev.NotRun != "" {
		return ev, &history.History{}, m, nil
	}
	h, sum, err := readHistory(dir, maxHistoryBytes)
	if err != nil {
		if same, herr := hashFile(dir, HistoryFile); herr == nil && same == m[HistoryFile] && len(ev.Errors) > 0 {
			return ev, &history.History{}, m, nil // it was sealed so, and the harness says itself that something failed: Inconclusive
		}
		return Evidence{}, nil, nil, err
	}
	if m[HistoryFile] != sum {
		return Evidence{}, nil, nil, fmt.Errorf("%w: %s is not what was sealed", ErrTampered, HistoryFile)
	}
	return ev, h, m, nil
}

// canonical is p as it comes back from its file.
func canonical(p Proof) (Proof, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return Proof{}, fmt.Errorf("encode proof: %w", err)
	}
	return decodeProof(b)
}

func judgeEvidence(ev Evidence, h *history.History) Proof {
	p := Proof{Format: ProofFormat, Evidence: ev, Claims: []Judged{}, Controls: []ControlRun{}, Faults: Faults(h), Ops: len(h.Ops)}
	for _, c := range ev.Claims {
		p.Claims = append(p.Claims, judgeClaim(c, ev, h))
	}
	if ev.NotRun == "" {
		p.Controls = append(p.Controls, runControls(p.Claims, h, ev.Seed)...)
	}
	p.Status, p.Why = conclude(p)
	return p
}

func judgeClaim(c Claim, ev Evidence, h *history.History) Judged {
	j := Judged{Claim: c}
	if ev.NotRun != "" {
		j.Result = check.Result{Code: CodeNotJudged, Reason: "The scenario did not run: " + ev.NotRun}
		return j
	}
	j.Result = finite(runChecker(c.Spec, h))
	switch c.Expect {
	case check.Pass:
		j.Satisfied = j.Result.Verdict == check.Pass
	case check.Fail: // for no reason, or for another one, is not what the control is there to show
		j.Satisfied = j.Result.Verdict == check.Fail && c.ExpectCode != "" && j.Result.Code == c.ExpectCode
	}
	return j
}

// runChecker turns a checker that crashes, or is not there, into an Inconclusive result: neither may hide the other claims.
func runChecker(s check.Spec, h *history.History) (r check.Result) {
	defer func() {
		if x := recover(); x != nil {
			r = check.Result{Code: CodeCrashed, Reason: fmt.Sprintf("The checker %s crashed: %v", s.Checker, x)}
		}
	}()
	r, err := s.Run(h)
	if err != nil {
		return check.Result{Code: CodeRefused, Reason: err.Error()}
	}
	return r
}

// finite drops figures that JSON cannot hold, and verdicts that do not exist; neither may pass.
func finite(r check.Result) check.Result {
	if r.Verdict > check.Fail {
		return check.Result{Code: CodeRefused, Reason: fmt.Sprintf("The checker gave the verdict %d, which does not exist.", r.Verdict)}
	}
	kept := r.Figures[:0:0]
	for _, f := range r.Figures {
		if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) {
			r.Reason += fmt.Sprintf(" (Figure %s was %v.)", f.Name, f.Value)
			if r.Verdict == check.Pass {
				r.Verdict, r.Code = check.Inconclusive, CodeNotFinite
			}
			continue
		}
		kept = append(kept, f)
	}
	r.Figures = kept
	return r
}

// runControls damages the history under each positive claim that passed: a checker that then still passes proves nothing.
func runControls(claims []Judged, h *history.History, seed uint64) (runs []ControlRun) {
	var specs []check.Spec
	var ids []string
	for _, j := range claims {
		if !j.Claim.Control() && j.Satisfied {
			specs, ids = append(specs, j.Claim.Spec), append(ids, j.Claim.ID)
		}
	}
	if len(specs) == 0 {
		return nil
	}
	defer func() {
		if x := recover(); x != nil {
			runs = []ControlRun{{Name: "mutations", Claim: strings.Join(ids, ", "), Code: CodeCrashed, Note: fmt.Sprintf("The controls crashed: %v", x)}}
		}
	}()
	for _, r := range check.RunMutations(specs, h, seed) {
		runs = append(runs, ControlRun{
			Name: r.Mutation, Claim: ids[r.Spec], Want: r.Want, Got: r.Result.Verdict, Code: r.Result.Code,
			Fired: r.Applied && r.Fired, Skipped: !r.Applied, Note: r.Note,
		})
	}
	return runs
}

// tally counts what the status depends on.
type tally struct {
	failed, open, misfired []string // claims that failed, that could not be judged, and controls that did not fire
	fired, caught, missed  int
	total                  int
}

func count(p Proof) tally {
	var t tally
	for _, j := range p.Claims {
		t.total++
		switch {
		case j.Claim.Control() && j.Satisfied:
			t.fired++
		case j.Claim.Control():
			t.misfired = append(t.misfired, fmt.Sprintf("%s should have failed for %q and was %s", j.Claim.ID, j.Claim.ExpectCode, verdictWithCode(j.Result.Verdict, j.Result.Code)))
		case j.Result.Verdict == check.Fail:
			t.failed = append(t.failed, j.Claim.ID)
		case !j.Satisfied:
			t.open = append(t.open, j.Claim.ID)
		}
	}
	for _, c := range p.Controls {
		switch {
		case c.Fired:
			t.caught++
		case !c.Skipped:
			t.missed++
			t.misfired = append(t.misfired, fmt.Sprintf("the damage %q under %s was judged %s", c.Name, c.Claim, verdictWithCode(c.Got, c.Code)))
		}
	}
	return t
}

func verdictWithCode(v check.Verdict, code string) string {
	if code == "" {
		return v.String()
	}
	return v.String() + " (" + code + ")"
}

// conclude gives the status and the sentence that stands on top of the report.
func conclude(p Proof) (Status, string) {
	t := count(p)
	ev := p.Evidence
	switch {
	case ev.NotRun != "":
		return StatusNotRun, "Not run: " + sentence(ev.NotRun)
	case len(ev.Errors) > 0:
		why := fmt.Sprintf("The harness itself failed: %s", sentence(ev.Errors[0]))
		if len(t.failed) > 0 {
			why += " Besides, these claims failed: " + strings.Join(t.failed, ", ") + "."
		}
		return StatusInconclusive, why
	case len(t.failed) > 0:
		return StatusFail, whyFailed(p, t)
	case len(t.open) > 0:
		return StatusInconclusive, fmt.Sprintf("%d of %d claims could not be judged: %s.", len(t.open), t.total, strings.Join(t.open, ", "))
	case len(t.misfired) > 0:
		return StatusInconclusive, "A control did not fire: " + strings.Join(t.misfired, "; ") + "."
	case t.total == 0:
		return StatusInconclusive, "The scenario makes no claim."
	case doubled(ev.Claims) != "":
		return StatusInconclusive, fmt.Sprintf("Two claims have the id %q.", doubled(ev.Claims))
	}
	return StatusPass, whyPassed(t)
}

func whyFailed(p Proof, t tally) string {
	for _, j := range p.Claims {
		if j.Claim.ID == t.failed[0] {
			why := fmt.Sprintf("%s failed (%s): %s", j.Claim.ID, j.Result.Code, sentence(j.Result.Reason))
			if n := len(t.failed) - 1; n > 0 {
				why += fmt.Sprintf(" %d more failed: %s.", n, strings.Join(t.failed[1:], ", "))
			}
			return why
		}
	}
	return "A claim failed."
}

func whyPassed(t tally) string {
	var parts []string
	switch n := t.total - t.fired; {
	case n == 1:
		parts = append(parts, "The claim holds.")
	case n > 1:
		parts = append(parts, fmt.Sprintf("All %d claims hold.", n))
	}
	if t.fired > 0 {
		parts = append(parts, fmt.Sprintf("%s failed for the named reason, as wanted.", plural(t.fired, "negative control")))
	}
	switch {
	case t.caught > 0:
		parts = append(parts, fmt.Sprintf("The checkers caught %s of this history.", plural(t.caught, "damaged copy", "damaged copies")))
	case t.total > t.fired:
		parts = append(parts, "No damaged copy of this history could be made, so that the checkers were not tried against one.")
	}
	return strings.Join(parts, " ")
}

func doubled(cs []Claim) string {
	seen := map[string]bool{}
	for _, c := range cs {
		if seen[c.ID] {
			return c.ID
		}
		seen[c.ID] = true
	}
	return ""
}

// plural is "1 claim", "2 claims"; many is given where adding an s will not do.
func plural(n int, one string, many ...string) string {
	if n == 1 {
		return "1 " + one
	}
	if len(many) > 0 {
		return fmt.Sprintf("%d %s", n, many[0])
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// sentence ends s with a full stop.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}
