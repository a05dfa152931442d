package faults_test

import (
	"context"
	"syscall"

	"github.com/unibus/unibus/sut/cluster"
)

// fakePower is a file system in which two pages are always pending.
type fakePower struct {
	cuts   int
	spares bool // its power does not fail: the daemon is merely killed
	losses []cluster.PowerLoss
}

func (n *fakeNode) PowerFail(ctx context.Context, loss cluster.PowerLoss) (cluster.Dropped, error) {
	if err := n.Signal(ctx, syscall.SIGKILL); err != nil {
		return cluster.Dropped{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.power.losses = append(n.power.losses, loss)
	if !n.power.spares {
		n.power.cuts++
	}
	return cluster.Dropped{PowerLoss: loss, Cut: n.power.cuts, PendingPages: 2, DroppedPages: 2, DroppedBytes: 8192}, nil
}

func (n *fakeNode) PowerState(ctx context.Context) (cluster.PowerState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return cluster.PowerState{Cuts: n.power.cuts, PendingPages: 2, PendingBytes: 8192}, ctx.Err()
}
