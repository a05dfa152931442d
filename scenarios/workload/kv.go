package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// kvHistory is how many revisions of a key a bucket keeps: the most that it can, so that a watcher which comes back late still finds them.
const kvHistory = 64

// Mix is how often a client picks each operation. Only the proportions matter.
type Mix struct {
	Put    float64 // unconditional write
	Create float64 // only if the key does not exist
	Update float64 // compare-and-set, mostly after a read of its own that finds out the revision
	Get    float64 // read answered by the leader
	Direct float64 // read that any replica may answer (KV only)
}

// DefaultMix reads somewhat more often than it writes, because most updates begin with a read too.
var DefaultMix = Mix{Put: 20, Create: 5, Update: 35, Get: 40}

func (m Mix) pick(rng *rand.Rand) history.Kind {
	x := rng.Float64() * (m.Put + m.Create + m.Update + m.Get + m.Direct)
	for _, s := range []struct {
		share float64
		kind  history.Kind
	}{{m.Put, history.Put}, {m.Create, history.Create}, {m.Update, history.Update}, {m.Direct, history.Direct}} {
		if x < s.share {
			return s.kind
		}
		x -= s.share
	}
	return history.Get
}

// KV works on a key-value bucket. Each client is one process in the sense of linearizability: one operation at a time.
type KV struct {
	Label    string        // of the clients; "" means "kv"
	Target   string        // the bucket; "" means "kv-orders"
	Replicas int           // 0 means 3, or fewer where there are fewer nodes
	Clients  int           // 0 means 6
	Keys     int           // 0 means 8; all clients share them
	Rate     float64       // operations a second and client, while none is overdue; 0 means 20
	Mix      Mix           // the zero value means DefaultMix
	Timeout  time.Duration // of one operation; 0 means 2 s
	Existing bool          // do not create the bucket, nor wait for it

	team
}

var _ Workload = (*KV)(nil)

func (w *KV) defaults(nodes int) {
	w.Label = or(w.Label, "kv")
	w.Target = or(w.Target, "kv-orders")
	w.Replicas = or(w.Replicas, min(defaultR, nodes))
	w.Clients = or(w.Clients, 6)
	w.Keys = or(w.Keys, 8)
	w.Rate = or(w.Rate, 20)
	w.Mix = or(w.Mix, DefaultMix)
	w.Timeout = or(w.Timeout, defaultTimeout)
}

// Name implements Workload.
func (w *KV) Name() string { return "kv " + or(w.Target, "kv-orders") }

func bucketStream(bucket string) string       { return "KV_" + bucket }
func bucketSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// Setup implements Workload. A bucket that exists already is used as it is.
func (w *KV) Setup(ctx context.Context, e *Env) error {
	w.defaults(nodeCount(e.Cluster))
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	if w.Existing {
		return nil
	}
	return w.clients[0].ensureBucket(ctx, w.Target, w.Replicas)
}

func (c *client) ensureBucket(ctx context.Context, bucket string, replicas int) error {
	err := until(ctx, createWait, createEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_, err := c.js.KeyValue(ctx, bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			_, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
				Bucket: bucket, Replicas: replicas, History: kvHistory, Storage: jetstream.FileStorage,
			})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", bucket, err)
	}
	return c.streamCurrent(ctx, bucketStream(bucket))
}

// Run implements Workload.
func (w *KV) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		r := &register{
			target: w.Target, keys: w.Keys, mix: w.Mix, timeout: w.Timeout, prefix: "k",
			do: func(ctx context.Context, op *history.Op) error { return c.kvOp(ctx, w.Target, op) },
		}
		return r.run(ctx, c, newPacer(w.Rate, i, len(w.clients)))
	})
}

// register is one sequential process over a set of keys. KV and Control differ only in how an operation is carried out.
type register struct {
	target  string
	prefix  string
	keys    int
	mix     Mix
	timeout time.Duration
	do      func(ctx context.Context, op *history.Op) error // fills in Seq, and for reads Value
}

