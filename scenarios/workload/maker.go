package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// MakeStreams makes replicated streams of that name and a number for d, one at a time and a try begun every so often, and deletes each again. What is
// recorded is the making. It ends early, with an error, when ctx does.
func (e *Env) MakeStreams(ctx context.Context, name string, replicas int, every, d time.Duration) error {
	c, err := e.connect(ctx, e.label("maker"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	t := time.NewTicker(every)
	defer t.Stop()
	for i, began := 0, time.Now(); time.Since(began) < d; i++ {
		op := history.Op{Kind: history.Make, Target: fmt.Sprintf("%s_%d", name, i), Value: fmt.Sprintf("R%d", replicas)}
		out := c.do(ctx, &op, defaultTimeout, func(ctx context.Context) error {
			_, err := c.js.CreateStream(ctx, jetstream.StreamConfig{Name: op.Target, Subjects: []string{op.Target}, Replicas: replicas, Storage: jetstream.FileStorage})
			return err
		})
		if out == history.OK {
			c.forget(ctx, op.Target)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
	return nil
}

// forget deletes a stream that has served its purpose; one that stays is in nobody's way.
func (c *client) forget(ctx context.Context, stream string) {
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	_ = c.js.DeleteStream(ctx, stream)
}

// TryStream makes a replicated stream, waits until all its replicas are current, and deletes it again. Nothing is recorded. It ends, with an error that says
// what is missing, when ctx does.
func (e *Env) TryStream(ctx context.Context, name string, replicas int) error {
	c, err := e.connect(ctx, e.label("maker"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	err = c.ensureStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: replicas, Storage: jetstream.FileStorage})
	c.forget(context.WithoutCancel(ctx), name)
	return err
}
