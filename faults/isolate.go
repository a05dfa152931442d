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
	// renewEvery is four times per lease: three may be lost before the partition heals by itself.
	renewEvery = agent.Lease / 4
	// renewTimeout gives up on a renewal before the next but one is due.
	renewTimeout = agent.Lease / 2
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

// isolation is the number of the last partition: part of its id, so that no two faults share rules.
var isolation atomic.Uint64

// isolate cuts nodes off from all others.
type isolate struct {
	target
	id string

	mu       sync.Mutex
	injected time.Time
	stop     func() // ends the renewals; nil while there are none
}

// Isolate drops all packets between each victim and every other node of the cluster, both ways, with rules on both ends. The victims'
// clients are not cut off. The rules are leased: see package agent.
func Isolate(victims ...cluster.NodeID) Fault {
	t := newTarget("isolate", victims)
	return &isolate{target: t, id: fmt.Sprintf("%s#%d", t.Name(), isolation.Add(1))}
}

// Needs lists the capabilities that a backend must have.
func (f *isolate) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapNetwork} }

// end is one node with those that it must not reach.
type isolatedEnd struct {
	node  cluster.Node
	agent cluster.Agent
	peers []peer
}

type peer struct {
	id   cluster.NodeID
	addr string
}

// ends lists every node that gets rules: victims with all others as peers, the others with the victims.
func (f *isolate) ends(c cluster.Cluster) ([]isolatedEnd, error) {
	if _, err := f.nodes(c); err != nil {
		return nil, err
	}
	if len(c.Nodes()) < 2 {
		return nil, fmt.Errorf("%s: %w: there is no other node", f.Name(), ErrUnsupported)
	}
	var out []isolatedEnd
	for _, n := range c.Nodes() {
		peers := without(c, []cluster.NodeID{n.ID()})
		if !slices.Contains(f.victims, n.ID()) {
			peers = slices.DeleteFunc(peers, func(p cluster.Node) bool { return !slices.Contains(f.victims, p.ID()) })
		}
		e, err := newEnd(n, peers)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func newEnd(n cluster.Node, peers []cluster.Node) (isolatedEnd, error) {
	a, ok := n.(cluster.Agented)
	if !ok {
		return isolatedEnd{}, fmt.Errorf("reach agent of %s: %w", n.ID(), ErrUnsupported)
	}
	e := isolatedEnd{node: n, agent: a.Agent()}
	for _, p := range peers {
		pa, ok := p.(cluster.Agented)
		if !ok {
			return isolatedEnd{}, fmt.Errorf("find address of %s: %w", p.ID(), ErrUnsupported)
		}
		e.peers = append(e.peers, peer{id: p.ID(), addr: pa.PeerAddr()})
	}
	return e, nil
}

// eachEnd calls all ends at once and joins the errors.
func eachEnd(ends []isolatedEnd, f func(isolatedEnd) error) error {
	errs := make([]error, len(ends))
	var wg sync.WaitGroup
	for i, e := range ends {
		wg.Go(func() { errs[i] = f(e) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Inject makes the rules on all ends and keeps their lease.
func (f *isolate) Inject(ctx context.Context, c cluster.Cluster) error {
	ends, err := f.ends(c)
	if err != nil {
		return err
	}
	f.keep(ctx, ends)
	return eachEnd(ends, func(e isolatedEnd) error {
		p := agent.PartitionParams{ID: f.id, In: true, Out: true}
		for _, q := range e.peers {
			p.Peers = append(p.Peers, q.addr)
		}
		return nodeError(e.node.ID(), "partition", e.agent.Call(ctx, agent.MethodPartition, p, nil))
	})
}

// keep renews the leases until Heal, one goroutine per end: an end that hangs must not cost the others their lease.
func (f *isolate) keep(ctx context.Context, ends []isolatedEnd) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the fault outlives the call that injects it
	var wg sync.WaitGroup
	for _, e := range ends {
		wg.Go(func() { renew(ctx, e) })
	}
	f.mu.Lock()
	old := f.stop
	f.injected = time.Now()
	f.stop = func() { cancel(); wg.Wait() }
	f.mu.Unlock()
	if old != nil {
		old()
	}
}

// renew ignores errors: a lease that runs out shows in the probes, and that is what counts.
func renew(ctx context.Context, e isolatedEnd) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			call, cancel := context.WithTimeout(ctx, renewTimeout)
			_ = e.agent.Call(call, agent.MethodRenew, nil, nil)
			cancel()
		}
	}
}

// Heal removes the rules on all ends.
func (f *isolate) Heal(ctx context.Context, c cluster.Cluster) error {
	f.mu.Lock()
	stop := f.stop
	f.stop = nil
	f.mu.Unlock()
	if stop != nil {
		stop()
	}
	ends, err := f.ends(c)
	if err != nil {
		return err
	}
	return eachEnd(ends, func(e isolatedEnd) error {
		return nodeError(e.node.ID(), "heal partition of", e.agent.Call(ctx, agent.MethodHeal, agent.HealParams{ID: f.id}, nil))
	})
}

// sight is what one end's kernel and connection attempts say.
type sight struct {
	before, after agent.PartitionResult
	dials         map[cluster.NodeID]agent.DialResult
}

// InForce asks every end's kernel for the rules and their counters, and tries connections from each end to those that it must not
// reach. In force means: rules with a lease on all ends, no attempt answered, and the attempts' own packets counted as dropped.
func (f *isolate) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	ends, err := f.ends(c)
	if err != nil {
		return Observation{}, err
	}
	var mu sync.Mutex
	found := map[cluster.NodeID]finding{}
	err = eachEnd(ends, func(e isolatedEnd) error {
		s, err := f.look(ctx, e)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found[e.node.ID()] = s.finding()
		return nil
	})
	if err != nil {
		return Observation{}, err
	}
	return withTotal(summarize(cluster.IDs(c), found), found), nil
}

func withTotal(o Observation, found map[cluster.NodeID]finding) Observation {
	for _, f := range found {
		o.Figures["packets_dropped"] += f.figures["dropped_in"] + f.figures["dropped_out"]
	}
	return o
}

func (f *isolate) look(ctx context.Context, e isolatedEnd) (sight, error) {
	var s sight
	counters := func(r *agent.PartitionResult) error {
		return nodeError(e.node.ID(), "read counters of", e.agent.Call(ctx, agent.MethodCounters, agent.CountersParams{ID: f.id}, r))
	}
	if err := counters(&s.before); err != nil {
		return s, err
	}
	var err error
	if s.dials, err = dialAll(ctx, e, f.patience(s.before.Present)); err != nil {
		return s, err
	}
	return s, counters(&s.after)
}

func (f *isolate) patience(present bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !present:
		return openDial
	case time.Since(f.injected) < freshFor:
		return freshDial
	default:
		return settledDial
	}
}

