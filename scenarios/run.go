package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/reports/replicas"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	launch "github.com/unibus/unibus/sut/subject"
)

// Bounds of the runner's own work; the scenarios' waits have theirs beside them.
const (
	closeTimeout   = 60 * time.Second  // removing a cluster, also after Ctrl-C
	collectTimeout = 60 * time.Second  // logs, snapshots and store directories
	drainTimeout   = 180 * time.Second // reading one workload's data back
	stopTimeout    = 20 * time.Second  // for workloads to record what is in flight
	progressEvery  = time.Second
	sampleHz       = 12 // polls of each health endpoint a second; claims ask for 10
)

// Settings is what one run of the harness has in common over its scenarios.
type Settings struct {
	Backend   cluster.Backend
	Subject   cluster.Subject // under test
	Plain     cluster.Subject // nats-server of the embedded version, for control scenarios
	RunID     string
	Seed      uint64
	Full      bool
	Nemesis   Nemesis
	Earlier   map[cluster.Kind]cluster.Subject // what upgrades begin with, by the kind that is upgraded
	NoUpgrade string                           // why a kind is not in Earlier
	// Hosts makes whole hosts for scenarios that want them; nil where there is no engine, an error is the reason for NOT RUN.
	Hosts     func(context.Context) (cluster.Backend, error)
	OutDir    string
	Sync      string // "" means always
	PlainText bool   // no TLS: for releases and bugs that are older than it here
	Harness   reports.Subject
	Env       reports.Environment
	Log       *slog.Logger
	Progress  func(Progress) // nil for none; called from one goroutine at a time
}

// Progress is a line about a scenario while it runs.
type Progress struct {
	Scenario string  `json:"scenario"`
	Seconds  float64 `json:"seconds"`
	Phase    string  `json:"phase"`
	Fault    string  `json:"fault,omitempty"` // those in force
	Ops      int64   `json:"ops"`
	OK       int64   `json:"ok"`
	Done     string  `json:"done,omitempty"` // the verdict, on the last line
	Why      string  `json:"why,omitempty"`
}

// errGiveUp ends the steps when the cluster, not the harness, failed in a way that the record already shows.
var errGiveUp = errors.New("the cluster did not do what the next step needs")

// Run is one scenario while it runs.
type Run struct {
	Plan     *Plan
	Scenario Scenario
	Cluster  cluster.Cluster
	Rec      *history.Recorder
	Env      *workload.Env

	set      Settings
	subject  cluster.Subject    // under test: what nodes run, or end with after an upgrade
	upgrades map[string]upgrade // by the step that made it
	steps    []Step
	bundle   *reports.Bundle
	started  time.Time
	loads    []*load
	resting  []*load // paused
	sampler  *load
	injector *faults.Injector
	active   map[string]*activeFault
	counts   map[string]int
	picked   map[string][]cluster.NodeID // nodes that steps chose, for claims
	seeds    map[string]string           // public keys of the scenario's first admins, by name
	errs     []string

	watchers sync.WaitGroup     // beside the steps
	unwatch  context.CancelFunc // ends them; nil while there are none

	mu        sync.Mutex
	phase     string
	lastStart time.Time // of a daemon, by a step, a supervisor, or by healing a fault
}

// load is a workload that runs in the background.
type load struct {
	w      workload.Workload
	cancel context.CancelFunc
	done   chan error
}

// Execute runs a scenario from the first step to the report. An error means that the harness could not even write a bundle;
// everything else is in the proof. The cluster is gone when it returns, also when ctx was cancelled.
func Execute(ctx context.Context, s Scenario, set Settings) (reports.Proof, string, error) {
	subject := set.Subject
	if s.Control {
		subject = set.Plain
	}
	set, done, noHosts := onHosts(ctx, s, set)
	defer done()
	dir := filepath.Join(set.OutDir, s.Name)
	b, err := reports.Create(dir)
	if err != nil {
		return reports.Proof{}, dir, fmt.Errorf("create bundle: %w", err)
	}
	r := &Run{
		Plan: NewPlan(s, subject.Kind, set.Seed, set.Full, set.Nemesis), Scenario: s, Rec: b.Recorder(), set: set, subject: subject, bundle: b, started: time.Now(),
		active: map[string]*activeFault{}, counts: map[string]int{}, picked: map[string][]cluster.NodeID{},
	}
	ev := r.evidence(subject)
	if noHosts != "" {
		ev.NotRun = noHosts
	} else if why := s.Applies(set.Subject.Kind, set.Backend.Capabilities()); why != "" {
		ev.NotRun = why
	} else if begin, why := r.begin(); why != "" {
		ev.NotRun = why
	} else {
		r.run(ctx, begin)
		ev.Claims = append(s.Claims(r), carriedThrough())
		ev.Errors = r.errs
	}
	ev.Seconds = time.Since(r.started).Seconds()
	return r.judge(ev, dir)
}

