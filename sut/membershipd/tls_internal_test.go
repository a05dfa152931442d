package membershipd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/loopback"
	"github.com/unibus/unibus/sut/pki"
)

const (
	tlsWait = 30 * time.Second // far above what anything here takes on a loaded machine
	tlsLook = 10 * time.Millisecond
)

// lab is a cluster's authorities and the files of its nodes.
type lab struct {
	t               *testing.T
	dir             string
	clients, routes *pki.Authority
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	l.clients, l.routes = l.authority("clients"), l.authority("routes")
	return l
}

func (l *lab) authority(name string) *pki.Authority {
	l.t.Helper()
	a, err := pki.NewAuthority(pki.AuthorityRequest{Name: name, Algorithm: pki.Ed25519})
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

func (l *lab) issue(a *pki.Authority, r pki.Request) pki.Pair {
	l.t.Helper()
	if r.Name == "" {
		r.Name = "n"
	}
	if r.Hosts == nil {
		r.Hosts = []string{"127.0.0.1"}
	}
	p, err := a.Issue(r)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *lab) tlsOf(p pki.Pair) tls.Certificate {
	l.t.Helper()
	c, err := p.TLS()
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) put(path string, content []byte) {
	l.t.Helper()
	if err := pki.WriteFile(path, content); err != nil {
		l.t.Fatal(err)
	}
}

// config is that of node i of three, with its files written.
func (l *lab) config(i int, routes []string) Config {
	l.t.Helper()
	dir := filepath.Join(l.dir, fmt.Sprint("n", i+1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	c := DefaultConfig()
	c.Name, c.DataDir, c.Routes, c.ClusterPassFile = fmt.Sprint("n", i+1), filepath.Join(dir, "data"), routes, "unused"
	c.ClusterListen, c.ClientListen = routes[i], reserve(l.t)
	at := func(name string) string { return filepath.Join(dir, name) }
	c.TLSCert, c.TLSKey, c.TLSCA = at("tls.crt"), at("tls.key"), at("tls-ca.crt")
	c.ClusterTLSCert, c.ClusterTLSKey, c.ClusterTLSCA = at("cluster.crt"), at("cluster.key"), at("cluster-ca.crt")
	l.write(c, l.issue(l.clients, pki.Request{Usage: pki.Server}), l.clients.PEM(), l.issue(l.routes, pki.Request{}), l.routes.PEM())
	return c
}

func (l *lab) write(c Config, client pki.Pair, clientCA []byte, route pki.Pair, routeCA []byte) {
	l.t.Helper()
	for path, content := range map[string][]byte{
		c.TLSCert: client.Cert, c.TLSKey: client.Key, c.TLSCA: clientCA, c.ClusterTLSCert: route.Cert, c.ClusterTLSKey: route.Key, c.ClusterTLSCA: routeCA,
	} {
		l.put(path, content)
	}
}

func reserve(t *testing.T) string {
	t.Helper()
	p, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Release() })
	return p.Addr
}

func threeRoutes(t *testing.T) []string {
	t.Helper()
	return []string{reserve(t), reserve(t), reserve(t)}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	l := newLab(t)
	routes := []string{"127.0.0.1:1", "127.0.0.1:2", "n3.example:3"}
	for name, tc := range map[string]struct {
		spoil func(c Config)
		want  string
	}{
		"a key that others can read":  {func(c Config) { chmod(t, c.TLSKey, 0o640) }, "can be read by others"},
		"a route key as well":         {func(c Config) { chmod(t, c.ClusterTLSKey, 0o604) }, "can be read by others"},
		"no certificate":              {func(c Config) { remove(t, c.TLSCert) }, "no such file"},
		"an empty certificate":        {func(c Config) { l.put(c.TLSCert, nil) }, "failed to find any PEM data"},
		"half a key":                  {func(c Config) { l.put(c.TLSKey, []byte("-----BEGIN PRIVATE KEY-----\nMC4")) }, "failed to find any PEM data"},
		"another's key":               {func(c Config) { l.put(c.TLSKey, l.issue(l.clients, pki.Request{}).Key) }, "does not match"},
		"no authority":                {func(c Config) { l.put(c.ClusterTLSCA, []byte("# none\n")) }, "no such PEM block"},
		"a leaf for an authority":     {func(c Config) { l.put(c.ClusterTLSCA, l.issue(l.routes, pki.Request{}).Cert) }, "is not an authority"},
		"the same authority for both": {func(c Config) { l.put(c.TLSCA, pki.Bundle(l.clients, l.routes)) }, "routes need authorities of their own"},
		"an expired one":              {func(c Config) { l.client(c, pki.Request{Lifetime: -time.Hour}) }, "expired"},
		"a future one":                {func(c Config) { l.client(c, pki.Request{NotBefore: time.Now().Add(time.Hour)}) }, "is not valid before"},
		"a client's for the listener": {func(c Config) { l.client(c, pki.Request{Usage: pki.Client}) }, "not one of a server"},
		"a route's of a stranger":     {func(c Config) { l.route(c, l.clients, pki.Request{}) }, "signed by unknown authority"},
		"a route's for servers only":  {func(c Config) { l.route(c, l.routes, pki.Request{Usage: pki.Server}) }, "not good for both sides"},
		"a route's for clients only":  {func(c Config) { l.route(c, l.routes, pki.Request{Usage: pki.Client}) }, "not good for both sides"},
		"a route's for another host":  {func(c Config) { l.route(c, l.routes, pki.Request{Hosts: []string{"192.0.2.1", "n4.example"}}) }, "none of the hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			c := l.config(0, routes)
			if _, err := newCertificates(c); err != nil {
				t.Fatalf("the good ones are refused: %v", err)
			}
			tc.spoil(c)
			if cs, err := newCertificates(c); !errors.Is(err, ErrTLS) || !strings.Contains(err.Error(), tc.want) || cs != nil {
				t.Errorf("got %v, want one that contains %q", err, tc.want)
			}
		})
	}
}

