// Package pki makes certificate authorities and the certificates of nodes and clients: for tests, for the harness, and for rotation.
// Standard library only.
//
// A unibus cluster has two authorities. That of the routes signs a certificate per node that is good for both sides of a connection, because each
// node both dials and accepts. That of the clients signs what nodes show to clients, and, where clients show certificates, those.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/unibus/unibus/sut/secret"
)

// Lifetimes of certificates where a request does not say.
const (
	// AuthorityLifetime is that of an authority.
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	// LeafLifetime is that of a node's or client's certificate. Current browsers and platforms take 397 days at most.
	LeafLifetime = 397 * 24 * time.Hour

	// backdate is for hosts whose clocks are behind.
	backdate = 5 * time.Minute
)

// Types of PEM blocks.
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY" // PKCS #8
)

// Algorithm is the kind of a key.
type Algorithm string

// The kinds of keys.
const (
	ECDSA   Algorithm = "ecdsa" // P-256; the zero value means this one
	Ed25519 Algorithm = "ed25519"
)

// Usage is what a certificate is good for.
type Usage int

// The usages. A route needs Both: nodes dial and accept.
const (
	Both Usage = iota
	Server
	Client
)

// Errors that callers test for.
var (
	ErrRequest = errors.New("the request for a certificate is not complete")
	ErrPEM     = errors.New("there is no such PEM block")
)

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// AuthorityRequest says what authority is wanted. Name is required.
type AuthorityRequest struct {
	Name      string // common name, for people
	Algorithm Algorithm
	NotBefore time.Time     // zero: now
	Lifetime  time.Duration // 0: AuthorityLifetime
}

// NewAuthority makes an authority with a key of its own.
func NewAuthority(r AuthorityRequest) (*Authority, error) {
	if r.Name == "" {
		return nil, fmt.Errorf("make the authority: %w: it has no name", ErrRequest)
	}
	key, err := newKey(r.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	t, err := template(r.Name, r.NotBefore, r.Lifetime, AuthorityLifetime)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	t.IsCA, t.MaxPathLenZero = true, true // it signs leaves only
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// LoadAuthority reads an authority back from its two files. The key's file must be its owner's alone.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	keyPEM, err := secret.Read(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	return ParseAuthority(certPEM, keyPEM)
}

// ParseAuthority makes an authority of its PEM blocks.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !cert.IsCA {
		return nil, fmt.Errorf("read the authority: %w: the certificate is not one of an authority", ErrRequest)
	}
	return &Authority{cert: cert, key: key}, nil
}

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// PEM is the authority's certificate, without the key.
func (a *Authority) PEM() []byte { return certPEM(a.cert.Raw) }

// Pool trusts this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// KeyPEM is the authority's key: a secret.
func (a *Authority) KeyPEM() ([]byte, error) { return keyPEM(a.key) }

// Write stores certificate and key, readable for their owner alone, each completely or not at all.
func (a *Authority) Write(certFile, keyFile string) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return fmt.Errorf("write the authority: %w", err)
	}
	return Pair{Cert: a.PEM(), Key: key}.Write(certFile, keyFile)
}

// Bundle concatenates the certificates of authorities, for the time of a change from one to another.
func Bundle(authorities ...*Authority) []byte {
	var b bytes.Buffer
	for _, a := range authorities {
		b.Write(a.PEM())
	}
	return b.Bytes()
}

// Request says what certificate is wanted. Name is required, and for a server's certificate at least one host.
type Request struct {
	Name      string   // common name
	Hosts     []string // names and IP addresses that the holder is reached at
	Usage     Usage
	Algorithm Algorithm
	NotBefore time.Time     // zero: now
	Lifetime  time.Duration // 0: LeafLifetime. A negative one makes a certificate that has expired, for tests.
}

// Issue makes a key and the certificate for it.
func (a *Authority) Issue(r Request) (Pair, error) {
	if r.Name == "" || r.Usage != Client && len(r.Hosts) == 0 {
		return Pair{}, fmt.Errorf("issue a certificate: %w: want a name, and hosts for a server", ErrRequest)
	}
	key, err := newKey(r.Algorithm)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	t, err := template(r.Name, r.NotBefore, r.Lifetime, LeafLifetime)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = usages(r.Usage)
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	k, err := keyPEM(key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	return Pair{Cert: certPEM(der), Key: k}, nil
}

func usages(u Usage) []x509.ExtKeyUsage {
	switch u {
	case Server:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Client:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	default:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
}

func template(name string, from time.Time, lifetime, usual time.Duration) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always of the same length
	if from.IsZero() {
		from = time.Now()
	}
	if lifetime == 0 {
		lifetime = usual
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: from.Add(-backdate), NotAfter: from.Add(lifetime),
	}
	if t.NotAfter.Before(t.NotBefore) {
		t.NotBefore = t.NotAfter.Add(-backdate)
	}
	t.SerialNumber = bigInt(serial)
	return t, nil
}

func newKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case "", ECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("%w: the algorithm %q is not known", ErrRequest, a)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}
