package subject

import (
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
)

// Credentials are the secrets of one cluster: the routes' password, and, unless it is to be plain text, two authorities of its own. Backends embed
// it, which makes their clusters [cluster.Secured].
type Credentials struct {
	Password string

	client, route *pki.Authority // nil for plain text

	mu    sync.Mutex
	trust cluster.Trust
}

var _ cluster.Secured = (*Credentials)(nil)

// NewCredentials makes the secrets of a cluster.
func NewCredentials(spec cluster.Spec) (*Credentials, error) {
	pass, err := NewPassword()
	if err != nil {
		return nil, err
	}
	c := &Credentials{Password: pass}
	if spec.PlainText {
		return c, nil
	}
	if c.client, c.trust.Client, err = newAuthority(spec, "clients"); err != nil {
		return nil, err
	}
	if c.route, c.trust.Route, err = newAuthority(spec, "routes"); err != nil {
		return nil, err
	}
	c.trust.Believed = c.trust.Client.Cert
	return c, nil
}

// issued is when certificates have been valid since: a node has had them for a while, and with a clock that is an hour behind they are not what it starts to
// doubt.
func issued() time.Time { return time.Now().AddDate(0, 0, -7) }

func newAuthority(spec cluster.Spec, listener string) (*pki.Authority, cluster.Authority, error) {
	a, err := pki.NewAuthority(pki.AuthorityRequest{Name: "unibus " + spec.Name + " " + listener, NotBefore: issued()})
	if err != nil {
		return nil, cluster.Authority{}, err
	}
	key, err := a.KeyPEM()
	return a, cluster.Authority{Cert: a.PEM(), Key: key}, err
}

// Trust implements cluster.Secured.
func (c *Credentials) Trust() cluster.Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

// SetTrust implements cluster.Secured.
func (c *Credentials) SetTrust(t cluster.Trust) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust = t
}

// Issue makes a node's certificates, good for those hosts; nil for plain text.
func (c *Credentials) Issue(id cluster.NodeID, hosts []string) (*Certificates, error) {
	if c.client == nil {
		return nil, nil
	}
	client, err := c.client.Issue(pki.Request{Name: string(id), Hosts: hosts, Usage: pki.Server, NotBefore: issued()})
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", id, err)
	}
	route, err := c.route.Issue(pki.Request{Name: string(id), Hosts: hosts, Usage: pki.Both, NotBefore: issued()})
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", id, err)
	}
	return &Certificates{Client: client, Route: route, ClientCA: c.client.PEM(), RouteCA: c.route.PEM()}, nil
}

// Certificates are what one node shows, and whom it believes.
type Certificates struct {
	Client, Route     pki.Pair
	ClientCA, RouteCA []byte // PEM bundles
}

// files puts the certificates in place, in the order of their names.
func (c *Certificates) files(dir string) []File {
	var all []File
	for name, content := range map[string][]byte{
		cluster.FileClientCert: c.Client.Cert, cluster.FileClientKey: c.Client.Key, cluster.FileClientCA: c.ClientCA,
		cluster.FileRouteCert: c.Route.Cert, cluster.FileRouteKey: c.Route.Key, cluster.FileRouteCA: c.RouteCA,
	} {
		all = append(all, File{Path: path.Join(dir, name), Mode: 0o600, Content: content, Secret: Secret(name)})
	}
	slices.SortFunc(all, func(a, b File) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return all
}

// SecretNames are the files that cluster.Rekeyed takes.
func SecretNames() []string {
	return []string{cluster.FileClientCert, cluster.FileClientKey, cluster.FileClientCA, cluster.FileRouteCert, cluster.FileRouteKey, cluster.FileRouteCA}
}
