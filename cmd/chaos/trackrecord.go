package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/scenarios/suite"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// trackFlags is what 'chaos track-record' takes.
type trackFlags struct {
	runFlags

	bug, version string
	repeat       int
	list         bool
}

func trackRecordCmd() *cobra.Command {
	f := &trackFlags{}
	cmd := &cobra.Command{
		Use: "track-record", Short: "Catch published bugs of nats-server again, and show that the fixed releases are clean", Args: cobra.NoArgs,
		Long: `track-record runs, for each bug, a scenario against the release that has it and the same against one that has not, and writes the table of what it
saw to OUT/` + trackMarkdown + ` and OUT/` + trackJSON + `. Rows of bugs that were not run this time stay as they were.

A bug counts as reproduced only if the named claim failed for the named reason; anything else, a failure of the harness included, is written down as
"not reproduced".

Exit codes: 0 every bug showed and every control was clean, 1 a control was not clean, 2 bad input, 3 a bug did not show, or a run said nothing.`,
		Example: `  chaos track-record
  chaos track-record --bug 6888 --seed 7
  chaos track-record --bug 5644 --version v2.10.17 --repeat 5`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.list {
				return listBugs(cmd.OutOrStdout())
			}
			return trackRecord(cmd.Context(), f, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bug, "bug", "", "bugs, comma separated (default all; see --list)")
	fl.StringVar(&f.version, "version", "", "run only this release of nats-server, bad or clean")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of victims, orders and times; a bug that is a race is tried with the next ones too")
	fl.IntVar(&f.repeat, "repeat", 0, "runs on the release with the bug, to see how often it shows (default: until it shows, as often as the bug's entry says)")
	fl.IntVar(&f.procs, "procs", trackProcs, "bugs at the same time, each with its own cluster")
	fl.StringVar(&f.out, "out", "proofs/track-record", "folder for the table and the bundles")
	fl.StringVar(&f.backend, "backend", "auto", "docker, process, or auto: docker where an engine answers")
	fl.BoolVar(&f.list, "list", false, "list the bugs and run nothing")
	return cmd
}

func listBugs(w io.Writer) error {
	for _, b := range scenarios.TrackRecord() {
		if _, err := fmt.Fprintf(w, "%-18s %s\n%-18s %s; clean: %s; about %d s a run\n", b.ID, b.Title, "", strings.Join(b.Bad, ", "), orNone(b.Clean), b.Scenario.Seconds); err != nil {
			return fmt.Errorf("list the bugs: %w", err)
		}
	}
	return nil
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// trackProcs is how many bugs two cores bear at a time: most of a run is waiting.
const trackProcs = 3

// trackBook is where all workers write what they saw.
type trackBook struct {
	mu    sync.Mutex
	out   string // absolute
	w     io.Writer
	table trackTable
	seen  []trackRow
}

// enter keeps rows, and writes the table at once, so that what was seen is not lost.
func (b *trackBook) enter(rows []trackRow) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, rows...)
	b.table.merge(rows)
	return b.table.write(b.out)
}

func (b *trackBook) say(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = fmt.Fprintln(b.w, line)
}

// Write implements io.Writer for the notes of sessions.
func (b *trackBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w.Write(p)
}

// tracker is one worker: it runs one cluster at a time.
type tracker struct {
	f       *trackFlags
	book    *trackBook
	session *session // of the release that is built
}

// trackRecord runs what was chosen, writes the table after every bug, so that what was seen is kept, and gives the exit code.
func trackRecord(ctx context.Context, f *trackFlags, w io.Writer) error {
	bugs, err := scenarios.SelectBugs(scenarios.TrackRecord(), f.bug)
	if err != nil {
		return usage(err)
	}
	if f.repeat < 0 || f.procs < 1 {
		return usage(fmt.Errorf("--repeat is %d and --procs %d; they must not be negative, and --procs not 0", f.repeat, f.procs))
	}
	out, err := filepath.Abs(f.out)
	if err != nil {
		return usage(fmt.Errorf("--out: %w", err))
	}
	return locked(out, func() error { return trackInto(ctx, f, &trackBook{out: out, w: w}, bugs) })
}

// trackInto runs the bugs and adds what it saw to the table in the book's folder.
func trackInto(ctx context.Context, f *trackFlags, book *trackBook, bugs []scenarios.Bug) (err error) {
	began := time.Now()
	if book.table, err = readTrack(book.out); err != nil {
		return usage(err)
	}
	if err := trackAll(ctx, f, book, longestFirst(bugs)); err != nil {
		return err
	}
	if len(book.seen) == 0 {
		return usage(fmt.Errorf("none of the chosen bugs has an entry for version %q", f.version))
	}
	sortRows(book.seen)
	_, _ = fmt.Fprintf(book.w, "\n%s\n%d entries in %v; table: %s\n", trackTable{Rows: book.seen}.markdown(), len(book.seen), time.Since(began).Round(time.Second), filepath.Join(f.out, trackMarkdown))
	return trackVerdict(book.seen)
}

