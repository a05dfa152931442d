package main

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
)

// addNemesis adds the bounds of the random nemesis.
func (f *runFlags) addNemesis(fl *pflag.FlagSet) {
	fl.DurationVar(&f.nemesis.For, "for", 0, "how long the random nemesis strikes (default 1m); only for --scenario nemesis")
	fl.BoolVar(&f.nemesis.Any, "any", false, "let the random nemesis hit a majority too, which is not lawful: writes stop, and still nothing acked may be lost")
	fl.IntSliceVar(&f.nemesis.Keep, "keep", nil, "numbers of the random nemesis' strikes to keep, as 'chaos shrink' prints them (default all)")
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
	_, _ = fmt.Fprintf(w, "seed %d on %s; targets that depend on who leads are picked when the step is reached\n", f.seed, f.sut)
	for _, sc := range s.list {
		own := kind
		if sc.Control {
			own = cluster.NATSServer
		}
		_, _ = fmt.Fprintf(w, "\n%s: %s\n", sc.Name, sc.Doc)
		for i, st := range sc.Steps(scenarios.NewPlan(sc, own, f.seed, f.full, f.nemesis)) {
			_, _ = fmt.Fprintf(w, "  %3d %s\n", i+1, st.Name)
		}
	}
	return nil
}
