package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// Ports on which nodes listen on the cluster's own network: probes dial them.
const (
	RoutePort  = "6222"
	ClientPort = "4222"

	routePort  = 6222
	clientPort = 4222
)

const (
	// openDial is how long a connection attempt may take where packets should pass: long enough for one packet lost on a busy host,
	// which is sent again after a second.
	openDial = 2500 * time.Millisecond
	// freshDial is how long one is tried right after the injection, where it should not get through. On one machine an answer takes well
	// under a millisecond; and the attempt counts only if the kernel counted its packet as dropped.
	freshDial = 8 * time.Millisecond
	// settledDial is the same later on, when nobody waits for the answer.
	settledDial = 250 * time.Millisecond
	// freshFor is how long an injection counts as fresh.
	freshFor = time.Second
)

// cutCount is the number of the last partition: part of its id, so that no two faults share rules.
var cutCount atomic.Uint64

// partition is a fault on the network, with leased rules of the nodes' agents: see package agent.
type partition struct {
	target
	id    string
	needs int // so many victims at least
	shape shape
	ask   agent.PartitionParams // what is the same for all sides
	look  looker
	// beside measures what is not touched.
	beside func(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error)

	keep keeper
}

// looker measures at all ends.
type looker func(ctx context.Context, c cluster.Cluster, ends []side) ([]finding, error)

// shape lists the rules of a partition.
type shape func(all, victims []cluster.NodeID) []rule

// rule is about what goes out of node to the peers and, unless it is one-way, what comes in from them.
type rule struct {
	node   cluster.NodeID
	peers  []cluster.NodeID
	oneWay bool
}

// newPartition makes a fault that drops packets.
func newPartition(verb string, victims []cluster.NodeID, needs int, s shape) *partition {
	t := newTarget(verb, victims)
	f := &partition{target: t, id: fmt.Sprintf("%s#%d", t.Name(), cutCount.Add(1)), needs: needs, shape: s}
	f.look, f.beside = f.lookCut, f.dialBeside
	return f
}

// Isolate drops all packets between each victim and every other node of the cluster, both ways, with rules on both ends.
func Isolate(victims ...cluster.NodeID) Fault {
	return newPartition("isolate", victims, 1, func(all, victims []cluster.NodeID) []rule {
		var rules []rule
		for _, n := range all {
			if slices.Contains(victims, n) {
				rules = append(rules, rule{node: n, peers: except(all, n)})
			} else {
				rules = append(rules, rule{node: n, peers: victims})
			}
		}
		return rules
	})
}

// Split drops all packets between the victims and the other nodes, both ways. Within each of the two halves all packets pass.
func Split(victims ...cluster.NodeID) Fault { return newPartition("split", victims, 1, halves) }

func halves(all, victims []cluster.NodeID) []rule {
	var rules []rule
	for _, n := range all {
		other := slices.DeleteFunc(slices.Clone(all), func(o cluster.NodeID) bool {
			return slices.Contains(victims, o) == slices.Contains(victims, n)
		})
		if len(other) > 0 {
			rules = append(rules, rule{node: n, peers: other})
		}
	}
	return rules
}

// CutRoutes is Split for the route port alone: whatever else the nodes say to each other passes.
func CutRoutes(victims ...cluster.NodeID) Fault {
	f := newPartition("cut-routes", victims, 1, halves)
	f.ask.OwnPorts, f.ask.TheirPorts = []int{routePort}, []int{routePort}
	f.beside = f.clientsBeside
	return f
}

// Ring puts the victims in a ring in which each one hears itself and its neighbours up to a majority, no two the same majority. Of five nodes each
// hears the one on either side, and is heard by them. Of three each hears only the one before it: some packets pass between any two, and no
// connection does.
func Ring(victims ...cluster.NodeID) Fault {
	return newPartition("ring", victims, 3, func(_, victims []cluster.NodeID) []rule {
		n := len(victims)
		hears := func(i, j int) bool { // j is one of the majority around i: as many before it as after it, or one more
			after := (j - i + n) % n
			majority := n/2 + 1
			return after <= (majority-1)/2 || n-after <= majority/2
		}
		var rules []rule
		for j := range victims {
			r := rule{node: victims[j], oneWay: true}
			for i := range victims {
				if i != j && !hears(i, j) {
					r.peers = append(r.peers, victims[i])
				}
			}
			if len(r.peers) > 0 {
				rules = append(rules, r)
			}
		}
		return rules
	})
}

