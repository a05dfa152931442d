package workload

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// WorkQueue is a stream with the work-queue policy, publishers of jobs, and workers that share its only consumer: a job leaves the stream when a worker's
// double ack is confirmed. Each job is published once: a work queue's memory of message ids is not durable for what was consumed.
type WorkQueue struct {
	Target     string        // the stream; "" means "JOBS"
	Publishers int           // 0 means 3; their label is "jobs"
	Rate       float64       // jobs a second and publisher, open loop; 0 means 5
	Workers    int           // 0 means 3; their label is "worker"
	Replicas   int           // of stream and consumer; 0 means 3, or fewer where there are fewer nodes
	AckWait    time.Duration // until the server hands a job out again; 0 means 10 s
	Timeout    time.Duration // of one publish, and of a double ack; 0 means 2 s

	jobs    *Streams
	workers *PullConsumer
}

var _ Workload = (*WorkQueue)(nil)

// Name implements Workload.
func (w *WorkQueue) Name() string { return "work queue " + or(w.Target, "JOBS") }

// Setup implements Workload.
func (w *WorkQueue) Setup(ctx context.Context, e *Env) error {
	w.Target, w.Replicas = or(w.Target, "JOBS"), or(w.Replicas, min(defaultR, nodeCount(e.Cluster)))
	w.jobs = &Streams{Label: "jobs", Target: w.Target, Subjects: []string{"jobs.>"}, Replicas: w.Replicas, Publishers: w.Publishers, Rate: or(w.Rate, 5), Timeout: w.Timeout,
		NoRetry: true, Retention: jetstream.WorkQueuePolicy}
	w.workers = &PullConsumer{Label: "worker", Target: w.Target, Durable: "workers", Clients: w.Workers, Replicas: w.Replicas, AckWait: w.AckWait, Timeout: w.Timeout}
	if err := w.jobs.Setup(ctx, e); err != nil {
		return err
	}
	return w.workers.Setup(ctx, e)
}

// Run implements Workload.
func (w *WorkQueue) Run(ctx context.Context, e *Env) error {
	if w.workers == nil {
		return errNotSetUp
	}
	var published error
	var wg sync.WaitGroup
	wg.Go(func() { published = w.jobs.Run(ctx, e) })
	worked := w.workers.Run(ctx, e)
	wg.Wait()
	return errors.Join(published, worked)
}

// Drain implements Workload: the workers have handled what there is, or the bounded wait for it ended; then what is left is read.
func (w *WorkQueue) Drain(ctx context.Context, e *Env) error {
	if w.workers == nil {
		return errNotSetUp
	}
	return errors.Join(w.workers.Drain(ctx, e), w.jobs.Drain(ctx, e))
}

// Close implements Workload.
func (w *WorkQueue) Close() {
	if w.workers != nil {
		w.workers.Close()
		w.jobs.Close()
	}
}
