package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/secret"
)

func authority(t *testing.T, name string, a pki.Algorithm) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: name, Algorithm: a})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, a *pki.Authority, r pki.Request) pki.Pair {
	t.Helper()
	p, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shake is a mutual handshake; it returns what each side says.
func shake(t *testing.T, server, client pki.Pair, serverTrusts, clientTrusts *x509.CertPool, host string) (serverErr, clientErr error) {
	t.Helper()
	sc, err := server.TLS()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := client.TLS()
	if err != nil {
		t.Fatal(err)
	}
	a, b := connected(t) // a pipe has no buffer: two sides that both send an alert would wait for each other
	s := tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{sc}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: serverTrusts})
	c := tls.Client(b, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cc}, RootCAs: clientTrusts, ServerName: host})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	clientErr = c.HandshakeContext(t.Context())
	serverErr = <-done
	_, _ = a.Close(), b.Close()
	return serverErr, clientErr
}

const bound = 20 * time.Second // far above what a handshake takes on a loaded machine

func connected(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // one connection is enough
	if b, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func TestCertificatesWork(t *testing.T) {
	for _, alg := range []pki.Algorithm{pki.ECDSA, pki.Ed25519} {
		routes, clients := authority(t, "routes", alg), authority(t, "clients", alg)
		node := issue(t, routes, pki.Request{Name: "n1", Hosts: []string{"n1", "192.0.2.1"}, Algorithm: alg})
		for _, host := range []string{"n1", "192.0.2.1"} {
			if s, c := shake(t, node, node, routes.Pool(), routes.Pool(), host); s != nil || c != nil {
				t.Errorf("%s: a node to itself as %s: %v, %v", alg, host, s, c)
			}
		}
		if _, c := shake(t, node, node, routes.Pool(), routes.Pool(), "192.0.2.9"); c == nil {
			t.Errorf("%s: a node is believed to be another", alg)
		}
		user := issue(t, clients, pki.Request{Name: "user", Usage: pki.Client, Algorithm: alg})
		if s, _ := shake(t, node, user, routes.Pool(), routes.Pool(), "n1"); s == nil {
			t.Errorf("%s: a client's certificate is taken for a node's", alg)
		}
		server := issue(t, routes, pki.Request{Name: "n2", Hosts: []string{"n2"}, Usage: pki.Server, Algorithm: alg})
		if s, _ := shake(t, node, server, routes.Pool(), routes.Pool(), "n1"); s == nil {
			t.Errorf("%s: a server's certificate is taken for a client's", alg)
		}
		old := issue(t, routes, pki.Request{Name: "n1", Hosts: []string{"n1"}, Lifetime: -time.Hour, Algorithm: alg})
		if _, c := shake(t, old, node, routes.Pool(), routes.Pool(), "n1"); c == nil {
			t.Errorf("%s: an expired certificate is believed", alg)
		}
	}
}

func TestChangeOfAuthority(t *testing.T) {
	before, after := authority(t, "2026", ""), authority(t, "2027", "")
	both, err := pki.Pool(pki.Bundle(before, after))
	if err != nil {
		t.Fatal(err)
	}
	a := issue(t, before, pki.Request{Name: "n1", Hosts: []string{"n1"}})
	b := issue(t, after, pki.Request{Name: "n1", Hosts: []string{"n1"}})
	if s, c := shake(t, a, b, both, both, "n1"); s != nil || c != nil {
		t.Errorf("with both authorities: %v, %v", s, c)
	}
	if s, _ := shake(t, b, a, after.Pool(), both, "n1"); s == nil {
		t.Error("the old certificate is still believed")
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := authority(t, "ca", "")
	if err := ca.Write(at("ca.crt"), at("ca.key")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.crt", "ca.key"} {
		if info, err := os.Stat(at(name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	again, err := pki.LoadAuthority(at("ca.crt"), at("ca.key"))
	if err != nil || !again.Certificate().Equal(ca.Certificate()) {
		t.Fatalf("read back: %v", err)
	}
	leaf := issue(t, again, pki.Request{Name: "n1", Hosts: []string{"n1"}, Lifetime: 24 * time.Hour})
	if end, err := leaf.NotAfter(); err != nil || time.Until(end) > 24*time.Hour || time.Until(end) < 23*time.Hour {
		t.Errorf("it expires at %v, %v", end, err)
	}
	if err := leaf.Write(at("n1.crt"), at("n1.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(at("n1.crt"), at("n1.key")); err != nil {
		t.Error(err)
	}
	if _, err := pki.LoadAuthority(at("n1.crt"), at("n1.key")); !errors.Is(err, pki.ErrRequest) {
		t.Errorf("a leaf read as an authority: %v", err)
	}
	if err := os.Chmod(at("ca.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadAuthority(at("ca.crt"), at("ca.key")); !errors.Is(err, secret.ErrExposed) {
		t.Errorf("a key that others can read: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if err := leaf.Write(filepath.Join(dir, "none", "a"), filepath.Join(dir, "none", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a folder that is not there: %v", err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	ca := authority(t, "ca", "")
	for name, r := range map[string]pki.Request{"no name": {Hosts: []string{"n1"}}, "no host": {Name: "n1"}, "unknown algorithm": {Name: "n1", Hosts: []string{"n1"}, Algorithm: "rsa"}} {
		if _, err := ca.Issue(r); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pki.NewAuthority(pki.AuthorityRequest{}); !errors.Is(err, pki.ErrRequest) {
		t.Errorf("an authority without a name: %v", err)
	}
	for name, b := range map[string]string{"nothing": "", "text": "hello\n", "a key": string(issue(t, ca, pki.Request{Name: "n", Usage: pki.Client}).Key)} {
		if _, err := pki.Pool([]byte(b)); !errors.Is(err, pki.ErrPEM) {
			t.Errorf("a pool of %s: %v", name, err)
		}
	}
	if _, err := pki.Parse([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")); err == nil || errors.Is(err, pki.ErrPEM) {
		t.Errorf("a damaged certificate: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: "ca"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.PEM())
	f.Add(append(ca.PEM(), ca.PEM()...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := pki.Parse(b)
		if (err == nil) != (len(certs) > 0) {
			t.Errorf("%d certificates, %v", len(certs), err)
		}
		if pool, err2 := pki.Pool(b); (err == nil) != (err2 == nil) || (err == nil) != (pool != nil) {
			t.Errorf("a pool: %v; the certificates: %v", err2, err)
		}
	})
}
