package process

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

var _ cluster.DiskFaulty = (*node)(nil)

// ProbeDisk implements cluster.DiskFaulty. The file system is in a process of its own, so that this one may look into it.
func (n *node) ProbeDisk(ctx context.Context, under string) (cluster.DiskProbe, error) {
	root, err := os.OpenRoot(n.dataDir())
	if err != nil {
		return cluster.DiskProbe{}, fmt.Errorf("probe the disk of %s: %w", n.id, err)
	}
	type result struct {
		cluster.DiskProbe
		error
	}
	done := make(chan result, 1)
	go func() { // a slow disk is slower than ctx allows
		p, err := datadir.Probe(root, under)
		done <- result{p, errors.Join(err, root.Close())}
	}()
	select {
	case r := <-done:
		return r.DiskProbe, r.error
	case <-ctx.Done():
		return cluster.DiskProbe{}, ctx.Err()
	}
}
