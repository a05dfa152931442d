package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	"github.com/unibus/unibus/sut/cluster"
)

// powerFailure ends daemons and drops what they did not sync. Its probe asks the file systems how often their power has failed, so that a kill alone
// cannot look like one.
type powerFailure struct {
	target
	loss  cluster.PowerLoss
	probe func(before, now powered) presence

	mu      sync.Mutex
	tried   bool                       // Inject was called
	before  map[cluster.NodeID]powered // of all nodes that could be asked, seen at Inject; nil before, and where Inject refused
	sent    map[cluster.NodeID]bool    // victims whose power was cut, or may have been
	dropped map[cluster.NodeID]cluster.Dropped
	healed  bool
}

// powered is a node's process and its file system.
type powered struct {
	state cluster.State
	power cluster.PowerState
}

// PowerFailure makes a verb that fails the power of its victims, all at the same moment: SIGKILL, and the loss of what was not synced. Each victim
// draws lots of its own from loss.Seed. Healing starts the victims again, on what their disks gave back.
func PowerFailure(loss cluster.PowerLoss) Verb {
	return func(victims ...cluster.NodeID) Fault {
		return &powerFailure{target: newTarget("power-failure", victims), loss: loss, probe: cutSince}
	}
}

// PowerRecord returns what a fault of [PowerFailure] has dropped, by node, or nil for any other fault and before it was injected.
func PowerRecord(f Fault) map[cluster.NodeID]cluster.Dropped {
	p, ok := f.(*powerFailure)
	if !ok {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.dropped)
}

// Needs lists the capabilities that a backend must have.
func (p *powerFailure) Needs() []cluster.Capability {
	return []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail}
}

// lossOf gives a victim its own seed: three disks do not lose the same pages.
func (p *powerFailure) lossOf(id cluster.NodeID) cluster.PowerLoss {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%d", id, p.loss.Seed) // a hash takes every write
	l := p.loss
	l.Seed = h.Sum64()
	return l
}

// pretend notes what all nodes are like, and refuses victims that do not run.
func (p *powerFailure) pretend(ctx context.Context, c cluster.Cluster) error {
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.tried = true
	p.mu.Unlock()
	before, err := powers(ctx, c.Nodes())
	if err != nil {
		return err
	}
	for _, v := range victims {
		if err := mustRun(before[v.ID()].state); err != nil {
			return nodeError(v.ID(), p.verb, err)
		}
	}
	p.mu.Lock()
	p.before, p.sent, p.dropped, p.healed = before, map[cluster.NodeID]bool{}, map[cluster.NodeID]cluster.Dropped{}, false
	p.mu.Unlock()
	return nil
}

// Inject cuts the power of all victims at the same time.
func (p *powerFailure) Inject(ctx context.Context, c cluster.Cluster) error {
	if err := p.pretend(ctx, c); err != nil {
		return err
	}
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	return each(victims, func(n cluster.Node) error {
		l, err := powerLoser(n)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.sent[n.ID()] = true // before: a call that failed may have ended the process all the same
		p.mu.Unlock()
		d, err := l.PowerFail(ctx, p.lossOf(n.ID()))
		if err != nil {
			return nodeError(n.ID(), p.verb, err)
		}
		p.mu.Lock()
		p.dropped[n.ID()] = d
		p.mu.Unlock()
		return nil
	})
}

func (p *powerFailure) noted() (before map[cluster.NodeID]powered, sent map[cluster.NodeID]bool, dropped map[cluster.NodeID]cluster.Dropped, healed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.before), maps.Clone(p.sent), maps.Clone(p.dropped), p.healed
}

func (p *powerFailure) wasTried() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tried
}

