package membershipd

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	probeInterval = time.Second
	probeRetry    = 150 * time.Millisecond // after a failure
	// A request that reaches a group in the middle of an election is dropped without an answer. So attempts are short at first,
	// and longer after each failure, for a slow disk must not look like an outage for ever.
	probeTimeoutMin = 400 * time.Millisecond
	probeTimeoutMax = 2 * time.Second
)

// nodeRecord is a node's entry in the bucket of nodes. It is refreshed by the probe, and ages out.
type nodeRecord struct {
	Name      string    `json:"name"`
	PublicKey string    `json:"public_key"` // of the internal identity
	Client    string    `json:"client"`
	Cluster   string    `json:"cluster"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	Refreshed time.Time `json:"refreshed"`
}

// prober writes this node's record by compare-and-set, again and again. Success is the one proof that the control plane
// takes writes now: it needs the bucket's leader, a majority of its replicas, and this node's way to them.
type prober struct {
	js     jsAPI
	log    *slog.Logger
	record nodeRecord
	kicks  chan struct{}
	good   atomic.Pointer[time.Time] // when the last successful write was begun, so that the age is never too young
	failed atomic.Uint64
	onGood func()

	seq     uint64 // last known revision of the record
	known   bool
	timeout time.Duration
}

func newProber(js jsAPI, log *slog.Logger, record nodeRecord, onGood func()) *prober {
	return &prober{js: js, log: log, record: record, kicks: make(chan struct{}, 1), onGood: onGood, timeout: probeTimeoutMin}
}

// kick gives up an attempt that was sent to a leader of yesterday, and begins the next at once.
func (p *prober) kick() {
	select {
	case p.kicks <- struct{}{}:
	default:
	}
}

func (p *prober) age() time.Duration {
	if t := p.good.Load(); t != nil {
		return time.Since(*t)
	}
	return health.Never
}

func (p *prober) run(ctx context.Context) {
	for ctx.Err() == nil {
		ok, kicked := p.attempt(ctx)
		switch {
		case ok:
			p.timeout = probeTimeoutMax // it works: give it time before it counts as broken
			p.pause(ctx, probeInterval)
		case kicked:
			p.timeout = probeTimeoutMin
		default:
			p.failed.Add(1)
			p.timeout = min(2*p.timeout, probeTimeoutMax)
			p.pause(ctx, probeRetry)
		}
	}
}

func (p *prober) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-p.kicks:
		p.timeout = probeTimeoutMin
	case <-t.C:
	}
}

// attempt writes once; a kick cancels it.
func (p *prober) attempt(ctx context.Context) (ok, kicked bool) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	done := make(chan bool, 1)
	go func() { done <- p.write(ctx) }()
	select {
	case ok := <-done:
		return ok, false
	case <-p.kicks:
		cancel()
		return <-done, true
	}
}

func (p *prober) write(ctx context.Context) bool {
	subject := keySubject(BucketNodes, p.record.Name)
	if !p.known {
		last, err := p.js.last(ctx, bucketStream(BucketNodes), subject)
		if err != nil {
			p.log.Debug("probe: read this node's record", "error", err)
			return false
		}
		p.seq, p.known = last.seq, true
	}
	start := time.Now()
	p.record.Refreshed = start.UTC()
	body, err := json.Marshal(p.record)
	if err != nil {
		p.log.Error("probe: encode this node's record", "error", err)
		return false
	}
	seq, err := p.js.publish(ctx, subject, nil, body, &expectation{seq: p.seq})
	if err != nil {
		p.known = false // the write may have been done, or the record may have aged out
		p.log.Debug("probe: write this node's record", "error", err)
		return false
	}
	p.seq = seq
	p.good.Store(&start)
	p.onGood()
	return true
}
