package scenarios

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// soon is a wait that a test expects to be cut short, or to end without what was waited for.
const soon = 100 * time.Millisecond

var errBroken = errors.New("the disk is on fire")

// told is a scenario with these steps, and a claim that a cluster satisfies that was asked for its health.
func told(steps ...Step) Scenario {
	return Scenario{
		Name: "told", Family: "told", Doc: "a test's own", Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step { return append([]Step{mark("begin")}, append(steps, mark("end"))...) },
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{claim("alive", "Every node lives.", check.HealthCheck{Probe: "live", Nodes: []string{"n1"}, Window: window("begin", ""),
				Want: check.WantEnds200})}
		},
	}
}

func step(name string, do func(ctx context.Context, r *Run) error) Step { return Step{name, do} }

func settingsFor(t *testing.T, b cluster.Backend) Settings {
	t.Helper()
	return Settings{Backend: b, Subject: cluster.Subject{Kind: cluster.NATSServer, Version: "v0.0.0"}, Plain: cluster.Subject{Kind: cluster.NATSServer},
		RunID: "r1", Seed: 7, OutDir: t.TempDir()}
}

// ended is what a scenario left behind.
type ended struct {
	reports.Proof
	dir string
}

// executed runs a scenario and holds what must be true however it went: the bundle is whole, and every cluster is closed.
func executed(ctx context.Context, t *testing.T, s Scenario, b *fakeBackend, changes ...func(*Settings)) ended {
	t.Helper()
	set := settingsFor(t, b)
	for _, change := range changes {
		change(&set)
	}
	p, dir, err := Execute(ctx, s, set)
	if err != nil {
		t.Fatalf("execute: %v", err)
	}
	if rep, err := reports.Verify(dir); err != nil {
		t.Errorf("the bundle: %v: %v", err, rep.Problems)
	}
	for _, c := range b.made {
		if c.closes() == 0 {
			t.Error("the cluster was not closed")
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "unibus-stores-*")); err != nil || len(left) > 0 {
		t.Errorf("the folder for temporary files holds %v (%v)", left, err)
	}
	return ended{p, dir}
}

// inconclusive holds that a run shows nothing, for this reason, which the evidence has too.
func (e ended) inconclusive(t *testing.T, why ...string) {
	t.Helper()
	if e.Status != reports.StatusInconclusive {
		t.Errorf("the status is %s: %s", e.Status, e.Why)
	}
	for _, w := range why {
		if !strings.Contains(e.Why, w) {
			t.Errorf("the proof says %q, want %q", e.Why, w)
		}
		if !slices.ContainsFunc(e.Evidence.Errors, func(s string) bool { return strings.Contains(s, w) }) {
			t.Errorf("the evidence has the errors %q, want %q", e.Evidence.Errors, w)
		}
	}
	if len(e.Claims) == 0 {
		t.Error("the proof has no claims")
	}
}

func TestExecuteGood(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	e := executed(t.Context(), t, told(startAll(), ready(time.Minute, "n1", "n2", "n3"), hold("samples", soon)), &fakeBackend{t: t})
	if e.Status != reports.StatusPass || len(e.Evidence.Errors) > 0 {
		t.Errorf("the status is %s: %s %q", e.Status, e.Why, e.Evidence.Errors)
	}
	if e.Evidence.Command != "make chaos SCENARIO=told SEED=7 SUT=nats-server@v0.0.0" {
		t.Errorf("the command to run it again is %q", e.Evidence.Command)
	}
}

// TestNoScenarioPasses: each scenario's own claims, on clusters that cannot be made or whose nodes do not start.
func TestNoScenarioPasses(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	own := func(set *Settings) {
		set.Subject = cluster.Subject{Kind: cluster.Membershipd}
		set.Earlier = map[cluster.Kind]cluster.Subject{
			cluster.Membershipd: {Kind: cluster.Membershipd}, cluster.NATSServer: {Kind: cluster.NATSServer},
		}
	}
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			b := &fakeBackend{t: t, makeErr: errBroken}
			executed(t.Context(), t, s, b, own, onFake(b)).inconclusive(t, "start the cluster: the disk is on fire")
			b = &fakeBackend{t: t, prepare: func(c *fakeCluster) {
				for _, n := range c.nodes {
					n.startErr = errBroken
				}
			}}
			if s.Hosts {
				executed(t.Context(), t, s, b, own, onFake(b)).inconclusive(t, "the nodes are not whole hosts")
				return
			}
			executed(t.Context(), t, s, b, own).inconclusive(t, "the disk is on fire")
		})
	}
}

