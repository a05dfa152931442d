package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Bounds of single steps.
const (
	convergeTimeout = 60 * time.Second // generous: the claim about the time is a claim's business
	exitTimeout     = 30 * time.Second // a clean stop
	buckets         = 6                // membershipd's control-plane buckets
)

// rawJSON keeps an answer as it was when it is JSON, and as a string when it is not.
func rawJSON(b []byte) any {
	if json.Valid(b) {
		return json.RawMessage(b)
	}
	return string(b)
}

// wait is a pause that a cancelled run cuts short.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// hold keeps the cluster as it is for d.
func hold(why string, d time.Duration) Step {
	return Step{fmt.Sprintf("%s for %v", why, d), func(ctx context.Context, _ *Run) error { return wait(ctx, d) }}
}

// markPrefix begins the names of steps that only write a mark.
const markPrefix = "mark "

// mark writes a named moment that claims refer to.
func mark(name string) Step {
	return Step{markPrefix + name, func(_ context.Context, r *Run) error { r.Rec.Mark(name); return nil }}
}

// start starts nodes one after the other, stagger apart.
func start(stagger time.Duration, ids ...cluster.NodeID) Step {
	return Step{fmt.Sprintf("start %s, %v apart", joinIDs(ids), stagger), func(ctx context.Context, r *Run) error {
		return r.start(ctx, stagger, ids...)
	}}
}

func (r *Run) start(ctx context.Context, stagger time.Duration, ids ...cluster.NodeID) error {
	for i, id := range ids {
		if i > 0 && stagger > 0 {
			if err := wait(ctx, stagger); err != nil {
				return err
			}
		}
		if err := r.node(id).Start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", id, err)
		}
		r.noteStart(id)
	}
	return nil
}

// noteStart notes a daemon's start.
func (r *Run) noteStart(id cluster.NodeID) {
	r.Rec.Event(history.Event{Kind: "node", Name: "started", Nodes: []string{string(id)}})
	r.setLastStart()
}

func (r *Run) setLastStart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastStart = time.Now()
}

func (r *Run) lastStarted() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastStart
}

// startAll starts every node at the same time.
func startAll() Step {
	return Step{"start all nodes", func(ctx context.Context, r *Run) error {
		return r.eachNode(func(n cluster.Node) error {
			if err := n.Start(ctx); err != nil {
				return fmt.Errorf("start %s: %w", n.ID(), err)
			}
			r.noteStart(n.ID())
			return nil
		})
	}}
}

func (r *Run) node(id cluster.NodeID) cluster.Node { return cluster.Find(r.Cluster, id) }

// convergePrefix begins the names of steps that wait for convergence.
const convergePrefix = "converge: "

// waits counts the waits for convergence of the plan: a claim about each of them wants that many.
func (r *Run) waits() (n int) {
	for _, st := range r.steps {
		if strings.HasPrefix(st.Name, convergePrefix) {
			n++
		}
	}
	return n
}

// converge waits until the cluster has converged and records how long that took since the last start of a daemon. A cluster that does not ends the steps: the record says so,
// and the claim about convergence fails.
func converge(name string) Step {
	return Step{convergePrefix + name, func(ctx context.Context, r *Run) error { return r.converge(ctx, name) }}
}

func (r *Run) converge(ctx context.Context, name string) error {
	want := observe.Want{}
	if r.Plan.Kind == cluster.Membershipd {
		want = observe.Want{Buckets: buckets, Replicas: r.wantReplicas()}
	}
	began := r.lastStarted()
	wctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	p := observe.WaitConverged(wctx, r.Cluster, want)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	r.Rec.Event(history.ConvergedEvent(name, history.Convergence{
		OK: p.OK, Seconds: time.Since(began).Seconds(), Ready: p.Ready, Buckets: p.Buckets, Replicas: p.Replicas,
		Current: p.Current, Identical: p.Identical, Why: p.Why,
	}))
	if !p.OK {
		return fmt.Errorf("%w: not converged after %v: %s", errGiveUp, convergeTimeout, p.Why)
	}
	return nil
}

func (r *Run) wantReplicas() int {
	if r.counts["scaled"] > 0 || r.Scenario.Replicas == 0 {
		return 3
	}
	return r.Scenario.Replicas
}

// loadUp sets workloads up and lets them run until stopLoad.
func loadUp(ws ...workload.Workload) Step {
	var ns []string
	for _, w := range ws {
		ns = append(ns, w.Name())
	}
	return Step{"load: " + strings.Join(ns, ", "), func(ctx context.Context, r *Run) error {
		for i, w := range ws {
			if err := w.Setup(ctx, r.Env); err != nil {
				for _, made := range ws[:i+1] {
					made.Close() // it never runs, and so nobody else does
				}
				return fmt.Errorf("set up workload %s: %w", w.Name(), err)
			}
		}
		for _, w := range ws {
			r.loads = append(r.loads, r.background(ctx, w))
		}
		return nil
	}}
}

