// Package client connects programs to a unibus cluster.
//
// It is nats.go with the settings that a user of a highly available cluster needs: every node is known from the start, a node that dies is noticed by
// its closed socket and one that is silent after three seconds, reconnecting never ends, nothing is sent later than the program asked for, and TLS
// is 1.3 or newer. Whatever else nats.go can do is reached through [Options.NATS] and the embedded connection.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"crypto/x509"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/secret"
)

// Failover settings of every connection. The harness's claims about clients are measured with them.
const (
	// DialTimeout bounds one attempt to reach one node, the TLS handshake included.
	DialTimeout = time.Second
	// PingInterval and MaxPings: a node that accepts but does not answer is given up after PingInterval*(MaxPings+1).
	PingInterval = time.Second
	// MaxPings is how many pings may be unanswered.
	MaxPings = 2
	// ReconnectWait is the pause after a pass over all nodes; ReconnectJitter is added at random.
	ReconnectWait = 100 * time.Millisecond
	// ReconnectJitter spreads the clients of a node that died.
	ReconnectJitter = 50 * time.Millisecond
	// FlushTimeout bounds one write to the socket.
	FlushTimeout = time.Second
	// drainTimeout bounds Drain.
	drainTimeout = 5 * time.Second
)

// Errors that callers test for.
var (
	ErrNoServers = errors.New("no server is given")
	ErrNoKey     = errors.New("give either a seed file or a key")
	ErrTLS       = errors.New("the settings for TLS are not complete")
)

// Options of a connection. Servers, and one of SeedFile and Key, are required.
type Options struct {
	// Servers are URLs of all nodes: nats://host:port. With a CA, and for tls://host:port, the connection is refused unless it can be encrypted.
	Servers []string
	// InOrder tries the servers in the order given. Otherwise the order is random, so that clients spread over the nodes.
	InOrder bool

	// SeedFile holds the user's nkey seed, mode 0600 or 0400.
	SeedFile string
	// Key signs instead of a seed from a file.
	Key nkeys.KeyPair

	// CAFile is a PEM bundle of the authorities that sign the nodes' certificates. It is read again for every new connection, so that a
	// replaced file needs no restart.
	CAFile string
	// RootCAs takes the place of CAFile.
	RootCAs *x509.CertPool
	// Authorities takes the place of CAFile, too: it is asked at every new connection. Without any of the three, the host's authorities count.
	Authorities func() (*x509.CertPool, error)
	// CertFile and KeyFile are this client's own certificate, if the nodes ask for one; read again for every new connection.
	CertFile, KeyFile string
	// ServerName is what the nodes' certificates must be for, if it is not the host in the URL.
	ServerName string

	// Name is shown by monitoring.
	Name string
	// InboxPrefix must be "_INBOX_<user>" for a user whose replies are private (see [InboxPrefix]); "" for nats.go's own.
	InboxPrefix string

	// Background returns from Connect at once and connects in the background for as long as it takes. Otherwise Connect tries every server once.
	Background bool
	// Log receives changes of the connection and errors on the side; nil discards them. Handlers among NATS replace it.
	Log *slog.Logger
	// NATS are further options of nats.go. They are applied last.
	NATS []nats.Option
}

// InboxPrefix is that of a user: nobody else may read below it.
func InboxPrefix(user string) string { return "_INBOX_" + user }

// Conn is a connection to a cluster: to one node at a time.
type Conn struct {
	*nats.Conn
}

// Connect connects to the first node that takes it. It returns an error when none does, or when ctx ends first; with Options.Background only when the
// options are wrong. ctx means nothing to the connection after that: see Close and Drain.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	all, err := o.options()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		nc, err := nats.Connect(strings.Join(o.Servers, ","), all...)
		done <- result{nc, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("connect to %s: %w", strings.Join(o.Servers, ", "), r.err)
		}
		return &Conn{r.nc}, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(o.Servers, ", "), context.Cause(ctx))
	}
}

// options translates for nats.go.
func (o Options) options() ([]nats.Option, error) {
	if len(o.Servers) == 0 {
		return nil, ErrNoServers
	}
	key, err := o.key()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	secure, err := o.tls()
	if err != nil {
		return nil, err
	}
	all := append(failover(), nats.Name(o.Name), nats.Nkey(public, key.Sign), secure)
	if o.InOrder {
		all = append(all, nats.DontRandomize())
	}
	if o.InboxPrefix != "" {
		all = append(all, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	if o.Background {
		all = append(all, nats.RetryOnFailedConnect(true))
	}
	all = append(all, o.handlers()...)
	return append(all, o.NATS...), nil
}

func failover() []nats.Option {
	return []nats.Option{
		nats.Timeout(DialTimeout),
		nats.PingInterval(PingInterval),
		nats.MaxPingsOutstanding(MaxPings),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(ReconnectWait),
		nats.ReconnectJitter(ReconnectJitter, ReconnectJitter),
		nats.ReconnectBufSize(-1),      // what is sent after a reconnect would be a retry that nobody asked for
		nats.IgnoreAuthErrorAbort(),    // a node that does not know its users yet must not end the client for good
		nats.IgnoreDiscoveredServers(), // nodes may advertise addresses that cannot be reached from here; all nodes are given
		nats.FlusherTimeout(FlushTimeout),
		nats.DrainTimeout(drainTimeout),
	}
}

func (o Options) handlers() []nats.Option {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) { log.Info("connected", "node", nc.ConnectedServerName()) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("reconnected", "node", nc.ConnectedServerName()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Info("disconnected", "error", err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { log.Info("closed", "error", nc.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("error on the connection", "subject", subject, "error", err)
		}),
	}
}

func (o Options) key() (nkeys.KeyPair, error) {
	if (o.Key == nil) == (o.SeedFile == "") {
		return nil, ErrNoKey
	}
	if o.Key != nil {
		return o.Key, nil
	}
	return LoadSeed(o.SeedFile)
}

// LoadSeed reads a user nkey's seed from a file that only its owner may read.
func LoadSeed(path string) (nkeys.KeyPair, error) {
	seed, err := secret.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read the nkey seed: %w", err)
	}
	kp, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read the nkey seed: %s does not hold one", path)
	}
	if pub, err := kp.PublicKey(); err != nil || !nkeys.IsValidPublicUserKey(pub) {
		return nil, fmt.Errorf("read the nkey seed: %s holds a key that is not a user's", path)
	}
	return kp, nil
}
