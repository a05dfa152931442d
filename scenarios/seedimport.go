package scenarios

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the seed-import scenario.
const (
	seedImport   = "seed-import"
	seedPrefix   = "seed-" // begins the names of what is measured
	seedAgainFor = 6 * time.Second
	seedDownFor  = 3 * time.Second
)

// The first admins of the seed file: one stays, one is disabled by the other.
var seedAdmins = []string{"first-admin", "second-admin"}

// seedImported gives every node a seed file, and leaves it there for ever.
func seedImported() Scenario {
	return Scenario{
		Name: seedImport, Family: seedImport, Only: cluster.Membershipd, Seconds: 45, Seed: seedAdmins,
		Doc:   "first admins from a seed file that every node is given at every start: imported once, and never again, whatever became of them",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			known := map[string]workload.UserState{}
			return []Step{
				startAll(), converge("first start"), loadUp(controlLoad()), moreOps(opsBetween, opsWithin),
				lookAtSeed("imported", known),
				{"disable an admin of the seed file", func(ctx context.Context, r *Run) error {
					ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
					defer cancel()
					if err := workload.DisableUser(ctx, r.Env, seedAdmins[1]); err != nil {
						return giveUp(err)
					}
					return r.notice(ctx, known)
				}},
				inject("kill", faults.Kill, faults.Random(1)), hold("one node down", seedDownFor), heal("kill"), converge("after the kill"), hold("time for a second import", seedAgainFor),
				lookAtSeed("after-a-kill", known),
				stopAll(syscall.SIGTERM), startAll(), converge("after a stop of all"), hold("time for a second import", seedAgainFor),
				lookAtSeed("after-a-stop", known), moreOps(opsBetween, opsWithin), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			cs := []reports.Claim{
				claim("imported", "The admins of the seed file are there, with their keys and the role admin.",
					check.Measured{Names: []string{seedPrefix + "imported"}, Min: len(seedAdmins), Same: [][2]string{{"key", "key_wanted"}, {"role", "role_wanted"}}}),
				claim("imported-once", "What became of them later stays so over restarts, though the same file is given again: no record is written a second time.",
					check.Measured{Names: []string{seedPrefix + "after"}, Min: 2 * len(seedAdmins), Same: [][2]string{{"key", "key_wanted"}, {"revision", "revision_wanted"}, {"disabled", "disabled_wanted"}}}),
				convergedEach(r), faultsInForce(1), copiesAgree(usersCopies, settingsCopies), exercised(check.Preconditions{MinOps: 100, MinDuring: 5, MinAfter: 10, Drained: []string{settings}}),
			}
			return append(cs, settingsIntact(r)...)
		},
	}
}

// lookAtSeed measures the admins of the seed file against what is known of them.
func lookAtSeed(when string, known map[string]workload.UserState) Step {
	return Step{"look at the admins of the seed file: " + when, func(ctx context.Context, r *Run) error {
		ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
		defer cancel()
		if len(known) == 0 {
			if err := r.notice(ctx, known); err != nil {
				return err
			}
		}
		for _, name := range seedAdmins {
			u, err := workload.ShowUser(ctx, r.Env, name)
			if err != nil {
				return giveUp(err)
			}
			was := known[name]
			r.Rec.Event(history.Event{Kind: "measured", Name: seedPrefix + when + "-" + name, Data: map[string]any{
				"key": u.Key, "key_wanted": r.seeds[name], "role": u.Role, "role_wanted": "admin", "revision": fmt.Sprint(u.Revision), "revision_wanted": fmt.Sprint(was.Revision),
				"disabled": fmt.Sprint(u.Disabled), "disabled_wanted": fmt.Sprint(was.Disabled),
			}})
		}
		return nil
	}}
}

// notice remembers what the users are now.
func (r *Run) notice(ctx context.Context, known map[string]workload.UserState) error {
	for _, name := range seedAdmins {
		u, err := workload.ShowUser(ctx, r.Env, name)
		if err != nil {
			return giveUp(err)
		}
		known[name] = u
	}
	return nil
}
