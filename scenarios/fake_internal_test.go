package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

func empty() *history.History { return &history.History{} }

// fakeBackend makes clusters of nodes that are nothing but a state and three HTTP answers.
type fakeBackend struct {
	t       *testing.T
	missing cluster.Capabilities
	makeErr error
	prepare func(*fakeCluster) // before the runner sees the cluster

	made []*fakeCluster
}

func (b *fakeBackend) Name() string                       { return "fake" }
func (b *fakeBackend) Capabilities() cluster.Capabilities { return b.missing }
func (b *fakeBackend) Close() error                       { return nil }

func (b *fakeBackend) NewCluster(ctx context.Context, spec cluster.Spec) (cluster.Cluster, error) {
	if err := errors.Join(ctx.Err(), b.makeErr); err != nil {
		return nil, err
	}
	c := &fakeCluster{spec: spec}
	for i := range 3 {
		n := &fakeNode{id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), ready: true}
		n.server = httptest.NewServer(n)
		c.nodes = append(c.nodes, n)
	}
	b.t.Cleanup(func() { _ = c.Close(context.WithoutCancel(ctx)) }) // a second time, where all is well
	b.made = append(b.made, c)
	if b.prepare != nil {
		b.prepare(c)
	}
	return c, nil
}

type fakeCluster struct {
	spec       cluster.Spec
	nodes      []*fakeNode
	collectErr error
	closeErr   error

	mu     sync.Mutex
	closed int
}

func (c *fakeCluster) Spec() cluster.Spec { return c.spec }

func (c *fakeCluster) Nodes() []cluster.Node {
	var ns []cluster.Node
	for _, n := range c.nodes {
		ns = append(ns, n)
	}
	return ns
}

func (c *fakeCluster) Collect(ctx context.Context, dir string) error {
	for _, n := range c.nodes {
		d := filepath.Join(dir, string(n.id))
		if err := errors.Join(ctx.Err(), os.MkdirAll(d, 0o755), os.WriteFile(filepath.Join(d, "daemon.log"), []byte("hello\n"), 0o644)); err != nil {
			return err
		}
	}
	return c.collectErr
}

func (c *fakeCluster) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	for _, n := range c.nodes {
		n.server.Close()
	}
	return errors.Join(ctx.Err(), c.closeErr)
}

func (c *fakeCluster) closes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

type fakeNode struct {
	id     cluster.NodeID
	server *httptest.Server

	mu       sync.Mutex
	state    cluster.State
	startErr error
	ready    bool
	killErr  error
	leads    string // who leads the orders, as this node sees it; "" where it knows no streams
}

// ServeHTTP answers what the runner asks: whether the node lives, is ready, and what it holds.
func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	up, ready, leads := n.state.Running, n.ready, n.leads
	n.mu.Unlock()
	switch {
	case !up || r.URL.Path == "/ready" && !ready:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/jsz" && leads != "":
		_, _ = fmt.Fprintf(w, `{"account_details":[{"name":"BUS","stream_detail":[{"name":"ORDERS","cluster":{"leader":%q}}]}]}`, leads)
	case r.URL.Path == "/jsz":
		_, _ = io.WriteString(w, `{"meta_cluster":{"leader":"n1","cluster_size":3}}`) // the test's own client
	}
}

func (n *fakeNode) ID() cluster.NodeID { return n.id }

func (n *fakeNode) Endpoints() cluster.Endpoints {
	u := n.server.URL
	return cluster.Endpoints{Client: "nats" + strings.TrimPrefix(u, "http"), Live: u + "/live", Ready: u + "/ready", Monitor: u}
}

func (n *fakeNode) State(context.Context) (cluster.State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, nil
}

func (n *fakeNode) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.startErr); err != nil {
		return err
	}
	n.state = cluster.State{Running: true, PID: 2, StartTime: n.state.StartTime + 1}
	return nil
}

func (n *fakeNode) Signal(_ context.Context, sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.state.Running {
		return cluster.ErrNotRunning
	}
	if n.killErr != nil {
		return n.killErr
	}
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		n.state = cluster.State{StartTime: n.state.StartTime, ExitCode: 128 + int(sig)}
	}
	return nil
}

func (n *fakeNode) WaitExit(ctx context.Context) error { return ctx.Err() }

func (n *fakeNode) Logs(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}

// fakeLoad is a workload that counts what is done to it.
type fakeLoad struct {
	name     string
	setupErr error
	runErr   error
	drainErr error

	mu   sync.Mutex
	done []string
}

func (l *fakeLoad) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, what)
}

func (l *fakeLoad) Name() string { return l.name }

func (l *fakeLoad) Setup(context.Context, *workload.Env) error {
	l.note("setup")
	return l.setupErr
}

func (l *fakeLoad) Run(ctx context.Context, _ *workload.Env) error {
	if l.runErr != nil {
		return l.runErr
	}
	<-ctx.Done()
	l.note("ran")
	return nil
}

func (l *fakeLoad) Drain(context.Context, *workload.Env) error {
	l.note("drained")
	return l.drainErr
}

func (l *fakeLoad) Close() { l.note("closed") }

func (l *fakeLoad) was(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.done, what)
}
