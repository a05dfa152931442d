package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios"
)

// noopScenario is the one in which every fault is not injected, and must be caught.
const noopScenario = "noop-faults"

// faultRow is what was seen of one verb.
type faultRow struct {
	Fault     string  `json:"fault"`
	Group     string  `json:"group"`
	Inject    bool    `json:"inject"`   // it was decided, and the probe before it said absent
	InForce   bool    `json:"in_force"` // measured, right after and right before healing
	Bystander string  `json:"bystander"`
	Heal      bool    `json:"heal"`
	Noop      bool    `json:"noop_caught"`
	ForceMS   float64 `json:"to_force_ms"`
	HealMS    float64 `json:"to_heal_ms"`
	Seen      string  `json:"seen"` // what the probe measured in force
}

func faultsCmd() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use: "faults", Short: "Go through the whole catalogue of faults on a real cluster, and print what was measured of each", Args: cobra.NoArgs,
		Long: `faults runs the scenarios every-fault and noop-faults and prints one row per fault from their record: was it measured in force, was anybody else hit,
was it gone after healing, was the same fault caught when it was not injected, and how long injecting and healing took.

Exit codes are those of 'chaos run'.`,
		Example: "  chaos faults\n  chaos faults --json --seed 7",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFaults(cmd.Context(), f, cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	return cmd
}

func runFaults(ctx context.Context, f *runFlags, out io.Writer) error {
	f.scenario = scenarios.EveryFault + "," + noopScenario
	s := newSession(f, out)
	defer s.close() // the record is read from the output folder
	proofs, runErr := s.run(ctx)
	rows := map[string]*faultRow{}
	for _, e := range faults.Catalogue() {
		rows[e.Name] = &faultRow{Fault: e.Name, Group: e.Group, Bystander: "-"}
	}
	for _, p := range proofs {
		if err := fillRows(rows, filepath.Join(f.out, p.Evidence.Scenario), p); err != nil {
			return err
		}
	}
	if err := printRows(out, rows, f.json); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return runErr
}

// fillRows takes from a bundle what it says of the faults.
func fillRows(rows map[string]*faultRow, dir string, p reports.Proof) error {
	if p.Evidence.Scenario == noopScenario {
		for _, c := range p.Claims {
			if r := rows[strings.TrimPrefix(c.Claim.ID, "noop-")]; r != nil {
				r.Noop = c.Satisfied && c.Result.Verdict == check.Fail
			}
		}
		return nil
	}
	h, err := reports.ReadHistory(dir)
	if err != nil {
		return fmt.Errorf("read record of %s: %w", p.Evidence.Scenario, err)
	}
	began := map[string]int64{}
	for i := range h.Events {
		e := &h.Events[i]
		verb, _, _ := strings.Cut(e.Name, " ")
		r := rows[verb]
		if e.Kind != "fault" || r == nil || e.Noop {
			continue
		}
		r.take(e, began)
	}
	return nil
}

// take notes one stage. A fault that was not seen where it should have been is none, whatever came before.
func (r *faultRow) take(e *history.Event, began map[string]int64) {
	switch e.Stage {
	case history.StageDecided:
		r.Inject = true
		began[r.Fault] = e.At
	case history.StageInForce:
		r.InForce, r.Seen = true, e.Detail
		if ms, ok := e.Data["force_ms"].(float64); ok {
			r.ForceMS = ms
		}
	case history.StageBystand:
		r.Bystander = "unhurt"
		if hit, ok := e.Data["in_force"].(bool); ok && hit {
			r.Bystander = "HIT"
		}
	case history.StageHealing:
		began[r.Fault] = e.At
	case history.StageHealed:
		r.Heal = true
		r.HealMS = float64(e.At-began[r.Fault]) / 1e6
	case history.StageNotSeen:
		r.InForce, r.Seen = false, e.Detail
	case history.StageAbsent, history.StageStillOn:
	}
}

func printRows(out io.Writer, rows map[string]*faultRow, asJSON bool) error {
	var list []faultRow
	for _, e := range faults.Catalogue() {
		list = append(list, *rows[e.Name])
	}
	if asJSON {
		return json.NewEncoder(out).Encode(list)
	}
	tw := tabwriter.NewWriter(out, 0, 2, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "\nFAULT\tGROUP\tINJECTED\tIN FORCE\tBYSTANDER\tHEALED\tNO-OP CAUGHT\tTO FORCE\tTO HEAL\tMEASURED")
	for _, r := range list {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f ms\t%.0f ms\t%s\n", r.Fault, r.Group, yes(r.Inject), yes(r.InForce), r.Bystander, yes(r.Heal),
			yes(r.Noop), r.ForceMS, r.HealMS, cutTo(r.Seen, 90))
	}
	return tw.Flush()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func cutTo(s string, n int) string {
	if rs := []rune(s); len(rs) > n {
		return string(rs[:n-1]) + "…"
	}
	return s
}
