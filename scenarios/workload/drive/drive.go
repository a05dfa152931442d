// Package drive loads a cluster as fast as it takes it, for benchmarks: closed loops that count and record nothing, so that the clients cost as
// little as they can. What is to be judged is driven by package workload, which records.
package drive

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	unibus "github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
)

// User is an nkey user. The seed lives in memory only.
type User struct {
	Name   string
	Public string
	pair   nkeys.KeyPair
}

// NewUser makes a user with a new key.
func NewUser(name string) (User, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return User{}, fmt.Errorf("create nkey: %w", err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		return User{}, fmt.Errorf("create nkey: %w", err)
	}
	return User{Name: name, Public: pub, pair: pair}, nil
}

// Target is a cluster as clients reach it.
type Target struct {
	Servers     []string // URLs, in the order of the nodes
	Authorities func() (*x509.CertPool, error)
}

// TargetOf returns how that cluster is reached.
func TargetOf(c cluster.Cluster) Target {
	var t Target
	for _, n := range c.Nodes() {
		t.Servers = append(t.Servers, n.Endpoints().Client)
	}
	if s, ok := c.(cluster.Secured); ok && len(s.Trust().Believed) > 0 {
		t.Authorities = func() (*x509.CertPool, error) { return pki.Pool(s.Trust().Believed) }
	}
	return t
}

// Options connect that user to the i-th node, and to no other.
func (t Target) Options(u User, i int) unibus.Options {
	return unibus.Options{
		Servers: []string{t.Servers[i%len(t.Servers)]}, InOrder: true, Key: u.pair, Authorities: t.Authorities,
		Name: u.Name, InboxPrefix: unibus.InboxPrefix(u.Name),
	}
}

// Rate is what a load did.
type Rate struct {
	Ops  int
	Took time.Duration
}

// PerSecond is the rate in operations a second.
func (r Rate) PerSecond() float64 { return float64(r.Ops) / r.Took.Seconds() }

// Session is the connections of one user, one to each node. A server that refuses anything of what a load does says so on the side only, so
// every load ends with an error if there was such a word.
type Session struct {
	conns []*nats.Conn

	mu  sync.Mutex
	err error
}

// Dial connects to every node.
func Dial(ctx context.Context, t Target, u User) (*Session, error) {
	s := &Session{}
	for i := range t.Servers {
		o := t.Options(u, i)
		o.NATS = []nats.Option{nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.fail(err) })}
		c, err := unibus.Connect(ctx, o)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.conns = append(s.conns, c.Conn)
	}
	return s, nil
}

// Close ends the connections.
func (s *Session) Close() {
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *Session) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// flush makes sure that every server has taken, or refused, what was sent.
func (s *Session) flush(ctx context.Context) error {
	var errs []error
	for _, c := range s.conns {
		errs = append(errs, flush(ctx, c))
	}
	return errors.Join(append(errs, s.failed())...)
}

func flush(ctx context.Context, c *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	return c.FlushWithContext(ctx)
}

// Connects dials and closes, for about d, as one user after the other and to one node after the other; a connection counts once the server has
// answered the first ping behind its login.
func Connects(ctx context.Context, t Target, users []User, clients int, d time.Duration) (Rate, error) {
	return crew(ctx, clients, d, func(ctx context.Context, worker, n int) error {
		k := worker + n*clients
		c, err := unibus.Connect(ctx, t.Options(users[k%len(users)], k))
		if err == nil {
			c.Close()
		}
		return err
	})
}

// Login tries once to connect as that user to the i-th node.
func Login(ctx context.Context, t Target, u User, i int) error {
	c, err := unibus.Connect(ctx, t.Options(u, i))
	if err == nil {
		c.Close()
	}
	return err
}

// crew runs work in closed loops of so many workers until d is over; what has begun by then is finished, and counts.
func crew(ctx context.Context, workers int, d time.Duration, work func(ctx context.Context, worker, n int) error) (Rate, error) {
	began := time.Now()
	done := make([]int, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := 0; time.Since(began) < d && ctx.Err() == nil; n++ {
				if errs[w] = work(ctx, w, n); errs[w] != nil {
					return
				}
				done[w]++
			}
		})
	}
	wg.Wait()
	r := Rate{Took: time.Since(began)}
	for _, n := range done {
		r.Ops += n
	}
	return r, errors.Join(append(errs, ctx.Err())...)
}
