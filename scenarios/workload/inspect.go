package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Bounds of looking at a stream from outside.
const (
	inspectEvery  = 250 * time.Millisecond
	deniedFor     = 5 * time.Second // "no such stream" counts once it was the only answer for so long: nodes that have just started learn late
	healthTimeout = time.Second
)

// Inspect asks the cluster what it knows of a stream, through a client of its own, until the answer is a definite one or within ends, and records it
// under name together with each node's own opinion of its health at that moment.
func (e *Env) Inspect(ctx context.Context, name, target string, within time.Duration) (history.Metadata, error) {
	c, err := e.connect(ctx, e.label("inspector"), 0)
	if err != nil {
		return history.Metadata{}, err
	}
	defer c.close()
	m := c.describe(ctx, target, within)
	m.Healthz = healthNow(ctx, e.Cluster)
	e.Recorder.Event(history.MetadataEvent(name, m))
	return m, ctx.Err()
}

// describe polls until the stream was described by a leader, or denied without a break for deniedFor.
func (c *client) describe(ctx context.Context, target string, within time.Duration) history.Metadata {
	m := history.Metadata{Target: target, Status: history.StreamSilence}
	var denied time.Time
	err := until(ctx, within, inspectEvery, func(ctx context.Context) error {
		s, err := c.streamInfo(ctx, target)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if denied.IsZero() {
				denied = time.Now()
			}
			if time.Since(denied) < deniedFor {
				return err
			}
			m.Status, m.Err = history.StreamAbsent, cut(err.Error(), maxErrWord)
			return nil
		case err != nil:
			denied = time.Time{}
			return err
		}
		m = *s
		return nil
	})
	if err != nil {
		m.Err = cut(err.Error(), maxErrWord)
	}
	return m
}

// streamInfo is one description by the stream's leader; one without a leader is an error.
func (c *client) streamInfo(ctx context.Context, target string) (*history.Metadata, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, target)
	if err != nil {
		return nil, err
	}
	info := s.CachedInfo()
	if info.Cluster != nil && info.Cluster.Leader == "" && info.Config.Replicas > 1 {
		return nil, fmt.Errorf("%s has no leader", target)
	}
	cfg := info.Config
	cfg.Metadata = nil // servers from 2.11 on write their own version into it
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of %s: %w", target, err)
	}
	m := &history.Metadata{Target: target, Status: history.StreamFound, Created: info.Created.UTC().Format(time.RFC3339Nano), Config: string(b),
		Replicas: info.Config.Replicas, First: info.State.FirstSeq, Last: info.State.LastSeq, Msgs: info.State.Msgs}
	if info.Cluster != nil {
		m.Leader = info.Cluster.Leader
	}
	return m, nil
}

// countOn is how many messages on one subject the leader of a stream has.
func (c *client) countOn(ctx context.Context, target, subject string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, target)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, err
	}
	return int(info.State.Subjects[subject]), nil
}

// healthNow asks every node's ready endpoint once.
func healthNow(ctx context.Context, c cluster.Cluster) map[string]int {
	codes := map[string]int{}
	for _, n := range c.Nodes() {
		hctx, cancel := context.WithTimeout(ctx, healthTimeout)
		code, _, err := observe.Get(hctx, n.Endpoints().Ready)
		cancel()
		if err != nil {
			code = 0
		}
		codes[string(n.ID())] = code
	}
	return codes
}

// ErrNotMoved means that a stream's leadership did not go where it was sent.
var ErrNotMoved = errors.New("the leadership did not move there")

// LeadFrom makes a node the leader of a stream: the present leader is told to step down, in favour of that node where it understands this (2.11 and later).
func (e *Env) LeadFrom(ctx context.Context, target string, node cluster.NodeID, within time.Duration) error {
	c, err := e.connect(ctx, e.label("inspector"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	err = until(ctx, within, inspectEvery, func(ctx context.Context) error {
		m, err := c.streamInfo(ctx, target)
		if err != nil {
			return err
		}
		if m.Leader == string(node) {
			return nil
		}
		if err := c.stepDown(ctx, target, node); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s leads", ErrNotMoved, m.Leader)
	})
	if err != nil {
		return fmt.Errorf("move the leadership of %s to %s: %w", target, node, err)
	}
	return nil
}

func (c *client) stepDown(ctx context.Context, target string, node cluster.NodeID) error {
	type placement struct {
		Preferred string `json:"preferred"`
	}
	b, err := json.Marshal(map[string]any{"placement": placement{string(node)}})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+target, b)
	if err != nil {
		return err
	}
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(resp.Data, &a); err != nil {
		return fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	if a.Error != nil {
		return a.Error
	}
	return nil
}

// HealthStatus is for scenarios that wait for every node to call itself healthy.
func (e *Env) HealthStatus(ctx context.Context) (healthy bool, codes map[string]int) {
	codes = healthNow(ctx, e.Cluster)
	for _, c := range codes {
		if c != http.StatusOK {
			return false, codes
		}
	}
	return len(codes) > 0, codes
}
