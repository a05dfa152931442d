package scenarios

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/process"
)

// capable is a backend that can do everything and makes nothing: claims ask what it can do.
type capable struct{ cluster.Backend }

func (capable) Capabilities() cluster.Capabilities { return nil }

// planned is a scenario's plan as a run would have it, after all its steps.
func planned(t *testing.T, s Scenario, kind cluster.Kind, seed uint64, full bool) (*Run, []string) {
	t.Helper()
	if s.Control {
		kind = cluster.NATSServer
	}
	r := &Run{Plan: NewPlan(s, kind, seed, full, Nemesis{}), Scenario: s, set: Settings{Backend: capable{}, Seed: seed}, active: map[string]*activeFault{},
		counts: map[string]int{}, picked: map[string][]cluster.NodeID{}}
	rec, err := history.NewRecorder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r.Rec, r.steps = rec, s.Steps(r.Plan)
	var names []string
	for _, st := range r.steps {
		names = append(names, st.Name)
	}
	return r, names
}

// kinds are the subjects that a scenario is run against.
func kinds(s Scenario) (ks []cluster.Kind) {
	for _, k := range []cluster.Kind{cluster.Membershipd, cluster.NATSServer} {
		if s.Applies(k, nil) == "" {
			ks = append(ks, k)
		}
	}
	return ks
}

// forEach runs a test on every scenario, subject and size of the plan.
func forEach(t *testing.T, f func(t *testing.T, s Scenario, kind cluster.Kind, full bool)) {
	t.Helper()
	for _, s := range All() {
		for _, k := range kinds(s) {
			for _, full := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/full=%v", s.Name, k, full), func(t *testing.T) { f(t, s, k, full) })
			}
		}
	}
}

func TestNamesAreUniqueAndDescribed(t *testing.T) {
	seen := map[string]bool{}
	families := map[string]bool{}
	for _, s := range All() {
		if seen[s.Name] || s.Name == "" || strings.ContainsAny(s.Name, " /_,") {
			t.Errorf("name %q is empty, taken, or no good as a folder and on a command line", s.Name)
		}
		seen[s.Name], families[s.Family] = true, true
		if s.Doc == "" || s.Seconds <= 0 || len(s.Needs) == 0 || len(kinds(s)) == 0 {
			t.Errorf("%s has no description, no expected time, no needs, or nothing that it applies to", s.Name)
		}
	}
	for _, f := range RequiredFamilies {
		if !families[f] {
			t.Errorf("no scenario is of the required family %q", f)
		}
	}
}

func TestPlansRepeat(t *testing.T) {
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r1, first := planned(t, s, kind, 7, full)
		_, other := planned(t, s, kind, 8, full)
		r2, again := planned(t, s, kind, 7, full) // of the same value, which has planned other things meanwhile
		if !slices.Equal(first, again) {
			t.Errorf("seed 7 gives two plans:\n%q\n%q", first, again)
		}
		if a, b := r1.Plan.Rand.Uint64(), r2.Plan.Rand.Uint64(); a != b {
			t.Errorf("after the plan the same seed chooses %d and %d", a, b)
		}
		if len(other) != len(first) && s.Name != nemesisName { // whose plan has a length in time
			t.Errorf("seeds 7 and 8 give %d and %d steps: they draw from different products", len(first), len(other))
		}
	})
}

func TestPlansDiffer(t *testing.T) {
	seen := map[uint64]string{}
	for _, s := range All() {
		for seed := range uint64(20) {
			p := NewPlan(s, cluster.Membershipd, seed, false, Nemesis{})
			at := fmt.Sprintf("%s with seed %d", s.Name, seed)
			if was, ok := seen[p.Seed]; ok {
				t.Errorf("%s and %s have the same seed of their own", was, at)
			}
			seen[p.Seed] = at
		}
	}
	for _, s := range All() {
		if !slices.Contains([]string{"lone-node-n1", "quorum-loss", "node-kill", "cold-start"}, s.Name) {
			continue // these choose their victims while they run
		}
		plans := map[string]bool{}
		for seed := range uint64(20) {
			_, names := planned(t, s, cluster.Membershipd, seed, false)
			plans[strings.Join(names, "\n")] = true
		}
		if len(plans) < 2 {
			t.Errorf("%s has one plan for 20 seeds", s.Name)
		}
	}
}

