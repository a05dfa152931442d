package workload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Defaults of stream loads.
const (
	dedupWindow    = 2 * time.Minute // longer than the longest retry
	defaultRetries = 3
	retryBase      = 100 * time.Millisecond
	retryLimit     = time.Second
	createWait     = 30 * time.Second // for a stream or consumer to exist and all its replicas to be current
	createEvery    = 200 * time.Millisecond
	defaultR       = 3
	repeatAfter    = 100 * time.Millisecond // at least; at most repeatWithin
	repeatWithin   = 2 * time.Second
)

// Streams publishes to a JetStream stream, every message with a unique message id, which is its payload's beginning too. A publish that
// failed, or whose fate is not known, is published again as a new operation with the same id, as applications do.
type Streams struct {
	Label        string        // of the clients; "" means "pub"
	Target       string        // the stream; "" means "ORDERS"
	Subjects     []string      // it stores; nil means "orders.>". Publisher i uses the first one, with ">" or "*" replaced by "p<i>".
	FirstSeq     uint64        // the first sequence that it gives; 0 means 1
	Replicas     int           // 0 means 3, or fewer where there are fewer nodes
	Publishers   int           // 0 means 3; publisher i sits on node i modulo their number
	Rate         float64       // messages a second and publisher, open loop; 0 means 50
	PayloadBytes int           // 0 means 128
	Timeout      time.Duration // of one publish; 0 means 2 s
	MaxAttempts  int           // publishes of one message altogether; 0 means 3
	NoRetry      bool          // one attempt
	Repeat       float64       // share of acked messages that another publisher publishes again a moment later, as one does who never heard of the ack
	Retention    jetstream.RetentionPolicy
	Existing     bool // do not create the stream, nor wait for it: where a cluster must not be able to

	team
}

var _ Workload = (*Streams)(nil)

func (w *Streams) defaults(nodes int) {
	w.Label = or(w.Label, "pub")
	w.Target = or(w.Target, "ORDERS")
	if len(w.Subjects) == 0 {
		w.Subjects = []string{"orders.>"}
	}
	w.Replicas = or(w.Replicas, min(defaultR, nodes))
	w.Publishers = or(w.Publishers, 3)
	w.Rate = or(w.Rate, 50)
	w.PayloadBytes = or(w.PayloadBytes, 128)
	w.Timeout = or(w.Timeout, defaultTimeout)
	w.MaxAttempts = or(w.MaxAttempts, defaultRetries)
	if w.NoRetry {
		w.MaxAttempts = 1
	}
}

// or is v, or d where v is the zero value.
func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Name implements Workload.
func (w *Streams) Name() string { return "streams " + or(w.Target, "ORDERS") }

// Setup implements Workload. A stream that exists already is used as it is.
func (w *Streams) Setup(ctx context.Context, e *Env) error {
	w.defaults(nodeCount(e.Cluster))
	if err := w.join(ctx, e, e.label(w.Label), w.Publishers); err != nil {
		return err
	}
	if w.Existing {
		return nil
	}
	return w.clients[0].ensureStream(ctx, jetstream.StreamConfig{
		Name: w.Target, Subjects: w.Subjects, Replicas: w.Replicas, Storage: jetstream.FileStorage, Retention: w.Retention,
		Duplicates: dedupWindow, AllowDirect: false, FirstSeq: w.FirstSeq,
	})
}

// ensureStream creates a stream where there is none, and waits until it has a leader and all its replicas are current.
func (c *client) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	err := until(ctx, createWait, createEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_, err := c.js.Stream(ctx, cfg.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = c.js.CreateStream(ctx, cfg)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create stream %s: %w", cfg.Name, err)
	}
	return c.streamCurrent(ctx, cfg.Name)
}