// begin is what nodes run at first, or why that cannot be had.
func (r *Run) begin() (s cluster.Subject, why string) {
	if !r.Scenario.Upgrade {
		return r.subject, ""
	}
	s, ok := r.set.Earlier[r.subject.Kind]
	if !ok {
		return s, "there is no previous build to upgrade from: " + r.set.NoUpgrade
	}
	return s, ""
}

func (r *Run) judge(ev reports.Evidence, dir string) (reports.Proof, string, error) {
	if err := r.bundle.Seal(ev); err != nil {
		return reports.Proof{}, dir, fmt.Errorf("seal bundle: %w", err)
	}
	r.setPhase("judging")
	p, err := reports.Judge(dir)
	if err != nil {
		return reports.Proof{}, dir, fmt.Errorf("judge bundle: %w", err)
	}
	if err := reports.Finish(dir, p); err != nil {
		return p, dir, fmt.Errorf("finish bundle: %w", err)
	}
	r.emit(string(p.Status), p.Why)
	return p, dir, nil
}

func (r *Run) evidence(subject cluster.Subject) reports.Evidence {
	s, set := r.Scenario, r.set
	return reports.Evidence{
		Format: reports.EvidenceFormat, Run: set.RunID, Scenario: s.Name, Family: s.Family, Doc: s.Doc, Variant: s.Variant(),
		Seed: set.Seed, Command: againCommand(s, set), Started: r.started.UTC(),
		Subject: reports.Subject{Kind: string(subject.Kind), Version: subject.Version, Digest: subject.Digest,
			Sync: launch.SyncPosture(cluster.Spec{Subject: subject, Sync: cmp.Or(s.Sync, set.Sync)})},
		Harness: set.Harness, Env: set.Env,
	}
}

// againCommand is what a reader types to run the same plan.
func againCommand(s Scenario, set Settings) string {
	if s.Family == trackFamily {
		return fmt.Sprintf("chaos track-record --bug %s --version %s --seed %d", strings.TrimPrefix(s.Name, trackPrefix), set.Subject.Version, set.Seed)
	}
	c := fmt.Sprintf("make chaos SCENARIO=%s SEED=%d", s.Name, set.Seed)
	if set.Subject.Kind != cluster.Membershipd {
		c += " SUT=" + set.Subject.String()
	}
	if set.Full {
		c += " FULL=1"
	}
	if s.Name == nemesisName {
		c += set.Nemesis.flags()
	}
	return c
}

// run does everything that touches the cluster. Failures go to r.errs; the evidence so far stays.
func (r *Run) run(ctx context.Context, subject cluster.Subject) {
	stopTicker := r.tick()
	defer stopTicker()
	r.steps = r.Scenario.Steps(r.Plan) // first: claims are about what would have been done, even if no cluster can be made
	if err := r.open(ctx, subject); err != nil {
		r.fail("start the cluster", err)
		return
	}
	defer r.closeCluster(ctx)
	r.startSampler(ctx)
	if r.allSteps(ctx) {
		r.Rec.Mark(doneMark)
	}
	r.finish(ctx)
}

// allSteps does them, until one of them says that the next may not follow.
func (r *Run) allSteps(ctx context.Context) bool {
	for _, st := range r.steps {
		if !r.step(ctx, st) {
			return false
		}
	}
	return true
}

