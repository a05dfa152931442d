package check

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// kvWrite says whether op is an acked write of the bucket.
func kvWrite(op *history.Op, target string) bool {
	return op.Target == target && op.Kind != history.Publish && op.Kind != history.Append && writes[op.Kind] && op.Outcome == history.OK
}

// staleRead makes a read return a write that an acked later one had replaced before the read was invoked.
func staleRead(h *history.History, c KVLinearizable, rng *rand.Rand) (string, bool) {
	if c.WritesOnly {
		return "the claim is about writes only", false
	}
	// Per key, the first two acked writes by completion: whatever is read after both must not be the one with the lower revision.
	type pair struct{ low, high *history.Op }
	pairs := map[string]pair{}
	var acked []*history.Op
	for i := range h.Ops {
		if op := &h.Ops[i]; kvWrite(op, c.Target) {
			acked = append(acked, op)
		}
	}
	slices.SortStableFunc(acked, func(a, b *history.Op) int { return cmp.Compare(a.Complete, b.Complete) })
	for _, op := range acked {
		switch p := pairs[op.Key]; {
		case p.low == nil:
			pairs[op.Key] = pair{low: op}
		case p.high == nil && op.Seq > p.low.Seq:
			pairs[op.Key] = pair{p.low, op}
		}
	}
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		p := pairs[op.Key]
		return op.Target == c.Target && op.Kind == history.Get && op.Outcome == history.OK && p.high != nil && p.high.Complete < op.Invoke
	})
	if i < 0 {
		return "no read came after two acked writes of its key", false
	}
	h.Ops = slices.Clone(h.Ops)
	op, low := &h.Ops[i], pairs[h.Ops[i].Key].low
	op.Value, op.Seq = low.Value, low.Seq
	return fmt.Sprintf("made read %d return revision %d, which had been replaced", op.ID, low.Seq), true
}

func doubleCAS(h *history.History, c KVLinearizable, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Ops, func(op *history.Op) bool { return kvWrite(op, c.Target) && op.Kind == history.Update })
	if i < 0 {
		return "no update was acked", false
	}
	op := h.Ops[i]
	op.ID, op.Value = invented(h), foreign
	for k := range h.Ops {
		if h.Ops[k].Target == c.Target {
			op.Seq = max(op.Seq, h.Ops[k].Seq+1)
		}
	}
	h.Ops = append(slices.Clone(h.Ops), op)
	return fmt.Sprintf("added an acked update of key %q that expects revision %d, as update %d does", op.Key, op.Prev, h.Ops[i].ID), true
}

