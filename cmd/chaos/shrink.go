package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios"
)

const nemesisScenario = "nemesis"

func shrinkCmd() *cobra.Command {
	f := &runFlags{}
	var tries int
	cmd := &cobra.Command{
		Use: "shrink", Short: "Reduce a failing plan of the random nemesis to the smallest one that still fails", Args: cobra.NoArgs,
		Long: `shrink runs the random nemesis with the given seed, and if a claim fails runs it again and again with fewer strikes, until none of those that are
left can be left out without the failure going away. A plan counts as failing when one of the same claims fails in one of --tries runs: a seed
repeats the plan, not the interleaving.

Exit codes: 0 a smallest plan was found, 3 the whole plan did not fail, so that there is nothing to reduce.`,
		Example: `  chaos shrink --seed 7 --for 1m --sut nats-server@v2.10.17
  chaos shrink --seed 7 --for 3m --tries 3`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tries < 1 {
				return usage(fmt.Errorf("--tries is %d; it must be at least 1", tries))
			}
			return runShrink(cmd.Context(), f, tries, cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&tries, "tries", 2, "runs of a plan that all must pass before it counts as not failing")
	return cmd
}

// shrinker tries plans.
type shrinker struct {
	flags  *runFlags
	tries  int
	out    io.Writer
	claims []string // that failed in the first run
	runs   int
}

func runShrink(ctx context.Context, f *runFlags, tries int, out io.Writer) error {
	f.scenario = nemesisScenario
	s := newSession(f, io.Discard)
	if err := s.check(); err != nil {
		return usage(err)
	}
	kind, err := kindOf(f.sut)
	if err != nil {
		return usage(err)
	}
	all := scenarios.NemesisPlan(kind, f.seed, f.nemesis).StrikeNumbers()
	sh := &shrinker{flags: f, tries: tries, out: out}
	return locked(f.out, func() error { return sh.shrink(ctx, all, kind == scenarios.DefaultKind) })
}

// shrink finds the smallest plan that fails, and says how to run it.
func (s *shrinker) shrink(ctx context.Context, all []int, own bool) error {
	fails, err := s.fails(ctx, all)
	if err != nil {
		return err
	}
	if !fails {
		return &exitError{code: exitInconclusive, err: fmt.Errorf("the whole plan of %d strikes passed in %d runs: there is nothing to reduce", len(all), s.runs)}
	}
	least, err := ddmin(ctx, all, s.fails)
	if err != nil {
		return err
	}
	return s.report(all, least, own)
}

// fails runs a plan until it fails as the first one did, at most tries times.
func (s *shrinker) fails(ctx context.Context, keep []int) (bool, error) {
	for range s.tries {
		s.runs++
		one := *s.flags
		one.nemesis.Keep = keep
		one.out = filepath.Join(s.flags.out, fmt.Sprintf("try-%03d", s.runs))
		_, _ = fmt.Fprintf(s.out, "try %d: %d strikes: %s\n", s.runs, len(keep), join(keep))
		proofs, err := runOnce(ctx, &one, io.Discard)
		if ctx.Err() != nil {
			return false, &exitError{code: exitInconclusive, err: fmt.Errorf("interrupted after %d runs", s.runs)}
		}
		if len(proofs) == 0 {
			return false, err
		}
		p := proofs[0]
		failed := failedClaims(p)
		_, _ = fmt.Fprintf(s.out, "       %s %s\n", p.Status, p.Why)
		if p.Status != reports.StatusFail {
			continue
		}
		if s.claims == nil {
			s.claims = failed
		}
		if slices.ContainsFunc(failed, func(c string) bool { return slices.Contains(s.claims, c) }) {
			return true, nil
		}
	}
	return false, nil
}

func failedClaims(p reports.Proof) []string {
	var out []string
	for _, c := range p.Claims {
		if c.Claim.Expect == check.Pass && c.Result.Verdict == check.Fail {
			out = append(out, c.Claim.ID)
		}
	}
	return out
}

func (s *shrinker) report(all, least []int, own bool) error {
	kind, err := kindOf(s.flags.sut)
	if err != nil {
		return usage(err)
	}
	n := s.flags.nemesis
	n.Keep = least
	_, err = fmt.Fprintf(s.out, "\nsmallest failing plan: %d of %d strikes, after %d runs; failing: %s\n%s\n\nagain: chaos run --scenario nemesis --seed %d",
		len(least), len(all), s.runs, strings.Join(s.claims, ", "), strings.Join(scenarios.NemesisPlan(kind, s.flags.seed, n).Strikes(), "\n"), s.flags.seed)
	if err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	if n.For > 0 {
		_, _ = fmt.Fprintf(s.out, " --for %v", n.For)
	}
	if n.Any {
		_, _ = fmt.Fprint(s.out, " --any")
	}
	if !own {
		_, _ = fmt.Fprintf(s.out, " --sut %s", s.flags.sut)
	}
	_, _ = fmt.Fprintf(s.out, " --keep %s\n", join(least))
	return nil
}

func join(ns []int) string {
	var out []string
	for _, n := range ns {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, ",")
}

// ddmin reduces a failing list until leaving out any single element makes the failure go away: A. Zeller and R. Hildebrandt, "Simplifying and
// Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002. fails is never asked about an empty list.
func ddmin(ctx context.Context, list []int, fails func(context.Context, []int) (bool, error)) ([]int, error) {
	for parts := 2; len(list) >= 2; {
		smaller, err := reduce(ctx, list, parts, fails)
		switch {
		case err != nil:
			return nil, err
		case smaller != nil && len(smaller) <= (len(list)+parts-1)/parts: // one part alone fails
			list, parts = smaller, 2
		case smaller != nil: // all but one part fail
			list, parts = smaller, max(parts-1, 2)
		case parts >= len(list):
			return list, nil
		default:
			parts = min(2*parts, len(list))
		}
	}
	return list, nil
}

// reduce returns a part that fails, or else what is left without one part and fails, or nil.
func reduce(ctx context.Context, list []int, parts int, fails func(context.Context, []int) (bool, error)) ([]int, error) {
	var tries [][]int
	for i := range parts {
		tries = append(tries, list[i*len(list)/parts:(i+1)*len(list)/parts])
	}
	if parts > 2 { // with two parts each is the other's complement
		for i := range parts {
			tries = append(tries, slices.Concat(list[:i*len(list)/parts], list[(i+1)*len(list)/parts:]))
		}
	}
	for _, t := range tries {
		if len(t) == 0 || len(t) == len(list) {
			continue
		}
		bad, err := fails(ctx, t)
		if err != nil {
			return nil, err
		}
		if bad {
			return t, nil
		}
	}
	return nil, nil
}
