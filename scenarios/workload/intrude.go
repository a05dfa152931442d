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
