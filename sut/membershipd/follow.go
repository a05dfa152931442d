package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

// Settings of a follower.
const (
	followHeartbeat = 500 * time.Millisecond  // of the consumer while there is nothing new
	followSilence   = 3 * followHeartbeat     // after which its node is taken for dead, and another consumer is made
	followAsk       = 700 * time.Millisecond  // of one question: nobody answers during an election
	followReconcile = time.Second             // between two looks whether the stream has more than was delivered
	followHint      = 15 * time.Millisecond   // that the consumer gets to deliver what others say is written
	followIdle      = 10 * time.Second        // after which an abandoned consumer removes itself
	followBatch     = 1024                    // records that are applied at once
	followQueue     = 4096                    // messages that are taken before the consumer has to wait
	followRetryMin  = 100 * time.Millisecond  //
	followRetryMax  = 1 * time.Second         //
	fenceTimeout    = 2 * time.Second         //
	consumerStalled = "Nats-Consumer-Stalled" // header of a heartbeat: the consumer waits for an answer to a flow control message
	lastConsumerSeq = "Nats-Last-Consumer"    // header of a heartbeat: the last sequence that was delivered
)

// accessBuckets are the buckets that the index follows.
var accessBuckets = [access.NumBuckets]string{BucketUsers, BucketRoles, BucketRooms, BucketMembers}

// follower keeps the index up to one bucket. What the consumer pushes is there within a millisecond or two of the commit; what it may have
// missed, while its node died, is read from the stream's leader.
//
//	look at the stream -> the one we know?  no: prove it, read everything, replace
//	                   -> consumer from the next revision on -> apply -> ...
//	                                       silent, or a gap: make another
//	every second, and soon after a hint: does the leader have more? read it
type follower struct {
	bucket access.Bucket
	name   string
	js     jsAPI
	plane  *accessPlane
	log    *slog.Logger
	hints  chan struct{}
	hinted atomic.Uint64 // a revision that another node knows
}

func newFollower(b access.Bucket, js jsAPI, p *accessPlane) *follower {
	return &follower{bucket: b, name: accessBuckets[b], js: js, plane: p, log: p.log, hints: make(chan struct{}, 1)}
}

// hint says that the revision exists.
func (f *follower) hint(revision uint64) {
	for {
		old := f.hinted.Load()
		if revision <= old {
			return
		}
		if f.hinted.CompareAndSwap(old, revision) {
			break
		}
	}
	select {
	case f.hints <- struct{}{}:
	default:
	}
}

func (f *follower) revision() uint64 {
	r, _ := f.plane.index.Revisions()
	return r[f.bucket]
}

func (f *follower) stream() string { return bucketStream(f.name) }

func (f *follower) run(ctx context.Context) {
	wait := followRetryMin
	for ctx.Err() == nil {
		start := time.Now()
		if err := f.follow(ctx); err != nil && ctx.Err() == nil {
			f.log.Debug("follow: try again", "bucket", f.name, "error", err)
		}
		if time.Since(start) > followRetryMax {
			wait = followRetryMin
		}
		sleep(ctx, wait)
		wait = min(2*wait, followRetryMax)
	}
}

// follow goes on until the consumer is lost.
func (f *follower) follow(ctx context.Context) error {
	asked := time.Now()
	info, err := f.look(ctx)
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	replace, err := f.rewound(ctx, info)
	if err != nil {
		return err
	}
	if replace {
		if err := f.replace(ctx); err != nil {
			return fmt.Errorf("read everything again: %w", err)
		}
	}
	c, err := f.consume(ctx, f.revision())
	if err != nil {
		return fmt.Errorf("make a consumer: %w", err)
	}
	defer c.stop() //nolint:contextcheck // also after ctx has ended
	if c.pending == 0 {
		f.plane.caughtUp(f.bucket, asked)
	}
	err = f.pump(ctx, c)
	if mutant.Planted == mutant.IndexLostOnReconnect {
		mutant.Lost.Store(true)
	}
	return err
}

func (f *follower) look(ctx context.Context) (jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, followAsk)
	defer cancel()
	return f.js.streamInfo(ctx, f.stream())
}

