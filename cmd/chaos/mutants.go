package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/subject"
)

// Files of the table of planted bugs.
const (
	mutantsMarkdown = "mutants.md"
	mutantsJSON     = "mutants.json"
	cleanBuild      = "(none)" // in the place of a bug's name: the build that has none
)

// mutantRow is one run: a build with a planted bug, or the clean one, in one scenario.
type mutantRow struct {
	Bug      string `json:"bug"`
	Mistake  string `json:"mistake,omitempty"`
	Scenario string `json:"scenario"`
	scenarios.Finding

	Caught  bool    `json:"caught"` // for the clean build: it passed
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"` // from the first start of the cluster to the end of the scenario
	Bundle  string  `json:"bundle"`
}

func mutantsCmd() *cobra.Command {
	f := &runFlags{}
	var words string
	var list bool
	cmd := &cobra.Command{
		Use: "mutants", Short: "Plant bugs in membershipd and show that the harness finds each, for its own reason", Args: cobra.NoArgs,
		Long: `mutants builds membershipd once for each planted bug (sut/membershipd/internal/mutant), runs the scenario that must see it, and prints which claim did.
A bug is caught only if a claim that is named for it fails for a reason that is named for it; any other failure, one of the harness included, is not. Then
the clean build must pass the same scenarios. The table is written to OUT/` + mutantsMarkdown + ` and OUT/` + mutantsJSON + `.

Exit codes: 0 all caught and the clean build passes, 1 a bug was missed or the clean build failed, 2 bad input, 3 interrupted, or a run said nothing.`,
		Example: "  chaos mutants\n  chaos mutants --mutant healthz-cached,cas-ignored --seed 7\n  chaos mutants --list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := scenarios.SelectMutants(scenarios.Mutants(), words)
			if err != nil {
				return usage(err)
			}
			if list {
				return listMutants(cmd.OutOrStdout(), all, f.json)
			}
			return runMutants(cmd.Context(), f, all, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&words, "mutant", "", "planted bugs, comma separated (default all; see --list)")
	fl.BoolVar(&list, "list", false, "list the bugs with the claims that must catch them, and run nothing")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of victims, orders and times")
	fl.StringVar(&f.out, "out", "proofs/mutants", "folder for the table and the bundles")
	fl.IntVar(&f.procs, "procs", 3, "clusters at once")
	fl.StringVar(&f.backend, "backend", "auto", "docker, process, or auto: docker where an engine answers")
	fl.BoolVar(&f.json, "json", false, "print JSON lines")
	return cmd
}

func listMutants(w io.Writer, all []scenarios.Mutant, asJSON bool) error {
	if asJSON {
		return printJSON(w, all)
	}
	tw := tabwriter.NewWriter(w, 0, 2, 2, ' ', 0)
	for _, m := range all {
		var signs []string
		for _, s := range m.Signs {
			signs = append(signs, s.Claim+" ("+strings.Join(s.Codes, ", ")+")")
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\n\tin %s, by %s\n", m.Name, m.Mistake, m.Scenario, strings.Join(signs, " or "))
	}
	return tw.Flush()
}

// mutantRun is one call of the command.
type mutantRun struct {
	flags *runFlags
	self  string
	opts  subject.Options
	out   io.Writer
	began time.Time

	mu   sync.Mutex
	rows []mutantRow
	errs []error
}

func runMutants(ctx context.Context, f *runFlags, all []scenarios.Mutant, out io.Writer) error {
	if f.procs < 1 || f.procs > 64 {
		return usage(fmt.Errorf("--procs is %d; it must be from 1 to 64", f.procs))
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	m := &mutantRun{flags: f, self: self, out: out, began: time.Now()}
	if m.opts.Source, err = subject.FindSource("."); err != nil {
		return usage(err)
	}
	if f.backend == docker.Name || f.backend == "auto" && docker.Available(ctx) == nil {
		m.opts.GOOS = "linux"
	}
	return locked(f.out, func() error { return m.all(ctx, all) })
}

// all runs them, and gives the verdict.
func (m *mutantRun) all(ctx context.Context, all []scenarios.Mutant) error {
	jobs := make(chan scenarios.Mutant)
	var wg sync.WaitGroup
	for range min(m.flags.procs, len(all)) {
		wg.Go(func() {
			for job := range jobs {
				m.one(ctx, job)
			}
		})
	}
	for _, job := range append(cleanRuns(all), all...) {
		select {
		case jobs <- job:
		case <-ctx.Done():
		}
	}
	close(jobs)
	wg.Wait()
	return m.verdict(ctx)
}

// cleanRuns asks for the build without a bug once in each scenario.
func cleanRuns(all []scenarios.Mutant) []scenarios.Mutant {
	var clean []scenarios.Mutant
	for _, m := range all {
		if !slices.ContainsFunc(clean, func(c scenarios.Mutant) bool { return c.Scenario == m.Scenario }) {
			clean = append(clean, scenarios.Mutant{Name: cleanBuild, Scenario: m.Scenario, Signs: m.Signs})
		}
	}
	return clean
}

// one builds and runs one bug, in a process of its own so that runs share nothing.
func (m *mutantRun) one(ctx context.Context, job scenarios.Mutant) {
	row := mutantRow{Bug: job.Name, Mistake: job.Mistake, Scenario: job.Scenario, Seed: m.flags.seed}
	p, err := m.run(ctx, job, &row)
	if err != nil {
		m.fail(fmt.Errorf("%s in %s: %w", job.Name, job.Scenario, err))
		return
	}
	row.Finding, row.Seconds = job.Judge(p), p.Evidence.Seconds
	row.Caught = row.Showing == scenarios.Reproduced
	if job.Name == cleanBuild {
		row.Caught = row.Showing == scenarios.Clean
	}
	m.add(row)
}

// mutantFolder is where a job's run writes to: several go on at a time, and a folder takes one.
func mutantFolder(job scenarios.Mutant) string {
	if job.Name == cleanBuild {
		return strings.Trim(cleanBuild, "()") + "-" + job.Scenario
	}
	return job.Name
}

func (m *mutantRun) run(ctx context.Context, job scenarios.Mutant, row *mutantRow) (reports.Proof, error) {
	dir := filepath.Join(m.flags.out, mutantFolder(job))
	row.Bundle = filepath.Join(dir, job.Scenario)
	// One scenario takes one cluster, whatever procs is: it tells the proof how many others were beside it, which is what timing figures are held against.
	args := []string{"run", "--json", "--procs", fmt.Sprint(m.flags.procs), "--scenario", job.Scenario, "--seed", fmt.Sprint(m.flags.seed), "--out", dir, "--backend", m.flags.backend}
	if job.Name != cleanBuild {
		sub, err := subject.Mutant(ctx, job.Name, m.opts)
		if err != nil {
			return reports.Proof{}, err
		}
		args = append(args, "--binary", sub.Path)
	}
	if err := os.RemoveAll(row.Bundle); err != nil {
		return reports.Proof{}, fmt.Errorf("remove the earlier bundle: %w", err)
	}
	cmd := runOfItsOwn(ctx, m.self, args)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run() // that a claim failed is what is wanted: the proof tells
	p, perr := reports.ReadProof(row.Bundle)
	if perr != nil || ctx.Err() != nil {
		return p, errors.Join(ctx.Err(), perr, err, errors.New(oneLine(stderr.String())))
	}
	return p, nil
}

func (m *mutantRun) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
	if !m.flags.json {
		at := int(time.Since(m.began).Seconds())
		_, _ = fmt.Fprintf(m.out, "%4d:%02d  says nothing: %s\n", at/60, at%60, oneLine(err.Error()))
	}
}

func (m *mutantRun) add(r mutantRow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = append(m.rows, r)
	if m.flags.json {
		_ = json.NewEncoder(m.out).Encode(r) // only a display; the verdict comes with the exit code
		return
	}
	at := int(time.Since(m.began).Seconds())
	_, _ = fmt.Fprintf(m.out, "%4d:%02d  %-26s %-17s %s\n", at/60, at%60, r.Bug, r.Scenario, r.words())
}

// words tells what one run showed.
func (r mutantRow) words() string {
	switch {
	case r.Bug == cleanBuild && r.Caught:
		return fmt.Sprintf("passes (%.0f s)", r.Seconds)
	case r.Bug == cleanBuild:
		return fmt.Sprintf("DOES NOT PASS (%.0f s): %s", r.Seconds, r.Reason)
	case r.Caught:
		return fmt.Sprintf("caught by %s (%s) in %.0f s: %s", r.Claim, r.Code, r.Seconds, r.Reason)
	}
	return fmt.Sprintf("NOT CAUGHT (%.0f s): %s %s", r.Seconds, r.Reason, strings.Join(r.Also, ", "))
}

func (m *mutantRun) verdict(ctx context.Context) error {
	slices.SortFunc(m.rows, func(a, b mutantRow) int { return strings.Compare(a.Bug+a.Scenario, b.Bug+b.Scenario) })
	if err := m.write(); err != nil {
		return usage(err)
	}
	var missed, dirty []string
	bugs := 0
	for _, r := range m.rows {
		switch {
		case r.Bug != cleanBuild:
			bugs++
			if !r.Caught {
				missed = append(missed, r.Bug)
			}
		case !r.Caught:
			dirty = append(dirty, r.Scenario)
		}
	}
	if !m.flags.json {
		_, _ = fmt.Fprintf(m.out, "\n%d of %d planted bugs caught, the clean build passes %d of %d scenarios, in %v; table: %s\n", bugs-len(missed), bugs,
			len(m.rows)-bugs-len(dirty), len(m.rows)-bugs, time.Since(m.began).Round(time.Second), filepath.Join(m.flags.out, mutantsMarkdown))
	}
	switch {
	case ctx.Err() != nil:
		return exitf(exitInconclusive, "interrupted; what was seen is in the table")
	case len(missed)+len(dirty) > 0:
		return exitf(exitFail, "not caught: %s; the clean build does not pass: %s", orNone(missed), orNone(dirty))
	case len(m.errs) > 0:
		return &exitError{exitInconclusive, errors.Join(m.errs...)}
	}
	return nil
}

func (m *mutantRun) write() error {
	b, err := json.MarshalIndent(m.rows, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the table: %w", err)
	}
	if err := os.MkdirAll(m.flags.out, 0o755); err != nil {
		return fmt.Errorf("make the folder for the table: %w", err)
	}
	if err := replaceFile(filepath.Join(m.flags.out, mutantsJSON), append(b, '\n')); err != nil {
		return err
	}
	return replaceFile(filepath.Join(m.flags.out, mutantsMarkdown), []byte(mutantTable(m.rows)))
}

func mutantTable(rows []mutantRow) string {
	var b strings.Builder
	b.WriteString("| planted bug | scenario | caught by | in | witness |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		what, by := r.Bug+": "+r.Mistake, fmt.Sprintf("`%s` (%s)", r.Claim, r.Code)
		switch {
		case r.Bug == cleanBuild && r.Caught:
			what, by = "none: the clean build", "passes"
		case r.Bug == cleanBuild:
			what, by = "none: the clean build", "**does not pass**: "+r.Reason
		case !r.Caught:
			by = "**not caught**: " + r.Reason
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f s | %s |\n", cell1(what), r.Scenario, cell1(by), r.Seconds, cell1(r.Witness))
	}
	return b.String()
}
