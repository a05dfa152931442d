package docker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
)

// rekey gives a node that runs a certificate from another authority; it is in force when who believes nobody else can shake hands.
func rekey(t *testing.T, n cluster.Node) {
	before := mustState(t, n)
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: "another"})
	if err != nil {
		t.Fatal(err)
	}
	k := n.(cluster.Rekeyed)
	leaf, err := ca.Issue(pki.Request{Name: string(n.ID()), Hosts: k.Hosts(), Usage: pki.Server})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := handshake(ctx, n, ca.Pool()); err == nil {
		t.Error("the new authority is believed before there is a certificate of it")
	}
	if err := k.PutSecrets(ctx, map[string][]byte{cluster.FileClientCert: leaf.Cert, cluster.FileClientKey: leaf.Key}); err != nil {
		t.Fatal(err)
	}
	if err := n.Signal(ctx, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := handshake(ctx, n, ca.Pool())
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the new certificate is not in force: %v", err)
		case <-tick.C:
		}
	}
	if now := mustState(t, n); now.StartTime != before.StartTime {
		t.Errorf("the daemon was started again: %+v, before %+v", now, before)
	}
	if err := k.PutSecrets(ctx, map[string][]byte{"../x": nil}); err == nil {
		t.Error("a file of another name was written")
	}
}

// handshake does what a client does: the server greets first, then both turn to TLS.
func handshake(ctx context.Context, n cluster.Node, roots *x509.CertPool) error {
	u, err := url.Parse(n.Endpoints().Client)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing depends on it
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return err
	}
	return tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: u.Hostname()}).HandshakeContext(ctx)
}
