package scenarios

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
)

// trackFamily is the family of all scenarios of the track record. They are not among All: they tell of other people's bugs in old releases.
const trackFamily = "track-record"

// trackPrefix begins the names of those scenarios; the bug's id follows.
const trackPrefix = "track-"

// Sign is a claim that fails for a named reason: how a bug is recognized, and nothing else is.
type Sign struct {
	Claim string   `json:"claim"`
	Codes []string `json:"codes"`
}

// Bug is a published bug of nats-server together with the scenario that brings it out.
type Bug struct {
	ID       string // what --bug takes: "6888"
	Title    string
	Source   string // where it is published
	Scenario Scenario
	Bad      []string // versions that have it
	Clean    []string // versions that must be clean, or safe, under the same command
	// Control, where it is not nil, is the same story without the one thing that brings the bug out: it must be clean on the very release that
	// has the bug. ControlWord says what it leaves out.
	Control     *Scenario
	ControlWord string
	// AnySeed, when positive, is how many seeds are tried: the bug is a race, which one run does not always win.
	AnySeed int
	Signs   []Sign
	// Safe, where it is not nil, is a second way for a clean version to behave: it does not serve, and has lost nothing.
	Safe func(p reports.Proof) (why string, ok bool)
	// Sync is the sync policy; "" means always, so that nothing that is lost was merely not yet on disk.
	Sync string
	// Finding is true where the behaviour is documented, and the bug is in the application that relies on more: no version is clean, and the
	// control is another way to use the same version.
	Finding string
}

// TrackRecord lists the bugs, in the order in which they are run.
func TrackRecord() []Bug {
	return []Bug{
		streamVanishes(), casNotSerialized(), streamForgotten(), kvDiverges(),
		damagedBlock("7549-flip", "one flipped bit in a block hides acked messages, silently", faults.BitFlip(flipAt)),
		damagedBlock("7549-truncate", "a block that is cut short hides acked messages, silently", faults.Truncate(flipAt)),
		damagedMeta(), powerLost(), powerSplit(), syncDrops(), casOnAbsent(), streamEdited(), firstSequencePurged(), acksForgotten(), leaderStaysBehind(), agedTooSoon(), healthzAlone(), staleDirectReads(),
		rollupErases(), appendStops(), placedLate(),
	}
}

// SelectBugs picks bugs by id, comma separated; "" picks all.
func SelectBugs(all []Bug, words string) ([]Bug, error) {
	if strings.TrimSpace(words) == "" {
		return all, nil
	}
	var picked []Bug
	for _, w := range strings.Split(words, ",") {
		w = strings.TrimSpace(w)
		i := slices.IndexFunc(all, func(b Bug) bool { return b.ID == w })
		if i < 0 {
			var ids []string
			for _, b := range all {
				ids = append(ids, b.ID)
			}
			return nil, fmt.Errorf("no bug is called %q; there are: %s", w, strings.Join(ids, ", "))
		}
		if !slices.ContainsFunc(picked, func(b Bug) bool { return b.ID == w }) {
			picked = append(picked, all[i])
		}
	}
	return picked, nil
}

// Showing is what one run on one version says of a bug.
type Showing string

// Showings.
const (
	Reproduced    Showing = "reproduced"        // the named claim failed for the named reason
	Clean         Showing = "clean"             // every claim holds
	SafeDegraded  Showing = "safe but degraded" // it does not serve, and nothing that was acked is lost
	NotReproduced Showing = "not reproduced"    // anything else, a failure of the harness included
)

// Finding is a judged run of the track record.
type Finding struct {
	Showing Showing        `json:"showing"`
	Claim   string         `json:"claim,omitempty"` // the one that failed for the named reason
	Code    string         `json:"code,omitempty"`
	Reason  string         `json:"reason"`
	Figures []check.Figure `json:"figures,omitempty"`
	Witness string         `json:"witness,omitempty"`
	Also    []string       `json:"also,omitempty"` // other claims that failed, each with its code
}

// ErrNoSigns is a bug that nothing could be recognized by.
var ErrNoSigns = errors.New("the bug has no sign")

// Judge recognizes the bug in a proof. Only a sign counts: another failure says nothing about this bug, and a harness that failed says nothing at all.
func (b Bug) Judge(p reports.Proof) Finding {
	f := Finding{Showing: NotReproduced, Reason: p.Why}
	if len(b.Signs) == 0 {
		f.Reason = ErrNoSigns.Error()
		return f
	}
	if p.Status == reports.StatusNotRun || len(p.Evidence.Errors) > 0 {
		return f
	}
	if p.Status == reports.StatusPass {
		return Finding{Showing: Clean, Reason: p.Why, Figures: figuresOf(p, b.Signs[0].Claim)}
	}
	for _, s := range b.Signs {
		j := claimOf(p, s.Claim)
		if j == nil || j.Result.Verdict != check.Fail || !slices.Contains(s.Codes, j.Result.Code) || f.Showing == Reproduced {
			continue
		}
		f = Finding{Showing: Reproduced, Claim: s.Claim, Code: j.Result.Code, Reason: j.Result.Reason, Figures: j.Result.Figures}
		if len(j.Result.Witnesses) > 0 {
			f.Witness = j.Result.Witnesses[0].Text
		}
	}
	if f.Showing == NotReproduced && b.Safe != nil {
		if why, ok := b.Safe(p); ok {
			return Finding{Showing: SafeDegraded, Reason: why}
		}
	}
	f.Also = alsoFailed(p, f.Claim)
	return f
}

func alsoFailed(p reports.Proof, but string) []string {
	var also []string
	for _, j := range p.Claims {
		if !j.Claim.Control() && j.Result.Verdict == check.Fail && j.Claim.ID != but {
			also = append(also, j.Claim.ID+" ("+j.Result.Code+")")
		}
	}
	return also
}

func claimOf(p reports.Proof, id string) *reports.Judged {
	for i := range p.Claims {
		if p.Claims[i].Claim.ID == id {
			return &p.Claims[i]
		}
	}
	return nil
}

func figuresOf(p reports.Proof, claim string) []check.Figure {
	if j := claimOf(p, claim); j != nil {
		return j.Result.Figures
	}
	return nil
}

// TrackScenario finds the scenario of the track record with that name.
func TrackScenario(name string) (Scenario, bool) {
	for _, b := range TrackRecord() {
		if b.Scenario.Name == name {
			return b.Scenario, true
		}
	}
	return Scenario{}, false
}
