package scenarios

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Settings of the scenarios that only kill.
const (
	startsApart   = 1500 * time.Millisecond
	formWithin    = 15 * time.Second // healthy nodes need 1 to 5 s
	trialWithin   = 6 * time.Second  // for the replicas of a first stream to be current: they need 0.5 to 2 s
	formTries     = 5
	routesSettle  = 2 * time.Second  // a refused route is tried again after one
	inspectWithin = 12 * time.Second // for a cluster to say what it knows of a stream
	healthyWithin = 30 * time.Second // for every node to call itself healthy again
	calmAgain     = 5 * time.Second  // and after a few more writes
	calmWithin    = 20 * time.Second // for replicas to become alike after the last fault: they need up to 15 s

	churnFor     = 60 * time.Second
	churnEvery   = time.Second
	churnDown    = 200 * time.Millisecond
	patientKills = 8 // each waits for health

	divergeRounds = 4
	divergeKills  = 3  // in a round
	divergeOps    = 20 // that succeed before the next round
	divergeEvery  = 1500 * time.Millisecond
	divergeDown   = 500 * time.Millisecond

	casFor     = 20 * time.Second
	casClients = 8
	casKeys    = 5
	casRate    = 100
)

// startApart starts the nodes one after the other. In releases up to 2.10 nodes that start together dial each other, close the routes that they
// made twice, and now and then end with two nodes that do not hear of each other's subscriptions any more: Raft groups that are made then never
// have all members current, though every node calls itself healthy. That is a bug too, but none of those that are looked for here. So nodes that do not
// form a cluster, or cannot make a replicated stream, are all started again, before anything was written, and the record says how often.
func startApart() Step {
	return Step{fmt.Sprintf("start %s, %v apart, until they form a cluster", joinIDs(others()), startsApart), func(ctx context.Context, r *Run) error {
		for try := 1; ; try++ {
			if err := r.start(ctx, startsApart, others()...); err != nil {
				return err
			}
			why := formed(ctx, r)
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted: %w", context.Cause(ctx))
			}
			if why == "" || try == formTries { // the next step says what is missing
				return nil
			}
			r.Rec.Event(history.Event{Kind: "note", Name: "no cluster was formed", Detail: fmt.Sprintf("start %d: %s", try, why)})
			if err := r.stopAll(ctx, syscall.SIGTERM); err != nil {
				return err
			}
		}
	}}
}

// formed says what keeps the nodes from being a cluster that can make a replicated stream; "" when nothing does.
func formed(ctx context.Context, r *Run) string {
	wctx, cancel := context.WithTimeout(ctx, formWithin)
	p := observe.WaitConverged(wctx, r.Cluster, observe.Want{})
	cancel()
	if !p.OK {
		return fmt.Sprintf("after %v, %s", formWithin, p.Why)
	}
	if err := wait(ctx, routesSettle); err != nil {
		return ""
	}
	for _, v := range observe.All(ctx, r.Cluster) {
		if v.MetaSize != len(others()) {
			return fmt.Sprintf("%s knows a meta group of %d nodes", v.Node, v.MetaSize)
		}
	}
	wctx, cancel = context.WithTimeout(ctx, trialWithin)
	defer cancel()
	if err := r.Env.TryStream(wctx, trialStream, len(others())); err != nil {
		return err.Error()
	}
	return ""
}

// settleRoutes gives nodes the time to close the routes that they made twice.
func settleRoutes() Step { return hold("routes settle", routesSettle) }

// trialStream is made and deleted before there is any load.
const trialStream = "TRIAL"

// knownStream claims that the cluster does not forget or change a stream.
func knownStream(target string) reports.Claim {
	return claim("stream-known", "The cluster still knows the stream, unchanged, once every node calls itself healthy.",
		check.StreamMetadata{Target: target, Last: observedAfter})
}

// The names of observations of a stream.
const (
	observedBefore = "before"
	observedAfter  = "after"
)

// inspect records what the cluster says of a stream. It waits for a definite answer, and silence is one too: claims judge it.
func inspect(name, target string) Step {
	return Step{"inspect " + target + " " + name, func(ctx context.Context, r *Run) error {
		_, err := r.Env.Inspect(ctx, name, target, inspectWithin)
		return err
	}}
}

