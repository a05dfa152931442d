package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
)

// cell is one scenario on one system under test.
type cell struct {
	Scenario string `json:"scenario"`
	SUT      string `json:"sut"`
	Seconds  int    `json:"expected_seconds"`
}

func matrixCmd() *cobra.Command {
	f := &runFlags{}
	var suts string
	var list bool
	cmd := &cobra.Command{
		Use: "matrix", Short: "Run scenarios on several systems under test and draw the table", Args: cobra.NoArgs,
		Long: `matrix runs the chosen scenarios on each system under test, one after the other, with proofs in OUT/SUT/, and draws scenarios against systems.
It exits with the worst result of a membershipd column; other systems are shown for comparison.`,
		Example: `  chaos matrix --suts membershipd,nats-server@v2.15.2
  chaos matrix --scenario node-kill,quorum-loss --suts nats-server@v2.12.1,nats-server@v2.15.2
  chaos matrix --list --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := splitList(suts)
			if list {
				return listCells(cmd.OutOrStdout(), f, names)
			}
			return runMatrix(cmd, f, names)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&suts, "suts", "membershipd,nats-server@v2.15.2", "systems under test, comma separated")
	cmd.Flags().BoolVar(&list, "list", false, "list the cells with their expected seconds and run nothing")
	if err := cmd.Flags().MarkHidden("sut"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func splitList(s string) []string {
	var out []string
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func cells(f *runFlags, suts []string) ([]cell, error) {
	list, err := scenarios.Select(scenarios.All(), f.scenario, f.full)
	if err != nil {
		return nil, err
	}
	var cs []cell
	for _, sut := range suts {
		kind, err := kindOf(sut)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if about(kind, s) {
				cs = append(cs, cell{s.Name, sut, s.Seconds})
			}
		}
	}
	return cs, nil
}

func listCells(w io.Writer, f *runFlags, suts []string) error {
	cs, err := cells(f, suts)
	if err != nil {
		return usage(err)
	}
	if f.json {
		return json.NewEncoder(w).Encode(cs)
	}
	tw := tabwriter.NewWriter(w, 0, 2, 2, ' ', 0)
	for _, c := range cs {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t~%d s\n", c.Scenario, c.SUT, c.Seconds)
	}
	return tw.Flush()
}

func runMatrix(cmd *cobra.Command, f *runFlags, suts []string) error {
	if len(suts) == 0 {
		return usage(errors.New("--suts names no system under test"))
	}
	if _, err := cells(f, suts); err != nil {
		return usage(err)
	}
	return locked(f.out, func() error { return runCells(cmd, f, suts) })
}

func runCells(cmd *cobra.Command, f *runFlags, suts []string) error {
	byCell := map[string]reports.Proof{}
	var worst error
	for _, sut := range suts {
		one := *f
		one.sut, one.out = sut, filepath.Join(f.out, strings.ReplaceAll(sut, "@", "-"))
		proofs, err := runOnce(cmd.Context(), &one, cmd.OutOrStdout())
		f.seed, f.seeded = one.seed, one.seeded // the same plan on every system
		for _, p := range proofs {
			byCell[p.Evidence.Scenario+"|"+sut] = p
		}
		var e *exitError
		if err != nil && (!errors.As(err, &e) || e.code == exitUsage) || cmd.Context().Err() != nil {
			return err
		}
		if sut == string(cluster.Membershipd) {
			worst = err
		}
	}
	drawMatrix(cmd.OutOrStdout(), f, suts, byCell)
	return worst
}

func drawMatrix(w io.Writer, f *runFlags, suts []string, byCell map[string]reports.Proof) {
	list, err := scenarios.Select(scenarios.All(), f.scenario, f.full)
	if err != nil {
		return // checked before
	}
	tw := tabwriter.NewWriter(w, 0, 2, 3, ' ', 0)
	_, _ = fmt.Fprintf(tw, "\nscenario\t%s\n", strings.Join(suts, "\t"))
	for _, s := range list {
		row := []string{s.Name}
		for _, sut := range suts {
			row = append(row, matrixWord(byCell, s.Name+"|"+sut))
		}
		_, _ = fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // a table on the terminal
}

func matrixWord(byCell map[string]reports.Proof, key string) string {
	p, ok := byCell[key]
	if !ok {
		return "-"
	}
	w := word(string(p.Status))
	var failed []string
	for _, c := range p.Claims {
		if !c.Satisfied {
			failed = append(failed, c.Claim.ID)
		}
	}
	slices.Sort(failed)
	if len(failed) > 0 {
		w += " (" + strings.Join(failed, ", ") + ")"
	}
	return w
}
