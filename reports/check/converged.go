package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// Converged ("converged") judges the "converged" events.
type Converged struct {
	Min        int     `json:"min,omitempty"`         // fewer events are Inconclusive; 0 means 1
	Buckets    int     `json:"buckets,omitempty"`     // control-plane buckets; 0 means 6, -1 means none (plain nats-server)
	Replicas   int     `json:"replicas,omitempty"`    // 0 means 3
	Nodes      int     `json:"nodes,omitempty"`       // that must be ready; 0 means 3
	MaxSeconds float64 `json:"max_seconds,omitempty"` // 0 means that the time is only reported
}

const (
	defaultBuckets  = 6
	defaultReplicas = 3
)

// Check implements Checker.
func (c Converged) Check(h *history.History) Result {
	not := violation{code: CodeNotConverged, promise: promiseConverge}
	under := violation{code: CodeUnderRepl, promise: promiseConverge}
	differ := violation{code: CodeContentsDiffer, promise: promiseConverge}
	slow := violation{code: CodeTooSlow, promise: promiseConverge}
	var took []float64
	n := 0
	for _, e := range h.Events {
		if e.Kind != "converged" {
			continue
		}
		n++
		v, ok := e.Convergence()
		if !ok {
			return inconclusive(nil, CodeBadRecord, "The event %q does not say what had converged.", e.Name)
		}
		var hit *violation
		why := ""
		switch {
		case c.underReplicated(v):
			hit, why = &under, fmt.Sprintf("the smallest R was %d", v.Replicas)
		case !v.OK || !v.Current || len(v.Ready) < orDefault(c.Nodes, defaultNodes) || c.buckets() > v.Buckets:
			hit, why = &not, fmt.Sprintf("ready: %s; buckets: %d; all replicas current: %t; %s", orDash(strings.Join(v.Ready, ", ")), v.Buckets, v.Current, orDash(v.Why))
		case !v.Identical:
			hit, why = &differ, "the nodes' own copies did not agree"
		case c.MaxSeconds > 0 && v.Seconds > c.MaxSeconds:
			hit, why = &slow, "too slow"
		}
		if v.OK {
			took = append(took, v.Seconds)
		}
		if hit != nil {
			hit.count++
			hit.seen.add(e.At, nil, "%s, %.3f s after the last start: %s", e.Name, v.Seconds, why)
		}
	}
	slices.Sort(took)
	figures := []Figure{count("events", n), count("converged", len(took)), inSecs("median_s", median(took)), inSecs("max_s", quantile(took, 1))}
	not.reason = fmt.Sprintf("%d of %d times the cluster did not converge.", not.count, n)
	under.reason = fmt.Sprintf("%d of %d times a bucket had fewer than %d replicas.", under.count, n, c.replicas())
	differ.reason = fmt.Sprintf("%d of %d times the nodes' own copies differed.", differ.count, n)
	slow.reason = fmt.Sprintf("%d of %d times it took longer than %g s.", slow.count, n, c.MaxSeconds)
	if r, bad := found(figures, under, not, differ, slow); bad {
		return r
	}
	if need := orDefault(c.Min, 1); n < need {
		return inconclusive(figures, CodeTooFewEvents, "The record has %d convergences, at least %d are needed.", n, need)
	}
	return passed(figures, "The cluster converged %d of %d times, in %.3f s (median), %.3f s at most.", n, n, median(took), quantile(took, 1))
}

func (c Converged) buckets() int  { return orDefault(c.Buckets, defaultBuckets) }
func (c Converged) replicas() int { return orDefault(c.Replicas, defaultReplicas) }

// underReplicated says whether all buckets were there with too few replicas: a better reason than that the wait ended.
func (c Converged) underReplicated(v history.Convergence) bool {
	return c.buckets() > 0 && v.Buckets >= c.buckets() && v.Replicas < c.replicas()
}
