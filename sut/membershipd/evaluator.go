package membershipd

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const evaluateInterval = 150 * time.Millisecond

// snapshot is a judgement and the moment before its facts were collected.
type snapshot struct {
	at    time.Time
	facts health.Facts
	health.Judgement
}

// evaluator judges several times a second. Whoever asks gets the latest judgement at once, even while the embedded
// server is stuck in a lock: the judgement then grows old, and an old one is worth nothing.
type evaluator struct {
	log     *slog.Logger
	collect func() health.Facts
	latest  atomic.Pointer[snapshot]
	kicks   chan struct{}
	changed func(before, after *snapshot)
	quorum  atomic.Pointer[time.Time] // when a majority was last seen
}

func newEvaluator(log *slog.Logger, collect func() health.Facts, changed func(before, after *snapshot)) *evaluator {
	return &evaluator{log: log, collect: collect, changed: changed, kicks: make(chan struct{}, 1)}
}

// kick asks for a judgement now.
func (e *evaluator) kick() {
	select {
	case e.kicks <- struct{}{}:
	default:
	}
}

func (e *evaluator) run(ctx context.Context) {
	t := time.NewTicker(evaluateInterval)
	defer t.Stop()
	for {
		e.evaluate()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-e.kicks:
		}
	}
}

func (e *evaluator) evaluate() {
	at := time.Now()
	f := e.collect()
	next := &snapshot{at: at, facts: f, Judgement: health.Judge(f)}
	before := e.latest.Swap(next)
	if next.Quorum.Have >= next.Quorum.Need {
		e.quorum.Store(&at)
	}
	e.report(before, next)
	e.changed(before, next)
}

// report writes a line when readiness, or the first reason against it, has changed.
func (e *evaluator) report(before, after *snapshot) {
	switch {
	case after.Ready && (before == nil || !before.Ready):
		e.log.Info("ready", "meta_leader", after.facts.Meta.Leader, "posture", after.Posture.State, "why", after.Posture.Why)
	case before != nil && before.Ready && !after.Ready:
		e.log.Warn("not ready", "reasons", strings.Join(after.Reasons, "; "))
	case before != nil && !before.Ready && !slices.Equal(before.Reasons, after.Reasons):
		e.log.Debug("not ready", "reasons", strings.Join(after.Reasons, "; "))
	case before != nil && after.Ready && before.Posture.State != after.Posture.State:
		e.log.Info("posture", "state", after.Posture.State, "why", after.Posture.Why)
	}
}

// view is the latest judgement, or one that says why there is none.
func (e *evaluator) view() snapshot {
	s := e.latest.Load()
	if s == nil {
		return snapshot{Judgement: health.Judgement{Reasons: []string{"starting: nothing has been judged yet"}}}
	}
	out := *s
	if age := time.Since(s.at); age > health.StaleLimit {
		out.Ready = false
		out.Reasons = append([]string{fmt.Sprintf("stale: the last judgement is %s old", age.Round(100*time.Millisecond))}, out.Reasons...)
	}
	return out
}

// gentle is the answer for load balancers of the data plane: it rides out an election, and nothing else.
func (e *evaluator) gentle() (ok bool, why string) {
	s := e.view()
	seen := e.quorum.Load()
	switch {
	case s.facts.ShuttingDown:
		return false, "shutting down"
	case !s.facts.Started || !s.facts.JetStream:
		return false, "starting"
	case seen == nil:
		return false, "a majority of the nodes has not been seen yet"
	case time.Since(*seen) > health.GentleLimit:
		return false, fmt.Sprintf("a majority of the nodes was last seen %s ago", time.Since(*seen).Round(time.Second))
	case time.Since(s.at) > health.GentleLimit:
		return false, "the last judgement is too old"
	}
	return true, ""
}
