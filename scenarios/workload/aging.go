package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Aging keeps messages in streams by whose configuration time makes a difference, and tells later what time has made of them. It publishes nothing by
// itself but what is fleeting: Sow does, Repeat and Left look.
type Aging struct {
	Terms    []Term
	Messages int           // that Sow publishes to each stream; 0 means 40
	Timeout  time.Duration // of one publish; 0 means 2 s

	sown map[string][]string // message ids, by stream
	team
}

// Term is a stream that forgets messages, or their ids, by time.
type Term struct {
	Target string        // the stream; the subject of what is sown is its name behind "aging."
	MaxAge time.Duration // of its messages; 0 means that they stay
	Window time.Duration // in which a message id is known; 0 means 2 minutes
	// Fleeting has it get, all the time, messages that live for a second each, so that a server is always about to forget something, and looks at its clock.
	// It takes nats-server 2.11 or newer.
	Fleeting bool
}

const (
	fleetingLife  = time.Second
	fleetingEvery = 250 * time.Millisecond
)

var _ Workload = (*Aging)(nil)

// Name implements Workload.
func (w *Aging) Name() string { return "messages that age" }

// Setup implements Workload.
func (w *Aging) Setup(ctx context.Context, e *Env) error {
	w.Messages, w.Timeout, w.sown = or(w.Messages, 40), or(w.Timeout, defaultTimeout), map[string][]string{}
	if err := w.join(ctx, e, e.label("aging"), nodeCount(e.Cluster)); err != nil {
		return err
	}
	for _, t := range w.Terms {
		err := w.clients[0].ensureStream(ctx, jetstream.StreamConfig{
			Name: t.Target, Subjects: t.subjects(), Replicas: min(defaultR, nodeCount(e.Cluster)), Storage: jetstream.FileStorage,
			MaxAge: t.MaxAge, Duplicates: or(t.Window, dedupWindow), AllowDirect: false, AllowMsgTTL: t.Fleeting,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t Term) subject() string { return "aging." + t.Target }

func (t Term) fleeting() string { return "fleeting." + t.Target }

func (t Term) subjects() []string {
	if t.Fleeting {
		return []string{t.subject(), t.fleeting()}
	}
	return []string{t.subject()}
}

// Run implements Workload: it publishes what is fleeting, and waits.
func (w *Aging) Run(ctx context.Context, _ *Env) error {
	t := time.NewTicker(fleetingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, term := range w.Terms {
			if c, err := w.any(); term.Fleeting && err == nil {
				try, cancel := context.WithTimeout(ctx, w.Timeout)
				_, _ = c.js.Publish(try, term.fleeting(), nil, jetstream.WithMsgTTL(fleetingLife)) // nobody counts them
				cancel()
			}
		}
	}
}

// errNotSown means that a message was not acked in a cluster in which nothing is wrong yet.
var errNotSown = errors.New("a message was not acked")

// Sow publishes the messages. Error: one was not acked.
func (w *Aging) Sow(ctx context.Context) error {
	for _, t := range w.Terms {
		for n := range w.Messages {
			c := w.clients[n%len(w.clients)]
			id := t.Target + "." + c.value(n)
			if _, out := w.publish(ctx, c, t, id); out != history.OK {
				return fmt.Errorf("%w: %s of %s", errNotSown, id, t.Target)
			}
			w.sown[t.Target] = append(w.sown[t.Target], id)
		}
	}
	return nil
}

func (w *Aging) publish(ctx context.Context, c *client, t Term, id string) (dup bool, out history.Outcome) {
	op := history.Op{Kind: history.Publish, Target: t.Target, Key: t.subject(), Value: id}
	out = c.do(ctx, &op, w.Timeout, func(ctx context.Context) error {
		return c.publish(ctx, &op, t.Target, payload(id, 0), jetstream.WithMsgID(id))
	})
	return op.Dup, out
}

// Repeat publishes every message of a stream once more, under the id that it has, and tells how many the stream knew, and how many it stored anew.
func (w *Aging) Repeat(ctx context.Context, target string) (known, anew int) {
	for _, t := range w.Terms {
		if t.Target != target {
			continue
		}
		for n, id := range w.sown[target] {
			switch dup, out := w.publish(ctx, w.clients[n%len(w.clients)], t, id); {
			case out != history.OK:
			case dup:
				known++
			default:
				anew++
			}
		}
	}
	return known, anew
}

// Left is how many of the messages that were sown the leader of a stream has. Error: none said so in time.
func (w *Aging) Left(ctx context.Context, target string, within time.Duration) (int, error) {
	c, err := w.any()
	if err != nil {
		return 0, err
	}
	left := 0
	err = until(ctx, within, inspectEvery, func(ctx context.Context) (err error) {
		left, err = c.countOn(ctx, target, Term{Target: target}.subject())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count what is left in %s: %w", target, err)
	}
	return left, nil
}

// Drain implements Workload.
func (w *Aging) Drain(ctx context.Context, _ *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range w.Terms {
		errs = append(errs, c.drain(ctx, t.Target, t.Target, streamItem))
	}
	return errors.Join(errs...)
}

// Close implements Workload.
func (w *Aging) Close() { w.close() }
