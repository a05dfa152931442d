// Package reports writes proof bundles, judges them from their own evidence, checks them again, and draws them.
package reports

import (
	"time"

	"github.com/unibus/unibus/reports/check"
)

// EvidenceFormat and ProofFormat name the layouts of evidence.json and proof.json.
const (
	EvidenceFormat = "unibus-evidence/1"
	ProofFormat    = "unibus-proof/1"
)

// Claim is one sentence about the cluster with the checker that judges it.
type Claim struct {
	ID   string     `json:"id"`   // "acked-survive", unique within the scenario
	Text string     `json:"text"` // "Nothing acked is lost."
	Spec check.Spec `json:"check"`
	// Expect is the verdict that satisfies the claim: Pass, or Fail for a negative control, which must then fail with ExpectCode.
	Expect     check.Verdict `json:"expect"`
	ExpectCode string        `json:"expect_code,omitempty"`
}

// Control tells whether the claim is a negative control.
func (c Claim) Control() bool { return c.Expect == check.Fail }

// Subject is what was tested.
type Subject struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
	Digest  string `json:"digest"` // sha256:<hex> of the binary
	// Sync is the sync policy of JetStream that it ran with: "always", an interval, or why it has neither.
	Sync string `json:"sync,omitempty"`
}

// Environment is where it was tested.
type Environment struct {
	Backend  string            `json:"backend"` // "docker" or "process"
	Engine   string            `json:"engine,omitempty"`
	OS       string            `json:"os"`
	Kernel   string            `json:"kernel"`
	Arch     string            `json:"arch"`
	CPUs     int               `json:"cpus"`
	Go       string            `json:"go"`
	Clusters int               `json:"clusters"`         // how many clusters could run side by side: above 1 the timing figures are not comparable
	Images   map[string]string `json:"images,omitempty"` // name -> image id
}

// Evidence is everything that is known before judgement. It is complete on disk before the first checker runs.
type Evidence struct {
	Format   string      `json:"format"`
	Run      string      `json:"run"` // id of the harness's run
	Scenario string      `json:"scenario"`
	Family   string      `json:"family"` // the scenario family that policies ask for: "lone-node", ...
	Doc      string      `json:"doc"`
	Variant  string      `json:"variant,omitempty"` // "nats-server" where the scenario ran against the control
	Seed     uint64      `json:"seed"`
	Command  string      `json:"command"` // runs it again
	Started  time.Time   `json:"started"`
	Seconds  float64     `json:"seconds"`
	Subject  Subject     `json:"subject"`
	Harness  Subject     `json:"harness"`
	Env      Environment `json:"environment"`
	Claims   []Claim     `json:"claims"`
	NotRun   string      `json:"not_run,omitempty"` // why the scenario did not run here; such a proof has no history
	Errors   []string    `json:"errors,omitempty"`  // the harness's own failures: with any, the verdict is Inconclusive
}

// Judged is a claim with its result.
type Judged struct {
	Claim     Claim        `json:"claim"`
	Result    check.Result `json:"result"`
	Satisfied bool         `json:"satisfied"` // the verdict is the expected one, and for a control for the expected reason
}

// ControlRun is one mutated history that a checker must catch.
type ControlRun struct {
	Name  string        `json:"name"`  // "drop-acked"
	Claim string        `json:"claim"` // id of the claim whose checker judged the mutated history
	Want  string        `json:"want"`  // code
	Got   check.Verdict `json:"got"`
	Code  string        `json:"code,omitempty"`
	Fired bool          `json:"fired"`
	// Skipped: this history has nothing that the mutation could damage; Note says what is missing. Neither fired nor failed.
	Skipped bool   `json:"skipped,omitempty"`
	Note    string `json:"note,omitempty"` // what was changed, or why the mutation could not be made
}

// Status of a proof.
type Status string

// Statuses.
const (
	StatusPass         Status = "pass"
	StatusFail         Status = "fail"
	StatusInconclusive Status = "inconclusive"
	StatusNotRun       Status = "not-run"
)

// Proof is the judgement of a bundle. Verdicts follow from the evidence alone, so that they can be computed again.
type Proof struct {
	Format   string       `json:"format"`
	Evidence Evidence     `json:"evidence"`
	Status   Status       `json:"status"`
	Why      string       `json:"why"` // one sentence
	Claims   []Judged     `json:"claims"`
	Controls []ControlRun `json:"controls"`
	Faults   []FaultRun   `json:"faults"` // with their measured effect
	Ops      int          `json:"ops"`    // operations in the record
	// EvidenceDigest is the sha256 of the manifest as it was sealed, before judgement: it ties the proof to exactly this evidence.
	EvidenceDigest string `json:"evidence_digest"`
}