// Sever drops all packets between the victims, both ways; every other node still reaches each of them. On three nodes with two victims the third
// one is a bridge: reachability is not transitive any more.
func Sever(victims ...cluster.NodeID) Fault {
	return newPartition("sever", victims, 2, func(_, victims []cluster.NodeID) []rule {
		var rules []rule
		for _, v := range victims {
			rules = append(rules, rule{node: v, peers: except(victims, v)})
		}
		return rules
	})
}

// Deafen drops what the other nodes send to the victims; what the victims send arrives.
func Deafen(victims ...cluster.NodeID) Fault {
	return newPartition("deafen", victims, 1, func(all, victims []cluster.NodeID) []rule {
		var rules []rule
		for _, n := range all {
			if peers := except(victims, n); len(peers) > 0 {
				rules = append(rules, rule{node: n, peers: peers, oneWay: true})
			}
		}
		return rules
	})
}

// Mute drops what the victims send to the other nodes; what those send arrives.
func Mute(victims ...cluster.NodeID) Fault {
	return newPartition("mute", victims, 1, func(all, victims []cluster.NodeID) []rule {
		var rules []rule
		for _, v := range victims {
			rules = append(rules, rule{node: v, peers: except(all, v), oneWay: true})
		}
		return rules
	})
}

func except(all []cluster.NodeID, id cluster.NodeID) []cluster.NodeID {
	return slices.DeleteFunc(slices.Clone(all), func(o cluster.NodeID) bool { return o == id })
}

// Needs lists the capabilities that a backend must have.
func (f *partition) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapNetwork} }

// host is a node that rules and probes are asked of.
type host struct {
	id    cluster.NodeID
	agent cluster.Agent
	addr  string
}

// side is one node's rules.
type side struct {
	host
	peers  []host
	oneWay bool
}

// ends lists every node that gets rules.
func (f *partition) ends(c cluster.Cluster) ([]side, error) {
	if _, err := f.nodes(c); err != nil {
		return nil, err
	}
	if len(f.victims) < f.needs {
		return nil, fmt.Errorf("%s: %w: it takes at least %d nodes", f.Name(), ErrUnscoped, f.needs)
	}
	if len(c.Nodes()) < 2 {
		return nil, fmt.Errorf("%s: %w: there is no other node", f.Name(), ErrUnsupported)
	}
	hosts := map[cluster.NodeID]host{}
	for _, n := range c.Nodes() {
		h, err := newHost(n)
		if err != nil {
			return nil, err
		}
		hosts[h.id] = h
	}
	var out []side
	for _, r := range f.shape(cluster.IDs(c), f.victims) {
		e := side{host: hosts[r.node], oneWay: r.oneWay}
		for _, p := range r.peers {
			e.peers = append(e.peers, hosts[p])
		}
		out = append(out, e)
	}
	return out, nil
}

func newHost(n cluster.Node) (host, error) {
	a, ok := n.(cluster.Agented)
	if !ok {
		return host{}, fmt.Errorf("reach agent of %s: %w", n.ID(), ErrUnsupported)
	}
	return host{id: n.ID(), agent: a.Agent(), addr: a.PeerAddr()}, nil
}

