package membershipd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	subjectHeartbeat  = "unibus.internal.heartbeat" // in CONTROL, which no user can reach
	heartbeatInterval = 250 * time.Millisecond
)

// heartbeats tells the other nodes that this one is there, and hears them. In Raft only the leader hears of everybody; with these
// every node can say how many there are.
type heartbeats struct {
	name string

	mu   sync.Mutex
	seen map[string]time.Time
}

func newHeartbeats(name string) *heartbeats {
	return &heartbeats{name: name, seen: map[string]time.Time{}}
}

func (h *heartbeats) run(ctx context.Context, nc *nats.Conn) error {
	sub, err := nc.Subscribe(subjectHeartbeat, h.hear)
	if err != nil {
		return fmt.Errorf("listen for heartbeats: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to close
	t := time.NewTicker(heartbeatInterval)
	defer t.Stop()
	for {
		_ = nc.Publish(subjectHeartbeat, []byte(h.name)) // not connected: the others will notice, which is the point
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (h *heartbeats) hear(m *nats.Msg) {
	if name := string(m.Data); name != h.name && nameForm.MatchString(name) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen[name] = time.Now()
	}
}

func (h *heartbeats) ages() map[string]time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]time.Duration, len(h.seen))
	for n, t := range h.seen {
		out[n] = time.Since(t)
	}
	return out
}