// client and route replace one pair of a node.
func (l *lab) client(c Config, r pki.Request) {
	p := l.issue(l.clients, r)
	l.put(c.TLSKey, p.Key)
	l.put(c.TLSCert, p.Cert)
}

func (l *lab) route(c Config, a *pki.Authority, r pki.Request) {
	p := l.issue(a, r)
	l.put(c.ClusterTLSKey, p.Key)
	l.put(c.ClusterTLSCert, p.Cert)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestPlainTextHasNoCertificates(t *testing.T) {
	c := DefaultConfig()
	cs, err := newCertificates(c)
	if err != nil || cs.of(listenerClients).config() != nil || cs.of(listenerRoutes).config() != nil {
		t.Fatalf("%+v, %v", cs, err)
	}
	if s := cs.status(time.Now()); s.Clients.Enabled || s.Routes.Enabled || s.Routes.Warning != "plain text" {
		t.Errorf("status %+v", s)
	}
}

func TestWarningsOfExpiry(t *testing.T) {
	l := newLab(t)
	c := l.config(0, threeRoutes(t))
	cs, err := newCertificates(c)
	if err != nil {
		t.Fatal(err)
	}
	end := cs.of(listenerRoutes).current.Load().leaf.NotAfter
	for at, want := range map[time.Time]string{
		time.Now(): "", end.Add(-15 * 24 * time.Hour): "", end.Add(-13 * 24 * time.Hour): "expires in 13.0 days", end.Add(time.Second): "has expired",
	} {
		s := cs.status(at)
		if got := s.Routes.Warning; (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%v before the end: %q, want %q", end.Sub(at), got, want)
		}
		if !s.Routes.NotAfter.Equal(end) || s.Routes.ClientAuth != TLSVerify || s.Clients.ClientAuth != TLSNone || s.Routes.AuthorityNotAfter == nil {
			t.Errorf("status %+v", s)
		}
	}
}

// peers are embedded servers with the daemon's options, without JetStream.
type peer struct {
	cfg   Config
	certs *certificates
	srv   *server.Server
	log   *testLog
}

// testLog keeps what a server says.
type testLog struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

func (l *testLog) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.lines.String(), s)
}

// anyKey lets everybody in: what is tested happens before.
type anyKey struct{}

