package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/scenarios/bench"
	"github.com/unibus/unibus/sut/cluster"
)

// benchFlags are those of 'chaos bench'.
type benchFlags struct {
	run  runFlags
	opts bench.Options
	list bool
}

func benchCmd() *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure the daemon against plain nats-server of the same version, and the harness itself", Args: cobra.NoArgs,
		Long: `bench measures membershipd and plain nats-server in turn (A B B A ...), in pods of the same making on one machine, with the same settings: TLS 1.3, nkey
users with the same permissions, sync always. While one is measured the daemons of the other are stopped. A ratio is the Hodges-Lehmann estimate over the
pairs with its 95 % interval; each row says what is wanted and whether it was met. Seconds of one machine at one time say little: compare the ratios.`,
		Example: "  chaos bench\n  chaos bench --only traffic --rounds 16\n  chaos bench --only connect,restart --users 20000\n  chaos bench --list\n  chaos bench --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.list {
				return listBench(cmd.OutOrStdout())
			}
			return runBench(cmd.Context(), f, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.opts.Only, "only", nil, "rows or parts, comma separated (default all; see --list)")
	fl.BoolVar(&f.list, "list", false, "print what can be measured")
	fl.IntVar(&f.opts.Rounds, "rounds", bench.DefaultRounds, "pairs of measurements of each ratio; six are needed for an interval of 95 %")
	fl.DurationVar(&f.opts.Window, "window", bench.DefaultWindow, "length of one measurement of a rate")
	fl.IntVar(&f.opts.Repeats, "repeats", bench.DefaultRepeats, "injections of each fault")
	fl.IntVar(&f.opts.Users, "users", bench.DefaultUsers, "users in the buckets")
	fl.StringVar(&f.run.backend, "backend", "auto", "docker, process or auto")
	fl.BoolVar(&f.run.json, "json", false, "print JSON")
	return cmd
}

func listBench(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, n := range bench.Names() {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", n[0], n[1]) // Flush returns the first error
	}
	return t.Flush()
}

func runBench(ctx context.Context, f *benchFlags, out io.Writer) error {
	if f.opts.Rounds < 1 || f.opts.Window <= 0 || f.opts.Repeats < 1 || f.opts.Users < 1 {
		return usage(errors.New("--rounds, --repeats and --users must be at least 1, --window above zero"))
	}
	if err := f.opts.Check(); err != nil {
		return usage(err)
	}
	f.run.sut, f.run.procs, f.run.seed, f.run.seeded, f.run.scenario = string(cluster.Membershipd), 1, 1, true, "noop-faults"
	s := newSession(&f.run, out)
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
	f.opts.Backend, f.opts.RunID, f.opts.Subject, f.opts.Plain, f.opts.Note = set.Backend, s.cfg.RunID, set.Subject, set.Plain, s.note
	res, err := bench.Run(ctx, f.opts)
	return errors.Join(err, printBench(out, f.run.json, res))
}

func printBench(w io.Writer, asJSON bool, r bench.Result) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintf(w, "\n%s against %s; %s, %s\n\n", r.Subject, r.Plain, r.Backend, r.Environment)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "WHAT\tFIGURE\tWANTED\t\t") // Flush returns the first error
	for _, row := range r.Rows {
		_, _ = fmt.Fprintln(t, strings.Join([]string{row.Name, row.Figure, row.Wanted, row.Verdict()}, "\t"))
	}
	return errors.Join(err, t.Flush())
}