// rewound says whether the stream is another one than the index has followed, or ends before what was applied. A leader that has lost its majority
// can look like that too, so the proof is a write that a majority takes.
func (f *follower) rewound(ctx context.Context, info jetstream.StreamInfo) (bool, error) {
	known, created := f.plane.boundTo(f.bucket), createdOf(info)
	if known == "" && f.revision() == 0 {
		f.plane.bind(f.bucket, created)
		return false, nil
	}
	if known == created && info.State.LastSeq >= f.revision() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	seq, err := f.js.publish(ctx, keySubject(f.name, access.FenceKey), nil, []byte(f.plane.node), nil)
	if err != nil {
		return false, fmt.Errorf("prove where the stream ends: %w", err)
	}
	again, err := f.look(ctx)
	if err != nil {
		return false, fmt.Errorf("look at the stream: %w", err)
	}
	now := createdOf(again)
	if now == known && seq > f.revision() {
		return false, nil
	}
	f.plane.rewinds.Add(1)
	f.log.Error("a bucket is not the one it was: everything is read again", "bucket", f.name, "applied", f.revision(), "last", seq, "created", now, "was", known)
	return true, nil
}

func createdOf(info jetstream.StreamInfo) string { return info.Created.UTC().Format(time.RFC3339Nano) }

// replace reads the whole bucket aside, and puts it in the place of what was known.
func (f *follower) replace(ctx context.Context) error {
	info, err := f.look(ctx)
	if err != nil {
		return err
	}
	c, err := f.consume(ctx, 0)
	if err != nil {
		return err
	}
	defer c.stop() //nolint:contextcheck // also after ctx has ended
	var all []access.Record
	last := uint64(0)
	for c.pending > 0 {
		batch, err := c.next(ctx)
		if err != nil {
			return err
		}
		for _, r := range batch {
			last = max(last, r.Revision)
		}
		all = append(all, batch...)
	}
	f.plane.replace(f.bucket, createdOf(info), last, all)
	return nil
}

// pump applies what the consumer delivers, and what it should have delivered.
func (f *follower) pump(ctx context.Context, c *consumer) error {
	reconcile := time.NewTicker(followReconcile)
	defer reconcile.Stop()
	soon := time.NewTimer(followHint)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-c.msgs:
			batch, err := c.batch(m)
			if err != nil {
				return err
			}
			f.plane.apply(batch)
			if c.pending == 0 && !f.plane.isSynced(f.bucket) { // later only what the leader says counts: a consumer may live on a node that is cut off
				f.plane.caughtUp(f.bucket, c.made)
			}
		case <-f.hints:
			soon.Reset(followHint)
		case <-soon.C:
			if f.hinted.Load() > f.revision() && c.pending == 0 {
				f.fetch(ctx)
			}
		case <-reconcile.C:
			if time.Since(c.heard) > followSilence {
				return errors.New("the consumer is silent")
			}
			if err := f.reconcile(ctx, c); err != nil {
				return err
			}
		}
	}
}

// reconcile compares with the stream's leader. A stream that is not the one it was ends the consumer.
func (f *follower) reconcile(ctx context.Context, c *consumer) error {
	asked := time.Now()
	info, err := f.look(ctx)
	if err != nil || c.pending > 0 {
		return nil //nolint:nilerr // an election, or the beginning: the age of the index says it
	}
	switch {
	case createdOf(info) != f.plane.boundTo(f.bucket) || info.State.LastSeq < f.revision():
		return errors.New("the stream is not the one it was")
	case info.State.LastSeq > f.revision():
		f.fetch(ctx)
	default:
		f.plane.caughtUp(f.bucket, asked)
	}
	return nil
}

// fetch reads from the leader what is newer than the index, one by one: it is for what the consumer is late with.
func (f *follower) fetch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, followAsk)
	defer cancel()
	for ctx.Err() == nil {
		m, err := f.js.next(ctx, f.stream(), f.revision()+1, ">")
		if err != nil || m.seq == 0 {
			return
		}
		f.plane.apply([]access.Record{f.record(m.subject, m.seq, m.header, m.data)})
	}
}

func (f *follower) record(subject string, seq uint64, h nats.Header, data []byte) access.Record {
	r := access.Record{Bucket: f.bucket, Key: strings.TrimPrefix(subject, keySubject(f.name, "")), Revision: seq, Value: data}
	if op := h.Get("KV-Operation"); op == "DEL" || op == "PURGE" {
		r.Value = nil
	}
	if mutant.Planted == mutant.WatcherSkips && seq%8 == 0 || mutant.Planted == mutant.IndexLostOnReconnect && mutant.Lost.Load() {
		r.Key = access.FenceKey
	}
	return r
}

