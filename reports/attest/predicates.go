package attest

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"github.com/unibus/unibus/reports"
)

// Predicate types.
const (
	TestResultType = "https://in-toto.io/attestation/test-result/v0.1" // in-toto attestation, predicates/test-result.md
	SummaryType    = "https://slsa.dev/verification_summary/v1"        // SLSA, Verification Summary Attestation
)

// Results, in the words of both predicates.
const (
	ResultPassed = "PASSED"
	ResultFailed = "FAILED"
)

// TestResult says what a proof bundle says. Result is PASSED only for a pass: inconclusive and not run are FAILED here, as neither format has
// a word that a careless reader could not take for good news; Status has the exact one.
type TestResult struct {
	Result        string     `json:"result"`
	Configuration []Resource `json:"configuration"` // the evidence as it was sealed
	Passed        []string   `json:"passedTests"`   // scenario/claim
	Failed        []string   `json:"failedTests"`
	Scenario      string     `json:"scenario"`
	Variant       string     `json:"variant,omitempty"`
	Seed          uint64     `json:"seed"`
	Status        string     `json:"status"`
	Why           string     `json:"why"`
	Operations    int        `json:"operations"`
	Started       time.Time  `json:"started"`
}

// Bundle states what a verified proof bundle says. Subjects are the binary under test and the bundle's manifest, which pins every file of it.
func Bundle(p reports.Proof, manifest string) (Statement, error) {
	ev := p.Evidence
	r := TestResult{
		Result: ResultFailed, Configuration: []Resource{{Name: "evidence", Digest: SHA256(p.EvidenceDigest)}}, Passed: []string{}, Failed: []string{},
		Scenario: ev.Scenario, Variant: ev.Variant, Seed: ev.Seed, Status: string(p.Status), Why: p.Why, Operations: p.Ops, Started: ev.Started.UTC(),
	}
	if p.Status == reports.StatusPass {
		r.Result = ResultPassed
	}
	for _, c := range p.Claims {
		name := ev.Scenario + "/" + c.Claim.ID
		if c.Satisfied {
			r.Passed = append(r.Passed, name)
		} else {
			r.Failed = append(r.Failed, name)
		}
	}
	return state(TestResultType, r, Resource{Name: ev.Subject.Kind, Digest: SHA256(ev.Subject.Digest)}, Resource{Name: reports.ManifestFile, Digest: SHA256(manifest)})
}

// Summary says that a gate let a subject pass: SLSA's verification summary. Levels are words of this project, since SLSA's own are about builds.
type Summary struct {
	Verifier struct {
		ID string `json:"id"`
	} `json:"verifier"`
	Time   time.Time  `json:"timeVerified"`
	URI    string     `json:"resourceUri"`
	Policy Resource   `json:"policy"`
	Inputs []Resource `json:"inputAttestations"` // the bundles, by their manifests
	Result string     `json:"verificationResult"`
	Levels []string   `json:"verifiedLevels"`
}

// gateVerifier names the program that judged.
const gateVerifier = "https://github.com/unibus/unibus/cmd/chaos"

// Gate states that the subject passed a gate. There is no statement of a gate that did not: absence cannot be mistaken for it.
func Gate(subject Resource, policy Resource, bundles []Resource, at time.Time) (Statement, error) {
	s := Summary{Time: at.UTC(), URI: "urn:unibus:" + subject.Name, Policy: policy, Inputs: bundles, Result: ResultPassed, Levels: []string{"UNIBUS_GATE_PASSED"}}
	s.Verifier.ID = gateVerifier
	return state(SummaryType, s, subject)
}

func state(kind string, predicate any, subject ...Resource) (Statement, error) {
	b, err := json.Marshal(predicate)
	if err != nil {
		return Statement{}, fmt.Errorf("encode predicate: %w", err)
	}
	return Statement{Type: StatementType, Subject: subject, PredicateType: kind, Predicate: b}, nil
}

// SignedBundle tells whether one of the keys signed exactly this bundle: its manifest, the binary it speaks of, and the status it has. The
// proof must have been verified already.
func SignedBundle(dir string, p reports.Proof, keys ...ed25519.PublicKey) error {
	file, err := reports.ReadAttestation(dir)
	if err != nil {
		return err
	}
	s, err := Open(file, keys...)
	if err != nil {
		return err
	}
	manifest, err := reports.ManifestDigest(dir)
	if err != nil {
		return err
	}
	var said TestResult
	if err := json.Unmarshal(s.Predicate, &said); err != nil || s.PredicateType != TestResultType {
		return fmt.Errorf("%w: what was signed is no test result (%s)", ErrSignature, s.PredicateType)
	}
	switch {
	case !s.About(manifest):
		return fmt.Errorf("%w: what was signed is another bundle than this one, %s", ErrSignature, manifest)
	case !s.About(p.Evidence.Subject.Digest) || said.Status != string(p.Status) || (said.Result == ResultPassed) != (p.Status == reports.StatusPass):
		return fmt.Errorf("%w: it says %s (%s) of this bundle, which says %s", ErrSignature, said.Status, said.Result, p.Status)
	}
	return nil
}

// Admitted opens a gate's statement and tells whether it lets the binary with that digest pass: signed by one of the keys, PASSED, about that binary,
// and not older than maxAge (0: any age).
func Admitted(file []byte, digest string, maxAge time.Duration, now time.Time, keys ...ed25519.PublicKey) (Summary, error) {
	var sum Summary
	s, err := Open(file, keys...)
	if err != nil {
		return sum, err
	}
	if s.PredicateType != SummaryType {
		return sum, fmt.Errorf("%w: it is a %q, not a gate's %q", ErrFormat, s.PredicateType, SummaryType)
	}
	if err := json.Unmarshal(s.Predicate, &sum); err != nil {
		return sum, fmt.Errorf("%w: its predicate: %w", ErrFormat, err)
	}
	age := now.Sub(sum.Time)
	switch {
	case sum.Result != ResultPassed:
		return sum, fmt.Errorf("%w: its result is %q", ErrNotAdmitted, sum.Result)
	case !s.About(digest):
		return sum, fmt.Errorf("%w: it is about another binary than %s", ErrNotAdmitted, digest)
	case sum.Time.IsZero() || age < -clockSlack:
		return sum, fmt.Errorf("%w: it was made in the future, %s", ErrNotAdmitted, sum.Time.UTC().Format(time.RFC3339))
	case maxAge > 0 && age > maxAge:
		return sum, fmt.Errorf("%w: it is %s old, allowed: %s", ErrNotAdmitted, age.Round(time.Minute), maxAge)
	}
	return sum, nil
}
