package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

var wholeRun = []string{"absent", "decided", "in-force", "bystander", "still-on", "healing", "healed"}

func prepare(t *testing.T, e faults.Entry, c *fakeCluster, victims ...cluster.NodeID) {
	t.Helper()
	if e.Group == "clock" {
		c.telling(t)
	}
	if e.Name != "wipe" {
		return
	}
	for _, v := range victims {
		c.node(string(v)).state = cluster.State{ExitCode: 137}
	}
}

// patient gives faults that take some watching their time.
func patient(i *faults.Injector, e faults.Entry) {
	if e.Name == "clock-strobe" || e.Name == "clock-drift" {
		i.Limits = faults.Limits{InForce: 3 * time.Second, Healed: 6 * time.Second}
	}
}

func TestEveryVerbRunsThroughItsStages(t *testing.T) {
	for _, e := range faults.Catalogue() {
		for _, victims := range [][]cluster.NodeID{{"n2"}, {"n1", "n3"}} {
			f := e.Make(victims...)
			switch { // more victims where it takes more
			case e.More() >= len(victims) && len(victims) == 1:
				continue
			case e.More() >= len(victims):
				victims = []cluster.NodeID{"n1", "n2", "n3"}
				f = e.Make(victims...)
			}
			t.Run(f.Name(), func(t *testing.T) {
				c := newFake(3)
				prepare(t, e, c, victims...)
				i, s := newInjector(c)
				patient(i, e)
				held := false
				err := i.Run(t.Context(), f, func(context.Context) error { held = true; return nil })
				if err != nil || !held {
					t.Fatalf("run: %v, held %v", err, held)
				}
				want := wholeRun
				if untouched := []string{"sever", "split", "cut-routes", "cut-clients", "dns-failure"}; e.Group == "network" && len(victims) > 1 && !slices.Contains(untouched, e.Name) {
					// every link is hit
					want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s == "bystander" })
				}
				if !slices.Equal(s.stages, want) {
					t.Errorf("stages %v, want %v", s.stages, want)
				}
				if !s.seen["in-force"].InForce || s.seen["absent"].InForce || s.seen["healed"].InForce || s.seen["healed"].Partial {
					t.Errorf("observations: %+v", s.seen)
				}
			})
		}
	}
}

// enough are two victims, or as many as the verb takes.
func enough(e faults.Entry) []cluster.NodeID {
	return []cluster.NodeID{"n2", "n3", "n1"}[:max(2, 1+e.More())]
}

func TestNoopIsNeverInForce(t *testing.T) {
	for _, e := range faults.Catalogue() {
		t.Run(e.Name, func(t *testing.T) {
			c := newFake(3)
			prepare(t, e, c, "n2", "n3")
			i, s := newInjector(c)
			patient(i, e)
			f := faults.Noop(e.Make(enough(e)...))
			if !faults.IsNoop(f) || faults.IsNoop(e.Make("n2")) {
				t.Error("IsNoop does not tell them apart")
			}
			err := i.Inject(t.Context(), f)
			if !errors.Is(err, faults.ErrNotInForce) {
				t.Fatalf("inject: %v, want ErrNotInForce", err)
			}
			if slices.Contains(s.stages, "in-force") || !slices.Contains(s.stages, "not-seen") {
				t.Errorf("stages %v", s.stages)
			}
		})
	}
}