// awaitHealthy waits until every node calls itself healthy, and records it when they do not: the steps go on.
func awaitHealthy(within time.Duration) Step {
	return Step{"until every node calls itself healthy", func(ctx context.Context, r *Run) error {
		err := r.until(ctx, within, "health of all nodes", func(ctx context.Context) bool {
			ok, _ := r.Env.HealthStatus(ctx)
			return ok
		})
		if errors.Is(err, errGiveUp) {
			_, codes := r.Env.HealthStatus(ctx)
			r.Rec.Event(history.Event{Kind: "note", Name: "not all healthy", Detail: fmt.Sprintf("after %v: %v", within, codes)})
			return nil
		}
		return err
	}}
}

// calm waits until the cluster has converged or within ends, and records which; the steps go on.
func calm(name string, within time.Duration) Step {
	return Step{"settle: " + name, func(ctx context.Context, r *Run) error {
		_, err := restless(ctx, r, name, within)
		return err
	}}
}

// restless waits until the cluster has converged or within ends, records which, and returns whether it had not.
func restless(ctx context.Context, r *Run, name string, within time.Duration) (bool, error) {
	began := time.Now()
	wctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	p := observe.WaitConverged(wctx, r.Cluster, observe.Want{})
	if ctx.Err() != nil {
		return false, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	r.Rec.Event(history.ConvergedEvent(name, history.Convergence{OK: p.OK, Seconds: time.Since(began).Seconds(), Ready: p.Ready, Buckets: p.Buckets,
		Replicas: p.Replicas, Current: p.Current, Identical: p.Identical, Why: p.Why}))
	return !p.OK, nil
}

// streamVanishes: the meta group's snapshot and log disagree after all nodes died at once, and the stream is taken for one that was deleted.
func streamVanishes() Bug {
	return Bug{
		ID: "6888", Title: "an R3 stream vanishes when all nodes are killed and started again", Source: "nats-io/nats-server#6888",
		Bad: []string{"v2.10.22"}, Clean: []string{"v2.10.23", "v2.15.2"}, AnySeed: 3,
		Signs: []Sign{{"stream-known", []string{check.CodeStreamGone}}},
		Scenario: Scenario{
			Name: "track-6888", Family: trackFamily, Only: cluster.NATSServer, Seconds: 30,
			Doc:   "an R3 stream under load, all nodes killed at once and started again in random order: the stream must still be known",
			Needs: []cluster.Capability{cluster.CapLifecycle},
			Steps: func(p *Plan) []Step {
				order := others()
				p.Rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				published := 2*time.Second + time.Duration(p.Rand.Int64N(int64(6*time.Second)))
				steps := []Step{
					startApart(), converge("first start"), loadUp(streamLoad()), mark("kills"), hold("under load", published),
					inspect(observedBefore, ordersStream), stopAll(syscall.SIGKILL),
				}
				for _, id := range order {
					steps = append(steps, start(0, id), hold("between two starts", time.Duration(p.Rand.Int64N(int64(2*time.Second)))))
				}
				return append(steps, mark("kills-end"), awaitHealthy(healthyWithin), inspect(observedAfter, ordersStream), stopLoad())
			},
			Claims: func(r *Run) []reports.Claim {
				return []reports.Claim{
					knownStream(ordersStream), streamIntact(30),
					exercised(check.Preconditions{MinOps: 60, Marks: []string{"kills", "kills-end"}, Drained: []string{ordersStream}}),
				}
			},
		},
	}
}

// casNotSerialized: the leader checks the expected revision against what it has stored, not against what it has proposed and not yet stored.
func casNotSerialized() Bug {
	return Bug{
		ID: "4320", Title: "compare-and-set on a replicated bucket is not serialized", Source: "nats-io/nats-server#4320",
		Bad: []string{"v2.9.20"}, Clean: []string{"v2.9.25"},
		Signs: []Sign{{"cas-serialized", []string{check.CodeCASViolation}}},
		Scenario: Scenario{
			Name: "track-4320", Family: trackFamily, Only: cluster.NATSServer, Seconds: 40,
			Doc:   "eight clients compare and set five keys of an R3 bucket, without any fault: each revision may be replaced once",
			Needs: []cluster.Capability{cluster.CapLifecycle},
			Steps: func(*Plan) []Step {
				return []Step{startApart(), converge("first start"), loadUp(casLoad(casClients, casKeys, casRate)), hold("no fault at all", casFor), stopLoad()}
			},
			Claims: func(*Run) []reports.Claim {
				return []reports.Claim{
					claim("cas-serialized", "No two acked updates of a key expected the same revision.", check.CASSerialized{Target: ordersBucket, MinAcked: 200}),
					exercised(check.Preconditions{MinOps: 500, Drained: []string{ordersBucket}}),
				}
			},
		},
	}
}

// casLoad mostly compares and sets.
func casLoad(clients, keys int, rate float64) *workload.KV {
	return &workload.KV{Target: ordersBucket, Replicas: 3, Clients: clients, Keys: keys, Rate: rate, Mix: workload.Mix{Create: 1, Update: 20}, Timeout: opTimeout}
}

// churn kills one random node after the other, down for some time, and never waits for health.
func churn(p *Plan, within, down time.Duration, every func() time.Duration) (steps []Step, kills int) {
	for at := time.Duration(0); at < within; kills++ {
		period := every()
		at += period
		steps = append(steps, churnOnce(p, kills+1, down, hold("not waiting for health", max(0, period-down)))...)
	}
	return steps, kills
}

// churnOnce kills one random node, down for some time, and goes on with then.
func churnOnce(p *Plan, number int, down time.Duration, then Step) []Step {
	name, ids := fmt.Sprintf("churn-%d", number), others()
	return []Step{inject(name, faults.Kill, faults.Named(ids[p.Rand.IntN(len(ids))])), hold("one node down", down), heal(name), then}
}

// streamForgotten: a node that is killed while it catches up with the meta group comes back with an old picture of it, and leads.
func streamForgotten() Bug {
	patient := forgottenScenario(trackPrefix+"forgotten-control", func(p *Plan) (steps []Step, kills int) {
		for ; kills < patientKills; kills++ {
			steps = append(steps, churnOnce(p, kills+1, churnDown, awaitHealthy(healthyWithin))...)
		}
		return steps, kills
	})
	return Bug{
		ID: "forgotten", Title: "an R3 stream is forgotten when single nodes are killed faster than they catch up", Source: "nats-io/nats-server#5644 and the meta fixes of 2.10.18 to 2.10.23",
		Bad: []string{"v2.10.17"}, Clean: []string{"v2.10.23"}, AnySeed: 3,
		Signs:   []Sign{{"stream-known", []string{check.CodeStreamGone, check.CodeStreamReset}}},
		Control: &patient, ControlWord: "the same kills, each waiting for health",
		Scenario: forgottenScenario(trackPrefix+"forgotten", func(p *Plan) ([]Step, int) {
			return churn(p, churnFor, churnDown, func() time.Duration { return churnEvery })
		}),
	}
}

func forgottenScenario(name string, churned func(*Plan) (steps []Step, kills int)) Scenario {
	kills := 0
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 90,
		Doc:   "one random node killed after the other, every second and started 0.2 s later, or (the control) once all are healthy again: the stream must still be known",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			load := streamLoad()
			load.Publishers = 8
			steps := []Step{startApart(), converge("first start"), loadUp(load), moreOps(50, opsWithin), inspect(observedBefore, ordersStream), mark("kills")}
			var killing []Step
			killing, kills = churned(p)
			steps = append(steps, killing...)
			return append(steps, mark("kills-end"), awaitHealthy(healthyWithin), inspect(observedAfter, ordersStream), stopLoad())
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				knownStream(ordersStream), faultsInForce(kills),
				exercised(check.Preconditions{MinOps: 200, Marks: []string{"kills", "kills-end"}}),
			}
		},
	}
}

