package check

import (
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// defaultNodes is the size of the clusters that this project runs.
const defaultNodes = 3

// staleCopy is how much older than the node's newest word on any stream its word on one stream may be. A node that is polled
// round after round and stops speaking of a stream does not have it any more.
const staleCopy = 10e9

// ReplicaAgreement ("replica-agreement") compares the nodes' own copies of each stream, the last that the record has of each. A copy
// is the node's own word: asking through the cluster would ask whichever node happens to answer.
type ReplicaAgreement struct {
	Targets      []string `json:"targets,omitempty"`       // as in Replica.Target, "ACCOUNT/STREAM"; empty means all that the record has
	Source       string   `json:"source,omitempty"`        // "jsz", "blocks", or "" for each source that the record has, judged apart
	Nodes        int      `json:"nodes,omitempty"`         // copies that each target must have; 0 means 3
	AllowDeleted bool     `json:"allow_deleted,omitempty"` // sequences may be missing inside (KV history does that)
}

// The sources of Replica records.
const (
	sourceJsz    = "jsz"
	sourceBlocks = "blocks"
)

// copies is the evidence of one source: target -> node -> last record.
type copies struct {
	source string
	last   map[string]map[string]history.Replica
	newest map[string]int64 // node -> its newest record
}

// Check implements Checker.
func (c ReplicaAgreement) Check(h *history.History) Result {
	if c.Source != "" && c.Source != sourceJsz && c.Source != sourceBlocks {
		return inconclusive(nil, CodeBadParams, "There is no source %q.", c.Source)
	}
	var all []copies
	for _, s := range []string{sourceJsz, sourceBlocks} {
		if c.Source == "" || c.Source == s {
			if cs := collect(h, s); len(cs.last) > 0 {
				all = append(all, cs)
			}
		}
	}
	if len(all) == 0 {
		return inconclusive(nil, CodeNoReplicas, "The record has no node's own copy of anything (source %q).", c.Source)
	}
	v := verdicts{
		damaged: violation{code: CodeReplicaDamaged, promise: promiseReplicas},
		differ:  violation{code: CodeReplicasDiffer, promise: promiseReplicas},
		missing: violation{code: CodeReplicaMissing, promise: promiseReplicas},
	}
	for _, cs := range all {
		if r := c.source(cs, &v); r != nil {
			v.open = r
		}
	}
	figures := []Figure{count("targets", v.targets), count("copies", v.copies), count("replicas_damaged", v.damaged.count), count("replicas_differ", v.differ.count), count("replicas_missing", v.missing.count)}
	v.damaged.reason = fmt.Sprintf("%d copies are damaged or lack sequences inside.", v.damaged.count)
	v.differ.reason = fmt.Sprintf("%d copies differ from the others.", v.differ.count)
	v.missing.reason = fmt.Sprintf("%d copies are not on their node.", v.missing.count)
	if r, bad := found(figures, v.damaged, v.differ, v.missing); bad {
		return r
	}
	if v.open != nil {
		v.open.Figures = figures
		return *v.open
	}
	return passed(figures, "%d copies of %d streams agree, at least %d of each.", v.copies, v.targets, c.nodes())
}

// verdicts gathers what all sources say.
type verdicts struct {
	damaged, differ, missing violation
	open                     *Result // what could not be judged
	targets, copies          int
}

func (c ReplicaAgreement) nodes() int { return orDefault(c.Nodes, defaultNodes) }

func collect(h *history.History, source string) copies {
	cs := copies{source: source, last: map[string]map[string]history.Replica{}, newest: map[string]int64{}}
	for _, r := range h.Replicas {
		if r.Source != source {
			continue
		}
		if cs.last[r.Target] == nil {
			cs.last[r.Target] = map[string]history.Replica{}
		}
		if old, ok := cs.last[r.Target][r.Node]; !ok || r.At >= old.At {
			cs.last[r.Target][r.Node] = r
		}
		cs.newest[r.Node] = max(cs.newest[r.Node], r.At)
	}
	return cs
}

// source judges all targets of one source and returns what kept it from judging some.
func (c ReplicaAgreement) source(cs copies, v *verdicts) *Result {
	var open *Result
	if len(cs.newest) < c.nodes() {
		r := inconclusive(nil, CodeTooFewNodes, "%d nodes told of their copies (%s), %d are needed.", len(cs.newest), cs.source, c.nodes())
		open = &r
	}
	targets := c.Targets
	if len(targets) == 0 {
		targets = sortedKeys(cs.last)
	}
	for _, t := range targets {
		v.targets++
		if r := c.target(cs, t, v); r != nil && open == nil {
			open = r
		}
	}
	return open
}

func (c ReplicaAgreement) target(cs copies, target string, v *verdicts) *Result {
	var open *Result
	var good []history.Replica
	for _, node := range sortedKeys(cs.last[target]) {
		r := cs.last[target][node]
		switch {
		case cs.source == sourceJsz && cs.newest[node]-r.At > staleCopy: // it speaks of other streams, not of this one
		case r.Err != "":
			res := inconclusive(nil, CodeUnreadable, "%s's copy of %s (%s) could not be read: %s", node, target, cs.source, r.Err)
			open = &res
			good = append(good, r) // it is there
		default:
			good = append(good, r)
			v.copies++
			if r.Damaged > 0 || r.Deleted > 0 && !c.AllowDeleted {
				v.damaged.count++
				v.damaged.seen.add(r.At, nil, "%s's copy of %s (%s): %d damaged records, %d sequences missing inside, %d messages from %d to %d", node, target, cs.source, r.Damaged, r.Deleted, r.Msgs, r.First, r.Last)
			}
		}
	}
	if lack := c.nodes() - len(good); lack > 0 && len(cs.newest) >= c.nodes() {
		v.missing.count += lack
		v.missing.seen.add(0, nil, "%s has %d copies on %d nodes (%s), %d are needed", target, len(good), len(cs.newest), cs.source, c.nodes())
	} else if lack > 0 && open == nil {
		res := inconclusive(nil, CodeTooFewNodes, "%s: %d nodes told of their copy (%s), %d are needed.", target, len(good), cs.source, c.nodes())
		open = &res
	}
	good = slices.DeleteFunc(good, func(r history.Replica) bool { return r.Err != "" })
	if r := compare(cs.source, good, v); r != nil && open == nil {
		open = r
	}
	return open
}

// content is what must be the same in every copy.
type content struct {
	first, last, msgs, bytes uint64
	digest                   string
}

func contentOf(r history.Replica) content {
	k := content{first: r.First, last: r.Last, msgs: r.Msgs}
	if r.Msgs == 0 {
		k.first = 0 // an empty stream starts at 0, 1 or last+1, depending on how it became empty
	}
	if r.Source == sourceBlocks {
		k.digest = r.Digest
	} else {
		k.bytes = r.Bytes
	}
	return k
}

// compare counts the copies that are not like the most of them.
func compare(source string, rs []history.Replica, v *verdicts) *Result {
	votes := map[content]int{}
	for _, r := range rs {
		if source == sourceBlocks && r.Digest == "" {
			res := inconclusive(nil, CodeUnreadable, "%s's copy of %s has no digest.", r.Node, r.Target)
			return &res
		}
		votes[contentOf(r)]++
	}
	if len(votes) < 2 {
		return nil
	}
	most := rs[0]
	for _, r := range rs {
		if votes[contentOf(r)] > votes[contentOf(most)] {
			most = r
		}
	}
	for _, r := range rs {
		if contentOf(r) != contentOf(most) {
			v.differ.count++
			v.differ.seen.add(r.At, nil, "%s (%s): %s has %s, %s has %s", r.Target, source, r.Node, describe(r), most.Node, describe(most))
		}
	}
	return nil
}

func describe(r history.Replica) string {
	s := fmt.Sprintf("%d messages from %d to %d", r.Msgs, r.First, r.Last)
	if r.Source == sourceBlocks {
		return s + ", digest " + r.Digest
	}
	return fmt.Sprintf("%s, %d bytes", s, r.Bytes)
}

func sortedKeys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
