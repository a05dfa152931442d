package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// fromVictims are rules on the victims alone, about all packets between each of them and every other node.
func fromVictims(all, victims []cluster.NodeID) []rule {
	var rules []rule
	for _, v := range victims {
		rules = append(rules, rule{node: v, peers: except(all, v)})
	}
	return rules
}

// Reset answers every TCP packet between the victims and the other nodes with a RST, at both ends of the connection: what is open breaks with the
// next packet, and nothing new can be opened.
func Reset(victims ...cluster.NodeID) Fault {
	f := newPartition("reset", victims, 1, fromVictims)
	f.ask.Action = agent.ActionReset
	f.look = f.lookDials(sight.reset)
	return f
}

// HalfOpen lets all connections that there are between the victims and the other nodes carry nothing any more, and tells neither end. New ones work.
func HalfOpen(victims ...cluster.NodeID) Fault {
	f := newPartition("half-open", victims, 1, fromVictims)
	f.ask.Action, f.ask.Witness = agent.ActionHalfOpen, routePort
	f.look = f.lookDials(sight.halfOpen)
	return f
}

// lookDials tries a connection from the victim over each of its links.
func (f *partition) lookDials(judge func(sight) finding) looker {
	return func(ctx context.Context, _ cluster.Cluster, ends []side) ([]finding, error) {
		return f.aroundCounters(ctx, ends, judge, func(i int, s *sight) (err error) {
			s.dials, err = ends[i].dialAll(ctx, RoutePort, openDial)
			return err
		})
	}
}

// reset judges a victim whose connections are reset: each attempt got a RST, and the kernel counted what it answered with one. Without the rules
// nothing is known of who sent a RST: then an answer is an answer.
func (s sight) reset() finding {
	resets := 0
	for _, d := range s.dials {
		if d.Reset {
			resets++
		}
	}
	f := finding{figures: s.figures()}
	f.figures["dials_reset"] = float64(resets)
	answers := s.after.SeenOut - s.before.SeenOut
	switch {
	case s.present() && resets == len(s.dials) && answers >= uint64(len(s.dials)):
		f.presence = full
	case s.traces() || s.answered() < len(s.dials):
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v, packets answered with RST: %d in, %d out, connection attempts reset: %d of %d",
		s.present(), s.after.SeenIn, s.after.SeenOut, resets, len(s.dials))
	return f
}

// halfOpen judges a victim whose old connections are dead: what the witnesses sent is not acknowledged, and new connections work.
func (s sight) halfOpen() finding {
	f := finding{figures: s.figures()}
	f.figures["connections"], f.figures["witnesses"], f.figures["unanswered"] = float64(s.after.Connections), float64(s.after.Witnesses), float64(s.after.Unanswered)
	switch {
	case s.present() && s.after.Witnesses > 0 && s.after.Unanswered == s.after.Witnesses && s.after.DroppedOut > 0 && s.answered() == len(s.dials):
		f.presence = full
	case s.traces() || s.answered() < len(s.dials):
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v, connections cut off: %d, packets of theirs dropped: %d in, %d out, witnesses without an answer: %d of %d, new connections: %d of %d",
		s.present(), s.after.Connections, s.after.DroppedIn, s.after.DroppedOut, s.after.Unanswered, s.after.Witnesses, s.answered(), len(s.dials))
	return f
}

// alone are rules on the victims that name no peers.
func alone(_, victims []cluster.NodeID) []rule {
	var rules []rule
	for _, v := range victims {
		rules = append(rules, rule{node: v})
	}
	return rules
}

// attempt tries, at one node, what a fault forbids.
type attempt func(ctx context.Context, c cluster.Cluster, id cluster.NodeID, patience time.Duration) (answered, tried int, err error)

// newAlone makes a fault on ports of the victims, whoever uses them.
func newAlone(verb string, victims []cluster.NodeID, try attempt) *partition {
	f := newPartition(verb, victims, 1, alone)
	f.look = func(ctx context.Context, c cluster.Cluster, ends []side) ([]finding, error) {
		return f.aroundCounters(ctx, ends, sight.forbidden, func(i int, s *sight) (err error) {
			s.answers, s.tried, err = try(ctx, c, ends[i].id, f.patience(s.before.Present))
			return err
		})
	}
	f.beside = func(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
		return besides(ctx, without(c, slices.Concat(exclude, f.victims)), c, try)
	}
	return f
}

