package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/scenarios/suite"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/process"
	"github.com/unibus/unibus/sut/subject"
)

// defaultProcs is how many clusters may run at once when nobody says: the scenarios mostly wait, so that more than the cores is right on a machine that is
// fast enough; package room holds them up where it is not.
const defaultProcs = 4

// runFlags is what 'chaos run' takes.
type runFlags struct {
	scenario, sut, out, backend, sync string
	previous                          string // file of the build that upgrades begin with; "" builds one
	seed                              uint64
	procs                             int
	full, json, claims                bool
	seeded                            bool // the seed was given; 0 is one
	nemesis                           scenarios.Nemesis
	dryRun                            bool
	shard                             string // "2/4"
	binary                            string // file of the membershipd to test; "" builds this tree's
}

func runCmd() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use: "run", Short: "Run scenarios on fresh clusters and write their proofs", Args: cobra.NoArgs,
		Long: `run builds the system under test, starts a cluster of three for each scenario, breaks it, records, judges, and writes one proof bundle per
scenario and an index over them. It exits 0 only when every claim passed and every negative control fired. While it runs no other run may write to --out.

Where Docker answers a node is a pod of three containers; elsewhere it is a child process on 127.0.0.1, and the first line says what that leaves out.`,
		Example: `  chaos run
  chaos run --scenario node-kill --seed 7
  chaos run --scenario lone-node,quorum-loss --procs 2
  chaos run --sut nats-server@v2.15.2 --out proofs-plain
  chaos run --scenario nemesis --for 10m --seed 7
  chaos run --scenario nemesis --for 10m --seed 7 --dry-run
  chaos run --seed 7 --shard 2/4 --out part-2
  chaos run --binary /opt/unibus/membershipd --out proofs`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.dryRun {
				return dryRun(f, cmd.OutOrStdout())
			}
			_, err := runOnce(cmd.Context(), f, cmd.OutOrStdout())
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.binary, "binary", "", "the membershipd to test, such as the very file that is to be deployed (default: built from this tree)")
	cmd.Flags().StringVar(&f.shard, "shard", "", "only this part of the scenarios, such as 2/4; /4 takes the part from "+indexedJob+" or "+testSharding+"; see 'chaos merge'")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan of each chosen scenario for this seed, with targets and times, with --json one line each; nothing is run")
	return cmd
}

func (f *runFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.scenario, "scenario", "", "scenarios or families, comma separated (default all that are not nightly; see 'chaos list')")
	fl.StringVar(&f.sut, "sut", "membershipd", "system under test: membershipd, or nats-server@VERSION")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of targets, schedules and payloads (default a new one, which is printed)")
	fl.StringVar(&f.out, "out", "proofs", "folder for the bundles, of one run at a time; bundles of the same scenarios in it are replaced")
	fl.IntVar(&f.procs, "procs", defaultProcs, "clusters at once, at most: one begins when the machine has room; timing figures are comparable only with 1")
	fl.BoolVar(&f.full, "full", false, "the whole product of cases where the default is a sample, and the nightly scenarios where none is named")
	fl.StringVar(&f.backend, "backend", "auto", "docker, process, or auto: docker where an engine answers")
	fl.StringVar(&f.sync, "sync", "", "sync policy of JetStream: always (default) or an interval such as 2m")
	fl.BoolVar(&f.claims, "claims", false, fmt.Sprintf("print every claim of every scenario, also when more than %d were run", fewProofs))
	fl.BoolVar(&f.json, "json", false, "progress and result as JSON lines on standard output")
	f.addNemesis(fl)
	fl.StringVar(&f.previous, "previous", "", "binary that upgrades to the system under test begin with, such as the release in production (default: this tree around nats-server "+subject.PreviousServer+")")
	cmd.PreRun = func(*cobra.Command, []string) { f.seeded = fl.Changed("seed") }
}

// session is one prepared run.
type session struct {
	flags   *runFlags
	cfg     suite.Config
	list    []scenarios.Scenario
	skipped []string // scenarios that are about another subject
	out     io.Writer
	note    func(format string, a ...any)
	named   bool   // the user asked for these scenarios by name
	tree    string // the source tree
	shard   shard
	planned []string // scenarios of all shards, sorted
	began   time.Time
	lock    *os.File // of the output folder; nil before it is locked
	// sweepErr is why something of this run may still be there.
	sweepErr error
}

// notes prints the command's own progress, unless lines are to be JSON.
func notes(f *runFlags, out io.Writer, began time.Time) func(string, ...any) {
	return func(format string, a ...any) {
		if !f.json {
			at := int(time.Since(began).Seconds())
			_, _ = fmt.Fprintf(out, "%4d:%02d  %s\n", at/60, at%60, fmt.Sprintf(format, a...))
		}
	}
}

