package faults

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

const (
	// hardlyAny is how many more of something an exhausted daemon may have left: it gives some back now and then, and the agent takes them a moment later.
	hardlyAny = 8
	// newLifeWithin is how long the agent may take to limit a life of the daemon that has just begun.
	newLifeWithin = 3 * time.Second
	newLifePoll   = 50 * time.Millisecond
)

// exhaust leaves the victims' daemons no more of something that the kernel counts.
type exhaust struct {
	target
	what cluster.CountKind
	keep keeper
}

// OutOfDescriptors lets the victims' daemons open no more files and connections than they have. One that gives up for it has the same limit in its next life.
func OutOfDescriptors(victims ...cluster.NodeID) Fault {
	return &exhaust{target: newTarget("out-of-descriptors", victims), what: cluster.Descriptors}
}

// OutOfThreads lets the victims' daemons start no more threads than they have. A Go program that needs one ends.
func OutOfThreads(victims ...cluster.NodeID) Fault {
	return &exhaust{target: newTarget("out-of-threads", victims), what: cluster.Threads}
}

// Needs lists the capabilities that a backend must have.
func (f *exhaust) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapCounts} }

func countLimited(n cluster.Node) (cluster.CountLimited, error) {
	l, ok := n.(cluster.CountLimited)
	if !ok {
		return nil, fmt.Errorf("limit %s: %w", n.ID(), ErrUnsupported)
	}
	return l, nil
}

func (f *exhaust) set(ctx context.Context, c cluster.Cluster, on bool) error {
	nodes, err := f.nodes(c)
	if err != nil {
		return err
	}
	return each(nodes, func(n cluster.Node) error {
		l, err := countLimited(n)
		if err != nil {
			return err
		}
		return nodeError(n.ID(), "limit", l.Exhaust(ctx, f.what, on))
	})
}

// Inject limits the victims and keeps their lease.
func (f *exhaust) Inject(ctx context.Context, c cluster.Cluster) error {
	nodes, err := f.nodes(c)
	if err != nil {
		return err
	}
	if err := f.keep.nodes(ctx, nodes); err != nil {
		return err
	}
	return f.set(ctx, c, true)
}

// Heal lifts the limit.
func (f *exhaust) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	return f.set(ctx, c, false)
}

// InForce reads the kernel's count: in force means that the limit is there and hardly anything is left below it, or that the daemon had come to that and has ended.
func (f *exhaust) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	return f.observe(ctx, c, f.look)
}

func (f *exhaust) look(ctx context.Context, n cluster.Node) (finding, error) {
	l, err := countLimited(n)
	if err != nil {
		return finding{}, err
	}
	for until := time.Now().Add(newLifeWithin); ; {
		now, err := l.Count(ctx, f.what)
		if err != nil {
			return finding{}, nodeError(n.ID(), "count "+string(f.what)+" of", err)
		}
		fd := f.judge(now)
		if fd.presence != part || time.Now().After(until) {
			return fd, nil
		}
		select {
		case <-ctx.Done():
			return fd, nil
		case <-time.After(newLifePoll):
		}
	}
}

func (f *exhaust) judge(now cluster.Count) finding {
	fd := finding{ago: now.Ago, figures: map[string]float64{"used": float64(now.Used), "refused": float64(now.Refused)}}
	if now.Limit != math.MaxUint64 {
		fd.figures["limit"], fd.figures["free"] = float64(now.Limit), float64(now.Free)
	}
	switch {
	case now.Ended && now.Used == 0:
		fd.presence, fd.detail = full, fmt.Sprintf("it had no %s left and has ended", f.what)
		return fd
	case now.Ended:
		fd.presence, fd.detail = part, "it was started again and is not limited yet"
		return fd
	case !now.Exhausted:
		fd.detail = fmt.Sprintf("%d %s, not limited by the harness", now.Used, f.what)
		return fd
	case now.Free <= hardlyAny:
		fd.presence = full
	default:
		fd.presence = part
	}
	fd.detail = fmt.Sprintf("%d %s, limit %d, %d more to be had, refused %d times", now.Used, f.what, now.Limit, now.Free, now.Refused)
	return fd
}

// Bystander looks whether a node that is no victim is limited.
func (f *exhaust) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

func (f *exhaust) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	return bystanders(c, exclude, "no other node is limited", "used", func(n cluster.Node) (float64, string, error) {
		l, err := countLimited(n)
		if err != nil {
			return 0, "", err
		}
		now, err := l.Count(ctx, f.what)
		if err != nil || !now.Exhausted && !now.Ended {
			return float64(now.Used), "", nodeError(n.ID(), "count "+string(f.what)+" of", err)
		}
		return float64(now.Used), fmt.Sprintf("%s is limited to %d %s", n.ID(), now.Limit, f.what), nil
	})
}