// kvDiverges: replicas of a bucket become different and stay so. In each round the last of the nodes that are killed leads the bucket, with writes under
// way, and then nobody writes: a replica that its next leader does not bring up to date is not helped by what would come later.
func kvDiverges() Bug {
	var run diverging
	return Bug{
		ID: "5644", Title: "replicas of a bucket diverge when single nodes are killed under compare-and-set", Source: "nats-io/nats-server#5644 and its family",
		Bad: []string{"v2.10.23", "v2.10.17"}, Clean: []string{"v2.10.24"}, AnySeed: 3,
		Signs: []Sign{
			{"replicas-alike", []string{check.CodeReplicasDiffer, check.CodeReplicaMissing}},
			{"cas-serialized", []string{check.CodeCASViolation}},
			{"kv-durable", []string{check.CodeAckedMissing, check.CodeWrongValue}},
			{"stream-known", []string{check.CodeStreamGone, check.CodeStreamReset}},
		},
		Scenario: Scenario{
			Name: "track-5644", Family: trackFamily, Only: cluster.NATSServer, Seconds: 90,
			Doc:   "compare-and-set clients on an R3 bucket while one node after the other is killed, every 1.5 to 3 s and every third time the bucket's leader, after which nobody writes for a moment: replicas must end alike, with every acked update",
			Needs: []cluster.Capability{cluster.CapLifecycle},
			Steps: func(p *Plan) []Step {
				run = diverging{}
				steps := []Step{startApart(), converge("first start"), loadUp(casLoad(casClients, casKeys, casRate)), moreOps(50, opsWithin),
					inspect(observedBefore, bucketStream), mark("kills")}
				for round := range divergeRounds {
					steps = append(steps, run.round(p, round)...)
				}
				return append(steps, mark("kills-end"), inspect(observedAfter, bucketStream), resumeLoad(), stopLoad(), calm("at the end", calmAgain))
			},
			Claims: func(*Run) []reports.Claim {
				return []reports.Claim{
					claim("replicas-alike", "The three nodes' own files, read offline with every checksum, hold the same messages.",
						check.ReplicaAgreement{Targets: []string{bucketCopies}, Source: "blocks", Nodes: 3, AllowDeleted: true}),
					claim("cas-serialized", "No two acked updates of a key expected the same revision.", check.CASSerialized{Target: ordersBucket, MinAcked: 50}),
					kvDurable(), knownStream(bucketStream), faultsInForce(max(run.kills, divergeKills)),
					exercised(check.Preconditions{MinOps: 300, Marks: []string{"kills", "kills-end"}}),
				}
			},
		},
	}
}