// streamCurrent waits until the stream's leader says that all replicas are current.
func (c *client) streamCurrent(ctx context.Context, name string) error {
	err := until(ctx, createWait, createEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		s, err := c.js.Stream(ctx, name)
		if err != nil {
			return err
		}
		return current(s.CachedInfo().Config.Replicas, s.CachedInfo().Cluster)
	})
	if err != nil {
		return fmt.Errorf("wait for the replicas of %s: %w", name, err)
	}
	return nil
}

func current(replicas int, ci *jetstream.ClusterInfo) error {
	if replicas <= 1 || ci == nil {
		return nil
	}
	n := 0
	for _, p := range ci.Replicas {
		if p.Current && !p.Offline {
			n++
		}
	}
	if ci.Leader == "" || n < replicas-1 {
		return fmt.Errorf("leader %q, %d of %d followers current", ci.Leader, n, replicas-1)
	}
	return nil
}

// Run implements Workload.
func (w *Streams) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		subject := strings.NewReplacer(">", fmt.Sprintf("p%d", i), "*", fmt.Sprintf("p%d", i)).Replace(w.Subjects[0])
		return openLoop(ctx, newPacer(w.Rate, i, len(w.clients)), func(n int) {
			id := c.value(n)
			if w.publish(ctx, c, subject, id) {
				w.repeat(ctx, w.clients[(i+1)%len(w.clients)], subject, id)
			}
		})
	})
}

// publish tries a message until it is acked, the attempts are used up or the run ends.
func (w *Streams) publish(ctx context.Context, c *client, subject, id string) (acked bool) {
	rng := c.rngFor(id)
	for k := range w.MaxAttempts {
		if k > 0 && !pause(ctx, backoff(rng, retryBase, retryLimit, k)) {
			return false
		}
		if w.attempt(ctx, c, subject, id) {
			return true
		}
	}
	return false
}

func (w *Streams) attempt(ctx context.Context, c *client, subject, id string) (acked bool) {
	op := history.Op{Kind: history.Publish, Target: w.Target, Key: subject, Value: id}
	return c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
		return c.publish(ctx, &op, w.Target, payload(id, w.PayloadBytes), jetstream.WithMsgID(id))
	}) == history.OK
}

// repeat publishes some messages again that were acked: the seed says which, and after how long.
func (w *Streams) repeat(ctx context.Context, c *client, subject, id string) {
	rng := c.rngFor("repeat " + id)
	if rng.Float64() < w.Repeat && pause(ctx, repeatAfter+time.Duration(rng.Int64N(int64(repeatWithin-repeatAfter)))) {
		w.attempt(ctx, c, subject, id)
	}
}

// publish is one JetStream publish to op.Key, without nats.go's own repetition. The ack must name the stream and a sequence.
func (c *client) publish(ctx context.Context, op *history.Op, stream string, data []byte, opts ...jetstream.PublishOpt) error {
	return c.publishTo(ctx, op, op.Key, stream, data, opts...)
}

func (c *client) publishTo(ctx context.Context, op *history.Op, subject, stream string, data []byte, opts ...jetstream.PublishOpt) error {
	opts = append(opts, jetstream.WithRetryAttempts(0))
	ack, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, opts...)
	if err != nil {
		return err
	}
	if ack.Stream != stream || ack.Sequence == 0 {
		return fmt.Errorf("%w: ack of %q at %d", errBadAnswer, ack.Stream, ack.Sequence)
	}
	op.Seq, op.Dup = ack.Sequence, ack.Duplicate
	return nil
}

// Drain implements Workload.
func (w *Streams) Drain(ctx context.Context, _ *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	return c.drain(ctx, w.Target, w.Target, streamItem)
}

// streamItem names a message by its id. Header and payload both carry it; where they disagree the name is one that nobody sent.
func streamItem(m *message) history.Item {
	id := idOf(m.Data)
	if h := m.header().Get(jetstream.MsgIDHeader); h != id {
		id = cut(fmt.Sprintf("damaged:header %q, payload %q", h, id), maxErrWord)
	}
	return history.Item{Key: m.Subject, Value: id}
}

// Close implements Workload.
func (w *Streams) Close() { w.close() }
