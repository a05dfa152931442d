// Package workload holds recording clients: they use a cluster as applications do, over nats.go, and write down every operation with
// its outcome, every message that arrived, and every change of their connections.
//
//	Setup ──> Run (until its context ends) ──> Drain ──> Close
//
// An operation that is recorded is exactly one attempt. What its outcome may claim is written down once, in the table in outcome.go.
package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Workload is one kind of load on a cluster. The methods are called in the order Setup, Run, Drain, Close by one goroutine at a time;
// Close may come at any point and more than once.
type Workload interface {
	Name() string
	// Setup creates streams and buckets and connects the clients. Its errors are the harness's.
	Setup(ctx context.Context, e *Env) error
	// Run works until ctx is done, and returns when every operation in flight has been recorded, which takes an operation's
	// timeout at most; consumers take a bounded time more to catch up. That ctx ended is not an error.
	Run(ctx context.Context, e *Env) error
	// Drain reads everything back into the record. A drain that could not be completed is recorded as such, and is an error too.
	Drain(ctx context.Context, e *Env) error
	// Close ends the clients.
	Close()
}

// Env is what workloads share in a run.
type Env struct {
	Cluster  cluster.Cluster
	Recorder *history.Recorder
	Seed     uint64
	Identity Identity
	Log      *slog.Logger // nil for none

	counts  counts
	mu      sync.Mutex
	labels  map[string]int
	clients []*client // every recording client that was made
}

type counts struct{ ops, ok, failed, unknown atomic.Int64 }

// Stats counts the operations that were recorded through this environment so far.
func (e *Env) Stats() (ops, ok, failed, unknown int64) {
	return e.counts.ops.Load(), e.counts.ok.Load(), e.counts.failed.Load(), e.counts.unknown.Load()
}

// label makes a name of clients unique within the run: "pub", and for a second workload of the same kind "pub2". Names are part of
// the values that clients write, so that no value is ever written by two of them.
func (e *Env) label(base string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.labels == nil {
		e.labels = map[string]int{}
	}
	e.labels[base]++
	if n := e.labels[base]; n > 1 {
		return fmt.Sprintf("%s%d", base, n)
	}
	return base
}

func (e *Env) log() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

func (e *Env) note(name, detail string, data map[string]any) {
	e.Recorder.Event(history.Event{Kind: "note", Name: name, Detail: detail, Data: data})
}

// Identity is the nkey user of the harness's clients. The seed lives in memory only: nothing prints, encodes or returns it.
type Identity struct {
	pair   nkeys.KeyPair
	public string
}

// NewIdentity makes a user.
func NewIdentity() (Identity, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return Identity{}, fmt.Errorf("create nkey: %w", err)
	}
	pub, err := pair.PublicKey()
	if err != nil {
		return Identity{}, fmt.Errorf("create nkey: %w", err)
	}
	return Identity{pair: pair, public: pub}, nil
}

// Public is the public key, for cluster.Spec.AdminKey.
func (i Identity) Public() string { return i.public }

// LogValue implements slog.LogValuer.
func (i Identity) LogValue() slog.Value { return slog.StringValue(i.public) }

// Format implements fmt.Formatter: whatever the verb, only the public key is shown.
func (i Identity) Format(s fmt.State, _ rune) { _, _ = fmt.Fprint(s, i.public) }

// MarshalText implements encoding.TextMarshaler: the public key.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.public), nil }

func (i Identity) sign(nonce []byte) ([]byte, error) {
	if i.pair == nil {
		return nil, errors.New("the clients have no identity")
	}
	return i.pair.Sign(nonce)
}

// Multi runs several workloads as one.
type Multi struct {
	Label string // Name; "" means the names of the parts
	Parts []Workload
}

var _ Workload = (*Multi)(nil)

// Name implements Workload.
func (m *Multi) Name() string {
	if m.Label != "" {
		return m.Label
	}
	names := make([]string, len(m.Parts))
	for i, p := range m.Parts {
		names[i] = p.Name()
	}
	return strings.Join(names, "+")
}

// Setup implements Workload: one part after the other, so that a consumer may need the stream of a part before it.
func (m *Multi) Setup(ctx context.Context, e *Env) error {
	for _, p := range m.Parts {
		if err := p.Setup(ctx, e); err != nil {
			return fmt.Errorf("set up %s: %w", p.Name(), err)
		}
	}
	return nil
}

// Run implements Workload: all parts side by side. When one fails the others still run until ctx ends.
func (m *Multi) Run(ctx context.Context, e *Env) error {
	errs := make([]error, len(m.Parts))
	var wg sync.WaitGroup
	for i, p := range m.Parts {
		wg.Go(func() {
			if err := p.Run(ctx, e); err != nil {
				errs[i] = fmt.Errorf("run %s: %w", p.Name(), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Drain implements Workload: every part, whatever happened to the others.
func (m *Multi) Drain(ctx context.Context, e *Env) error {
	var errs []error
	for _, p := range m.Parts {
		if err := p.Drain(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("drain %s: %w", p.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// Close implements Workload.
func (m *Multi) Close() {
	for i := len(m.Parts) - 1; i >= 0; i-- {
		m.Parts[i].Close()
	}
}