// diverging is how far a run of kvDiverges has come.
type diverging struct {
	kills int
	apart bool // replicas did not become alike in time: another round could mend, or hide, that
}

func (d *diverging) round(p *Plan, round int) (steps []Step) {
	if round > 0 {
		steps = append(steps, resumeLoad(), moreOps(divergeOps, opsWithin))
	}
	for k := range divergeKills {
		last := k == divergeKills-1
		who, up := faults.Named(others()[p.Rand.IntN(len(others()))]), time.Duration(p.Rand.Int64N(int64(divergeEvery)))
		if last {
			who, up = faults.Leader(bucketCopies), 0
		}
		name := fmt.Sprintf("churn-%d", round*divergeKills+k+1)
		kill := inject(name, faults.Kill, who)
		steps = append(steps, Step{kill.Name, func(ctx context.Context, r *Run) error {
			d.kills++
			return kill.Do(ctx, r)
		}}, hold("one node down", divergeDown), heal(name))
		if !last {
			steps = append(steps, hold("not waiting for health", divergeEvery-divergeDown+up))
		}
	}
	steps = append(steps, pauseLoad(), awaitHealthy(healthyWithin), Step{fmt.Sprintf("until replicas are alike, %v at most", calmWithin), func(ctx context.Context, r *Run) (err error) {
		d.apart, err = restless(ctx, r, fmt.Sprintf("round %d", round+1), calmWithin)
		return err
	}})
	for i, s := range steps {
		steps[i].Do = func(ctx context.Context, r *Run) error {
			if d.apart {
				return nil
			}
			return s.Do(ctx, r)
		}
	}
	return steps
}

// bucketStream is the stream behind the data bucket.
const bucketStream = "KV_" + ordersBucket
