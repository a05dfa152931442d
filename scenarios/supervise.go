package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

const (
	superviseEvery = 200 * time.Millisecond
	// restartAfter is RestartSec of the unit that is shipped.
	restartAfter = 2 * time.Second
	// firstSignal is what exit codes of processes that a signal ended begin above.
	firstSignal = 128
)

// supervise starts daemons again that end by themselves with an error, as systemd does with Restart=on-failure, until the scenario is over. One that a
// signal has ended was ended by a fault, and stays so until that is healed.
func supervise() Step {
	return Step{"a supervisor restarts daemons that give up", func(ctx context.Context, r *Run) error {
		ctx, r.unwatch = context.WithCancel(ctx)
		for _, n := range r.Cluster.Nodes() {
			r.watchers.Go(func() { r.supervise(ctx, n) })
		}
		return nil
	}}
}

func (r *Run) supervise(ctx context.Context, n cluster.Node) {
	for wait(ctx, superviseEvery) == nil {
		s, err := n.State(ctx)
		if err != nil || s.Running || s.ExitCode <= 0 || s.ExitCode >= firstSignal {
			continue
		}
		r.Rec.Event(history.Event{Kind: "node", Name: "gave up", Nodes: []string{string(n.ID())}, Detail: fmt.Sprintf("exit code %d", s.ExitCode)})
		if wait(ctx, restartAfter) != nil {
			return
		}
		switch err := n.Start(ctx); {
		case err == nil:
			r.noteStart(n.ID())
		case !errors.Is(err, cluster.ErrRunning):
			r.Rec.Event(history.Event{Kind: "note", Name: "the supervisor could not start it", Nodes: []string{string(n.ID())}, Detail: err.Error()})
		}
	}
}
