package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Bounds of reading back.
const (
	drainReaders = 128 // requests in flight
	drainChunk   = 64  // sequences that one reader takes at a time
	drainPasses  = 3   // a stream that changed while it was read is read again
	drainTimeout = 180 * time.Second
	drainRetry   = 100 * time.Millisecond
	gonePatience = 5 * time.Second // how long a stream may be unknown: nodes that have just started learn of it a moment later
)

// message is a stored message as the stream's leader returns it.
type message struct {
	Subject string `json:"subject"`
	Seq     uint64 `json:"seq"`
	Hdrs    []byte `json:"hdrs"`
	Data    []byte `json:"data"`
}

func (m *message) header() nats.Header {
	if len(m.Hdrs) == 0 {
		return nats.Header{}
	}
	h, err := nats.DecodeHeadersMsg(m.Hdrs)
	if err != nil {
		return nats.Header{}
	}
	return h
}

// msgGet is the request of $JS.API.STREAM.MSG.GET, which only the stream's leader answers. (Direct gets and consumers read whatever replica they
// reach.)
type msgGet struct {
	Seq    uint64 `json:"seq,omitempty"`
	Next   string `json:"next_by_subj,omitempty"`
	LastBy string `json:"last_by_subj,omitempty"`
}

// errNone: the stream has no such message.
var errNone = errors.New("no such message")

// get asks the leader of a stream for one message.
func (c *client) get(ctx context.Context, stream string, req msgGet) (*message, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, b)
	if err != nil {
		return nil, err
	}
	var resp struct {
		Message *message            `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &resp); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	switch {
	case resp.Error != nil && resp.Error.ErrorCode == codeNotFound:
		return nil, errNone
	case resp.Error != nil:
		return nil, resp.Error
	case resp.Message == nil || resp.Message.Seq == 0:
		return nil, errBadAnswer
	}
	return resp.Message, nil
}

// state is what a stream's leader says that it holds.
type state struct {
	first, last, msgs uint64
	missing           int
}

func (c *client) state(ctx context.Context, stream string) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return state{}, fmt.Errorf("ask for %s: %w", stream, err)
	}
	st := s.CachedInfo().State
	return state{first: st.FirstSeq, last: st.LastSeq, msgs: st.Msgs, missing: st.NumDeleted}, nil
}

// steadyState asks until there is a leader that answers.
func (c *client) steadyState(ctx context.Context, stream string) (state, error) {
	var st state
	began := time.Now()
	err := until(ctx, drainTimeout, drainRetry, func(ctx context.Context) error {
		var err error
		if st, err = c.state(ctx, stream); errors.Is(err, jetstream.ErrStreamNotFound) && time.Since(began) > gonePatience {
			return &permanentError{err}
		}
		return err
	})
	return st, err
}

// drain reads a stream back from its leader into the record, message by message, and says whether that was all of it: the leader names the same
// first and last sequence and the same number of messages before and after, and just so many were read.
func (c *client) drain(ctx context.Context, target, stream string, item func(*message) history.Item) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var (
		got []*message
		st  state
		err error
	)
	for range drainPasses {
		if got, st, err = c.readAll(ctx, stream); err == nil || ctx.Err() != nil {
			break
		}
	}
	for _, m := range got {
		x := item(m)
		x.Target, x.Seq = target, m.Seq
		c.env.Recorder.Item(x)
	}
	d := history.Drain{Target: target, Complete: err == nil, Items: len(got), First: st.first, Last: st.last, Missing: st.missing}
	if err != nil {
		d.Err = cut(err.Error(), maxErrWord)
		err = fmt.Errorf("read %s back: %w", stream, err)
	}
	c.env.Recorder.Drain(d)
	return err
}

// readAll is one pass over a stream.
func (c *client) readAll(ctx context.Context, stream string) ([]*message, state, error) {
	before, err := c.steadyState(ctx, stream)
	if err != nil {
		return nil, before, err
	}
	got, err := c.readRange(ctx, stream, before.first, before.last)
	if err != nil {
		return got, before, err
	}
	after, err := c.steadyState(ctx, stream)
	switch {
	case err != nil:
		return got, before, err
	case after != before:
		return got, after, fmt.Errorf("it changed while it was read: %+v, then %+v", before, after)
	case uint64(len(got)) != before.msgs:
		return got, after, fmt.Errorf("its leader says that it holds %d messages and returned %d", before.msgs, len(got))
	}
	return got, after, nil
}

// readRange reads with many requests in flight: one by one it would take a round trip per message.
func (c *client) readRange(ctx context.Context, stream string, first, last uint64) ([]*message, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu   sync.Mutex
		got  []*message
		next = max(1, first)
		wg   sync.WaitGroup
	)
	take := func() (from, to uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		from, to = next, min(next+drainChunk-1, last)
		next = to + 1
		return from, to, from <= to
	}
	for range drainReaders {
		wg.Go(func() {
			for from, to, ok := take(); ok; from, to, ok = take() {
				ms, err := c.readChunk(ctx, stream, from, to)
				mu.Lock()
				got = append(got, ms...)
				mu.Unlock()
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	slices.SortFunc(got, func(a, b *message) int { return int(int64(a.Seq) - int64(b.Seq)) })
	return got, context.Cause(ctx)
}

// readChunk reads what there is from one sequence to another, stepping over those that are missing.
func (c *client) readChunk(ctx context.Context, stream string, from, to uint64) ([]*message, error) {
	var got []*message
	for seq := from; seq <= to; {
		m, err := c.getPatiently(ctx, stream, msgGet{Seq: seq, Next: ">"})
		if errors.Is(err, errNone) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if m.Seq > to {
			return got, nil
		}
		got = append(got, m)
		seq = m.Seq + 1
	}
	return got, nil
}

// getPatiently repeats a read while there is no leader.
func (c *client) getPatiently(ctx context.Context, stream string, req msgGet) (*message, error) {
	var m *message
	err := until(ctx, drainTimeout, drainRetry, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		var err error
		if m, err = c.get(ctx, stream, req); errors.Is(err, errNone) {
			return &permanentError{err}
		}
		return err
	})
	return m, err
}
