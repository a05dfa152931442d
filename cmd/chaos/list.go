package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
)

// listed is a scenario as 'chaos list --json' shows it.
type listed struct {
	Name    string   `json:"name"`
	Family  string   `json:"family"`
	Doc     string   `json:"doc"`
	Default bool     `json:"default"` // in a run that names no scenario
	Nightly bool     `json:"nightly"` // with --full, or by name
	Only    string   `json:"only,omitempty"`
	Control bool     `json:"control"`
	Needs   []string `json:"needs"`
	Seconds int      `json:"expected_seconds"`
	Steps   []string `json:"steps,omitempty"`

	ours bool // in no run about plain nats-server
}

// when is the word for the runs that it is in.
func (l listed) when() string {
	if l.Default {
		return "default"
	}
	return "nightly"
}

// about is the word for the systems under test that it is run with.
func (l listed) about() string {
	if l.ours {
		return string(cluster.Membershipd)
	}
	return "any"
}

func listCmd() *cobra.Command {
	var asJSON, steps, verbs bool
	var seed uint64
	cmd := &cobra.Command{
		Use: "list", Short: "List scenarios and the runs that they are in, with --steps what they would do, with --faults the verbs", Args: cobra.NoArgs,
		Long: `list prints each scenario with its family, whether it is in the default run (of a 'chaos run' that names none) or only in the nightly one (--full; or by
name), the systems under test that it is run with, and about how long it takes. A run about plain nats-server leaves out what is about membershipd alone, the
controls among it. What this machine cannot do is NOT RUN: 'chaos doctor' names it.`,
		Example: "  chaos list\n  chaos list --steps --seed 7\n  chaos list --faults",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbs {
				return listFaults(cmd)
			}
			return listScenarios(cmd, asJSON, steps, seed)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&steps, "steps", false, "the plan of each scenario for this seed; nothing is run")
	cmd.Flags().BoolVar(&verbs, "faults", false, "list the faults")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "seed of the plan")
	return cmd
}

func listScenarios(cmd *cobra.Command, asJSON, steps bool, seed uint64) error {
	daily, err := scenarios.Select(scenarios.All(), "", false) // as a run that names none does
	if err != nil {
		return usage(err)
	}
	var out []listed
	for _, s := range scenarios.All() {
		l := listed{Name: s.Name, Family: s.Family, Doc: s.Doc, Only: string(s.Only), Control: s.Control, Seconds: s.Seconds, Needs: []string{}, ours: !about(cluster.NATSServer, s)}
		l.Default = slices.ContainsFunc(daily, func(d scenarios.Scenario) bool { return d.Name == s.Name })
		l.Nightly = !l.Default
		for _, n := range s.Needs {
			l.Needs = append(l.Needs, string(n))
		}
		if steps {
			kind := scenarios.DefaultKind
			if s.Only != "" {
				kind = s.Only
			}
			for _, st := range s.Steps(scenarios.NewPlan(s, kind, seed, false, scenarios.Nemesis{})) {
				l.Steps = append(l.Steps, st.Name)
			}
		}
		out = append(out, l)
	}
	w := cmd.OutOrStdout()
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(out)
	}
	tw := tabwriter.NewWriter(w, 0, 2, 2, ' ', 0)
	for _, l := range out {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t~%d s\t%s\n", l.Name, l.Family, l.when(), l.about(), l.Seconds, l.Doc)
		for i, st := range l.Steps {
			_, _ = fmt.Fprintf(tw, "  %3d %s\t\t\t\t\t\n", i+1, st)
		}
	}
	return tw.Flush()
}

func listFaults(cmd *cobra.Command) error {
	tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 2, 2, ' ', 0)
	for _, v := range faults.Catalogue() {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\n", v.Name, v.Group, v.Doc)
	}
	return tw.Flush()
}
