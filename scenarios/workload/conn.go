package workload

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
	unibus "github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
)

// Settings of every connection; those of failover are package client's.
const (
	apiTimeout     = 2 * time.Second // one JetStream API request that is not a recorded operation
	connectWait    = 5 * time.Second // in Setup, for the first connections; those that take longer go on in the background
	defaultTimeout = 2 * time.Second // of a recorded operation
	reconnectPoll  = 20 * time.Millisecond
)

var errNotSetUp = errors.New("the workload has not been set up")

// client is one recording client: a connection of its own, with its home node.
type client struct {
	name string
	env  *Env
	nc   *nats.Conn
	js   jetstream.JetStream

	turn  int           // how often its workload was set going; only changed while it rests
	first chan struct{} // closed at the first connection

	mu    sync.Mutex
	node  string             // the node that it is connected to; "" for none
	epoch context.Context    // of the present connection
	sever context.CancelFunc // ends epoch
	once  sync.Once
}

// connect makes the i-th client of a workload. Its home is node i modulo their number, the others follow in order. A cluster that cannot be
// reached is not an error: the client keeps trying, and its operations say so.
func (e *Env) connect(ctx context.Context, name string, i int) (*client, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	c := &client{name: name, env: e, first: make(chan struct{})}
	c.epoch, c.sever = context.WithCancel(context.Background())
	nodes := e.Cluster.Nodes()
	if len(nodes) == 0 {
		return nil, errors.New("connect: the cluster has no nodes")
	}
	var servers []string
	for k := range nodes {
		servers = append(servers, nodes[(i+k)%len(nodes)].Endpoints().Client)
	}
	conn, err := unibus.Connect(ctx, unibus.Options{
		Servers: servers, InOrder: true, Key: e.Identity.pair, Authorities: authorities(e.Cluster), Name: name, Background: true, NATS: c.handlers(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	c.nc = conn.Conn
	if c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(apiTimeout)); err != nil {
		c.nc.Close()
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	e.mu.Lock()
	e.clients = append(e.clients, c)
	e.mu.Unlock()
	return c, nil
}

// Reconnect makes every recording client that is open leave its connection and dial again, and waits until ctx ends at most. It returns how many
// were asked, and the names of those that are not back.
func (e *Env) Reconnect(ctx context.Context) (asked int, stranded []string, err error) {
	e.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(e.clients), func(c *client) bool { return c.nc.IsClosed() })
	e.mu.Unlock()
	before := make([]uint64, len(all))
	for i, c := range all {
		before[i] = c.nc.Stats().Reconnects
		if err := c.nc.ForceReconnect(); err != nil {
			return 0, nil, fmt.Errorf("reconnect %s: %w", c.name, err)
		}
	}
	t := time.NewTicker(reconnectPoll)
	defer t.Stop()
	for {
		stranded = nil
		for i, c := range all {
			if c.nc.Stats().Reconnects == before[i] || !c.nc.IsConnected() {
				stranded = append(stranded, c.name)
			}
		}
		if len(stranded) == 0 {
			return len(all), nil, nil
		}
		select {
		case <-ctx.Done():
			return len(all), stranded, nil
		case <-t.C:
		}
	}
}

// authorities are those that clients believe, asked at every new connection because a scenario may change them; nil for a cluster in plain text.
func authorities(c cluster.Cluster) func() (*x509.CertPool, error) {
	s, ok := c.(cluster.Secured)
	if !ok || len(s.Trust().Believed) == 0 {
		return nil
	}
	return func() (*x509.CertPool, error) { return pki.Pool(s.Trust().Believed) }
}

func (c *client) handlers() []nats.Option {
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) { c.up(nc, "connected") }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.up(nc, "reconnected") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.down("disconnected", err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { c.down("closed", nc.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.env.log().Debug("client error", "client", c.name, "err", err)
		}),
	}
}

// awaitFirst waits until the client has been connected once, or ctx ends.
func (c *client) awaitFirst(ctx context.Context) {
	select {
	case <-c.first:
	case <-ctx.Done():
		c.env.log().Info("client is not connected yet", "client", c.name)
	}
}

func (c *client) up(nc *nats.Conn, state string) {
	node := nc.ConnectedServerName()
	c.mu.Lock()
	c.node = node
	c.mu.Unlock()
	c.env.Recorder.Conn(history.Conn{Client: c.name, State: state, Node: node})
	c.once.Do(func() { close(c.first) })
}

// down ends what is in flight: an answer would have come over the connection that is gone.
func (c *client) down(state string, err error) {
	c.mu.Lock()
	node := c.node
	c.node = ""
	c.sever()
	c.epoch, c.sever = context.WithCancel(context.Background())
	c.mu.Unlock()
	rec := history.Conn{Client: c.name, State: state, Node: node}
	if err != nil {
		rec.Err = cut(err.Error(), maxErrWord)
	}
	c.env.Recorder.Conn(rec)
}

// life is a context for one operation: it ends with its timeout, or, with errDisconnected as its cause, when the present connection does. It does not
// end with ctx: an operation that is in flight when a run ends is waited for.
func (c *client) life(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	c.mu.Lock()
	epoch := c.epoch
	c.mu.Unlock()
	ctx, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	detach := context.AfterFunc(epoch, func() { cut(errDisconnected) })
	return ctx, func() {
		detach()
		cancel()
		cut(nil)
	}
}

// do records one operation: exactly one attempt, made by f.
func (c *client) do(ctx context.Context, op *history.Op, timeout time.Duration, f func(ctx context.Context) error) history.Outcome {
	op.Client, op.Node = c.name, c.nc.ConnectedServerName()
	ctx, cancel := c.life(ctx, timeout)
	defer cancel()
	c.env.Recorder.Invoke(op)
	err := f(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	op.Outcome, op.Err = classify(op, err)
	if op.Outcome != history.OK {
		op.Seq, op.Dup = 0, false // what an answer said that was not valid is no fact
	}
	c.env.Recorder.Complete(op)
	c.env.count(op.Outcome)
	return op.Outcome
}

func (e *Env) count(o history.Outcome) {
	e.counts.ops.Add(1)
	switch o {
	case history.OK:
		e.counts.ok.Add(1)
	case history.Failed:
		e.counts.failed.Add(1)
	case history.Unknown:
		e.counts.unknown.Add(1)
	}
}

func (c *client) close() {
	c.nc.Close()
}

// team is the clients of one workload.
type team struct{ clients []*client }

// join connects n clients named label-0, label-1, ..., and gives them a moment to get there.
func (t *team) join(ctx context.Context, e *Env, label string, n int) error {
	for i := range n {
		c, err := e.connect(ctx, fmt.Sprintf("%s-%d", label, i), i)
		if err != nil {
			return err
		}
		t.clients = append(t.clients, c)
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	for _, c := range t.clients {
		c.awaitFirst(ctx)
	}
	return nil
}

func (t *team) close() {
	for _, c := range t.clients {
		c.close()
	}
}

// each runs f for every client side by side, and notes how many due times were skipped because too much was in flight.
func (t *team) each(ctx context.Context, e *Env, f func(ctx context.Context, c *client, i int) (skipped int)) error {
	if len(t.clients) == 0 {
		return errNotSetUp
	}
	skipped := make([]int, len(t.clients))
	var wg sync.WaitGroup
	for i, c := range t.clients {
		c.turn++
		wg.Go(func() { skipped[i] = f(ctx, c, i) })
	}
	wg.Wait()
	for i, n := range skipped {
		if n > 0 {
			e.note("skipped "+t.clients[i].name, "due times at which the client was still busy", map[string]any{"skipped": float64(n)})
		}
	}
	return nil
}

// any is a client of the team that is connected, for what is not a recorded operation.
func (t *team) any() (*client, error) {
	if len(t.clients) == 0 {
		return nil, errNotSetUp
	}
	for _, c := range t.clients {
		if c.nc.IsConnected() {
			return c, nil
		}
	}
	return t.clients[0], nil
}

// nodeCount is how many nodes clients are spread over.
func nodeCount(c cluster.Cluster) int { return max(1, len(c.Nodes())) }
