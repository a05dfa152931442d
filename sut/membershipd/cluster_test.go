package membershipd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/loopback"
	"github.com/unibus/unibus/sut/membershipd"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	waitLong  = 60 * time.Second // for what needs elections, on a loaded machine
	waitPoll  = 30 * time.Millisecond
	waitAsk   = 20 * time.Second // for an answer that a process gives at once, when it gets to run
	turnsIn   = 15 * time.Second // /healthz after the loss of a quorum: 5 s are promised, and claimed by scenarios, which wait for a machine with room
	testShape = 3

	childEnv = "MEMBERSHIPD_TEST_NODE" // holds the settings of a node that this test binary is to run
)

// TestMain runs the tests, or, as a child of a test, one node: only a process of its own can be killed and stopped.
func TestMain(m *testing.M) {
	if settings := os.Getenv(childEnv); settings != "" {
		os.Exit(runNode(settings))
	}
	os.Exit(m.Run())
}

func runNode(settings string) int {
	var c membershipd.Config
	if err := json.Unmarshal([]byte(settings), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := membershipd.New(c)
	if err == nil {
		err = d.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// testCluster is three nodes on the loopback.
type testCluster struct {
	t          *testing.T // whose end is the end of the nodes, also of those that a subtest starts
	configs    []membershipd.Config
	admin      nkeys.KeyPair
	user       nkeys.KeyPair
	nodes      [testShape]*testNode
	identities [testShape]string
}

type testNode struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{} // closed when the process is gone
}

func freeAddress(t *testing.T) string {
	t.Helper()
	return freeAddresses(t, 1)[0]
}

func takenAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// freeAddresses reserves addresses for this test.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		p, err := loopback.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Release() })
		all = append(all, p.Addr)
	}
	return all
}

func newKey(t *testing.T) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, pub
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	dir := t.TempDir()
	c := &testCluster{t: t}
	var adminKey, userKey string
	c.admin, adminKey = newKey(t)
	c.user, userKey = newKey(t)
	keys := write(t, filepath.Join(dir, "keys"), fmt.Sprintf("# test\n%s admin\n%s # no admin\n", adminKey, userKey), 0o644)
	pass := write(t, filepath.Join(dir, "pass"), "p@ss:w/rd\n", 0o600)
	addrs := freeAddresses(t, 4*testShape)
	routes := addrs[:testShape]
	for i := range testShape {
		m := membershipd.DefaultConfig()
		m.Name, m.DataDir = fmt.Sprintf("n%d", i+1), filepath.Join(dir, fmt.Sprintf("n%d", i+1))
		m.Routes, m.ClusterListen = routes, routes[i]
		m.ClientListen, m.HTTPListen, m.MonitorListen = addrs[testShape+i], addrs[2*testShape+i], addrs[3*testShape+i]
		m.ClusterPassFile, m.StaticKeysFile = pass, keys
		m.Version = "test"
		c.identities[i] = filepath.Join(m.DataDir, "internal.nk")
		c.configs = append(c.configs, m)
		if err := os.MkdirAll(m.DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *testCluster) start(t *testing.T, i int) *testNode {
	t.Helper()
	settings, err := json.Marshal(c.configs[i])
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{cmd: exec.Command(os.Args[0]), log: &bytes.Buffer{}, done: make(chan struct{})}
	n.cmd.Env = append(os.Environ(), childEnv+"="+string(settings))
	n.cmd.Stderr, n.cmd.Stdout = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.nodes[i] = n
	go func() {
		_ = n.cmd.Wait() // the exit code is in ProcessState
		close(n.done)
	}()
	c.t.Cleanup(func() {
		n.kill()
		<-n.done
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", c.configs[i].Name, tail(n.log.String()))
		}
	})
	return n
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

func (c *testCluster) startAll(t *testing.T) {
	t.Helper()
	for i := range testShape {
		c.start(t, i)
	}
}

func (n *testNode) kill()                   { _ = n.cmd.Process.Kill() }
func (n *testNode) signal(s syscall.Signal) { _ = n.cmd.Process.Signal(s) }

func (n *testNode) killAndWait() {
	n.kill()
	<-n.done
}

// stop asks the node to end, and returns how long that took.
func (n *testNode) stop(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	n.signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(waitLong):
		t.Fatal("the node does not stop")
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the node ended with %d:\n%s", code, tail(n.log.String()))
	}
	return time.Since(start)
}