// claimsOf builds a scenario's claims; one that does not encode panics.
func claimsOf(t *testing.T, r *Run) (cs []reports.Claim) {
	t.Helper()
	defer func() {
		if x := recover(); x != nil {
			t.Fatalf("the claims of %s crash: %v", r.Scenario.Name, x)
		}
	}()
	return r.Scenario.Claims(r)
}

func TestClaimsAreWhole(t *testing.T) {
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r, _ := planned(t, s, kind, 7, full)
		ids, controls := map[string]bool{}, 0
		cs := claimsOf(t, r)
		for _, c := range cs {
			if c.ID == "" || ids[c.ID] || strings.ContainsAny(c.ID, " /") {
				t.Errorf("the id %q is empty, taken, or not one word", c.ID)
			}
			ids[c.ID] = true
			if len(c.Text) < 10 || !strings.HasSuffix(c.Text, ".") && !strings.HasSuffix(c.Text, ")") {
				t.Errorf("%s says %q, which is no sentence", c.ID, c.Text)
			}
			if !slices.Contains(check.Names(), c.Spec.Checker) || !json.Valid(c.Spec.Params) {
				t.Errorf("%s is judged by %q with %s", c.ID, c.Spec.Checker, c.Spec.Params)
			}
			if c.Control() {
				controls++
			}
			if (c.Expect != check.Pass && c.Expect != check.Fail) || c.Control() != (c.ExpectCode != "") {
				t.Errorf("%s expects %v for %q: a control names its reason, and nothing else does", c.ID, c.Expect, c.ExpectCode)
			}
		}
		if len(cs) == 0 || (s.Control && controls == 0) {
			t.Errorf("%d claims, %d of them controls", len(cs), controls)
		}
	})
}

// TestNothingPassesOnAnEmptyRecord: whatever a scenario claims, a cluster that never did anything does not satisfy it.
func TestNothingPassesOnAnEmptyRecord(t *testing.T) {
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r, _ := planned(t, s, kind, 7, full)
		for _, c := range claimsOf(t, r) {
			res, err := c.Spec.Run(empty())
			if err != nil || res.Verdict == c.Expect {
				t.Errorf("%s: %v (%v): %s", c.ID, res.Verdict, err, res.Reason)
			}
		}
	})
}

// params is what the static checks read of a claim's parameters.
type params struct {
	Window check.Window `json:"window"`
	Marks  []string     `json:"marks"`
	Min    int          `json:"min"`
	Names  []string     `json:"names"`
}

func paramsOf(t *testing.T, c reports.Claim) (p params) {
	t.Helper()
	if err := json.Unmarshal(c.Spec.Params, &p); err != nil {
		t.Fatalf("read the parameters of %s: %v", c.ID, err)
	}
	return p
}

// TestMarksOfClaimsAreMade catches a window whose mark no step writes, and one that ends before it begins.
func TestMarksOfClaimsAreMade(t *testing.T) {
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r, steps := planned(t, s, kind, 7, full)
		at := map[string]int{}
		for i, name := range steps {
			m, ok := strings.CutPrefix(name, markPrefix)
			if _, twice := at[m]; ok && twice {
				t.Errorf("mark %q is written twice; claims see the first only", m)
			}
			if ok {
				at[m] = i
			}
		}
		used := map[string]bool{}
		for _, c := range claimsOf(t, r) {
			p := paramsOf(t, c)
			for _, m := range append(p.Marks, p.Window.From, p.Window.To) {
				if _, ok := at[m]; !ok && m != "" {
					t.Errorf("%s needs mark %q, which no step writes", c.ID, m)
				}
				used[m] = true
			}
			if w := p.Window; w.From != "" && w.To != "" && at[w.From] >= at[w.To] {
				t.Errorf("the window of %s ends (%q) before it begins (%q)", c.ID, w.To, w.From)
			}
		}
		for m := range at {
			if !used[m] {
				t.Errorf("mark %q is written and no claim is about it", m)
			}
		}
	})
}

