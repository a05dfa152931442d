package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the flood.
const (
	crowdSize    = 10_000 // idle connections
	badLogins    = 200    // a second
	slowOnes     = 21     // subscribers that do not read
	readingOnes  = 3      // subscribers to the same that do
	calmFor      = 20 * time.Second
	floodFor     = 30 * time.Second
	floodSubject = "flood.slow"
	floodRatio   = 20.0  // a healthy user's p99 in the flood : in the calm
	floodFloorMs = 25.0  // a calm p99 below it counts as it
	enoughLogins = 0.8   // of badLogins: a loaded machine need not reach all
	perConnKiB   = 160.0 // of a server's memory for an idle connection, TLS included
	floodReadyHz = 5.0
	floodSilence = 0.05 // of the health samples of a node
)

// flood holds thousands of connections open, tries to log in without the right to, and subscribes without reading, while healthy users work.
func flood() Scenario {
	f := &floodRun{}
	return Scenario{
		Name: "flood", Family: "flood", Seconds: 150, Nightly: true, // it takes the whole of a small machine, and other clusters beside it would not be judged fairly
		Doc: fmt.Sprintf("%d idle connections, %d bad logins a second of five sorts and %d subscribers that do not read: healthy users are served as before within a stated bound",
			crowdSize, badLogins, slowOnes),
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			*f = floodRun{crowd: &workload.Crowd{}, want: min(crowdSize, workload.MaxCrowd())}
			ws := append(basicLoad(p, streamLoad()),
				&workload.Responders{Subject: askSubject, Queue: "answer", Clients: 3},
				&workload.Requesters{Subject: askSubject, Clients: 3, Rate: coreRate, Timeout: opTimeout})
			return []Step{
				startAll(), converge("first start"), loadUp(ws...), moreOps(steadyBefore, opsWithin),
				{"memory before", f.memory("memory-before")},
				mark("calm"), hold("calm", calmFor), mark("calm-end"),
				{fmt.Sprintf("open %d connections", f.want), f.gather}, {"memory with the crowd", f.memory("memory-crowd")},
				{"an honest login among the intruders", f.honest},
				mark("flood"), {fmt.Sprintf("flood for %v", floodFor), f.flood}, mark("flood-end"), {"memory after", f.memory("memory-after")},
				{"let the crowd go", f.disperse}, moreOps(opsBetween, opsWithin), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim { return f.claims(r) },
	}
}

// floodRun is the flood of one run.
type floodRun struct {
	crowd   *workload.Crowd
	want    int                // connections that this process can hold
	memory0 map[string]float64 // a server's memory before, in bytes
	slow0   map[string]float64 // slow consumers that a server had counted before
}

// gather opens the crowd.
func (f *floodRun) gather(ctx context.Context, r *Run) error {
	began := time.Now()
	err := f.crowd.Open(ctx, r.Env, f.want)
	opened, lost := f.crowd.Count()
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "crowd-open", Detail: errText(err), Data: map[string]any{
		"connections": float64(opened), "lost": float64(lost), "seconds": time.Since(began).Seconds(), "per_second": float64(opened) / time.Since(began).Seconds()}})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", errGiveUp, err)
	}
	return err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// honest is the control of the intruders: a login with the right key must be seen as accepted.
func (f *floodRun) honest(ctx context.Context, r *Run) error {
	in := &workload.Intruders{Rate: badLogins, Honest: true}
	ictx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	in.Run(ictx, r.Env)
	r.recordLogins("logins-honest", in, time.Since(began))
	return ctx.Err()
}

func (r *Run) recordLogins(name string, in *workload.Intruders, took time.Duration) {
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Data: map[string]any{
		"tried": float64(in.Tried.Load()), "per_second": float64(in.Tried.Load()) / took.Seconds(), "refused": float64(in.Refused.Load()),
		"accepted": float64(in.Accepted.Load()), "unanswered": float64(in.Unanswered.Load())}})
}

// flood lets intruders and slow subscribers loose.
func (f *floodRun) flood(ctx context.Context, r *Run) error {
	slow := &workload.SlowSubscribers{Count: slowOnes, Subject: floodSubject}
	reading := &workload.SlowSubscribers{Count: readingOnes, Subject: floodSubject + ".read", Reading: true}
	for _, s := range []*workload.SlowSubscribers{slow, reading} {
		if err := s.Start(ctx, r.Env); err != nil {
			slow.Stop()
			reading.Stop()
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
	}
	in := &workload.Intruders{Rate: badLogins}
	ictx, cancel := context.WithTimeout(ctx, floodFor)
	defer cancel()
	began := time.Now()
	done := make(chan struct{})
	go func() { in.Run(ictx, r.Env); close(done) }()
	<-ictx.Done()
	took := time.Since(began)
	cut, _ := slow.Stop()
	ended, got := reading.Stop()
	<-done
	r.recordLogins("logins-bad", in, took)
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "slow-subscribers", Data: map[string]any{"subscribers": float64(slowOnes), "cut": float64(cut)}})
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "reading-subscribers", Data: map[string]any{"subscribers": float64(readingOnes), "cut": float64(ended), "bytes": float64(got)}})
	opened, lost := f.crowd.Count()
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: "crowd-end", Data: map[string]any{"connections": float64(opened), "lost": float64(lost)}})
	return ctx.Err()
}