// eachEnd calls all ends at once and joins the errors.
func eachEnd(ends []side, f func(side) error) error {
	errs := make([]error, len(ends))
	var wg sync.WaitGroup
	for i, e := range ends {
		wg.Go(func() { errs[i] = f(e) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Inject makes the rules on all ends and keeps their lease.
func (f *partition) Inject(ctx context.Context, c cluster.Cluster) error {
	ends, err := f.ends(c)
	if err != nil {
		return err
	}
	var hosts []host
	for _, e := range ends {
		hosts = append(hosts, e.host)
	}
	f.keep.begin(ctx, hosts)
	return eachEnd(ends, func(e side) error {
		p := f.ask
		p.ID, p.In, p.Out = f.id, !e.oneWay, true
		for _, q := range e.peers {
			p.Peers = append(p.Peers, q.addr)
		}
		return nodeError(e.id, "partition", e.agent.Call(ctx, agent.MethodPartition, p, nil))
	})
}

// Heal removes the rules on all ends.
func (f *partition) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	ends, err := f.ends(c)
	if err != nil {
		return err
	}
	return eachEnd(ends, func(e side) error {
		return nodeError(e.id, "heal partition of", e.agent.Call(ctx, agent.MethodHeal, agent.HealParams{ID: f.id}, nil))
	})
}

// sight is what one side's kernel, and the connection attempts over the links that it cuts, say.
type sight struct {
	before, after agent.PartitionResult
	dials         map[cluster.NodeID]agent.DialResult
	spray         sprayed
	answers       int // to what was tried instead of dialing
	tried         int
}

// InForce measures on all ends: see the looks of the verbs.
func (f *partition) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	ends, err := f.ends(c)
	if err != nil {
		return Observation{}, err
	}
	seen, err := f.look(ctx, c, ends)
	if err != nil {
		return Observation{}, err
	}
	found := map[cluster.NodeID]finding{}
	var ids []cluster.NodeID
	for i, e := range ends {
		found[e.id] = seen[i]
		ids = append(ids, e.id)
	}
	return withTotal(summarize(ids, found), found), nil
}

func withTotal(o Observation, found map[cluster.NodeID]finding) Observation {
	for _, f := range found {
		o.Figures["packets_dropped"] += f.figures["dropped_in"] + f.figures["dropped_out"]
	}
	return o
}

// lookCut asks every end's kernel for the rules and their counters, and tries a connection over each link that is cut. In force means:
// rules with a lease on all ends, no attempt answered, and the attempts' own packets counted as dropped.
//
// Where the rules are one-way, the peer dials the node that has them: what that node's kernel counts as dropped is its answer, so the
// same figure shows that the other direction is open.
func (f *partition) lookCut(ctx context.Context, _ cluster.Cluster, ends []side) ([]finding, error) {
	return f.aroundCounters(ctx, ends, sight.finding, func(i int, s *sight) (err error) {
		s.dials, err = ends[i].dialAll(ctx, RoutePort, f.patience(s.before.Present))
		return err
	})
}

// aroundCounters reads all counters, does something at each end, and reads all counters again: what is done may be counted at either end.
func (f *partition) aroundCounters(ctx context.Context, ends []side, judge func(sight) finding, do func(i int, s *sight) error) ([]finding, error) {
	seen := make([]sight, len(ends))
	counters := func(result func(*sight) *agent.PartitionResult) error {
		return eachIndex(len(ends), func(i int) error {
			e := ends[i]
			return nodeError(e.id, "read counters of", e.agent.Call(ctx, agent.MethodCounters, agent.CountersParams{ID: f.id}, result(&seen[i])))
		})
	}
	if err := counters(func(s *sight) *agent.PartitionResult { return &s.before }); err != nil {
		return nil, err
	}
	if err := eachIndex(len(ends), func(i int) error { return do(i, &seen[i]) }); err != nil {
		return nil, err
	}
	if err := counters(func(s *sight) *agent.PartitionResult { return &s.after }); err != nil {
		return nil, err
	}
	out := make([]finding, len(ends))
	for i, s := range seen {
		out[i] = judge(s)
		out[i].ago = time.Duration(s.after.SinceMS * float64(time.Millisecond))
	}
	return out, nil
}

func (f *partition) patience(present bool) time.Duration {
	switch {
	case !present:
		return openDial
	case time.Since(f.keep.since()) < freshFor:
		return freshDial
	default:
		return settledDial
	}
}

// dialAll tries a connection over each link that the end cuts, all at once.
func (e side) dialAll(ctx context.Context, port string, patience time.Duration) (map[cluster.NodeID]agent.DialResult, error) {
	results := make([]agent.DialResult, len(e.peers))
	err := eachIndex(len(e.peers), func(i int) (err error) {
		from, to := e.host, e.peers[i]
		if e.oneWay {
			from, to = to, from
		}
		results[i], err = from.dial(ctx, to, port, patience)
		return err
	})
	out := map[cluster.NodeID]agent.DialResult{}
	for i, p := range e.peers {
		out[p.id] = results[i]
	}
	return out, err
}

func (h host) dial(ctx context.Context, to host, port string, patience time.Duration) (r agent.DialResult, err error) {
	params := agent.DialParams{Address: net.JoinHostPort(to.addr, port), TimeoutMS: int(patience.Milliseconds())}
	err = h.agent.Call(ctx, agent.MethodDial, params, &r)
	return r, nodeError(to.id, fmt.Sprintf("dial from %s to", h.id), err)
}

// eachIndex runs f for 0 to n-1 at once and joins the errors.
func eachIndex(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// present: the rules were there, with a lease, all the time.
func (s sight) present() bool { return s.before.Present && s.after.Present }

// traces: some rules are or were there.
func (s sight) traces() bool { return s.before.Present || s.after.Present }

func (s sight) answered() (n int) {
	for _, d := range s.dials {
		if d.Answered {
			n++
		}
	}
	return n
}

// figures are those that all faults on the network have.
func (s sight) figures() map[string]float64 {
	return map[string]float64{
		"rules": oneIf(s.present()), "dropped_in": float64(s.after.DroppedIn), "dropped_out": float64(s.after.DroppedOut),
		"dials": float64(len(s.dials)), "dials_answered": float64(s.answered()), "lease_seconds": s.after.Remaining,
	}
}

// finding judges one end. Where the rules are gone but nothing answers, it is not healed yet either.
func (s sight) finding() finding {
	answered := s.answered()
	counted := s.after.DroppedOut - s.before.DroppedOut
	f := finding{figures: s.figures()}
	switch {
	case s.present() && answered == 0 && counted >= uint64(len(s.dials)):
		f.presence = full
	case s.traces() || answered < len(s.dials):
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v, packets dropped: %d in, %d out, connection attempts answered: %d of %d",
		s.present(), s.after.DroppedIn, s.after.DroppedOut, answered, len(s.dials))
	return f
}

// Bystander measures what is not touched.
func (f *partition) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, nil)
}

func (f *partition) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	if _, err := f.ends(c); err != nil {
		return Observation{}, false, err
	}
	return f.beside(ctx, c, exclude)
}