// moreOps waits until n more operations have succeeded: steady state by count, not by time. A cluster on which they do not ends the steps.
func moreOps(n int64, within time.Duration) Step {
	return Step{fmt.Sprintf("until %d more operations have succeeded", n), func(ctx context.Context, r *Run) error {
		_, before := r.Rec.Counts()
		return r.until(ctx, within, fmt.Sprintf("%d operations", n), func(context.Context) bool {
			_, now := r.Rec.Counts()
			return now-before >= n
		})
	}}
}

// moreAcked waits until n more operations on one target have succeeded: where others are written too, what these answer says nothing of it.
func moreAcked(target string, n int, within time.Duration) Step {
	return Step{fmt.Sprintf("until %d more operations on %s have succeeded", n, target), func(ctx context.Context, r *Run) error {
		before := r.acked(target)
		return r.until(ctx, within, fmt.Sprintf("%d operations on %s", n, target), func(context.Context) bool { return r.acked(target)-before >= n })
	}}
}

// acked counts the operations on a target that have succeeded so far.
func (r *Run) acked(target string) (n int) {
	r.Rec.Last(func(h *history.History) {
		for i := range h.Ops {
			if op := &h.Ops[i]; op.Target == target && op.Outcome == history.OK {
				n++
			}
		}
	})
	return n
}

// until polls cond; when within ends first the steps end, as the record shows why.
func (r *Run) until(ctx context.Context, within time.Duration, what string, cond func(context.Context) bool) error {
	wctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for !cond(wctx) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wctx.Done():
			return fmt.Errorf("%w: no %s within %v", errGiveUp, what, within)
		case <-t.C:
		}
	}
	return nil
}

// ready waits until these nodes say that they are ready.
func ready(within time.Duration, ids ...cluster.NodeID) Step {
	return Step{"until ready: " + joinIDs(ids), func(ctx context.Context, r *Run) error {
		return r.until(ctx, within, "readiness of "+joinIDs(ids), func(ctx context.Context) bool {
			for _, id := range ids {
				if code, _, err := observe.Get(ctx, r.node(id).Endpoints().Ready); err != nil || code != http.StatusOK {
					return false
				}
			}
			return true
		})
	}}
}

// stopLoad ends all workloads and reads their data back.
func stopLoad() Step {
	return Step{"stop the load and read everything back", func(ctx context.Context, r *Run) error {
		return r.drain(ctx)
	}}
}

func (r *Run) drain(ctx context.Context) error {
	ls := r.loads
	r.stopLoads()
	for _, l := range ls {
		dctx, cancel := context.WithTimeout(ctx, drainTimeout)
		err := l.w.Drain(dctx, r.Env)
		cancel()
		l.w.Close()
		if err != nil {
			// The record then holds no complete drain, and the claims that need one are inconclusive; why is worth knowing.
			r.Rec.Event(history.Event{Kind: "note", Name: "drain of " + l.w.Name(), Detail: err.Error()})
		}
	}
	return nil
}

// stopAll ends every daemon with sig at once and waits until they are gone.
func stopAll(sig syscall.Signal) Step {
	return Step{fmt.Sprintf("stop all nodes with %s", sigName(sig)), func(ctx context.Context, r *Run) error {
		return r.stopAll(ctx, sig)
	}}
}

func (r *Run) stopAll(ctx context.Context, sig syscall.Signal) error {
	return r.eachNode(func(n cluster.Node) error {
		if err := n.Signal(ctx, sig); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			return fmt.Errorf("stop %s: %w", n.ID(), err)
		}
		wctx, cancel := context.WithTimeout(ctx, exitTimeout)
		defer cancel()
		if err := n.WaitExit(wctx); err != nil {
			return fmt.Errorf("wait for %s to end: %w", n.ID(), err)
		}
		r.Rec.Event(history.Event{Kind: "node", Name: "stopped with " + sigName(sig), Nodes: []string{string(n.ID())}})
		return nil
	})
}

// exitNow ends a daemon in whatever state it is.
func exitNow(ctx context.Context, n cluster.Node) error {
	if err := n.Signal(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
		return fmt.Errorf("kill %s: %w", n.ID(), err)
	}
	return n.WaitExit(ctx)
}

func sigName(s syscall.Signal) string {
	switch s {
	case syscall.SIGKILL:
		return "SIGKILL"
	case syscall.SIGTERM:
		return "SIGTERM"
	}
	return s.String()
}

func joinIDs(ids []cluster.NodeID) string {
	ss := make([]string, len(ids))
	for i, id := range ids {
		ss[i] = string(id)
	}
	return strings.Join(ss, ", ")
}

// others lists the nodes n1..n3 without those given.
func others(not ...cluster.NodeID) []cluster.NodeID {
	var out []cluster.NodeID
next:
	for _, id := range []cluster.NodeID{"n1", "n2", "n3"} {
		for _, n := range not {
			if id == n {
				continue next
			}
		}
		out = append(out, id)
	}
	return out
}
