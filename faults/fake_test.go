package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// fakeCluster is a cluster in memory: processes, volumes and packets behave as the real ones do, as far as the faults can tell.
type fakeCluster struct {
	nodes []*fakeNode

	mu    sync.Mutex
	drops map[string]*fakePartition // by node and id

	sinks  int                  // so far: the number of the next one's port
	ports  map[string]string    // the sinks' ids by their ports
	sprays map[string]fakeSpray // by the sinks' ids
}

type fakePartition struct {
	node    *fakeNode
	peers   []string
	params  agent.PartitionParams
	in, out uint64
	seenOut uint64
	busyMS  float64 // until when a limited link is
	until   time.Time
}

type fakeNode struct {
	c       *fakeCluster
	id      cluster.NodeID
	monitor string

	mu          sync.Mutex
	state       cluster.State
	usage       cluster.Usage
	lives       int
	renewals    int
	cpu         cluster.CPU
	wanted      agent.ClockParams // how its clock should be wrong
	wrong       agent.ClockParams // how it is really
	wrongSince  time.Time
	exhausted   map[cluster.CountKind]bool
	givesBack   uint64 // descriptors, as soon as they are limited
	idle        bool   // it never wants to run
	deaf        bool   // signals and limits have no effect
	stubborn    bool   // SIGTERM has no effect
	mute        int    // so many questions for the time fail first
	exitCode    int    // of a SIGKILL; 0 means 137
	startErrs   int    // so many Starts fail first
	agentErr    error
	leaky       bool // its partitions drop nothing
	wipesNot    bool
	unreachable bool // nothing answers there
	power       fakePower
	disk        *fakeDisk
}

func newFake(size int) *fakeCluster {
	c := &fakeCluster{drops: map[string]*fakePartition{}, ports: map[string]string{}, sprays: map[string]fakeSpray{}}
	for i := range size {
		n := &fakeNode{c: c, id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), usage: cluster.Usage{Files: 10, Bytes: 1000}, disk: newFakeDisk()}
		n.state = n.life()
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *fakeCluster) Spec() cluster.Spec { return cluster.Spec{Size: len(c.nodes)} }
func (c *fakeCluster) Nodes() []cluster.Node {
	var out []cluster.Node
	for _, n := range c.nodes {
		out = append(out, n)
	}
	return out
}
func (c *fakeCluster) Collect(context.Context, string) error { return nil }
func (c *fakeCluster) Close(context.Context) error           { return nil }

func (c *fakeCluster) node(id string) *fakeNode {
	return c.nodes[slices.IndexFunc(c.nodes, func(n *fakeNode) bool { return string(n.id) == id })]
}

func (n *fakeNode) life() cluster.State {
	n.lives++
	return cluster.State{Running: true, PID: 10 + n.lives, StartTime: uint64(1000 * n.lives)}
}

func (n *fakeNode) ID() cluster.NodeID           { return n.id }
func (n *fakeNode) Endpoints() cluster.Endpoints { return cluster.Endpoints{Monitor: n.monitor} }
func (n *fakeNode) PeerAddr() string             { return "192.0.2." + strings.TrimPrefix(string(n.id), "n") }
func (n *fakeNode) Agent() cluster.Agent         { return n }
func (n *fakeNode) Logs(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}

func (n *fakeNode) State(ctx context.Context) (cluster.State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, ctx.Err()
}

func (n *fakeNode) Start(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.startErrs > 0 {
		n.startErrs--
		return errors.New("port taken")
	}
	if n.state.Running {
		return cluster.ErrRunning
	}
	n.state = n.life()
	n.usage = cluster.Usage{Files: n.usage.Files + 1, Bytes: n.usage.Bytes + 100}
	return nil
}

