package observe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
)

// tlsNode has listeners and nothing else.
type tlsNode struct {
	cluster.Node
	endpoints cluster.Endpoints
}

func (tlsNode) ID() cluster.NodeID             { return "n1" }
func (n tlsNode) Endpoints() cluster.Endpoints { return n.endpoints }

// greet answers every connection: hello in the clear if there is one, then TLS, then a word over it.
func greet(t *testing.T, hello string, c *tls.Config) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := io.WriteString(conn, hello); err != nil {
					return
				}
				s := tls.Server(conn, c)
				if s.HandshakeContext(context.WithoutCancel(t.Context())) == nil {
					_, _ = io.WriteString(s, "INFO {}\r\n")          // the probe looks at what comes back
					_, _ = io.Copy(io.Discard, io.LimitReader(s, 1)) // until it hangs up
				}
			}()
		}
	}()
	return l.Addr().String()
}

func newAuthority(t *testing.T, name string) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(pki.AuthorityRequest{Name: name, Algorithm: pki.Ed25519})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *pki.Authority) (tls.Certificate, string) {
	t.Helper()
	p, err := a.Issue(pki.Request{Name: "n1", Hosts: []string{"n1", "127.0.0.1"}, Usage: pki.Both})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := p.TLS()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return pair, leaf.SerialNumber.Text(16)
}

func TestClientCertificate(t *testing.T) {
	ours, other := newAuthority(t, "ours"), newAuthority(t, "other")
	shown, serial := issue(t, ours)
	addr := greet(t, "INFO {\"tls_required\":true}\r\n", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{shown}})
	n := tlsNode{endpoints: cluster.Endpoints{Client: "nats://" + addr}}
	c, err := ClientCertificate(t.Context(), n, ours.Pool())
	if err != nil {
		t.Fatal(err)
	}
	if is := c.SerialNumber.Text(16); is != serial {
		t.Errorf("serial %s, want %s", is, serial)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := ClientCertificate(t.Context(), n, other.Pool()); !errors.As(err, &unknown) {
		t.Errorf("with another authority: %v, want an unknown authority", err)
	}
	plain := tlsNode{endpoints: cluster.Endpoints{Client: "nats://127.0.0.1:1"}}
	if _, err := ClientCertificate(t.Context(), plain, ours.Pool()); err == nil {
		t.Error("a node that nobody can reach shows a certificate")
	}
}

func TestRouteCertificate(t *testing.T) {
	ours, other := newAuthority(t, "ours"), newAuthority(t, "other")
	shown, serial := issue(t, ours)
	addr := greet(t, "", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{shown}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.Pool()})
	n := tlsNode{endpoints: cluster.Endpoints{Routes: addr}}
	good, _ := issue(t, ours)
	c, err := RouteCertificate(t.Context(), n, good, ours.Pool())
	if err != nil {
		t.Fatal(err)
	}
	if is := c.SerialNumber.Text(16); is != serial {
		t.Errorf("serial %s, want %s", is, serial)
	}
	bad, _ := issue(t, other)
	if _, err := RouteCertificate(t.Context(), n, bad, ours.Pool()); err == nil {
		t.Error("a certificate of another authority was accepted: with TLS 1.3 the refusal comes after the handshake")
	}
	if _, err := RouteCertificate(t.Context(), n, good, other.Pool()); err == nil {
		t.Error("the node's certificate was accepted by one who believes another authority")
	}
	if _, err := RouteCertificate(t.Context(), tlsNode{}, good, ours.Pool()); !errors.Is(err, ErrNoRoutePort) {
		t.Errorf("a node without a route port: %v", err)
	}
}