// ask reads one of the node's pages; a node that does not answer has code 0.
func (c *testCluster) ask(i int, page string) (int, string) {
	client := http.Client{Timeout: waitAsk}
	resp, err := client.Get("http://" + c.configs[i].HTTPListen + "/" + page)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (c *testCluster) untilHTTP(t *testing.T, i int, page string, code int, contains string) time.Duration {
	t.Helper()
	var last string
	took, ok := until(waitLong, func() bool {
		got, body := c.ask(i, page)
		last = fmt.Sprintf("%d %s", got, body)
		return got == code && strings.Contains(body, contains)
	})
	if !ok {
		t.Fatalf("%s: /%s is not %d with %q, but %s", c.configs[i].Name, page, code, contains, last)
	}
	return took
}

// until polls a condition.
func until(limit time.Duration, condition func() bool) (time.Duration, bool) {
	start := time.Now()
	t := time.NewTicker(waitPoll)
	defer t.Stop()
	for !condition() {
		if time.Since(start) > limit {
			return time.Since(start), false
		}
		<-t.C
	}
	return time.Since(start), true
}

// never samples for a while.
func (c *testCluster) neverReady(t *testing.T, i int, d time.Duration, contains string) {
	t.Helper()
	bad := ""
	_, ok := until(d, func() bool {
		code, body := c.ask(i, "healthz")
		if live, _ := c.ask(i, "livez"); code != 503 || !strings.Contains(body, contains) || live != 200 {
			bad = fmt.Sprintf("%d (livez %d) %s", code, live, body)
			return true
		}
		return false
	})
	if ok {
		t.Fatalf("%s: want 503 with %q throughout, got %s", c.configs[i].Name, contains, bad)
	}
}

func (c *testCluster) status(t *testing.T, i int) health.Status {
	t.Helper()
	code, body := c.ask(i, "statusz")
	var s health.Status
	if err := json.Unmarshal([]byte(body), &s); code != 200 || err != nil {
		t.Fatalf("statusz of %s: %d, %v: %s", c.configs[i].Name, code, err, body)
	}
	return s
}

// converge waits until these nodes are ready with every bucket at R and current.
func (c *testCluster) converge(t *testing.T, replicas int, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		c.untilHTTP(t, i, "healthz", 200, "ok")
		var s health.Status
		_, ok := until(waitLong, func() bool {
			s = c.status(t, i)
			for _, b := range append(s.Buckets, s.Audit) {
				if !b.Exists || !b.Current || b.Replicas != replicas || b.WantReplicas != replicas {
					return false
				}
			}
			for _, p := range s.Peers {
				if p.Connected && !p.Placeable {
					return false
				}
			}
			return s.Ready && len(s.Buckets) == 6
		})
		if !ok {
			t.Fatalf("%s does not converge: %+v", s.Node, s)
		}
	}
}

func (c *testCluster) index(t *testing.T, name string) int {
	t.Helper()
	for i, m := range c.configs {
		if m.Name == name {
			return i
		}
	}
	t.Fatalf("there is no node %q", name)
	return 0
}

func others(i int) (int, int) { return (i + 1) % testShape, (i + 2) % testShape }

