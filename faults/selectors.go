package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// MetaGroup is the name of the group that all nodes are in; any other group is "ACCOUNT/STREAM".
const MetaGroup = "meta"

const (
	// leaderPatience is how long a selector waits for a leader: an election takes up to nine seconds.
	leaderPatience = 20 * time.Second
	// leaderPoll is the time between two looks meanwhile.
	leaderPoll = 100 * time.Millisecond
)

// selector is a name and a way to pick.
type selector struct {
	name string
	pick func(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error)
}

// Name is what reports call it.
func (s selector) Name() string { return s.name }

// Pick returns at least one node, in the cluster's order, or an error.
func (s selector) Pick(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error) {
	ids, err := s.pick(ctx, c, rng)
	if err != nil {
		return nil, fmt.Errorf("pick %s: %w", s.name, err)
	}
	all := cluster.IDs(c)
	for _, id := range ids {
		if !slices.Contains(all, id) {
			return nil, fmt.Errorf("pick %s: %q: %w", s.name, id, ErrUnknownNode)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("pick %s: %w", s.name, ErrNoTarget)
	}
	slices.SortFunc(ids, func(a, b cluster.NodeID) int { return slices.Index(all, a) - slices.Index(all, b) })
	return ids, nil
}

// Named picks these nodes.
func Named(ids ...cluster.NodeID) Selector {
	var names []string
	for _, id := range ids {
		names = append(names, string(id))
	}
	return selector{"nodes " + strings.Join(names, ","), func(context.Context, cluster.Cluster, *rand.Rand) ([]cluster.NodeID, error) {
		return slices.Clone(ids), nil
	}}
}

// All picks every node.
func All() Selector {
	return selector{"all nodes", func(_ context.Context, c cluster.Cluster, _ *rand.Rand) ([]cluster.NodeID, error) {
		return cluster.IDs(c), nil
	}}
}

// Random picks n nodes; an error if there are not so many.
func Random(n int) Selector {
	return sized(fmt.Sprintf("%d random nodes", n), func(int) int { return n })
}

// Majority picks the smallest number of nodes whose loss costs the quorum.
func Majority() Selector {
	return sized("a majority", func(size int) int { return size/2 + 1 })
}

// Minority picks the largest number of nodes whose loss leaves a quorum.
func Minority() Selector {
	return sized("a minority", func(size int) int { return (size - 1) / 2 })
}

func sized(name string, count func(size int) int) Selector {
	return selector{name, func(_ context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error) {
		ids := cluster.IDs(c)
		n := count(len(ids))
		if n < 1 || n > len(ids) {
			return nil, fmt.Errorf("%w: %d of %d nodes", ErrNoTarget, n, len(ids))
		}
		rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		return ids[:n], nil
	}}
}

// Leader picks the node that leads a group. While an election runs it waits.
func Leader(group string) Selector {
	return selector{"leader of " + group, func(ctx context.Context, c cluster.Cluster, _ *rand.Rand) ([]cluster.NodeID, error) {
		id, err := awaitLeader(ctx, c, group)
		if err != nil {
			return nil, err
		}
		return []cluster.NodeID{id}, nil
	}}
}

// Follower picks a node that holds a replica of a group, runs, and does not lead it.
func Follower(group string) Selector {
	return selector{"follower of " + group, func(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error) {
		leader, err := awaitLeader(ctx, c, group)
		if err != nil {
			return nil, err
		}
		ids, err := observe.Peers(ctx, c, group)
		if err != nil {
			return nil, err
		}
		ids, err = alive(ctx, c, slices.DeleteFunc(ids, func(id cluster.NodeID) bool { return id == leader }))
		if err != nil {
			return nil, err
		}
		return one(ids, rng)
	}}
}

// LeaderAndFollower picks the node that leads a group and one of those that follow it.
func LeaderAndFollower(group string) Selector {
	return selector{"leader and a follower of " + group, func(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error) {
		follower, err := Follower(group).Pick(ctx, c, rng)
		if err != nil {
			return nil, err
		}
		leader, err := Leader(group).Pick(ctx, c, rng)
		if err != nil {
			return nil, err
		}
		if leader[0] == follower[0] { // an election came between the two questions
			return nil, ErrNoTarget
		}
		return append(leader, follower...), nil
	}}
}

// MetaLeader picks the leader of the meta group.
func MetaLeader() Selector { return Leader(MetaGroup) }

// MetaFollower picks a node that does not lead the meta group.
func MetaFollower() Selector { return Follower(MetaGroup) }

// HolderOf picks a node that holds a replica of a stream ("ACCOUNT/STREAM"): for an R1 stream, the only one.
func HolderOf(stream string) Selector {
	return selector{"holder of " + stream, func(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error) {
		ids, err := observe.Peers(ctx, c, stream)
		if err != nil {
			return nil, err
		}
		return one(ids, rng)
	}}
}

func one(ids []cluster.NodeID, rng *rand.Rand) ([]cluster.NodeID, error) {
	if len(ids) == 0 {
		return nil, ErrNoTarget
	}
	return []cluster.NodeID{ids[rng.IntN(len(ids))]}, nil
}

// alive keeps the nodes whose daemon runs and is not paused.
func alive(ctx context.Context, c cluster.Cluster, ids []cluster.NodeID) ([]cluster.NodeID, error) {
	var out []cluster.NodeID
	for _, id := range ids {
		n := cluster.Find(c, id)
		if n == nil {
			return nil, fmt.Errorf("%q: %w", id, ErrUnknownNode)
		}
		s, err := n.State(ctx)
		if err != nil {
			return nil, nodeError(id, "read state of", err)
		}
		if s.Running && !s.Paused {
			out = append(out, id)
		}
	}
	return out, nil
}

func awaitLeader(ctx context.Context, c cluster.Cluster, group string) (cluster.NodeID, error) {
	wait, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	t := time.NewTicker(leaderPoll)
	defer t.Stop()
	for {
		id, err := observe.Leader(wait, c, group)
		if err == nil || !errors.Is(err, observe.ErrNoLeader) && !errors.Is(err, observe.ErrNoGroup) {
			return id, err
		}
		select {
		case <-wait.Done():
			return "", errors.Join(err, ctx.Err())
		case <-t.C:
		}
	}
}
