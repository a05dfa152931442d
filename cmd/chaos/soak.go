package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
)

// Settings of the soak.
const (
	soakRounds       = 20
	soakInconclusive = 0.02            // so much of the rounds may say nothing
	soakGrace        = 4 * time.Minute // for a round to remove its cluster after Ctrl-C
	confidence       = 0.95
	roundInterrupted = "interrupted" // a round that Ctrl-C ended counts for nothing
)

// round is one run of the soak.
type round struct {
	Seed    uint64  `json:"seed"`
	Code    int     `json:"exit"`
	Seconds float64 `json:"seconds"`
	Status  string  `json:"status"`
	Why     string  `json:"why,omitempty"`
	Ops     int     `json:"ops"`
	Bundle  string  `json:"bundle,omitempty"` // of a round that did not pass
}

func soakCmd() *cobra.Command {
	f := &runFlags{}
	rounds := 0
	cmd := &cobra.Command{
		Use: "soak", Short: "Run lawful faults on a clean cluster again and again: any fail is a bug, of the cluster or of the harness", Args: cobra.NoArgs,
		Long: `soak runs the random nemesis (or --scenario) with one seed after the other, --procs rounds at a time, each in a process of its own. Bundles of
rounds that pass are removed; the others are kept. It ends with the counts and with the upper bound of the rate of fails at 95 % confidence.

Exit codes: 0 no fail and fewer than 2 % inconclusive, 1 a round failed, 3 too many were inconclusive, or it was interrupted.`,
		Example: `  chaos soak --rounds 100 --for 20s
  chaos soak --rounds 12 --scenario node-kill --procs 2`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rounds < 1 {
				return usage(fmt.Errorf("--rounds is %d; it must be at least 1", rounds))
			}
			return runSoak(cmd.Context(), f, rounds, cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&rounds, "rounds", soakRounds, "how many clusters")
	return cmd
}

// soak is the tally.
type soak struct {
	flags *runFlags
	self  string
	out   io.Writer
	began time.Time

	mu    sync.Mutex
	done  []round
	total int
}

func runSoak(ctx context.Context, f *runFlags, rounds int, out io.Writer) error {
	if f.scenario == "" {
		f.scenario = nemesisScenario
	}
	if err := newSession(f, io.Discard).check(); err != nil {
		return usage(err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s := &soak{flags: f, self: self, out: out, began: time.Now(), total: rounds}
	return locked(f.out, func() error { return s.rounds(ctx) })
}

// rounds runs one seed after the other, and gives the verdict.
func (s *soak) rounds(ctx context.Context) error {
	seeds := make(chan uint64)
	var wg sync.WaitGroup
	for range min(s.flags.procs, s.total) {
		wg.Go(func() {
			for seed := range seeds {
				s.add(s.round(ctx, seed))
			}
		})
	}
	for i := range s.total {
		select {
		case seeds <- s.flags.seed + uint64(i):
		case <-ctx.Done():
		}
	}
	close(seeds)
	wg.Wait()
	return s.verdict(ctx)
}

// round runs one seed in a process of its own, so that rounds share nothing.
func (s *soak) round(ctx context.Context, seed uint64) round {
	dir := filepath.Join(s.flags.out, fmt.Sprintf("round-%d", seed))
	r := round{Seed: seed}
	cmd := runOfItsOwn(ctx, s.self, s.args(seed, dir))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	r.Seconds = time.Since(began).Seconds()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	default:
		r.Code, r.Why = exitInconclusive, err.Error()
	}
	r.read(stdout.Bytes(), stderr.String())
	if ctx.Err() != nil && r.Status == string(reports.StatusInconclusive) {
		r.Status = roundInterrupted
	}
	if r.Status == string(reports.StatusPass) {
		if err := os.RemoveAll(dir); err != nil {
			r.Why = err.Error()
		}
	} else {
		r.Bundle = dir
	}
	return r
}

// runOfItsOwn is this program once more. When ctx ends it is interrupted once, and has the time to remove its cluster.
func runOfItsOwn(ctx context.Context, self string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self, args...)
	// A group of its own: the terminal's Ctrl-C reaches this process alone, which passes one interrupt on. A second one would end the run before it has cleaned up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = soakGrace
	return cmd
}

func (s *soak) args(seed uint64, dir string) []string {
	f := s.flags
	a := []string{"run", "--json", "--procs", fmt.Sprint(f.procs), "--scenario", f.scenario, "--sut", f.sut, "--backend", f.backend, "--seed", fmt.Sprint(seed), "--out", dir}
	if f.sync != "" {
		a = append(a, "--sync", f.sync)
	}
	if f.full {
		a = append(a, "--full")
	}
	if f.nemesis.For > 0 {
		a = append(a, "--for", f.nemesis.For.String())
	}
	if f.nemesis.Any {
		a = append(a, "--any")
	}
	return a
}

// read takes the verdict from the last line, which holds all proofs. The worst one counts.
func (r *round) read(stdout []byte, stderr string) {
	lines := bytes.Split(bytes.TrimSpace(stdout), []byte("\n"))
	var last struct {
		Proofs []struct {
			Status string `json:"status"`
			Why    string `json:"why"`
			Ops    int    `json:"ops"`
		} `json:"proofs"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || len(last.Proofs) == 0 {
		r.Status = string(reports.StatusInconclusive)
		r.Why = strings.TrimSpace(r.Why + " " + oneLine(stderr))
		return
	}
	rank := map[string]int{string(reports.StatusPass): 0, string(reports.StatusNotRun): 1, string(reports.StatusInconclusive): 2, string(reports.StatusFail): 3}
	r.Status = string(reports.StatusPass)
	for _, p := range last.Proofs {
		r.Ops += p.Ops
		if rank[p.Status] > rank[r.Status] {
			r.Status, r.Why = p.Status, p.Why
		}
	}
	if r.Code != exitOK && r.Status == string(reports.StatusPass) { // something besides the proofs was wrong
		r.Status, r.Why = string(reports.StatusInconclusive), oneLine(stderr)
	}
}

func (s *soak) add(r round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, r)
	if s.flags.json {
		_ = json.NewEncoder(s.out).Encode(r) // only a display; the verdict comes with the exit code
		return
	}
	at := int(time.Since(s.began).Seconds())
	_, _ = fmt.Fprintf(s.out, "%4d:%02d  %d of %d  seed %-8d %-12s %5.0f s  %6d ops  %s\n", at/60, at%60, len(s.done), s.total, r.Seed, r.Status, r.Seconds, r.Ops, r.notable())
}

func (r round) notable() string {
	if r.Status == string(reports.StatusPass) {
		return ""
	}
	return r.Why + "  " + r.Bundle
}

func (s *soak) verdict(ctx context.Context) error {
	count := map[string]int{}
	ops := 0
	for _, r := range s.done {
		count[r.Status]++
		ops += r.Ops
	}
	n := len(s.done) - count[roundInterrupted]
	fails := count[string(reports.StatusFail)]
	silent := n - fails - count[string(reports.StatusPass)]
	if !s.flags.json {
		if i := count[roundInterrupted]; i > 0 {
			_, _ = fmt.Fprintf(s.out, "\n%d more rounds were interrupted, and count for nothing.", i)
		}
		_, _ = fmt.Fprintf(s.out, "\n%d rounds in %v, %d operations: %d pass, %d fail, %d inconclusive or not run. At 95 %% confidence fewer than %.1f %% of rounds fail.\n",
			n, time.Since(s.began).Round(time.Second), ops, count[string(reports.StatusPass)], fails, silent, 100*upperBound(fails, n-silent))
	}
	switch {
	case fails > 0:
		return &exitError{code: exitFail, err: fmt.Errorf("%d of %d rounds failed", fails, n)}
	case ctx.Err() != nil:
		return &exitError{code: exitInconclusive, err: fmt.Errorf("interrupted after %d of %d rounds", n, s.total)}
	case float64(silent) >= soakInconclusive*float64(n) && silent > 0:
		return &exitError{code: exitInconclusive, err: fmt.Errorf("%d of %d rounds say nothing, and fewer than %.0f %% may", silent, n, 100*soakInconclusive)}
	}
	return nil
}

// upperBound is the one-sided Clopper-Pearson bound of a rate: the largest p for which at most k of n is not rarer than 1 in 20.
// C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
func upperBound(k, n int) float64 {
	if n == 0 || k >= n {
		return 1
	}
	low, high := 0.0, 1.0
	for range 60 {
		p := (low + high) / 2
		if atMost(k, n, p) > 1-confidence {
			low = p
		} else {
			high = p
		}
	}
	return high
}

// atMost is the probability of at most k successes in n trials.
func atMost(k, n int, p float64) float64 {
	sum := 0.0
	for i := range k + 1 {
		lg := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
		sum += math.Exp(lg(n) - lg(i) - lg(n-i) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return sum
}