// disperse closes the crowd.
func (f *floodRun) disperse(context.Context, *Run) error {
	f.crowd.Close()
	return nil
}

// memory records what each server says of its memory, its connections and its slow consumers.
func (f *floodRun) memory(name string) func(ctx context.Context, r *Run) error {
	return func(ctx context.Context, r *Run) error {
		first := f.memory0 == nil
		if first {
			f.memory0, f.slow0 = map[string]float64{}, map[string]float64{}
		}
		for _, n := range r.Cluster.Nodes() {
			var varz struct {
				Mem         float64 `json:"mem"`
				Connections float64 `json:"connections"`
				Slow        float64 `json:"slow_consumers"`
			}
			if err := askJSON(ctx, n.Endpoints().Monitor+"/varz", &varz); err != nil {
				return fmt.Errorf("%w: %w", errGiveUp, err)
			}
			id := string(n.ID())
			if first {
				f.memory0[id], f.slow0[id] = varz.Mem, varz.Slow
			}
			r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{id}, Data: map[string]any{
				"mib": varz.Mem / (1 << 20), "connections": varz.Connections, "slow_consumers": varz.Slow - f.slow0[id],
				"kib_per_connection": (varz.Mem - f.memory0[id]) / 1024 / max(1, varz.Connections)}})
		}
		return nil
	}
}

func (f *floodRun) claims(r *Run) []reports.Claim {
	crowd := fmt.Sprintf("%d connections are accepted, and none of them is lost in the flood.", crowdSize)
	if f.want < crowdSize {
		crowd = fmt.Sprintf("%d connections are accepted (of %d: this machine's limit of open files allows no more), and none of them is lost in the flood.", f.want, crowdSize)
	}
	nodes := []string{"n1", "n2", "n3"}
	kinds := []string{string(history.Publish), string(history.Put), string(history.Get), string(history.Request)}
	cs := []reports.Claim{
		claim("healthy-unaffected", fmt.Sprintf("Healthy users are served in the flood: each sort of operation's p99 is at most %g times of the calm one (or of %g ms), and none fails.", floodRatio, floodFloorMs),
			check.Latency{Calm: window("calm", "calm-end"), Loaded: window("flood", "flood-end"), Kinds: kinds, MaxRatio: floodRatio, FloorMs: floodFloorMs}),
		claim("crowd", crowd, check.Measured{Names: []string{"crowd-"}, Min: 2, Bounds: []check.Bound{check.AtLeast("connections", float64(f.want)), check.Exactly("lost", 0)}}),
		claim("bad-logins-refused", fmt.Sprintf("Of %d bad logins a second (unknown keys, forged signatures, no credentials, garbage, silence) none gets in, and each is answered.", badLogins),
			check.Measured{Names: []string{"logins-bad"}, Needs: []check.Bound{check.AtLeast("per_second", badLogins*enoughLogins)},
				Bounds: []check.Bound{check.Exactly("accepted", 0), check.Exactly("unanswered", 0)}}),
		control("honest-login", "No login among the intruders gets in. (Must fail: these were made with the right key.)", check.CodeOutOfBounds,
			check.Measured{Names: []string{"logins-honest"}, Needs: []check.Bound{check.AtLeast("tried", 1)}, Bounds: []check.Bound{check.Exactly("accepted", 0)}}),
		claim("slow-cut-off", "Each subscriber that does not read is cut off.",
			check.Measured{Names: []string{"slow-subscribers"}, Bounds: []check.Bound{check.Exactly("cut", slowOnes)}}),
		claim("slow-counted", "Each server counts those that it cut off as slow consumers.",
			check.Measured{Names: []string{"memory-after"}, Nodes: 3, Bounds: []check.Bound{check.AtLeast("slow_consumers", slowOnes/3)}}),
		control("readers-cut-off", "Each subscriber is cut off. (Must fail: these read.)", check.CodeOutOfBounds,
			check.Measured{Names: []string{"reading-subscribers"}, Needs: []check.Bound{check.AtLeast("bytes", 1<<20)}, Bounds: []check.Bound{check.Exactly("cut", readingOnes)}}),
		claim("stays-ready", fmt.Sprintf("No node says that it is not ready in the flood; at most %g %% of the questions get no answer within a second.", 100*floodSilence),
			check.HealthCheck{Probe: "ready", Nodes: nodes, Window: window("flood", "flood-end"), Want: check.WantAlways200, MinHz: floodReadyHz, SilentShare: floodSilence}),
		claim("memory", fmt.Sprintf("An idle connection takes at most %g KiB of its server's memory.", perConnKiB),
			check.Measured{Names: []string{"memory-crowd"}, Nodes: 3, Needs: []check.Bound{check.AtLeast("connections", float64(f.want)/4)}, Bounds: []check.Bound{check.AtMost("kib_per_connection", perConnKiB)}}),
		streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(),
		exercised(check.Preconditions{MinOps: 2000, Marks: []string{"calm", "calm-end", "flood", "flood-end"}, Drained: drained(r)}),
	}
	return append(cs, settingsIntact(r)...)
}
