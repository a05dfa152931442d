package scenarios

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the auth-cold-start scenario.
const (
	coldAlone = 6 * time.Second // a node alone, after everybody has tried
	coldCases = 15              // logins in each round, of each answer
)

// authColdStart stops the cluster right after users were changed, and starts one node of it alone.
func authColdStart() Scenario {
	var alone []cluster.NodeID // in the order of the rounds
	return Scenario{
		Name: "auth-cold-start", Family: "auth-cold-start", Only: cluster.Membershipd, Seconds: 75,
		Doc:   "known users log in after any cold start, also at a node that is alone; disabled ones, replaced keys and strangers never",
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			alone = []cluster.NodeID{"n1", "n2", "n3"}
			p.Rand.Shuffle(len(alone), func(i, j int) { alone[i], alone[j] = alone[j], alone[i] })
			sigs := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL}
			users := &workload.ColdUsers{}
			steps := []Step{startAll(), converge("first start"), loadUp(users), logins(users, alone...)}
			for i, id := range alone {
				m := func(s string) string { return fmt.Sprintf("%s-%d", s, i+1) }
				steps = append(steps,
					Step{"change users", func(ctx context.Context, _ *Run) error { return giveUp(users.Change(ctx)) }},
					stopAll(sigs[i]), mark(m("alone")), start(0, id), logins(users, id), hold("alone", coldAlone), logins(users, id), mark(m("alone-end")),
					start(0, others(id)...), logins(users, alone...), converge(fmt.Sprintf("after %s was alone", id)), logins(users, alone...))
			}
			return append(steps,
				Step{"until every node has confirmed every change", func(ctx context.Context, _ *Run) error { return giveUp(users.Settle(ctx)) }},
				mark("settled"), logins(users, alone...), pauseLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim { return authColdClaims(r, alone) },
	}
}

// logins lets everybody log in at these nodes.
func logins(users *workload.ColdUsers, ids ...cluster.NodeID) Step {
	return Step{"everybody logs in at " + joinIDs(ids), func(ctx context.Context, _ *Run) error { return users.Logins(ctx, ids...) }}
}

func authColdClaims(r *Run, alone []cluster.NodeID) []reports.Claim {
	var cs []reports.Claim
	for i, id := range alone {
		m := func(s string) string { return fmt.Sprintf("%s-%d", s, i+1) }
		w, me := window(m("alone"), m("alone-end")), []string{string(id)}
		cs = append(cs,
			claim(m("alone-logins"), fmt.Sprintf("%s alone, without a quorum: everybody it confirmed may come in, and nobody else.", id),
				check.ACL{Window: w, Nodes: me, Actions: workload.ColdActions(), MinAllowed: coldCases, MinRefused: coldCases, MaxUnsettle: 0.9}),
			claim(m("alone-not-ready"), fmt.Sprintf("%s alone is not ready meanwhile.", id),
				check.HealthCheck{Probe: "ready", Nodes: me, Window: w, Want: check.WantNever200, ReasonContains: quorumWords, MinHz: minHealthHz}))
	}
	settled := check.ACL{Window: window("settled", ""), Actions: workload.ColdActions(), Nodes: []string{"n1", "n2", "n3"}, MinCases: 2 * coldCases, MaxUnsettle: 0.05}
	return append(cs,
		claim("all-logins", "At every node and in every state: who may come in does, and nobody else.",
			check.ACL{Actions: workload.ColdActions(), MinCases: 300, MinAllowed: 150, MinRefused: 100, MinUsers: 15, MinChanges: 20, MaxUnsettle: 0.9}),
		claim("logins-at-the-end", "When every node has confirmed every change, all of them let the same users in.", settled),
		control("a-model-without-disable", "The cluster follows rules in which a disabled user goes on. (Must fail.)", check.CodeWronglyRefused, withWrong(settled, check.WrongDisable)),
		control("a-model-that-lets-nobody-in", "The cluster follows rules that let none of the users in. (Must fail.)", check.CodeForbidden, withWrong(settled, check.WrongNobody)),
		convergedEach(r),
		exercised(check.Preconditions{MinOps: 300}))
}