func TestNeverReady(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	b := &fakeBackend{t: t, prepare: func(c *fakeCluster) { c.nodes[1].ready = false }}
	after := 0
	s := told(startAll(), ready(soon, "n1", "n2", "n3"), step("more", func(context.Context, *Run) error { after++; return nil }))
	e := executed(t.Context(), t, s, b)
	e.inconclusive(t)
	if len(e.Evidence.Errors) > 0 || after > 0 {
		t.Errorf("a cluster that does not do what is needed ends the steps (%d more were done), and is no error of the harness: %q", after, e.Evidence.Errors)
	}
}

func TestHarnessFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	fail := func(context.Context, *Run) error { return errBroken }
	for name, c := range map[string]struct {
		steps   []Step
		prepare func(*fakeCluster)
		why     string
	}{
		"a step":         {[]Step{startAll(), step("burn", fail)}, nil, "burn: the disk is on fire"},
		"the last step":  {[]Step{startAll(), hold("samples", soon), step("burn", fail)}, nil, "burn: the disk is on fire"},
		"a step crashes": {[]Step{startAll(), step("burn", func(ctx context.Context, r *Run) error { return r.node("n9").Start(ctx) })}, nil, "burn: the step crashed: runtime error"},
		"one start":      {[]Step{startAll()}, func(c *fakeCluster) { c.nodes[2].startErr = errBroken }, "start all nodes: start n3: the disk is on fire"},
		"collecting":     {[]Step{startAll()}, func(c *fakeCluster) { c.collectErr = errBroken }, "collect logs: the disk is on fire"},
		"removing":       {[]Step{startAll()}, func(c *fakeCluster) { c.closeErr = errBroken }, "remove the cluster: the disk is on fire"},
		"ending daemons": {[]Step{startAll()}, func(c *fakeCluster) { c.nodes[0].killErr = errBroken }, "end the daemons: kill n1: the disk is on fire"},
		"heal nothing":   {[]Step{startAll(), heal("nothing")}, nil, "heal nothing: there is no such fault in force"},
	} {
		t.Run(name, func(t *testing.T) {
			executed(t.Context(), t, told(c.steps...), &fakeBackend{t: t, prepare: c.prepare}).inconclusive(t, c.why)
		})
	}
}

func TestInterrupted(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	gone := errors.New("somebody pulled the plug")
	for name, steps := range map[string]func(pull func()) []Step{
		"in a wait": func(pull func()) []Step {
			return []Step{startAll(), step("pull", func(ctx context.Context, _ *Run) error { pull(); return wait(ctx, time.Hour) }), startAll()}
		},
		// The step's own answer would be that the cluster does not do what it should.
		"in a wait for the cluster": func(pull func()) []Step {
			return []Step{startAll(), step("pull", func(ctx context.Context, r *Run) error {
				return r.until(ctx, time.Hour, "the moon", func(context.Context) bool { pull(); return false })
			})}
		},
		"in convergence": func(pull func()) []Step {
			return []Step{startAll(), step("pull", func(ctx context.Context, r *Run) error { pull(); return r.converge(ctx, "never") })}
		},
		// It says that all is well, and may have done half of its work.
		"in the last step": func(pull func()) []Step {
			return []Step{startAll(), hold("samples", soon), step("pull", func(context.Context, *Run) error { pull(); return nil })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			e := executed(ctx, t, told(steps(func() { cancel(gone) })...), &fakeBackend{t: t})
			e.inconclusive(t, "pull: interrupted: somebody pulled the plug")
			if logs, err := filepath.Glob(filepath.Join(e.dir, "logs", "*", "daemon.log")); err != nil || len(logs) != 3 {
				t.Errorf("logs: %v (%v), want 3", logs, err)
			}
		})
	}
	t.Run("before the first step", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		b := &fakeBackend{t: t}
		executed(ctx, t, told(startAll()), b).inconclusive(t, "start the cluster: context canceled")
		if len(b.made) > 0 {
			t.Error("a cluster was made")
		}
	})
}