// dialAll tries a connection from one end to each of its peers, all at once.
func dialAll(ctx context.Context, e isolatedEnd, patience time.Duration) (map[cluster.NodeID]agent.DialResult, error) {
	results, errs := make([]agent.DialResult, len(e.peers)), make([]error, len(e.peers))
	var wg sync.WaitGroup
	for i, p := range e.peers {
		wg.Go(func() {
			params := agent.DialParams{Address: net.JoinHostPort(p.addr, RoutePort), TimeoutMS: int(patience.Milliseconds())}
			errs[i] = nodeError(p.id, fmt.Sprintf("dial from %s to", e.node.ID()), e.agent.Call(ctx, agent.MethodDial, params, &results[i]))
		})
	}
	wg.Wait()
	out := map[cluster.NodeID]agent.DialResult{}
	for i, p := range e.peers {
		out[p.id] = results[i]
	}
	return out, errors.Join(errs...)
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

// Bystander tries connections between the nodes that are not victims: they must be answered.
func (f *isolate) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

func (f *isolate) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	others := without(c, exclude)
	if len(others) < 2 {
		return Observation{}, false, nil
	}
	dials, err := ask(others, func(n cluster.Node) (map[cluster.NodeID]agent.DialResult, error) {
		e, err := newEnd(n, slices.DeleteFunc(slices.Clone(others), func(p cluster.Node) bool { return p.ID() == n.ID() }))
		if err != nil {
			return nil, err
		}
		return dialAll(ctx, e, openDial)
	})
	if err != nil {
		return Observation{}, false, err
	}
	o := Observation{Figures: map[string]float64{}}
	for from, ds := range dials {
		for to, d := range ds {
			o.Figures["dials"]++
			o.Figures["dials_answered"] += oneIf(d.Answered)
			o.Figures[fmt.Sprintf("%s_to_%s_ms", from, to)] = d.TookMS
		}
	}
	o.InForce = o.Figures["dials_answered"] < o.Figures["dials"]
	o.Detail = fmt.Sprintf("connection attempts between unaffected nodes answered: %.0f of %.0f", o.Figures["dials_answered"], o.Figures["dials"])
	return o, true, nil
}
