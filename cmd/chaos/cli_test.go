package main

import (
	"cmp"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
)

// write makes a file with its folders.
func write(t *testing.T, text string, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func cut(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, st.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// badInput is one command line that must be refused, and a part of the sentence.
type badInput struct {
	args []string
	says string
}

func badInputs(t *testing.T) map[string]badInput {
	t.Helper()
	tmp := t.TempDir()
	foreign, site := filepath.Join(tmp, "foreign"), filepath.Join(tmp, "site")
	write(t, "mine", foreign, "noop-faults", "thesis.tex")
	write(t, "<html>", site, "index.html")
	file := write(t, "", tmp, "file")
	bundle := func(name string, damage ...string) string {
		dir := filepath.Join(tmp, name)
		writeBundle(t, dir, false)
		for _, f := range damage {
			cut(t, filepath.Join(dir, f))
		}
		return dir
	}
	good, noProof, noHistory, noManifest := bundle("good"), bundle("p", reports.ProofFile), bundle("h", reports.HistoryFile), bundle("m", reports.ManifestFile)
	private := filepath.Join(tmp, "proof.key")
	if said := inProcess(t, "keygen", private); said.code != exitOK {
		t.Fatalf("keygen: %s", said.err)
	}
	public := private + publicSuffix
	pub, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	exposed := write(t, "x", tmp, "exposed.key")
	wrongHalf := write(t, string(pub), tmp, "wrong-half.key")
	if err := os.Chmod(wrongHalf, 0o600); err != nil {
		t.Fatal(err)
	}
	noop := func(more ...string) []string { return append([]string{"run", "--scenario", "noop-faults"}, more...) }
	return map[string]badInput{
		"command":                {[]string{"frobnicate"}, `unknown command "frobnicate"`},
		"command nearly":         {[]string{"rnu"}, `unknown command "rnu"`},
		"flag":                   {noop("--frobnicate"), "unknown flag: --frobnicate"},
		"argument":               {noop("extra"), `"extra"`},
		"flag without value":     {[]string{"run", "--seed"}, "needs an argument"},
		"scenario":               {[]string{"run", "--scenario", "nod-kill"}, "node-kill"},
		"scenario, one known":    {[]string{"run", "--scenario", "node-kill,zz"}, `"zz"`},
		"scenario elsewhere":     {[]string{"run", "--scenario", "r1-spof", "--sut", "nats-server@v2.15.2"}, "none of the chosen scenarios applies"},
		"scenario, nothing near": {[]string{"run", "--scenario", "frobnicate"}, "called \"frobnicate\" ('chaos list'"},
		"for without nemesis":    {noop("--for", "1m"), "nothing else looks at --for: add --scenario nemesis"},
		"any without nemesis":    {noop("--any"), "nothing else looks at --any"},
		"keep without nemesis":   {noop("--keep", "1", "--any"), "nothing else looks at --any, --keep"},
		"for in a default run":   {[]string{"run", "--for", "1m"}, "nothing else looks at --for"},
		"for in a dry run":       {noop("--for", "1m", "--dry-run"), "nothing else looks at --for"},
		"for in a soak":          {[]string{"soak", "--scenario", "noop-faults", "--for", "1m"}, "nothing else looks at --for"},
		"keep no such strike":    {[]string{"run", "--scenario", "nemesis", "--seed", "7", "--keep", "2,99"}, "--keep 99: the plan of seed 7 has the strikes 1 to 9"},
		"seed no number":         {noop("--seed", "abc"), `--seed "abc" is not a whole number`},
		"seed negative":          {noop("--seed", "-1"), `--seed "-1" is not a whole number`},
		"seed broken":            {noop("--seed", "1.5"), `--seed "1.5" is not a whole number`},
		"seed too large":         {noop("--seed", "18446744073709551616"), "is not a whole number from 0 to 18446744073709551615"},
		"sut":                    {noop("--sut", "redis"), "neither membershipd nor nats-server"},
		"sut empty":              {noop("--sut", ""), "neither membershipd nor nats-server"},
		"sut with version":       {noop("--sut", "membershipd@v1.0.0"), "neither membershipd nor nats-server"},
		"sut without version":    {noop("--sut", "nats-server"), "such as v2.15.2"},
		"version":                {noop("--sut", "nats-server@2.15.2"), "such as v2.15.2"},
		"version of another":     {noop("--sut", "nats-server@v9.9.9"), "such as v2.15.2"},
		"procs 0":                {noop("--procs", "0"), "must be from 1 to 64"},
		"procs no number":        {noop("--procs", "many"), `--procs "many" is not a whole number`},
		"backend":                {noop("--backend", "podman"), "none of auto, docker, process"},
		"sync":                   {noop("--sync", "often"), "neither 'always' nor a duration"},
		"sync negative":          {noop("--sync", "-2m"), "neither 'always' nor a duration"},
		"full":                   {noop("--full=maybe"), `--full "maybe" is not true or false`},
		"out is foreign":         {noop("--out", foreign), "holds no bundle; name another folder with --out"},
		"out is a website":       {noop("--out", site), "name another folder with --out"},
		"out is a file":          {noop("--out", file), "folder for proofs"},
		"out below a file":       {noop("--out", filepath.Join(file, "x")), "folder for proofs"},
		"out is not ours":        {noop("--out", "/proc/1/proofs"), "folder for proofs"},
		"binary missing":         {noop("--binary", filepath.Join(tmp, "membershipd")), "no such file"},
		"binary name":            {noop("--binary", file), "is not called membershipd"},
		"binary of another":      {noop("--binary", file, "--sut", "nats-server@v2.15.2"), "--binary is a membershipd"},
		"mutant":                 {[]string{"mutants", "--mutant", "zz"}, `"zz"`},
		"matrix sut":             {[]string{"matrix", "--suts", "membershipd,redis"}, "neither membershipd nor nats-server"},
		"matrix no sut":          {[]string{"matrix", "--suts", ","}, "names no system under test"},
		"matrix scenario":        {[]string{"matrix", "--list", "--scenario", "zz"}, `"zz"`},
		"bench rounds":           {[]string{"bench", "--rounds", "0"}, "at least 1"},
		"list seed":              {[]string{"list", "--seed", "x"}, `--seed "x" is not a whole number`},
		"verify nothing":         {[]string{"verify"}, "at least one bundle"},
		"verify no folder":       {[]string{"verify", filepath.Join(tmp, "none")}, "is not a folder"},
		"verify a file":          {[]string{"verify", file}, "is not a folder"},
		"verify cut proof":       {[]string{"verify", noProof}, "1 of 1 bundles cannot be trusted"},
		"verify cut history":     {[]string{"verify", noHistory}, "1 of 1 bundles cannot be trusted"},
		"verify cut manifest":    {[]string{"verify", noManifest}, "1 of 1 bundles cannot be trusted"},
		"gate nothing":           {[]string{"gate"}, "at least one bundle"},
		"gate no policy":         {[]string{"gate", "--policy", filepath.Join(tmp, "none.yaml"), good}, "read policy"},
		"gate policy is junk":    {[]string{"gate", "--policy", write(t, "\x00{]", tmp, "junk.yaml"), good}, "policy"},
		"gate cut proof":         {[]string{"gate", noProof}, "gate: bad-proof"},
		"gate cut history":       {[]string{"gate", noHistory}, "gate: bad-proof"},
		"gate cut manifest":      {[]string{"gate", noManifest}, "gate: bad-proof"},
		"verify no key":          {[]string{"verify", "--key", filepath.Join(tmp, "none.pub"), good}, "read key"},
		"verify unsigned":        {[]string{"verify", "--key", public, good}, "1 of 1 bundles cannot be trusted"},
		"gate unsigned":          {[]string{"gate", "--key", public, good}, "gate: bad-proof"},
		"gate half a sign":       {[]string{"gate", "--sign", file, good}, "go together"},
		"gate key is junk":       {[]string{"gate", "--key", file, good}, "the key cannot be used"},
		"sign nothing":           {[]string{"sign"}, "name --key FILE"},
		"sign exposed key":       {[]string{"sign", "--key", exposed, good}, "can be read by others"},
		"sign public key":        {[]string{"sign", "--key", wrongHalf, good}, "the key cannot be used"},
		"sign cut proof":         {[]string{"sign", "--key", private, noProof}, "1 of 1 bundles cannot be trusted"},
		"keygen nothing":         {[]string{"keygen"}, "name one file"},
		"keygen over a file":     {[]string{"keygen", private}, "file exists"},
		"admit nothing":          {[]string{"admit"}, "name --key, --subject and one statement"},
		"admit junk":             {[]string{"admit", "--key", public, "--subject", file, file}, "the attestation cannot be read"},
		"report nothing":         {[]string{"report"}, "name one bundle"},
		"report no folder":       {[]string{"report", filepath.Join(tmp, "none")}, "is not a folder"},
		"report cut history":     {[]string{"report", noHistory}, "history"},
		"report cut manifest":    {[]string{"report", noManifest}, "MANIFEST"},
		"store nothing":          {[]string{"store"}, "at least 1"},
		"store no folder":        {[]string{"store", filepath.Join(tmp, "none")}, "none"},
	}
}

func TestBadInput(t *testing.T) {
	for name, c := range badInputs(t) {
		t.Run(name, func(t *testing.T) {
			s := inProcess(t, c.args...)
			if s.code != exitUsage || !strings.Contains(s.err, c.says) {
				t.Errorf("exit %d, want %d with %q: %q", s.code, exitUsage, c.says, s.err)
			}
			oneSentence(t, s)
		})
	}
}

// TestRefusalKeepsProofs: a run that cannot begin removes nothing.
func TestRefusalKeepsProofs(t *testing.T) {
	out := t.TempDir()
	dir := filepath.Join(out, "noop-faults")
	writeBundle(t, dir, false)
	elsewhere := t.TempDir()
	s := execute(t, elsewhere, binary(t), nil, "run", "--scenario", "noop-faults", "--out", out)
	if s.code != exitUsage || !strings.Contains(s.err, "source tree") {
		t.Errorf("outside the source tree: exit %d, %q", s.code, s.err)
	}
	oneSentence(t, s)
	s = execute(t, ".", binary(t), append(withoutGo(t), "GOFLAGS="), "run", "--scenario", "noop-faults", "--out", out, "--backend", "process")
	if s.code != exitUsage || !strings.Contains(s.err, "'go' is not on PATH") {
		t.Errorf("without a toolchain: exit %d, %q", s.code, s.err)
	}
	oneSentence(t, s)
	noModules := append(os.Environ(), "GOPROXY=off", "GOFLAGS=")
	s = execute(t, ".", binary(t), noModules, "run", "--scenario", "node-kill", "--out", out, "--backend", "process", "--sut", "nats-server@v2.99.99")
	if s.code != exitUsage || !strings.Contains(s.err, "that version of nats-server cannot be had") {
		t.Errorf("a version that is not there: exit %d, %q", s.code, s.err)
	}
	oneSentence(t, s)
	if rep, err := reports.Verify(dir); err != nil {
		t.Errorf("the earlier proof: %v: %v", err, rep.Problems)
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("the working directory holds %v (%v)", left, err)
	}
}

// withoutGo is an environment in which there is no toolchain.
func withoutGo(t *testing.T) []string {
	t.Helper()
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") || strings.HasPrefix(e, "GOROOT=") })
	return append(env, "PATH="+t.TempDir())
}

// makes is make at the root of the tree, with these arguments.
func makes(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("there is no make on this machine")
	}
	cmd := exec.CommandContext(t.Context(), "make", args...)
	cmd.Dir = filepath.Join("..", "..")
	return cmd
}

func TestMakePassesRefusalOn(t *testing.T) {
	cmd := makes(t, "chaos", "SEED=abc", "CHAOS="+binary(t))
	var errs strings.Builder
	cmd.Stderr = &errs
	err := cmd.Run()
	if err == nil || !strings.Contains(errs.String(), `chaos: --seed "abc" is not a whole number`) {
		t.Errorf("make chaos SEED=abc: %v, %q", err, errs.String())
	}
}

// TestMakeHoldsBundlesAgainstTheIndex: a bundle that the index of OUT lists and that is gone stops 'make verify' and 'make gate'.
func TestMakeHoldsBundlesAgainstTheIndex(t *testing.T) {
	out := t.TempDir()
	writeBundle(t, filepath.Join(out, "good"), false)
	writeBundle(t, filepath.Join(out, "gone"), true)
	if err := reports.WriteIndex(out, reports.RunInfo{ID: "r"}); err != nil {
		t.Fatal(err)
	}
	made := func(target string) string {
		said, _ := makes(t, target, "OUT="+out, "CHAOS="+binary(t), "GO=true").CombinedOutput() // nothing has to be built once more; how it ended is in what it says
		return string(said)
	}
	const missing = "is listed in"
	for _, target := range []string{"verify", "gate"} {
		if said := made(target); strings.Contains(said, missing) || !strings.Contains(said, "intact") && !strings.Contains(said, "sound") {
			t.Errorf("make %s, with all bundles there: %s", target, said)
		}
	}
	if err := os.RemoveAll(filepath.Join(out, "gone")); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"verify", "gate"} {
		if said := made(target); !strings.Contains(said, filepath.Join(out, "gone")+" "+missing) {
			t.Errorf("make %s, with one that is gone: %s", target, said)
		}
	}
}

