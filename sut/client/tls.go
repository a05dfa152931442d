package client

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/secret"
)

// tls returns what makes the connection encrypted. What is wrong with the files is said now and not at the first connection.
func (o Options) tls() (nats.Option, error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, fmt.Errorf("%w: a certificate without its key, or a key without its certificate", ErrTLS)
	}
	if o.sources() > 1 {
		return nil, fmt.Errorf("%w: the authorities are given in more than one way", ErrTLS)
	}
	if _, err := o.roots(); err != nil {
		return nil, err
	}
	if o.CertFile != "" {
		if _, err := o.certificate(); err != nil {
			return nil, err
		}
	}
	secure := o.sources() > 0 || o.CertFile != "" || o.ServerName != "" || anyTLS(o.Servers)
	return func(n *nats.Options) error {
		n.Secure = secure // without it, a node may still ask for TLS; with it, one that does not is refused
		n.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, ServerName: o.ServerName}
		if o.CertFile != "" {
			n.TLSCertCB = o.certificate
		}
		n.RootCAsCB = o.roots
		return nil
	}, nil
}

// sources counts the ways in which authorities are given.
func (o Options) sources() (n int) {
	for _, given := range []bool{o.RootCAs != nil, o.CAFile != "", o.Authorities != nil} {
		if given {
			n++
		}
	}
	return n
}

// roots reads the trusted authorities; nil stands for the host's own.
func (o Options) roots() (*x509.CertPool, error) {
	if o.Authorities != nil {
		return o.Authorities()
	}
	if o.CAFile == "" {
		return o.RootCAs, nil
	}
	b, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the authorities: %w", err)
	}
	pool, err := pki.Pool(b)
	if err != nil {
		return nil, fmt.Errorf("read the authorities: %s: %w", o.CAFile, err)
	}
	return pool, nil
}

func (o Options) certificate() (tls.Certificate, error) {
	cert, err := os.ReadFile(o.CertFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the client's certificate: %w", err)
	}
	key, err := secret.Read(o.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the client's key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the client's certificate: %w", err)
	}
	return pair, nil
}

func anyTLS(servers []string) bool {
	for _, s := range servers {
		if u, err := url.Parse(s); err == nil && u.Scheme == "tls" {
			return true
		}
	}
	return false
}
