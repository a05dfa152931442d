package workload_test

import (
	"context"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
)

// BenchmarkHealthSampler says what share of one processor sampling three nodes takes, the samples' own server not counted apart.
func BenchmarkHealthSampler(b *testing.B) {
	t := newBench(b, 3)
	t.c.start(b)
	rec, err := history.NewRecorder(io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	t.env.Recorder = rec
	w := &workload.HealthSampler{}
	if err := w.Setup(b.Context(), t.env); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		runtime.GC()
		began, cpu := time.Now(), cpuTime(b)
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
		if err := w.Run(ctx, t.env); err != nil {
			b.Fatal(err)
		}
		cancel()
		b.ReportMetric(100*(cpuTime(b)-cpu).Seconds()/time.Since(began).Seconds(), "%cpu")
	}
	rec.Last(func(h *history.History) { b.ReportMetric(float64(len(h.Health))/float64(b.N)/5/6, "Hz/probe") })
}

// BenchmarkStreams publishes as fast as 8 clients with all slots busy can, and drains.
func BenchmarkStreams(b *testing.B) {
	for range b.N {
		t := newBench(b, 3)
		t.c.start(b)
		w := &workload.Streams{Publishers: 8, Rate: 100000}
		if err := w.Setup(b.Context(), t.env); err != nil {
			b.Fatal(err)
		}
		began, cpu := time.Now(), cpuTime(b)
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
		if err := w.Run(ctx, t.env); err != nil {
			b.Fatal(err)
		}
		cancel()
		ops, ok, _, _ := t.env.Stats()
		took := time.Since(began)
		b.ReportMetric(float64(ok)/took.Seconds(), "acked/s")
		b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(ops), "µs-cpu/op")
		began = time.Now()
		if err := w.Drain(b.Context(), t.env); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(ok)/time.Since(began).Seconds(), "drained/s")
		w.Close()
		if err := t.c.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// cpuTime is what this process has used so far.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
