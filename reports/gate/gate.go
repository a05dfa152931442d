package gate

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/attest"
	"github.com/unibus/unibus/reports/check"
)

// clockSlack is how far in the future a proof may have been started, for clocks that differ.
const clockSlack = 5 * time.Minute

// Outcome of a gate, worst last but one: a bad proof outweighs everything, because nothing can be said from it.
type Outcome string

// Outcomes.
const (
	Passed       Outcome = "pass"
	Failed       Outcome = "fail"
	BadProof     Outcome = "bad-proof"
	Inconclusive Outcome = "inconclusive"
)

// ExitCode is the exit code of `chaos gate` for the outcome. An unknown outcome does not pass.
func (o Outcome) ExitCode() int {
	switch o {
	case Passed:
		return 0
	case Failed:
		return 1
	case BadProof:
		return 2
	}
	return 3
}

// severity orders outcomes.
func (o Outcome) severity() int {
	switch o {
	case Passed:
		return 0
	case Inconclusive:
		return 1
	case Failed:
		return 2
	}
	return 3
}

// Finding is one thing that the gate looked at.
type Finding struct {
	What    string  `json:"what"` // "node-kill", "control noop-faults", "bound ...", a bundle's folder
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason"`
}

// Decision is what the gate found.
type Decision struct {
	Outcome Outcome `json:"outcome"`
	Exit    int     `json:"exit"`
	Policy  string  `json:"policy"`
	Subject string  `json:"subject,omitempty"` // digest that all counted proofs speak of
	// SubjectKind is what that binary is: "membershipd".
	SubjectKind string    `json:"subject_kind,omitempty"`
	Bundles     int       `json:"bundles"`
	Counted     []string  `json:"counted,omitempty"` // folders of the bundles that were sound and that the policy lets count
	Findings    []Finding `json:"findings"`
}

func (d *Decision) add(what string, o Outcome, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{what, o, fmt.Sprintf(format, args...)})
}

// Expand turns arguments into bundles: a bundle is itself, any other folder stands for the bundles directly below it. What an index
// in such a folder lists must still be there.
func Expand(args []string) ([]string, error) {
	var dirs []string
	for _, a := range args {
		if st, err := os.Stat(a); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("%s is not a folder", a)
		}
		if reports.IsBundle(a) {
			dirs = append(dirs, a)
			continue
		}
		below, err := reports.Bundles(a)
		if err != nil {
			return nil, err
		}
		if len(below) == 0 {
			return nil, fmt.Errorf("%s holds no proof bundle", a)
		}
		listed, err := reports.Listed(a)
		if err != nil {
			return nil, err
		}
		for _, name := range listed {
			if full := filepath.Join(a, name); !slices.Contains(below, full) {
				return nil, fmt.Errorf("%s is listed in %s and is not there", full, filepath.Join(a, reports.IndexJSON))
			}
		}
		dirs = append(dirs, below...)
	}
	return dirs, nil
}

