package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/gate"
	"github.com/unibus/unibus/reports/history"
)

// writeBundle makes a finished bundle of one acked publish, which is read back or lost.
func writeBundle(t *testing.T, dir string, lost bool) {
	t.Helper()
	writeBundleOf(t, dir, lost, func(*reports.Evidence) {})
}

// writeBundleOf does that with an evidence that says something else too.
func writeBundleOf(t *testing.T, dir string, lost bool, change func(*reports.Evidence)) {
	t.Helper()
	b, err := reports.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	op := &history.Op{Client: "c", Kind: history.Publish, Target: "T", Value: "m1"}
	b.Recorder().Invoke(op)
	op.Outcome, op.Seq = history.OK, 1
	b.Recorder().Complete(op)
	d := history.Drain{Target: "T", Complete: true}
	if !lost {
		b.Recorder().Item(history.Item{Target: "T", Seq: 1, Value: "m1"})
		d.Items, d.First, d.Last = 1, 1, 1
	}
	b.Recorder().Drain(d)
	ev := reports.Evidence{
		Scenario: filepath.Base(dir), Family: filepath.Base(dir), Started: time.Now(),
		Subject: reports.Subject{Kind: "membershipd", Digest: "sha256:" + strings.Repeat("a", 64), Sync: "always"}, Env: reports.Environment{Backend: "process", Clusters: 1},
		Claims: []reports.Claim{{ID: "intact", Text: "Nothing is lost.", Spec: check.Of(check.StreamAccounting{Target: "T"}), Expect: check.Pass}},
	}
	change(&ev)
	if err := b.Seal(ev); err != nil {
		t.Fatal(err)
	}
	p, err := reports.Judge(dir)
	if err == nil {
		err = reports.Finish(dir, p)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// command runs one of the commands and gives its exit code and output.
func command(cmd *cobra.Command, args ...string) (int, string) {
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.Execute()
	var e *exitError
	switch {
	case err == nil:
		return exitOK, out.String()
	case errors.As(err, &e):
		return e.code, out.String() + e.Error()
	}
	return exitUsage, out.String() + err.Error()
}

func TestProofCommands(t *testing.T) {
	out := t.TempDir()
	good, bad, broken := filepath.Join(out, "good"), filepath.Join(out, "bad"), filepath.Join(t.TempDir(), "broken")
	writeBundle(t, good, false)
	writeBundle(t, bad, true)
	writeBundle(t, broken, false)
	if err := os.WriteFile(filepath.Join(broken, "logs", "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	policy := func(scenario string) string {
		p := filepath.Join(t.TempDir(), "policy.yaml")
		text := fmt.Sprintf("format: %s\nrequire: [{scenario: %s, claims: all}]\n", gate.PolicyFormat, scenario)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		cmd  *cobra.Command
		args []string
		code int
		says string
	}{
		"verify good":          {verifyCmd(), []string{good}, exitOK, "sound"},
		"verify a failure":     {verifyCmd(), []string{bad}, exitOK, "it says fail"},
		"verify all":           {verifyCmd(), []string{out}, exitOK, "bad"},
		"verify broken":        {verifyCmd(), []string{good, broken}, exitUsage, "logs/x is not in the manifest"},
		"verify nothing":       {verifyCmd(), []string{filepath.Join(out, "zzz")}, exitUsage, "is not a folder"},
		"verify no argument":   {verifyCmd(), nil, exitUsage, "at least one"},
		"gate pass":            {gateCmd(), []string{"--policy", policy("good"), good}, exitOK, "gate pass"},
		"gate fail":            {gateCmd(), []string{"--policy", policy("bad"), bad}, exitFail, "acked-missing"},
		"gate broken":          {gateCmd(), []string{"--policy", policy("broken"), broken}, exitUsage, "bad-proof"},
		"gate missing":         {gateCmd(), []string{"--policy", policy("other"), good}, exitInconclusive, "No proof of it counts."},
		"gate built in":        {gateCmd(), []string{good}, exitInconclusive, "cold-start"},
		"gate no policy":       {gateCmd(), []string{"--policy", filepath.Join(out, "none.yaml"), good}, exitUsage, "read policy"},
		"gate policy is proof": {gateCmd(), []string{"--policy", filepath.Join(good, "proof.json"), good}, exitUsage, "cannot be used"},
		"gate no bundle":       {gateCmd(), []string{"--policy", policy("good")}, exitUsage, "at least one"},
		"gate empty folder":    {gateCmd(), []string{"--policy", policy("good"), t.TempDir()}, exitUsage, "no proof bundle"},
		"gate other subject":   {gateCmd(), []string{"--policy", policy("good"), "--subject", filepath.Join(good, "proof.json"), good}, exitInconclusive, "speaks of subject"},
		"gate no subject":      {gateCmd(), []string{"--policy", policy("good"), "--subject", filepath.Join(out, "none"), good}, exitUsage, "read subject"},
		"print policy":         {gateCmd(), []string{"--print-policy"}, exitOK, "noop-faults"},
		"report":               {reportCmd(), []string{good}, exitOK, filepath.Join(good, "report.html")},
		"report broken":        {reportCmd(), []string{broken}, exitUsage, "not in the manifest"},
		"report nothing":       {reportCmd(), []string{filepath.Join(out, "zzz")}, exitUsage, "report"},
	} {
		t.Run(name, func(t *testing.T) {
			code, said := command(c.cmd, c.args...)
			if code != c.code || !strings.Contains(said, c.says) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, c.code, c.says, said)
			}
		})
	}
}

func TestProofCommandsJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "good")
	writeBundle(t, dir, false)
	_, said := command(verifyCmd(), "--json", dir)
	var reps []reports.VerifyReport
	if err := json.Unmarshal([]byte(said), &reps); err != nil || len(reps) != 1 || !reps[0].OK || reps[0].Status != reports.StatusPass {
		t.Errorf("verify: %v\n%s", err, said)
	}
	said = strings.TrimSuffix(func() string { _, s := command(gateCmd(), "--json", dir); return s }(), "gate: inconclusive")
	var d gate.Decision
	if err := json.Unmarshal([]byte(said), &d); err != nil || d.Exit != exitInconclusive || len(d.Findings) == 0 {
		t.Errorf("gate: %v\n%s", err, said)
	}
}