// dial connects to these nodes as that user.
func (c *testCluster) dial(t *testing.T, key nkeys.KeyPair, nodes ...int) *control.Client {
	t.Helper()
	var urls []string
	for _, i := range nodes {
		urls = append(urls, "nats://"+c.configs[i].ClientListen)
	}
	conn, err := control.Dial(t.Context(), client.Options{Servers: urls, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func (c *testCluster) put(t *testing.T, client *control.Client, name, value string) {
	t.Helper()
	var err error
	_, ok := until(waitLong, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = client.Put(ctx, name, value, nil)
		return err == nil
	})
	if !ok {
		t.Fatalf("put %s: %v", name, err)
	}
}

func (c *testCluster) wantSetting(t *testing.T, client *control.Client, name, value string) {
	t.Helper()
	var s control.Setting
	var err error
	until(waitLong, func() bool { // an election may come at any time where a machine is busy
		ctx, cancel := context.WithTimeout(t.Context(), waitAsk)
		defer cancel()
		s, err = client.Get(ctx, name)
		var e *control.Error
		return !errors.As(err, &e) || e.Code != control.Unavailable
	})
	if err != nil || s.Value != value {
		t.Errorf("get %s: %+v, %v, want %q", name, s, err, value)
	}
}

func wantCode(t *testing.T, err error, want control.Code) {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("got %v, want the code %s", err, want)
	}
}

// TestClusterLife is a cluster's life from an empty store: alone, two, three; writes; loss and return of the quorum; stop and restart.
func TestClusterLife(t *testing.T) {
	c := newTestCluster(t)
	c.start(t, 0)
	c.untilHTTP(t, 0, "healthz", 503, "no quorum: 1 of 3 nodes (n1), need 2")
	c.neverReady(t, 0, time.Second, "no quorum")
	c.start(t, 1)
	for i := range 2 {
		c.untilHTTP(t, i, "healthz", 503, "the first start of a cluster needs all 3 nodes (2 here)")
	}
	c.neverReady(t, 0, time.Second, "first start")
	c.start(t, 2)
	c.converge(t, 3, 0, 1, 2)
	c.testStatus(t)
	c.testControl(t)
	c.testAuditTrail(t)
	c.testOwnNode(t)
	c.testPlacement(t)
	c.testQuorumLoss(t)
	c.testStopAndRestart(t)
}

func (c *testCluster) testStatus(t *testing.T) {
	t.Run("status", func(t *testing.T) {
		var s health.Status
		_, ok := until(waitLong, func() bool { s = c.status(t, 0); return s.Posture.State == health.PostureOK })
		if !ok || s.Node != "n1" || s.Version != "test" || !strings.HasPrefix(s.Digest, "sha256:") || s.ClusterSize != 3 ||
			s.Quorum != (health.Quorum{Have: 3, Need: 2}) || s.MetaLeader == "" || len(s.Peers) != 2 || s.Posture.Sync != "always" || s.Posture.Replicas != 3 {
			t.Errorf("got %+v", s)
		}
		if code, body := c.ask(0, "metrics"); code != 200 || !strings.Contains(body, "unibus_ready 1") || !strings.Contains(body, `unibus_bucket_replicas{bucket="UNIBUS_users"} 3`) {
			t.Errorf("metrics: %d %s", code, body)
		}
		if code, body := c.ask(1, "servez"); code != 200 {
			t.Errorf("servez: %d %s", code, body)
		}
	})
}

func (c *testCluster) testControl(t *testing.T) {
	t.Run("control", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), waitLong)
		defer cancel()
		admin, user := c.dial(t, c.admin, 0), c.dial(t, c.user, 1)
		first, err := admin.Put(ctx, "a", "one", ptr(0))
		if err != nil || first == 0 {
			t.Fatalf("create: %d, %v", first, err)
		}
		_, err = admin.Put(ctx, "a", "two", ptr(0))
		wantCode(t, err, control.Conflict)
		second, err := admin.Put(ctx, "a", "two", &first)
		if err != nil || second <= first {
			t.Errorf("update: %d, %v", second, err)
		}
		_, err = admin.Put(ctx, "a", "three", &first)
		wantCode(t, err, control.Conflict)
		if s, err := user.Get(ctx, "a"); err != nil || s != (control.Setting{Name: "a", Value: "two", Revision: second}) {
			t.Errorf("get on another node: %+v, %v", s, err)
		}
		_, err = user.Get(ctx, "missing")
		wantCode(t, err, control.NotFound)
		for _, name := range []string{"", "a b", "a..b", ".a", "a.*", ">", control.SettingReplicas, strings.Repeat("x", 200)} {
			_, err = admin.Put(ctx, name, "x", nil)
			wantCode(t, err, control.Invalid)
		}
		c.put(t, admin, "b.c", "")
		all, err := user.List(ctx)
		if err != nil || len(all) != 2 || all[0].Value != "two" || all[1].Name != "b.c" {
			t.Errorf("list: %+v, %v", all, err)
		}
		_, err = user.Put(ctx, "a", "stolen", nil)
		wantCode(t, err, control.Denied)
		_, err = admin.Scale(ctx, 2)
		wantCode(t, err, control.Invalid)
		_, err = admin.Scale(ctx, 1)
		wantCode(t, err, control.Invalid)
		if s, err := user.Status(ctx); err != nil || s.ClusterSize != 3 {
			t.Errorf("status: %+v, %v", s, err)
		}
		c.testConcurrentCAS(ctx, t)
	})
}

