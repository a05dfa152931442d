package workload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/loopback"
)

// bound is far above what any of these tests takes on a busy machine.
const bound = 4 * time.Minute

// serverModule is built once for all tests: plain nats-server, as a child process.
const serverModule = "github.com/nats-io/nats-server/v2"

var serverPath string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "unibus-workload-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	serverPath = filepath.Join(dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", serverPath, serverModule).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build nats-server: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// plainCluster is the least that the workloads need of a cluster: plain nats-servers on 127.0.0.1.
type plainCluster struct {
	spec  cluster.Spec
	nodes []*plainNode
}

type plainNode struct {
	id                  cluster.NodeID
	client, route, http string
	conf                string

	mu   sync.Mutex
	cmd  *exec.Cmd
	gone chan struct{}
	log  bytes.Buffer
}

func newPlainCluster(t testing.TB, size int, admin string) *plainCluster {
	t.Helper()
	c := &plainCluster{spec: cluster.Spec{Name: "t", Size: size, AdminKey: admin}}
	for i := range size {
		c.nodes = append(c.nodes, &plainNode{
			id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), client: freeAddr(t), route: freeAddr(t), http: freeAddr(t),
		})
	}
	var routes []string
	for _, n := range c.nodes {
		routes = append(routes, "nats://"+n.route)
	}
	for _, n := range c.nodes {
		clustered := ""
		if size > 1 {
			clustered = fmt.Sprintf("cluster { name: t, listen: %q, routes: [%s] }", n.route, strings.Join(routes, ", "))
		}
		n.conf = filepath.Join(t.TempDir(), string(n.id)+".conf")
		text := fmt.Sprintf(`server_name: %s
listen: %q
http: %q
jetstream { store_dir: %q, max_mem: 64M, max_file: 512M }
%s
system_account: SYS
accounts {
  SYS {}
  BUS { jetstream: enabled, users: [ { nkey: %s } ] }
}
`, n.id, n.client, n.http, t.TempDir(), clustered, admin)
		if err := os.WriteFile(n.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Errorf("close cluster: %v", err)
		}
		if t.Failed() {
			for _, n := range c.nodes {
				n.mu.Lock()
				t.Logf("log of %s:\n%s", n.id, lastLines(n.log.String(), 15))
				n.mu.Unlock()
			}
		}
	})
	return c
}

func lastLines(s string, n int) string {
	ls := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(ls[max(0, len(ls)-n):], "\n")
}

// start starts all nodes and waits until each says that it is ready.
func (c *plainCluster) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes {
		awaitReady(ctx, t, n)
	}
}

func awaitReady(ctx context.Context, t testing.TB, n cluster.Node) {
	t.Helper()
	eventually(ctx, t, string(n.ID())+" is ready", func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.Endpoints().Ready, nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func eventually(ctx context.Context, t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	p, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Release() })
	return p.Addr
}

func (c *plainCluster) Spec() cluster.Spec { return c.spec }

func (c *plainCluster) Nodes() []cluster.Node {
	var ns []cluster.Node
	for _, n := range c.nodes {
		ns = append(ns, n)
	}
	return ns
}

func (c *plainCluster) Collect(context.Context, string) error { return nil }

func (c *plainCluster) Close(ctx context.Context) error {
	var errs []error
	for _, n := range c.nodes {
		if err := n.Signal(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			errs = append(errs, err)
		}
		errs = append(errs, n.WaitExit(ctx))
	}
	return errors.Join(errs...)
}

func (n *plainNode) ID() cluster.NodeID { return n.id }

func (n *plainNode) Endpoints() cluster.Endpoints {
	return cluster.Endpoints{
		Client: "nats://" + n.client, Monitor: "http://" + n.http,
		Live: "http://" + n.http + "/healthz?js-server-only=true", Ready: "http://" + n.http + "/healthz",
	}
}

func (n *plainNode) State(context.Context) (cluster.State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return cluster.State{Running: n.cmd != nil}, nil
}

func (n *plainNode) Start(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return cluster.ErrRunning
	}
	cmd := exec.Command(serverPath, "-c", n.conf)
	cmd.Stdout, cmd.Stderr = nil, lockedWriter{&n.mu, &n.log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	gone := make(chan struct{})
	n.cmd, n.gone = cmd, gone
	go func() {
		_ = cmd.Wait() // killed on purpose, mostly
		n.mu.Lock()
		n.cmd = nil
		n.mu.Unlock()
		close(gone)
	}()
	return nil
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (n *plainNode) Signal(_ context.Context, sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return cluster.ErrNotRunning
	}
	return n.cmd.Process.Signal(sig)
}

func (n *plainNode) WaitExit(ctx context.Context) error {
	n.mu.Lock()
	gone := n.gone
	n.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *plainNode) Logs(context.Context) (io.ReadCloser, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return io.NopCloser(strings.NewReader(n.log.String())), nil
}

// bench is a cluster with what the workloads need around it.
type bench struct {
	env *workload.Env
	c   *plainCluster
	rec *history.Recorder
	out *bytes.Buffer
}

// testLog shows what clients log with the test that they belong to.
type testLog struct{ tb testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.tb.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func newBench(t testing.TB, size int) *bench {
	t.Helper()
	id, err := workload.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{c: newPlainCluster(t, size, id.Public()), out: &bytes.Buffer{}}
	if b.rec, err = history.NewRecorder(b.out); err != nil {
		t.Fatal(err)
	}
	b.env = &workload.Env{Cluster: b.c, Recorder: b.rec, Seed: 7, Identity: id, Log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
	return b
}

// history closes the record and reads it back, as a checker would.
func (b *bench) history(t *testing.T) *history.History {
	t.Helper()
	if err := b.rec.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := history.Read(bytes.NewReader(b.out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return h
}
