package workload

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Settings of ordered consumers.
const (
	defaultHeartbeat = time.Second // twice missed: the consumer is made again. nats.go's own default for a KV watch is 5 s.
	idleThreshold    = 30 * time.Second
	tailCreate       = time.Second // for one attempt to make a consumer: a request to a leader that has died is never answered
)

// tail is clients that each follow a whole stream by an ordered consumer of their own: ephemeral, R1 in memory, without acks, and made anew
// after the last message at the first sign of trouble (a gap in the consumer's own count, two missed heartbeats, any error). That is what
// jetstream.OrderedConsumer is too, but that one waits ten seconds for each answer when it mends itself, so that one request which is lost in a failover
// would hide how soon the cluster serves again.
type tail struct {
	kind    string // of the deliveries
	target  string
	stream  string
	filter  []string
	policy  jetstream.DeliverPolicy // of the first consumer; later ones go on after the last message
	beat    time.Duration
	key     func(subject string) string
	value   func(m jetstream.Msg) string
	reached []atomic.Uint64 // the last sequence that each client was given

	*team
	background
}

func (t *tail) run(ctx context.Context) error {
	if t == nil || len(t.clients) == 0 {
		return errNotSetUp
	}
	if t.reached == nil { // a load that goes on after a pause still has its consumers
		t.reached = make([]atomic.Uint64, len(t.clients))
		t.start(ctx, t.clients, t.follow)
	}
	<-ctx.Done()
	_ = t.catchUp(context.WithoutCancel(ctx), t.stream, catchUpSteady, t.behind) // drain reports it
	return nil
}

// follow reads until ctx ends.
func (t *tail) follow(ctx context.Context, c *client, i int) {
	for pause(ctx, 0) {
		if err := t.read(ctx, c, i); err != nil {
			c.env.log().Debug("ordered consumer", "client", c.name, "err", err)
			pause(ctx, consumerRetry)
		}
	}
}

// read follows the stream by one consumer for as long as that one works.
func (t *tail) read(ctx context.Context, c *client, i int) error {
	cons, err := t.open(ctx, c, t.reached[i].Load())
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	it, err := cons.Messages(jetstream.PullHeartbeat(t.beat), jetstream.PullExpiry(4*t.beat))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer it.Stop()
	for n := uint64(1); ; n++ {
		// No shorter wait than the heartbeat's: every call of Next starts to count heartbeats anew, so that short ones never notice a dead consumer.
		m, err := it.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		if err := t.deliver(c, i, n, m); err != nil {
			return err
		}
	}
}

// open makes a consumer of what comes after last.
func (t *tail) open(ctx context.Context, c *client, last uint64) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, tailCreate)
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		FilterSubjects: t.filter, DeliverPolicy: t.policy, AckPolicy: jetstream.AckNonePolicy,
		InactiveThreshold: idleThreshold, Replicas: 1, MemoryStorage: true,
	}
	if last > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, last+1
	}
	return c.js.CreateConsumer(ctx, t.stream, cfg)
}

// deliver records the n-th message of a consumer. Another one means that some were lost on the way.
func (t *tail) deliver(c *client, i int, n uint64, m jetstream.Msg) error {
	md, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read metadata: %w", err)
	}
	if md.Sequence.Consumer != n {
		return fmt.Errorf("message %d of the consumer came instead of %d", md.Sequence.Consumer, n)
	}
	c.env.Recorder.Delivery(history.Delivery{
		Client: c.name, Node: c.nc.ConnectedServerName(), Kind: t.kind, Target: t.target, Key: t.key(m.Subject()), Value: t.value(m),
		Seq: md.Sequence.Stream, Count: md.NumDelivered,
	})
	t.reached[i].Store(md.Sequence.Stream)
	return nil
}

func (t *tail) behind(_ context.Context, _ *client, last uint64) error {
	for i := range t.reached {
		if at := t.reached[i].Load(); at < last {
			return fmt.Errorf("%s is at %d of %d", t.clients[i].name, at, last)
		}
	}
	return nil
}

func (t *tail) drain(ctx context.Context) error {
	if t == nil {
		return errNotSetUp
	}
	defer t.end()
	if err := t.catchUp(ctx, t.stream, 0, t.behind); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	return nil
}

func (t *tail) shut() {
	if t != nil {
		t.end()
	}
}

// OrderedConsumer is clients that each read a whole stream in order, over an ephemeral ordered consumer.
type OrderedConsumer struct {
	Label     string        // of the clients; "" means "ordered"
	Target    string        // the stream; "" means "ORDERS"
	Clients   int           // 0 means 3
	Heartbeat time.Duration // 0 means 1 s

	team
	tail *tail
}

var _ Workload = (*OrderedConsumer)(nil)

// Name implements Workload.
func (w *OrderedConsumer) Name() string { return "ordered consumer of " + or(w.Target, "ORDERS") }

// Setup implements Workload: the stream must exist by the time Run is called.
func (w *OrderedConsumer) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Target = or(w.Label, "ordered"), or(w.Target, "ORDERS")
	w.Clients, w.Heartbeat = or(w.Clients, 3), or(w.Heartbeat, defaultHeartbeat)
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	w.tail = &tail{
		kind: "ordered", target: w.Target, stream: w.Target, policy: jetstream.DeliverAllPolicy, beat: w.Heartbeat, team: &w.team,
		key: func(s string) string { return s }, value: func(m jetstream.Msg) string { return idOf(m.Data()) },
	}
	return nil
}

// Run implements Workload.
func (w *OrderedConsumer) Run(ctx context.Context, _ *Env) error { return w.tail.run(ctx) }

// Drain implements Workload: every client has been given all that is stored, or the bounded wait for it ended.
func (w *OrderedConsumer) Drain(ctx context.Context, _ *Env) error { return w.tail.drain(ctx) }

// Close implements Workload.
func (w *OrderedConsumer) Close() {
	w.tail.shut()
	w.close()
}

// Watcher is clients that each watch all keys of a bucket: first the last revision of every key, then every change.
type Watcher struct {
	Label     string        // of the clients; "" means "watch"
	Target    string        // the bucket; "" means "kv-orders"
	Clients   int           // 0 means 3
	Heartbeat time.Duration // 0 means 1 s

	team
	tail *tail
}

var _ Workload = (*Watcher)(nil)

// Name implements Workload.
func (w *Watcher) Name() string { return "watcher of " + or(w.Target, "kv-orders") }

// Setup implements Workload: the bucket must exist by the time Run is called.
func (w *Watcher) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Target = or(w.Label, "watch"), or(w.Target, "kv-orders")
	w.Clients, w.Heartbeat = or(w.Clients, 3), or(w.Heartbeat, defaultHeartbeat)
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	prefix := bucketSubject(w.Target, "")
	w.tail = &tail{
		kind: "watch", target: w.Target, stream: bucketStream(w.Target), policy: jetstream.DeliverLastPerSubjectPolicy, beat: w.Heartbeat, team: &w.team,
		filter: []string{prefix + ">"},
		key:    func(s string) string { return strings.TrimPrefix(s, prefix) },
		value:  func(m jetstream.Msg) string { return string(m.Data()) },
	}
	return nil
}

// Run implements Workload.
func (w *Watcher) Run(ctx context.Context, _ *Env) error { return w.tail.run(ctx) }

// Drain implements Workload: every client has seen the bucket's last revision, or the bounded wait for it ended.
func (w *Watcher) Drain(ctx context.Context, _ *Env) error { return w.tail.drain(ctx) }

// Close implements Workload.
func (w *Watcher) Close() {
	w.tail.shut()
	w.close()
}
