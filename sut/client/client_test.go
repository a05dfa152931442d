package client_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/pki"
)

const bound = 20 * time.Second // far above what anything here takes on a loaded machine

func newKey(t *testing.T) nkeys.KeyPair {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func seedFile(t *testing.T, seed []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(path, append(seed, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// node speaks as much of the protocol as a login takes. Its certificate is asked for at every connection.
type node struct {
	net.Listener
	tls func() *tls.Config // nil for plain text
}

func listen(t *testing.T, config func() *tls.Config) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Listener: l, tls: config}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go n.serve(conn)
		}
	}()
	return n
}

func (n *node) url() string { return "nats://" + n.Addr().String() }

func (n *node) serve(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // the client sees it
	_, _ = fmt.Fprintf(conn, "INFO {\"server_name\":\"n1\",\"max_payload\":1048576,\"headers\":true,\"auth_required\":true,\"nonce\":\"abc\",\"tls_required\":%v}\r\n", n.tls != nil)
	if n.tls != nil {
		conn = tls.Server(conn, n.tls())
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case strings.HasPrefix(line, "CONNECT") && !strings.Contains(line, `"sig":"`):
			_, _ = io.WriteString(conn, "-ERR 'Authorization Violation'\r\n")
			return
		case strings.HasPrefix(line, "PING"):
			_, _ = io.WriteString(conn, "PONG\r\n")
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	key := newKey(t)
	servers := []string{"nats://192.0.2.1:4222"}
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: "ca"})
	if err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for name, tc := range map[string]struct {
		o    client.Options
		want error // nil: any
	}{
		"no servers":           {client.Options{Key: key}, client.ErrNoServers},
		"no key":               {client.Options{Servers: servers}, client.ErrNoKey},
		"two keys":             {client.Options{Servers: servers, Key: key, SeedFile: missing}, client.ErrNoKey},
		"no such seed":         {client.Options{Servers: servers, SeedFile: missing}, os.ErrNotExist},
		"no such authority":    {client.Options{Servers: servers, Key: key, CAFile: missing}, os.ErrNotExist},
		"no such certificate":  {client.Options{Servers: servers, Key: key, CertFile: missing, KeyFile: missing}, os.ErrNotExist},
		"two kinds of trust":   {client.Options{Servers: servers, Key: key, CAFile: missing, RootCAs: ca.Pool()}, client.ErrTLS},
		"half a certificate":   {client.Options{Servers: servers, Key: key, CertFile: missing}, client.ErrTLS},
		"a bad prefix":         {client.Options{Servers: servers, Key: key, InboxPrefix: "_INBOX.>"}, nil},
		"a key that cannot be": {client.Options{Servers: servers, SeedFile: seedFile(t, []byte("nonsense"), 0o600)}, nil},
	} {
		tc.o.Background = true // it must be said before anything is tried
		conn, err := client.Connect(t.Context(), tc.o)
		if err == nil || conn != nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestLoadSeed(t *testing.T) {
	user := newKey(t)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if kp, err := client.LoadSeed(seedFile(t, seed, 0o400)); err != nil {
		t.Error(err)
	} else if got, _ := kp.Seed(); string(got) != string(seed) {
		t.Error("another seed was read")
	}
	for name, path := range map[string]string{"others can read": seedFile(t, seed, 0o644), "an account's": seedFile(t, accountSeed, 0o600), "empty": seedFile(t, nil, 0o600)} {
		if kp, err := client.LoadSeed(path); err == nil || kp != nil || strings.Contains(err.Error(), string(seed)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConnectInPlainText(t *testing.T) {
	n := listen(t, nil)
	conn, err := client.Connect(t.Context(), client.Options{Servers: []string{n.url()}, Key: newKey(t), InboxPrefix: client.InboxPrefix("ann")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.ConnectedServerName() != "n1" || !strings.HasPrefix(conn.NewInbox(), "_INBOX_ann.") {
		t.Errorf("connected to %q, inbox %q", conn.ConnectedServerName(), conn.NewInbox())
	}
	if _, err := client.Connect(t.Context(), client.Options{Servers: []string{"tls://" + n.Addr().String()}, Key: newKey(t)}); !errors.Is(err, nats.ErrSecureConnWanted) {
		t.Errorf("a node in plain text for a client that wants TLS: %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // accepts, and says nothing
	servers := []string{"nats://" + l.Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Connect(ctx, client.Options{Servers: servers, Key: newKey(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's end", err)
	}
	conn, err := client.Connect(t.Context(), client.Options{Servers: servers, Key: newKey(t), Background: true})
	if err != nil || conn.IsConnected() || conn.IsClosed() {
		t.Errorf("in the background: %v", err)
	}
	conn.Close()
}

// TestAuthoritiesAreReadAgain replaces the nodes' authority, and the client's file, under a client that lives on.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.crt")
	serve := make(chan *tls.Config, 1)
	use := func(name string) {
		ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		p, err := ca.Issue(pki.Request{Name: "n1", Hosts: []string{"127.0.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := p.TLS()
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.WriteFile(file, ca.PEM()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-serve:
		default:
		}
		serve <- &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	}
	use("first")
	n := listen(t, func() *tls.Config {
		c := <-serve
		serve <- c
		return c
	})
	again := make(chan struct{}, 1)
	conn, err := client.Connect(t.Context(), client.Options{
		Servers: []string{n.url()}, Key: newKey(t), CAFile: file, NATS: []nats.Option{nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} })},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state, err := conn.TLSConnectionState()
	if err != nil || state.Version != tls.VersionTLS13 {
		t.Fatalf("%v, %v", state.Version, err)
	}
	use("second")
	if err := conn.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-again:
	case <-time.After(bound):
		t.Fatal("the client does not come back under the new authority")
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: "ca"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Issue(pki.Request{Name: "n1", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := p.TLS()
	if err != nil {
		t.Fatal(err)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		n := listen(t, func() *tls.Config { return &tls.Config{MaxVersion: version, Certificates: []tls.Certificate{pair}} })
		conn, err := client.Connect(t.Context(), client.Options{Servers: []string{n.url()}, Key: newKey(t), RootCAs: ca.Pool()})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}