// consumer is a push consumer of a stream from one revision on, in order and without gaps. It lives in one node's memory.
type consumer struct {
	f       *follower
	name    string
	sub     *nats.Subscription
	msgs    chan *nats.Msg
	done    context.CancelFunc
	seq     uint64 // of the consumer, last delivered
	pending uint64 // messages that are still to come
	made    time.Time
	heard   time.Time
}

// consume starts behind that revision; behind 0 it begins with the last message of each key.
func (f *follower) consume(ctx context.Context, after uint64) (*consumer, error) {
	life, done := context.WithCancel(ctx)
	c := &consumer{f: f, msgs: make(chan *nats.Msg, followQueue), done: done, made: time.Now(), heard: time.Now()}
	inbox := f.js.nc.NewInbox()
	sub, err := f.js.nc.Subscribe(inbox, func(m *nats.Msg) {
		select {
		case c.msgs <- m:
		case <-life.Done():
		}
	})
	if err != nil {
		done()
		return nil, err
	}
	c.sub = sub
	cfg := map[string]any{
		"deliver_subject": inbox, "ack_policy": "none", "replay_policy": "instant", "max_deliver": 1, "flow_control": true,
		"idle_heartbeat": followHeartbeat, "inactive_threshold": followIdle, "mem_storage": true, "num_replicas": 1,
	}
	if after == 0 {
		cfg["deliver_policy"], cfg["filter_subject"] = "last_per_subject", keySubject(f.name, ">")
	} else {
		cfg["deliver_policy"], cfg["opt_start_seq"] = "by_start_sequence", after+1
	}
	var resp struct {
		Name    string `json:"name"`
		Pending uint64 `json:"num_pending"`
	}
	ask, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if err := f.js.call(ask, "$JS.API.CONSUMER.CREATE."+f.stream(), map[string]any{"stream_name": f.stream(), "config": cfg}, &resp); err != nil {
		c.stop() //nolint:contextcheck // also after ctx has ended
		return nil, err
	}
	c.name, c.pending = resp.Name, resp.Pending
	return c, nil
}

// stop removes the consumer, if its node can be told; otherwise it removes itself.
func (c *consumer) stop() {
	c.done()
	_ = c.sub.Unsubscribe()
	if c.name != "" {
		body, _ := json.Marshal(struct{}{})
		_ = c.f.js.nc.Publish("$JS.API.CONSUMER.DELETE."+c.f.stream()+"."+c.name, body)
	}
}

// next waits for the next batch.
func (c *consumer) next(ctx context.Context) ([]access.Record, error) {
	t := time.NewTimer(followSilence)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		return nil, errors.New("the consumer is silent")
	case m := <-c.msgs:
		return c.batch(m)
	}
}

// batch takes a message and those that are there already.
func (c *consumer) batch(m *nats.Msg) ([]access.Record, error) {
	c.heard = time.Now()
	var out []access.Record
	for {
		r, err := c.take(m)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, *r)
		}
		if len(out) == followBatch {
			return out, nil
		}
		select {
		case m = <-c.msgs:
		default:
			return out, nil
		}
	}
}

// take returns nil for what is no message of the stream.
func (c *consumer) take(m *nats.Msg) (*access.Record, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") != "" {
		return nil, c.control(m)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read where a message is from: %w", err)
	}
	if meta.Sequence.Consumer != c.seq+1 {
		return nil, fmt.Errorf("the consumer went from %d to %d", c.seq, meta.Sequence.Consumer)
	}
	c.seq, c.pending = meta.Sequence.Consumer, meta.NumPending
	r := c.f.record(m.Subject, meta.Sequence.Stream, m.Header, m.Data)
	return &r, nil
}

// control answers flow control, and finds gaps by heartbeats.
func (c *consumer) control(m *nats.Msg) error {
	if m.Header.Get("Status") != "100" {
		return fmt.Errorf("the consumer ended: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
	}
	if m.Reply != "" {
		return m.Respond(nil)
	}
	if stalled := m.Header.Get(consumerStalled); stalled != "" {
		if err := c.f.js.nc.Publish(stalled, nil); err != nil {
			return err
		}
	}
	if last := m.Header.Get(lastConsumerSeq); last != "" && last != fmt.Sprint(c.seq) {
		return fmt.Errorf("the consumer is at %s, and %d was delivered", last, c.seq)
	}
	return nil
}