func (r *register) run(ctx context.Context, c *client, p *pacer) (skipped int) {
	mem := &memory{rng: c.rng(), seen: map[string]uint64{}}
	return closedLoop(ctx, p, func(n int) {
		op := r.plan(mem)
		if op.Kind != history.Get && op.Kind != history.Direct {
			op.Value = c.value(n)
		}
		out := c.do(ctx, &op, r.timeout, func(ctx context.Context) error { return r.do(ctx, &op) })
		mem.learn(op, out)
	})
}

// memory is what one client knows: its plan depends on it.
type memory struct {
	rng  *rand.Rand
	seen map[string]uint64 // the last revision that it saw, by key
	next string            // the key that it has just read in order to update it
}

// staleUpdates is how often an update trusts the revision that the client happens to know, which somebody else may have replaced. Otherwise the
// client reads first, as applications do.
const staleUpdates = 0.2

func (r *register) plan(m *memory) history.Op {
	if key := m.next; key != "" {
		m.next = ""
		if rev := m.seen[key]; rev > 0 {
			return history.Op{Kind: history.Update, Target: r.target, Key: key, Prev: rev}
		}
	}
	op := history.Op{Kind: r.mix.pick(m.rng), Target: r.target, Key: r.prefix + strconv.Itoa(m.rng.IntN(r.keys))}
	if op.Kind != history.Update {
		return op
	}
	if rev := m.seen[op.Key]; rev > 0 && m.rng.Float64() < staleUpdates {
		op.Prev = rev
		return op
	}
	op.Kind, m.next = history.Get, op.Key
	return op
}

func (m *memory) learn(op history.Op, out history.Outcome) {
	if op.Kind == history.Direct {
		return // perhaps stale
	}
	if out == history.OK {
		m.seen[op.Key] = op.Seq
	} else {
		delete(m.seen, op.Key)
	}
}

// kvOp carries out one operation on a bucket.
func (c *client) kvOp(ctx context.Context, bucket string, op *history.Op) error {
	subject, stream := bucketSubject(bucket, op.Key), bucketStream(bucket)
	switch op.Kind {
	case history.Put:
		return c.publishTo(ctx, op, subject, stream, []byte(op.Value))
	case history.Create, history.Update: // op.Prev is 0 for a create
		return c.publishTo(ctx, op, subject, stream, []byte(op.Value), jetstream.WithExpectLastSequencePerSubject(op.Prev))
	case history.Direct:
		return c.directGet(ctx, op, subject, stream)
	default:
		return c.leaderGet(ctx, op, subject, stream)
	}
}

// leaderGet reads the last revision of a key from the stream's leader. That there is none is an answer.
func (c *client) leaderGet(ctx context.Context, op *history.Op, subject, stream string) error {
	m, err := c.get(ctx, stream, msgGet{LastBy: subject})
	if errors.Is(err, errNone) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.Subject != subject {
		return fmt.Errorf("%w: %s instead of %s", errBadAnswer, m.Subject, subject)
	}
	if !deleted(m.header()) {
		op.Value, op.Seq = string(m.Data), m.Seq
	}
	return nil
}

// directGet reads the last revision that some replica has.
func (c *client) directGet(ctx context.Context, op *history.Op, subject, stream string) error {
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return err
	}
	switch status := m.Header.Get("Status"); {
	case status == "404":
		return nil
	case status != "":
		return fmt.Errorf("%w: status %s", errBadAnswer, status)
	}
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil || m.Header.Get(jetstream.SubjectHeader) != subject {
		return fmt.Errorf("%w: of a direct get", errBadAnswer)
	}
	if !deleted(m.Header) {
		op.Value, op.Seq = string(m.Data), seq
	}
	return nil
}

// deleted tells whether a stored message is a bucket's delete or purge marker.
func deleted(h nats.Header) bool {
	op := h.Get("KV-Operation")
	return op == "DEL" || op == "PURGE" || h.Get("Nats-Marker-Reason") != ""
}

// Drain implements Workload: all revisions that the bucket still has.
func (w *KV) Drain(ctx context.Context, _ *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	return c.drain(ctx, w.Target, bucketStream(w.Target), func(m *message) history.Item {
		return history.Item{Key: strings.TrimPrefix(m.Subject, bucketSubject(w.Target, "")), Value: string(m.Data), Del: deleted(m.header())}
	})
}

// Close implements Workload.
func (w *KV) Close() { w.close() }
