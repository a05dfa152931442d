package faults

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/unibus/unibus/sut/cluster"
)

// wipe empties the data directories of stopped nodes.
type wipe struct {
	target
	probe func(before, now cluster.Usage, running bool) presence

	mu     sync.Mutex
	before map[cluster.NodeID]cluster.Usage // victims as they were wiped, others as they were at Inject
	healed bool
}

// Wipe removes everything from the data directory of nodes that do not run. Nothing brings the data back but the node's peers, once
// it is started: healing forgets the fault. See [KillAndWipe].
func Wipe(victims ...cluster.NodeID) Fault {
	return &wipe{target: newTarget("wipe", victims), probe: wiped}
}

// KillAndWipe kills the victims and empties their data directories; healing starts them again, with nothing.
func KillAndWipe(victims ...cluster.NodeID) Fault {
	return Group(newTarget("kill-and-wipe", victims).Name(), killed(victims), Wipe(victims...))
}

// Needs lists the capabilities that a backend must have.
func (w *wipe) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapStorage} }

// Inject is refused as a whole while one of the victims runs.
func (w *wipe) Inject(ctx context.Context, c cluster.Cluster) error {
	victims, err := w.stopped(ctx, c, "wipe")
	if err != nil {
		return err
	}
	others, err := ask(without(c, w.victims), usage(ctx))
	if err != nil {
		return err
	}
	wiped, err := ask(victims, func(n cluster.Node) (cluster.Usage, error) {
		s, err := storage(n)
		if err != nil {
			return cluster.Usage{}, err
		}
		u, err := s.Wipe(ctx)
		return u, nodeError(n.ID(), "wipe", err)
	})
	maps.Copy(others, wiped)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before, w.healed = others, false
	return err
}

// pretend notes what the nodes hold. Of victims that run too: in a group, what would have ended them only pretends as well.
func (w *wipe) pretend(ctx context.Context, c cluster.Cluster) error {
	if _, err := w.nodes(c); err != nil {
		return err
	}
	before, err := ask(c.Nodes(), usage(ctx))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before, w.healed = before, false
	return nil
}

// Heal forgets the fault.
func (w *wipe) Heal(_ context.Context, c cluster.Cluster) error {
	if _, err := w.nodes(c); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.healed = true
	return nil
}

func (w *wipe) noted() (map[cluster.NodeID]cluster.Usage, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.before), w.healed
}

// InForce counts what is in the victims' data directories. Before the first Inject it compares that with itself: that something was lost earlier cannot be seen.
func (w *wipe) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	victims, err := w.nodes(c)
	if err != nil {
		return Observation{}, err
	}
	now, err := ask(victims, usage(ctx))
	if err != nil {
		return Observation{}, err
	}
	state, err := states(ctx, victims)
	if err != nil {
		return Observation{}, err
	}
	before, healed := w.noted()
	found := map[cluster.NodeID]finding{}
	for id, u := range now {
		b, ok := before[id]
		compared := fmt.Sprintf("%d files, %d bytes before", b.Files, b.Bytes)
		if before == nil {
			b, ok, compared = u, true, "not injected"
		}
		f := finding{
			detail: fmt.Sprintf("%d files, %d bytes now; %s (%s)", u.Files, u.Bytes, compared, describe(state[id])),
			figures: map[string]float64{
				"files": float64(u.Files), "bytes": float64(u.Bytes), "files_before": float64(b.Files), "bytes_before": float64(b.Bytes),
			},
		}
		if ok && !healed {
			f.presence = w.probe(b, u, state[id].Running)
		}
		found[id] = f
	}
	return summarize(w.victims, found), nil
}

// wiped does not count a directory that was empty before: nothing was lost there. A daemon that runs changes its files by itself.
func wiped(before, now cluster.Usage, running bool) presence {
	switch {
	case running:
		return none
	case before.Files > 0 && now.Files == 0:
		return full
	case now.Files < before.Files:
		return part
	default:
		return none
	}
}

// Bystander looks for another node that lost its files.
func (w *wipe) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return w.bystanderExcept(ctx, c, w.victims)
}

func (w *wipe) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	before, _ := w.noted()
	others := slices.DeleteFunc(without(c, exclude), func(n cluster.Node) bool { return before[n.ID()].Files == 0 })
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	now, err := ask(others, usage(ctx))
	if err != nil {
		return Observation{}, false, err
	}
	var ids []cluster.NodeID
	found := map[cluster.NodeID]finding{}
	stray := false
	for _, n := range others {
		u := now[n.ID()]
		ids = append(ids, n.ID())
		stray = stray || u.Files == 0
		found[n.ID()] = finding{detail: fmt.Sprintf("%d files, %d bytes", u.Files, u.Bytes), figures: map[string]float64{"files": float64(u.Files)}}
	}
	o := summarize(ids, found)
	o.InForce, o.Partial = stray, false
	return o, true, nil
}

func usage(ctx context.Context) func(cluster.Node) (cluster.Usage, error) {
	return func(n cluster.Node) (cluster.Usage, error) {
		s, err := storage(n)
		if err != nil {
			return cluster.Usage{}, err
		}
		u, err := s.Usage(ctx)
		return u, nodeError(n.ID(), "measure data of", err)
	}
}

func storage(n cluster.Node) (cluster.Storage, error) {
	s, ok := n.(cluster.Storage)
	if !ok {
		return nil, fmt.Errorf("reach data of %s: %w", n.ID(), ErrUnsupported)
	}
	return s, nil
}
