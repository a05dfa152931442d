package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Settings of the benchmarks.
const (
	benchTimeout   = 2 * time.Minute // for one cluster to be up
	benchPoll      = 20 * time.Millisecond
	accountingOps  = 1_000_000
	benchProducers = 100
)

// sample is one round's pair of times, in seconds.
type sample struct {
	Up   float64 `json:"up_s"`
	Down float64 `json:"down_s"`
}

// benchResult is what 'chaos bench --json' prints.
type benchResult struct {
	Rounds      int                 `json:"rounds"`
	Samples     map[string][]sample `json:"samples"` // by system under test
	UpRatio     float64             `json:"up_ratio"`
	TotalRatio  float64             `json:"up_down_ratio"`
	Faults      map[string]spread   `json:"faults_decided_to_in_force_ms"`
	Accounting  float64             `json:"accounting_1e6_ops_s"`
	HeapPerOp   float64             `json:"accounting_bytes_per_op"`
	Backend     string              `json:"backend"`
	Environment string              `json:"environment"`
}

// spread sums up a set of figures.
type spread struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	Max    float64 `json:"max"`
}

func benchCmd() *cobra.Command {
	f := &runFlags{}
	rounds, repeats := 5, 10
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure the harness and the daemon's start, as ratios against plain nats-server in the same run", Args: cobra.NoArgs,
		Long: `bench starts and removes clusters of membershipd and of plain nats-server in turn, in the same pods, and prints medians and their ratio; then the time from the
decision for a fault to the probe that sees it in force; then the speed of stream accounting. Timings of one machine at one time: compare ratios, not seconds.`,
		Example: "  chaos bench\n  chaos bench --rounds 9 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench(cmd.Context(), f, rounds, repeats, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&rounds, "rounds", rounds, "clusters of each system")
	fl.IntVar(&repeats, "repeats", repeats, "injections of each fault")
	fl.StringVar(&f.backend, "backend", "auto", "docker, process or auto")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func bench(ctx context.Context, f *runFlags, rounds, repeats int, out io.Writer) error {
	if rounds < 1 || repeats < 1 {
		return usage(errors.New("--rounds and --repeats must be at least 1"))
	}
	f.sut, f.procs, f.seed, f.seeded, f.scenario = string(cluster.Membershipd), 1, 1, true, "noop-faults"
	s := newSession(f, out)
	if err := s.check(); err != nil {
		return usage(err)
	}
	if err := s.prepareBench(ctx); err != nil {
		return err
	}
	set, err := s.cfg.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = set.Backend.Close() }() // clusters are closed one by one
	defer s.sweepOwn(ctx)
	res := benchResult{Rounds: rounds, Samples: map[string][]sample{}, Faults: map[string]spread{}, Backend: s.cfg.Backend,
		Environment: fmt.Sprintf("%d CPUs, %s", runtime.NumCPU(), runtime.Version())}
	for i := range rounds {
		for _, sub := range []cluster.Subject{set.Subject, set.Plain} {
			one, err := upDown(ctx, set.Backend, cluster.Spec{RunID: s.cfg.RunID, Name: fmt.Sprintf("bench-%d", i), Subject: sub}, nil)
			if err != nil {
				return fmt.Errorf("round %d with %s: %w", i+1, sub, err)
			}
			res.Samples[string(sub.Kind)] = append(res.Samples[string(sub.Kind)], one)
			s.note("round %d: %-24s up %.2f s, down %.2f s", i+1, sub, one.Up, one.Down)
		}
	}
	if err := benchFaults(ctx, set.Backend, cluster.Spec{RunID: s.cfg.RunID, Name: "bench-faults", Subject: set.Plain}, repeats, res.Faults); err != nil {
		return err
	}
	res.UpRatio = ratio(res.Samples, func(s sample) float64 { return s.Up })
	res.TotalRatio = ratio(res.Samples, func(s sample) float64 { return s.Up + s.Down })
	res.Accounting, res.HeapPerOp = benchAccounting()
	return printBench(out, f.json, res)
}

// upDown times a cluster from the first engine call to converged (or healthy, for plain nats-server), and its removal. Between the two it calls while.
func upDown(ctx context.Context, b cluster.Backend, spec cluster.Spec, while func(cluster.Cluster) error) (s sample, err error) {
	id, err := workload.NewIdentity()
	if err != nil {
		return s, err
	}
	spec.AdminKey = id.Public()
	began := time.Now()
	c, err := b.NewCluster(ctx, spec)
	if err != nil {
		return s, err
	}
	defer func() {
		down := time.Now()
		err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
		s.Down = time.Since(down).Seconds()
	}()
	ctx, cancel := context.WithTimeout(ctx, benchTimeout)
	defer cancel()
	if err := startEach(ctx, c); err != nil {
		return s, err
	}
	if spec.Subject.Kind == cluster.Membershipd {
		if p := observe.WaitConverged(ctx, c, observe.Want{Buckets: 6, Replicas: 3}); !p.OK {
			return s, fmt.Errorf("not converged: %s", p.Why)
		}
	} else if err := allHealthy(ctx, c); err != nil {
		return s, err
	}
	s.Up = time.Since(began).Seconds()
	if while != nil {
		return s, while(c)
	}
	return s, nil
}

