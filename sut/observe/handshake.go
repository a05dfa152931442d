package observe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// handshakeTimeout bounds one look at a certificate; a loaded machine needs more than a request.
const handshakeTimeout = 5 * time.Second

// ErrNoRoutePort means that the harness cannot reach the port that the other nodes dial.
var ErrNoRoutePort = errors.New("the routes of the node cannot be reached from here")

// ClientCertificate shakes hands with the listener of clients, as one that believes the roots alone, and returns the certificate that it showed.
func ClientCertificate(ctx context.Context, n cluster.Node, roots *x509.CertPool) (*x509.Certificate, error) {
	u, err := url.Parse(n.Endpoints().Client)
	if err != nil {
		return nil, fmt.Errorf("shake hands with %s: %w", n.ID(), err)
	}
	return shakeHands(ctx, n, u.Host, func(ctx context.Context, conn net.Conn) (*x509.Certificate, error) {
		if err := skipLine(conn); err != nil { // the server greets in the clear, then both turn to TLS
			return nil, err
		}
		t := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: u.Hostname()})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		return t.ConnectionState().PeerCertificates[0], nil
	})
}

// RouteCertificate shakes hands with the listener of routes as a node would: it shows a certificate of its own and believes the roots alone. It waits for
// the first byte that comes after: with TLS 1.3 a node judges who dialed when that side takes the handshake for done.
func RouteCertificate(ctx context.Context, n cluster.Node, own tls.Certificate, roots *x509.CertPool) (*x509.Certificate, error) {
	addr := n.Endpoints().Routes
	if addr == "" {
		return nil, ErrNoRoutePort
	}
	return shakeHands(ctx, n, addr, func(ctx context.Context, conn net.Conn) (*x509.Certificate, error) {
		t := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: string(n.ID()), Certificates: []tls.Certificate{own}})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(t, make([]byte, 1)); err != nil {
			return nil, err
		}
		return t.ConnectionState().PeerCertificates[0], nil
	})
}

// shakeHands dials and bounds what is done over the connection.
func shakeHands(ctx context.Context, n cluster.Node, addr string, f func(context.Context, net.Conn) (*x509.Certificate, error)) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("shake hands with %s: %w", n.ID(), err)
	}
	defer func() { _ = conn.Close() }() // it carries nothing
	until, _ := ctx.Deadline()
	if err := conn.SetDeadline(until); err != nil {
		return nil, fmt.Errorf("shake hands with %s: %w", n.ID(), err)
	}
	c, err := f(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("shake hands with %s: %w", n.ID(), err)
	}
	return c, nil
}

// skipLine reads to the end of a line and not a byte further.
func skipLine(r io.Reader) error {
	b := make([]byte, 1)
	for b[0] != '\n' {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
	}
	return nil
}
