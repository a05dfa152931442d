package agent

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Mechanisms, as results name them.
const (
	viaRules = "nft"     // the kernel's packet filter alone
	viaQueue = "nfqueue" // the agent, to whom the filter hands packets over
)

// network holds the faults of one agent's network.
type network struct {
	mu      sync.Mutex
	parts   map[string]*partition
	retired []*table // empty ones that are not removed yet
	made    int      // tables so far: part of the next one's name
	closed  bool     // nothing new is made once the agent is on its way out
}

// partition is one fault by its id.
type partition struct {
	table  *table    // nil once it lapsed
	shape  *shaper   // nil unless packets are impaired
	cut    []witness // connections of the agent's own that a half-open fault cut off
	made   time.Time // when the kernel had the rules
	until  time.Time // the kernel acts on packets at least until then
	lapsed bool
	last   PartitionResult // of a lapsed one: what was last read
}

func newNetwork() *network { return &network{parts: map[string]*partition{}} }

// partition puts one in force. A known id is replaced; the old one goes only when the new one is there.
func (n *network) partition(p PartitionParams) (PartitionResult, error) {
	peers, err := p.addrs()
	if err != nil {
		return PartitionResult{}, err
	}
	if err := refuseOwn(peers); err != nil {
		return PartitionResult{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return PartitionResult{}, errors.New("the agent is going down")
	}
	n.made++
	until := time.Now().Add(Lease) // before the kernel starts its own clock: we never think that a lease lasts longer than it does
	made, err := n.make(p, peers)
	if err != nil {
		return PartitionResult{}, err
	}
	made.made, made.until = time.Now(), until
	old := n.parts[p.ID]
	n.parts[p.ID] = made
	if old != nil {
		err = n.retire(old)
	}
	return PartitionResult{ID: p.ID, Present: true, Remaining: time.Until(until).Seconds()}, err
}

// make puts the rules in the kernel. On error nothing is left.
func (n *network) make(p PartitionParams, peers []netip.Addr) (*partition, error) {
	made := &partition{}
	sc := scope{PartitionParams: p, peers: peers, queue: uint16(queueBase + n.made%queueSpan)} //nolint:gosec // below 17,000
	var err error
	switch p.Action {
	case ActionShape:
		made.shape, err = newShaper(sc.queue, p.Impairment)
	case ActionHalfOpen:
		made.cut, sc.conns, err = cutOff(peers, p.Witness)
	case ActionDrop, ActionReset:
	}
	if err != nil {
		return nil, err
	}
	made.table, err = newTable(fmt.Sprintf("unibus_fault_%d_%d", os.Getpid(), n.made), sc)
	if err != nil {
		_, eerr := made.end()
		return nil, errors.Join(err, eerr)
	}
	return made, nil
}

// refuseOwn keeps a node from being cut off from itself.
func refuseOwn(peers []netip.Addr) error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list own addresses: %w", err)
	}
	for _, a := range own {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && slices.Contains(peers, p.Addr()) {
			return badRequest("%s is the node's own address", p.Addr())
		}
	}
	return nil
}

// renew extends every lease that has not run out.
func (n *network) renew() (RenewResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var res RenewResult
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(n.parts)) {
		p := n.parts[id]
		if err := n.renewOne(p); err != nil {
			errs = append(errs, fmt.Errorf("partition %q: %w", id, err))
		}
		if p.lapsed {
			res.Lapsed = append(res.Lapsed, id)
		} else {
			res.Renewed = append(res.Renewed, id)
		}
	}
	return res, errors.Join(errs...)
}

// renewOne brings no lapsed partition back: it would have had a gap that nobody saw. The clock is read after the kernel's work, since the
// agent may have been frozen in the middle.
func (n *network) renewOne(p *partition) error {
	if p.lapsed {
		return nil
	}
	start := time.Now()
	if start.After(p.until) {
		return n.lapse(p)
	}
	err := p.table.renew()
	if time.Now().After(p.until) || err != nil {
		return errors.Join(err, n.lapse(p))
	}
	p.until = start.Add(Lease)
	return nil
}

func (n *network) lapse(p *partition) error {
	if r, err := p.read(); err == nil {
		p.last = r
	}
	p.last.Present, p.last.Remaining = false, 0
	p.lapsed = true
	return n.retire(p)
}

// end ends the fault, lets go what is held, and returns the table, which has no effect any more; nil if that is gone already.
func (p *partition) end() (*table, error) {
	t := p.table
	p.table = nil
	var errs []error
	if t != nil {
		errs = append(errs, t.empty())
	}
	if p.shape != nil {
		errs = append(errs, p.shape.close())
	}
	for _, w := range p.cut {
		_ = w.conn.Close() // its other end may be long gone
	}
	p.cut = nil
	return t, errors.Join(errs...)
}

// retire ends a fault and removes its table. When a table is removed the kernel drops the packets that any queue of the network namespace holds: while there
// are other shapers, empty tables are kept.
func (n *network) retire(p *partition) error {
	t, err := p.end()
	if t != nil {
		n.retired = append(n.retired, t)
	}
	for _, o := range n.parts {
		if o != p && o.shape != nil && !o.lapsed {
			return err
		}
	}
	for _, t := range n.retired {
		err = errors.Join(err, t.remove())
	}
	n.retired = nil
	return err
}

// heal removes one partition, or all of them.
func (n *network) heal(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for k, p := range n.parts {
		if id == "" || id == k {
			delete(n.parts, k)
			errs = append(errs, n.retire(p))
		}
	}
	return errors.Join(errs...)
}

// counters reads one partition back from the kernel.
func (n *network) counters(id string) (PartitionResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.parts[id]
	if p == nil {
		return PartitionResult{ID: id}, nil
	}
	res := p.last
	if !p.lapsed {
		var err error
		if res, err = p.read(); err != nil {
			return PartitionResult{ID: id}, fmt.Errorf("partition %q: %w", id, err)
		}
	}
	res.ID = id
	return res, nil
}

// read says what has become of packets so far. Witnesses are made to send first: an idle connection shows nothing.
func (p *partition) read() (PartitionResult, error) {
	res := PartitionResult{Via: viaRules, Witnesses: len(p.cut)}
	for _, w := range p.cut {
		res.Unanswered += w.probe()
	}
	r, err := p.table.read()
	if err != nil {
		return res, err
	}
	res.Present, res.Remaining = r.present, r.remaining.Seconds()
	res.SeenIn, res.SeenOut = r.seen[incoming], r.seen[outgoing]
	res.DroppedIn, res.DroppedOut = res.SeenIn, res.SeenOut
	res.Connections = len(p.table.conns)
	res.SinceMS = float64(time.Since(p.made).Microseconds()) / 1000
	if p.shape != nil {
		p.shape.read(&res)
	}
	return res, nil
}

// close heals everything for good.
func (n *network) close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	return n.heal("")
}