func (anyKey) Check(server.ClientAuthentication) bool { return true }

func startPeer(t *testing.T, c Config) *peer {
	t.Helper()
	p := &peer{cfg: c, log: &testLog{}}
	p.cfg.Log = slog.New(slog.NewTextHandler(p.log, nil))
	var err error
	if p.certs, err = newCertificates(p.cfg); err != nil {
		t.Fatal(err)
	}
	o, err := serverOptions(p.cfg, "the password", p.certs)
	if err != nil {
		t.Fatal(err)
	}
	o.JetStream, o.CustomClientAuthentication = false, anyKey{}
	if p.srv, err = server.NewServer(o); err != nil {
		t.Fatal(err)
	}
	fatal := make(chan error, 1)
	p.srv.SetLoggerV2(&serverLog{log: p.cfg.Log, fatal: fatal}, false, false, false)
	go p.srv.Start()
	t.Cleanup(func() {
		p.srv.Shutdown()
		p.srv.WaitForShutdown()
		if t.Failed() {
			t.Logf("log of %s:\n%s", c.Name, p.log.lines.String())
		}
	})
	if !p.srv.ReadyForConnections(tlsWait) {
		t.Fatalf("%s does not start", c.Name)
	}
	return p
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tlsWait)
	defer cancel()
	tick := time.NewTicker(tlsLook)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in %v: %s", tlsWait, what)
		case <-tick.C:
		}
	}
}

// speaks dials like a node or client and returns the first line it is told; TLS 1.3 shows a refusal of the dialer's certificate only then.
func speaks(addr string, c *tls.Config) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, tlsWait)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // only read
	if err := conn.SetDeadline(time.Now().Add(tlsWait)); err != nil {
		return "", err
	}
	if c != nil {
		conn = tls.Client(conn, c)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if line != "" {
		return line, nil
	}
	return "", err
}

func TestRoutesNeedTheirOwnAuthority(t *testing.T) {
	l := newLab(t)
	routes := threeRoutes(t)
	one, two := startPeer(t, l.config(0, routes)), startPeer(t, l.config(1, routes))
	eventually(t, "routes between the two", func() bool { return one.srv.NumRoutes() > 0 && two.srv.NumRoutes() > 0 })
	if one.log.contains("DO NOT USE IN PRODUCTION") {
		t.Error("the log says that routes are not verified")
	}

	t.Run("who dials", func(t *testing.T) {
		for name, tc := range map[string]struct {
			config *tls.Config
			want   string // "" for success
		}{
			"a node":                     {&tls.Config{Certificates: []tls.Certificate{l.tlsOf(l.issue(l.routes, pki.Request{}))}}, ""},
			"nobody":                     {&tls.Config{}, "certificate required"},
			"a client":                   {&tls.Config{Certificates: []tls.Certificate{l.tlsOf(l.issue(l.clients, pki.Request{}))}}, "bad certificate|unknown certificate authority|certificate required"},
			"a node's server":            {&tls.Config{Certificates: []tls.Certificate{l.tlsOf(l.issue(l.routes, pki.Request{Usage: pki.Server}))}}, "bad certificate|unsupported certificate"},
			"a node with an expired one": {&tls.Config{Certificates: []tls.Certificate{l.tlsOf(l.issue(l.routes, pki.Request{Lifetime: -time.Hour}))}}, "expired|bad certificate"},
			"a node with old TLS":        {&tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{l.tlsOf(l.issue(l.routes, pki.Request{}))}}, "protocol version"},
		} {
			tc.config.RootCAs, tc.config.ServerName = l.routes.Pool(), "127.0.0.1"
			line, err := speaks(routes[0], tc.config)
			if tc.want == "" && !strings.HasPrefix(line, "INFO ") {
				t.Errorf("%s: %q, %v", name, line, err)
			}
			if tc.want != "" && (err == nil || !containsOne(err.Error(), tc.want)) {
				t.Errorf("%s: %q, %v; want %s", name, line, err, tc.want)
			}
		}
		if _, err := speaks(routes[0], &tls.Config{RootCAs: l.clients.Pool(), ServerName: "127.0.0.1"}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("routes show a certificate of the clients' authority: %v", err)
		}
	})

	t.Run("a whole node of the wrong authority", func(t *testing.T) {
		c := l.config(2, routes)
		stranger := newLab(t)
		stranger.routes = l.clients // what it has is good for clients here
		l.write(c, l.issue(stranger.clients, pki.Request{Usage: pki.Server}), stranger.clients.PEM(), l.issue(l.clients, pki.Request{}), l.clients.PEM())
		three := startPeer(t, c)
		eventually(t, "its calls refused", func() bool { return three.log.contains("TLS route handshake error") })
		eventually(t, "its answers refused", func() bool { return one.log.contains("TLS route handshake error") })
		if n := three.srv.NumRoutes(); n != 0 {
			t.Errorf("it has %d routes", n)
		}
	})
}

