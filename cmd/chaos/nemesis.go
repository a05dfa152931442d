package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
)

// addNemesis adds the bounds of the random nemesis.
func (f *runFlags) addNemesis(fl *pflag.FlagSet) {
	fl.DurationVar(&f.nemesis.For, "for", 0, "how long the random nemesis strikes (default 1m); only for --scenario nemesis")
	fl.BoolVar(&f.nemesis.Any, "any", false, "let the random nemesis hit a majority too, which is not lawful: writes stop, and still nothing acked may be lost; only for --scenario nemesis")
	fl.IntSliceVar(&f.nemesis.Keep, "keep", nil, "numbers of the random nemesis' strikes to keep, as 'chaos shrink' prints them (default all); only for --scenario nemesis")
}

// checkNemesis refuses bounds of the random nemesis that change nothing. The seed is known.
func (s *session) checkNemesis(kind cluster.Kind) error {
	n := s.flags.nemesis
	if err := n.Check(); err != nil {
		return fmt.Errorf("nemesis: %w", err)
	}
	var given []string
	for flag, set := range map[string]bool{"--for": n.For > 0, "--any": n.Any, "--keep": len(n.Keep) > 0} {
		if set {
			given = append(given, flag)
		}
	}
	slices.Sort(given)
	if len(given) == 0 {
		return nil
	}
	if !slices.Contains(s.planned, nemesisScenario) {
		return fmt.Errorf("the random nemesis is not among the chosen scenarios, and nothing else looks at %s: add --scenario %s, or leave that out", strings.Join(given, ", "), nemesisScenario)
	}
	whole := scenarios.NemesisPlan(kind, s.flags.seed, scenarios.Nemesis{For: n.For, Any: n.Any}).StrikeNumbers()
	for _, k := range n.Keep {
		if !slices.Contains(whole, k) {
			return fmt.Errorf("--keep %d: the plan of seed %d has the strikes 1 to %d; --dry-run without --keep shows them", k, s.flags.seed, len(whole))
		}
	}
	return nil
}

// planned is what would be done in a scenario, as --dry-run --json prints it.
type planned struct {
	Scenario string   `json:"scenario"`
	Doc      string   `json:"doc"`
	SUT      string   `json:"sut"`
	Seed     uint64   `json:"seed"`
	Steps    []string `json:"steps"`
}

// dryRun prints what would be done, and does nothing.
func dryRun(f *runFlags, w io.Writer) error {
	s := newSession(f, w)
	if err := s.check(); err != nil {
		return usage(err)
	}
	kind, err := kindOf(f.sut)
	if err != nil {
		return usage(err)
	}
	if !f.json {
		_, _ = fmt.Fprintf(w, "seed %d on %s; targets that depend on who leads are picked when the step is reached\n", f.seed, f.sut)
	}
	var errs []error
	for _, sc := range s.list {
		own := kind
		if sc.Control {
			own = cluster.NATSServer
		}
		p := planned{Scenario: sc.Name, Doc: sc.Doc, SUT: f.sut, Seed: f.seed}
		for _, st := range sc.Steps(scenarios.NewPlan(sc, own, f.seed, f.full, f.nemesis)) {
			p.Steps = append(p.Steps, st.Name)
		}
		errs = append(errs, p.print(w, f.json))
	}
	return errors.Join(errs...)
}

func (p planned) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(p)
	}
	_, err := fmt.Fprintf(w, "\n%s: %s\n", p.Scenario, p.Doc)
	for i, st := range p.Steps {
		_, _ = fmt.Fprintf(w, "  %3d %s\n", i+1, st)
	}
	return err
}
