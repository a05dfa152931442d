package membershipd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	gatherInterval = 40 * time.Millisecond  // between two calls to a node that is not there yet
	gatherIdle     = 250 * time.Millisecond // the same when nobody has come for a while: who comes calls first
	gatherEager    = 50                     // calls before that
	gatherPatience = 500 * time.Millisecond
	gatherSeen     = 2 * time.Second // how long a node that was there counts as there
	gatherLine     = 256             // longest line of the protocol
)

// rendezvous holds back the embedded server of a node whose store is new until all nodes of the cluster are there.
//
// The first election of a cluster needs the votes of all nodes. nats-server asks for them within a second of its start, and if one node is not up
// by then it asks again only after 4 to 9 s. So nodes with a new store first meet on their route addresses, and then start together:
//
//	store not new ---------------------------------------------------> start
//	store new -> all others are waiting here, too -------------------> start
//	          -> another one's server already answers ("INFO ...") --> start: the cluster exists, or is just being formed
//	          -> otherwise: wait; the first start would fail anyway
//
// Lines: a listener says "UNIBUS WAIT cluster name", the caller then "UNIBUS HELLO cluster name". Where routes are encrypted this is, too, with
// certificates of the routes' authority on both sides. Without, the lines carry no secret, and the worst that a stranger can do with them is to make a
// node start as if nothing were waiting.
type rendezvous struct {
	cfg     Config
	tls     *tls.Config // mutual, as between the servers; nil for plain text
	changed func()      // somebody was seen

	mu   sync.Mutex
	seen map[string]time.Time
	done chan struct{} // closed when the server may start
	once sync.Once
}

func newRendezvous(cfg Config, tls *tls.Config, changed func()) *rendezvous {
	return &rendezvous{cfg: cfg, tls: tls, changed: changed, seen: map[string]time.Time{}, done: make(chan struct{})}
}

// storeIsNew is true when the embedded server has never started on this data directory.
func storeIsNew(cfg Config) (bool, error) {
	_, err := os.Stat(filepath.Join(cfg.DataDir, "jetstream", accountSystem, "_js_", metaGroup))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for an earlier store: %w", err)
	}
	return false, nil
}

// wait returns true when the server may start, and false when ctx ended first.
func (r *rendezvous) wait(ctx context.Context) (met bool, err error) {
	l, err := net.Listen("tcp", r.cfg.ClusterListen)
	if err != nil {
		return false, fmt.Errorf("listen for routes: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { r.answer(&tasks, l) })
	for _, route := range r.cfg.Routes {
		tasks.Go(func() { r.callAgain(ctx, route) })
	}
	select {
	case <-ctx.Done():
	case <-r.done:
		met = true
	}
	cancel()
	err = l.Close() // before the server listens on the same address
	tasks.Wait()
	return met && err == nil, err
}

func (r *rendezvous) answer(tasks *sync.WaitGroup, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of the caller, or for want of file descriptors: its next call is soon
		}
		tasks.Go(func() { r.greet(conn) })
	}
}

// greet says that this node is waiting, and hears who calls.
func (r *rendezvous) greet(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // nothing depends on it
	if conn.SetDeadline(time.Now().Add(gatherPatience)) != nil {
		return
	}
	if r.tls != nil {
		conn = tls.Server(conn, r.tls)
	}
	if _, err := fmt.Fprintf(conn, "UNIBUS WAIT %s %s\n", r.cfg.ClusterName, r.cfg.Name); err != nil {
		return
	}
	r.hear(readLine(conn), "UNIBUS HELLO ")
}

func (r *rendezvous) callAgain(ctx context.Context, route string) {
	t := time.NewTicker(gatherInterval)
	defer t.Stop()
	for n := 0; ; n++ {
		if n == gatherEager {
			t.Reset(gatherIdle)
		}
		r.call(ctx, route)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// call asks one address who is there. It may be this node's own.
func (r *rendezvous) call(ctx context.Context, route string) {
	ctx, cancel := context.WithTimeout(ctx, gatherPatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", route)
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // nothing depends on it
	if conn.SetDeadline(time.Now().Add(gatherPatience)) != nil {
		return
	}
	raw := conn // what follows may run while conn is replaced
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Now()) })
	defer stop()
	if r.tls != nil {
		conn = tls.Client(conn, r.dialConfig(route))
	}
	line := readLine(conn)
	if strings.HasPrefix(line, "INFO ") {
		r.finish()
		return
	}
	if r.hear(line, "UNIBUS WAIT ") {
		_, _ = fmt.Fprintf(conn, "UNIBUS HELLO %s %s\n", r.cfg.ClusterName, r.cfg.Name) // if it fails, the other one calls too
	}
}

// dialConfig wants a certificate for the host that is called.
func (r *rendezvous) dialConfig(route string) *tls.Config {
	c := r.tls.Clone()
	c.ServerName, _, _ = net.SplitHostPort(route) // the settings were checked
	return c
}

func readLine(conn net.Conn) string {
	br := bufio.NewReaderSize(conn, gatherLine)
	line, err := br.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return ""
	}
	return strings.TrimSpace(string(line)) // a server's INFO is longer than the buffer: its beginning is enough
}

// hear notes another node of this cluster. It returns whether the line came from one.
func (r *rendezvous) hear(line, prefix string) bool {
	rest, ok := strings.CutPrefix(line, prefix)
	cluster, name, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || cluster != r.cfg.ClusterName || name == r.cfg.Name || !nameForm.MatchString(name) {
		return false
	}
	r.mu.Lock()
	_, known := r.seen[name]
	r.seen[name] = time.Now()
	r.mu.Unlock()
	if !known {
		r.changed()
	}
	if len(r.present()) >= len(r.cfg.Routes)-1 {
		r.finish()
	}
	return true
}

func (r *rendezvous) finish() { r.once.Do(func() { close(r.done) }) }

// present lists the other nodes that are waiting now.
func (r *rendezvous) present() []health.PeerFacts {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []health.PeerFacts
	for name, t := range r.seen {
		if age := time.Since(t); age <= gatherSeen {
			out = append(out, health.PeerFacts{Name: name, Age: age, Connected: true})
		}
	}
	return out
}
