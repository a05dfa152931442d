package scenarios

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the dataplane-failover scenario.
const (
	outage        = 18 * time.Second // how long the node is dead or frozen: longer than the 3 s to notice and an election of 9 s
	nodeOnlyGap   = 15.0             // seconds; bound for clients that only lost their node. Half-open connections take 3 s to notice, and consumers of the lost node a new election.
	electionGap   = 30.0             // seconds; bound for clients whose stream's leader died
	strandedAfter = 5.0              // a client without success in the last seconds of an outage is stranded
	coreGap       = 6.0              // seconds; half-open connections take 3 s to notice, and this machine may be busy
	coreSubject   = "events"
	askSubject    = "ask"
)

// dataplaneFailover takes away the node that clients of every sort sit on: first one that does not lead their stream, then its leader. Clients stay where
// they fled to, so that killing and pausing are two scenarios: in each, both victims have clients.
func dataplaneFailover(how string, verb faults.Verb) Scenario {
	rounds := []struct {
		name string
		sel  faults.Selector
	}{
		{how + "-follower", faults.Follower(ordersCopies)},
		{how + "-leader", faults.Leader(ordersCopies)},
	}
	return Scenario{
		Name: "dataplane-" + how, Family: "dataplane-failover", Seconds: 70,
		Doc: fmt.Sprintf("publishers, subscribers, requesters, pull and ordered consumers and watchers lose their node (%s), with and without their stream's leader: "+
			"all served again, nothing skipped", how),
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(*Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(dataplaneLoad()...), moreOps(steadyBefore, opsWithin)}
			for _, rd := range rounds {
				steps = append(steps, mark(rd.name), inject(rd.name, verb, rd.sel), hold("clients fail over", outage), mark(rd.name+"-end"),
					heal(rd.name), converge("after "+rd.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, hold("the last deliveries", 2*time.Second), stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, rd := range rounds {
				bound := nodeOnlyGap
				text := "Clients whose node is lost, but not their stream's leader, are served again by another node."
				if rd.name == how+"-leader" {
					bound, text = electionGap, "Clients whose stream's leader is lost are served again after an election."
				}
				cs = append(cs, r.movedClaims(rd.name)...)
				cs = append(cs, claim(rd.name, fmt.Sprintf("%s: %s No client is stranded.", rd.name, text), check.ClientGaps{
					Window: window(rd.name, rd.name+"-end"), MaxGapSeconds: bound, EndSeconds: strandedAfter, MinClients: 24, Clients: clientNames(), Classes: clientClasses()}))
			}
			return append(cs,
				streamIntact(300), kvLinear(kvOpsWanted), kvDurable(),
				claim("pull-consumer", "The pull consumer skips nothing, and nothing comes again after its ack was confirmed.",
					check.Consumers{Target: ordersStream, Kinds: []string{"pull"}, MinClients: planeEach, MinDeliveries: 200, Complete: true}),
				claim("ordered-consumer", "The ordered consumers see every message once and in order.",
					check.Consumers{Target: ordersStream, Kinds: []string{"ordered"}, Clients: []string{"ordered-"}, MinClients: planeEach, MinDeliveries: 200, Complete: true}),
				claim("kv-watcher", "The watchers see revisions in order and end with the last value of every key.",
					check.Consumers{Target: ordersBucket, Kinds: []string{"watch"}, Clients: []string{"watch-"}, MinClients: planeEach, MinDeliveries: 50}),
				convergedEach(r), copiesAgree(ordersCopies, bucketCopies), faultsInForce(len(rounds)),
				exercised(check.Preconditions{MinOps: 800, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: []string{ordersStream, ordersBucket}}),
			)
		},
	}
}

// movedClaims are about the clients that sat on the lost node when it was lost. Core clients need nothing but another node; the others may
// need an election of their stream's or consumer's leader as well.
func (r *Run) movedClaims(round string) []reports.Claim {
	core, others := r.clientsOn(round)
	w := window(round, round+"-end")
	return []reports.Claim{
		claim(round+"-core-moved", fmt.Sprintf("%s: core clients that sat on the node (%s) are served by another one within %.0f s: at once when its sockets close, after 3 s of silence when it is frozen.",
			round, strings.Join(core, ", "), coreGap), check.ClientGaps{Window: w, Clients: orNobody(core), MaxGapSeconds: coreGap, EndSeconds: strandedAfter}),
		claim(round+"-jetstream-moved", fmt.Sprintf("%s: JetStream clients that sat on the node (%s) are served by another one.", round, strings.Join(others, ", ")),
			check.ClientGaps{Window: w, Clients: orNobody(others), MaxGapSeconds: electionGap, EndSeconds: strandedAfter}),
	}
}

// orNobody names a client that does not exist where the list is empty, as an empty list would mean everybody: the claim is then inconclusive.
func orNobody(names []string) []string {
	if len(names) == 0 {
		return []string{"nobody was connected there"}
	}
	return names
}

// clientsOn lists the clients that were connected to the round's victim when the round began, by the record of their connections.
func (r *Run) clientsOn(round string) (core, jetstream []string) {
	on := map[string]string{}
	r.Rec.Last(func(h *history.History) {
		at, ok := h.Mark(round)
		if !ok {
			return
		}
		for _, c := range h.Conns {
			if c.At <= at {
				on[c.Client] = c.Node
			}
		}
	})
	for _, name := range slices.Sorted(maps.Keys(on)) {
		prefix, _, _ := strings.Cut(name, "-")
		switch {
		case !slices.Contains(r.picked[round], cluster.NodeID(on[name])):
		case slices.Contains([]string{"sub", "send", "req"}, prefix):
			core = append(core, name)
		case slices.Contains(clientNames(), prefix):
			jetstream = append(jetstream, name)
		}
	}
	return core, jetstream
}

// clientClasses groups the clients' names for the figures.
func clientClasses() map[string][]string {
	return map[string][]string{
		"publishers": {"pub"}, "key-value": {"kv"}, "pull consumers": {"pull"}, "ordered consumers": {"ordered"}, "watchers": {"watch"},
		"subscribers": {"sub"}, "senders": {"send"}, "requesters": {"req"},
	}
}

// clientNames are the clients that have something to succeed in: a responder only serves others.
func clientNames() []string {
	var ns []string
	for _, prefixes := range clientClasses() {
		ns = append(ns, prefixes...)
	}
	slices.Sort(ns)
	return ns
}
