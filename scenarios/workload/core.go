package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/reports/history"
)

// Subjects of the core loads where none is given.
const (
	coreSubject    = "chat.room"
	requestSubject = "svc.echo"
	echoQueue      = "echo"
	lateWait       = time.Second // for core messages that are still under way when the run ends
)

// Subscribers listen to a subject, at most once: what is published while one is not connected never reaches it.
type Subscribers struct {
	Label   string // of the clients; "" means "sub"
	Subject string // "" means "chat.room"
	Clients int    // 0 means 3

	team
}

var _ Workload = (*Subscribers)(nil)

// Name implements Workload.
func (w *Subscribers) Name() string { return "subscribers of " + or(w.Subject, coreSubject) }

// Setup implements Workload.
func (w *Subscribers) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Subject, w.Clients = or(w.Label, "sub"), or(w.Subject, coreSubject), or(w.Clients, 3)
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	for _, c := range w.clients {
		_, err := c.nc.Subscribe(w.Subject, func(m *nats.Msg) {
			e.Recorder.Delivery(history.Delivery{
				Client: c.name, Node: c.nc.ConnectedServerName(), Kind: "core", Target: w.Subject, Key: m.Subject, Value: idOf(m.Data),
			})
		})
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", c.name, err)
		}
		c.settle(ctx)
	}
	return nil
}

// settle waits until the server has taken the subscriptions. A client that is not connected subscribes when it is.
func (c *client) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		c.env.log().Info("subscription is not confirmed yet", "client", c.name, "err", err)
	}
}

// Run implements Workload.
func (w *Subscribers) Run(ctx context.Context, _ *Env) error {
	<-ctx.Done()
	pause(context.WithoutCancel(ctx), lateWait)
	return nil
}

// Drain implements Workload: nothing is stored.
func (w *Subscribers) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *Subscribers) Close() { w.close() }

// Senders publish to a subject without JetStream. OK means that the client's server has taken the message, no more.
type Senders struct {
	Label   string        // of the clients; "" means "send"
	Subject string        // "" means "chat.room"
	Clients int           // 0 means 3
	Rate    float64       // messages a second and client, open loop; 0 means 20
	Timeout time.Duration // 0 means 2 s

	team
}

var _ Workload = (*Senders)(nil)

// Name implements Workload.
func (w *Senders) Name() string { return "senders to " + or(w.Subject, coreSubject) }

// Setup implements Workload.
func (w *Senders) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Subject, w.Clients = or(w.Label, "send"), or(w.Subject, coreSubject), or(w.Clients, 3)
	w.Rate, w.Timeout = or(w.Rate, 20), or(w.Timeout, defaultTimeout)
	return w.join(ctx, e, e.label(w.Label), w.Clients)
}

// Run implements Workload.
func (w *Senders) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		return openLoop(ctx, newPacer(w.Rate, i, len(w.clients)), func(n int) {
			op := history.Op{Kind: history.Send, Target: w.Subject, Key: w.Subject, Value: c.value(n)}
			c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
				return c.send(ctx, w.Subject, []byte(op.Value))
			})
		})
	})
}

// send publishes and waits until the server has taken it. The PONG proves that only if it came over the connection that the message went to.
func (c *client) send(ctx context.Context, subject string, data []byte) error {
	before := c.nc.Stats().Reconnects
	if err := c.nc.Publish(subject, data); err != nil {
		return err
	}
	err := c.nc.FlushWithContext(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil, c.nc.Stats().Reconnects != before:
		return errDisconnected // whatever the error is: the message may have gone out
	}
	return nil
}

// Drain implements Workload: nothing is stored.
func (w *Senders) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *Senders) Close() { w.close() }

// Responders answer requests in one queue group; each echoes the request.
type Responders struct {
	Label   string // of the clients; "" means "resp"
	Subject string // "" means "svc.echo"
	Queue   string // "" means "echo"
	Clients int    // 0 means one for each node

	team
}

var _ Workload = (*Responders)(nil)

// Name implements Workload.
func (w *Responders) Name() string { return "responders of " + or(w.Subject, requestSubject) }

// Setup implements Workload.
func (w *Responders) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Subject, w.Queue = or(w.Label, "resp"), or(w.Subject, requestSubject), or(w.Queue, echoQueue)
	w.Clients = or(w.Clients, nodeCount(e.Cluster))
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	for _, c := range w.clients {
		_, err := c.nc.QueueSubscribe(w.Subject, w.Queue, func(m *nats.Msg) {
			if err := m.Respond(m.Data); err != nil {
				e.log().Debug("respond", "client", c.name, "err", err)
			}
		})
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", c.name, err)
		}
		c.settle(ctx)
	}
	return nil
}

// Run implements Workload: it goes on a little longer than the requesters that it serves.
func (w *Responders) Run(ctx context.Context, _ *Env) error {
	<-ctx.Done()
	pause(context.WithoutCancel(ctx), lateWait)
	return nil
}

// Drain implements Workload: nothing is stored.
func (w *Responders) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *Responders) Close() { w.close() }

// Requesters send requests to Responders; OK means that the echo came back.
type Requesters struct {
	Label   string        // of the clients; "" means "req"
	Subject string        // "" means "svc.echo"
	Clients int           // 0 means 3
	Rate    float64       // requests a second and client, open loop; 0 means 20
	Timeout time.Duration // 0 means 2 s

	team
}

var _ Workload = (*Requesters)(nil)

// Name implements Workload.
func (w *Requesters) Name() string { return "requesters of " + or(w.Subject, requestSubject) }

// Setup implements Workload.
func (w *Requesters) Setup(ctx context.Context, e *Env) error {
	w.Label, w.Subject, w.Clients = or(w.Label, "req"), or(w.Subject, requestSubject), or(w.Clients, 3)
	w.Rate, w.Timeout = or(w.Rate, 20), or(w.Timeout, defaultTimeout)
	return w.join(ctx, e, e.label(w.Label), w.Clients)
}

// Run implements Workload.
func (w *Requesters) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		return openLoop(ctx, newPacer(w.Rate, i, len(w.clients)), func(n int) {
			op := history.Op{Kind: history.Request, Target: w.Subject, Key: w.Subject, Value: c.value(n)}
			c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
				m, err := c.nc.RequestWithContext(ctx, w.Subject, []byte(op.Value))
				if err == nil && string(m.Data) != op.Value {
					err = fmt.Errorf("%w: another request's echo", errBadAnswer)
				}
				return err
			})
		})
	})
}

// Drain implements Workload: nothing is stored.
func (w *Requesters) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *Requesters) Close() { w.close() }