// CutClients drops all packets to and from the victims' port for clients, whoever sends them: their routes and everything else pass.
func CutClients(victims ...cluster.NodeID) Fault {
	f := newAlone("cut-clients", victims, connectAsClient)
	f.ask.OwnPorts = []int{clientPort}
	return f
}

// DNSFailure lets the victims' questions to their name server go without an answer.
func DNSFailure(victims ...cluster.NodeID) Fault {
	f := newAlone("dns-failure", victims, resolvePeer)
	f.ask.TheirPorts = []int{dnsPort}
	return f
}

const dnsPort = 53

// connectAsClient dials a node's port for clients from all other nodes.
func connectAsClient(ctx context.Context, c cluster.Cluster, id cluster.NodeID, patience time.Duration) (answered, tried int, err error) {
	to, err := newHost(cluster.Find(c, id))
	if err != nil {
		return 0, 0, err
	}
	others := without(c, []cluster.NodeID{id})
	found, err := ask(others, func(n cluster.Node) (agent.DialResult, error) {
		h, err := newHost(n)
		if err != nil {
			return agent.DialResult{}, err
		}
		return h.dial(ctx, to, ClientPort, patience)
	})
	for _, r := range found {
		if r.Answered {
			answered++
		}
	}
	return answered, len(others), err
}

// resolvePeer asks for another node's name, at a node. Its own one stands in a file beside it and needs no name server.
func resolvePeer(ctx context.Context, c cluster.Cluster, id cluster.NodeID, patience time.Duration) (answered, tried int, err error) {
	h, err := newHost(cluster.Find(c, id))
	if err != nil {
		return 0, 0, err
	}
	peers := without(c, []cluster.NodeID{id})
	if len(peers) == 0 {
		return 0, 0, fmt.Errorf("ask for a name on %s: %w: there is no other node", id, ErrUnsupported)
	}
	var r agent.ResolveResult
	p := agent.ResolveParams{Name: string(peers[0].ID()), TimeoutMS: int(patience.Milliseconds())}
	if err := h.agent.Call(ctx, agent.MethodResolve, p, &r); err != nil {
		return 0, 1, nodeError(id, "ask for a name on", err)
	}
	return int(oneIf(len(r.Addresses) > 0)), 1, nil
}

// forbidden judges a victim: nothing that was tried got an answer, and the kernel counted what it dropped for it.
func (s sight) forbidden() finding {
	f := finding{figures: s.figures()}
	f.figures["tried"], f.figures["answered"] = float64(s.tried), float64(s.answers)
	counted := s.after.DroppedOut + s.after.DroppedIn - s.before.DroppedOut - s.before.DroppedIn
	switch {
	case s.present() && s.answers == 0 && counted >= uint64(s.tried): //nolint:gosec // not negative
		f.presence = full
	case s.traces() || s.answers < s.tried:
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v, packets dropped: %d in, %d out, attempts answered: %d of %d",
		s.present(), s.after.DroppedIn, s.after.DroppedOut, s.answers, s.tried)
	return f
}

// besides tries the same at nodes where it must work.
func besides(ctx context.Context, nodes []cluster.Node, c cluster.Cluster, try attempt) (Observation, bool, error) {
	if len(nodes) == 0 {
		return Observation{}, false, nil
	}
	var mu sync.Mutex
	o := Observation{Figures: map[string]float64{}}
	err := each(nodes, func(n cluster.Node) error {
		answered, tried, err := try(ctx, c, n.ID(), openDial)
		mu.Lock()
		defer mu.Unlock()
		o.Figures["tried"] += float64(tried)
		o.Figures["answered"] += float64(answered)
		return err
	})
	if err != nil {
		return Observation{}, false, err
	}
	o.InForce = o.Figures["answered"] < o.Figures["tried"]
	o.Detail = fmt.Sprintf("at unaffected nodes, attempts answered: %.0f of %.0f", o.Figures["answered"], o.Figures["tried"])
	return o, true, nil
}
