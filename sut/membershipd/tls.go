package membershipd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/secret"
)

// Whether clients need a certificate.
const (
	// TLSNone does not ask clients for a certificate: they prove their nkey.
	TLSNone = "none"
	// TLSVerify refuses clients without a certificate of the authorities in Config.TLSCA.
	TLSVerify = "verify"
)

// tlsTimeout bounds a handshake, in seconds; a loaded machine needs more than the default of two.
const tlsTimeout = 5.0

// ErrTLS is wrapped when certificates, keys or authorities cannot be used.
var ErrTLS = errors.New("TLS")

// Listeners that have certificates of their own.
const (
	listenerClients = "clients"
	listenerRoutes  = "routes"
)

func (c Config) checkTLS() error {
	switch {
	case c.TLSClientAuth != TLSNone && c.TLSClientAuth != TLSVerify && c.TLSClientAuth != "":
		return fmt.Errorf("--tls-client-auth %q: want %q or %q", c.TLSClientAuth, TLSNone, TLSVerify)
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key: give both or none")
	case c.TLSCert == "" && (c.TLSCA != "" || c.TLSClientAuth == TLSVerify):
		return errors.New("--tls-ca and --tls-client-auth verify need --tls-cert and --tls-key")
	case c.TLSClientAuth == TLSVerify && c.TLSCA == "":
		return errors.New("--tls-client-auth verify needs --tls-ca")
	case (c.ClusterTLSCert == "") != (c.ClusterTLSKey == "") || (c.ClusterTLSCert == "") != (c.ClusterTLSCA == ""):
		return errors.New("--cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca: give all or none")
	}
	return nil
}

// certificates are those of a node: per listener what is in use now, while the files may change.
//
//	files --(poll, SIGHUP)--> read all -> check -> good: swapped in, holds for every handshake from then on
//	                                            -> bad:  the last good ones stay in use; log, status and metric say why, and a minute later the files are read again
//
// Connections that are open keep what they were made with.
type certificates struct {
	log       *slog.Logger
	now       func() time.Time
	listeners []*keyring // the configured ones
}

// keyring is one listener's certificate, key and authorities.
type keyring struct {
	listener      string
	cert, key, ca string // files; ca may be ""
	clientAuth    tls.ClientAuthType
	hosts         []string // of all routes; the certificate must be good for one of them. None for clients.

	current atomic.Pointer[material]
	tried   fingerprint // of the files that were read last, good or bad
	triedAt time.Time

	mu       sync.Mutex
	reloads  uint64
	failures uint64
	failure  string // why the files that are there now are not in use
	cause    string // the same, without what changes from one attempt to the next
}

// material is what was read from one state of the files. It does not change.
type material struct {
	pair        tls.Certificate
	leaf        *x509.Certificate
	authorities []*x509.Certificate
	pool        *x509.CertPool
	accept      *tls.Config
	loaded      time.Time
}

// newCertificates reads the files of all listeners. It returns an error where a later change of the files would only be reported: a node must
// not start with certificates that nobody accepts.
func newCertificates(c Config) (*certificates, error) {
	cs := &certificates{log: c.logger().With("node", c.Name), now: time.Now}
	if c.TLSCert != "" {
		k := &keyring{listener: listenerClients, cert: c.TLSCert, key: c.TLSKey, ca: c.TLSCA}
		if c.TLSClientAuth == TLSVerify {
			k.clientAuth = tls.RequireAndVerifyClientCert
		}
		cs.listeners = append(cs.listeners, k)
	}
	if c.ClusterTLSCert != "" {
		cs.listeners = append(cs.listeners, &keyring{
			listener: listenerRoutes, cert: c.ClusterTLSCert, key: c.ClusterTLSKey, ca: c.ClusterTLSCA, clientAuth: tls.RequireAndVerifyClientCert, hosts: routeHosts(c),
		})
	}
	for _, k := range cs.listeners {
		k.tried = k.look()
		m, err := k.load(cs.now())
		if err == nil {
			err = cs.apart(k, m)
		}
		if err != nil {
			return nil, fmt.Errorf("%w of %s: %w", ErrTLS, k.listener, err)
		}
		k.current.Store(m)
	}
	return cs, nil
}

