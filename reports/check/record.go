package check

import (
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// opFilter picks operations by kind and target.
type opFilter struct {
	kinds   map[history.Kind]bool
	targets map[string]bool // nil for all
}

// writes are the operations that need a quorum.
var writes = map[history.Kind]bool{history.Publish: true, history.Put: true, history.Create: true, history.Update: true, history.Append: true}

func newFilter(kinds, targets []string) opFilter {
	f := opFilter{kinds: writes}
	if len(kinds) > 0 {
		f.kinds = map[history.Kind]bool{}
		for _, k := range kinds {
			f.kinds[history.Kind(k)] = true
		}
	}
	if len(targets) > 0 {
		f.targets = map[string]bool{}
		for _, t := range targets {
			f.targets[t] = true
		}
	}
	return f
}

func (f opFilter) has(op *history.Op) bool {
	return f.kinds[op.Kind] && (f.targets == nil || f.targets[op.Target])
}

// unsound looks for operations that cannot have happened as they stand in the record. Nothing may be concluded from such a record,
// least of all Pass: every checker that looks at operations asks here first.
func unsound(h *history.History) (Result, bool) {
	seen := newIDSet(h.Ops)
	for i := range h.Ops {
		op := &h.Ops[i]
		var code, why string
		switch {
		case op.Invoke < 0 || op.Complete < 0 || op.Complete != 0 && op.Complete < op.Invoke:
			code, why = CodeBadClock, "completes before it is invoked"
		case op.Outcome > history.Failed:
			code, why = CodeBadRecord, "has an outcome that does not exist"
		case op.Outcome != history.Unknown && op.Complete == 0:
			code, why = CodeBadRecord, "has an answer but no time of completion"
		case op.ID <= 0 || !seen.add(op.ID):
			code, why = CodeBadRecord, "has an id that is not its own"
		default:
			continue
		}
		r := inconclusive(nil, code, "Operation %d of client %s %s (invoke %d ns, complete %d ns): the record contradicts itself.", op.ID, op.Client, why, op.Invoke, op.Complete)
		r.Witnesses = []Witness{{Text: "contradicts itself", At: op.Invoke, Ops: []int64{op.ID}}}
		return r, true
	}
	return Result{}, false
}

// idSet is a set of operation ids: a bit each where they are dense, as a recorder makes them, else a map.
type idSet struct {
	bits []uint64
	rest map[int64]struct{}
}

func newIDSet(ops []history.Op) *idSet {
	var top int64
	for i := range ops {
		top = max(top, ops[i].ID)
	}
	s := &idSet{rest: map[int64]struct{}{}}
	if top < int64(len(ops))*8+1024 {
		s.bits = make([]uint64, top/64+1)
	}
	return s
}

// add is false if id was there.
func (s *idSet) add(id int64) bool {
	if id >= 0 && id/64 < int64(len(s.bits)) {
		word, bit := &s.bits[id/64], uint64(1)<<(id%64)
		was := *word&bit != 0
		*word |= bit
		return !was
	}
	if _, was := s.rest[id]; was {
		return false
	}
	s.rest[id] = struct{}{}
	return true
}

// readback is what was read back from one target in its last drain.
type readback struct {
	drain history.Drain
	items []history.Item
}

// drained finds the last drain of target and its items. Without a complete one, or where the two do not fit together, there is no
// evidence about what the target holds.
func drained(h *history.History, target string) (readback, *Result) {
	var rb readback
	var drains, items int
	for _, d := range h.Drains {
		if d.Target == target {
			rb.drain = d
			drains++
			items += d.Items
		}
	}
	if drains == 0 {
		r := inconclusive(nil, CodeNoDrain, "%s was never read back.", target)
		return rb, &r
	}
	if !rb.drain.Complete || rb.drain.Err != "" {
		r := inconclusive(nil, CodeDrainPartial, "%s was not read back completely (%d items): %s", target, rb.drain.Items, orDash(rb.drain.Err))
		return rb, &r
	}
	all := itemsOf(h.Items, target)
	if len(all) != items {
		r := inconclusive(nil, CodeBadRecord, "The record has %d items of %s, its drains say %d.", len(all), target, items)
		return rb, &r
	}
	rb.items = all[len(all)-rb.drain.Items:]
	return rb, nil
}

// itemsOf is the items of target, without copying where they stand together, as a drain writes them.
func itemsOf(items []history.Item, target string) []history.Item {
	is := func(it history.Item) bool { return it.Target == target }
	from := slices.IndexFunc(items, is)
	if from < 0 {
		return nil
	}
	to := from
	for to < len(items) && is(items[to]) {
		to++
	}
	if !slices.ContainsFunc(items[to:], is) {
		return items[from:to:to]
	}
	var out []history.Item
	for _, it := range items {
		if is(it) {
			out = append(out, it)
		}
	}
	return out
}

// ascending says whether the items are in stream order, each sequence once.
func (rb readback) ascending() bool {
	for i := range rb.items {
		if rb.items[i].Seq == 0 || i > 0 && rb.items[i].Seq <= rb.items[i-1].Seq {
			return false
		}
	}
	return true
}

// at returns the item at seq; the items must be ascending.
func (rb readback) at(seq uint64) (history.Item, bool) {
	if len(rb.items) == 0 || seq < rb.items[0].Seq {
		return history.Item{}, false
	}
	// Without gaps the place follows from the sequence.
	if i := seq - rb.items[0].Seq; i < uint64(len(rb.items)) && rb.items[i].Seq == seq {
		return rb.items[i], true
	}
	i, ok := slices.BinarySearchFunc(rb.items, seq, func(it history.Item, s uint64) int {
		switch {
		case it.Seq < s:
			return -1
		case it.Seq > s:
			return 1
		}
		return 0
	})
	if !ok {
		return history.Item{}, false
	}
	return rb.items[i], true
}

// hasPrefix says whether s starts with one of the prefixes; no prefixes match everything.
func hasPrefix(s string, prefixes []string) bool {
	if len(prefixes) == 0 {
		return true
	}
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// span is a stretch of time.
type span struct{ from, to int64 }

func (s span) has(t int64) bool { return t >= s.from && t <= s.to }

// bounds resolves a window, or says why it cannot.
func bounds(h *history.History, w Window) (span, *Result) {
	from, to, err := w.Bounds(h)
	if err != nil {
		r := inconclusive(nil, CodeNoMark, "The window cannot be placed: %v.", err)
		return span{}, &r
	}
	if to == from {
		r := inconclusive(nil, CodeNoMark, "The window %q to %q is empty.", w.From, w.To)
		return span{}, &r
	}
	return span{from, to}, nil
}