// TestFaultIsHealedWhenAStepFails: nothing stays in force, and the record says so.
func TestFaultIsHealedWhenAStepFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	e := executed(t.Context(), t, told(startAll(), inject("down", faults.Kill, faults.Named("n2")), step("burn", func(context.Context, *Run) error { return errBroken })),
		&fakeBackend{t: t})
	e.inconclusive(t, "burn: the disk is on fire")
	if len(e.Faults) != 1 || !strings.HasPrefix(e.Faults[0].Name, "down kill") || e.Faults[0].Healed == 0 {
		t.Errorf("the faults of the run: %+v", e.Faults)
	}
}

// blind is a fault that does nothing, and whose probe says what the test wants after the injection, and after healing.
type blind struct {
	faults.Fault

	after, healed func() (faults.Observation, error)
	injects       int
	heals         int
}

func (b *blind) Inject(context.Context, cluster.Cluster) error { b.injects++; return nil }
func (b *blind) Heal(context.Context, cluster.Cluster) error   { b.heals++; return nil }
func (b *blind) InForce(context.Context, cluster.Cluster) (faults.Observation, error) {
	switch {
	case b.heals > 0:
		return b.healed()
	case b.injects > 0:
		return b.after()
	}
	return faults.Observation{Detail: "not here"}, nil
}

// TestProbeThatFails: an engine that does not answer says nothing of a cluster, and a probe that sees no fault does.
func TestProbeThatFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	here := func() (faults.Observation, error) { return faults.Observation{InForce: true, Detail: "here"}, nil }
	none := func() (faults.Observation, error) { return faults.Observation{Detail: "not here"}, nil }
	broken := func() (faults.Observation, error) { return faults.Observation{}, errBroken }
	for name, c := range map[string]struct {
		after, healed func() (faults.Observation, error)
		code          string // of the claim that fails; "" for a harness that failed
	}{
		"all is seen":                 {here, none, "none"},
		"in force, nobody can tell":   {broken, none, ""},
		"gone, nobody can tell":       {here, broken, ""},
		"not in force":                {none, none, check.CodeNotInForce},
		"not gone":                    {here, here, check.CodeNotHealed},
		"not in force, nor asked yet": {none, broken, ""},
	} {
		t.Run(name, func(t *testing.T) {
			verb := func(ids ...cluster.NodeID) faults.Fault {
				return &blind{Fault: faults.Kill(ids...), after: c.after, healed: c.healed}
			}
			s := told(startAll(), step("hurry", func(_ context.Context, r *Run) error {
				r.injector.Limits = faults.Limits{InForce: soon, Healed: soon}
				return nil
			}), inject("blind", verb, faults.Named("n2")), heal("blind"))
			s.Claims = func(*Run) []reports.Claim { return []reports.Claim{faultsInForce(1)} }
			e := executed(t.Context(), t, s, &fakeBackend{t: t})
			switch {
			case c.code == "":
				e.inconclusive(t, "the disk is on fire")
				if !slices.ContainsFunc(e.Faults, func(f reports.FaultRun) bool { return strings.Contains(f.NotSeen, "the disk is on fire") }) {
					t.Errorf("the record says nothing of it: %+v", e.Faults)
				}
			case len(e.Evidence.Errors) > 0:
				t.Errorf("errors: %q", e.Evidence.Errors)
			case c.code != "none" && (e.Status != reports.StatusFail || e.Claims[0].Result.Code != c.code):
				t.Errorf("the status is %s, %s (%s), want %s", e.Status, e.Claims[0].Result.Code, e.Why, c.code)
			case c.code == "none" && e.Claims[0].Result.Verdict != check.Pass:
				t.Errorf("the claim: %+v", e.Claims[0].Result)
			}
		})
	}
}

