package process

import (
	"context"
	"fmt"

	"github.com/unibus/unibus/sut/cluster"
)

var _ cluster.Replaceable = (*node)(nil)

// Replace holds the node's lock: no daemon can be started meanwhile.
func (n *node) Replace(ctx context.Context, s cluster.Subject) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Kind != n.cluster.spec.Subject.Kind {
		return fmt.Errorf("replace the program of %s with %s: %w", n.id, s.Kind, cluster.ErrOtherKind)
	}
	if err := checkProgram(s.Path); err != nil {
		return fmt.Errorf("replace the program of %s: %w", n.id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last.running() {
		return fmt.Errorf("replace the program of %s: %w", n.id, cluster.ErrRunning)
	}
	n.replaced = s.Path
	return nil
}

// program is the binary that the next start runs; the caller holds the lock.
func (n *node) program() string {
	if n.replaced != "" {
		return n.replaced
	}
	return n.cluster.spec.Subject.Path
}