// TestNoopCatchesAProbeThatIsFooled: what a no-op is there to catch, in the faults whose probes compare with what Inject saw: they look, also where nothing was
// done, and before anything is.
func TestNoopCatchesAProbeThatIsFooled(t *testing.T) {
	fooled := 0
	for _, e := range faults.Catalogue() {
		f := e.Make("n2")
		if !faults.Fooled(f) {
			continue
		}
		fooled++
		t.Run(e.Name, func(t *testing.T) {
			c := newFake(3)
			prepare(t, e, c, "n2")
			before, usage := c.node("n2").state, c.node("n2").usage
			i, s := newInjector(c)
			if err := i.Inject(t.Context(), f); !errors.Is(err, faults.ErrAlready) || !slices.Equal(s.stages, []string{"not-seen"}) {
				t.Errorf("before the injection: %v, stages %v", err, s.stages)
			}
			n := faults.Noop(f)
			if err := n.Inject(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if o, err := n.InForce(t.Context(), c); err != nil || !o.InForce {
				t.Errorf("the probe did not look: %+v, %v", o, err)
			}
			if err := n.Heal(t.Context(), c); err != nil {
				t.Error(err)
			}
			if st := c.node("n2"); st.state != before || st.usage != usage || st.power.cuts > 0 {
				t.Errorf("a no-op did something: %+v, %+v", st.state, st.usage)
			}
		})
	}
	if want := 7; fooled < want { // kill, stop, pause, restart, wipe, power-failure, kill-and-wipe
		t.Errorf("%d faults have such a probe, at least %d should", fooled, want)
	}
}

// TestAbsentIsMeasured: of a victim that is not what the verb needs nobody says that the fault is absent there.
func TestAbsentIsMeasured(t *testing.T) {
	dead, paused := cluster.State{ExitCode: 137}, cluster.State{Running: true, Paused: true, PID: 1, StartTime: 1}
	for _, tc := range []struct {
		verb  string
		state cluster.State
	}{{"kill", dead}, {"stop", dead}, {"restart", dead}, {"pause", dead}, {"pause", paused}, {"power-failure", dead}, {"kill-and-wipe", dead}, {"oom-kill", dead}} {
		t.Run(tc.verb, func(t *testing.T) {
			c := newFake(3)
			c.node("n2").state = tc.state
			e, _ := faults.Lookup(tc.verb)
			i, s := newInjector(c)
			if err := i.Inject(t.Context(), e.Make("n2")); err == nil || faults.Seen(err) || len(s.stages) > 0 {
				t.Errorf("inject: %v, stages %v", err, s.stages)
			}
		})
	}
}

// An Inject whose signals, wipes or rules have no effect must be caught too, not only one that is never called.
func TestIneffectiveFaultIsNotInForce(t *testing.T) {
	cases := []struct {
		verb  string
		spoil func(n *fakeNode)
	}{
		{"kill", func(n *fakeNode) { n.deaf = true }},
		{"kill", func(n *fakeNode) { n.exitCode = 1 }}, // it died, but not of SIGKILL
		{"pause", func(n *fakeNode) { n.deaf = true }},
		{"wipe", func(n *fakeNode) { n.wipesNot = true; n.state = cluster.State{} }},
		{"wipe", func(n *fakeNode) { n.usage = cluster.Usage{}; n.state = cluster.State{} }}, // nothing was there to lose
		{"kill-and-wipe", func(n *fakeNode) { n.wipesNot = true }},
		{"isolate", func(n *fakeNode) { n.leaky = true }},
		{"mute", func(n *fakeNode) { n.leaky = true }},
		{"slow", func(n *fakeNode) { n.leaky = true }},
		{"starve", func(n *fakeNode) { n.deaf = true }},
		{"starve", func(n *fakeNode) { n.idle = true }},
		{"oom-kill", func(n *fakeNode) { n.deaf = true }},
		{"out-of-descriptors", func(n *fakeNode) { n.deaf = true }},
		{"out-of-descriptors", func(n *fakeNode) { n.givesBack = 100 }},
		{"out-of-threads", func(n *fakeNode) { n.deaf = true }},
		{"oom-kill", func(n *fakeNode) { n.exitCode = 137 }}, // it was killed, but not for want of memory
		{"clock-forward", func(n *fakeNode) { n.deaf = true }},
		{"clock-strobe", func(n *fakeNode) { n.deaf = true }},
		{"clock-drift", func(n *fakeNode) { n.deaf = true }},
		{"lossy", func(n *fakeNode) { n.leaky = true }},
		{"duplicate", func(n *fakeNode) { n.leaky = true }},
		{"corrupt", func(n *fakeNode) { n.leaky = true }},
		{"reorder", func(n *fakeNode) { n.leaky = true }},
		{"throttle", func(n *fakeNode) { n.leaky = true }},
		{"reset", func(n *fakeNode) { n.leaky = true }},
		{"half-open", func(n *fakeNode) { n.leaky = true }},
		{"dns-failure", func(n *fakeNode) { n.leaky = true }},
		{"split", func(n *fakeNode) { n.leaky = true }},
		{"cut-routes", func(n *fakeNode) { n.leaky = true }},
		{"cut-clients", func(n *fakeNode) { n.leaky = true }},
	}
	for _, tc := range cases {
		t.Run(tc.verb, func(t *testing.T) {
			c := newFake(3)
			tc.spoil(c.node("n2"))
			e, ok := faults.Lookup(tc.verb)
			if !ok {
				t.Fatal("no such verb")
			}
			if e.Group == "clock" {
				c.telling(t)
			}
			i, _ := newInjector(c)
			patient(i, e)
			err := i.Inject(t.Context(), e.Make("n2"))
			if !errors.Is(err, faults.ErrNotInForce) {
				t.Errorf("inject: %v, want ErrNotInForce", err)
			}
			var stage *faults.StageError
			if !errors.As(err, &stage) || stage.Last.Detail == "" {
				t.Errorf("the error %v carries no observation", err)
			}
		})
	}
}

func TestVictimsAreChecked(t *testing.T) {
	for _, e := range faults.Catalogue() {
		t.Run(e.Name, func(t *testing.T) {
			c := newFake(3)
			for _, tc := range []struct {
				victims []cluster.NodeID
				want    error
			}{{nil, faults.ErrUnscoped}, {[]cluster.NodeID{"n9"}, faults.ErrUnknownNode}} {
				f := e.Make(tc.victims...)
				if err := f.Inject(t.Context(), c); !errors.Is(err, tc.want) {
					t.Errorf("inject on %v: %v, want %v", tc.victims, err, tc.want)
				}
				if _, err := f.InForce(t.Context(), c); !errors.Is(err, tc.want) {
					t.Errorf("probe on %v: %v, want %v", tc.victims, err, tc.want)
				}
				i, s := newInjector(c)
				if err := i.Inject(t.Context(), f); !errors.Is(err, tc.want) || len(s.stages) > 0 {
					t.Errorf("injector on %v: %v, want %v; stages %v", tc.victims, err, tc.want, s.stages)
				}
				if err := i.Heal(t.Context(), f); !errors.Is(err, tc.want) {
					t.Errorf("heal on %v: %v, want %v", tc.victims, err, tc.want)
				}
			}
		})
	}
	if err := faults.Group("nothing").Inject(t.Context(), newFake(3)); !errors.Is(err, faults.ErrUnscoped) {
		t.Errorf("an empty group: %v", err)
	}
}

func TestVictimMustBeAsTheVerbNeedsIt(t *testing.T) {
	dead := cluster.State{ExitCode: 137}
	paused := cluster.State{Running: true, Paused: true, PID: 1, StartTime: 1}
	cases := []struct {
		fault faults.Fault
		state cluster.State
		want  error // nil: any
	}{
		{faults.Kill("n2"), dead, cluster.ErrNotRunning},
		{faults.Stop("n2"), dead, cluster.ErrNotRunning},
		{faults.Restart("n2"), dead, cluster.ErrNotRunning},
		{faults.Pause("n2"), dead, cluster.ErrNotRunning},
		{faults.Pause("n2"), paused, nil},
		{faults.Wipe("n2"), cluster.State{Running: true}, cluster.ErrRunning},
		{faults.PowerFailure(cluster.PowerLoss{})("n2"), dead, cluster.ErrNotRunning},
	}
	for _, tc := range cases {
		t.Run(tc.fault.Name(), func(t *testing.T) {
			c := newFake(3)
			c.node("n2").state = tc.state
			err := tc.fault.Inject(t.Context(), c)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Fatalf("inject: %v, want %v", err, tc.want)
			}
			if err := tc.fault.Heal(t.Context(), c); err != nil {
				t.Errorf("heal: %v", err)
			}
			if got := c.node("n2").state; got != tc.state {
				t.Errorf("a refused fault touched the node: %+v", got)
			}
			if o, err := tc.fault.InForce(t.Context(), c); err != nil || o.InForce || o.Partial {
				t.Errorf("a refused fault is looked for: %+v, %v", o, err)
			}
		})
	}
}