// dialBeside tries connections over the links that are not touched: they must be answered.
func (f *partition) dialBeside(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	links, err := f.openLinks(c, exclude)
	if err != nil || len(links) == 0 {
		return Observation{}, false, err
	}
	return dialOpen(ctx, links, RoutePort)
}

// clientsBeside dials the port for clients over the links that are cut for routes.
func (f *partition) clientsBeside(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	ends, err := f.ends(c)
	if err != nil {
		return Observation{}, false, err
	}
	var links []link
	for _, e := range ends {
		for _, l := range e.links() {
			if !slices.Contains(exclude, l.from.id) && !slices.Contains(exclude, l.to.id) {
				links = append(links, l)
			}
		}
	}
	if len(links) == 0 {
		return Observation{}, false, nil
	}
	return dialOpen(ctx, links, ClientPort)
}

// dialOpen tries connections that must be answered.
func dialOpen(ctx context.Context, links []link, port string) (Observation, bool, error) {
	results := make([]agent.DialResult, len(links))
	err := eachIndex(len(links), func(i int) (err error) {
		results[i], err = links[i].from.dial(ctx, links[i].to, port, openDial)
		return err
	})
	if err != nil {
		return Observation{}, false, err
	}
	o := Observation{Figures: map[string]float64{}}
	for i, l := range links {
		o.Figures["dials"]++
		o.Figures["dials_answered"] += oneIf(results[i].Answered)
		o.Figures[fmt.Sprintf("%s_to_%s_ms", l.from.id, l.to.id)] = results[i].TookMS
	}
	o.InForce = o.Figures["dials_answered"] < o.Figures["dials"]
	o.Detail = fmt.Sprintf("connection attempts over unaffected links answered: %.0f of %.0f", o.Figures["dials_answered"], o.Figures["dials"])
	return o, true, nil
}

type link struct{ from, to host }

// openLinks lists, in both directions, the links that the fault leaves alone, among the nodes that are not excluded.
func (f *partition) openLinks(c cluster.Cluster, exclude []cluster.NodeID) ([]link, error) {
	ends, err := f.ends(c)
	if err != nil {
		return nil, err
	}
	cut := map[[2]cluster.NodeID]bool{}
	for _, e := range ends {
		for _, p := range e.peers {
			cut[[2]cluster.NodeID{e.id, p.id}], cut[[2]cluster.NodeID{p.id, e.id}] = true, true
		}
	}
	var links []link
	for _, a := range without(c, exclude) {
		for _, b := range without(c, exclude) {
			if a.ID() == b.ID() || cut[[2]cluster.NodeID{a.ID(), b.ID()}] {
				continue
			}
			from, err := newHost(a)
			if err != nil {
				return nil, err
			}
			to, err := newHost(b)
			if err != nil {
				return nil, err
			}
			links = append(links, link{from, to})
		}
	}
	return links, nil
}