// SubjectDigest reads a --subject argument: a digest as it is, or the digest of a file.
func SubjectDigest(arg string) (digest string, err error) {
	if strings.HasPrefix(arg, "sha256:") {
		if !digestForm.MatchString(arg) {
			return "", fmt.Errorf("%w: subject is %q: want sha256: and 64 hex digits", ErrPolicy, arg)
		}
		return arg, nil
	}
	f, err := os.Open(arg)
	if err != nil {
		return "", fmt.Errorf("read subject: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := sha256.New()
	if _, err := io.Copy(s, f); err != nil {
		return "", fmt.Errorf("read subject: %w", err)
	}
	return "sha256:" + hex.EncodeToString(s.Sum(nil)), nil
}

// Digest is the "sha256:<hex>" of a policy's file.
func Digest(policy []byte) string {
	s := sha256.Sum256(policy)
	return "sha256:" + hex.EncodeToString(s[:])
}

// Decide verifies every bundle and holds them against the policy. now is the time that max_age counts from. With keys a bundle that none of
// them signed is a bad proof.
func Decide(p Policy, dirs []string, now time.Time, keys ...ed25519.PublicKey) Decision {
	d := Decision{Policy: p.Name, Bundles: len(dirs), Findings: []Finding{}}
	if err := p.check(); err != nil {
		d.add("policy", BadProof, "%v", err)
		return d.conclude()
	}
	if len(dirs) == 0 {
		d.add("bundles", BadProof, "There is no proof to look at.")
		return d.conclude()
	}
	ps := d.verifyAll(dirs, keys)
	ps = d.admit(p, ps, now)
	for _, x := range ps {
		d.Counted = append(d.Counted, x.dir)
	}
	d.oneSubject(ps)
	used := map[*proof]bool{}
	for _, r := range p.Require {
		d.require(r, ps, used, false)
	}
	for _, r := range p.Controls.Required {
		d.require(r, ps, used, true)
	}
	d.mutations(p, used)
	d.bounds(p, ps)
	d.others(ps, used)
	return d.conclude()
}

// conclude takes the worst finding. Without any finding nothing was shown.
func (d Decision) conclude() Decision {
	d.Outcome = Inconclusive
	if len(d.Findings) > 0 {
		d.Outcome = Passed
	}
	for _, f := range d.Findings {
		if f.Outcome.severity() > d.Outcome.severity() {
			d.Outcome = f.Outcome
		}
	}
	d.Exit = d.Outcome.ExitCode()
	return d
}

// proof is a verified bundle.
type proof struct {
	dir string
	reports.Proof
}

func (d *Decision) verifyAll(dirs []string, keys []ed25519.PublicKey) []*proof {
	var ps []*proof
	for _, dir := range dirs {
		rep, err := reports.Verify(dir)
		if err != nil {
			d.add(dir, BadProof, "%s", strings.Join(rep.Problems, "; "))
			continue
		}
		if len(keys) > 0 {
			if err := attest.SignedBundle(dir, *rep.Proof, keys...); err != nil {
				d.add(dir, BadProof, "%v", err)
				continue
			}
		}
		ps = append(ps, &proof{dir, *rep.Proof})
	}
	return ps
}

// admit drops the proofs that the policy does not let count. They are inconclusive for what they would have shown: a missing
// requirement says so by itself, so that here it is only told.
func (d *Decision) admit(p Policy, ps []*proof, now time.Time) []*proof {
	var in []*proof
	for _, x := range ps {
		if why := refused(p, x, now); why != "" {
			d.add(x.dir, Inconclusive, "It does not count: %s", why)
			continue
		}
		in = append(in, x)
	}
	return in
}

func refused(p Policy, x *proof, now time.Time) string {
	ev := x.Evidence
	age := now.Sub(ev.Started)
	switch {
	case len(p.AllowBackends) > 0 && !slices.Contains(p.AllowBackends, ev.Env.Backend):
		return fmt.Sprintf("it was made on backend %q; allowed: %s.", ev.Env.Backend, strings.Join(p.AllowBackends, ", "))
	case age < -clockSlack:
		return fmt.Sprintf("it was started in the future, %s.", ev.Started.UTC().Format(time.RFC3339))
	case p.MaxAge > 0 && age > p.MaxAge:
		return fmt.Sprintf("it is %s old; allowed: %s.", age.Round(time.Minute), p.MaxAge)
	case ev.Variant == "" && p.SubjectKind != "" && ev.Subject.Kind != p.SubjectKind:
		return fmt.Sprintf("it is about %s, wanted is %s.", orNone(ev.Subject.Kind), p.SubjectKind)
	case ev.Variant == "" && p.Subject != "" && ev.Subject.Digest != p.Subject:
		return fmt.Sprintf("it speaks of subject %s, wanted is %s.", orNone(ev.Subject.Digest), p.Subject)
	}
	return ""
}

// oneSubject demands that the proofs of the subject itself are all of the same binary.
func (d *Decision) oneSubject(ps []*proof) {
	found := map[string]int{}
	for _, x := range ps {
		if x.Evidence.Variant == "" {
			d.SubjectKind = x.Evidence.Subject.Kind
			found[x.Evidence.Subject.Digest]++
		}
	}
	ds := slices.Sorted(maps.Keys(found))
	switch {
	case len(ds) == 1 && digestForm.MatchString(ds[0]):
		d.Subject = ds[0]
	case len(ds) == 1:
		d.add("subject", Inconclusive, "The proofs do not say of which binary they speak (digest %s).", orNone(ds[0]))
	case len(ds) > 1:
		d.add("subject", Inconclusive, "The proofs speak of %d different binaries: %s.", len(ds), strings.Join(ds, ", "))
	}
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// matching picks the proofs that a requirement speaks of: those of the scenario with that name, or where there is none those of the family.
// A requirement without a variant never takes a proof about something else than the subject.
func matching(r Requirement, ps []*proof) []*proof {
	var exact, family []*proof
	for _, x := range ps {
		ev := x.Evidence
		if ev.Variant != r.Variant && (r.Variant == "" || !strings.HasPrefix(ev.Variant, r.Variant+"@")) {
			continue
		}
		switch r.Scenario {
		case ev.Scenario:
			exact = append(exact, x)
		case ev.Family:
			family = append(family, x)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return family
}

// require demands that at least one proof matches, and that every one that does holds.
func (d *Decision) require(r Requirement, ps []*proof, used map[*proof]bool, control bool) {
	what := r.Name()
	if control {
		what = "control " + what
	}
	found := 0
	for _, x := range matching(r, ps) {
		found++
		used[x] = true
		o, why := holds(r, x, control)
		d.add(what, o, "%s: %s", x.dir, why)
	}
	if found == 0 {
		d.add(what, Inconclusive, "No proof of it counts.")
	}
}

// holds judges one proof under one requirement.
func holds(r Requirement, x *proof, control bool) (Outcome, string) {
	c := r.Claims
	switch {
	case x.Status == reports.StatusNotRun:
		return Inconclusive, x.Why
	case len(x.Evidence.Errors) > 0:
		return Inconclusive, x.Why
	}
	for _, id := range r.Have {
		if !slices.ContainsFunc(x.Claims, func(j reports.Judged) bool { return j.Claim.ID == id }) {
			return Inconclusive, "It has no claim " + id + "."
		}
	}
	if c.All && !control {
		return fromStatus(x.Status), x.Why
	}
	wanted := c.IDs
	if c.All {
		wanted = controlIDs(x)
		if len(wanted) == 0 {
			return Inconclusive, "It has no negative control."
		}
		if o := fromStatus(x.Status); o != Passed {
			return o, x.Why
		}
	}
	for _, id := range wanted {
		if o, why := claimHolds(id, x, control); o != Passed {
			return o, why
		}
	}
	if why := misfired(x); why != "" {
		return Inconclusive, why
	}
	return Passed, strings.Join(wanted, ", ") + held(control)
}

func held(control bool) string {
	if control {
		return " fired."
	}
	return ": all hold."
}

func fromStatus(s reports.Status) Outcome {
	switch s {
	case reports.StatusPass:
		return Passed
	case reports.StatusFail:
		return Failed
	}
	return Inconclusive
}

func controlIDs(x *proof) []string {
	var ids []string
	for _, j := range x.Claims {
		if j.Claim.Control() {
			ids = append(ids, j.Claim.ID)
		}
	}
	return ids
}

// claimHolds judges one claim. A control that did not fire says nothing about the subject: inconclusive.
func claimHolds(id string, x *proof, control bool) (Outcome, string) {
	for _, j := range x.Claims {
		switch {
		case j.Claim.ID != id:
			continue
		case control && !j.Claim.Control():
			return Inconclusive, id + " is not a negative control there."
		case j.Satisfied:
			return Passed, ""
		case !j.Claim.Control() && j.Result.Verdict == check.Fail:
			return Failed, fmt.Sprintf("%s failed (%s): %s", id, j.Result.Code, j.Result.Reason)
		}
		return Inconclusive, fmt.Sprintf("%s is %s (%s): %s", id, j.Result.Verdict, j.Result.Code, j.Result.Reason)
	}
	return Inconclusive, "It has no claim " + id + "."
}

// misfired names a control of the proof that did not fire, whatever claims are asked for: the checkers are the same.
func misfired(x *proof) string {
	for _, c := range x.Controls {
		if !c.Fired && !c.Skipped {
			return fmt.Sprintf("The damage %q under claim %s was not caught.", c.Name, c.Claim)
		}
	}
	return ""
}

// mutations counts the different damages that were caught in required proofs.
func (d *Decision) mutations(p Policy, used map[*proof]bool) {
	if p.Controls.MinMutations == 0 {
		return
	}
	caught := map[string]bool{}
	for x := range used {
		for _, c := range x.Controls {
			if c.Fired {
				caught[x.Evidence.Scenario+"/"+x.Evidence.Variant+"/"+c.Claim+"/"+c.Name] = true
			}
		}
	}
	o := Passed
	if len(caught) < p.Controls.MinMutations {
		o = Inconclusive
	}
	d.add("control damaged histories", o, "%d caught, at least %d wanted.", len(caught), p.Controls.MinMutations)
}

func (d *Decision) bounds(p Policy, ps []*proof) {
	for _, b := range p.Bounds {
		what := fmt.Sprintf("bound %s %s %s <= %g", b.Scenario, b.Claim, b.Figure, *b.Max)
		found := 0
		for _, x := range matching(Requirement{Scenario: b.Scenario, Variant: b.Variant}, ps) {
			found++
			o, why := within(b, x)
			d.add(what, o, "%s: %s", x.dir, why)
		}
		if found == 0 {
			d.add(what, Inconclusive, "No proof of it counts.")
		}
	}
}

func within(b Bound, x *proof) (Outcome, string) {
	for _, j := range x.Claims {
		if j.Claim.ID != b.Claim {
			continue
		}
		for _, f := range j.Result.Figures {
			if f.Name != b.Figure {
				continue
			}
			said := fmt.Sprintf("%g %s", f.Value, f.Unit)
			timing := f.Unit == "s" || f.Unit == "ms"
			switch {
			case f.Value <= *b.Max:
				return Passed, said
			case timing && x.Evidence.Env.Clusters > 1:
				return Inconclusive, fmt.Sprintf("%s, but %d clusters shared the machine: measure it in a serial run", said, x.Evidence.Env.Clusters)
			}
			return Failed, said
		}
		return Inconclusive, "the claim has no such figure"
	}
	return Inconclusive, "there is no such claim"
}

// others looks at the proofs that nothing asked for. One of the subject itself that failed fails the gate all the same.
func (d *Decision) others(ps []*proof, used map[*proof]bool) {
	for _, x := range ps {
		if used[x] {
			continue
		}
		if x.Evidence.Variant == "" && x.Status == reports.StatusFail {
			d.add(x.dir, Failed, "It is not required, and failed: %s", x.Why)
			continue
		}
		d.add(x.dir, Passed, "It is not required (%s): %s", x.Status, x.Why)
	}
}
