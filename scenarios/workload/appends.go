package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Appends publishes to a stream on the condition that it still ends as the client last saw it: by sequence (Nats-Expected-Last-Sequence) or by message id
// (Nats-Expected-Last-Msg-Id). Each client does one thing at a time. Nobody else may write to the stream. What is refused is not tried again: the next
// round looks at the stream's end first.
type Appends struct {
	Label    string        // of the clients; "" means "ledger"
	Target   string        // the stream; "" means "LEDGER"
	Subject  string        // "" means "ledger"
	Replicas int           // 0 means 3, or fewer where there are fewer nodes
	Clients  int           // 0 means 3
	Rate     float64       // messages a second and client; 0 means 5
	ByID     float64       // share of the messages that expect a message id instead of a sequence
	Timeout  time.Duration // of one request; 0 means 2 s

	team
}

var _ Workload = (*Appends)(nil)

// Name implements Workload.
func (w *Appends) Name() string { return "appends to " + or(w.Target, "LEDGER") }

// Setup implements Workload. A stream that exists already is used as it is.
func (w *Appends) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Target, w.Subject = or(w.Label, "ledger"), or(w.Target, "LEDGER"), or(w.Subject, "ledger")
	w.Replicas = or(w.Replicas, min(defaultR, nodeCount(e.Cluster)))
	w.Clients, w.Rate, w.Timeout = or(w.Clients, 3), or(w.Rate, 5), or(w.Timeout, defaultTimeout)
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	return w.clients[0].ensureStream(ctx, jetstream.StreamConfig{
		Name: w.Target, Subjects: []string{w.Subject}, Replicas: w.Replicas, Storage: jetstream.FileStorage, Duplicates: dedupWindow, AllowDirect: false,
	})
}

// streamEnd is what a client believes to be the last message of a stream.
type streamEnd struct {
	known bool
	seq   uint64 // 0 for an empty stream
	id    string
}

// Run implements Workload.
func (w *Appends) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		rng := c.rng()
		var end streamEnd
		return closedLoop(ctx, newPacer(w.Rate, i, len(w.clients)), func(n int) {
			if !end.known || rng.Float64() >= staleUpdates { // otherwise, and where it gets no answer, it trusts what it happens to know
				if now := w.look(ctx, c); now.known {
					end = now
				}
			}
			if now := w.append(ctx, c, rng, end, c.value(n)); now.known {
				end = now
			} else {
				end.known = false
			}
		})
	})
}

// look asks the stream's leader for its last message.
func (w *Appends) look(ctx context.Context, c *client) streamEnd {
	op := history.Op{Kind: history.Get, Target: w.Target, Key: w.Subject}
	out := c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
		m, err := c.get(ctx, w.Target, msgGet{LastBy: w.Subject})
		if errors.Is(err, errNone) {
			return nil
		}
		if err != nil {
			return err
		}
		op.Seq, op.Value = m.Seq, streamItem(m).Value
		return nil
	})
	return streamEnd{known: out == history.OK, seq: op.Seq, id: op.Value}
}

// append publishes once, and returns what the client then knows.
func (w *Appends) append(ctx context.Context, c *client, rng *rand.Rand, end streamEnd, id string) streamEnd {
	op := history.Op{Kind: history.Append, Target: w.Target, Key: w.Subject, Value: id, Prev: end.seq}
	expect := jetstream.WithExpectLastSequence(end.seq)
	if byID := rng.Float64() < w.ByID; byID && end.id != "" {
		op.Prev, op.After = 0, end.id
		expect = jetstream.WithExpectLastMsgID(end.id)
	}
	out := c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
		if err := c.publish(ctx, &op, w.Target, payload(id, 0), jetstream.WithMsgID(id), expect); err != nil {
			return err
		}
		if op.Dup {
			return fmt.Errorf("%w: %s is said to be a duplicate", errBadAnswer, id)
		}
		return nil
	})
	return streamEnd{known: out == history.OK, seq: op.Seq, id: id}
}

// Drain implements Workload.
func (w *Appends) Drain(ctx context.Context, _ *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	return c.drain(ctx, w.Target, w.Target, streamItem)
}

// Close implements Workload.
func (w *Appends) Close() { w.close() }
