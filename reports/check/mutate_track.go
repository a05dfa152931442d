package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// casTwice adds an acked conditional write that expects what another one expected.
func casTwice(h *history.History, c CASSerialized, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		return kvWrite(op, c.Target) && (op.Kind == history.Update || op.Kind == history.Create)
	})
	if i < 0 {
		return "no conditional write was acked", false
	}
	op := h.Ops[i]
	op.ID, op.Value = invented(h), foreign
	op.Seq++
	h.Ops = append(slices.Clone(h.Ops), op)
	return fmt.Sprintf("added an acked write of key %q that expects revision %d, as write %d does", op.Key, op.Prev, h.Ops[i].ID), true
}

// remake changes the last description of the target.
func remake(f func(m *history.Metadata)) damage[StreamMetadata] {
	return func(h *history.History, c StreamMetadata, _ *rand.Rand) (string, bool) {
		seen, r := c.observations(h)
		if r != nil || len(seen) < 2 {
			return "the stream was not described twice", false
		}
		at := seen[len(seen)-1]
		h.Events = slices.Clone(h.Events)
		for i := range h.Events {
			m, ok := h.Events[i].Metadata()
			if !ok || m.Target != c.Target || h.Events[i].At != at.at || h.Events[i].Name != at.name {
				continue
			}
			f(&m)
			e := history.MetadataEvent(at.name, m)
			e.At = at.at
			h.Events[i] = e
		}
		return fmt.Sprintf("changed the description %q of %s", at.name, c.Target), true
	}
}

// loseStart makes the last description begin one sequence later.
func loseStart(h *history.History, c StreamMetadata, rng *rand.Rand) (string, bool) {
	if !c.KeepsStart {
		return "the stream may lose its start", false
	}
	return remake(func(m *history.Metadata) { m.First, m.Msgs = max(m.First, m.Last)+1, max(m.Msgs, 1) })(h, c, rng)
}