func startEach(ctx context.Context, c cluster.Cluster) error {
	errs := make(chan error, len(c.Nodes()))
	for _, n := range c.Nodes() {
		go func() { errs <- n.Start(ctx) }()
	}
	var all []error
	for range c.Nodes() {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func allHealthy(ctx context.Context, c cluster.Cluster) error {
	t := time.NewTicker(benchPoll)
	defer t.Stop()
	for {
		ok := 0
		for _, n := range c.Nodes() {
			if code, _, err := observe.Get(ctx, n.Endpoints().Ready); err == nil && code == http.StatusOK {
				ok++
			}
		}
		if ok == len(c.Nodes()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes healthy: %w", ok, len(c.Nodes()), ctx.Err())
		case <-t.C:
		}
	}
}

// benchFaults measures, on one healthy cluster, how long each fault takes from the decision to the probe that sees it.
func benchFaults(ctx context.Context, b cluster.Backend, spec cluster.Spec, repeats int, into map[string]spread) error {
	_, err := upDown(ctx, b, spec, func(c cluster.Cluster) error {
		for _, e := range faults.Catalogue() {
			if e.Group == "disk" || b.Capabilities().Missing(e.Needs...) != "" {
				continue // wiping takes as long as there is data
			}
			var ms []float64
			inj := &faults.Injector{Cluster: c, Report: func(stage string, _ faults.Fault, _ faults.Observation, took time.Duration) {
				if stage == faults.StageInForce {
					ms = append(ms, float64(took.Microseconds())/1000)
				}
			}}
			for i := range repeats {
				id := c.Nodes()[i%len(c.Nodes())].ID()
				if err := inj.Run(ctx, e.Make(id), func(context.Context) error { return nil }); err != nil {
					return fmt.Errorf("fault %s: %w", e.Name, err)
				}
			}
			into[e.Name] = sum(ms)
		}
		return nil
	})
	return err
}

// benchAccounting judges a made-up history of a million acked publishes.
func benchAccounting() (seconds, bytesPerOp float64) {
	h := &history.History{}
	for i := range int64(accountingOps) {
		v := fmt.Sprintf("m-%d", i)
		h.Ops = append(h.Ops, history.Op{ID: i + 1, Client: fmt.Sprintf("p-%d", i%benchProducers), Kind: history.Publish, Target: "T", Value: v,
			Invoke: i * 1000, Complete: i*1000 + 900, Outcome: history.OK, Seq: uint64(i + 1)})
		h.Items = append(h.Items, history.Item{Target: "T", Seq: uint64(i + 1), Value: v})
	}
	h.Drains = []history.Drain{{Target: "T", At: accountingOps * 1000, Complete: true, Items: accountingOps, First: 1, Last: accountingOps}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	r := check.StreamAccounting{Target: "T", MinAcked: accountingOps}.Check(h)
	seconds = time.Since(began).Seconds()
	runtime.ReadMemStats(&after)
	if r.Verdict != check.Pass {
		return -1, -1
	}
	return seconds, float64(after.TotalAlloc-before.TotalAlloc) / accountingOps
}

func ratio(by map[string][]sample, f func(sample) float64) float64 {
	med := func(kind cluster.Kind) float64 {
		var xs []float64
		for _, s := range by[string(kind)] {
			xs = append(xs, f(s))
		}
		return sum(xs).Median
	}
	return med(cluster.Membershipd) / med(cluster.NATSServer)
}

func sum(xs []float64) spread {
	if len(xs) == 0 {
		return spread{}
	}
	xs = slices.Sorted(slices.Values(xs))
	at := func(q float64) float64 { return xs[int(q*float64(len(xs)-1)+0.5)] }
	return spread{N: len(xs), Median: at(0.5), P90: at(0.9), Max: xs[len(xs)-1]}
}

func printBench(w io.Writer, asJSON bool, r benchResult) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintf(w, `
%s, %s, %d rounds
three nodes up:   membershipd converged with six R3 buckets %.2fx of plain nats-server healthy (medians)
up and down:      %.2fx
stream accounting of %d operations: %.2f s, %.0f bytes allocated per operation
`, r.Backend, r.Environment, r.Rounds, r.UpRatio, r.TotalRatio, accountingOps, r.Accounting, r.HeapPerOp)
	for _, e := range faults.Catalogue() {
		if s, ok := r.Faults[e.Name]; ok {
			_, _ = fmt.Fprintf(w, "fault %-10s decided -> in force: median %.1f ms, p90 %.1f ms, max %.1f ms (n=%d)\n", e.Name, s.Median, s.P90, s.Max, s.N)
		}
	}
	return err
}