// longWindows are the scenarios with a window that is longer than its holds by far: in it nodes are restarted, files exchanged or replicas added, and each time it is
// waited until all is well.
var longWindows = []string{"rolling-upgrade", "rolling-upgrade-plain", "cert-rotation", "deploy-rehearsal", "r1-to-r3"}

var holdLength = regexp.MustCompile(` for ([0-9.hmsuµn]+)(;|$)`)

// heldFor is how long the steps between two marks take at least: what they wait for anyway.
func heldFor(t *testing.T, steps []string, w check.Window) (d time.Duration) {
	t.Helper()
	for _, name := range steps[slices.Index(steps, markPrefix+w.From):slices.Index(steps, markPrefix+w.To)] {
		if m := holdLength.FindStringSubmatch(name); m != nil {
			one, err := time.ParseDuration(m[1])
			if err != nil {
				t.Fatalf("the step %q: %v", name, err)
			}
			d += one
		}
	}
	return d
}

// TestServingIsClaimedOfAStream: acks of one stream say nothing of another, and the standard load writes to several. A bound that is longer than its window can only
// be broken by nothing at all.
func TestServingIsClaimedOfAStream(t *testing.T) {
	var published, bounded int
	judge := func(t *testing.T, r *Run, steps []string) {
		for _, c := range claimsOf(t, r) {
			if c.Spec.Checker != check.Of(check.Availability{}).Checker {
				continue
			}
			var a check.Availability
			if err := json.Unmarshal(c.Spec.Params, &a); err != nil {
				t.Fatal(err)
			}
			if len(a.Kinds) == 0 || slices.Contains(a.Kinds, string(history.Publish)) {
				published++
				if len(a.Targets) != 1 {
					t.Errorf("%s is content with acks of any of %q", c.ID, a.Targets)
				}
			}
			if a.MaxGapSeconds == 0 || slices.Contains(longWindows, r.Scenario.Name) {
				continue
			}
			bounded++
			if held := heldFor(t, steps, a.Window); a.MaxGapSeconds >= held.Seconds() {
				t.Errorf("%s allows a gap of %g s, and its window may be over after %v", c.ID, a.MaxGapSeconds, held)
			}
		}
	}
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r, steps := planned(t, s, kind, 7, full)
		judge(t, r, steps)
	})
	for _, b := range TrackRecord() {
		r := trackRun(b.Scenario, 7)
		judge(t, r, stepNames(r))
	}
	if published < 50 || bounded < 30 {
		t.Errorf("%d claims about publishes, %d of them with a bound that was looked at", published, bounded)
	}
}