func reuseRevision(h *history.History, c KVLinearizable, rng *rand.Rand) (string, bool) {
	is := func(op *history.Op) bool { return kvWrite(op, c.Target) }
	i := pick(rng, h.Ops, is)
	j := pick(rng, h.Ops, func(op *history.Op) bool { return is(op) && op.ID != h.Ops[i].ID })
	if i < 0 || j < 0 {
		return "fewer than two writes were acked", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Seq = h.Ops[j].Seq
	return fmt.Sprintf("gave write %d the revision %d of write %d", h.Ops[i].ID, h.Ops[j].Seq, h.Ops[j].ID), true
}

// lastAcked is, per key, the acked write with the highest revision.
func lastAcked(h *history.History, target string) map[string]*history.Op {
	last := map[string]*history.Op{}
	for i := range h.Ops {
		if op := &h.Ops[i]; kvWrite(op, target) && (last[op.Key] == nil || op.Seq > last[op.Key].Seq) {
			last[op.Key] = op
		}
	}
	return last
}

func dropKey(h *history.History, c KVDurable, rng *rand.Rand) (string, bool) {
	last := lastAcked(h, c.Target)
	i := pick(rng, h.Items, func(it *history.Item) bool { return it.Target == c.Target && last[it.Key] != nil })
	if i < 0 {
		return "no key with an acked write was read back", false
	}
	key := h.Items[i].Key
	for k := len(h.Items) - 1; k >= 0; k-- {
		if h.Items[k].Target == c.Target && h.Items[k].Key == key {
			removeItem(h, k)
		}
	}
	return fmt.Sprintf("took key %q out of what was read back", key), true
}

// ageKey makes a key hold an older revision than was acked.
func ageKey(h *history.History, c KVDurable, rng *rand.Rand) (string, bool) {
	last := lastAcked(h, c.Target)
	i := pick(rng, h.Items, func(it *history.Item) bool {
		return it.Target == c.Target && last[it.Key] != nil && last[it.Key].Seq > 1
	})
	if i < 0 {
		return "no key with an acked write above revision 1 was read back", false
	}
	key := h.Items[i].Key
	h.Items = slices.Clone(h.Items)
	for k := range h.Items {
		if it := &h.Items[k]; it.Target == c.Target && it.Key == key {
			it.Seq = min(it.Seq, last[key].Seq-1)
		}
	}
	return fmt.Sprintf("made key %q hold a revision below the acked %d", key, last[key].Seq), true
}

func changeValue(h *history.History, c KVDurable, rng *rand.Rand) (string, bool) {
	last := lastAcked(h, c.Target)
	i := pick(rng, h.Items, func(it *history.Item) bool {
		return it.Target == c.Target && last[it.Key] != nil && it.Seq == last[it.Key].Seq
	})
	if i < 0 {
		return "no key holds its last acked revision", false
	}
	newest := h.Items[i].Seq
	for k := range h.Items {
		if h.Items[k].Target == c.Target && h.Items[k].Key == h.Items[i].Key {
			newest = max(newest, h.Items[k].Seq)
		}
	}
	if newest != h.Items[i].Seq {
		return "the key holds a later write of unknown outcome", false
	}
	h.Items = slices.Clone(h.Items)
	h.Items[i].Value = foreign
	return fmt.Sprintf("changed the value of key %q at its acked revision %d", h.Items[i].Key, newest), true
}

func insertKey(h *history.History, c KVDurable, _ *rand.Rand) (string, bool) {
	it := appendItem(h, c.Target, history.Item{Key: foreign, Value: foreign})
	return fmt.Sprintf("put a key that nobody wrote at revision %d", it.Seq), true
}

// lastCopies lists the indexes of the Replica records that the checker judges.
func lastCopies(h *history.History, c ReplicaAgreement) []int {
	newest := map[string]int{}
	for i, r := range h.Replicas {
		if c.Source != "" && r.Source != c.Source || len(c.Targets) > 0 && !slices.Contains(c.Targets, r.Target) {
			continue
		}
		k := r.Source + "\n" + r.Target + "\n" + r.Node
		if old, ok := newest[k]; !ok || r.At >= h.Replicas[old].At {
			newest[k] = i
		}
	}
	var is []int
	for _, k := range sortedKeys(newest) {
		is = append(is, newest[k])
	}
	return is
}

// changeReplica changes one judged copy.
func changeReplica(h *history.History, c ReplicaAgreement, rng *rand.Rand, f func(r *history.Replica)) (history.Replica, bool) {
	is := lastCopies(h, c)
	if len(is) == 0 || c.nodes() < 2 {
		return history.Replica{}, false
	}
	i := is[rng.IntN(len(is))]
	h.Replicas = slices.Clone(h.Replicas)
	f(&h.Replicas[i])
	return h.Replicas[i], true
}

func dropReplicaMessage(h *history.History, c ReplicaAgreement, rng *rand.Rand) (string, bool) {
	r, ok := changeReplica(h, c, rng, func(r *history.Replica) {
		r.Bytes++
		r.Digest = "sha256:0000 " + foreign
		if r.Msgs > 0 {
			r.Msgs--
		}
	})
	return fmt.Sprintf("made %s's copy of %s (%s) differ", r.Node, r.Target, r.Source), ok
}

func damageReplica(h *history.History, c ReplicaAgreement, rng *rand.Rand) (string, bool) {
	r, ok := changeReplica(h, c, rng, func(r *history.Replica) { r.Damaged++ })
	return fmt.Sprintf("damaged a record of %s's copy of %s (%s)", r.Node, r.Target, r.Source), ok
}

// dropReplica removes a node's copy of one stream, where the node told of other streams: a node that told nothing at all is no evidence.
func dropReplica(h *history.History, c ReplicaAgreement, rng *rand.Rand) (string, bool) {
	targets, copies := map[string]map[string]bool{}, map[string]int{}
	for i := range h.Replicas {
		r := &h.Replicas[i]
		k := r.Source + "\n" + r.Node
		if targets[k] == nil {
			targets[k] = map[string]bool{}
		}
		targets[k][r.Target] = true
	}
	is := lastCopies(h, c)
	for _, i := range is {
		copies[h.Replicas[i].Source+"\n"+h.Replicas[i].Target]++
	}
	is = slices.DeleteFunc(is, func(i int) bool {
		r := &h.Replicas[i]
		return len(targets[r.Source+"\n"+r.Node]) < 2 || copies[r.Source+"\n"+r.Target] > c.nodes()
	})
	if len(is) == 0 {
		return "no node told of a second stream, or there are more copies than are needed", false
	}
	gone := h.Replicas[is[rng.IntN(len(is))]]
	h.Replicas = slices.DeleteFunc(slices.Clone(h.Replicas), func(r history.Replica) bool {
		return r.Source == gone.Source && r.Target == gone.Target && r.Node == gone.Node
	})
	return fmt.Sprintf("removed %s's copy of %s (%s)", gone.Node, gone.Target, gone.Source), true
}
