package check

import (
	"fmt"
	"math"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Effect ("effect") measures how long after its confirmation a change is in effect at every node that confirmed it: until the end of the first attempt
// that the new rules answer otherwise than the old ones, and that was answered by the new ones. That is an upper bound: it has the attempt's own duration
// in it, and the wait for the next attempt. The lower bound is the begin of the last attempt that was still answered by the old ones. Fail needs a lower
// bound that is too long, Pass an upper bound that is short enough; between them the machine was too slow to tell. Changes that nobody tried are not counted.
type Effect struct {
	Window     Window   `json:"window"`
	Users      []string `json:"users"`                 // prefixes of the names of users that are tried all the time
	MaxP99     float64  `json:"max_p99_seconds"`       // of the time from the confirmation; 0 means that it is only reported
	MinSamples int      `json:"min_samples,omitempty"` // changes times nodes; 0 means 1
	MinNodes   int      `json:"min_nodes,omitempty"`   // with samples; 0 means 1
}

// effectSample is one change at one node.
type effectSample struct {
	write written
	node  string
	first *history.Op // the first attempt that shows it; nil for none
	last  int64       // begin of the last attempt before that that did not; 0 for none after the confirmation
	tried int         // attempts that would have
}

// Check implements Checker.
func (c Effect) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	world, err := newAccessWorld(h, "")
	if err != nil {
		return inconclusive(nil, CodeBadRecord, "The changes cannot be read: %v.", err)
	}
	samples := c.samples(h, world, w)
	never := violation{code: CodeNeverInForce, promise: promiseEffect}
	var after, least, whole []float64
	nodes := map[string]int{}
	for _, s := range samples {
		if s.first == nil {
			never.count++
			never.seen.add(s.write.at, []int64{s.write.op.ID}, "%s %s, confirmed by %s, was in none of %d attempts there that it should have changed", s.write.op.Target, s.write.op.Key, s.node, s.tried)
			continue
		}
		nodes[s.node]++
		after = append(after, seconds(max(0, s.first.Complete-s.write.at)))
		least = append(least, seconds(max(0, s.last-s.write.at)))
		whole = append(whole, seconds(s.first.Complete-s.write.op.Invoke))
	}
	slices.Sort(after)
	slices.Sort(least)
	slices.Sort(whole)
	figures := []Figure{count("samples", len(after)), count("nodes", len(nodes)), count("never", never.count),
		inSecs("after_confirmed_median_s", median(after)), inSecs("after_confirmed_p99_s", quantile(after, 0.99)), inSecs("after_confirmed_max_s", quantile(after, 1)),
		inSecs("at_least_p99_s", quantile(least, 0.99)), inSecs("at_least_max_s", quantile(least, 1)),
		inSecs("after_request_median_s", median(whole)), inSecs("after_request_p99_s", quantile(whole, 0.99))}
	never.reason = fmt.Sprintf("%d of %d confirmed changes never showed at a node that confirmed them.", never.count, len(samples))
	late := violation{code: CodeTooSlow, promise: promiseEffect}
	if p99 := quantile(least, 0.99); c.MaxP99 > 0 && p99 > c.MaxP99 {
		late.reason = fmt.Sprintf("The 99th percentile of the time from a confirmed change to its effect is at least %.3f s, above %g s.", p99, c.MaxP99)
		late.count, late.seen = c.slow(samples)
	}
	if r, bad := found(figures, never, late); bad {
		return r
	}
	if need := orDefault(c.MinSamples, 1); len(after) < need {
		return inconclusive(figures, CodeTooFewSamples, "%d changes were seen to take effect, at least %d are needed.", len(after), need)
	}
	if need := orDefault(c.MinNodes, 1); len(nodes) < need {
		return inconclusive(figures, CodeTooFewNodes, "Changes were seen at %d nodes, at least %d are needed.", len(nodes), need)
	}
	if p99 := quantile(after, 0.99); c.MaxP99 > 0 && p99 > c.MaxP99 {
		return inconclusive(figures, CodeUnsettled, "The 99th percentile of the time from a confirmed change to its effect lies between %.3f s and %.3f s: the attempts were too slow to hold it against %g s.",
			quantile(least, 0.99), p99, c.MaxP99)
	}
	return passed(figures, "In %d samples at %d nodes a confirmed change was in effect after %.1f ms at the median and %.1f ms at the 99th percentile (upper bounds).",
		len(after), len(nodes), 1e3*median(after), 1e3*quantile(after, 0.99))
}