func TestWorkloadsAreClosed(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	burn := step("burn", func(context.Context, *Run) error { return errBroken })
	for name, c := range map[string]struct {
		first, second *fakeLoad
		then          []Step
		did, didNot   []string // the first workload
		why           string
	}{
		"good":           {&fakeLoad{}, &fakeLoad{}, []Step{stopLoad()}, []string{"setup", "ran", "drained", "closed"}, nil, ""},
		"a step fails":   {&fakeLoad{}, &fakeLoad{}, []Step{burn}, []string{"ran", "closed"}, []string{"drained"}, "burn: the disk is on fire"},
		"while paused":   {&fakeLoad{}, &fakeLoad{}, []Step{pauseLoad(), burn}, []string{"ran", "closed"}, []string{"drained"}, "burn: the disk is on fire"},
		"after a pause":  {&fakeLoad{}, &fakeLoad{}, []Step{pauseLoad(), resumeLoad(), stopLoad()}, []string{"drained", "closed"}, nil, ""},
		"setup":          {&fakeLoad{setupErr: errBroken}, &fakeLoad{}, nil, []string{"closed"}, []string{"ran"}, "set up workload first: the disk is on fire"},
		"setup of other": {&fakeLoad{}, &fakeLoad{setupErr: errBroken}, nil, []string{"setup", "closed"}, []string{"ran"}, "set up workload second: the disk is on fire"},
		"running":        {&fakeLoad{runErr: errBroken}, &fakeLoad{}, []Step{stopLoad()}, []string{"closed"}, nil, "run workload first: the disk is on fire"},
		"draining":       {&fakeLoad{drainErr: errBroken}, &fakeLoad{}, []Step{stopLoad()}, []string{"drained", "closed"}, nil, ""}, // the record lacks a drain: the claims' business
	} {
		t.Run(name, func(t *testing.T) {
			c.first.name, c.second.name = "first", "second"
			load := loadUp([]workload.Workload{c.first, c.second}...)
			e := executed(t.Context(), t, told(append([]Step{startAll(), load}, c.then...)...), &fakeBackend{t: t})
			if c.why != "" {
				e.inconclusive(t, c.why)
			} else if len(e.Evidence.Errors) > 0 {
				t.Errorf("errors: %q", e.Evidence.Errors)
			}
			for _, what := range c.did {
				if !c.first.was(what) {
					t.Errorf("the workload did %v, want %q", c.first.done, what)
				}
			}
			for _, what := range c.didNot {
				if c.first.was(what) {
					t.Errorf("the workload did %v, and should not have %q", c.first.done, what)
				}
			}
			if c.second.was("setup") && !c.second.was("closed") {
				t.Errorf("the second workload did %v", c.second.done)
			}
		})
	}
}

func TestNotRun(t *testing.T) {
	s := told(startAll())
	s.Needs = append(s.Needs, cluster.CapNetwork)
	b := &fakeBackend{t: t, missing: cluster.Capabilities{cluster.CapNetwork: "there is no wire"}}
	e := executed(t.Context(), t, s, b)
	if e.Status != reports.StatusNotRun || !strings.Contains(e.Why, "needs network: there is no wire") || len(b.made) > 0 {
		t.Errorf("%s: %s; %d clusters", e.Status, e.Why, len(b.made))
	}
}

func TestExecuteRefusesAFolderThatIsTaken(t *testing.T) {
	b := &fakeBackend{t: t}
	set := settingsFor(t, b)
	if err := os.MkdirAll(filepath.Join(set.OutDir, "told", "thesis"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Execute(t.Context(), told(startAll()), set); !errors.Is(err, reports.ErrNotEmpty) || len(b.made) > 0 {
		t.Errorf("error %v, %d clusters", err, len(b.made))
	}
}

func TestProgressTellsTheVerdictLast(t *testing.T) {
	var mu sync.Mutex
	var lines []Progress
	e := executed(t.Context(), t, told(startAll(), hold("a while", soon)), &fakeBackend{t: t}, func(set *Settings) {
		set.Progress = func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, p)
		}
	})
	phases := map[string]bool{}
	for i, p := range lines {
		phases[p.Phase] = true
		if p.Scenario != "told" || (p.Done != "") != (i == len(lines)-1) {
			t.Errorf("line %d of %d: %+v", i+1, len(lines), p)
		}
	}
	if last := lines[len(lines)-1]; last.Done != string(e.Status) || last.Why != e.Why {
		t.Errorf("the last line is %+v, the proof says %s: %s", last, e.Status, e.Why)
	}
	for _, want := range []string{"making the cluster", "start all nodes", "collecting", "removing the cluster", "judging"} {
		if !phases[want] {
			t.Errorf("no line is about %q: %v", want, phases)
		}
	}
}
