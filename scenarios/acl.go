package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the acl scenario.
const (
	aclBefore      = 800 // attempts before the first kill
	aclBetween     = 300
	aclKills       = 2
	aclDownFor     = 3 * time.Second
	aclCases       = 2000
	aclEffectP99   = 0.1 // seconds, where nothing else runs on the machine
	aclEffectLoose = 3.0 // seconds, beside other clusters: the figure then says more of the machine
	aclSamples     = 60
)

// aclActions is what users try, except for what has a claim of its own.
var aclActions = []string{check.ActLogin, check.ActPublish, check.ActSubscribe, check.ActRequest, check.ActStore, check.ActKVGet, check.ActKVPut, check.ActRollup, check.ActInfo,
	check.ActConsume, check.ActManage, check.ActInbox, check.ActRead, check.ActStatus, check.ActWrite}

// acl lets users try everything at every node, allowed or not, while what they may do changes and nodes are killed.
func acl() Scenario {
	return Scenario{
		Name: "acl", Family: "acl", Only: cluster.Membershipd, Seconds: 70,
		Doc:   "users x subjects x operations against a model of the rules, while users change and nodes are killed; time from a confirmed change to its effect",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			users := &workload.Access{}
			victims := []faults.Selector{faults.Leader(usersCopies), faults.Random(1)}
			steps := []Step{startAll(), converge("first start"), loadUp(users), moreOps(aclBefore, opsWithin)}
			for i := range aclKills {
				name := fmt.Sprintf("kill-%d", i+1)
				steps = append(steps, inject(name, faults.Kill, victims[i%len(victims)]), hold("one node down", aclDownFor), heal(name), converge("after "+name),
					moreOps(aclBetween, opsWithin))
			}
			return append(steps, pauseLoad(),
				Step{"until every node has confirmed every change", func(ctx context.Context, _ *Run) error { return giveUp(users.Settle(ctx)) }},
				mark("settled"),
				Step{"everybody tries everything everywhere", func(ctx context.Context, _ *Run) error { users.Sweep(ctx); return nil }},
				converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			limit := aclEffectLoose
			if r.set.Env.Clusters == 1 {
				limit = aclEffectP99
			}
			settled := check.ACL{Window: window("settled", ""), Actions: aclActions, Nodes: []string{"n1", "n2", "n3"}, MinCases: aclCases / 2, MaxUnsettle: 0.05}
			return []reports.Claim{
				claim("as-the-rules-say", "Nothing is allowed that the rules forbid, and nothing refused that they allow once the change is confirmed by that node; while users change and nodes are killed.",
					check.ACL{Actions: aclActions, MinCases: aclCases, MinAllowed: aclCases / 10, MinRefused: aclCases / 2, MinEach: 10, MinUsers: 10, MinChanges: 50, MaxUnsettle: 0.7}),
				claim("the-whole-matrix", "When every node has confirmed every change, everybody may do exactly what the rules say, at every node.", settled),
				control("a-known-limit", "Who may read a stream cannot have its messages delivered into another user's inbox. (Fails, and is here so that nobody forgets: nats-server lets whoever may "+
					"create a consumer choose where it delivers to. Who is given the right to read a stream is trusted that far. When this passes, the limit is gone.)",
					check.CodeForbidden, check.ACL{Actions: []string{check.ActDivert}}),
				claim("in-effect", fmt.Sprintf("A confirmed change is in effect on every node that confirmed it: 99th percentile below %g s.", limit),
					check.Effect{Users: []string{"canary-"}, MaxP99: limit, MinSamples: aclSamples, MinNodes: 3}),
				control("a-model-without-deny", "The cluster follows rules in which a role's deny means nothing. (Must fail: it does mean something.)", check.CodeWronglyRefused,
					withWrong(settled, check.WrongNoDeny)),
				control("a-model-without-rooms", "The cluster follows rules in which rooms give nothing. (Must fail.)", check.CodeForbidden, withWrong(settled, check.WrongNoRooms)),
				control("a-model-without-disable", "The cluster follows rules in which a disabled user goes on. (Must fail.)", check.CodeWronglyRefused,
					withWrong(check.ACL{Users: []string{"canary-"}}, check.WrongDisable)),
				convergedEach(r), faultsInForce(aclKills),
				exercised(check.Preconditions{MinOps: aclCases, MinBefore: 300, MinDuring: 100, MinAfter: 300}),
			}
		},
	}
}

func withWrong(c check.ACL, wrong string) check.ACL {
	c.Wrong = wrong
	return c
}

// usersCopies is the bucket of users, as nodes name their copies.
const usersCopies = "CONTROL/KV_UNIBUS_users"

// giveUp makes an error one of the cluster's: the record shows it.
func giveUp(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errGiveUp, err)
}
