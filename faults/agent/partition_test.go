//go:build linux

package agent_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/faults/agent"
)

// Addresses of the node, of its peer, and of a second address of the peer that no test cuts off.
const (
	nodeAddr = "192.0.2.1"
	peerAddr = "192.0.2.2"
	fairAddr = "192.0.2.3"
	port     = "6222"
)

const (
	// quick is a connection attempt that must fail: it waits no longer.
	quick = 150
	// slow is one that must succeed, on a machine that may be loaded.
	slow = 5000
	// slack is how late a heal may be noticed on a loaded machine.
	slack = 3 * time.Second
)

// namespace is a network namespace that lives as long as the test.
type namespace struct{ f *os.File }

// onThread runs f on a thread of its own, which ends afterwards: a thread that changed its namespace is of no use to others.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func newNamespace(t testing.TB) namespace {
	t.Helper()
	var ns namespace
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns.f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if errors.Is(err, unix.EPERM) {
		t.Skipf("network namespaces need root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.f.Close() })
	return ns
}

// do runs f inside. Sockets and processes that f makes stay there.
func (n namespace) do(t testing.TB, f func() error) {
	t.Helper()
	err := onThread(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pod is two connected namespaces, with a listener in both, an agent under test and a second agent that only dials.
type pod struct {
	node, peer namespace
	agent      *proc   // under test, in the node's namespace
	out, in    *client // dial from the node, and from the peer
}

func newPod(t testing.TB) *pod {
	t.Helper()
	p := &pod{node: newNamespace(t), peer: newNamespace(t)}
	p.connect(t)
	p.listen(t, p.node, nodeAddr)
	p.listen(t, p.peer, peerAddr)
	p.listen(t, p.peer, fairAddr)
	p.agent = startAgent(t, p.node)
	p.out, p.in = startAgent(t, p.node).client, startAgent(t, p.peer).client
	for _, a := range []string{peerAddr, fairAddr} {
		if !dial(t, p.out, a, slow).Connected {
			t.Fatalf("%s cannot be reached before the test", a)
		}
	}
	return p
}

func (p *pod) connect(t testing.TB) {
	t.Helper()
	p.node.do(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1", PeerNamespace: netlink.NsFd(int(p.peer.f.Fd())),
		})
	})
	p.node.do(t, func() error { return up("v0", nodeAddr) })
	p.peer.do(t, func() error { return up("v1", peerAddr, fairAddr) })
}

func up(name string, addrs ...string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func (p *pod) listen(t testing.TB, ns namespace, addr string) {
	t.Helper()
	ns.do(t, func() error {
		l, err := net.Listen("tcp4", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { // an echo, until the other end has enough
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}()
			}
		}()
		return nil
	})
}

// proc is an agent in a process of its own.
type proc struct {
	*client
	cmd   *exec.Cmd
	stdin io.Closer
	log   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func startAgent(t testing.TB, ns namespace, flags ...uintptr) *proc {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &proc{cmd: exec.Command(self), log: &lockedBuffer{}}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+roleAgent)
	p.cmd.Stderr = p.log
	for _, f := range flags {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: f}
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.do(t, p.cmd.Start)
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	p.client, p.stdin = newClient(in, out), in
	return p
}

func dial(t testing.TB, c *client, addr string, timeoutMS int) agent.DialResult {
	t.Helper()
	var r agent.DialResult
	if err := c.call(agent.MethodDial, agent.DialParams{Address: net.JoinHostPort(addr, port), TimeoutMS: timeoutMS}, &r); err != nil {
		t.Fatal(err)
	}
	if r.Answered && r.TookMS > 500 { // a lost packet that was sent again: worth knowing when a test is slow
		t.Logf("dial %s took %.0f ms: %+v", addr, r.TookMS, r)
	}
	return r
}

func (p *pod) cut(t testing.TB, id string, in, out bool, peers ...string) {
	t.Helper()
	var r agent.PartitionResult
	if err := p.agent.call(agent.MethodPartition, agent.PartitionParams{ID: id, Peers: peers, In: in, Out: out}, &r); err != nil {
		t.Fatal(err)
	}
	if !r.Present || r.ID != id || r.Remaining <= 0 || r.Remaining > agent.Lease.Seconds() {
		t.Fatalf("partition: %+v", r)
	}
}

