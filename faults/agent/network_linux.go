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

// network holds the partitions of one agent.
type network struct {
	mu     sync.Mutex
	parts  map[string]*partition
	made   int  // tables so far: part of the next one's name
	closed bool // nothing new is made once the agent is on its way out
}

// partition is one fault by its id.
type partition struct {
	table  *table    // nil once it lapsed
	delay  *delayer  // nil when packets are dropped
	until  time.Time // the kernel drops packets at least until then
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
	made.until = until
	old := n.parts[p.ID]
	n.parts[p.ID] = made
	if old != nil {
		err = old.remove()
	}
	return PartitionResult{ID: p.ID, Present: true, Remaining: time.Until(until).Seconds()}, err
}

// make puts the rules in the kernel. On error nothing is left.
func (n *network) make(p PartitionParams, peers []netip.Addr) (*partition, error) {
	made := &partition{}
	var err error
	queue := uint16(queueBase + n.made%queueSpan) //nolint:gosec // below 17,000
	if p.DelayMS > 0 {
		if made.delay, err = newDelayer(queue, p); err != nil {
			return nil, err
		}
	}
	made.table, err = newTable(fmt.Sprintf("unibus_fault_%d_%d", os.Getpid(), n.made), peers, p, queue)
	if err != nil && made.delay != nil {
		err = errors.Join(err, made.delay.close())
	}
	return made, err
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
		if err := p.renew(); err != nil {
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

// renew brings no lapsed partition back: it would have had a gap that nobody saw. The clock is read after the kernel's work, since the
// agent may have been frozen in the middle.
func (p *partition) renew() error {
	if p.lapsed {
		return nil
	}
	start := time.Now()
	if start.After(p.until) {
		return p.lapse()
	}
	err := p.table.renew()
	if time.Now().After(p.until) || err != nil {
		return errors.Join(err, p.lapse())
	}
	p.until = start.Add(Lease)
	return nil
}

func (p *partition) lapse() error {
	if r, err := p.table.read(); err == nil {
		p.last = result(r)
	}
	p.last.Present, p.last.Remaining = false, 0
	p.lapsed = true
	return p.remove()
}

func (p *partition) remove() error {
	if p.table == nil {
		return nil
	}
	t := p.table
	p.table = nil
	err := t.remove()
	if p.delay != nil {
		err = errors.Join(err, p.delay.close())
	}
	return err
}

// heal removes one partition, or all of them.
func (n *network) heal(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for k, p := range n.parts {
		if id == "" || id == k {
			errs = append(errs, p.remove())
			delete(n.parts, k)
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
	if p.lapsed {
		res := p.last
		res.ID = id
		return res, nil
	}
	r, err := p.table.read()
	if err != nil {
		return PartitionResult{ID: id}, fmt.Errorf("partition %q: %w", id, err)
	}
	res := result(r)
	res.ID = id
	if p.delay != nil {
		res.Delayed = p.delay.taken.Load()
	}
	return res, nil
}

func result(r reading) PartitionResult {
	return PartitionResult{Present: r.present, DroppedIn: r.dropped[incoming], DroppedOut: r.dropped[outgoing],
		SeenIn: r.seen[incoming], SeenOut: r.seen[outgoing], Remaining: r.remaining.Seconds()}
}

// close heals everything for good.
func (n *network) close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	return n.heal("")
}
