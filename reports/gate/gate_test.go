package gate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/gate"
	"github.com/unibus/unibus/reports/history"
)

var (
	started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now     = started.Add(time.Hour)
	digest  = "sha256:" + strings.Repeat("a", 64)
	other   = "sha256:" + strings.Repeat("b", 64)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bundle makes a finished bundle through the real recorder: ten acked publishes, all read back but lost ones.
func bundle(t testing.TB, out, name string, lost int, change func(*reports.Evidence)) string {
	t.Helper()
	dir := filepath.Join(out, name)
	b, err := reports.Create(dir)
	must(t, err)
	for i := range 10 {
		op := &history.Op{Client: "c", Kind: history.Publish, Target: "ORDERS", Value: fmt.Sprint("m", i)}
		b.Recorder().Invoke(op)
		op.Outcome, op.Seq = history.OK, uint64(i+1)
		b.Recorder().Complete(op)
	}
	kept := 10 - lost
	for i := range kept {
		b.Recorder().Item(history.Item{Target: "ORDERS", Seq: uint64(i + 1), Value: fmt.Sprint("m", i)})
	}
	b.Recorder().Drain(history.Drain{Target: "ORDERS", Complete: true, Items: kept, First: 1, Last: uint64(kept)})
	ev := reports.Evidence{
		Run: "r", Scenario: name, Family: name, Seed: 1, Command: "make chaos SCENARIO=" + name, Started: started,
		Subject: reports.Subject{Kind: "membershipd", Version: "v1", Digest: digest},
		Env:     reports.Environment{Backend: "docker", Clusters: 1},
		Claims:  []reports.Claim{{ID: "intact", Text: "Nothing is lost.", Spec: check.Of(check.StreamAccounting{Target: "ORDERS"}), Expect: check.Pass}},
	}
	if change != nil {
		change(&ev)
	}
	must(t, b.Seal(ev))
	p, err := reports.Judge(dir)
	must(t, err)
	must(t, reports.Finish(dir, p))
	return dir
}

// asControl turns the claim into a negative control.
func asControl(code string) func(*reports.Evidence) {
	return func(ev *reports.Evidence) { ev.Claims[0].Expect, ev.Claims[0].ExpectCode = check.Fail, code }
}

const policyHead = "format: unibus-policy/1\nname: t\n"

func parse(t testing.TB, text string) gate.Policy {
	t.Helper()
	p, err := gate.Parse([]byte(policyHead + text))
	must(t, err)
	return p
}

func TestDecide(t *testing.T) {
	const need = "require: [{scenario: a, claims: all}]\n"
	for name, c := range map[string]struct {
		policy string
		build  func(out string)
		want   gate.Outcome
		says   string
	}{
		"pass":    {need, func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "The claim holds."},
		"fail":    {need, func(out string) { bundle(t, out, "a", 2, nil) }, gate.Failed, "acked-missing"},
		"missing": {need, func(out string) { bundle(t, out, "b", 0, nil) }, gate.Inconclusive, "No proof of it counts."},
		"no retry to green": {need, func(out string) {
			bundle(t, out, "a", 2, nil)
			bundle(t, out, "a2", 0, func(ev *reports.Evidence) { ev.Scenario = "a" })
		}, gate.Failed, "acked-missing"},
		"not run":         {need, func(out string) { bundle(t, out, "a", 0, func(ev *reports.Evidence) { ev.NotRun = "no Docker" }) }, gate.Inconclusive, "Not run"},
		"harness error":   {need, func(out string) { bundle(t, out, "a", 0, func(ev *reports.Evidence) { ev.Errors = []string{"x"} }) }, gate.Inconclusive, "harness itself"},
		"family":          {need, func(out string) { bundle(t, out, "a-1", 0, func(ev *reports.Evidence) { ev.Family = "a" }) }, gate.Passed, "holds"},
		"variant instead": {need, func(out string) { bundle(t, out, "a", 0, func(ev *reports.Evidence) { ev.Variant = "nats-server" }) }, gate.Inconclusive, "No proof of it counts."},
		"unasked failure": {need, func(out string) { bundle(t, out, "a", 0, nil); bundle(t, out, "z", 1, nil) }, gate.Failed, "not required, and failed"},
		"unasked variant": {need, func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "z", 1, func(ev *reports.Evidence) { ev.Variant = "nats-server" })
		}, gate.Passed, "not required"},
		"has the claim":    {"require: [{scenario: a, claims: all, have: [intact]}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "holds"},
		"lost a claim":     {"require: [{scenario: a, claims: all, have: [intact, more]}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "no claim more"},
		"claim by id":      {"require: [{scenario: a, claims: [intact]}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "intact"},
		"claim not there":  {"require: [{scenario: a, claims: [intact, more]}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "no claim more"},
		"claim by id fail": {"require: [{scenario: a, claims: [intact]}]\n", func(out string) { bundle(t, out, "a", 1, nil) }, gate.Failed, "acked-missing"},
		"control fires": {need + "controls: {required: [{scenario: c, claims: [intact]}]}\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "c", 1, asControl("acked-missing"))
		}, gate.Passed, "intact fired."},
		"control missing": {need + "controls: {required: [{scenario: c, claims: [intact]}]}\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "No proof of it counts."},
		"control silent": {need + "controls: {required: [{scenario: c, claims: [intact]}]}\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "c", 0, asControl("acked-missing"))
		}, gate.Inconclusive, "control c"},
		"control for another reason": {need + "controls: {required: [{scenario: c, claims: all}]}\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "c", 1, asControl("reordered"))
		}, gate.Inconclusive, "control did not fire"},
		"control is none": {need + "controls: {required: [{scenario: c, claims: all}]}\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "c", 0, nil)
		}, gate.Inconclusive, "no negative control"},
		"control by variant": {need + "controls: {required: [{scenario: c, variant: nats-server, claims: all}]}\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "c", 1, func(ev *reports.Evidence) {
				asControl("acked-missing")(ev)
				ev.Variant, ev.Subject.Digest = "nats-server@v2.15.2", other
			})
		}, gate.Passed, "fired."},
		"mutations":         {need + "controls: {min_mutations: 3}\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "caught, at least 3"},
		"too few mutations": {need + "controls: {min_mutations: 3000}\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "at least 3000"},
		"subject":           {need + "subject: " + digest + "\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "holds"},
		"another subject":   {need + "subject: " + other + "\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "speaks of subject"},
		"another kind":      {need + "subject_kind: nats-server\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "membershipd"},
		"two subjects": {"require: [{scenario: a, claims: all}, {scenario: b, claims: all}]\n", func(out string) {
			bundle(t, out, "a", 0, nil)
			bundle(t, out, "b", 0, func(ev *reports.Evidence) { ev.Subject.Digest = other })
		}, gate.Inconclusive, "2 different binaries"},
		"no subject":   {need, func(out string) { bundle(t, out, "a", 0, func(ev *reports.Evidence) { ev.Subject.Digest = "" }) }, gate.Inconclusive, "do not say of which binary"},
		"young enough": {need + "max_age: 2h\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "holds"},
		"too old":      {need + "max_age: 30m\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "old; allowed"},
		"future": {need, func(out string) {
			bundle(t, out, "a", 0, func(ev *reports.Evidence) { ev.Started = now.Add(time.Hour) })
		}, gate.Inconclusive, "in the future"},
		"backend":         {need + "allow_backends: [docker]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "holds"},
		"another backend": {need + "allow_backends: [process]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "backend"},
		"within bound":    {need + "bounds: [{scenario: a, claim: intact, figure: acked, max: 10}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Passed, "10"},
		"over bound":      {need + "bounds: [{scenario: a, claim: intact, figure: acked, max: 9}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Failed, "10"},
		"no such figure":  {need + "bounds: [{scenario: a, claim: intact, figure: speed, max: 9}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "no such figure"},
		"no such claim":   {need + "bounds: [{scenario: a, claim: x, figure: acked, max: 9}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "no such claim"},
		"bound unseen":    {need + "bounds: [{scenario: q, claim: x, figure: acked, max: 9}]\n", func(out string) { bundle(t, out, "a", 0, nil) }, gate.Inconclusive, "No proof of it counts"},
		"tampered": {need, func(out string) {
			dir := bundle(t, out, "a", 0, nil)
			must(t, os.WriteFile(filepath.Join(dir, "logs", "x"), nil, 0o644))
		}, gate.BadProof, "logs/x is not in the manifest"},
		"tampered outweighs fail": {"require: [{scenario: a, claims: all}, {scenario: b, claims: all}]\n", func(out string) {
			bundle(t, out, "a", 1, nil)
			must(t, os.Remove(filepath.Join(bundle(t, out, "b", 0, nil), "proof.json")))
		}, gate.BadProof, "proof.json is missing"},
		"fail outweighs missing": {"require: [{scenario: a, claims: all}, {scenario: b, claims: all}]\n", func(out string) { bundle(t, out, "a", 1, nil) }, gate.Failed, "No proof of it counts."},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			c.build(out)
			dirs, err := gate.Expand([]string{out})
			must(t, err)
			d := gate.Decide(parse(t, c.policy), dirs, now)
			all, err := json.Marshal(d.Findings)
			must(t, err)
			if d.Outcome != c.want || d.Exit != c.want.ExitCode() || !strings.Contains(string(all), c.says) {
				t.Errorf("got %s (exit %d), want %s with %q\n%s", d.Outcome, d.Exit, c.want, c.says, all)
			}
		})
	}
}

func TestNothingNeverPasses(t *testing.T) {
	p := parse(t, "require: [{scenario: a, claims: all}]\n")
	for name, d := range map[string]gate.Decision{
		"no bundles":     gate.Decide(p, nil, now),
		"no policy":      gate.Decide(gate.Policy{}, []string{bundle(t, t.TempDir(), "a", 0, nil)}, now),
		"missing folder": gate.Decide(p, []string{filepath.Join(t.TempDir(), "x")}, now),
	} {
		if d.Outcome == gate.Passed || d.Exit == 0 {
			t.Errorf("%s passes", name)
		}
	}
	for o, want := range map[gate.Outcome]int{gate.Passed: 0, gate.Failed: 1, gate.BadProof: 2, gate.Inconclusive: 3, "": 3, "something": 3} {
		if o.ExitCode() != want {
			t.Errorf("exit code of %q is %d, want %d", o, o.ExitCode(), want)
		}
	}
}

func TestExpand(t *testing.T) {
	out := t.TempDir()
	a := bundle(t, out, "a", 0, nil)
	b := bundle(t, out, "b", 0, nil)
	must(t, reports.WriteIndex(out, reports.RunInfo{}))
	if got, err := gate.Expand([]string{out, a}); err != nil || fmt.Sprint(got) != fmt.Sprint([]string{a, b, a}) {
		t.Errorf("got %v, %v", got, err)
	}
	must(t, os.RemoveAll(b))
	if _, err := gate.Expand([]string{out}); err == nil || !strings.Contains(err.Error(), "is listed in") {
		t.Errorf("a listed bundle is gone: %v", err)
	}
	for name, arg := range map[string]string{"empty folder": t.TempDir(), "no folder": filepath.Join(out, "zzz"), "file": filepath.Join(a, "proof.json")} {
		if _, err := gate.Expand([]string{arg}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestSubjectDigest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bin")
	must(t, os.WriteFile(file, []byte("abc"), 0o755))
	if got, err := gate.SubjectDigest(file); err != nil || got != "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := gate.SubjectDigest(digest); err != nil || got != digest {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := gate.SubjectDigest("sha256:xyz"); !errors.Is(err, gate.ErrPolicy) {
		t.Errorf("got %v", err)
	}
	if _, err := gate.SubjectDigest(file + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestParse(t *testing.T) {
	const ok = policyHead + "require: [{scenario: a, claims: all}]\n"
	for name, c := range map[string]struct{ text, says string }{
		"empty":            {"", "empty"},
		"not yaml":         {":\n\t-", "cannot be used"},
		"list":             {"- a", "cannot"},
		"no format":        {"require: [{scenario: a, claims: all}]", "format"},
		"other format":     {"format: x/2\nrequire: [{scenario: a, claims: all}]", "format"},
		"nothing required": {policyHead, "requires nothing"},
		"unknown key":      {ok + "requires: []\n", "requires"},
		"unknown inner":    {policyHead + "require: [{scenario: a, claim: all}]", "claim"},
		"doubled key":      {ok + "name: u\n", "name"},
		"two documents":    {ok + "---\n" + ok, "follows"},
		"no claims":        {policyHead + "require: [{scenario: a}]", "no claims"},
		"empty claims":     {policyHead + "require: [{scenario: a, claims: []}]", "empty"},
		"odd claims":       {policyHead + "require: [{scenario: a, claims: some}]", "some"},
		"no scenario":      {policyHead + "require: [{claims: all}]", "no scenario"},
		"twice":            {policyHead + "require: [{scenario: a, claims: all}, {scenario: a, claims: [x]}]", "twice"},
		"bad subject":      {ok + "subject: sha256:12\n", "subject"},
		"bad age":          {ok + "max_age: 3 days\n", "days"},
		"negative age":     {ok + "max_age: -1h\n", "max_age"},
		"number for age":   {ok + "max_age: {}\n", "cannot"},
		"negative min":     {ok + "controls: {min_mutations: -1}\n", "min_mutations"},
		"bound no max":     {ok + "bounds: [{scenario: a, claim: b, figure: c}]\n", "no max"},
		"bound nan":        {ok + "bounds: [{scenario: a, claim: b, figure: c, max: .nan}]\n", "finite"},
		"bound no claim":   {ok + "bounds: [{scenario: a, figure: c, max: 1}]\n", "must name"},
		"control no claim": {ok + "controls: {required: [{scenario: a}]}\n", "no claims"},
		"too large":        {ok + strings.Repeat("# x\n", 1<<19), "larger"},
		"have and ids":     {policyHead + "require: [{scenario: a, claims: [x], have: [y]}]", "have goes with"},
		"empty backend":    {ok + "allow_backends: ['']\n", "allow_backends"},
	} {
		if _, err := gate.Parse([]byte(c.text)); !errors.Is(err, gate.ErrPolicy) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want ErrPolicy with %q", name, err, c.says)
		}
	}
	if _, err := gate.Parse([]byte(`{"format":"unibus-policy/1","require":[{"scenario":"a","claims":["x"]}],"max_age":"24h"}`)); err != nil {
		t.Errorf("JSON: %v", err)
	}
}

func TestDefaultPolicy(t *testing.T) {
	p, err := gate.Default()
	must(t, err)
	want := map[string]bool{"quorum-loss": true, "node-kill": true, "r1-spof": true, "dataplane-kill": true, "dataplane-pause": true, "cold-start": true, "lone-node-leader": true}
	for _, r := range p.Require {
		if !r.Claims.All {
			t.Errorf("%s is not required whole", r.Name())
		}
		delete(want, r.Scenario)
	}
	if len(want) > 0 {
		t.Errorf("not required: %v", want)
	}
	got := fmt.Sprint(p.Controls.Required)
	if !strings.Contains(got, "lone-node-control") || !strings.Contains(got, "noop-faults") || p.Controls.MinMutations < 1 {
		t.Errorf("controls: %s, %d mutations", got, p.Controls.MinMutations)
	}
	if d := gate.Decide(p, []string{bundle(t, t.TempDir(), "node-kill", 0, nil)}, now); d.Outcome != gate.Inconclusive {
		t.Errorf("one family alone gives %s", d.Outcome)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(gate.DefaultYAML())
	f.Add([]byte(policyHead + "require: [{scenario: a, claims: all}]\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := gate.Parse(b)
		if err != nil {
			return
		}
		if d := gate.Decide(p, nil, now); d.Exit == 0 {
			t.Errorf("a policy passes nothing: %s", b)
		}
	})
}
