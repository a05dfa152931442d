package faults

import (
	"context"
	"fmt"
	"sync"

	"github.com/unibus/unibus/sut/cluster"
)

// StarvedCPU is so little that a server under load does not keep up, in processors.
const StarvedCPU = 0.05

// starve limits processor time.
type starve struct {
	target
	share float64
	keep  keeper

	mu   sync.Mutex
	seen map[cluster.NodeID]uint64 // the kernel's count at the last look
}

// Starve makes a verb that leaves the victims' daemons so many processors.
func Starve(processors float64) Verb {
	return func(victims ...cluster.NodeID) Fault {
		verb := "starve"
		if processors != StarvedCPU {
			verb = fmt.Sprintf("starve(%v)", processors)
		}
		return &starve{target: newTarget(verb, victims), share: processors, seen: map[cluster.NodeID]uint64{}}
	}
}

// Needs lists the capabilities that a backend must have.
func (f *starve) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapResources} }

// limit sets the victims' share, all at once.
func (f *starve) limit(ctx context.Context, c cluster.Cluster, share float64) error {
	nodes, err := f.nodes(c)
	if err != nil {
		return err
	}
	return each(nodes, func(n cluster.Node) error {
		r, err := resourced(n)
		if err != nil {
			return err
		}
		return nodeError(n.ID(), "limit", r.LimitCPU(ctx, share))
	})
}

func resourced(n cluster.Node) (cluster.Resourced, error) {
	r, ok := n.(cluster.Resourced)
	if !ok {
		return nil, fmt.Errorf("limit %s: %w", n.ID(), ErrUnsupported)
	}
	return r, nil
}

// Inject limits the victims and keeps their lease.
func (f *starve) Inject(ctx context.Context, c cluster.Cluster) error {
	nodes, err := f.nodes(c)
	if err != nil {
		return err
	}
	if err := f.keep.nodes(ctx, nodes); err != nil {
		return err
	}
	return f.limit(ctx, c, f.share)
}

// Heal lifts the limit.
func (f *starve) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	return f.limit(ctx, c, 0)
}

// InForce reads the kernel's count: in force means that there is a limit and that the daemon has run into it since the last look. One that has
// nothing to do is not starved.
func (f *starve) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	return f.observe(ctx, c, f.look)
}

func (f *starve) look(ctx context.Context, n cluster.Node) (finding, error) {
	r, err := resourced(n)
	if err != nil {
		return finding{}, err
	}
	now, err := r.CPU(ctx)
	if err != nil {
		return finding{}, nodeError(n.ID(), "read processor time of", err)
	}
	more := f.since(n.ID(), now.Throttled)
	fd := finding{ago: now.Ago, figures: map[string]float64{"limit": now.Limit, "throttled_periods": float64(more)}}
	switch {
	case now.Limit == 0:
		fd.detail = "no limit"
		return fd, nil
	case now.Limit == f.share && more > 0:
		fd.presence = full
	default:
		fd.presence = part
	}
	fd.detail = fmt.Sprintf("limit of %.2f processors, stopped for it in %d periods of 100 ms since the last look", now.Limit, more)
	return fd, nil
}

// since is how much the count has grown since the last look. A daemon that was started meanwhile counts from the beginning.
func (f *starve) since(id cluster.NodeID, count uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.seen[id]
	f.seen[id] = count
	if count < before {
		return count
	}
	return count - before
}

// Bystander looks whether a node that is no victim is limited.
func (f *starve) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

func (f *starve) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	return bystanders(c, exclude, "no other node is limited", "limit", func(n cluster.Node) (float64, string, error) {
		r, err := resourced(n)
		if err != nil {
			return 0, "", err
		}
		cpu, err := r.CPU(ctx)
		if err != nil || cpu.Limit == 0 {
			return 0, "", nodeError(n.ID(), "read processor time of", err)
		}
		return cpu.Limit, fmt.Sprintf("%s is limited to %.2f processors", n.ID(), cpu.Limit), nil
	})
}
