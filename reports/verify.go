package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// What can be wrong with a bundle. Errors of Verify wrap at least one of them.
var (
	// ErrTampered: a file is not what the manifest says, or not something that a bundle holds.
	ErrTampered = errors.New("the bundle was changed")
	// ErrIncomplete: a file is missing, or the bundle was never judged.
	ErrIncomplete = errors.New("the bundle is not complete")
	// ErrDisagree: judging the evidence again gives something else than the proof says.
	ErrDisagree = errors.New("the proof does not follow from its evidence")
)

// VerifyReport is what Verify found.
type VerifyReport struct {
	Dir      string   `json:"dir"`
	OK       bool     `json:"ok"`
	Scenario string   `json:"scenario,omitempty"`
	Status   Status   `json:"status,omitempty"` // what the proof says; only meaningful when OK
	Why      string   `json:"why,omitempty"`
	Files    int      `json:"files"`
	Ops      int      `json:"ops"`
	Claims   int      `json:"claims"`
	Digest   string   `json:"evidence_digest,omitempty"`
	Harness  Subject  `json:"harness"` // that made it, as the bundle says
	Problems []string `json:"problems,omitempty"`
	Notes    []string `json:"notes,omitempty"` // nothing wrong, but worth knowing
	Proof    *Proof   `json:"-"`               // what was verified; nil unless OK
}

// Verify holds a bundle against its manifest, judges its evidence again, and compares. It trusts nothing in dir. The error is nil
// exactly when the report is OK.
func Verify(dir string) (VerifyReport, error) {
	rep := VerifyReport{Dir: dir}
	err := verify(dir, &rep)
	if err != nil {
		rep.Problems, rep.Proof, rep.Status, rep.Why = problems(err), nil, "", ""
		return rep, fmt.Errorf("verify %s: %w", dir, err)
	}
	rep.OK = true
	return rep, nil
}

func verify(dir string, rep *VerifyReport) error {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return fmt.Errorf("%w: there is no such folder", ErrIncomplete)
	}
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	rep.Files = len(m)
	if err := errors.Join(required(m), compareFiles(dir, m)); err != nil {
		return err
	}
	said, err := ReadProof(dir)
	if err != nil {
		return err
	}
	found, h, err := judge(dir)
	if err != nil {
		return err
	}
	rep.Scenario, rep.Status, rep.Why, rep.Ops, rep.Claims, rep.Digest = found.Evidence.Scenario, found.Status, found.Why, found.Ops, len(found.Claims), found.EvidenceDigest
	rep.Proof, rep.Harness = &found, found.Evidence.Harness
	return errors.Join(compareProofs(said, found), compareDerived(dir, m, found, h, rep))
}

// required names what every finished bundle has.
func required(m manifest) error {
	var errs []error
	for _, p := range append([]string{EvidenceFile}, judgementFiles...) {
		if _, ok := m[p]; !ok {
			errs = append(errs, fmt.Errorf("%w: the manifest has no %s", ErrIncomplete, p))
		}
	}
	return errors.Join(errs...)
}

// compareFiles finds every file that is missing, extra or different, those in except apart.
func compareFiles(dir string, m manifest, except ...string) error {
	files, err := listTree(dir)
	if err != nil {
		return err
	}
	var errs []error
	there := map[string]bool{}
	for _, p := range files {
		there[p] = true
		if _, ok := m[p]; !ok && !slices.Contains(except, p) {
			errs = append(errs, fmt.Errorf("%w: %s is not in the manifest", ErrTampered, p))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(m)) {
		if !there[p] {
			errs = append(errs, fmt.Errorf("%w: %s is missing", ErrIncomplete, p))
			continue
		}
		sum, err := hashFile(dir, p)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%w: %s: %w", ErrTampered, p, err))
		case sum != m[p]:
			errs = append(errs, fmt.Errorf("%w: %s has another digest than the manifest says", ErrTampered, p))
		}
	}
	return errors.Join(errs...)
}