func containsOne(s, alternatives string) bool {
	for a := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(s, a) {
			return true
		}
	}
	return false
}

func TestClientListener(t *testing.T) {
	l := newLab(t)
	c := l.config(0, threeRoutes(t))
	c.TLSClientAuth = TLSVerify
	p := startPeer(t, c)
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	files := func(name string, pair pki.Pair) (string, string) {
		cert, key := filepath.Join(l.dir, name+".crt"), filepath.Join(l.dir, name+".key")
		if err := pair.Write(cert, key); err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	goodCert, goodKey := files("good", l.issue(l.clients, pki.Request{Usage: pki.Client}))
	routeCert, routeKey := files("route", l.issue(l.routes, pki.Request{}))
	for name, tc := range map[string]struct {
		o  client.Options
		ok bool
	}{
		"with a certificate":               {client.Options{RootCAs: l.clients.Pool(), CertFile: goodCert, KeyFile: goodKey}, true},
		"without":                          {client.Options{RootCAs: l.clients.Pool()}, false},
		"with a node's":                    {client.Options{RootCAs: l.clients.Pool(), CertFile: routeCert, KeyFile: routeKey}, false},
		"that believes another authority":  {client.Options{RootCAs: l.routes.Pool(), CertFile: goodCert, KeyFile: goodKey}, false},
		"that wants another name":          {client.Options{RootCAs: l.clients.Pool(), CertFile: goodCert, KeyFile: goodKey, ServerName: "n9.example"}, false},
		"that does not insist on anything": {client.Options{}, false},
	} {
		tc.o.Servers, tc.o.Key = []string{"nats://" + p.cfg.ClientListen}, key
		conn, err := client.Connect(t.Context(), tc.o)
		if (err == nil) != tc.ok {
			t.Errorf("a client %s: %v", name, err)
		}
		if err == nil {
			if s, err := conn.TLSConnectionState(); err != nil || s.Version != tls.VersionTLS13 {
				t.Errorf("a client %s: %+v, %v", name, s.Version, err)
			}
			conn.Close()
		}
	}
	if _, err := speaks(p.cfg.ClientListen, nil); err != nil {
		t.Errorf("the server does not greet first: %v", err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(p.srv), nats.Timeout(tlsWait)) // as the daemon itself does
	if err != nil {
		t.Fatalf("from this very process: %v", err)
	}
	nc.Close()
}

// TestRotation goes all the way from one pair of authorities to another: both, new leaves, the new one alone. Nothing that is open is closed.
func TestRotation(t *testing.T) {
	l := newLab(t)
	routes := threeRoutes(t)
	one, two := startPeer(t, l.config(0, routes)), startPeer(t, l.config(1, routes))
	eventually(t, "routes between the two", func() bool { return one.srv.NumRoutes() > 0 && two.srv.NumRoutes() > 0 })
	ctx, stop := context.WithCancel(t.Context())
	reloads := make(chan struct{}, 1)
	var watching sync.WaitGroup
	watching.Go(func() { one.certs.watch(ctx, reloads) })
	watching.Go(func() { two.certs.watch(ctx, nil) })
	defer watching.Wait()
	defer stop()

	old, fresh := *l, &lab{t: t, dir: l.dir}
	fresh.clients, fresh.routes = l.authority("new clients"), l.authority("new routes")
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	conn, err := client.Connect(t.Context(), client.Options{
		Servers: []string{"nats://" + one.cfg.ClientListen}, Key: key, RootCAs: old.clients.Pool(),
		NATS: []nats.Option{nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { closed <- err })},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var routed []string
	since := time.Now()
	eventually(t, "routes that have settled: the pool's, and one for the system account", func() bool {
		if now := routeIDs(t, one.srv); !slices.Equal(now, routed) {
			routed, since = now, time.Now()
		}
		return len(routed) > 3 && time.Since(since) > time.Second
	})

	both := []*peer{one, two}
	loaded := func(n uint64) func() bool {
		return func() bool {
			for _, p := range both {
				if s := p.certs.status(time.Now()); s.Clients.Reloads < n || s.Routes.Reloads < n {
					return false
				}
			}
			return true
		}
	}
	for _, p := range both {
		l.put(p.cfg.TLSCA, pki.Bundle(old.clients, fresh.clients))
		l.put(p.cfg.ClusterTLSCA, pki.Bundle(old.routes, fresh.routes))
	}
	eventually(t, "both bundles in force", loaded(1))
	for _, p := range both {
		fresh.client(p.cfg, pki.Request{Usage: pki.Server})
		fresh.route(p.cfg, fresh.routes, pki.Request{})
	}
	eventually(t, "new leaves in force", loaded(2))
	for _, p := range both {
		l.put(p.cfg.TLSCA, fresh.clients.PEM())
		l.put(p.cfg.ClusterTLSCA, fresh.routes.PEM())
	}
	eventually(t, "the old authority gone", loaded(3))

	if _, err := speaks(routes[0], &tls.Config{RootCAs: old.routes.Pool(), ServerName: "127.0.0.1", Certificates: []tls.Certificate{l.tlsOf(l.issue(old.routes, pki.Request{}))}}); err == nil {
		t.Error("a node of the old authority still gets in")
	}
	if line, err := speaks(routes[0], &tls.Config{RootCAs: fresh.routes.Pool(), ServerName: "127.0.0.1", Certificates: []tls.Certificate{l.tlsOf(l.issue(fresh.routes, pki.Request{}))}}); err != nil {
		t.Errorf("a node of the new authority: %q, %v", line, err)
	}
	if now := routeIDs(t, one.srv); !slices.Equal(now, routed) {
		t.Errorf("routes were %s and are %s", routed, now)
	}
	select {
	case err := <-closed:
		t.Errorf("the client was disconnected: %v", err)
	default:
		if err := conn.FlushTimeout(tlsWait); err != nil {
			t.Errorf("the client's connection: %v", err)
		}
	}

	t.Run("a bad pair is not put in force", func(t *testing.T) {
		before := one.certs.of(listenerRoutes).current.Load()
		l.put(one.cfg.ClusterTLSCert, []byte("garbage"))
		reloads <- struct{}{}
		eventually(t, "the failure reported", func() bool {
			s := one.certs.status(time.Now()).Routes
			return s.ReloadError != "" && s.ReloadFailures > 0 && strings.Contains(s.Warning, "cannot be used")
		})
		if one.certs.of(listenerRoutes).current.Load() != before || !one.log.contains("keep the old ones") {
			t.Error("the old ones are not kept, or nothing is said")
		}
		fresh.route(one.cfg, fresh.routes, pki.Request{})
		eventually(t, "the repair noticed", func() bool { return one.certs.status(time.Now()).Routes.ReloadError == "" })
	})
	t.Run("a new route after all that", func(t *testing.T) {
		three := startPeer(t, fresh.config(2, routes))
		eventually(t, "routes to both", func() bool { return three.srv.NumRoutes() >= 2*one.srv.NumRoutes()/2 && three.srv.NumRoutes() > 0 })
	})
}

// routeIDs tells one set of routes from another.
func routeIDs(t *testing.T, s *server.Server) []string {
	t.Helper()
	z, err := s.Routez(nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range z.Routes {
		ids = append(ids, fmt.Sprint(r.Rid))
	}
	slices.Sort(ids)
	return ids
}

func TestRendezvousIsMutual(t *testing.T) {
	l := newLab(t)
	routes := threeRoutes(t)
	ctx, cancel := context.WithTimeout(t.Context(), tlsWait)
	defer cancel()
	met := make(chan string, len(routes))
	start := func(i int) {
		c := l.config(i, routes)
		cs, err := newCertificates(c)
		if err != nil {
			t.Fatal(err)
		}
		r := newRendezvous(c, cs.of(listenerRoutes).config(), func() {})
		go func() {
			if ok, err := r.wait(ctx); ok && err == nil {
				met <- c.Name
			}
		}()
	}
	start(0)
	start(1)
	good := &tls.Config{RootCAs: l.routes.Pool(), ServerName: "127.0.0.1", Certificates: []tls.Certificate{l.tlsOf(l.issue(l.routes, pki.Request{}))}}
	eventually(t, "the first one waiting", func() bool { line, _ := speaks(routes[0], good); return strings.HasPrefix(line, "UNIBUS WAIT") })
	for name, c := range map[string]*tls.Config{
		"plain": nil, "without a certificate": {RootCAs: l.routes.Pool(), ServerName: "127.0.0.1"},
		"with a client's": {RootCAs: l.routes.Pool(), ServerName: "127.0.0.1", Certificates: []tls.Certificate{l.tlsOf(l.issue(l.clients, pki.Request{}))}},
	} {
		if hello(routes[0], c) {
			t.Errorf("a stranger %s is heard", name)
		}
	}
	select {
	case who := <-met:
		t.Fatalf("%s started without the third", who)
	default:
	}
	start(2)
	for range routes {
		select {
		case <-met:
		case <-ctx.Done():
			t.Fatal("they do not meet")
		}
	}
}

// hello claims to be the third node, and returns whether it was greeted.
func hello(addr string, c *tls.Config) bool {
	conn, err := net.DialTimeout("tcp", addr, tlsWait)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing depends on it
	if conn.SetDeadline(time.Now().Add(tlsWait)) != nil {
		return false
	}
	if c != nil {
		conn = tls.Client(conn, c)
	}
	_, _ = fmt.Fprint(conn, "UNIBUS HELLO unibus n3\n") // refused, or not understood
	line := readLine(conn)
	return strings.HasPrefix(line, "UNIBUS WAIT")
}

func TestCheckTLS(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string // "" for success
	}{
		"nothing":                          {func(*Config) {}, ""},
		"clients alone":                    {func(c *Config) { c.TLSCert, c.TLSKey = "c", "k" }, ""},
		"clients with certificates":        {func(c *Config) { c.TLSCert, c.TLSKey, c.TLSCA, c.TLSClientAuth = "c", "k", "a", TLSVerify }, ""},
		"routes alone":                     {func(c *Config) { c.ClusterTLSCert, c.ClusterTLSKey, c.ClusterTLSCA = "c", "k", "a" }, ""},
		"a certificate alone":              {func(c *Config) { c.TLSCert = "c" }, "give both or none"},
		"a key alone":                      {func(c *Config) { c.TLSKey = "k" }, "give both or none"},
		"an authority alone":               {func(c *Config) { c.TLSCA = "a" }, "need --tls-cert"},
		"verification of nothing":          {func(c *Config) { c.TLSClientAuth = TLSVerify }, "need --tls-cert"},
		"verification without authorities": {func(c *Config) { c.TLSCert, c.TLSKey, c.TLSClientAuth = "c", "k", TLSVerify }, "needs --tls-ca"},
		"another word":                     {func(c *Config) { c.TLSClientAuth = "maybe" }, "want \"none\" or \"verify\""},
		"routes without an authority":      {func(c *Config) { c.ClusterTLSCert, c.ClusterTLSKey = "c", "k" }, "give all or none"},
		"routes without a key":             {func(c *Config) { c.ClusterTLSCert, c.ClusterTLSCA = "c", "a" }, "give all or none"},
		"the routes' authority alone":      {func(c *Config) { c.ClusterTLSCA = "a" }, "give all or none"},
	} {
		c := DefaultConfig()
		tc.change(&c)
		err := c.checkTLS()
		if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func FuzzRendezvousLines(f *testing.F) {
	for _, line := range []string{"UNIBUS WAIT unibus n2", "UNIBUS WAIT unibus n1", "UNIBUS WAIT other n2", "UNIBUS WAIT unibus", "UNIBUS WAIT unibus n2 n3", "UNIBUS WAIT unibus ../n2", "INFO {}", ""} {
		f.Add(line)
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Routes = "n1", []string{"n1:1", "n2:1", "n3:1"}
	f.Fuzz(func(t *testing.T, line string) {
		r := newRendezvous(cfg, nil, func() {})
		heard := r.hear(line, "UNIBUS WAIT ")
		for name := range r.seen {
			if !nameForm.MatchString(name) || name == cfg.Name || !strings.HasSuffix(line, " "+name) {
				t.Errorf("%q made %q a node", line, name)
			}
		}
		if heard != (len(r.seen) == 1) {
			t.Errorf("%q: heard %v, seen %v", line, heard, r.seen)
		}
	})
}

// A file that was copied over with the times of the one before has the same size, time and inode.
func TestFilesAreToldApartByContent(t *testing.T) {
	l := newLab(t)
	c := l.config(0, threeRoutes(t))
	k := &keyring{listener: listenerClients, cert: c.TLSCert, key: c.TLSKey, ca: c.TLSCA}
	before, info := k.look(), stat(t, c.TLSCert)
	content, err := os.ReadFile(c.TLSCert)
	if err != nil {
		t.Fatal(err)
	}
	if k.look() != before {
		t.Error("files that did not change look different")
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(c.TLSCert, content, info.Mode()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(c.TLSCert, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if now := stat(t, c.TLSCert); now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		t.Fatal("the file is not as it was but for its content")
	}
	changed := k.look()
	if changed == before {
		t.Error("another content of the same size and time is not noticed")
	}
	chmod(t, c.TLSKey, 0o640)
	if k.look() == changed {
		t.Error("a key that others can read now is not noticed")
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestCertificatesThatAreTooEarly: files that could not be used because of this node's clock are read again. Until they can be used that is told once.
func TestCertificatesThatAreTooEarly(t *testing.T) {
	l := newLab(t)
	c := l.config(0, threeRoutes(t))
	var log lockedBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	cs, err := newCertificates(c)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Now().Add(-time.Hour)
	cs.now = func() time.Time { return clock }
	seen := map[*keyring]fingerprint{}
	want := func(when string, reloads, failures uint64) {
		t.Helper()
		for _, name := range tlsListenerNames {
			cs.poll(seen) // the first look sees files, the second that they stay as they are
			if s := cs.of(name).status(time.Now()); s.Reloads != reloads || s.ReloadFailures != failures || (s.ReloadError == "") != (reloads > 0) {
				t.Errorf("%s, %s: %d reloads, %d failures, %q", when, name, s.Reloads, s.ReloadFailures, s.ReloadError)
			}
		}
		if told := strings.Count(log.tail(), "keep the old ones"); told != int(failures)*len(tlsListenerNames) {
			t.Errorf("%s: %d failures are in the log", when, told)
		}
	}
	newClients, newRoutes := l.authority("new clients"), l.authority("new routes")
	early := l.issue(newRoutes, pki.Request{NotBefore: clock.Add(-time.Hour)}) // what is too early is its authority; the error says what time it is
	l.write(c, l.issue(newClients, pki.Request{Usage: pki.Server}), newClients.PEM(), early, newRoutes.PEM())
	cs.poll(seen)
	want("at first", 0, 1)
	for range 3 {
		clock = clock.Add(tlsRetry)
		want("a minute later", 0, 1)
	}
	for _, k := range cs.listeners {
		if !k.triedAt.Equal(clock) {
			t.Errorf("%s was tried last at %s, and it is %s", k.listener, k.triedAt, clock)
		}
		cs.reload(k, "asked for")
	}
	want("when somebody asks for it", 0, 2)
	clock = clock.Add(time.Hour)
	want("when they are valid", 1, 2)
	clock = clock.Add(tlsRetry)
	want("afterwards", 1, 2)
}