// TestFollowersAreNamed: who was never given anything is seen by name only, and who never connected by number only.
func TestFollowersAreNamed(t *testing.T) {
	follow := map[string]int{} // of the two loads that have followers
	for name, ws := range map[string][]workload.Workload{"standard": standardLoad(&Plan{}), "dataplane": dataplaneLoad()} {
		for _, w := range ws {
			switch w := w.(type) {
			case *workload.PullConsumer:
				follow[name+" pull"] = w.Clients
			case *workload.OrderedConsumer:
				follow[name+" ordered"] = w.Clients
			case *workload.Watcher:
				follow[name+" watch"] = w.Clients
			}
		}
	}
	seen := map[string]bool{}
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		load := "standard"
		if s.Family == "dataplane-failover" {
			load = "dataplane"
		}
		r, _ := planned(t, s, kind, 7, full)
		for _, c := range claimsOf(t, r) {
			var named struct {
				Kinds      []string `json:"kinds"`
				Clients    []string `json:"clients"`
				MinClients int      `json:"min_clients"`
			}
			if err := json.Unmarshal(c.Spec.Params, &named); err != nil {
				t.Fatal(err)
			}
			switch {
			case c.Spec.Checker == check.Of(check.Consumers{}).Checker:
				k := named.Kinds[0]
				seen[load+" "+k] = true
				if named.MinClients == 0 || named.MinClients != follow[load+" "+k] || k != "pull" && !slices.Equal(named.Clients, []string{k + "-"}) {
					t.Errorf("%s wants %d clients %q, and %d are made", c.ID, named.MinClients, named.Clients, follow[load+" "+k])
				}
			case c.Spec.Checker == check.Of(check.CoreDelivered{}).Checker:
				seen["core"] = true
				if named.MinClients != coreClients || !slices.Equal(named.Clients, []string{"sub-"}) {
					t.Errorf("%s wants %d clients %q", c.ID, named.MinClients, named.Clients)
				}
			}
		}
	})
	if len(seen) != 6 {
		t.Errorf("claims about %v", seen)
	}
}

// TestClaimsCountTheirSteps catches a claim that wants more, or is content with fewer, waits and faults than there are.
func TestClaimsCountTheirSteps(t *testing.T) {
	forEach(t, func(t *testing.T, s Scenario, kind cluster.Kind, full bool) {
		r, steps := planned(t, s, kind, 7, full)
		count := func(prefixes ...string) (n int) {
			for _, st := range steps {
				if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(st, p) }) {
					n++
				}
			}
			return n
		}
		for _, c := range claimsOf(t, r) {
			p := paramsOf(t, c)
			switch {
			case c.Spec.Checker == check.Of(check.Converged{}).Checker:
				if n := count(convergePrefix); p.Min != n {
					t.Errorf("%s wants %d waits for convergence; there are %d", c.ID, p.Min, n)
				}
			case c.Spec.Checker == check.Of(check.Faults{}).Checker && len(p.Names) == 0:
				if n := count("inject ", "kill the "); p.Min != n {
					t.Errorf("%s wants %d faults; there are %d", c.ID, p.Min, n)
				}
			}
		}
		if injected, healed := count("inject ", "kill the ")-count("kill the")+count("kill the "), count("heal "); injected < healed {
			t.Errorf("%d faults are injected and %d healed", injected, healed)
		}
	})
}

func TestStartCases(t *testing.T) {
	type seen map[string]bool
	for seed := range uint64(50) {
		first, later := startCases(rand.New(rand.NewPCG(seed, 1)), false)
		orders, spread, kinds := seen{}, seen{}, seen{}
		for _, c := range append(first, later...) {
			orders[joinIDs(c.order)], spread[c.stagger.String()], kinds[c.after] = true, true, true
		}
		if len(orders) != 6 || len(spread) != 3 || len(kinds) != 4 {
			t.Errorf("seed %d draws orders %v, staggers %v, stops %v; want all 6, 3 and 4", seed, orders, spread, kinds)
		}
		if len(first) != 1 || len(later) != 5 {
			t.Errorf("seed %d draws %d first and %d later starts, want 1 and 5", seed, len(first), len(later))
		}
	}
}

func TestStartCasesFull(t *testing.T) {
	first, later := startCases(rand.New(rand.NewPCG(1, 1)), true)
	if len(first) != 18 || len(later) != 54 {
		t.Fatalf("the product is %d first and %d later starts, want 18 and 54", len(first), len(later))
	}
	cases := map[string]bool{}
	for _, c := range append(first, later...) {
		cases[c.String()] = true
		if !slices.Equal(slices.Sorted(slices.Values(c.order)), []cluster.NodeID{"n1", "n2", "n3"}) {
			t.Errorf("%v does not start every node once", c)
		}
		if !slices.Contains([]time.Duration{0, time.Second, 5 * time.Second}, c.stagger) {
			t.Errorf("%v has another stagger", c)
		}
	}
	if len(cases) != 72 {
		t.Errorf("%d different cases, want 72", len(cases))
	}
	for _, c := range first {
		if c.after != afterFirst {
			t.Errorf("%v is not a first start", c)
		}
	}
	for _, c := range later {
		if c.after == afterFirst {
			t.Errorf("%v is a first start after others", c)
		}
	}
}

