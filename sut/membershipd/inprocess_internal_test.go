package membershipd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/loopback"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	settleWait = 90 * time.Second // for what needs elections, on a loaded machine
	settlePoll = 20 * time.Millisecond
)

// inProcess is a cluster of three daemons in the test's own process: they cannot be killed, but looked into.
type inProcess struct {
	t     testing.TB
	dir   string
	confs []Config
	nodes [3]*Daemon
	stops [3]func()
	admin nkeys.KeyPair
	clock [3]atomic.Int64 // by how much each node's clock is ahead, as far as it compares it
	left  [3]atomic.Bool  // whether the node ended by itself, because of its clock
}

// lockedBuffer takes the logs of several daemons.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-80):], "\n")
}

func userKey(t testing.TB) (nkeys.KeyPair, string) {
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

func putFile(t testing.TB, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func newInProcess(t testing.TB, change func(*Config)) *inProcess {
	t.Helper()
	c := &inProcess{t: t, dir: t.TempDir()}
	var admin string
	c.admin, admin = userKey(t)
	keys := putFile(t, filepath.Join(c.dir, "keys"), admin+" admin\n", 0o644)
	pass := putFile(t, filepath.Join(c.dir, "pass"), "secret\n", 0o600)
	var addrs []string
	for range 9 {
		p, err := loopback.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Release() })
		addrs = append(addrs, p.Addr)
	}
	logs := &lockedBuffer{}
	for i := range 3 {
		m := DefaultConfig()
		m.Name, m.DataDir = fmt.Sprintf("n%d", i+1), filepath.Join(c.dir, fmt.Sprintf("n%d", i+1))
		m.Routes, m.ClusterListen = addrs[:3], addrs[i]
		m.ClientListen, m.HTTPListen = addrs[3+i], addrs[6+i]
		m.ClusterPassFile, m.StaticKeysFile, m.LameDuck = pass, keys, 0
		m.Log = slog.New(slog.NewTextHandler(logs, nil))
		if change != nil {
			change(&m)
		}
		c.confs = append(c.confs, m)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
		if t.Failed() {
			t.Logf("the daemons' logs:\n%s", logs.tail())
		}
	})
	return c
}

// start runs a node until stop, which waits for its end.
func (c *inProcess) start(i int) {
	c.t.Helper()
	d, err := New(c.confs[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.left[i].Store(false)
	d.now = func() time.Time { return time.Now().Add(time.Duration(c.clock[i].Load())) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := d.Run(ctx)
		c.left[i].Store(errors.Is(err, ErrClockWrong))
		if err != nil && !errors.Is(err, ErrConfig) && !errors.Is(err, ErrClockWrong) {
			c.t.Errorf("%s ended: %v", c.confs[i].Name, err)
		}
	}()
	c.nodes[i] = d
	c.stops[i] = func() {
		cancel()
		<-done
	}
}

func (c *inProcess) stop(i int) {
	if c.stops[i] != nil {
		c.stops[i]()
		c.stops[i], c.nodes[i] = nil, nil
	}
}

func (c *inProcess) startAll() {
	c.t.Helper()
	for i := range c.nodes {
		c.start(i)
	}
	c.ready(0, 1, 2)
}

// ready waits until these nodes say that they are, and that streams can be placed on those that they are connected to.
func (c *inProcess) ready(nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		untilTrue(c.t, c.confs[i].Name+" is ready", func() bool {
			s := c.nodes[i].eval.view()
			return s.Ready && !slices.ContainsFunc(s.Peers, func(p health.Peer) bool { return p.Connected && !p.Placeable })
		})
	}
}

// untilTrue waits for a condition.
func untilTrue(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(settleWait)
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come true that %s", what)
		}
		<-tick.C
	}
}

func (c *inProcess) url(i int) string { return "nats://" + c.confs[i].ClientListen }

// api connects to the control API through these nodes.
func (c *inProcess) api(key nkeys.KeyPair, nodes ...int) *control.Client {
	c.t.Helper()
	var urls []string
	for _, i := range nodes {
		urls = append(urls, c.url(i))
	}
	conn, err := control.Dial(context.Background(), client.Options{Servers: urls, Key: key})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Close)
	return conn
}

// login opens a user's connection, which is not opened again when it is closed.
func (c *inProcess) login(key nkeys.KeyPair, i int, opts ...nats.Option) (*nats.Conn, error) {
	c.t.Helper()
	pub, err := key.PublicKey()
	if err != nil {
		c.t.Fatal(err)
	}
	nc, err := nats.Connect(c.url(i), append([]nats.Option{nats.Nkey(pub, key.Sign), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.Timeout(settleWait),
		nats.CustomInboxPrefix("_INBOX_" + pub), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)...)
	if err == nil {
		c.t.Cleanup(nc.Close)
	}
	return nc, err
}

func wantControl(t testing.TB, err error, want control.Code) {
	t.Helper()
	var e *control.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("got %v, want the code %s", err, want)
	}
}