// runOnce prepares, runs and reports. The error carries the exit code.
func runOnce(ctx context.Context, f *runFlags, out io.Writer) ([]reports.Proof, error) {
	s := newSession(f, out)
	defer s.close()
	return s.run(ctx)
}

// close lets other runs write to the output folder.
func (s *session) close() {
	if s.lock != nil {
		_ = s.lock.Close() // nothing was written
	}
}

// run does everything, and leaves the output folder locked.
func (s *session) run(ctx context.Context) ([]reports.Proof, error) {
	if err := s.check(); err != nil {
		return nil, usage(err)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	runErr := s.suite(ctx)
	if s.cfg.Backend == docker.Name {
		s.sweepOwn(ctx)
	}
	return s.report(ctx, runErr, time.Since(s.began))
}

// check looks at everything that can be wrong before anything is built.
func (s *session) check() error {
	f := s.flags
	list, err := scenarios.Select(scenarios.All(), f.scenario, f.full)
	if err != nil {
		return err
	}
	if f.procs < 1 || f.procs > 64 {
		return fmt.Errorf("--procs is %d; it must be from 1 to 64", f.procs)
	}
	if f.sync != "" && f.sync != "always" {
		if d, err := time.ParseDuration(f.sync); err != nil || d <= 0 {
			return fmt.Errorf("--sync %q is neither 'always' nor a duration such as 2m", f.sync)
		}
	}
	if !slices.Contains([]string{"auto", docker.Name, process.Name}, f.backend) {
		return fmt.Errorf("--backend %q is none of auto, docker, process", f.backend)
	}
	kind, err := kindOf(f.sut)
	if err != nil {
		return err
	}
	if f.binary != "" && kind != cluster.Membershipd {
		return fmt.Errorf("--binary is a membershipd, and --sut is %s", f.sut)
	}
	for _, sc := range list {
		if !about(kind, sc) {
			s.skipped = append(s.skipped, sc.Name)
			continue
		}
		s.list = append(s.list, sc)
	}
	if len(s.list) == 0 {
		return fmt.Errorf("none of the chosen scenarios applies to %s", f.sut)
	}
	if err := s.applyShard(); err != nil {
		return err
	}
	// Longest first: the last scenario to end decides how long the run takes.
	slices.SortStableFunc(s.list, func(a, b scenarios.Scenario) int { return b.Seconds - a.Seconds })
	if !f.seeded {
		f.seed, f.seeded = uint64(time.Now().UnixNano())%1_000_000, true
	}
	return s.checkNemesis(kind)
}

// about tells whether a run about that kind of subject has the scenario in it. Controls are about plain nats-server anyway, and go with runs about membershipd.
func about(kind cluster.Kind, sc scenarios.Scenario) bool {
	return kind == cluster.Membershipd || sc.Only != cluster.Membershipd && !sc.Control
}

func kindOf(sut string) (cluster.Kind, error) {
	kind, _, err := subject.Parse(sut)
	if err != nil {
		return "", fmt.Errorf("--sut: %w", err)
	}
	return kind, nil
}

// prepare chooses the backend, removes what dead runs left, and builds. Earlier proofs go last: a run that cannot begin leaves them alone.
func (s *session) prepare(ctx context.Context) error {
	f := s.flags
	out, err := filepath.Abs(f.out)
	if err != nil {
		return usage(fmt.Errorf("--out: %w", err))
	}
	s.cfg = suite.Config{RunID: newRunID(), Seed: f.seed, Full: f.full, Nemesis: f.nemesis, OutDir: out, Sync: f.sync}
	if s.tree, err = subject.FindSource("."); err != nil {
		return usage(err)
	}
	if err := s.checkOut(); err != nil {
		return usage(err)
	}
	if s.lock, err = lockOut(out); err != nil {
		return usage(err)
	}
	if err := s.chooseBackend(ctx); err != nil {
		return err
	}
	s.note("seed %d, %d scenarios on %s, up to %d clusters at once, proofs in %s", f.seed, len(s.list), f.sut, f.procs, f.out)
	if len(s.skipped) > 0 {
		s.note("does not apply to %s: %s", f.sut, strings.Join(s.skipped, ", "))
	}
	if err := s.build(ctx); err != nil {
		return err
	}
	if err := s.clearOut(); err != nil {
		return usage(err)
	}
	for _, sc := range s.list {
		s.cfg.Scenarios = append(s.cfg.Scenarios, sc.Name)
	}
	return nil
}

func (s *session) chooseBackend(ctx context.Context) error {
	if err := s.sweepFolders(ctx); err != nil {
		return err
	}
	want := s.flags.backend
	var dockerErr error
	if want != process.Name {
		dockerErr = docker.Available(ctx)
	}
	switch {
	case want == docker.Name && dockerErr != nil:
		return usage(fmt.Errorf("--backend docker: %w", dockerErr))
	case want == process.Name || dockerErr != nil:
		s.cfg.Backend = process.Name
	default:
		s.cfg.Backend = docker.Name
	}
	if s.cfg.Backend == process.Name {
		why := "as asked"
		if dockerErr != nil {
			why = dockerErr.Error()
		}
		s.note("child processes on 127.0.0.1, not containers (%s). Left out, and NOT RUN: %s", why, strings.Join(s.leftOut(), ", "))
		return nil
	}
	rep, err := docker.Sweep(ctx, docker.SweepOptions{})
	if err != nil {
		return fmt.Errorf("remove what earlier runs left: %w", err)
	}
	if n := rep.Containers + rep.Networks + rep.Volumes; n > 0 {
		s.note("removed what a dead run had left: %d containers, %d networks, %d volumes", rep.Containers, rep.Networks, rep.Volumes)
	}
	return nil
}

// sweepFolders removes the folders of dead runs, whatever backend they used.
func (s *session) sweepFolders(ctx context.Context) error {
	rep, err := sweepFolders(ctx)
	if err != nil {
		return err
	}
	if rep.Directories > 0 {
		s.note("removed what a dead run had left: %d folders", rep.Directories)
	}
	return nil
}

// leftOut names the scenarios that need what child processes cannot do.
func (s *session) leftOut() []string {
	var names []string
	for _, sc := range s.list {
		if sc.Applies(cluster.Membershipd, process.Missing()) != "" {
			names = append(names, sc.Name)
		}
	}
	if len(names) == 0 {
		return []string{"none of the chosen scenarios (network faults cannot be had)"}
	}
	return names
}

// checkOut makes the folder for proofs, and looks whether everything that will be replaced in it is the harness's own.
func (s *session) checkOut() error {
	if err := os.MkdirAll(s.cfg.OutDir, 0o755); err != nil {
		return fmt.Errorf("make the folder for proofs: %w", err)
	}
	probe, err := os.CreateTemp(s.cfg.OutDir, ".writable-*")
	if err != nil {
		return fmt.Errorf("write to the folder for proofs: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return fmt.Errorf("write to the folder for proofs: %w", err)
	}
	if exists(filepath.Join(s.cfg.OutDir, reports.IndexHTML)) && !exists(filepath.Join(s.cfg.OutDir, reports.IndexJSON)) {
		return fmt.Errorf("%s holds an %s that is not of proofs; name another folder with --out", s.cfg.OutDir, reports.IndexHTML)
	}
	for _, sc := range s.list {
		if err := bundleOrNothing(filepath.Join(s.cfg.OutDir, sc.Name)); err != nil {
			return err
		}
	}
	return nil
}

// bundleOrNothing refuses a folder that holds anything else than a bundle.
func bundleOrNothing(dir string) error {
	found, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the earlier bundle: %w", err)
	}
	for _, e := range found {
		if e.Name() == reports.HistoryFile || e.Name() == reports.EvidenceFile {
			return nil
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%s is not empty and holds no bundle; name another folder with --out", dir)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// clearOut removes earlier bundles of the same scenarios, and nothing that is not a bundle.
func (s *session) clearOut() error {
	for _, sc := range s.list {
		dir := filepath.Join(s.cfg.OutDir, sc.Name)
		if err := bundleOrNothing(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the earlier bundle: %w", err)
		}
	}
	return nil
}

// fewProofs are so many that a table with every claim is still read.
const fewProofs = 3

// report reads the bundles back, writes the index and says how it went.
func (s *session) report(ctx context.Context, runErr error, took time.Duration) ([]reports.Proof, error) {
	proofs, missing := s.readProofs()
	info := reports.RunInfo{ID: s.cfg.RunID, Seed: s.cfg.Seed, Started: time.Now().Add(-took).UTC(), Seconds: took.Seconds(),
		Backend: s.cfg.Backend, LeftOut: s.missing(), Command: s.command(), Shard: s.shard.String(), Planned: s.planned}
	idxErr := reports.WriteIndex(s.cfg.OutDir, info)
	if s.flags.json {
		if err := json.NewEncoder(s.out).Encode(map[string]any{"run": info, "proofs": summary(proofs), "missing": missing}); err != nil {
			return proofs, fmt.Errorf("print result: %w", err)
		}
	} else {
		detail := reports.Claims
		if len(proofs) > fewProofs && !s.flags.claims {
			detail = reports.Brief
		}
		_, _ = fmt.Fprintln(s.out)
		_ = reports.PrintTable(s.out, proofs, detail)
		_, _ = fmt.Fprintf(s.out, "\n%d scenarios in %v; index: %s\n", len(proofs), took.Round(time.Second), filepath.Join(s.flags.out, "index.html"))
	}
	return proofs, verdict(ctx, s, proofs, missing, errors.Join(runErr, idxErr))
}

// missing is what this machine cannot do, for the index.
func (s *session) missing() []string {
	if s.cfg.Backend != process.Name {
		return nil
	}
	var out []string
	for c, why := range process.Missing() {
		out = append(out, fmt.Sprintf("%s: %s", c, why))
	}
	slices.Sort(out)
	return out
}

// command is what a reader types to do this run again.
func (s *session) command() string {
	c := fmt.Sprintf("make chaos SEED=%d", s.cfg.Seed)
	if s.named {
		c += " SCENARIO=" + strings.ReplaceAll(s.flags.scenario, " ", "")
	}
	if s.flags.sut != string(cluster.Membershipd) {
		c += " SUT=" + s.flags.sut
	}
	if s.flags.full {
		c += " FULL=1"
	}
	return c
}

func (s *session) readProofs() (proofs []reports.Proof, missing []string) {
	for _, sc := range s.list {
		p, err := reports.ReadProof(filepath.Join(s.cfg.OutDir, sc.Name))
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", sc.Name, err))
			continue
		}
		proofs = append(proofs, p)
	}
	return proofs, missing
}

// verdict turns everything into the exit code: a fail outranks what is inconclusive, and nothing that was left out is a pass.
func verdict(ctx context.Context, s *session, proofs []reports.Proof, missing []string, err error) error {
	count := map[reports.Status][]string{}
	for _, p := range proofs {
		count[p.Status] = append(count[p.Status], p.Evidence.Scenario)
	}
	if fs := count[reports.StatusFail]; len(fs) > 0 {
		return &exitError{code: exitFail, err: fmt.Errorf("%d of %d scenarios failed: %s", len(fs), len(s.list), strings.Join(fs, ", "))}
	}
	if ctx.Err() != nil && s.sweepErr == nil {
		return &exitError{code: exitInconclusive, err: errors.New("interrupted; the clusters are removed, the evidence so far is kept")}
	}
	if ctx.Err() != nil {
		return &exitError{code: exitInconclusive, err: fmt.Errorf("interrupted; the evidence so far is kept, but %w", s.sweepErr)}
	}
	if s.sweepErr != nil {
		return &exitError{code: exitInconclusive, err: s.sweepErr}
	}
	if len(missing) > 0 || len(proofs) == 0 {
		return &exitError{code: exitInconclusive, err: errors.Join(fmt.Errorf("no proof was written for %s", strings.Join(missing, ", ")), err)}
	}
	if is := count[reports.StatusInconclusive]; len(is) > 0 {
		return &exitError{code: exitInconclusive, err: fmt.Errorf("%d of %d scenarios are inconclusive: %s", len(is), len(s.list), strings.Join(is, ", "))}
	}
	// What was left out and is not one of the required families is shown as NOT RUN, and is no reason to stop.
	if nr := s.required(count[reports.StatusNotRun]); len(nr) > 0 {
		return &exitError{code: exitInconclusive, err: fmt.Errorf("%d of %d scenarios were NOT RUN here: %s", len(nr), len(s.list), strings.Join(nr, ", "))}
	}
	if err != nil { // every proof is good, and still something was not
		return &exitError{code: exitInconclusive, err: err}
	}
	return nil
}

// required keeps the scenarios whose absence is not acceptable: those that were asked for by name, and the required families.
func (s *session) required(names []string) []string {
	if s.named {
		return names
	}
	var out []string
	for _, sc := range s.list {
		if slices.Contains(names, sc.Name) && slices.Contains(scenarios.RequiredFamilies, sc.Family) {
			out = append(out, sc.Name)
		}
	}
	return out
}

func summary(ps []reports.Proof) []map[string]any {
	var out []map[string]any
	for _, p := range ps {
		out = append(out, map[string]any{"scenario": p.Evidence.Scenario, "status": p.Status, "why": p.Why, "claims": len(p.Claims), "ops": p.Ops, "again": p.Evidence.Command})
	}
	return out
}

// runsHere counts the runs of this process: two may begin in one second.
var runsHere atomic.Int64

func newRunID() string {
	id := "r" + strings.ToLower(time.Now().UTC().Format("20060102t150405")) + fmt.Sprintf("-%d", os.Getpid())
	if n := runsHere.Add(1); n > 1 {
		id += fmt.Sprintf("-%d", n)
	}
	return id
}

func hostEnvironment(procs int) reports.Environment {
	return reports.Environment{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(), Kernel: kernelRelease(), Clusters: procs}
}

func kernelRelease() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
