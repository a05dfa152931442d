package scenarios

import (
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// trackRun is a run of which only the plan is known.
func trackRun(s Scenario, seed uint64) *Run {
	r := &Run{Plan: NewPlan(s, cluster.NATSServer, seed, false, Nemesis{}), Scenario: s, picked: map[string][]cluster.NodeID{}, counts: map[string]int{}}
	r.steps = s.Steps(r.Plan)
	return r
}

// TestTrackRecordIsComplete: every bug says what recognizes it, in words of its own scenario's claims, and has something that must be clean.
func TestTrackRecordIsComplete(t *testing.T) {
	ids, names := map[string]bool{}, map[string]bool{}
	for _, b := range TrackRecord() {
		if ids[b.ID] || b.Title == "" || b.Source == "" || len(b.Bad) == 0 || len(b.Signs) == 0 || len(b.Clean) == 0 && b.Control == nil || b.Control != nil && b.ControlWord == "" {
			t.Errorf("%s: its entry is not complete, or not its own", b.ID)
		}
		ids[b.ID] = true
		all := []Scenario{b.Scenario}
		if b.Control != nil {
			all = append(all, *b.Control)
		}
		for _, s := range all {
			if names[s.Name] || s.Family != trackFamily || !strings.HasPrefix(s.Name, trackPrefix+b.ID) || s.Seconds > 120 {
				t.Errorf("%s: scenario %s", b.ID, s.Name)
			}
			names[s.Name] = true
			checkClaims(t, b, s)
		}
	}
	for _, s := range All() {
		if names[s.Name] || s.Family == trackFamily {
			t.Errorf("%s runs by default", s.Name)
		}
	}
}

func checkClaims(t *testing.T, b Bug, s Scenario) {
	t.Helper()
	var claims []string
	for _, c := range s.Claims(trackRun(s, 7)) {
		claims = append(claims, c.ID)
		if c.Control() {
			t.Errorf("%s: the claim %s wants to fail: on a clean release it must pass", s.Name, c.ID)
		}
	}
	for _, sign := range b.Signs {
		if !slices.Contains(claims, sign.Claim) || len(sign.Codes) == 0 {
			t.Errorf("%s: the sign %+v is none of its claims %v", s.Name, sign, claims)
		}
	}
}

// TestTrackPlansRepeat: the same seed gives the same steps, another seed other ones where there is anything to draw.
func TestTrackPlansRepeat(t *testing.T) {
	for _, b := range TrackRecord() {
		if a, c := stepNames(trackRun(b.Scenario, 7)), stepNames(trackRun(b.Scenario, 7)); !slices.Equal(a, c) {
			t.Errorf("%s: the same seed gave other steps", b.ID)
		}
	}
	b := streamVanishes()
	if slices.Equal(stepNames(trackRun(b.Scenario, 7)), stepNames(trackRun(b.Scenario, 8))) {
		t.Error("another seed gave the same steps")
	}
}

func stepNames(r *Run) []string {
	var ns []string
	for _, s := range r.steps {
		ns = append(ns, s.Name)
	}
	return ns
}

func judged(id string, v check.Verdict, code string) reports.Judged {
	r := check.Result{Verdict: v, Code: code, Reason: id + " because of " + code}
	if v == check.Fail {
		r.Witnesses = []check.Witness{{Text: "seen"}}
	}
	return reports.Judged{Claim: reports.Claim{ID: id, Expect: check.Pass}, Result: r, Satisfied: v == check.Pass}
}

// TestJudgeRecognizesOnlyTheBug: a failure counts for its named reason and for no other.
func TestJudgeRecognizesOnlyTheBug(t *testing.T) {
	known := judged("stream-known", check.Fail, check.CodeStreamGone)
	other := judged("stream-intact", check.Fail, check.CodeAckedMissing)
	for name, tc := range map[string]struct {
		bug   Bug
		proof reports.Proof
		want  Showing
		claim string
	}{
		"the named reason": {streamVanishes(), reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{other, known}}, Reproduced, "stream-known"},
		"another reason of the same claim": {streamVanishes(), reports.Proof{Status: reports.StatusFail,
			Claims: []reports.Judged{judged("stream-known", check.Fail, check.CodeConfigChanged)}}, NotReproduced, ""},
		"another claim": {streamVanishes(), reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{other}}, NotReproduced, ""},
		"the reason without a fail": {streamVanishes(), reports.Proof{Status: reports.StatusInconclusive,
			Claims: []reports.Judged{judged("stream-known", check.Inconclusive, check.CodeStreamGone)}}, NotReproduced, ""},
		"the harness failed too": {streamVanishes(), reports.Proof{Status: reports.StatusInconclusive, Claims: []reports.Judged{known},
			Evidence: reports.Evidence{Errors: []string{"docker is gone"}}}, NotReproduced, ""},
		"not run": {streamVanishes(), reports.Proof{Status: reports.StatusNotRun, Claims: []reports.Judged{known}}, NotReproduced, ""},
		"a pass":  {streamVanishes(), reports.Proof{Status: reports.StatusPass, Claims: []reports.Judged{judged("stream-known", check.Pass, "")}}, Clean, ""},
		"the damaged node never led": {damagedBlock("7549-flip", "", faults.BitFlip(flipAt)), reports.Proof{Status: reports.StatusInconclusive, Claims: []reports.Judged{
			judged("stream-intact", check.Pass, ""), judged("copies-agree", check.Pass, ""), judged("victim-led", check.Inconclusive, check.CodeTooFewTries)}}, NotReproduced, ""},
		"the damaged node never led, and its copy is another": {damagedBlock("7549-flip", "", faults.BitFlip(flipAt)), reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{
			judged("stream-intact", check.Pass, ""), judged("copies-agree", check.Fail, check.CodeReplicasDiffer), judged("victim-led", check.Inconclusive, check.CodeTooFewTries)}},
			Reproduced, "copies-agree"},
		"no signs": {Bug{}, reports.Proof{Status: reports.StatusPass}, NotReproduced, ""},
		"it does not serve, and has everything": {damagedMeta(), reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{
			judged("stream-known", check.Inconclusive, check.CodeUnanswered), judged("files-kept", check.Pass, ""), judged("all-serve", check.Fail, check.CodeNeverReady)}}, SafeDegraded, ""},
		"it does not serve, and has lost a copy": {damagedMeta(), reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{
			judged("stream-known", check.Inconclusive, check.CodeUnanswered), judged("files-kept", check.Fail, check.CodeReplicaMissing), judged("all-serve", check.Fail, check.CodeNeverReady)}}, Reproduced, "files-kept"},
		"it serves, and the files are not known": {damagedMeta(), reports.Proof{Status: reports.StatusInconclusive, Claims: []reports.Judged{
			judged("stream-known", check.Pass, ""), judged("files-kept", check.Inconclusive, check.CodeUnreadable), judged("all-serve", check.Pass, "")}}, NotReproduced, ""},
	} {
		f := tc.bug.Judge(tc.proof)
		if f.Showing != tc.want || f.Claim != tc.claim || f.Showing == Reproduced && (f.Witness != "seen" || f.Reason == "") {
			t.Errorf("%s: %+v, want %s by %q", name, f, tc.want, tc.claim)
		}
	}
	f := streamVanishes().Judge(reports.Proof{Status: reports.StatusFail, Claims: []reports.Judged{other, known}})
	if len(f.Also) != 1 || !strings.Contains(f.Also[0], "stream-intact") {
		t.Errorf("also failed: %v", f.Also)
	}
}

func TestSelectBugs(t *testing.T) {
	all := TrackRecord()
	if got, err := SelectBugs(all, ""); err != nil || len(got) != len(all) {
		t.Errorf("all: %d, %v", len(got), err)
	}
	if got, err := SelectBugs(all, "7556, 6888,7556"); err != nil || len(got) != 2 || got[0].ID != "7556" || got[1].ID != "6888" {
		t.Errorf("two: %+v, %v", got, err)
	}
	if _, err := SelectBugs(all, "68"); err == nil || !strings.Contains(err.Error(), "6888") {
		t.Errorf("unknown: %v", err)
	}
}