// TestMakeSwitches: what is 0 or empty is not set.
func TestMakeSwitches(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "no": false, "1": true, "yes": true} {
		for target, flags := range map[string][]string{"chaos": {"--full", "--any"}, "soak": {"--any"}, "matrix": {"--full"}} {
			out, err := makes(t, "-n", target, "FULL="+value, "ANY="+value, "GO=true").Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, flag := range flags {
				if strings.Contains(string(out), flag) != want {
					t.Errorf("make %s with %q: %s there: %t", target, value, flag, !want)
				}
			}
		}
	}
}

// TestDryRunJSON: a line for each scenario, the same plan as in words, and nothing else.
func TestDryRunJSON(t *testing.T) {
	args := []string{"run", "--scenario", "nemesis,node-kill", "--seed", "7", "--for", "20s", "--keep", "1,2", "--dry-run"}
	words := inProcess(t, args...)
	var names []string
	for line := range strings.Lines(inProcess(t, append(args, "--json")...).out) {
		p := decode[planned](t, said{out: line})
		names = append(names, p.Scenario)
		if p.Seed != 7 || p.SUT != "membershipd" || p.Doc == "" || len(p.Steps) == 0 {
			t.Errorf("%+v lacks something", p)
		}
		for _, st := range p.Steps {
			if !strings.Contains(words.out, st) {
				t.Errorf("the plan of %s in words has no %q", p.Scenario, st)
			}
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"nemesis", "node-kill"}) {
		t.Errorf("planned are %v", names)
	}
}