// Backends learn an exit code later than the kernel does: until then the death counts, and a code that contradicts it does not.
func TestKillBeforeTheExitCodeIsKnown(t *testing.T) {
	c := newFake(3)
	f := faults.Kill("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		code int
		want bool
	}{{-1, true}, {137, true}, {0, false}, {143, false}} {
		c.node("n2").state.ExitCode = tc.code
		if o, err := f.InForce(t.Context(), c); err != nil || o.InForce != tc.want || o.Partial == tc.want {
			t.Errorf("exit code %d: %+v, %v", tc.code, o, err)
		}
	}
}

func TestPartOfTheVictimsIsPartial(t *testing.T) {
	c := newFake(3)
	f := faults.Kill("n1", "n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := c.node("n1").Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, err := f.InForce(t.Context(), c)
	if err != nil || o.InForce || !o.Partial {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestBystanderIsSeen(t *testing.T) {
	cases := []struct {
		fault  faults.Fault
		damage func(*fakeNode)
	}{
		{faults.Kill("n2"), func(n *fakeNode) { n.state = cluster.State{ExitCode: 137} }},
		{faults.Kill("n2"), func(n *fakeNode) { n.state = n.life() }}, // it is back, but in another life
		{faults.Pause("n2"), func(n *fakeNode) { n.state.Paused = true }},
		{faults.KillAndWipe("n2"), func(n *fakeNode) { n.usage = cluster.Usage{} }},
		{faults.Isolate("n2"), func(n *fakeNode) { n.unreachable = true }},
		{faults.Group("both", faults.Kill("n2"), faults.Pause("n1")), func(n *fakeNode) { n.state.Paused = true }},
	}
	for _, tc := range cases {
		t.Run(tc.fault.Name(), func(t *testing.T) {
			c := newFake(4)
			i, s := newInjector(c)
			f := &afterInject{tc.fault, func() { tc.damage(c.node("n3")) }}
			err := i.Inject(t.Context(), f)
			if !errors.Is(err, faults.ErrBystander) {
				t.Fatalf("inject: %v, want ErrBystander (stages %v)", err, s.stages)
			}
			if !s.seen["bystander"].InForce {
				t.Errorf("reported %+v", s.seen["bystander"])
			}
		})
	}
}

// afterInject does something right after the fault was injected.
type afterInject struct {
	faults.Fault
	do func()
}

func (f *afterInject) Inject(ctx context.Context, c cluster.Cluster) error {
	err := f.Fault.Inject(ctx, c)
	f.do()
	return err
}

func TestGroupsPartsAreNoBystandersOfEachOther(t *testing.T) {
	c := newFake(3)
	i, s := newInjector(c)
	f := faults.Group("mixed", faults.Kill("n1"), faults.Pause("n2"))
	if err := i.Run(t.Context(), f, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.stages, wholeRun) || !slices.Equal(f.Victims(), []cluster.NodeID{"n1", "n2"}) {
		t.Errorf("stages %v, victims %v", s.stages, f.Victims())
	}
	if !slices.Equal(f.Needs(), []cluster.Capability{cluster.CapLifecycle}) {
		t.Errorf("needs %v", f.Needs())
	}
}

func TestAllVictimsLeaveNoBystander(t *testing.T) {
	c := newFake(3)
	i, s := newInjector(c)
	if err := i.Run(t.Context(), faults.Kill("n1", "n2", "n3"), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(s.stages, "bystander") {
		t.Errorf("stages %v", s.stages)
	}
}

func TestFaultInForceBeforehandIsRefused(t *testing.T) {
	c := newFake(3)
	f := faults.Kill("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	i, s := newInjector(c)
	if err := i.Inject(t.Context(), f); !errors.Is(err, faults.ErrAlready) {
		t.Errorf("inject: %v, want ErrAlready", err)
	}
	if !slices.Equal(s.stages, []string{"not-seen"}) {
		t.Errorf("stages %v", s.stages)
	}
}

func TestFaultThatEndsDuringTheHoldIsSeen(t *testing.T) {
	c := newFake(3)
	i, s := newInjector(c)
	err := i.Run(t.Context(), faults.Kill("n2"), func(ctx context.Context) error { return c.node("n2").Start(ctx) })
	if !errors.Is(err, faults.ErrNotInForce) {
		t.Errorf("run: %v, want ErrNotInForce", err)
	}
	if s.stages[len(s.stages)-1] != "healed" || !slices.Contains(s.stages, "not-seen") {
		t.Errorf("stages %v", s.stages)
	}
}

// A clock whose lease has run out is right again, and so says its agent.
func TestClockThatLapsesIsSeen(t *testing.T) {
	for _, verb := range []string{"clock-forward", "clock-strobe", "clock-drift"} {
		t.Run(verb, func(t *testing.T) {
			c := newFake(3)
			c.telling(t)
			i, s := newInjector(c)
			e, _ := faults.Lookup(verb)
			patient(i, e)
			err := i.Run(t.Context(), e.Make("n2"), func(context.Context) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				n := c.node("n2")
				n.wanted, n.wrong = agent.ClockParams{}, agent.ClockParams{}
				return nil
			})
			if !errors.Is(err, faults.ErrNotInForce) || s.seen["not-seen"].InForce || s.stages[len(s.stages)-1] != "healed" {
				t.Errorf("run: %v, stages %v, %+v", err, s.stages, s.seen["not-seen"])
			}
		})
	}
}

// A daemon that ends because of its clock is asked in its next life; of one that has none nothing is known.
func TestClockOfADaemonThatIsDown(t *testing.T) {
	for _, verb := range []string{"clock-forward", "clock-strobe", "clock-drift"} {
		for name, mute := range map[string]int{"for a moment": 5, "for good": math.MaxInt} {
			t.Run(verb+" "+name, func(t *testing.T) {
				t.Parallel()
				c := newFake(3)
				c.telling(t)
				i, s := newInjector(c)
				e, _ := faults.Lookup(verb)
				patient(i, e)
				if mute == math.MaxInt {
					i.Limits = faults.Limits{InForce: 3 * time.Second, Healed: time.Second, Probe: time.Second}
				}
				err := i.Run(t.Context(), e.Make("n2"), func(context.Context) error {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.node("n2").mute = mute
					return nil
				})
				switch {
				case mute < math.MaxInt && (err != nil || !slices.Contains(s.stages, "still-on")):
					t.Errorf("run: %v, stages %v", err, s.stages)
				case mute == math.MaxInt && (err == nil || faults.Seen(err)):
					t.Errorf("run: %v, as if it had been seen; stages %v", err, s.stages)
				}
			})
		}
	}
}

func TestFaultThatDoesNotHealIsSeen(t *testing.T) {
	c := newFake(3)
	i, s := newInjector(c)
	err := i.Run(t.Context(), faults.Kill("n2"), func(context.Context) error { c.node("n2").startErrs = 1000; return nil })
	if !errors.Is(err, faults.ErrNotHealed) || !strings.Contains(err.Error(), "port taken") {
		t.Errorf("run: %v, want ErrNotHealed and the reason", err)
	}
	if s.stages[len(s.stages)-1] != "not-seen" {
		t.Errorf("stages %v", s.stages)
	}
}

func TestHealTriesAgain(t *testing.T) {
	c := newFake(3)
	i, _ := newInjector(c)
	if err := i.Run(t.Context(), faults.Kill("n2"), func(context.Context) error { c.node("n2").startErrs = 2; return nil }); err != nil {
		t.Error(err)
	}
}

func TestInterruptedRunIsHealed(t *testing.T) {
	for _, e := range faults.Catalogue() {
		t.Run(e.Name, func(t *testing.T) {
			c := newFake(3)
			prepare(t, e, c, "n2", "n3")
			i, s := newInjector(c)
			patient(i, e)
			ctx, cancel := context.WithCancel(t.Context())
			err := i.Run(ctx, e.Make(enough(e)...), func(ctx context.Context) error { cancel(); return ctx.Err() })
			if !errors.Is(err, context.Canceled) || s.stages[len(s.stages)-1] != "healed" {
				t.Errorf("run: %v, stages %v", err, s.stages)
			}
			if len(c.drops) > 0 || e.Name != "wipe" && (!c.node("n2").state.Running || c.node("n2").state.Paused) {
				t.Errorf("something was left: %+v, %v", c.node("n2").state, c.drops)
			}
		})
	}
}

func TestHealIsIdempotentAndHarmlessWithoutInject(t *testing.T) {
	for _, e := range faults.Catalogue() {
		t.Run(e.Name, func(t *testing.T) {
			c := newFake(3)
			f := e.Make(enough(e)...)
			before := c.node("n2").state
			for range 2 {
				if err := f.Heal(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.node("n2").state; got != before {
				t.Errorf("healing what was not injected changed the node: %+v", got)
			}
		})
	}
}

// SIGTERM that takes too long: Inject fails, and Heal must not leave a node that goes away later.
func TestStopThatIsIgnoredIsHealed(t *testing.T) {
	c := newFake(3)
	n := c.node("n2")
	n.stubborn = true
	before := n.state
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	f := faults.Stop("n2")
	if err := f.Inject(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("inject: %v", err)
	}
	if err := f.Heal(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !n.state.Running || n.state.PID == before.PID {
		t.Errorf("after healing: %+v", n.state)
	}
}

// Which links pass under each shape, asked of the packets themselves.
func TestShapesOfPartitions(t *testing.T) {
	cases := []struct {
		fault faults.Fault
		lost  []string // from>to: packets that do not arrive
	}{
		{faults.Isolate("n2"), []string{"n1>n2", "n2>n1", "n2>n3", "n3>n2"}},
		{faults.Sever("n1", "n3"), []string{"n1>n3", "n3>n1"}},
		{faults.Sever("n1", "n2", "n3"), []string{"n1>n2", "n1>n3", "n2>n1", "n2>n3", "n3>n1", "n3>n2"}},
		{faults.Deafen("n2"), []string{"n1>n2", "n3>n2"}},
		{faults.Mute("n2"), []string{"n2>n1", "n2>n3"}},
		{faults.Split("n2"), []string{"n1>n2", "n2>n1", "n2>n3", "n3>n2"}},
		{faults.Split("n1", "n2"), []string{"n1>n3", "n2>n3", "n3>n1", "n3>n2"}},
		{faults.CutRoutes("n1"), []string{"n1>n2", "n1>n3", "n2>n1", "n3>n1"}},
		{faults.CutClients("n2"), nil},
		{faults.HalfOpen("n2"), nil},
		{faults.Ring("n1", "n2", "n3"), []string{"n1>n3", "n2>n1", "n3>n2"}},
		{faults.Mute("n1", "n3"), []string{"n1>n2", "n1>n3", "n3>n1", "n3>n2"}},
	}
	for _, tc := range cases {
		t.Run(tc.fault.Name(), func(t *testing.T) {
			c := newFake(3)
			if err := tc.fault.Inject(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := c.lost(); !slices.Equal(got, tc.lost) {
				t.Errorf("lost %v, want %v", got, tc.lost)
			}
			if err := tc.fault.Heal(t.Context(), c); err != nil || len(c.lost()) > 0 {
				t.Errorf("heal: %v, still lost %v", err, c.lost())
			}
		})
	}
}

// In a ring of five each node exchanges packets with the one on either side, and with no other.
func TestRingOfFive(t *testing.T) {
	c := newFake(5)
	if err := faults.Ring(cluster.IDs(c)...).Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want := []string{"n1>n3", "n1>n4", "n2>n4", "n2>n5", "n3>n1", "n3>n5", "n4>n1", "n4>n2", "n5>n2", "n5>n3"}
	if got := c.lost(); !slices.Equal(got, want) {
		t.Errorf("lost %v, want %v", got, want)
	}
}

func TestSeverTakesTwo(t *testing.T) {
	i, s := newInjector(newFake(3))
	if err := i.Inject(t.Context(), faults.Sever("n2")); !errors.Is(err, faults.ErrUnscoped) || len(s.stages) > 0 {
		t.Errorf("%v, stages %v: want ErrUnscoped", err, s.stages)
	}
}

func TestIsolateRulesAreOnBothEnds(t *testing.T) {
	c := newFake(3)
	f := faults.Isolate("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"n1": {"192.0.2.2"}, "n2": {"192.0.2.1", "192.0.2.3"}, "n3": {"192.0.2.2"}}
	c.mu.Lock()
	for _, d := range c.drops {
		if !slices.Equal(d.peers, want[string(d.node.id)]) {
			t.Errorf("%s drops %v, want %v", d.node.id, d.peers, want[string(d.node.id)])
		}
		delete(want, string(d.node.id))
	}
	c.mu.Unlock()
	if len(want) > 0 {
		t.Errorf("no rules on %v", want)
	}
	o, err := f.InForce(t.Context(), c)
	if err != nil || !o.InForce || o.Figures["packets_dropped"] < 4 {
		t.Errorf("%+v, %v", o, err)
	}
	c.mu.Lock()
	for _, d := range c.drops {
		if d.node.id == "n3" {
			d.until = time.Time{} // one end's lease runs out
		}
	}
	c.mu.Unlock()
	if o, err = f.InForce(t.Context(), c); err != nil || o.InForce || !o.Partial {
		t.Errorf("with one end gone: %+v, %v", o, err)
	}
	if err := f.Heal(t.Context(), c); err != nil || len(c.drops) > 0 {
		t.Errorf("heal: %v, left %v", err, c.drops)
	}
}

func TestIsolateKeepsItsLease(t *testing.T) {
	c := newFake(3)
	f := faults.Isolate("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	renewals := func() int { c.mu.Lock(); defer c.mu.Unlock(); return c.nodes[0].renewals }
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for renewals() < 2 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if renewals() < 2 {
		t.Fatal("nobody renews")
	}
	if err := f.Heal(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	after := renewals()
	select {
	case <-t.Context().Done():
	case <-time.After(agent.Lease / 2):
	}
	if renewals() != after {
		t.Error("it renews after it was healed")
	}
}

func TestIsolateWithoutAgentIsHealedWhereItCan(t *testing.T) {
	c := newFake(3)
	c.node("n3").agentErr = errors.New("agent is gone")
	f := faults.Isolate("n2")
	if err := f.Inject(t.Context(), c); err == nil {
		t.Fatal("no error")
	}
	if err := f.Heal(t.Context(), c); err == nil || len(c.drops) > 0 {
		t.Errorf("heal: %v, left %v", err, c.drops)
	}
}

// plain has nothing but a process: no storage, no agent.
type plain struct{ cluster.Node }

type plainCluster struct{ *fakeCluster }

func (p plainCluster) Nodes() []cluster.Node {
	var out []cluster.Node
	for _, n := range p.fakeCluster.Nodes() {
		out = append(out, plain{n})
	}
	return out
}

func TestBackendThatCannotIsRefused(t *testing.T) {
	c := plainCluster{newFake(3)}
	c.node("n2").state = cluster.State{}
	for _, f := range []faults.Fault{faults.Wipe("n2"), faults.Isolate("n2")} {
		i, _ := newInjector(c)
		if err := i.Inject(t.Context(), f); !errors.Is(err, faults.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", f.Name(), err)
		}
	}
}

func TestCatalogueIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range faults.Catalogue() {
		if e.Name == "" || e.Group == "" || e.Doc == "" || len(e.Needs) == 0 || seen[e.Name] {
			t.Errorf("entry %+v", e)
		}
		seen[e.Name] = true
		f := e.Make("n1", "n1")
		if f.Name() != e.Name+"[n1]" || !slices.Equal(f.Needs(), e.Needs) {
			t.Errorf("%s makes %s, which needs %v", e.Name, f.Name(), f.Needs())
		}
	}
	if _, ok := faults.Lookup("no-such-verb"); ok {
		t.Error("a verb that is not there was found")
	}
}

// scripted is a fault whose probe says one thing after the other, and the last one for ever.
type scripted struct {
	faults.Fault

	says  []faults.Observation
	looks int
}

func (s *scripted) InForce(context.Context, cluster.Cluster) (faults.Observation, error) {
	o := s.says[min(s.looks, len(s.says)-1)]
	s.looks++
	return o, nil
}

// TestSeenInPart: a fault that is seen in part is looked at again, a few times; one that is gone is gone.
func TestSeenInPart(t *testing.T) {
	part, full, none := faults.Observation{Partial: true}, faults.Observation{InForce: true}, faults.Observation{}
	for name, c := range map[string]struct {
		says  []faults.Observation
		looks int
		still bool
	}{
		"at once":                {[]faults.Observation{full}, 1, true},
		"at the last look":       {[]faults.Observation{part, part, part, full}, 4, true},
		"too late":               {[]faults.Observation{part, part, part, part, full}, 4, false},
		"gone":                   {[]faults.Observation{none, full}, 1, false},
		"gone after it was part": {[]faults.Observation{part, none, full}, 2, false},
	} {
		i, _ := newInjector(newFake(3))
		f := &scripted{Fault: faults.Kill("n2"), says: c.says}
		err := i.StillOn(t.Context(), f)
		if (err == nil) != c.still || err != nil && !errors.Is(err, faults.ErrNotInForce) || f.looks != c.looks {
			t.Errorf("%s: %v after %d looks", name, err, f.looks)
		}
	}
}

var errEngine = errors.New("docker: context deadline exceeded")

// blind is a fault whose probe begins to fail, or to say nothing else than a word, at a stage of its way.
type blind struct {
	faults.Fault

	injected, healed bool
	probe            func(b *blind) (faults.Observation, error)
}

func (b *blind) Inject(context.Context, cluster.Cluster) error { b.injected = true; return nil }
func (b *blind) Heal(context.Context, cluster.Cluster) error   { b.healed = true; return nil }
func (b *blind) InForce(context.Context, cluster.Cluster) (faults.Observation, error) {
	return b.probe(b)
}

// TestProbeThatFails: nobody knows what a fault did whose last probe failed. That is no word of a probe, and the record has the reason.
func TestProbeThatFails(t *testing.T) {
	here, none := faults.Observation{InForce: true, Detail: "here"}, faults.Observation{Detail: "not here"}
	looks := 0
	for name, c := range map[string]struct {
		probe func(b *blind) (faults.Observation, error)
		want  error
		seen  bool // a probe had the last word
	}{
		"after the injection": {func(b *blind) (o faults.Observation, err error) {
			if b.injected {
				return o, errEngine
			}
			return none, nil
		}, faults.ErrNotInForce, false},
		"after the injection, but for the first": {func(b *blind) (o faults.Observation, err error) {
			if looks++; b.injected && looks > 2 {
				return o, errEngine
			}
			return none, nil
		}, faults.ErrNotInForce, false},
		"after the injection, but for the last": {func(b *blind) (o faults.Observation, err error) {
			if looks++; b.injected && looks == 2 {
				return o, errEngine
			}
			return none, nil
		}, faults.ErrNotInForce, true},
		"after healing": {func(b *blind) (o faults.Observation, err error) {
			switch {
			case b.healed:
				return o, errEngine
			case b.injected:
				return here, nil
			}
			return none, nil
		}, faults.ErrNotHealed, false},
		"never, and it does not heal": {func(b *blind) (faults.Observation, error) {
			if b.injected {
				return here, nil
			}
			return none, nil
		}, faults.ErrNotHealed, true},
		"after it was not in force": {func(b *blind) (o faults.Observation, err error) {
			if b.healed {
				return o, errEngine
			}
			return none, nil
		}, faults.ErrNotInForce, false},
	} {
		t.Run(name, func(t *testing.T) {
			looks = 0
			i, s := newInjector(newFake(3))
			f := &blind{Fault: faults.Kill("n2"), probe: c.probe}
			err := i.Run(t.Context(), f, func(context.Context) error { return nil })
			if !errors.Is(err, c.want) || faults.Seen(err) != c.seen || errors.Is(err, errEngine) == c.seen {
				t.Errorf("run: %v; a probe's word: %t", err, faults.Seen(err))
			}
			last := s.seen["not-seen"]
			if !c.seen && !strings.Contains(last.Detail, errEngine.Error()) || c.seen && strings.Contains(last.Detail, "docker") {
				t.Errorf("the record says %+v", last)
			}
		})
	}
}

// TestSlowProbeHasTheLastWord: what bounds the wait for a fault does not cut the probe short that began in time.
func TestSlowProbeHasTheLastWord(t *testing.T) {
	for name, there := range map[string]bool{"in force": true, "not in force": false} {
		i, _ := newInjector(newFake(3))
		i.Limits.Healed = time.Millisecond
		f := &blind{Fault: faults.Kill("n2")}
		f.probe = func(b *blind) (faults.Observation, error) {
			if b.injected && !b.healed {
				<-time.After(2 * i.Limits.InForce) // as long as a busy engine takes
			}
			return faults.Observation{InForce: there && b.injected && !b.healed, Detail: name}, nil
		}
		err := i.Inject(t.Context(), f)
		if (err == nil) != there || err != nil && !faults.Seen(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeen(t *testing.T) {
	stage := &faults.StageError{Fault: "kill[n2]", Err: faults.ErrNotInForce}
	other := &faults.StageError{Fault: "kill[n2]", Err: faults.ErrNotHealed}
	for name, c := range map[string]struct {
		err  error
		seen bool
	}{
		"nothing":                       {nil, false},
		"a probe's":                     {stage, true},
		"two probes'":                   {errors.Join(stage, nil, errors.Join(other)), true},
		"wrapped":                       {fmt.Errorf("strike: %w", stage), true},
		"the harness's":                 {errEngine, false},
		"a probe's and the harness's":   {errors.Join(stage, errEngine), false},
		"what a probe should have seen": {fmt.Errorf("%w: %w", faults.ErrNotHealed, errEngine), false},
	} {
		if got := faults.Seen(c.err); got != c.seen {
			t.Errorf("%s: %t", name, got)
		}
	}
}