// routeHosts are the hosts in --routes, without their ports.
func routeHosts(c Config) []string {
	var hosts []string
	for _, r := range c.Routes {
		if host, _, err := splitAddress(r); err == nil {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// of is the keyring of a listener, nil if that one is plain.
func (cs *certificates) of(listener string) *keyring {
	if cs == nil {
		return nil
	}
	for _, k := range cs.listeners {
		if k.listener == listener {
			return k
		}
	}
	return nil
}

// apart refuses an authority that signs for both listeners: its clients could open routes.
func (cs *certificates) apart(k *keyring, m *material) error {
	for _, other := range cs.listeners {
		om := other.current.Load()
		if other == k || om == nil {
			continue
		}
		for _, a := range m.authorities {
			for _, b := range om.authorities {
				if a.Equal(b) {
					return fmt.Errorf("the authority %q is one of %s, too: routes need authorities of their own", a.Subject.CommonName, other.listener)
				}
			}
		}
	}
	return nil
}

// load reads and checks all files of a listener.
func (k *keyring) load(now time.Time) (*material, error) {
	certPEM, err := os.ReadFile(k.cert)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	keyPEM, err := secret.Read(k.key)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	m := &material{loaded: now}
	if m.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("read %s and its key: %w", k.cert, err)
	}
	if m.leaf, err = x509.ParseCertificate(m.pair.Certificate[0]); err != nil {
		return nil, fmt.Errorf("read %s: %w", k.cert, err)
	}
	m.pair.Leaf = m.leaf
	if k.ca != "" {
		if m.authorities, m.pool, err = readAuthorities(k.ca); err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
	}
	if err := k.check(m, now); err != nil {
		return nil, err
	}
	m.accept = k.acceptConfig(m)
	return m, nil
}

// check refuses what nobody would accept.
func (k *keyring) check(m *material, now time.Time) error {
	switch {
	case now.After(m.leaf.NotAfter):
		return fmt.Errorf("the certificate %s expired at %s, by this node's clock", k.cert, m.leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(m.leaf.NotBefore):
		return fmt.Errorf("the certificate %s is not valid before %s, which is in the future by this node's clock", k.cert, m.leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if k.listener == listenerClients {
		return allows(m.leaf, x509.ExtKeyUsageServerAuth)
	}
	for _, u := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := verifyChain(m.leaf, m.pair.Certificate[1:], m.pool, "", u, now); err != nil {
			return fmt.Errorf("the certificate %s is not good for both sides of a route: %w", k.cert, err)
		}
	}
	if !goodForOne(m.leaf, k.hosts) {
		return fmt.Errorf("the certificate %s is good for none of the hosts of the routes (%s)", k.cert, strings.Join(k.hosts, ", "))
	}
	return nil
}

// allows refuses a certificate that was made for something else.
func allows(leaf *x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(leaf.ExtKeyUsage) == 0 {
		return nil
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == usage || u == x509.ExtKeyUsageAny {
			return nil
		}
	}
	return errors.New("the certificate is not one of a server")
}

func goodForOne(leaf *x509.Certificate, hosts []string) bool {
	for _, h := range hosts {
		if leaf.VerifyHostname(h) == nil {
			return true
		}
	}
	return false
}

// verifyChain wants a chain to one of the authorities; host "" means any.
func verifyChain(leaf *x509.Certificate, rest [][]byte, roots *x509.CertPool, host string, usage x509.ExtKeyUsage, now time.Time) error {
	between := x509.NewCertPool()
	for _, der := range rest {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// readAuthorities reads a PEM bundle.
func readAuthorities(path string) ([]*x509.Certificate, *x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	all, err := pki.Parse(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	for _, c := range all {
		if !c.IsCA {
			return nil, nil, fmt.Errorf("%s: %q is not an authority", path, c.Subject.CommonName)
		}
		pool.AddCert(c)
	}
	return all, pool, nil
}

// acceptConfig is what the accepting side of a handshake uses. Tickets are of no use to it: no client here keeps them, and they would
// outlive a change of the authorities.
func (k *keyring) acceptConfig(m *material) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.pair}, ClientAuth: k.clientAuth, ClientCAs: m.pool, SessionTicketsDisabled: true,
	}
}

// config is what the embedded server is given, once. What it needs for a handshake it asks for at each one.
//
// The dialing side of a route has no callback for its authorities, so the standard library's verification is switched off there and done here,
// in VerifyConnection, with those of the moment. The accepting side never sees that: it works with what GetConfigForClient returns.
func (k *keyring) config() *tls.Config {
	if k == nil {
		return nil
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: k.clientAuth,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current.Load().accept, nil },
	}
	if k.listener == listenerRoutes {
		c.InsecureSkipVerify = true
		c.VerifyConnection = k.verifyDialed
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &k.current.Load().pair, nil }
	}
	return c
}

// verifyDialed checks the certificate of a node that this one has dialed: it must be signed by an authority of routes, for servers, and be good for
// the host that was dialed. The standard library does not say which one that was if it was an IP address; then it must be good for one of the nodes.
func (k *keyring) verifyDialed(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the other node shows no certificate")
	}
	leaf := cs.PeerCertificates[0]
	var rest [][]byte
	for _, c := range cs.PeerCertificates[1:] {
		rest = append(rest, c.Raw)
	}
	if err := verifyChain(leaf, rest, k.current.Load().pool, cs.ServerName, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	if cs.ServerName == "" && !goodForOne(leaf, k.hosts) {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: errors.New("the certificate is for none of the nodes")}
	}
	return nil
}