func TestApplies(t *testing.T) {
	about := Scenario{Only: cluster.Membershipd}
	control := Scenario{Control: true, Only: cluster.NATSServer}
	network := Scenario{Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork}}
	for name, c := range map[string]struct {
		s    Scenario
		kind cluster.Kind
		have cluster.Capabilities
		says string
	}{
		"its own subject":         {about, cluster.Membershipd, nil, ""},
		"another subject":         {about, cluster.NATSServer, nil, "the scenario is about membershipd, the subject is nats-server"},
		"any subject":             {Scenario{}, cluster.NATSServer, nil, ""},
		"control":                 {control, cluster.Membershipd, nil, ""}, // it takes its own subject
		"everything there":        {network, cluster.Membershipd, nil, ""},
		"something lacks":         {network, cluster.Membershipd, process.Missing(), "needs network: child processes share"},
		"something else lacks":    {Scenario{Needs: []cluster.Capability{cluster.CapLifecycle}}, cluster.Membershipd, process.Missing(), ""},
		"subject comes before":    {Scenario{Only: cluster.Membershipd, Needs: network.Needs}, cluster.NATSServer, process.Missing(), "the scenario is about"},
		"control lacks as others": {Scenario{Control: true, Needs: network.Needs}, cluster.Membershipd, process.Missing(), "needs network"},
	} {
		if got := c.s.Applies(c.kind, c.have); c.says == "" && got != "" || !strings.HasPrefix(got, c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}

func TestSelect(t *testing.T) {
	all := All()
	family := func(f string) (ns []string) {
		for _, s := range all {
			if s.Family == f {
				ns = append(ns, s.Name)
			}
		}
		return ns
	}
	for words, want := range map[string][]string{
		"":                                 names(all)[:0],
		"node-kill":                        {"node-kill"},
		"lone-node":                        family("lone-node"),
		"r1-to-r3, node-kill":              {"r1-to-r3", "node-kill"},
		"r1-spof":                          {"r1-spof", "r1-to-r3"}, // a name that is a family's too
		"lone-node-n2,lone-node":           {"lone-node-n2", "lone-node-n1", "lone-node-n3", "lone-node-leader"},
		"node-kill,node-kill , node-kill ": {"node-kill"},
	} {
		got, err := Select(all, words, false)
		if err != nil {
			t.Errorf("%q: %v", words, err)
			continue
		}
		var ns []string
		for _, s := range got {
			ns = append(ns, s.Name)
		}
		if words == "" && (len(got) >= len(all) || slices.Contains(ns, nemesisName)) || words != "" && !slices.Equal(ns, want) {
			t.Errorf("%q selects %v, want %v", words, ns, want)
		}
	}
	for words, meant := range map[string]string{
		"nod-kill": ": did you mean node-kill?", "NODE-KILL": ": did you mean node-kill?", "node": "did you mean node-kill or ", "node-kill,partitions": "did you mean partition?",
		"lonenode": "lone-node", "quorum": "quorum-loss", "node-kill,": `called "" (`, ",": `called "" (`, "node-kill,zz": `called "zz" (`, "frobnicate": `called "frobnicate" (`,
	} {
		got, err := Select(all, words, false)
		if err == nil || got != nil {
			t.Errorf("%q selects %d scenarios, want an error", words, len(got))
			continue
		}
		if !strings.Contains(err.Error(), meant) || !strings.Contains(err.Error(), "'chaos list'") {
			t.Errorf("%q: the sentence does not say %s, and where the names are: %v", words, meant, err)
		}
		if strings.Contains(err.Error(), "\n") || len(err.Error()) > 150 {
			t.Errorf("%q: more than a line: %v", words, err)
		}
	}
}

func TestFullSelectsNightlyScenariosToo(t *testing.T) {
	if got, err := Select(All(), "", true); err != nil || len(got) != len(All()) {
		t.Errorf("%d of %d, %v", len(got), len(All()), err)
	}
}

// The same seed gives the same plan, leaving out strikes changes nothing of the others, and no plan is unlawful.
func TestNemesisPlans(t *testing.T) {
	byVerb := map[string]int{}
	storms, alongs := 0, 0
	for seed := range uint64(200) {
		whole := NemesisPlan(cluster.Membershipd, seed, Nemesis{For: time.Minute})
		lines := whole.Strikes()
		if again := NemesisPlan(cluster.Membershipd, seed, Nemesis{For: time.Minute}).Strikes(); !slices.Equal(lines, again) {
			t.Fatalf("seed %d: two plans", seed)
		}
		if len(lines) < 4 {
			t.Errorf("seed %d: %d strikes in a minute", seed, len(lines))
		}
		kept := NemesisPlan(cluster.Membershipd, seed, Nemesis{For: time.Minute, Keep: []int{2, 4}})
		if got := kept.Strikes(); !slices.Equal(got, []string{lines[1], lines[3]}) || !slices.Equal(kept.StrikeNumbers(), []int{2, 4}) {
			t.Errorf("seed %d: kept %q of %q", seed, got, lines)
		}
		for _, s := range whole.strikes() {
			byVerb[s.verb.Name]++
			if s.storm > 0 {
				storms++
			}
			if s.along != nil {
				alongs++
				if !slices.Contains([]string{"lossy", "slow", "duplicate", "reorder", "throttle"}, s.along.word) || s.storm > 0 {
					t.Errorf("seed %d: %s together with %s may cost a quorum", seed, s.along.word, s.verb.Name)
				}
			}
			if n, want := strings.Count(strings.Join(stepNames(&Run{steps: s.steps()}), "\n"), injectPrefix), max(1, s.storm); s.along == nil && n != want || s.along != nil && n != want+1 {
				t.Errorf("seed %d: %d faults for %+v", seed, n, s)
			}
			if s.hold < strikeLeast || s.hold > strikeLong || losesVolume(s.verb.Name) && !s.converge {
				t.Errorf("seed %d: %+v", seed, s)
			}
			if name := s.sel.Name(); name == faults.Majority().Name() || name == faults.All().Name() {
				t.Errorf("seed %d: a lawful plan hits %s", seed, name)
			}
		}
	}
	if len(byVerb) != len(nemesisVerbs()) || len(byVerb) < 22 {
		t.Errorf("verbs drawn: %v", byVerb)
	}
	if storms < 50 || alongs < 50 {
		t.Errorf("%d storms and %d strikes in company in 200 plans", storms, alongs)
	}
	majority := false
	for _, s := range NemesisPlan(cluster.Membershipd, 3, Nemesis{For: time.Hour, Any: true}).strikes() {
		majority = majority || s.sel.Name() == faults.Majority().Name()
	}
	if !majority {
		t.Error("without the limit no majority is ever hit")
	}
}

func TestNemesisBounds(t *testing.T) {
	for _, n := range []Nemesis{{For: -1}, {For: 25 * time.Hour}, {Keep: []int{0}}} {
		if n.Check() == nil {
			t.Errorf("%+v is accepted", n)
		}
	}
	if got := (Nemesis{For: time.Minute, Any: true, Keep: []int{1, 3}}).flags(); got != " FOR=1m0s ANY=1 KEEP=1,3" {
		t.Errorf("%q", got)
	}
}