// step does one step and tells whether the next one may follow. A run that is interrupted shows nothing, whatever the step made of that: what
// was not waited for looks like a cluster that does not answer.
func (r *Run) step(ctx context.Context, st Step) bool {
	if !strings.HasPrefix(st.Name, markPrefix) { // a mark takes no time: nobody has to read it
		r.setPhase(st.Name)
	}
	r.Rec.Event(history.Event{Kind: "phase", Name: st.Name})
	err := ctx.Err()
	if err == nil {
		err = do(ctx, r, st)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	switch {
	case errors.Is(err, errGiveUp):
		r.Rec.Event(history.Event{Kind: "note", Name: "gave up", Detail: err.Error()})
	case err != nil:
		r.fail(st.Name, err)
	}
	return err == nil
}

// do turns a step that crashes into one that fails: the evidence so far is worth more than the rest of the steps.
func do(ctx context.Context, r *Run, st Step) (err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("the step crashed: %v", x)
		}
	}()
	return st.Do(ctx, r)
}

// open makes the cluster's pods and the clients' identity; no daemon runs yet.
func (r *Run) open(ctx context.Context, subject cluster.Subject) error {
	id, err := workload.NewIdentity()
	if err != nil {
		return fmt.Errorf("make the clients' identity: %w", err)
	}
	seed, err := r.seedFile()
	if err != nil {
		return err
	}
	r.setPhase("making the cluster")
	c, err := r.set.Backend.NewCluster(ctx, cluster.Spec{
		RunID: r.set.RunID, Name: r.Scenario.Name, Subject: subject, Replicas: r.Scenario.Replicas, Sync: cmp.Or(r.Scenario.Sync, r.set.Sync), AdminKey: id.Public(), PlainText: r.set.PlainText,
		PowerFS: r.powerFS(), SeedFile: seed,
	})
	if err != nil {
		return err
	}
	r.Cluster = c
	r.Env = &workload.Env{Cluster: c, Recorder: r.Rec, Seed: r.Plan.Seed, Identity: id, Log: r.set.Log}
	r.injector = &faults.Injector{Cluster: c, Report: r.reportFault}
	return nil
}

// seedFile makes keys for the scenario's first admins, which nobody logs in with, and the file that names them.
func (r *Run) seedFile() ([]byte, error) {
	if len(r.Scenario.Seed) == 0 {
		return nil, nil
	}
	r.seeds = map[string]string{}
	for _, name := range r.Scenario.Seed {
		id, err := workload.NewIdentity()
		if err != nil {
			return nil, fmt.Errorf("make the key of %s: %w", name, err)
		}
		r.seeds[name] = id.Public()
	}
	return workload.SeedFile(r.seeds)
}

func (r *Run) startSampler(ctx context.Context) {
	w := &workload.HealthSampler{Hz: sampleHz}
	if err := w.Setup(ctx, r.Env); err != nil {
		r.fail("start the health sampler", err)
		return
	}
	r.sampler = r.background(ctx, w)
}

func (r *Run) background(ctx context.Context, w workload.Workload) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{w: w, cancel: cancel, done: make(chan error, 1)}
	go func() { l.done <- w.Run(ctx, r.Env) }()
	return l
}

// stopLoads ends the workloads and waits until they have recorded what was in flight.
func (r *Run) stopLoads() {
	for _, l := range r.loads {
		l.cancel()
	}
	for _, l := range r.loads {
		r.await(l)
	}
	r.loads = nil
}

func (r *Run) await(l *load) {
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case err := <-l.done:
		if err != nil && !errors.Is(err, context.Canceled) {
			r.fail("run workload "+l.w.Name(), err)
		}
	case <-t.C:
		r.fail("stop workload "+l.w.Name(), fmt.Errorf("not done after %v", stopTimeout))
	}
}

// finish leaves nothing in force, collects and seals. It uses its own time, so that an interrupted run keeps its evidence.
func (r *Run) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), collectTimeout)
	defer cancel()
	if r.unwatch != nil {
		r.unwatch()
		r.watchers.Wait()
	}
	r.healAll(ctx)
	left := slices.Concat(r.loads, r.resting) // the steps did not come to their end: nobody has closed them
	r.stopLoads()
	for _, l := range left {
		l.w.Close()
	}
	if r.sampler != nil {
		r.sampler.cancel()
		r.await(r.sampler)
		r.sampler.w.Close()
	}
	r.setPhase("collecting")
	r.snapshotMonitoring(ctx)
	r.readStores(ctx)
	if err := r.Cluster.Collect(ctx, r.bundle.LogDir()); err != nil {
		r.fail("collect logs", err)
	}
}

