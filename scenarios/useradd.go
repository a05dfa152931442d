package scenarios

import (
	"context"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the user-add scenarios.
const (
	addBefore     = 60 // adds, of those that have effects
	addBetween    = 30
	addDownFor    = 3 * time.Second
	addCutFor     = 8 * time.Second
	addLossFor    = 10 * time.Second
	addMaxSilence = 5.0 // seconds until an error without a quorum
	// addNoticed is for the node that is left to notice that its connections to the others are gone: a request that it passes on before that, to a node
	// that is dead, has nobody to answer it. What is acked in that time has to last like anything else that is acked.
	addNoticed = time.Second
	addNames   = 20 // that must have been confirmed
)

// userAdds adds users while one sort of fault strikes.
func userAdds() []Scenario {
	return []Scenario{
		userAdd("user-add", "users added from many clients at all nodes while nodes are killed and the quorum is lost: idempotent, whole, kept, and let in everywhere",
			nil, []faultPlan{{"kill-leader", faults.Kill, faults.Leader(usersCopies), addDownFor}, {"kill-any", faults.Kill, faults.Random(1), addDownFor}}),
		userAdd("user-add-partition", "the same while the leader of the users, and then any node, is cut off from its peers with clients on both sides",
			[]cluster.Capability{cluster.CapNetwork}, []faultPlan{{"cut-leader", faults.Isolate, faults.Leader(usersCopies), addCutFor}, {"cut-any", faults.Isolate, faults.Random(1), addCutFor}}),
	}
}

// faultPlan is a fault that holds for a while.
type faultPlan struct {
	name string
	verb faults.Verb
	sel  faults.Selector
	hold time.Duration
}

func userAdd(name, doc string, needs []cluster.Capability, plan []faultPlan) Scenario {
	return Scenario{
		Name: name, Family: "user-add", Only: cluster.Membershipd, Seconds: 75, Doc: doc,
		Needs: append([]cluster.Capability{cluster.CapLifecycle}, needs...),
		Steps: func(*Plan) []Step {
			adders := &workload.Adders{}
			steps := []Step{startAll(), converge("first start"), loadUp(adders), moreOps(addBefore, opsWithin)}
			for _, f := range plan {
				steps = append(steps, inject(f.name, f.verb, f.sel), hold("users are added meanwhile", f.hold), heal(f.name), converge("after "+f.name), moreOps(addBetween, opsWithin))
			}
			return append(steps,
				inject("lost", faults.Kill, faults.Majority()), hold("what is under way to a node that is dead", addNoticed), mark("lost"), hold("users are added without a quorum", addLossFor), mark("back"), heal("lost"),
				converge("after the loss of the quorum"), moreOps(addBetween, opsWithin),
				pauseLoad(),
				Step{"read the list of users", func(ctx context.Context, r *Run) error {
					ctx, cancel := context.WithTimeout(ctx, drainTimeout)
					defer cancel()
					return giveUp(adders.Drain(ctx, r.Env))
				}},
				mark("logins"),
				Step{"everybody who wanted a name logs in at every node", func(ctx context.Context, r *Run) error { return adders.Logins(ctx, r.Env) }},
				converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			users := check.Users{Prefix: workload.AddPrefix, Logins: window("logins", ""), Nodes: []string{"n1", "n2", "n3"}, MinConfirmed: addNames, MinConflicts: 10, MinAgain: 20}
			adds := []string{string(history.Create)}
			return []reports.Claim{
				claim("users-intact", "Confirmed users are there, whole, with their one key, and log in at every node; the same again changes nothing; nobody else gets in.", users),
				claim("no-ack-lost", "Without a quorum no add that is invoked creates a user, and each hears so within 5 s.",
					check.NoAck{Window: window("lost", "back"), Kinds: adds, Targets: []string{check.TargetUsers}, MinAttempts: 10, MaxSilenceSeconds: addMaxSilence, UnchangedAllowed: true}),
				claim("adds-return", "Adds succeed again when the quorum is back.",
					check.Availability{Window: window("back", "logins"), Kinds: adds, Targets: []string{check.TargetUsers}, MinOK: 10, WithinSeconds: serveWithin}),
				copiesAgree(usersCopies), convergedEach(r), faultsInForce(len(plan) + 1),
				exercised(check.Preconditions{MinOps: 150, MinBefore: 30, MinDuring: 20, MinAfter: 20, Targets: []string{check.TargetUsers}, Drained: []string{check.TargetUsers}}),
				control("a-model-that-lets-nobody-in", "The cluster follows rules that let none of the users in. (Must fail.)", check.CodeForbidden,
					check.ACL{Users: []string{workload.AddPrefix}, Window: window("logins", ""), Wrong: check.WrongNobody}),
			}
		},
	}
}