// trackAll runs the bugs on --procs workers; the first error ends all of them.
func trackAll(ctx context.Context, f *trackFlags, book *trackBook, bugs []scenarios.Bug) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan scenarios.Bug, len(bugs))
	for _, b := range bugs {
		todo <- b
	}
	close(todo)
	var wg sync.WaitGroup
	errs := make([]error, min(f.procs, max(1, len(bugs))))
	for i := range errs {
		wg.Go(func() {
			t := &tracker{f: f, book: book}
			for b := range todo {
				if ctx.Err() != nil {
					return
				}
				rows, err := t.bug(ctx, b)
				if werr := book.enter(rows); werr != nil {
					err = usage(errors.Join(err, werr))
				}
				if err != nil {
					errs[i] = err
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if first := context.Cause(ctx); first != nil && !errors.Is(first, context.Canceled) {
		return first // what the others say is that they were interrupted
	}
	return errors.Join(errs...)
}

// longestFirst orders bugs by about how long all their runs take, so that the workers end together.
func longestFirst(bugs []scenarios.Bug) []scenarios.Bug {
	seconds := func(b scenarios.Bug) int {
		runs := len(b.Bad) + len(b.Clean)
		if b.Control != nil {
			runs += len(b.Bad)
		}
		return runs * b.Scenario.Seconds
	}
	out := slices.Clone(bugs)
	slices.SortStableFunc(out, func(a, b scenarios.Bug) int { return seconds(b) - seconds(a) })
	return out
}

// trackVerdict gives the exit code: a control that is not clean outranks a bug that did not show.
func trackVerdict(rows []trackRow) error {
	var hidden, dirty, open []string
	for _, r := range rows {
		if r.Ran && r.Showing != scenarios.Reproduced {
			hidden = append(hidden, r.Bug+" on "+r.Version)
		}
		for _, c := range r.Controls {
			switch c.Showing {
			case scenarios.Reproduced:
				dirty = append(dirty, r.Bug+" on "+c.Version)
			case scenarios.NotReproduced:
				open = append(open, r.Bug+" on "+c.Version)
			}
		}
	}
	switch {
	case len(dirty) > 0:
		return exitf(exitFail, "the bug showed where it must not: %s", strings.Join(dirty, ", "))
	case len(hidden)+len(open) > 0:
		return exitf(exitInconclusive, "did not show: %s; control says nothing: %s", orNone(hidden), orNone(open))
	}
	return nil
}

// bug runs one bug: the releases that have it, and with the seed that showed it the clean ones.
func (t *tracker) bug(ctx context.Context, b scenarios.Bug) ([]trackRow, error) {
	var rows []trackRow
	for _, v := range b.Bad {
		row := trackRow{Bug: b.ID, Title: b.Title, Source: b.Source, Version: v, Seed: t.f.seed, Note: b.Finding}
		if t.f.version == "" || t.f.version == v {
			if err := t.reproduce(ctx, b, &row); err != nil {
				return rows, err
			}
		}
		if row.Ran && b.Control != nil {
			if err := t.undamaged(ctx, b, &row); err != nil {
				return append(rows, row), err
			}
		}
		if len(rows) == 0 { // one row carries the controls
			if err := t.controls(ctx, b, &row); err != nil {
				return append(rows, row), err
			}
		}
		if row.Ran || len(row.Controls) > 0 {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// reproduce runs seed after seed until the bug shows, or as often as was asked for.
func (t *tracker) reproduce(ctx context.Context, b scenarios.Bug, row *trackRow) error {
	tries := max(1, b.AnySeed)
	if t.f.repeat > 0 {
		tries = t.f.repeat
	}
	row.Ran = true
	next := t.f.seed
	for range tries {
		p, seed, err := t.heard(ctx, b, b.Scenario, row.Version, next)
		if err != nil {
			return err
		}
		next = seed + 1
		f := b.Judge(p)
		row.Runs++
		if f.Showing == scenarios.Reproduced {
			row.Shown++
		}
		if row.Shown == 0 || row.Shown == 1 && f.Showing == scenarios.Reproduced {
			row.Finding, row.Seed, row.Date, row.Seconds = f, seed, p.Evidence.Started, p.Evidence.Seconds
		}
		t.say(b, row.Version, seed, f, p)
		if row.Shown > 0 && t.f.repeat == 0 {
			return nil
		}
	}
	return nil
}

// controls runs the clean releases, with the seed of the row.
func (t *tracker) controls(ctx context.Context, b scenarios.Bug, row *trackRow) error {
	for _, v := range b.Clean {
		if t.f.version != "" && t.f.version != v {
			continue
		}
		if err := t.control(ctx, b, b.Scenario, v, v, row); err != nil {
			return err
		}
	}
	return nil
}

// undamaged runs the story without its point, on the release that has the bug.
func (t *tracker) undamaged(ctx context.Context, b scenarios.Bug, row *trackRow) error {
	return t.control(ctx, b, *b.Control, row.Version, row.Version+", "+b.ControlWord, row)
}

func (t *tracker) control(ctx context.Context, b scenarios.Bug, sc scenarios.Scenario, version, name string, row *trackRow) error {
	p, seed, err := t.heard(ctx, b, sc, version, row.Seed)
	if err != nil {
		return err
	}
	f := b.Judge(p)
	row.Controls = append(row.Controls, trackControl{Version: name, Finding: f, Seed: seed, Date: p.Evidence.Started, Seconds: p.Evidence.Seconds})
	t.say(b, name, seed, f, p)
	return nil
}

// unheardTries is how often a run of a release that forms clusters badly, in which the harness failed, is followed by one with the next seed. Such a run
// says nothing of the release, for or against. A run whose claims were judged is never followed by another one.
const unheardTries = 2

// formsBadly says that three nodes of a release that start together, on a busy machine, now and then never become a cluster in which every replica of a
// new stream is current, however often they are started again.
func formsBadly(version string) bool {
	return strings.HasPrefix(version, "v2.9.") || strings.HasPrefix(version, "v2.10.")
}

// heard returns the first run that says something, or the last, and its seed.
func (t *tracker) heard(ctx context.Context, b scenarios.Bug, sc scenarios.Scenario, version string, seed uint64) (reports.Proof, uint64, error) {
	for i := 0; ; i++ {
		p, err := t.run(ctx, b, sc, version, seed)
		if err != nil || len(p.Evidence.Errors) == 0 || i == unheardTries || !formsBadly(version) {
			return p, seed, err
		}
		t.say(b, version, seed, b.Judge(p), p)
		seed++
	}
}

func (t *tracker) say(b scenarios.Bug, version string, seed uint64, f scenarios.Finding, p reports.Proof) {
	why := f.Reason
	if f.Code != "" {
		why = fmt.Sprintf("%s (%s): %s", f.Claim, f.Code, f.Reason)
	}
	t.book.say(fmt.Sprintf("%s on %s, seed %d: %s in %.0f s. %s", b.ID, version, seed, f.Showing, p.Evidence.Seconds, why))
}

// run builds a release, runs the scenario against it in a fresh cluster, and returns the proof.
func (t *tracker) run(ctx context.Context, b scenarios.Bug, sc scenarios.Scenario, version string, seed uint64) (reports.Proof, error) {
	s, err := t.prepare(ctx, version)
	if err != nil {
		return reports.Proof{}, err
	}
	s.cfg.OutDir = filepath.Join(t.book.out, b.ID+"-"+version)
	dir := filepath.Join(s.cfg.OutDir, sc.Name)
	if err := errors.Join(bundleOrNothing(dir), os.RemoveAll(dir), os.MkdirAll(s.cfg.OutDir, 0o755)); err != nil {
		return reports.Proof{}, usage(fmt.Errorf("remove the earlier bundle: %w", err))
	}
	s.cfg.Seed, s.cfg.Sync = seed, b.Sync
	set, err := s.cfg.Open(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return reports.Proof{}, usage(err)
	}
	set.PlainText = true
	p, _, err := scenarios.Execute(ctx, sc, set)
	err = errors.Join(err, set.Backend.Close())
	if s.cfg.Backend == docker.Name {
		s.sweepOwn(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return p, exitf(exitInconclusive, "interrupted; what was seen before is in the table")
	case err != nil:
		return p, usage(err)
	}
	return p, nil
}

// prepare builds a release, unless it is the one that was built last.
func (t *tracker) prepare(ctx context.Context, version string) (*session, error) {
	name := string(cluster.NATSServer) + "@" + version
	if version == string(cluster.Membershipd) {
		name = version
	}
	if t.session != nil && t.session.flags.sut == name {
		t.session.cfg.RunID = newRunID()
		return t.session, nil
	}
	flags := t.f.runFlags
	flags.sut = name
	s := newSession(&flags, t.book)
	s.cfg = suite.Config{RunID: newRunID()}
	var err error
	if s.tree, err = subject.FindSource("."); err != nil {
		return nil, usage(err)
	}
	if err := s.chooseBackend(ctx); err != nil {
		return nil, err
	}
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	t.session = s
	return s, nil
}

// figureWords are the counts of a finding, zeros left out.
func figureWords(fs []check.Figure) string {
	var ws []string
	for _, f := range fs {
		if f.Value != 0 {
			ws = append(ws, strings.TrimSpace(fmt.Sprintf("%s %g %s", strings.ReplaceAll(f.Name, "_", " "), f.Value, f.Unit)))
		}
	}
	return strings.Join(ws, ", ")
}