func (n *fakeNode) Signal(_ context.Context, sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.state.Running:
		return cluster.ErrNotRunning
	case n.deaf:
	case sig == syscall.SIGKILL:
		code := n.exitCode
		if code == 0 {
			code = 137
		}
		n.state = cluster.State{ExitCode: code}
	case sig == syscall.SIGTERM && !n.stubborn:
		n.state = cluster.State{}
	case sig == syscall.SIGSTOP:
		n.state.Paused = true
	case sig == syscall.SIGCONT:
		n.state.Paused = false
	}
	return nil
}

func (n *fakeNode) WaitExit(ctx context.Context) error {
	for {
		if s, _ := n.State(ctx); !s.Running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (n *fakeNode) Usage(context.Context) (cluster.Usage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.usage, nil
}

func (n *fakeNode) Wipe(context.Context) (cluster.Usage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state.Running {
		return n.usage, cluster.ErrRunning
	}
	before := n.usage
	if !n.wipesNot {
		n.usage = cluster.Usage{}
	}
	return before, nil
}

func (n *fakeNode) CopyStore(context.Context, string) error { return nil }

// LimitCPU and CPU are a scheduler with a daemon that always wants to run.
func (n *fakeNode) LimitCPU(_ context.Context, processors float64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.deaf {
		n.cpu.Limit = processors
	}
	return nil
}

func (n *fakeNode) CPU(context.Context) (cluster.CPU, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cpu.Limit > 0 && !n.idle {
		n.cpu.Throttled++
	}
	return n.cpu, nil
}

// Exhaust and Count are a kernel, and a daemon that opens nothing.
func (n *fakeNode) Exhaust(_ context.Context, what cluster.CountKind, on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.deaf {
		return nil
	}
	if n.exhausted == nil {
		n.exhausted = map[cluster.CountKind]bool{}
	}
	n.exhausted[what] = on
	return nil
}

func (n *fakeNode) Count(_ context.Context, what cluster.CountKind) (cluster.Count, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	const used, most = 40, 1024
	c := cluster.Count{Limit: most, Used: used, Free: most - used}
	if n.exhausted[what] {
		c.Exhausted, c.Limit, c.Free = true, used+n.givesBack, n.givesBack
	}
	if n.exhausted[what] && !n.state.Running {
		c = cluster.Count{Ended: true}
	}
	return c, nil
}

// ExhaustMemory is a kernel that kills at once.
func (n *fakeNode) ExhaustMemory(context.Context) (cluster.Exhausted, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.deaf:
		return cluster.Exhausted{}, nil
	case n.exitCode != 0: // it died, but not of that
		n.state = cluster.State{ExitCode: n.exitCode}
	default:
		n.state = cluster.State{ExitCode: 137, OOMKilled: true}
	}
	return cluster.Exhausted{Kills: 1}, nil
}

// Call is the agent.
func (n *fakeNode) Call(ctx context.Context, method string, params, result any) error {
	n.mu.Lock()
	err := n.agentErr
	n.mu.Unlock()
	if err != nil {
		return err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	var res any
	switch p := params.(type) {
	case agent.PartitionParams:
		n.c.drops[string(n.id)+p.ID] = &fakePartition{node: n, peers: p.Peers, params: p, until: time.Now().Add(agent.Lease)}
	case agent.HealParams:
		delete(n.c.drops, string(n.id)+p.ID)
	case agent.CountersParams:
		r := agent.PartitionResult{ID: p.ID}
		if d := n.c.drops[string(n.id)+p.ID]; d != nil {
			r.Present, r.DroppedIn, r.DroppedOut = time.Now().Before(d.until), d.in, d.out
			r.SeenIn, r.SeenOut = d.in, d.out+d.seenOut
			if d.params.Action == agent.ActionHalfOpen && !d.node.leaky {
				d.out++
				r.Connections, r.Witnesses, r.Unanswered, r.DroppedOut = len(d.peers), len(d.peers), len(d.peers), d.out
			}
		}
		res = r
	case agent.ClockParams:
		n.wanted = p
		if !n.deaf {
			n.wrong, n.wrongSince = p, time.Now()
		}
	case agent.DialParams:
		res = n.dial(p)
	case agent.SinkParams:
		n.c.sinks++
		n.c.sprays[p.ID] = fakeSpray{}
		n.c.ports[strconv.Itoa(n.c.sinks)] = p.ID
		res = agent.SinkResult{Port: n.c.sinks}
	case agent.SprayParams:
		n.spray(p)
		res = agent.SprayResult{Sent: p.Count}
	case agent.DrainParams:
		res = n.c.sprays[p.ID].result()
	case agent.ResolveParams:
		if r := (agent.ResolveResult{Addresses: []string{n.PeerAddr()}}); n.c.drop(n.PeerAddr(), "", 0, 53, true) {
			res = agent.ResolveResult{Error: "i/o timeout"}
		} else {
			res = r
		}
	case nil:
		switch method {
		case agent.MethodRenew:
			n.renew()
		case agent.MethodClockRead:
			res = agent.ClockResult{Applied: n.wanted != agent.ClockParams{}, ClockParams: n.wanted, Remaining: 1}
		}
	}
	if result == nil || res == nil {
		return ctx.Err()
	}
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, result)
}

func (n *fakeNode) renew() {
	n.renewals++
	for _, d := range n.c.drops {
		if d.node == n && time.Now().Before(d.until) {
			d.until = time.Now().Add(agent.Lease)
		}
	}
}

// dial is answered unless the attempt or its answer is dropped, or the other end is unreachable.
func (n *fakeNode) dial(p agent.DialParams) agent.DialResult {
	host, port, _ := net.SplitHostPort(p.Address)
	to, _ := strconv.Atoi(port)
	if n.c.reset(n.PeerAddr(), host) {
		return agent.DialResult{Answered: true, Reset: true}
	}
	if n.c.drop(n.PeerAddr(), host, 0, to, true) || n.c.drop(host, n.PeerAddr(), to, 0, true) {
		return agent.DialResult{Error: "i/o timeout"}
	}
	for _, o := range n.c.nodes {
		if o.PeerAddr() == host && o.unreachable {
			return agent.DialResult{Error: "i/o timeout"}
		}
	}
	return agent.DialResult{Answered: true, Connected: true}
}

// reset tells whether the sender's rules answer with a RST, and counts that.
func (c *fakeCluster) reset(from, to string) bool {
	for _, d := range c.drops {
		if d.params.Action == agent.ActionReset && d.node.PeerAddr() == from && slices.Contains(d.peers, to) && !d.node.leaky {
			d.out++
			return true
		}
	}
	return false
}

// fakeSpray is what became of datagrams.
type fakeSpray struct {
	count, size int
	bad         agent.Impairment
	first, last float64 // ms
}

func (n *fakeNode) spray(p agent.SprayParams) {
	host, port, _ := net.SplitHostPort(p.Address)
	s := fakeSpray{count: p.Count, size: p.Bytes, last: 1}
	for _, d := range n.c.drops {
		if d.params.Action == agent.ActionShape && d.node == n && slices.Contains(d.peers, host) {
			d.seenOut += uint64(p.Count)
			if !d.node.leaky {
				s.bad = d.params.Impairment
				if s.bad.RateKbit > 0 {
					s.first = d.busyMS
					d.busyMS += float64(8*p.Count*p.Bytes) / float64(s.bad.RateKbit)
					s.last = d.busyMS
				}
			}
		}
	}
	n.c.sprays[n.c.ports[port]] = s
}

func (s fakeSpray) result() agent.DrainResult {
	of := func(permille int) int { return s.count * permille / 1000 }
	return agent.DrainResult{
		Received: s.count - of(s.bad.Loss) - of(s.bad.Corrupt), Duplicated: of(s.bad.Duplicate), Corrupted: of(s.bad.Corrupt), Reordered: of(s.bad.Reorder),
		LeastMS: s.bad.DelayMS, MedianMS: s.bad.DelayMS, MostMS: s.bad.DelayMS, Bytes: s.count * s.size, FirstMS: s.first, LastMS: s.last,
	}
}

// drop tells whether a packet is lost on its way, and counts it where it is: the sender's rules come first. No receiver means a name server.
func (c *fakeCluster) drop(from, to string, fromPort, toPort int, count bool) bool {
	hit := uint64(0)
	if count {
		hit = 1
	}
	for _, d := range c.drops {
		if d.node.PeerAddr() == from && d.params.Out && d.drops(to, fromPort, toPort) {
			d.out += hit
			return true
		}
	}
	for _, d := range c.drops {
		if d.node.PeerAddr() == to && d.params.In && d.drops(from, toPort, fromPort) {
			d.in += hit
			return true
		}
	}
	return false
}

// drops tells whether rules are about packets between their node and another one, by the ports at the node's end and at the other one.
func (d *fakePartition) drops(other string, own, theirs int) bool {
	if d.params.Action != agent.ActionDrop || d.node.leaky || len(d.peers) > 0 && !slices.Contains(d.peers, other) {
		return false
	}
	return len(d.params.OwnPorts)+len(d.params.TheirPorts) == 0 || slices.Contains(d.params.OwnPorts, own) || slices.Contains(d.params.TheirPorts, theirs)
}

// lost lists, as from>to, between which nodes packets do not arrive.
func (c *fakeCluster) lost() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			if a != b && c.drop(a.PeerAddr(), b.PeerAddr(), 0, 6222, false) {
				out = append(out, string(a.id)+">"+string(b.id))
			}
		}
	}
	return out
}