// counters reads partition "x".
func (p *pod) counters(t testing.TB) agent.PartitionResult {
	t.Helper()
	var r agent.PartitionResult
	if err := p.agent.call(agent.MethodCounters, agent.CountersParams{ID: "x"}, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *pod) renew(t testing.TB) agent.RenewResult {
	t.Helper()
	var r agent.RenewResult
	if err := p.agent.call(agent.MethodRenew, nil, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *pod) mustBeCut(t testing.TB) {
	t.Helper()
	if dial(t, p.out, peerAddr, quick).Answered {
		t.Fatal("the peer answers through the partition")
	}
}

func (p *pod) mustBeHealed(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	return eventually(t, within, "the peer answers again", func() bool { return dial(t, p.out, peerAddr, quick).Answered })
}

func TestPartitionDropsBothWays(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	if r := p.counters(t); r.Present {
		t.Fatalf("before: %+v", r)
	}
	p.cut(t, "x", true, true, peerAddr)
	p.mustBeCut(t)
	if dial(t, p.in, nodeAddr, quick).Answered { // from either of the peer's addresses: the kernel picks the first
		t.Error("the node answers its peer through the partition")
	}
	if !dial(t, p.out, fairAddr, slow).Connected {
		t.Error("an address that was not named is cut off too")
	}
	if r := p.counters(t); !r.Present || r.DroppedIn == 0 || r.DroppedOut == 0 || r.Remaining <= 0 {
		t.Errorf("counters: %+v", r)
	}
	for range 2 { // idempotent
		if err := p.agent.call(agent.MethodHeal, agent.HealParams{ID: "x"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !dial(t, p.out, peerAddr, slow).Connected || !dial(t, p.in, nodeAddr, slow).Connected {
		t.Error("no connection after healing")
	}
	if r := p.counters(t); r.Present {
		t.Errorf("after healing: %+v", r)
	}
}

func TestPartitionOneWay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		in, out bool
	}{{"in", true, false}, {"out", false, true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t)
			p.cut(t, "x", tc.in, tc.out, peerAddr)
			p.mustBeCut(t)
			if dial(t, p.in, nodeAddr, quick).Answered {
				t.Error("the node answers its peer")
			}
			r := p.counters(t)
			if (r.DroppedIn > 0) != tc.in || (r.DroppedOut > 0) != tc.out {
				t.Errorf("counters: %+v", r)
			}
			p.datagrams(t, tc.in, tc.out)
		})
	}
}

// datagrams shows the way that stays open: a datagram needs no answer.
func (p *pod) datagrams(t *testing.T, in, out bool) {
	t.Helper()
	atNode, atPeer := p.udp(t, p.node, nodeAddr), p.udp(t, p.peer, peerAddr)
	if got := passes(atNode, atPeer); got == out {
		t.Errorf("datagrams from the node to its peer pass: %v", got)
	}
	if got := passes(atPeer, atNode); got == in {
		t.Errorf("datagrams from the peer to the node pass: %v", got)
	}
}

func (p *pod) udp(t testing.TB, ns namespace, addr string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	ns.do(t, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func passes(from, to *net.UDPConn) bool {
	for range 10 {
		_, _ = from.WriteTo([]byte("x"), to.LocalAddr()) // EPERM where the way out is closed
	}
	_ = to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _, err := to.ReadFrom(make([]byte, 16))
	return err == nil
}

func TestRenewalKeepsThePartition(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	tick := time.NewTicker(agent.Lease / 4)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 2*agent.Lease+agent.Lease/2; <-tick.C {
		if r := p.renew(t); !slices.Equal(r.Renewed, []string{"x"}) || len(r.Lapsed) > 0 {
			t.Fatalf("renew: %+v", r)
		}
		if r := p.counters(t); !r.Present || r.Remaining < agent.Lease.Seconds()-1 {
			t.Fatalf("after renewing: %+v", r)
		}
		p.mustBeCut(t)
	}
	p.mustBeHealed(t, agent.Lease+slack) // and it was the renewals that kept it
}

func TestPartitionExpiresWithoutRenewal(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	p.mustBeCut(t)
	took := p.mustBeHealed(t, agent.Lease+slack)
	t.Logf("healed %v after the last look, lease %v", took, agent.Lease)
	if r := p.counters(t); r.Present {
		t.Errorf("after the lease: %+v", r)
	}
	if r := p.renew(t); !slices.Equal(r.Lapsed, []string{"x"}) || len(r.Renewed) > 0 {
		t.Errorf("a late renewal: %+v", r)
	}
	if !dial(t, p.out, peerAddr, slow).Connected {
		t.Error("a late renewal brought the partition back")
	}
	if r := p.counters(t); r.Present || r.DroppedOut == 0 {
		t.Errorf("what a lapsed partition had dropped: %+v", r)
	}
}

// A frozen agent cannot heal anything: the kernel does. What was sent to it meanwhile must not bring the partition back.
func TestFrozenAgentHeals(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	p.mustBeCut(t)
	if err := p.agent.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	queued, err := p.agent.send(agent.MethodRenew, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("healed after %v", p.mustBeHealed(t, agent.Lease+slack))
	if err := p.agent.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var r agent.RenewResult
	if err := await(queued, &r); err != nil || !slices.Equal(r.Lapsed, []string{"x"}) {
		t.Errorf("renew: %+v, %v", r, err)
	}
	if !dial(t, p.out, peerAddr, slow).Connected {
		t.Error("the thawed agent brought the partition back")
	}
}

func TestKilledAgentHealsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	p.mustBeCut(t)
	if err := p.agent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	took := p.mustBeHealed(t, slack)
	if took > agent.Lease*3/4 {
		t.Errorf("healed after %v: that may have been the lease", took)
	}
	t.Logf("healed after %v", took)
}

func TestEndOfStreamHeals(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	p.cut(t, "y", true, false, fairAddr)
	p.mustBeCut(t)
	if err := p.agent.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.agent.cmd.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, p.agent.log.b.String())
	}
	if !dial(t, p.out, peerAddr, slow).Connected || !dial(t, p.out, fairAddr, slow).Connected {
		t.Error("no connection after the end")
	}
}

func TestPartitionsAreIndependent(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.cut(t, "x", true, true, peerAddr)
	p.cut(t, "y", true, true, fairAddr)
	p.mustBeCut(t)
	if dial(t, p.out, fairAddr, quick).Answered {
		t.Error("the second partition does not cut")
	}
	if err := p.agent.call(agent.MethodHeal, agent.HealParams{ID: "y"}, nil); err != nil {
		t.Fatal(err)
	}
	if !dial(t, p.out, fairAddr, slow).Connected {
		t.Error("the second partition is not healed")
	}
	p.mustBeCut(t)
	p.cut(t, "x", true, true, fairAddr) // replaces: now the other address
	if !dial(t, p.out, peerAddr, slow).Connected || dial(t, p.out, fairAddr, quick).Answered {
		t.Error("a known id is not replaced")
	}
	if err := p.agent.call(agent.MethodHeal, agent.HealParams{}, nil); err != nil {
		t.Fatal(err)
	}
	if !dial(t, p.out, fairAddr, slow).Connected {
		t.Error("healing everything left something")
	}
}

// Not one packet may pass while leases are renewed.
func TestRenewalHasNoGap(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	sender, receiver := p.udp(t, p.node, nodeAddr), p.udp(t, p.peer, peerAddr)
	p.cut(t, "x", false, true, peerAddr)
	var sent, stop atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for stop.Load() == 0 {
			_, _ = sender.WriteTo([]byte("x"), receiver.LocalAddr()) // EPERM: dropped on the way out
			sent.Add(1)
		}
	}()
	const renewals, wanted = 300, 20_000
	for n := 0; n < renewals || sent.Load() < wanted; n++ {
		if r := p.renew(t); len(r.Renewed) != 1 {
			t.Fatalf("renewal %d: %+v", n, r)
		}
	}
	stop.Store(1)
	<-done
	if r := p.counters(t); r.DroppedOut < uint64(sent.Load()) {
		t.Errorf("%d of %d packets were dropped", r.DroppedOut, sent.Load())
	}
	_ = receiver.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, _, err := receiver.ReadFrom(make([]byte, 16)); err == nil {
		t.Error("a packet passed during a renewal")
	}
	t.Logf("%d packets, none passed", sent.Load())
}

