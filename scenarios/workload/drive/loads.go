package drive

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What the loads use. A user needs to publish and subscribe to Subjects, to answer requests, and to use Stream.
const (
	Subjects = "bench.>"
	Stream   = "BENCH"

	streamSubjects = "bench.stream.>"
	streamReplicas = 3
	streamMsgs     = 20_000 // the oldest go: the store does not grow with the length of a benchmark

	payload    = 128 // bytes
	batch      = 500 // messages between two looks at the clock
	fanOut     = 6   // subscribers of each message, over all nodes
	ahead      = 4 * batch
	requesters = 6
	syncPubs   = 6
	inFlight   = 256 // unanswered publishes of one asynchronous publisher
	ackWait    = 10 * time.Second
	settle     = 20 * time.Second // for a subscription to be known, for a stream to be led
	settleStep = 20 * time.Millisecond
)

// Load is one way to use a cluster.
type Load struct {
	Name string
	Doc  string
	run  func(s *Session, ctx context.Context, d time.Duration) (Rate, error)
}

// Loads lists them. Each works for about d and counts what was confirmed: by the server, the receiver, or a majority of the replicas.
func Loads() []Load {
	return []Load{
		{"core-publish", "core publish, nobody subscribed", (*Session).publish},
		{"core-subscribe", fmt.Sprintf("core publish to %d subscribers", fanOut), (*Session).subscribe},
		{"request-reply", fmt.Sprintf("request and reply over two nodes, %d at once", requesters), (*Session).request},
		{"js-publish-sync", fmt.Sprintf("JetStream publish R%d, one after the other, %d publishers", streamReplicas, syncPubs), (*Session).streamSync},
		{"js-publish-async", fmt.Sprintf("JetStream publish R%d, up to %d unanswered, 3 publishers", streamReplicas, inFlight), (*Session).streamAsync},
	}
}

// publish counts messages that the servers have taken; they read from one connection in order, so an answered ping is behind them.
func (s *Session) publish(ctx context.Context, d time.Duration) (Rate, error) {
	body := make([]byte, payload)
	r, err := crew(ctx, len(s.conns), d, func(ctx context.Context, w, _ int) error {
		for range batch {
			if err := s.conns[w].Publish("bench.core", body); err != nil {
				return err
			}
		}
		return flush(ctx, s.conns[w]) // bounds how far a client runs ahead of its server
	})
	r.Ops *= batch
	return r, errors.Join(err, s.failed())
}

// subscribe counts deliveries. The publisher stays within a bound of the slowest subscriber, so that nobody is cut off as a slow consumer.
func (s *Session) subscribe(ctx context.Context, d time.Duration) (Rate, error) {
	var got [fanOut]atomic.Int64
	moved := make(chan struct{}, 1)
	for i := range fanOut {
		sub, err := s.conns[i%len(s.conns)].Subscribe("bench.fan", func(*nats.Msg) {
			if got[i].Add(1)%batch == 0 {
				select {
				case moved <- struct{}{}:
				default:
				}
			}
		})
		if err != nil {
			return Rate{}, err
		}
		defer sub.Unsubscribe() //nolint:errcheck // the connection outlives it
	}
	if err := s.awaitInterest(ctx, "bench.fan", func() bool { return slowest(&got) > 0 }); err != nil {
		return Rate{}, err
	}
	body, sent := make([]byte, payload), slowest(&got)
	for i := range got {
		got[i].Store(sent)
	}
	first, began := sent, time.Now()
	for time.Since(began) < d {
		for range batch {
			if err := s.conns[0].Publish("bench.fan", body); err != nil {
				return Rate{}, err
			}
		}
		sent += batch
		if err := s.awaitCount(ctx, moved, func() bool { return sent-slowest(&got) <= ahead }); err != nil {
			return Rate{}, err
		}
	}
	err := s.awaitCount(ctx, moved, func() bool { return slowest(&got) >= sent })
	return Rate{Ops: int(sent-first) * fanOut, Took: time.Since(began)}, errors.Join(err, s.failed())
}

func slowest(got *[fanOut]atomic.Int64) int64 {
	least := got[0].Load()
	for i := range got {
		least = min(least, got[i].Load())
	}
	return least
}

// awaitCount waits for subscribers, who say when they have moved by a batch.
func (s *Session) awaitCount(ctx context.Context, moved <-chan struct{}, there func() bool) error {
	if there() {
		return nil
	}
	t := time.NewTimer(settle)
	defer t.Stop()
	look := time.NewTicker(settleStep) // the last batch may be counted between the look and the wait
	defer look.Stop()
	for !there() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return errors.Join(errors.New("messages did not arrive at every subscriber"), s.failed())
		case <-moved:
		case <-look.C:
		}
	}
	return nil
}