// Heal starts the victims again.
func (p *powerFailure) Heal(ctx context.Context, c cluster.Cluster) error {
	victims, err := p.nodes(c)
	if err != nil {
		return err
	}
	before, sent, _, _ := p.noted()
	err = each(victims, func(n cluster.Node) error {
		if !sent[n.ID()] {
			return nil
		}
		now, err := n.State(ctx)
		if err != nil {
			return nodeError(n.ID(), "read state of", err)
		}
		return nodeError(n.ID(), "heal "+p.verb+" of", startAgain(ctx, n, before[n.ID()].state, now))
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healed = err == nil
	return err
}

// InForce reads each victim's process from the operating system and the number of power failures from its file system. Before the first Inject it compares
// what it reads with itself, and a victim that does not run is an error: whether its power has failed cannot be said.
func (p *powerFailure) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	victims, err := p.nodes(c)
	if err != nil {
		return Observation{}, err
	}
	now, err := powers(ctx, victims)
	if err != nil {
		return Observation{}, err
	}
	before, _, dropped, _ := p.noted()
	found := map[cluster.NodeID]finding{}
	for id, s := range now {
		f := finding{detail: describe(s.state) + fmt.Sprintf(", its power has failed %d times, not injected", s.power.Cuts), figures: figures(s.state)}
		f.figures["power_cuts"], f.figures["pending_bytes"], f.figures["pending_entries"] = float64(s.power.Cuts), float64(s.power.PendingBytes), float64(s.power.PendingEntries)
		if b, ok := before[id]; !ok && !p.wasTried() {
			if err := mustRun(s.state); err != nil {
				return Observation{}, nodeError(id, p.verb, err)
			}
			f.presence = p.probe(s, s)
		} else if ok {
			f.presence = p.probe(b, s)
			f.detail = fmt.Sprintf("%s, its power has failed %d times; at the injection it was %s, and %d times", describe(s.state), s.power.Cuts, describe(b.state), b.power.Cuts)
			f.figures["power_cuts_before"] = float64(b.power.Cuts)
		}
		if d, ok := dropped[id]; ok {
			f.detail += "; " + losses(d)
			addLosses(f.figures, d)
		}
		found[id] = f
	}
	return summarize(p.victims, found), nil
}

// cutSince is full where the process is gone and the file system has lost its power since.
func cutSince(before, now powered) presence {
	switch {
	case now.state.Running:
		return none
	case now.power.Cuts == before.power.Cuts+1 && (now.state.ExitCode == exitKilled || now.state.ExitCode == exitUnknown):
		return full
	default:
		return part
	}
}

func losses(d cluster.Dropped) string {
	return fmt.Sprintf("lost %d of %d unsynced pages (%d bytes), %d of %d unsynced directory operations, and %d files with them",
		d.DroppedPages, d.PendingPages, d.DroppedBytes, d.DroppedEntries, d.PendingEntries, d.LostFiles)
}

func addLosses(to map[string]float64, d cluster.Dropped) {
	maps.Copy(to, map[string]float64{
		"dropped_pages": float64(d.DroppedPages), "dropped_bytes": float64(d.DroppedBytes), "dropped_entries": float64(d.DroppedEntries),
		"kept_pages": float64(d.KeptPages), "kept_entries": float64(d.KeptEntries), "lost_files": float64(d.LostFiles), "lost_bytes": float64(d.LostBytes),
	})
}

// Bystander looks at all nodes that are not victims.
func (p *powerFailure) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return p.bystanderExcept(ctx, c, p.victims)
}

func (p *powerFailure) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	before, _, _, _ := p.noted()
	others := slices.DeleteFunc(without(c, exclude), func(n cluster.Node) bool { return !before[n.ID()].state.Running })
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	now, err := powers(ctx, others)
	if err != nil {
		return Observation{}, false, err
	}
	var ids []cluster.NodeID
	found := map[cluster.NodeID]finding{}
	stray := false
	for _, n := range others {
		id := n.ID()
		b, s := before[id], now[id]
		ids = append(ids, id)
		stray = stray || lostLife(b.state, s.state) || s.power.Cuts != b.power.Cuts
		found[id] = finding{detail: fmt.Sprintf("%s, its power has failed %d times", describe(s.state), s.power.Cuts), figures: figures(s.state)}
	}
	o := summarize(ids, found)
	o.InForce, o.Partial = stray, false
	return o, true, nil
}

func powers(ctx context.Context, nodes []cluster.Node) (map[cluster.NodeID]powered, error) {
	return ask(nodes, func(n cluster.Node) (p powered, err error) {
		l, err := powerLoser(n)
		if err != nil {
			return p, err
		}
		if p.state, err = n.State(ctx); err != nil {
			return p, nodeError(n.ID(), "read state of", err)
		}
		p.power, err = l.PowerState(ctx)
		return p, nodeError(n.ID(), "ask the file system of", err)
	})
}

func powerLoser(n cluster.Node) (cluster.PowerLoser, error) {
	l, ok := n.(cluster.PowerLoser)
	if !ok {
		return nil, fmt.Errorf("cut the power of %s: %w", n.ID(), ErrUnsupported)
	}
	return l, nil
}