// testConcurrentCAS has clients on all nodes count up together, reading and writing by compare-and-set only: every success must count once.
//
//nolint:contextcheck // wantSetting has a time limit of its own
func (c *testCluster) testConcurrentCAS(ctx context.Context, t *testing.T) {
	t.Helper()
	const each = 8
	errs := make(chan error, testShape)
	for i := range testShape {
		client := c.dial(t, c.admin, i)
		go func() { errs <- countUp(ctx, client, each) }()
	}
	for range testShape {
		if err := <-errs; err != nil {
			t.Errorf("count: %v", err)
		}
	}
	c.wantSetting(t, c.dial(t, c.user, 0), "counter", strconv.Itoa(testShape*each))
}

func countUp(ctx context.Context, client *control.Client, times int) error {
	for done := 0; done < times; {
		s, err := client.Get(ctx, "counter")
		var e *control.Error
		if err != nil && (!errors.As(err, &e) || e.Code != control.NotFound) {
			return err
		}
		n := 0
		if s.Value != "" {
			if n, err = strconv.Atoi(s.Value); err != nil {
				return err
			}
		}
		_, err = client.Put(ctx, "counter", strconv.Itoa(n+1), &s.Revision)
		switch {
		case err == nil:
			done++
		case errors.As(err, &e) && (e.Code == control.Conflict || e.Code == control.Unavailable):
		default:
			return err
		}
	}
	return nil
}

func ptr(n uint64) *uint64 { return &n }

// testAuditTrail counts: as many records as changes, on every node.
func (c *testCluster) testAuditTrail(t *testing.T) {
	t.Run("audit", func(t *testing.T) {
		const changes = 2 + 1 + testShape*8 // a twice, b.c, the counter
		for i := range testShape {
			got := -1
			if _, ok := until(waitLong, func() bool { got = c.auditRecords(t, i); return got == changes }); !ok {
				t.Errorf("%s holds %d records of %d changes", c.configs[i].Name, got, changes)
			}
		}
	})
}