// telling gives every node a /varz that says what its clock says.
func (c *fakeCluster) telling(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n.c.mu.Lock()
			defer n.c.mu.Unlock()
			if n.mute > 0 {
				n.mute--
				http.Error(w, "it is down", http.StatusBadGateway)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"now": time.Now().Add(n.wrong.Ahead(time.Since(n.wrongSince)))})
		}))
		t.Cleanup(srv.Close)
		n.monitor = srv.URL
	}
}

// view is what a node's monitoring says: the leader and the holders of groups.
type view struct{ Leader, Holders string }

// monitored gives every node a /jsz that says meta is led by meta, and what streams says of ACC's streams.
func (c *fakeCluster) monitored(t *testing.T, meta string, streams map[string]view) *fakeCluster {
	t.Helper()
	for _, n := range c.nodes {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var ss []any
			for _, name := range slices.Sorted(maps.Keys(streams)) {
				v := streams[name]
				holders := strings.Split(v.Holders, ",")
				if !slices.Contains(holders, string(n.id)) {
					continue
				}
				var peers []any
				for _, h := range holders {
					if h != string(n.id) {
						peers = append(peers, map[string]any{"name": h})
					}
				}
				ss = append(ss, map[string]any{"name": name, "cluster": map[string]any{"leader": v.Leader, "replicas": peers}})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{
				"meta_cluster":    map[string]any{"leader": meta, "cluster_size": len(c.nodes)},
				"account_details": []any{map[string]any{"name": "ACC", "stream_detail": ss}},
			})
		}))
		t.Cleanup(srv.Close)
		n.monitor = srv.URL
	}
	return c
}

// script records the stages that an injector reports.
type script struct {
	stages []string
	seen   map[string]faults.Observation
}

func (s *script) report(stage string, _ faults.Fault, o faults.Observation, _ time.Duration) {
	s.stages = append(s.stages, stage)
	if s.seen == nil {
		s.seen = map[string]faults.Observation{}
	}
	s.seen[stage] = o
}

func newInjector(c cluster.Cluster) (*faults.Injector, *script) {
	s := &script{}
	return &faults.Injector{Cluster: c, Report: s.report, Limits: faults.Limits{InForce: 100 * time.Millisecond, Healed: 500 * time.Millisecond}}, s
}