// compareProofs names what differs between what the proof says and what the evidence gives.
func compareProofs(said, found Proof) error {
	var errs []error
	differ := func(what string, a, b any) {
		if !sameJSON(a, b) {
			errs = append(errs, fmt.Errorf("%w: %s: the proof says %s, the evidence gives %s", ErrDisagree, what, brief(a), brief(b)))
		}
	}
	differ("evidence", said.Evidence, found.Evidence)
	differ("digest of the evidence", said.EvidenceDigest, found.EvidenceDigest)
	differ("status", said.Status, found.Status)
	differ("why", said.Why, found.Why)
	differ("operations", said.Ops, found.Ops)
	differ("number of claims", len(said.Claims), len(found.Claims))
	for i := range min(len(said.Claims), len(found.Claims)) {
		compareClaims(said.Claims[i], found.Claims[i], differ)
	}
	differ("number of controls", len(said.Controls), len(found.Controls))
	for i := range min(len(said.Controls), len(found.Controls)) {
		differ("control "+found.Controls[i].Name+" of "+found.Controls[i].Claim, said.Controls[i], found.Controls[i])
	}
	differ("faults", said.Faults, found.Faults)
	if len(errs) == 0 {
		differ("proof", said, found) // whatever the list above may have forgotten
	}
	return errors.Join(errs...)
}

func compareClaims(a, b Judged, differ func(string, any, any)) {
	name := "claim " + b.Claim.ID
	differ(name, a.Claim, b.Claim)
	differ("verdict of "+name, a.Result.Verdict, b.Result.Verdict)
	differ("code of "+name, a.Result.Code, b.Result.Code)
	differ("figures of "+name, a.Result.Figures, b.Result.Figures)
	differ("satisfied of "+name, a.Satisfied, b.Satisfied)
	differ("reason of "+name, a.Result.Reason, b.Result.Reason)
	differ("promise of "+name, a.Result.Promise, b.Result.Promise)
	differ("witnesses of "+name, a.Result.Witnesses, b.Result.Witnesses)
}

// compareDerived draws the files for people again: nobody should read a picture that the proof does not support.
func compareDerived(dir string, m manifest, p Proof, h *history.History, rep *VerifyReport) error {
	var errs []error
	if _, ok := m[EventsFile]; ok {
		errs = append(errs, sameFile(dir, EventsFile, eventLines(h)))
	}
	junit, err := junitXML(p)
	if err != nil {
		return err
	}
	errs = append(errs, sameFile(dir, JUnitFile, junit))
	html, err := reportHTML(p, h)
	if err != nil {
		return err
	}
	have, err := readSmall(dir, ReportFile)
	switch {
	case err != nil:
		errs = append(errs, err)
	case bytes.Equal(have, html):
	case bytes.Contains(have, []byte(rendererTag())):
		errs = append(errs, fmt.Errorf("%w: %s is not what this version draws from the proof", ErrDisagree, ReportFile))
	default:
		rep.Notes = append(rep.Notes, ReportFile+" was drawn by another version of the harness and was not compared; `chaos report` draws it again")
	}
	return errors.Join(errs...)
}

func sameFile(dir, name string, want []byte) error {
	f, err := readSmall(dir, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(f, want) {
		return fmt.Errorf("%w: %s does not follow from the rest of the bundle", ErrDisagree, name)
	}
	return nil
}

func sameJSON(a, b any) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// brief is v on one short line.
func brief(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return ellipsis(string(b), 120)
}

// problems lists the parts of a joined error.
func problems(err error) []string {
	if j, ok := err.(interface{ Unwrap() []error }); ok && isJoin(err) {
		var out []string
		for _, e := range j.Unwrap() {
			out = append(out, problems(e)...)
		}
		return out
	}
	return []string{err.Error()}
}

// isJoin tells errors.Join from fmt.Errorf with several %w: only the former has nothing of its own to say.
func isJoin(err error) bool { return fmt.Sprintf("%T", err) == "*errors.joinError" }

// IsBundle tells whether dir looks like a bundle, finished or not.
func IsBundle(dir string) bool {
	for _, f := range []string{ManifestFile, ProofFile, EvidenceFile, HistoryFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return true
		}
	}
	return false
}