// TestNemesisFlags: they are for every run that has the random nemesis in it.
func TestNemesisFlags(t *testing.T) {
	for name, f := range map[string]runFlags{
		"by name":             {scenario: "nemesis", nemesis: scenarios.Nemesis{For: time.Second, Any: true, Keep: []int{3, 1}}},
		"among others":        {scenario: "node-kill,nemesis", nemesis: scenarios.Nemesis{For: time.Minute}},
		"in the whole run":    {full: true, nemesis: scenarios.Nemesis{For: time.Minute}},
		"in another part":     {full: true, shard: "1/40", nemesis: scenarios.Nemesis{For: time.Minute}},
		"not at all":          {scenario: "node-kill"},
		"plain nats-server's": {scenario: "nemesis", sut: "nats-server@v2.15.2", nemesis: scenarios.Nemesis{Any: true}},
	} {
		f.procs, f.backend, f.seed, f.seeded = 1, "process", 7, true
		f.sut = cmp.Or(f.sut, "membershipd")
		if err := newSession(&f, io.Discard).check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return // cobra's own
		}
		t.Run(c.CommandPath(), func(t *testing.T) {
			args := append(strings.Fields(c.CommandPath())[1:], "--help")
			s := inProcess(t, args...)
			if s.code != exitOK || s.err != "" || !strings.Contains(s.out, "Examples:\n  chaos") {
				t.Errorf("exit %d, %q:\n%s", s.code, s.err, s.out)
			}
			if c.Short == "" {
				t.Error("there is no short description")
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(rootCmd())
}

func decode[T any](t *testing.T, s said) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.out), &v); err != nil || s.code != exitOK || s.err != "" {
		t.Fatalf("exit %d, %v, %q:\n%s", s.code, err, s.err, s.out)
	}
	return v
}

