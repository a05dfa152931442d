package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Settings of consumers.
const (
	catchUpWait   = 12 * time.Second // after the load has ended, for everything that is stored to arrive
	catchUpEvery  = 200 * time.Millisecond
	catchUpSteady = time.Second // while publishers may still finish what is in flight, the stream must not have grown for so long
	pullBatch     = 64
	pullWait      = 2 * time.Second
	pullHeartbeat = 500 * time.Millisecond // twice missed: the pull is given up and made again
	acksInFlight  = 64                     // double acks of one client
	consumerRetry = 100 * time.Millisecond
	stopWait      = 5 * time.Second
)

// background is work that goes on after Run has returned, so that Drain can wait for what arrives late.
type background struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// start runs f for every client until end, also when ctx is done.
func (b *background) start(ctx context.Context, cs []*client, f func(ctx context.Context, c *client, i int)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = cancel
	for i, c := range cs {
		b.wg.Go(func() { f(ctx, c, i) })
	}
}

// end stops the work and waits a bounded time for it.
func (b *background) end() {
	if b.stop == nil {
		return
	}
	b.stop()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// catchUp waits until behind says that nothing is left and the stream has not grown for the time steady.
func (t *team) catchUp(ctx context.Context, stream string, steady time.Duration, behind func(ctx context.Context, c *client, last uint64) error) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	var (
		last  uint64
		since = time.Now()
	)
	return until(ctx, catchUpWait, catchUpEvery, func(ctx context.Context) error {
		c, err := t.any()
		if err != nil {
			return &permanentError{err}
		}
		st, err := c.state(ctx, stream)
		if err != nil {
			return err
		}
		if st.last != last {
			last, since = st.last, time.Now()
		}
		if err := behind(ctx, c, last); err != nil {
			return err
		}
		if time.Since(since) < steady {
			return errors.New("the stream was still growing")
		}
		return nil
	})
}

// PullConsumer is workers that share one durable consumer. They ack every message and wait for the confirmation.
type PullConsumer struct {
	Label    string        // of the clients; "" means "pull"
	Target   string        // the stream; "" means "ORDERS"
	Durable  string        // "" means "workers"
	Clients  int           // 0 means 3
	Replicas int           // of the consumer; 0 means those of the stream
	AckWait  time.Duration // until the server delivers again; 0 means 10 s
	Timeout  time.Duration // of a double ack; 0 means 2 s

	team
	background
}

var _ Workload = (*PullConsumer)(nil)

func (w *PullConsumer) defaults() {
	w.Label = or(w.Label, "pull")
	w.Target = or(w.Target, "ORDERS")
	w.Durable = or(w.Durable, "workers")
	w.Clients = or(w.Clients, 3)
	w.AckWait = or(w.AckWait, 10*time.Second)
	w.Timeout = or(w.Timeout, defaultTimeout)
}

// Name implements Workload.
func (w *PullConsumer) Name() string { return "pull consumer of " + or(w.Target, "ORDERS") }

// Setup implements Workload: the stream must exist.
func (w *PullConsumer) Setup(ctx context.Context, e *Env) error {
	w.defaults()
	if err := w.join(ctx, e, e.label(w.Label), w.Clients); err != nil {
		return err
	}
	err := until(ctx, createWait, createEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_, err := w.clients[0].js.CreateOrUpdateConsumer(ctx, w.Target, jetstream.ConsumerConfig{
			Durable: w.Durable, Replicas: w.Replicas, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
			AckWait: w.AckWait, MaxAckPending: acksInFlight * w.Clients * 2, MaxDeliver: -1,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create consumer %s of %s: %w", w.Durable, w.Target, err)
	}
	return nil
}

// Run implements Workload.
func (w *PullConsumer) Run(ctx context.Context, _ *Env) error {
	if len(w.clients) == 0 {
		return errNotSetUp
	}
	if w.stop == nil { // a load that goes on after a pause still has its workers
		w.start(ctx, w.clients, func(ctx context.Context, c *client, _ int) { w.work(ctx, c) })
	}
	<-ctx.Done()
	_ = w.catchUp(context.WithoutCancel(ctx), w.Target, catchUpSteady, w.behind) // Drain reports it
	return nil
}

// work pulls until ctx ends.
func (w *PullConsumer) work(ctx context.Context, c *client) {
	slots := make(chan struct{}, acksInFlight)
	var acks sync.WaitGroup
	defer acks.Wait()
	var cons jetstream.Consumer
	for pause(ctx, 0) {
		if err := w.pull(ctx, c, &cons, func(m jetstream.Msg, asked int64) {
			d := w.delivery(c, m)
			d.Asked = asked
			slots <- struct{}{}
			acks.Go(func() {
				defer func() { <-slots }()
				w.ack(ctx, c, m, d)
			})
		}); err != nil {
			c.env.log().Debug("pull", "client", c.name, "err", err)
			pause(ctx, consumerRetry)
		}
	}
}

// pull makes one pull request and hands on what it brings, with the time just before the request was made.
func (w *PullConsumer) pull(ctx context.Context, c *client, cons *jetstream.Consumer, handle func(m jetstream.Msg, asked int64)) error {
	if *cons == nil {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		got, err := c.js.Consumer(ctx, w.Target, w.Durable)
		if err != nil {
			return err
		}
		*cons = got
	}
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	asked := c.env.Recorder.Now()
	batch, err := (*cons).Fetch(pullBatch, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	for m := range batch.Messages() {
		handle(m, asked)
	}
	if err := batch.Error(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (w *PullConsumer) delivery(c *client, m jetstream.Msg) history.Delivery {
	d := history.Delivery{
		Client: c.name, Node: c.nc.ConnectedServerName(), Kind: "pull", Target: w.Target, Key: m.Subject(), Value: idOf(m.Data()), At: c.env.Recorder.Now(),
	}
	if md, err := m.Metadata(); err == nil {
		d.Seq, d.Count = md.Sequence.Stream, md.NumDelivered
	}
	return d
}

// ack asks for a confirmation. Without one the ack may still have been taken, so that the outcome is Unknown, whatever the error.
func (w *PullConsumer) ack(ctx context.Context, c *client, m jetstream.Msg, d history.Delivery) {
	ctx, cancel := c.life(ctx, w.Timeout)
	defer cancel()
	if err := m.DoubleAck(ctx); err == nil {
		d.Ack, d.Acked = history.OK, c.env.Recorder.Now()
	}
	c.env.Recorder.Delivery(d)
}

// behind says what the durable has not yet been given, or has not yet seen acked.
func (w *PullConsumer) behind(ctx context.Context, c *client, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	cons, err := c.js.Consumer(ctx, w.Target, w.Durable)
	if err != nil {
		return err
	}
	ci := cons.CachedInfo()
	if ci.NumPending > 0 || ci.NumAckPending > 0 || ci.Delivered.Stream < last {
		return fmt.Errorf("%d messages to deliver, %d to ack, delivered up to %d of %d", ci.NumPending, ci.NumAckPending, ci.Delivered.Stream, last)
	}
	return nil
}

// Drain implements Workload: what is stored has arrived and is acked, or the bounded wait for it ended.
func (w *PullConsumer) Drain(ctx context.Context, _ *Env) error {
	defer w.end()
	if err := w.catchUp(ctx, w.Target, 0, w.behind); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	return nil
}

// Close implements Workload.
func (w *PullConsumer) Close() {
	w.end()
	w.close()
}
