//go:build linux

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// lab is a cluster whose nodes have real namespaces, real agents and real packets, joined by a bridge; only the daemons are missing:
// a listener on the port for routes stands for each.
type lab struct{ nodes []cluster.Node }

type labNode struct {
	cluster.Node // nil: a fault on the network must not ask for processes
	id           cluster.NodeID
	addr         string
	proc         *proc
}

func (l *lab) Spec() cluster.Spec                    { return cluster.Spec{Size: len(l.nodes)} }
func (l *lab) Nodes() []cluster.Node                 { return l.nodes }
func (l *lab) Collect(context.Context, string) error { return nil }
func (l *lab) Close(context.Context) error           { return nil }

func (n *labNode) ID() cluster.NodeID   { return n.id }
func (n *labNode) PeerAddr() string     { return n.addr }
func (n *labNode) Agent() cluster.Agent { return n }

func (n *labNode) Call(ctx context.Context, method string, params, result any) error {
	w, err := n.proc.send(method, params)
	if err != nil {
		return err
	}
	select {
	case r := <-w:
		if err := r.Err(); err != nil || result == nil {
			return err
		}
		return await(answered(r), result)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func answered(r agent.Response) <-chan agent.Response {
	c := make(chan agent.Response, 1)
	c <- r
	return c
}

func newLab(t testing.TB, size int) *lab {
	t.Helper()
	hub := newNamespace(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	hub.do(t, func() error { return errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)) })
	l := &lab{}
	p := &pod{}
	for i := range size {
		n := &labNode{id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), addr: fmt.Sprintf("192.0.2.%d", 10+i)}
		ns := newNamespace(t)
		port := fmt.Sprintf("p%d", i)
		hub.do(t, func() error { return plug(bridge, port, ns) })
		ns.do(t, func() error { return up("eth0", n.addr) })
		p.listen(t, ns, n.addr)
		n.proc = startAgent(t, ns)
		l.nodes = append(l.nodes, n)
	}
	for _, from := range l.nodes {
		for _, to := range l.nodes {
			if from != to && !dial(t, from.(*labNode).proc.client, to.(*labNode).addr, slow).Connected {
				t.Fatalf("%s does not reach %s before the test", from.ID(), to.ID())
			}
		}
	}
	return l
}

func plug(bridge netlink.Link, port string, ns namespace) error {
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.f.Fd())),
	})
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(l, bridge), netlink.LinkSetUp(l))
}

func (l *lab) reaches(t testing.TB, from, to int, timeoutMS int) bool {
	t.Helper()
	return dial(t, l.nodes[from].(*labNode).proc.client, l.nodes[to].(*labNode).addr, timeoutMS).Answered
}

func TestIsolateOnRealPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	var stages []string
	seen := map[string]faults.Observation{}
	i := &faults.Injector{Cluster: l, Report: func(stage string, f faults.Fault, o faults.Observation, took time.Duration) {
		stages, seen[stage] = append(stages, stage), o
		t.Logf("%-9s %8.2f ms  %s", stage, float64(took.Microseconds())/1000, o.Detail)
	}}
	err := i.Run(t.Context(), faults.Isolate("n2"), func(ctx context.Context) error {
		if l.reaches(t, 1, 0, quick) || l.reaches(t, 1, 2, quick) || l.reaches(t, 0, 1, quick) || l.reaches(t, 2, 1, quick) {
			t.Error("packets pass to or from the victim")
		}
		select { // longer than a lease: somebody must renew it
		case <-ctx.Done():
		case <-time.After(agent.Lease + time.Second):
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"absent", "decided", "in-force", "bystander", "still-on", "healing", "healed"}
	if !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
	if seen["in-force"].Figures["packets_dropped"] < 4 || seen["bystander"].Figures["dials_answered"] != 2 {
		t.Errorf("figures: %v, %v", seen["in-force"].Figures, seen["bystander"].Figures)
	}
	if !l.reaches(t, 1, 0, slow) || !l.reaches(t, 2, 1, slow) {
		t.Error("no connection after healing")
	}
}

// One-way cuts and a severed pair, seen from the packets: an attempt over a cut link gets no answer, all others do, and what is one-way lets
// the attempts themselves through, which is why the victim's kernel (or its peers') has answers to drop.
func TestShapesOnRealPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	for _, tc := range []struct {
		fault faults.Fault
		cut   [][2]int
	}{
		{faults.Sever("n1", "n3"), [][2]int{{0, 2}}},
		{faults.Deafen("n2"), [][2]int{{0, 1}, {1, 2}}},
		{faults.Mute("n2"), [][2]int{{0, 1}, {1, 2}}},
	} {
		var seen faults.Observation
		i := &faults.Injector{Cluster: l, Report: func(stage string, _ faults.Fault, o faults.Observation, _ time.Duration) {
			if stage == faults.StageInForce {
				seen = o
			}
		}}
		err := i.Run(t.Context(), tc.fault, func(context.Context) error {
			for _, pair := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
				patience, passes := slow, true
				if slices.Contains(tc.cut, pair) {
					patience, passes = quick, false
				}
				if l.reaches(t, pair[0], pair[1], patience) != passes || l.reaches(t, pair[1], pair[0], patience) != passes {
					t.Errorf("%s: packets pass between n%d and n%d: want %v", tc.fault.Name(), pair[0]+1, pair[1]+1, passes)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if in := seen.Figures["n2.dropped_in"]; in != 0 {
			t.Errorf("%s: n2 dropped %v packets that came in; its rules are one-way or none", tc.fault.Name(), in)
		}
		t.Log(seen.Detail)
	}
}

// Every verb on the network goes through its stages, measured on packets, and its no-op is caught. (A name server is missing here.)
func TestNetworkVerbsOnRealPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	for _, e := range faults.Catalogue() {
		if e.Group != "network" || e.Name == "dns-failure" {
			continue
		}
		victims := []cluster.NodeID{"n2", "n3", "n1"}[:1+e.More()]
		noop := &faults.Injector{Cluster: l, Limits: faults.Limits{InForce: 50 * time.Millisecond}}
		if err := noop.Inject(t.Context(), faults.Noop(e.Make(victims...))); !errors.Is(err, faults.ErrNotInForce) {
			t.Errorf("no-op of %s: %v, want ErrNotInForce", e.Name, err)
		}
		var stages []string
		i := &faults.Injector{Cluster: l, Report: func(stage string, f faults.Fault, o faults.Observation, took time.Duration) {
			stages = append(stages, stage)
			if stage != faults.StageDecided && stage != faults.StageAbsent && stage != faults.StageHealing {
				t.Logf("%-10s %-9s %8.2f ms  %s", e.Name, stage, float64(took.Microseconds())/1000, o.Detail)
			}
		}}
		if err := i.Run(t.Context(), e.Make(victims...), func(context.Context) error { return nil }); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		want := []string{"absent", "decided", "in-force", "bystander", "still-on", "healing", "healed"}
		if e.Name == "ring" { // everybody is a victim
			want = slices.DeleteFunc(want, func(s string) bool { return s == "bystander" })
		}
		if !slices.Equal(stages, want) {
			t.Errorf("%s: stages %v, want %v", e.Name, stages, want)
		}
	}
}

// Impairments are measured, not only asked for, in any combination.
func TestImpairmentsOnRealPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	for _, f := range []faults.Fault{
		faults.Lossy(300)("n2"), faults.Slow(30*time.Millisecond, 0, 7)("n2"), faults.Throttle(500)("n2"),
		faults.Impair("bad", agent.Impairment{Loss: 100, Duplicate: 200, Corrupt: 100, DelayMS: 20, JitterMS: 5, Seed: 3}, faults.BothWays)("n2"),
		faults.Impair("bad-in", agent.Impairment{Loss: 200, Reorder: 300, DelayMS: 10, Seed: 3}, faults.Incoming)("n2"),
	} {
		i := &faults.Injector{Cluster: l, Report: func(stage string, _ faults.Fault, o faults.Observation, _ time.Duration) {
			if stage == faults.StageInForce {
				t.Log(f.Name(), o.Detail)
			}
		}}
		if err := i.Run(t.Context(), f, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	}
}

func TestDelayOfFrozenAgentEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	f := faults.Slow(faults.CommonDelay, 0, 1)("n2")
	i := &faults.Injector{Cluster: l, Limits: faults.Limits{Probe: time.Second, Healed: 10 * time.Second}}
	if err := i.Inject(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	p := l.nodes[1].(*labNode).proc.cmd.Process
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * agent.Lease)
	for !l.reaches(t, 0, 1, quick) {
		if time.Now().After(deadline) {
			t.Fatal("packets are held for ever by an agent that does not run")
		}
	}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := i.Heal(t.Context(), f); err == nil || errors.Is(err, faults.ErrNotHealed) {
		t.Errorf("heal: %v, want only that it was not in force any more", err)
	}
}

func TestIsolateOfEveryNode(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	i := &faults.Injector{Cluster: l}
	err := i.Run(t.Context(), faults.Isolate(cluster.IDs(l)...), func(context.Context) error {
		for from := range 3 {
			for to := range 3 {
				if from != to && l.reaches(t, from, to, quick) {
					t.Errorf("n%d reaches n%d", from+1, to+1)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNoopIsolateOnRealPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	i := &faults.Injector{Cluster: l, Limits: faults.Limits{InForce: 200 * time.Millisecond}}
	if err := i.Inject(t.Context(), faults.Noop(faults.Isolate("n1"))); !errors.Is(err, faults.ErrNotInForce) {
		t.Errorf("%v, want ErrNotInForce", err)
	}
}

// The rules of one end vanish in the middle: the look before healing must see it, and healing must still leave nothing.
func TestIsolateLostOnOneEndIsSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	i := &faults.Injector{Cluster: l}
	n3 := l.nodes[2].(*labNode).proc
	err := i.Run(t.Context(), faults.Isolate("n2"), func(context.Context) error {
		return n3.call(agent.MethodHeal, agent.HealParams{}, nil)
	})
	if !errors.Is(err, faults.ErrNotInForce) || errors.Is(err, faults.ErrNotHealed) {
		t.Errorf("%v, want ErrNotInForce and nothing else", err)
	}
	if !l.reaches(t, 1, 0, slow) {
		t.Error("no connection after healing")
	}
}

// An agent that hangs must not cost the others their lease, and the run must say that it could not look.
func TestIsolateWithFrozenAgentIsNotTrusted(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	i := &faults.Injector{Cluster: l, Limits: faults.Limits{Probe: time.Second, Healed: 10 * time.Second}}
	f := faults.Isolate("n2")
	if err := i.Inject(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	n3 := l.nodes[2].(*labNode).proc.cmd.Process
	if err := n3.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := i.StillOn(t.Context(), f); err == nil {
		t.Error("the probe trusts a frozen agent")
	}
	select {
	case <-t.Context().Done():
	case <-time.After(agent.Lease):
	}
	if l.reaches(t, 1, 0, quick) {
		t.Error("the frozen agent cost the others their lease")
	}
	if err := n3.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := i.Heal(t.Context(), f); err == nil || errors.Is(err, faults.ErrNotHealed) {
		t.Errorf("heal: %v, want only that it was not in force any more", err)
	}
	if !l.reaches(t, 1, 2, slow) || !l.reaches(t, 1, 0, slow) {
		t.Error("no connection after healing")
	}
}

// BenchmarkIsolateInForce measures from the decision until the probe has seen the fault in force on all three nodes.
func BenchmarkIsolateInForce(b *testing.B) {
	l := newLab(b, 3)
	var took []time.Duration
	i := &faults.Injector{Cluster: l, Report: func(stage string, _ faults.Fault, _ faults.Observation, d time.Duration) {
		if stage == faults.StageInForce {
			took = append(took, d)
		}
	}}
	for range b.N {
		if err := i.Run(b.Context(), faults.Isolate("n2"), func(context.Context) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	reportMedian(b, took)
}

var (
	_ cluster.Cluster = (*lab)(nil)
	_ cluster.Agented = (*labNode)(nil)
)
