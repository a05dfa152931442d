package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// pieceSteps is how many steps a piece has before it may be cut off: few enough that a set of them is one machine word.
const pieceSteps = 48

// piece is a stretch of one key's steps that no other step overlaps in time, with what the key holds before it.
//
// The search's cost grows with the square of the number of steps, because it remembers sets of them. But at an instant at which nothing is in flight
// every step before comes before every step behind, and, where each write has its revision, what the key then holds is known without any search:
// revisions only grow, so it is the write with the highest. So the whole can be ordered exactly if each piece can, from the state before it.
type piece struct {
	steps []step
	from  state
}

// pieces cuts the steps, which it sorts by their invocation. No cut is made behind the call of a step that may never return, nor behind a write whose
// revision nobody knows.
func pieces(steps []step, least int) []piece {
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.call, b.call) })
	var all []piece
	now := state{}
	begin, busy, from := 0, int64(-1), now // busy is until when something of the piece is in flight
	for i := range steps {
		st := &steps[i]
		if i-begin >= least && st.call > busy {
			all = append(all, piece{steps[begin:i], from})
			begin, from = i, now
		}
		busy = max(busy, st.ret)
		switch {
		case !st.writes():
		case st.rev == 0:
			busy = never
		case st.rev > now.rev:
			now = state{value: st.op.Value, rev: st.rev, exists: true}
		}
	}
	return append(all, piece{steps[begin:], from})
}

// endOpen gives writes that nobody saw return an end, where a later revision shows that they had taken effect: revisions only grow, so such a write came
// before that one's answer.
func endOpen(steps []step) {
	byRev := make([]*step, 0, len(steps))
	for i := range steps {
		if steps[i].writes() && steps[i].rev != 0 {
			byRev = append(byRev, &steps[i])
		}
	}
	slices.SortStableFunc(byRev, func(a, b *step) int { return cmp.Compare(b.rev, a.rev) })
	earliest := int64(never) // return of a write with a higher revision
	for i, above := 0, earliest; i < len(byRev); i++ {
		if i > 0 && byRev[i].rev < byRev[i-1].rev {
			earliest = above
		}
		above = min(above, byRev[i].ret)
		if st := byRev[i]; st.ret == never && earliest >= st.call { // one that had returned before this was invoked is for the search to find
			st.ret = earliest
		}
	}
}

// order searches for an order of all steps of a key. When there is none it says which piece has none.
func order(steps []step, left time.Duration) (porcupine.CheckResult, piece) {
	deadline := time.Now().Add(left)
	endOpen(steps)
	for _, p := range pieces(steps, pieceSteps) {
		left := time.Until(deadline)
		if left <= 0 {
			return porcupine.Unknown, p
		}
		if verdict := p.search(left); verdict != porcupine.Ok {
			return verdict, p
		}
	}
	return porcupine.Ok, piece{}
}

func (p piece) search(left time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(registerModel(p.from), operations(p.steps), left)
}
