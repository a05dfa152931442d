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

// RoutePort is where nodes listen for routes on the cluster's own network; probes dial it.
const RoutePort = "6222"

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

// partition drops packets between nodes, with leased rules of the nodes' agents: see package agent. Clients are not cut off.
type partition struct {
	target
	id    string
	needs int // so many victims at least
	loss  int // packets in a thousand; 0 for all of them
	late  lateness
	shape shape

	keep keeper
}

// shape lists the rules of a partition.
type shape func(all, victims []cluster.NodeID) []rule

// rule drops, on node, what goes out to the peers and, unless it is one-way, what comes in from them.
type rule struct {
	node   cluster.NodeID
	peers  []cluster.NodeID
	oneWay bool
}

func newPartition(verb string, victims []cluster.NodeID, needs int, s shape) *partition {
	t := newTarget(verb, victims)
	return &partition{target: t, id: fmt.Sprintf("%s#%d", t.Name(), cutCount.Add(1)), needs: needs, shape: s}
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

// CommonLoss is a loss that is a nuisance and no outage, in packets per thousand and direction.
const CommonLoss = 50

// Lossy makes a verb that drops so many packets in a thousand between each victim and every other node, in each direction, each packet at random.
func Lossy(permille int) Verb {
	return func(victims ...cluster.NodeID) Fault {
		verb := "lossy"
		if permille != CommonLoss {
			verb = fmt.Sprintf("lossy(%d)", permille)
		}
		f := newPartition(verb, victims, 1, func(all, victims []cluster.NodeID) []rule {
			var rules []rule
			for _, v := range victims {
				rules = append(rules, rule{node: v, peers: except(all, v)})
			}
			return rules
		})
		f.loss = permille
		return f
	}
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
		p := agent.PartitionParams{ID: f.id, In: !e.oneWay, Out: true, Loss: f.loss,
			DelayMS: ms(f.late.delay), JitterMS: ms(f.late.jitter), Seed: f.late.seed}
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
}

// InForce asks every end's kernel for the rules and their counters, and tries a connection over each link that is cut. In force means:
// rules with a lease on all ends, no attempt answered, and the attempts' own packets counted as dropped.
//
// Where the rules are one-way, the peer dials the node that has them: what that node's kernel counts as dropped is its answer, so the
// same figure shows that the other direction is open.
func (f *partition) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	ends, err := f.ends(c)
	if err != nil {
		return Observation{}, err
	}
	seen, err := f.look(ctx, ends)
	if err != nil {
		return Observation{}, err
	}
	judge := sight.finding
	if f.late.delay > 0 {
		judge = func(s sight) finding { return s.lateFinding(f.late) }
	}
	if f.loss > 0 {
		judge = func(s sight) finding { return s.lossFinding(f.loss) }
	}
	found := map[cluster.NodeID]finding{}
	var ids []cluster.NodeID
	for i, e := range ends {
		found[e.id] = judge(seen[i])
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

// look reads all counters, dials, and reads all counters again: an attempt may be counted at either end.
func (f *partition) look(ctx context.Context, ends []side) ([]sight, error) {
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
	err := eachIndex(len(ends), func(i int) (err error) {
		if f.loss > 0 {
			return ends[i].burstAll(ctx)
		}
		seen[i].dials, err = ends[i].dialAll(ctx, f.patience(seen[i].before.Present))
		return err
	})
	if err != nil {
		return nil, err
	}
	return seen, counters(func(s *sight) *agent.PartitionResult { return &s.after })
}

func (f *partition) patience(present bool) time.Duration {
	if f.late.delay > 0 {
		return openDial + f.late.delay + f.late.jitter
	}
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
func (e side) dialAll(ctx context.Context, patience time.Duration) (map[cluster.NodeID]agent.DialResult, error) {
	results := make([]agent.DialResult, len(e.peers))
	err := eachIndex(len(e.peers), func(i int) (err error) {
		from, to := e.host, e.peers[i]
		if e.oneWay {
			from, to = to, from
		}
		results[i], err = from.dial(ctx, to, patience)
		return err
	})
	out := map[cluster.NodeID]agent.DialResult{}
	for i, p := range e.peers {
		out[p.id] = results[i]
	}
	return out, err
}

func (h host) dial(ctx context.Context, to host, patience time.Duration) (r agent.DialResult, err error) {
	params := agent.DialParams{Address: net.JoinHostPort(to.addr, RoutePort), TimeoutMS: int(patience.Milliseconds())}
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

// finding judges one end. Where the rules are gone but nothing answers, it is not healed yet either.
func (s sight) finding() finding {
	answered := 0
	for _, d := range s.dials {
		if d.Answered {
			answered++
		}
	}
	counted := s.after.DroppedOut - s.before.DroppedOut
	present := s.before.Present && s.after.Present
	f := finding{figures: map[string]float64{
		"rules": oneIf(present), "dropped_in": float64(s.after.DroppedIn), "dropped_out": float64(s.after.DroppedOut),
		"dials": float64(len(s.dials)), "dials_answered": float64(answered), "lease_seconds": s.after.Remaining,
	}}
	switch {
	case present && answered == 0 && counted >= uint64(len(s.dials)):
		f.presence = full
	case s.before.Present || s.after.Present || answered < len(s.dials):
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v, packets dropped: %d in, %d out, connection attempts answered: %d of %d",
		present, s.after.DroppedIn, s.after.DroppedOut, answered, len(s.dials))
	return f
}

// Bystander tries connections over the links that are not cut: they must be answered.
func (f *partition) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, nil)
}

func (f *partition) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	links, err := f.openLinks(c, exclude)
	if err != nil || len(links) == 0 {
		return Observation{}, false, err
	}
	results := make([]agent.DialResult, len(links))
	err = eachIndex(len(links), func(i int) (err error) {
		results[i], err = links[i].from.dial(ctx, links[i].to, openDial)
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

const (
	// discardPort takes the datagrams of a burst: nobody listens there, and nobody has to.
	discardPort = "9"
	// lossBurst is how many datagrams go over each link and direction. With two peers that is 3,000 a direction: the least loss that is
	// accepted as measured is then more than five standard deviations away from what is expected, down to 3 %.
	lossBurst = 1500
	// lossTolerance is by which part of itself a measured loss may differ from the wanted one.
	lossTolerance = 0.5
)

// burstAll sends datagrams both ways over each of the side's links, for its kernel to count.
func (e side) burstAll(ctx context.Context) error {
	return eachIndex(len(e.peers), func(i int) error {
		return errors.Join(e.burst(ctx, e.peers[i]), e.peers[i].burst(ctx, e.host))
	})
}

func (h host) burst(ctx context.Context, to host) error {
	params := agent.BurstParams{Address: net.JoinHostPort(to.addr, discardPort), Count: lossBurst}
	var r agent.BurstResult
	return nodeError(to.id, fmt.Sprintf("send datagrams from %s to", h.id), h.agent.Call(ctx, agent.MethodBurst, params, &r))
}

// lossFinding judges a side that loses some packets, by the share of the burst that its kernel dropped in each direction.
func (s sight) lossFinding(permille int) finding {
	in := share(s.after.DroppedIn-s.before.DroppedIn, s.after.SeenIn-s.before.SeenIn)
	out := share(s.after.DroppedOut-s.before.DroppedOut, s.after.SeenOut-s.before.SeenOut)
	present := s.before.Present && s.after.Present
	want := float64(permille) / 1000
	f := finding{
		figures: map[string]float64{
			"rules": oneIf(present), "loss_in": in, "loss_out": out, "lease_seconds": s.after.Remaining,
			"dropped_in": float64(s.after.DroppedIn), "dropped_out": float64(s.after.DroppedOut),
			"seen_in": float64(s.after.SeenIn), "seen_out": float64(s.after.SeenOut),
		},
		detail: fmt.Sprintf("rules in force: %v, packets lost: %.1f %% in, %.1f %% out, wanted %.1f %%", present, 100*in, 100*out, 100*want),
	}
	near := func(got float64) bool { return got >= want*(1-lossTolerance) && got <= want*(1+lossTolerance) }
	switch {
	case present && near(in) && near(out):
		f.presence = full
	case s.before.Present || s.after.Present:
		f.presence = part
	}
	return f
}

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
