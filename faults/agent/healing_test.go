//go:build linux

package agent_test

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/unibus/unibus/faults/agent"
)

// healedWithin is how long the traffic of any fault may be wrong after whoever keeps it has gone or stands still.
const healedWithin = 5 * time.Second

// netCase is one network fault, aimed at an address of the peer that is its own.
type netCase struct {
	name   string
	params agent.PartitionParams
	addr   string
	old    net.Conn // a connection that was there before
}

// netCases are all mechanisms; each one gets its own address, so that one agent has all of them in force at once.
func netCases() []*netCase {
	both := func(p agent.PartitionParams) agent.PartitionParams { p.In, p.Out = true, true; return p }
	out := func(i agent.Impairment) agent.PartitionParams {
		return agent.PartitionParams{Out: true, Action: agent.ActionShape, Impairment: i}
	}
	cases := []*netCase{
		{name: "cut", params: both(agent.PartitionParams{})},
		{name: "cut-in", params: agent.PartitionParams{In: true}},
		{name: "cut-out", params: agent.PartitionParams{Out: true}},
		{name: "cut-port", params: both(agent.PartitionParams{TheirPorts: []int{6222}})},
		{name: "loss", params: both(agent.PartitionParams{Action: agent.ActionShape, Impairment: agent.Impairment{Loss: 900}})},
		{name: "delay", params: out(agent.Impairment{DelayMS: 400, JitterMS: 50})},
		{name: "duplicate", params: out(agent.Impairment{Duplicate: 500})},
		{name: "corrupt", params: out(agent.Impairment{Corrupt: 900})},
		{name: "reorder", params: out(agent.Impairment{Reorder: 300, DelayMS: 200})},
		{name: "rate", params: out(agent.Impairment{RateKbit: 10})},
		{name: "reset", params: both(agent.PartitionParams{Action: agent.ActionReset})},
		{name: "half-open", params: both(agent.PartitionParams{Action: agent.ActionHalfOpen, Witness: 6222})},
	}
	for i, c := range cases {
		c.addr = fmt.Sprintf("192.0.2.%d", 100+i)
		c.params.ID, c.params.Peers = c.name, []string{c.addr}
	}
	return cases
}