// awaitInterest publishes from the first node until everybody who subscribed has heard it: interest takes a moment to reach other nodes. It returns
// when nothing is on its way any more.
func (s *Session) awaitInterest(ctx context.Context, subject string, heard func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		if err := s.conns[0].Publish(subject, nil); err != nil {
			return err
		}
		if err := s.flush(ctx); err != nil {
			return fmt.Errorf("wait for interest in %s: %w", subject, err)
		}
		if !pause(ctx, 5*settleStep) {
			return fmt.Errorf("wait for interest in %s: %w", subject, ctx.Err())
		}
		if heard() {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// request counts answers. Whoever asks on one node is answered on the next.
func (s *Session) request(ctx context.Context, d time.Duration) (Rate, error) {
	n := len(s.conns)
	for i, c := range s.conns {
		sub, err := c.Subscribe(askSubject(i), func(m *nats.Msg) { _ = m.Respond(m.Data) })
		if err != nil {
			return Rate{}, err
		}
		defer sub.Unsubscribe() //nolint:errcheck // the connection outlives it
	}
	body := make([]byte, payload)
	ask := func(ctx context.Context, w int) error {
		ctx, cancel := context.WithTimeout(ctx, ackWait)
		defer cancel()
		_, err := s.conns[w%n].RequestWithContext(ctx, askSubject((w+1)%n), body)
		return err
	}
	for w := range n { // interest has to get there first
		if err := retry(ctx, func(ctx context.Context) error { return ask(ctx, w) }); err != nil {
			return Rate{}, fmt.Errorf("first request: %w", err)
		}
	}
	r, err := crew(ctx, requesters, d, func(ctx context.Context, w, _ int) error { return ask(ctx, w) })
	return r, errors.Join(err, s.failed())
}

func askSubject(node int) string { return fmt.Sprintf("bench.ask.%d", node) }

// retry tries until it works, or for as long as anything may take to settle.
func retry(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil || !pause(ctx, settleStep) {
			return err
		}
	}
}

// MakeStream makes the stream of the loads, as a user who may do that, and returns once it takes messages. It changes nothing where it exists.
func MakeStream(ctx context.Context, s *Session) error {
	js, err := jetstream.New(s.conns[0])
	if err != nil {
		return err
	}
	cfg := jetstream.StreamConfig{Name: Stream, Subjects: []string{streamSubjects}, Replicas: streamReplicas, Storage: jetstream.FileStorage, MaxMsgs: streamMsgs}
	return retry(ctx, func(ctx context.Context) error {
		if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("make the stream: %w", err)
		}
		_, err := js.Publish(ctx, streamSubject(0), nil)
		return err
	})
}

func streamSubject(w int) string { return fmt.Sprintf("bench.stream.%d", w) }

// streams are JetStream handles, one for each connection, on a stream that has a leader.
func (s *Session) streams(ctx context.Context) ([]jetstream.JetStream, error) {
	var all []jetstream.JetStream
	for _, c := range s.conns {
		js, err := jetstream.New(c, jetstream.WithPublishAsyncMaxPending(inFlight), jetstream.WithPublishAsyncTimeout(ackWait))
		if err != nil {
			return nil, err
		}
		if err := retry(ctx, func(ctx context.Context) error { _, err := js.Publish(ctx, streamSubject(0), nil); return err }); err != nil {
			return nil, fmt.Errorf("first publish to the stream: %w", err)
		}
		all = append(all, js)
	}
	return all, nil
}

// streamSync counts acknowledged publishes, each waited for before the next.
func (s *Session) streamSync(ctx context.Context, d time.Duration) (Rate, error) {
	streams, err := s.streams(ctx)
	if err != nil {
		return Rate{}, err
	}
	body := make([]byte, payload)
	r, err := crew(ctx, syncPubs, d, func(ctx context.Context, w, _ int) error {
		ctx, cancel := context.WithTimeout(ctx, ackWait)
		defer cancel()
		_, err := streams[w%len(streams)].Publish(ctx, streamSubject(w), body)
		return err
	})
	return r, errors.Join(err, s.failed())
}

// streamAsync counts acknowledged publishes, many of them under way at once.
func (s *Session) streamAsync(ctx context.Context, d time.Duration) (Rate, error) {
	streams, err := s.streams(ctx)
	if err != nil {
		return Rate{}, err
	}
	body := make([]byte, payload)
	r, err := crew(ctx, len(streams), d, func(ctx context.Context, w, _ int) error {
		acks := make([]jetstream.PubAckFuture, 0, inFlight)
		for range inFlight {
			f, err := streams[w].PublishAsync(streamSubject(w), body)
			if err != nil {
				return err
			}
			acks = append(acks, f)
		}
		for _, f := range acks {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	r.Ops *= inFlight
	return r, errors.Join(err, s.failed())
}

// Run works for about d.
func (l Load) Run(ctx context.Context, s *Session, d time.Duration) (Rate, error) {
	return l.run(s, ctx, d)
}