func TestListJSON(t *testing.T) {
	var names []string
	for _, l := range decode[[]listed](t, inProcess(t, "list", "--json", "--steps", "--seed", "7")) {
		names = append(names, l.Name)
		if l.Family == "" || l.Doc == "" || l.Seconds == 0 || len(l.Steps) == 0 || len(l.Needs) == 0 {
			t.Errorf("%+v lacks something", l)
		}
	}
	var want []string
	for _, s := range scenarios.All() {
		want = append(want, s.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("listed are %v, want %v", names, want)
	}
}

// TestListTellsTheRuns: what the list says of a scenario is what a run that names none does with it.
func TestListTellsTheRuns(t *testing.T) {
	in := func(sut string, full bool) map[string]bool {
		f := &runFlags{sut: sut, full: full, procs: 1, backend: "process"}
		s := newSession(f, io.Discard)
		if err := s.check(); err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, sc := range s.list {
			names[sc.Name] = true
		}
		return names
	}
	const plain = "nats-server@v2.15.2"
	daily, dailyPlain, full := in("membershipd", false), in(plain, false), in("membershipd", true)
	lines := map[string][]string{}
	for line := range strings.Lines(inProcess(t, "list").out) {
		words := strings.Fields(line)
		lines[words[0]] = words
	}
	nightly := 0
	for _, l := range decode[[]listed](t, inProcess(t, "list", "--json")) {
		if l.Default != daily[l.Name] || l.Nightly == l.Default || !full[l.Name] {
			t.Errorf("%s: default %t, nightly %t; in the default run: %t, in the whole one: %t", l.Name, l.Default, l.Nightly, daily[l.Name], full[l.Name])
		}
		run, about := "default", "any"
		if !daily[l.Name] {
			run = "nightly"
			nightly++
		}
		if !in(plain, true)[l.Name] {
			about = "membershipd"
		}
		if dailyPlain[l.Name] != (run == "default" && about == "any") {
			t.Errorf("%s: in the default run about plain nats-server: %t", l.Name, dailyPlain[l.Name])
		}
		if words := lines[l.Name]; len(words) < 4 || words[2] != run || words[3] != about {
			t.Errorf("%s: %q, want %s and %s", l.Name, words, run, about)
		}
	}
	if nightly == 0 || len(daily) == 0 {
		t.Errorf("%d scenarios are nightly, %d are not", nightly, len(daily))
	}
	if help := inProcess(t, "--help").out; strings.Contains(help, "six") || !strings.Contains(help, "'chaos list'") {
		t.Errorf("the help counts scenarios, or does not say where they are: %s", help)
	}
}

func TestDoctorJSON(t *testing.T) {
	fs := decode[[]finding](t, inProcess(t, "doctor", "--json"))
	for _, want := range []string{"Go toolchain", "source tree", "Docker engine", "fault isolate", "fault kill", "scenario noop-faults"} {
		if !slices.ContainsFunc(fs, func(f finding) bool { return strings.HasPrefix(f.What, want) && f.Note != "" }) {
			t.Errorf("nothing is said of %s: %+v", want, fs)
		}
	}
	for _, e := range faults.Catalogue() {
		rows := 0
		for _, f := range fs {
			if f.What == "fault "+e.Name {
				rows++
				if f.OK != (f.How != "") || f.OK == strings.HasPrefix(f.Note, "NOT RUN here: ") {
					t.Errorf("%s can be injected here, or not, but not both: %+v", e.Name, f)
				}
			}
		}
		if rows != 1 || e.Mechanism() == "" {
			t.Errorf("%d rows for %s, by %q", rows, e.Name, e.Mechanism())
		}
	}
}

func TestMatrixListJSON(t *testing.T) {
	cs := decode[[]cell](t, inProcess(t, "matrix", "--list", "--json", "--suts", "membershipd,nats-server@v2.15.2", "--scenario", "node-kill,r1-spof"))
	want := []cell{{Scenario: "node-kill", SUT: "membershipd"}, {Scenario: "r1-spof", SUT: "membershipd"}, {Scenario: "r1-to-r3", SUT: "membershipd"},
		{Scenario: "node-kill", SUT: "nats-server@v2.15.2"}} // the others are about membershipd
	for i := range cs {
		if cs[i].Seconds <= 0 {
			t.Errorf("%+v has no expected seconds", cs[i])
		}
		cs[i].Seconds = 0
	}
	if !slices.Equal(cs, want) {
		t.Errorf("cells %+v, want %+v", cs, want)
	}
}

// TestAuditor: the installed binary alone judges bundles, on a machine without toolchain, source or engine.
func TestAuditor(t *testing.T) {
	b, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "chaos")
	if err := os.WriteFile(alone, b, 0o755); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	writeBundle(t, filepath.Join(out, "good"), false)
	policy := write(t, "format: unibus-policy/1\nrequire: [{scenario: good, claims: all}]\n", t.TempDir(), "policy.yaml")
	env := append(withoutGo(t), "DOCKER_HOST=unix:///nowhere/docker.sock", "TMPDIR="+t.TempDir())
	for says, args := range map[string][]string{
		"sound":             {"verify", out},
		"gate pass":         {"gate", "--policy", policy, out},
		"report.html":       {"report", filepath.Join(out, "good")},
		"noop-faults":       {"list"},
		"NO  Go toolchain":  {"doctor"},
		"NO  Docker engine": {"doctor"},
		"removed":           {"sweep"},
	} {
		if s := execute(t, t.TempDir(), alone, env, args...); s.code != exitOK || !strings.Contains(s.out, says) || s.err != "" {
			t.Errorf("%v: exit %d, want %q: %q\n%s", args, s.code, says, s.err, s.out)
		}
	}
}