// faultyPod is a pod with all network faults in force, each shown to be.
func faultyPod(t *testing.T) (*pod, []*netCase) {
	t.Helper()
	p, cases := newPod(t), netCases()
	p.peer.do(t, func() error {
		l, err := netlink.LinkByName("v1")
		if err != nil {
			return err
		}
		for _, c := range cases {
			addr, err := netlink.ParseAddr(c.addr + "/24")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range cases {
		p.listen(t, p.peer, c.addr)
		p.node.do(t, func() (err error) {
			c.old, err = net.Dial("tcp4", net.JoinHostPort(c.addr, port))
			return err
		})
		t.Cleanup(func() { _ = c.old.Close() })
		if why := p.wrong(t, c); why != "" {
			t.Fatalf("%s: before the fault: %s", c.name, why)
		}
	}
	for _, c := range cases {
		if err := p.agent.call(agent.MethodPartition, c.params, nil); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	for _, c := range cases {
		if why := p.wrong(t, c); why == "" {
			t.Errorf("%s: nothing is wrong with the traffic", c.name)
		}
	}
	if !dial(t, p.out, fairAddr, slow).Connected {
		t.Error("an address that no fault is aimed at is not reached")
	}
	return p, cases
}

// wrong says what is wrong with the traffic to a case's address: connections old and new, and datagrams.
func (p *pod) wrong(t *testing.T, c *netCase) string {
	t.Helper()
	if r := dial(t, p.out, c.addr, quick); !r.Connected {
		return "no connection: " + r.Error
	} else if r.TookMS > 100 {
		return fmt.Sprintf("a connection took %.0f ms", r.TookMS)
	}
	if c.name != "reset" { // that one broke, for good
		if err := echoed(c.old); err != nil {
			return "the old connection: " + err.Error()
		}
	}
	if r := p.spray(t, c.addr, 100); r.Received != 100 || r.Duplicated+r.Corrupted+r.Reordered > 0 || r.MostMS > 100 {
		return fmt.Sprintf("datagrams: %+v", r)
	}
	return ""
}

// echoed sends a byte and waits for it to come back. What came back late from before is taken for it: it came, all the same.
func echoed(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(quick * time.Millisecond)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// spray sends datagrams from the node to an address of its peer, by agents that are not under test.
func (p *pod) spray(t testing.TB, addr string, count int) agent.DrainResult {
	t.Helper()
	return p.sprayAndWait(t, addr, count, 30)
}

// sprayAndWait gives up when nothing has come for so many milliseconds.
func (p *pod) sprayAndWait(t testing.TB, addr string, count int, quietMS float64) agent.DrainResult {
	t.Helper()
	var sink agent.SinkResult
	id := fmt.Sprint(addr, time.Now().UnixNano())
	if err := p.in.call(agent.MethodSink, agent.SinkParams{ID: id}, &sink); err != nil {
		t.Fatal(err)
	}
	s := agent.SprayParams{Address: net.JoinHostPort(addr, strconv.Itoa(sink.Port)), Count: count, Bytes: 100}
	if err := p.out.call(agent.MethodSpray, s, nil); err != nil {
		t.Fatal(err)
	}
	var r agent.DrainResult
	if err := p.in.call(agent.MethodDrain, agent.DrainParams{ID: id, Want: count, QuietMS: quietMS, BoundMS: 5000}, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEveryNetworkFaultHealsByItself shows that no death and no freeze leaves any of them behind. Where the harness is concerned, an agent sees its stream
// end, or nobody who renews.
func TestEveryNetworkFaultHealsByItself(t *testing.T) {
	signal := func(s syscall.Signal) func(*proc) error {
		return func(a *proc) error { return a.cmd.Process.Signal(s) }
	}
	for _, tc := range []struct {
		name string
		do   func(*proc) error
	}{
		{"SIGKILL of faultd", signal(syscall.SIGKILL)},
		{"freeze of faultd", signal(syscall.SIGSTOP)},
		{"SIGTERM of faultd, as docker stop sends it", signal(syscall.SIGTERM)},
		{"end of the harness", func(a *proc) error { return a.stdin.Close() }},
		{"freeze of the harness", func(*proc) error { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, cases := faultyPod(t)
			renewed := p.renew(t)
			if len(renewed.Renewed) != len(cases) {
				t.Fatalf("renewed %v, lapsed %v", renewed.Renewed, renewed.Lapsed)
			}
			began := time.Now()
			if err := tc.do(p.agent); err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				why := p.wrong(t, c)
				for ; why != "" && time.Since(began) < healedWithin+slack; why = p.wrong(t, c) {
				}
				if took := time.Since(began); why != "" || took > healedWithin+slack {
					t.Errorf("%s: after %v: %s", c.name, took, why)
				}
			}
			t.Logf("all %d faults were gone %v after the %s", len(cases), time.Since(began).Round(time.Millisecond), tc.name)
		})
	}
}

// Healing a rate or a delay neither loses nor delays anything of anybody else's, and lets go what it held.
func TestHealingHasNoBlip(t *testing.T) {
	t.Parallel()
	for _, i := range []agent.Impairment{{DelayMS: 300, Seed: 1}, {RateKbit: 200, Seed: 1}} {
		p := newPod(t)
		params := agent.PartitionParams{ID: "x", Peers: []string{peerAddr}, Out: true, Action: agent.ActionShape, Impairment: i}
		if err := p.agent.call(agent.MethodPartition, params, nil); err != nil {
			t.Fatal(err)
		}
		const held, passing = 50, 5_000
		usual := p.spray(t, fairAddr, passing)
		hold := make(chan agent.DrainResult, 1)
		go func() { hold <- p.sprayAndWait(t, peerAddr, held, 1000) }()
		// All were sent: one that is sent while the fault is healed meets no rule any more, and may be there before those that were held.
		eventually(t, callBound, "all packets are held back", func() bool { return p.counters(t).Delayed >= held })
		others := make(chan agent.DrainResult, 1)
		go func() { others <- p.spray(t, fairAddr, passing) }()
		if err := p.agent.call(agent.MethodHeal, agent.HealParams{ID: "x"}, nil); err != nil {
			t.Fatal(err)
		}
		r := <-others
		if r.Received != passing || r.Reordered > 0 || r.Duplicated > 0 || r.MostMS > 3*usual.MostMS+100 {
			t.Errorf("%+v: others' traffic while it was healed: %+v; before: %+v", i, r, usual)
		}
		t.Logf("%d datagrams of others while a fault was healed: all arrived, the slowest in %.1f ms; without that in %.1f ms", r.Received, r.MostMS, usual.MostMS)
		if h := <-hold; h.Received < held/5 || i.RateKbit == 0 && h.Received != held || h.Reordered > 0 {
			t.Errorf("%+v: what was held when it was healed: %+v", i, h)
		}
	}
}
