package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
)

var _ cluster.PowerLoser = (*node)(nil)

// noBinary is why clusters whose power can fail cannot be had.
const noBinary = "the backend was made without the binary of the file system that loses what was not synced"

// mountDisks does it for all nodes, after their directories are made.
func (c *processes) mountDisks(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := n.mountDisk(ctx); err != nil {
			return fmt.Errorf("prepare %s: %w", n.id, err)
		}
	}
	return nil
}

// mountDisk puts a file system that can lose what was not synced over the data directory, if the cluster wants one.
func (n *node) mountDisk(ctx context.Context) (err error) {
	want := n.cluster.spec.PowerFS
	if !want.Enabled {
		return nil
	}
	if n.cluster.backend.opts.PowerFS == "" {
		return errors.New(noBinary)
	}
	n.Disk, err = host.Start(ctx, host.Options{Binary: n.cluster.backend.opts.PowerFS, Dir: n.dataDir(), Entries: want.Entries, UID: os.Getuid(), GID: os.Getgid()})
	return err
}

// removeDisk is idempotent. No daemon is left by then.
func (n *node) removeDisk() error {
	if n.Disk == nil {
		return nil
	}
	return n.Disk.Close()
}

// PowerFail implements cluster.PowerLoser.
func (n *node) PowerFail(ctx context.Context, loss cluster.PowerLoss) (cluster.Dropped, error) {
	if n.Disk == nil {
		return cluster.Dropped{}, host.ErrNoDisk
	}
	d, err := n.Disk.Cut(ctx, loss, func(ctx context.Context) error {
		if err := n.Signal(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		return n.WaitExit(ctx)
	})
	if err != nil {
		return d, fmt.Errorf("cut the power of %s: %w", n.id, err)
	}
	return d, nil
}

// PowerState implements cluster.PowerLoser.
func (n *node) PowerState(ctx context.Context) (cluster.PowerState, error) {
	if n.Disk == nil {
		return cluster.PowerState{}, host.ErrNoDisk
	}
	return n.Disk.State(ctx)
}