func TestNodeIsNotCutOffFromItself(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	err := p.agent.call(agent.MethodPartition, agent.PartitionParams{ID: "x", Peers: []string{nodeAddr}, In: true, Out: true}, nil)
	var e *agent.Error
	if !errors.As(err, &e) || e.Code != agent.CodeBadRequest {
		t.Errorf("own address: %v", err)
	}
}

// In a user namespace of its own the agent has no rights over the node's network: as in a pod without NET_ADMIN.
func TestMissingCapabilityIsSaid(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	p := startAgent(t, ns, syscall.CLONE_NEWUSER)
	err := p.call(agent.MethodPartition, agent.PartitionParams{ID: "x", Peers: []string{peerAddr}, In: true, Out: true}, nil)
	var e *agent.Error
	if !errors.As(err, &e) || e.Code != agent.CodeUnsupported || !strings.Contains(e.Text, "NET_ADMIN") {
		t.Errorf("without rights: %v", err)
	}
}

func BenchmarkPartition(b *testing.B) {
	p := newPod(b)
	var took []time.Duration
	for i := range b.N {
		id := fmt.Sprint(i)
		began := time.Now()
		p.cut(b, id, true, true, peerAddr, fairAddr)
		took = append(took, time.Since(began))
		b.StopTimer()
		if err := p.agent.call(agent.MethodHeal, agent.HealParams{ID: id}, nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	reportMedian(b, took)
}

func BenchmarkHeal(b *testing.B) {
	p := newPod(b)
	var took []time.Duration
	for range b.N {
		b.StopTimer()
		p.cut(b, "x", true, true, peerAddr, fairAddr)
		b.StartTimer()
		began := time.Now()
		if err := p.agent.call(agent.MethodHeal, agent.HealParams{ID: "x"}, nil); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	reportMedian(b, took)
}

func BenchmarkRenew(b *testing.B) {
	p := newPod(b)
	p.cut(b, "x", true, true, peerAddr, fairAddr)
	var took []time.Duration
	for range b.N {
		began := time.Now()
		p.renew(b)
		took = append(took, time.Since(began))
	}
	reportMedian(b, took)
}

func reportMedian(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
