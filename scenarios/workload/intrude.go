package workload

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// MakeBucket creates a key-value bucket as clients do, and says whether publishers may roll it up: a bucket is a stream, and nats.go's buckets
// allow it, because purging a key is a roll-up.
func (e *Env) MakeBucket(ctx context.Context, bucket string, replicas int, rollup bool) error {
	c, err := e.connect(ctx, e.label("maker"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	return c.ensureStream(ctx, jetstream.StreamConfig{
		Name: bucketStream(bucket), Subjects: []string{bucketSubject(bucket, ">")}, Replicas: replicas, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: kvHistory, AllowRollup: rollup, DenyDelete: true, AllowDirect: true, Discard: jetstream.DiscardNew,
	})
}

// ErrRefused means that the cluster refused an intrusion.
var ErrRefused = errors.New("the cluster refused it")

// RollUp writes one key of a bucket with the header that removes everything else from the stream. It is recorded as the write that it looks like.
func (e *Env) RollUp(ctx context.Context, bucket, key string) error {
	c, err := e.connect(ctx, e.label("intruder"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	op := history.Op{Kind: history.Put, Target: bucket, Key: key, Value: c.value(1)}
	out := c.do(ctx, &op, defaultTimeout, func(ctx context.Context) error {
		ack, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: bucketSubject(bucket, key), Data: []byte(op.Value),
			Header: nats.Header{jetstream.MsgRollup: []string{jetstream.MsgRollupAll}}}, jetstream.WithRetryAttempts(0))
		if err != nil {
			return err
		}
		op.Seq = ack.Sequence
		return nil
	})
	if out != history.OK {
		return fmt.Errorf("roll %s up: %w: %s", bucket, ErrRefused, op.Err)
	}
	return nil
}

// UpdateAbsent compares and sets keys of a bucket that nobody has ever written, "absent-0" and on, each once, expecting a revision that belongs to
// another key. It is recorded as what it is, an update; how the cluster answers is for claims to judge.
func (e *Env) UpdateAbsent(ctx context.Context, bucket string, keys int) error {
	c, err := e.connect(ctx, e.label("absentee"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	for i := range keys {
		op := history.Op{Kind: history.Update, Target: bucket, Key: fmt.Sprintf("absent-%d", i), Value: c.value(i + 1), Prev: uint64(i + 1)}
		c.do(ctx, &op, defaultTimeout, func(ctx context.Context) error {
			ack, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: bucketSubject(bucket, op.Key), Data: []byte(op.Value)},
				jetstream.WithExpectLastSequencePerSubject(op.Prev), jetstream.WithRetryAttempts(0))
			if err == nil {
				op.Seq = ack.Sequence
			}
			return err
		})
	}
	return ctx.Err()
}

// Describe changes a stream's description a number of times, as an operator does who edits a stream, and then adds an empty stream named after it:
// the meta group's log goes on after the last change.
func (e *Env) Describe(ctx context.Context, target string, times int) error {
	c, err := e.connect(ctx, e.label("editor"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	s, err := c.js.Stream(ctx, target)
	if err != nil {
		return fmt.Errorf("edit %s: %w", target, err)
	}
	cfg := s.CachedInfo().Config
	for i := range times {
		cfg.Description = fmt.Sprintf("edited %d times", i+1)
		if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("edit %s: %w", target, err)
		}
	}
	return c.ensureStream(ctx, jetstream.StreamConfig{Name: "AFTER_" + target, Subjects: []string{"after." + target}, Replicas: cfg.Replicas, Storage: jetstream.FileStorage})
}