func (c *testCluster) auditRecords(t *testing.T, i int) int {
	t.Helper()
	resp, err := http.Get("http://" + c.configs[i].MonitorListen + "/jsz?accounts=1&streams=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var jsz struct {
		Accounts []struct {
			Streams []struct {
				Name  string `json:"name"`
				State struct {
					Messages int `json:"messages"`
				} `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&jsz); err != nil {
		t.Fatal(err)
	}
	for _, a := range jsz.Accounts {
		for _, s := range a.Streams {
			if s.Name == membershipd.AuditStream {
				return s.State.Messages
			}
		}
	}
	return -1
}

// testQuorumLoss leaves the meta leader alone, which is the node that is most easily wrong about itself; then stops the others instead of killing them.
func (c *testCluster) testQuorumLoss(t *testing.T) {
	t.Run("quorum loss", func(t *testing.T) {
		left := c.index(t, c.status(t, 0).MetaLeader)
		a, b := others(left)
		client := c.dial(t, c.admin, left)
		c.nodes[a].killAndWait()
		c.nodes[b].killAndWait()
		if took := c.untilHTTP(t, left, "healthz", 503, "no quorum: 1 of 3 nodes"); took > turnsIn {
			t.Errorf("it took %s to notice", took)
		}
		c.wantUnavailable(t, client)
		c.neverReady(t, left, 6*time.Second, "no quorum") // plain nats-server says 200 again in this time
		c.start(t, a)
		c.untilHTTP(t, left, "healthz", 200, "ok")
		c.untilHTTP(t, a, "healthz", 200, "ok")
		if s := c.status(t, left); s.Posture.State != health.PostureDegraded || s.Quorum.Have != 2 {
			t.Errorf("two of three: %+v", s)
		}
		c.wantSetting(t, client, "a", "two")
		c.put(t, client, "two-of-three", "yes")
		c.start(t, b)
		c.converge(t, 3, 0, 1, 2)
	})
	t.Run("peers that hang", func(t *testing.T) {
		left := c.index(t, c.status(t, 0).MetaLeader)
		a, b := others(left)
		c.nodes[a].signal(syscall.SIGSTOP)
		c.nodes[b].signal(syscall.SIGSTOP)
		if took := c.untilHTTP(t, left, "healthz", 503, ""); took > turnsIn {
			t.Errorf("it took %s to notice", took)
		}
		c.nodes[a].signal(syscall.SIGCONT)
		c.nodes[b].signal(syscall.SIGCONT)
		c.converge(t, 3, 0, 1, 2)
	})
}

// testPlacement makes a stream as soon as the nodes say that all is well after a follower hung for so long that its routes were given up. Plain nats-server
// refuses that for up to ten seconds.
func (c *testCluster) testPlacement(t *testing.T) {
	t.Run("a stream after a hang", func(t *testing.T) {
		leader := c.index(t, c.status(t, 0).MetaLeader)
		hung, _ := others(leader)
		connected := func() bool {
			for _, p := range c.status(t, leader).Peers {
				if p.Name == c.configs[hung].Name {
					return p.Connected
				}
			}
			return false
		}
		nc, err := client.Connect(t.Context(), client.Options{Servers: []string{"nats://" + c.configs[leader].ClientListen}, Key: c.admin})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc.Conn)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			c.nodes[hung].signal(syscall.SIGSTOP)
			_, gone := until(waitLong, func() bool { return !connected() })
			c.nodes[hung].signal(syscall.SIGCONT)
			if !gone {
				t.Fatal("the route to a node that hangs is not given up")
			}
			c.converge(t, 3, 0, 1, 2)
			ctx, cancel := context.WithTimeout(t.Context(), waitLong)
			defer cancel()
			name := fmt.Sprintf("AFTER_%d", i)
			if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3}); err != nil {
				t.Errorf("make a stream, after hang %d: %v", i+1, err)
			}
		}
	})
}

// testOwnNode asks the node that it is connected to, and no other: not one that hangs either, which has its place among those that answer until it is missed.
func (c *testCluster) testOwnNode(t *testing.T) {
	t.Run("the node that is asked answers", func(t *testing.T) {
		hung := 2
		var clients []*control.Client
		for i := range c.configs {
			clients = append(clients, c.dial(t, c.admin, i))
		}
		wantOwn := func(nodes ...int) {
			t.Helper()
			for _, i := range nodes {
				for range 8 {
					ctx, cancel := context.WithTimeout(t.Context(), waitAsk)
					s, err := clients[i].Status(ctx)
					cancel()
					if err != nil || s.Node != c.configs[i].Name {
						t.Errorf("asked %s: %q, %v", c.configs[i].Name, s.Node, err)
					}
				}
			}
		}
		wantOwn(0, 1, 2)
		c.nodes[hung].signal(syscall.SIGSTOP)
		wantOwn(0, 1)
		c.nodes[hung].signal(syscall.SIGCONT)
		c.converge(t, 3, 0, 1, 2)
	})
}

// wantUnavailable wants an answer within seconds that does not claim a success or a harmless failure wrongly.
func (c *testCluster) wantUnavailable(t *testing.T, client *control.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLong)
	defer cancel()
	start := time.Now()
	_, err := client.Put(ctx, "lost", "x", nil)
	wantCode(t, err, control.Unavailable)
	_, err = client.Get(ctx, "a")
	wantCode(t, err, control.Unavailable)
	_, err = client.List(ctx)
	wantCode(t, err, control.Unavailable)
	if took := time.Since(start); took > waitAsk {
		t.Errorf("it took %s to be refused", took)
	}
}

func (c *testCluster) testStopAndRestart(t *testing.T) {
	t.Run("stop and restart", func(t *testing.T) {
		limit := c.configs[0].LameDuck + waitAsk
		if took := c.nodes[0].stop(t); took > limit {
			t.Errorf("with two others it took %s to stop", took)
		}
		c.nodes[1].killAndWait()
		if took := c.nodes[2].stop(t); took > limit {
			t.Errorf("alone it took %s to stop", took)
		}
		c.startAll(t)
		c.converge(t, 3, 0, 1, 2)
		client := c.dial(t, c.user, 2)
		c.wantSetting(t, client, "a", "two")
		c.wantSetting(t, client, "two-of-three", "yes")
	})
}

// TestScaleUp takes a cluster from R1 to R3 in place.
func TestScaleUp(t *testing.T) {
	c := newTestCluster(t)
	for i := range c.configs {
		c.configs[i].Replicas = 1
	}
	c.startAll(t)
	c.converge(t, 1, 0, 1, 2)
	s := c.status(t, 0)
	if s.Posture.State != health.PostureDegraded || !strings.Contains(s.Posture.Why, "R1") {
		t.Errorf("posture at R1: %+v", s.Posture)
	}
	client := c.dial(t, c.admin, 0, 1, 2)
	const settings = 20
	for i := range settings {
		c.put(t, client, fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	holder := c.holder(t)
	a, b := others(holder)
	c.nodes[holder].killAndWait()
	for _, i := range []int{a, b} {
		if took := c.untilHTTP(t, i, "healthz", 503, ""); took > turnsIn {
			t.Errorf("%s took %s to notice that the holder is gone", c.configs[i].Name, took)
		}
	}
	c.untilHTTP(t, a, "healthz", 503, "UNIBUS_settings: there is no route to its leader") // and not only while the meta leader is elected
	c.start(t, holder)
	c.converge(t, 1, 0, 1, 2)
	ctx, cancel := context.WithTimeout(t.Context(), waitLong)
	defer cancel()
	if _, err := client.Scale(ctx, 3); err != nil {
		t.Fatalf("scale: %v", err)
	}
	c.converge(t, 3, 0, 1, 2)
	c.nodes[holder].killAndWait()
	for _, i := range []int{a, b} {
		if _, ok := until(turnsIn, func() bool { return c.status(t, i).Quorum.Have == 2 }); !ok {
			t.Errorf("%s has not noticed that the holder is gone", c.configs[i].Name)
		}
	}
	c.converge(t, 3, a, b)
	survivors := c.dial(t, c.admin, a, b)
	for i := range settings {
		c.wantSetting(t, survivors, fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
	}
	c.put(t, survivors, "after", "all")
}

func (c *testCluster) holder(t *testing.T) int {
	t.Helper()
	for _, b := range c.status(t, 0).Buckets {
		if b.Name == membershipd.BucketSettings {
			return c.index(t, b.Leader)
		}
	}
	t.Fatal("no settings bucket")
	return 0
}
