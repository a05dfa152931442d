package workload

import (
	"context"
	"errors"
	"time"
)

// The names of the descriptions that Described records of each stream.
const (
	DescribedFirst = "described at the start"
	DescribedLast  = "described at the end"
)

const describeWithin = 15 * time.Second

// Described asks what the cluster knows of streams, before the load and after it. It must stand behind the workloads that create them.
type Described struct {
	Streams []string // names; a bucket's stream is "KV_" and its name
}

var _ Workload = (*Described)(nil)

// Name implements Workload.
func (w *Described) Name() string { return "descriptions of streams" }

// Setup implements Workload.
func (w *Described) Setup(ctx context.Context, e *Env) error {
	return w.describe(ctx, e, DescribedFirst)
}

// Run implements Workload: it does nothing, so that what a leader that was deposed says is never held against a later one's word.
func (w *Described) Run(ctx context.Context, _ *Env) error {
	<-ctx.Done()
	return nil
}

// Drain implements Workload.
func (w *Described) Drain(ctx context.Context, e *Env) error {
	return w.describe(ctx, e, DescribedLast)
}

// Close implements Workload.
func (w *Described) Close() {}

// describe records one description of each stream. That nobody answers is recorded too, and no error.
func (w *Described) describe(ctx context.Context, e *Env, name string) error {
	var errs []error
	for _, target := range w.Streams {
		if _, err := e.Inspect(ctx, name, target, describeWithin); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
