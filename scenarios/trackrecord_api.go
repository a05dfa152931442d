package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios without a bug of the server's code: what its interfaces promise is less than it looks like.
const (
	readFor     = 15 * time.Second
	readClients = 8
	readKeys    = 3
	readRate    = 300
)

// healthzAlone: the meta leader that is left alone calls itself healthy again until it notices the loss.
func healthzAlone() Bug {
	s := loneLeader(false)
	s.Name, s.Family = trackPrefix+"healthz-alone", trackFamily
	return Bug{
		ID: "healthz-alone", Title: "/healthz of a meta leader that is left alone says 200 again", Source: "found with this harness",
		Bad: []string{"v2.15.2"}, Clean: []string{membershipdVersion},
		Signs:    []Sign{{"never-ready-alone", []string{check.CodeReadyNoQuorum}}},
		Scenario: s,
	}
}

// membershipdVersion stands for this project's daemon where other entries have a release of nats-server.
const membershipdVersion = string(cluster.Membershipd)

// staleDirectReads: the default read of a key-value bucket may be answered by any replica.
func staleDirectReads() Bug {
	leader := readScenario(trackPrefix+"stale-reads-control", history.Get)
	return Bug{
		ID: "stale-reads", Title: "a client does not read its own acked write through the default KV read", Source: "NATS documentation, direct get",
		Bad: []string{"v2.15.2"}, Finding: "documented: a finding about the API that is used",
		Signs:    []Sign{{"read-own-writes", []string{check.CodeStaleRead}}},
		Control:  &leader,
		Scenario: readScenario(trackPrefix+"stale-reads", history.Direct), ControlWord: "read from the leader",
	}
}

func readScenario(name string, kind history.Kind) Scenario {
	mix := workload.Mix{Put: 1, Direct: 2}
	if kind == history.Get {
		mix = workload.Mix{Put: 1, Get: 2}
	}
	return Scenario{
		Name: name, Family: trackFamily, Only: cluster.NATSServer, Seconds: 35,
		Doc:   "clients write and read keys of an R3 bucket, without any fault: each reads its own acked writes",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			load := &workload.KV{Target: ordersBucket, Replicas: 3, Clients: readClients, Keys: readKeys, Rate: readRate, Mix: mix, Timeout: opTimeout}
			return []Step{startApart(), converge("first start"), loadUp(load), hold("no fault at all", readFor), stopLoad()}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				claim("read-own-writes", "No read is older than an acked write of the same client to the same key.",
					check.StaleReads{Target: ordersBucket, Kind: string(kind), Forbid: true}),
				exercised(check.Preconditions{MinOps: 500, Drained: []string{ordersBucket}}),
			}
		},
	}
}

// rollupErases: whoever may write one key of a bucket may erase all of it.
func rollupErases() Bug {
	denied := rollupScenario(trackPrefix+"rollup-control", false)
	return Bug{
		ID: "rollup", Title: "a client that may write one key erases the whole bucket", Source: "found with this harness; the header is documented",
		Bad: []string{"v2.15.2"}, Clean: []string{membershipdVersion}, Finding: "documented: permissions on subjects do not see headers",
		Signs:    []Sign{{"kv-durable", []string{check.CodeAckedMissing}}},
		Control:  &denied,
		Scenario: rollupScenario(trackPrefix+"rollup", true), ControlWord: "a bucket that does not allow roll-ups",
	}
}

// rollupScenario rolls up a bucket that the clients made; on membershipd, one of those that the cluster keeps its own records in.
func rollupScenario(name string, allowed bool) Scenario {
	return Scenario{
		Name: name, Family: trackFamily, Seconds: 25,
		Doc:   "one write of one key with the header Nats-Rollup: all; every other key must keep its last acked value",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			bucket, key, load := settingsBucket, "load-0", loadUp(controlLoad())
			steps := []Step{startApart(), converge("first start")}
			if p.Kind != membershipd {
				bucket, key, load = ordersBucket, "k0", loadUp(kvLoad())
				steps = append(steps, Step{"make the bucket", func(ctx context.Context, r *Run) error { return r.Env.MakeBucket(ctx, ordersBucket, 3, allowed) }})
			}
			return append(steps, load, moreOps(150, opsWithin), pauseLoad(),
				Step{"roll the bucket up through one key", func(ctx context.Context, r *Run) error {
					err := r.Env.RollUp(ctx, bucket, key)
					if errors.Is(err, workload.ErrRefused) {
						r.Rec.Event(history.Event{Kind: "note", Name: "refused", Detail: err.Error()})
						return nil
					}
					if err != nil {
						return fmt.Errorf("%w: %w", errGiveUp, err)
					}
					return nil
				}},
				drainResting(askWithin))
		},
		Claims: func(r *Run) []reports.Claim {
			if r.Plan.Kind == membershipd {
				return append(settingsIntact(r), exercised(check.Preconditions{MinOps: 100, Drained: []string{settings}}))
			}
			return []reports.Claim{kvDurable(), exercised(check.Preconditions{MinOps: 100, Drained: []string{ordersBucket}})}
		},
	}
}