// slow is the samples above the bound.
func (c Effect) slow(samples []effectSample) (n int, seen witnesses) {
	for _, s := range samples {
		if s.first == nil || s.last-s.write.at <= nanos(c.MaxP99) {
			continue
		}
		n++
		seen.add(s.last, []int64{s.write.op.ID, s.first.ID}, "%s %s was not in effect at %s %.3f s after it was confirmed", s.write.op.Target, s.write.op.Key, s.node, seconds(s.last-s.write.at))
	}
	return n, seen
}

// samples pairs confirmed changes with the attempts that show them.
func (c Effect) samples(h *history.History, world *accessWorld, w span) []effectSample {
	tries := map[string][]*history.Op{} // by user
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Access && op.Outcome != history.Unknown && hasPrefix(op.Target, c.Users) {
			tries[op.Target] = append(tries[op.Target], op)
		}
	}
	var out []effectSample
	for user, ops := range tries {
		slices.SortFunc(ops, func(a, b *history.Op) int { return int(a.ID - b.ID) })
		keys := world.keysOf(user)
		for _, k := range keys {
			for i, wr := range world.records[k] {
				if wr.at == 0 || !w.has(wr.op.Invoke) {
					continue
				}
				until := world.next(keys, wr)
				for node, sure := range wr.sure {
					if s := world.sample(k, i, node, until, ops); sure && s.tried > 0 {
						out = append(out, s)
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b effectSample) int {
		if a.write.op.ID != b.write.op.ID {
			return int(a.write.op.ID - b.write.op.ID)
		}
		return slices.Compare([]byte(a.node), []byte(b.node))
	})
	return out
}

// keysOf is the records that say what a user may do and that are its alone.
func (w *accessWorld) keysOf(user string) []recordKey {
	keys := []recordKey{{TargetUsers, user}}
	for _, r := range w.rooms {
		keys = append(keys, recordKey{TargetMembers, r + "." + user})
	}
	return keys
}

// next is when the first change after wr to one of the records was begun.
func (w *accessWorld) next(keys []recordKey, wr written) int64 {
	next := int64(math.MaxInt64)
	for _, k := range keys {
		for _, other := range w.records[k] {
			if other.op.ID > wr.op.ID {
				next = min(next, other.op.Invoke)
			}
		}
	}
	return next
}

// sample looks for the first attempt at node, from the change's invocation until the next change's, that shows the i-th write of a record.
func (w *accessWorld) sample(k recordKey, i int, node string, until int64, ops []*history.Op) effectSample {
	wr := w.records[k][i]
	s := effectSample{write: wr, node: node}
	before := ""
	if wr.undo >= 0 {
		before = w.records[k][wr.undo].value
	}
	for _, op := range ops {
		if op.Node != node || op.Invoke < wr.op.Invoke || op.Complete > until {
			continue
		}
		a, err := attemptOf(op)
		if err != nil {
			continue
		}
		was := w.judge(a, node, op.Invoke, op.Complete, map[recordKey]string{k: before})
		is := w.judge(a, node, op.Invoke, op.Complete, map[recordKey]string{k: wr.value})
		if was == is || was.yes && was.no || is.yes && is.no {
			continue // it cannot tell the one from the other
		}
		allowed := op.Outcome == history.OK
		switch {
		case allowed == is.yes:
			s.first, s.tried = op, s.tried+1
			return s
		case op.Invoke >= wr.at:
			s.tried++
			s.last = op.Invoke
		}
	}
	return s
}
