package workload_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Repeated publishes, conditional ones, a work queue, and descriptions of their streams: the leader of the conditional ones dies, and the load rests once. What
// was recorded must satisfy the checkers, and every damage to it must be seen by them.
func TestRepeatsAppendsAndQueue(t *testing.T) {
	b := newBench(t, 3)
	b.c.start(t)
	w := &workload.Multi{Parts: []workload.Workload{
		&workload.Streams{Publishers: 3, Rate: 20, Repeat: 0.2},
		&workload.OrderedConsumer{Clients: 1},
		&workload.WorkQueue{Publishers: 2, Rate: 10, Workers: 2},
		&workload.Appends{Clients: 3, Rate: 10},
		&workload.Described{Streams: []string{"ORDERS", "JOBS", "LEDGER"}},
	}}
	h := drive(t, b, w, func(ctx context.Context) {
		b.awaitOK(ctx, t, history.Append, 20)
		n := cluster.Find(b.c, b.leader(ctx, t, "LEDGER"))
		if err := n.Signal(ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitExit(ctx); err != nil {
			t.Fatal(err)
		}
		b.awaitOK(ctx, t, history.Append, 20) // an election later
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		awaitReady(ctx, t, n)
		b.awaitOK(ctx, t, history.Append, 20)
		b.awaitOK(ctx, t, history.Publish, 200)
	})
	specs := []check.Spec{
		check.Of(check.StreamAccounting{Target: "ORDERS", MinAcked: 100}),
		check.Of(check.Deduplication{Target: "ORDERS", MinRepeats: 5}),
		check.Of(check.Consumers{Target: "ORDERS", Kinds: []string{"ordered"}, Complete: true, Clients: []string{"ordered-"}, MinClients: 1}),
		check.Of(check.WorkQueue{Target: "JOBS", MinAcked: 20, MinHandled: 20}),
		check.Of(check.Appends{Target: "LEDGER", MinAcked: 60}),
		check.Of(check.StreamMetadata{Target: "LEDGER", Last: workload.DescribedLast, KeepsStart: true}),
		check.Of(check.StreamMetadata{Target: "JOBS", Last: workload.DescribedLast}),
	}
	for _, s := range specs {
		r, err := s.Run(h)
		if err != nil || r.Verdict != check.Pass {
			t.Errorf("%s: %v %+v", s.Checker, err, r)
		}
		t.Logf("%s: %s", s.Checker, r.Reason)
	}
	fired := map[string]int{}
	for _, m := range check.RunMutations(specs, h, 1) {
		if m.Applied && !m.Fired {
			t.Errorf("%s of %s was not caught: %+v", m.Mutation, specs[m.Spec].Checker, m.Result)
		}
		if m.Fired {
			fired[specs[m.Spec].Checker]++
		}
	}
	for _, s := range specs {
		if fired[s.Checker] == 0 {
			t.Errorf("no damage to this record was shown to %s", s.Checker)
		}
	}
	for _, d := range h.Deliveries {
		if d.Kind == "pull" && (d.Asked == 0 || d.Asked > d.At) {
			t.Errorf("a delivery that nobody had asked for: %+v", d)
		}
	}
}

// Consumers that go on after a pause go on where they were: nothing comes a second time, nothing is left out.
func TestConsumersGoOnAfterAPause(t *testing.T) {
	b := newBench(t, 1)
	b.c.start(t)
	w := &workload.Multi{Parts: []workload.Workload{
		&workload.Streams{Publishers: 1, Rate: 50, Replicas: 1}, &workload.OrderedConsumer{Clients: 1}, &workload.PullConsumer{Clients: 1, Replicas: 1},
	}}
	defer w.Close()
	ctx := t.Context()
	if err := w.Setup(ctx, b.env); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		run, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- w.Run(run, b.env) }()
		b.awaitOK(ctx, t, history.Publish, 30)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Drain(ctx, b.env); err != nil {
		t.Fatal(err)
	}
	h := b.history(t)
	if r := (check.Consumers{Target: "ORDERS", Complete: true, MinDeliveries: 60}).Check(h); r.Verdict != check.Pass {
		t.Errorf("%+v", r)
	}
}