// closeCluster removes the cluster, whatever happened to ctx.
func (r *Run) closeCluster(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	r.setPhase("removing the cluster")
	if err := r.Cluster.Close(ctx); err != nil {
		r.fail("remove the cluster", err)
	}
}

// snapshotMonitoring keeps what each node says of itself at the end.
func (r *Run) snapshotMonitoring(ctx context.Context) {
	snap := map[string]any{}
	for _, v := range observe.All(ctx, r.Cluster) {
		if v.Err != nil {
			snap[string(v.Node)] = v.Err.Error()
			continue
		}
		snap[string(v.Node)] = v
		for _, s := range v.Streams {
			r.Rec.Replica(history.Replica{
				Node: string(v.Node), Target: s.Target, Source: "jsz", First: s.First, Last: s.Last, Msgs: s.Msgs, Bytes: s.Bytes,
				Deleted: s.Deleted, Replicas: s.Replicas, Leader: s.Leader,
			})
		}
	}
	for _, n := range r.Cluster.Nodes() {
		if u := n.Endpoints().Status; u != "" {
			if _, body, err := observe.Get(ctx, u); err == nil {
				snap["status-"+string(n.ID())] = rawJSON(body)
			}
		}
	}
	if err := r.bundle.SaveSnapshot("monitoring", snap); err != nil {
		r.fail("save snapshot", err)
	}
}

// readStores kills the daemons and reads each node's own files: the copy that a disk would give back, not what a leader says.
func (r *Run) readStores(ctx context.Context) {
	tmp, err := os.MkdirTemp("", "unibus-stores-")
	if err != nil {
		r.fail("read stores", err)
		return
	}
	defer func() {
		if err := os.RemoveAll(tmp); err != nil {
			r.fail("read stores", err)
		}
	}()
	if err := r.eachNode(func(n cluster.Node) error { return exitNow(ctx, n) }); err != nil {
		r.fail("end the daemons", err)
	}
	now := time.Now() // one moment for all: a message's age is judged at it
	for _, n := range r.Cluster.Nodes() {
		st, ok := n.(cluster.Storage)
		if !ok {
			continue
		}
		dir := filepath.Join(tmp, string(n.ID()))
		if err := st.CopyStore(ctx, dir); err != nil {
			r.fail("copy the store of "+string(n.ID()), err)
			continue
		}
		copies, err := replicas.ReadAt(ctx, dir, string(n.ID()), now)
		if err != nil {
			r.fail("read the store of "+string(n.ID()), err)
		}
		for _, c := range copies {
			r.Rec.Replica(c)
		}
	}
}

// eachNode does f on all nodes at once and joins the errors.
func (r *Run) eachNode(f func(cluster.Node) error) error {
	nodes := r.Cluster.Nodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// fail notes a failure of the harness: with any, the verdict is Inconclusive.
func (r *Run) fail(doing string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, doing+": "+err.Error())
	r.Rec.Event(history.Event{Kind: "note", Name: "harness error", Detail: doing + ": " + err.Error()})
}

func (r *Run) setPhase(p string) {
	r.mu.Lock()
	r.phase = p
	r.mu.Unlock()
	r.emit("", "")
}

// tick reports progress once a second until the returned function is called.
func (r *Run) tick() func() {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				r.emit("", "")
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}

func (r *Run) emit(done, why string) {
	if r.set.Progress == nil {
		return
	}
	p := Progress{Scenario: r.Scenario.Name, Seconds: time.Since(r.started).Seconds(), Done: done, Why: why}
	p.Ops, p.OK = r.Rec.Counts()
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Phase = r.phase
	var on []string
	for name := range r.active {
		on = append(on, name)
	}
	slices.Sort(on)
	for i, name := range on {
		if i > 0 {
			p.Fault += ", "
		}
		p.Fault += name
	}
	r.set.Progress(p)
}
