package check

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/unibus/unibus/reports/history"
)

// randomSteps makes steps of one key in virtual time: overlapping clients, lost answers, and now and then something that is wrong.
func randomSteps(rng *rand.Rand, n int) []step {
	var steps []step
	now, rev := state{}, uint64(0)
	for i := range n {
		at := int64(i+1) * 10
		op := &history.Op{ID: int64(i + 1), Kind: history.Get, Value: now.value, Prev: now.rev}
		st := step{op: op, rev: now.rev, call: at - 5*rng.Int64N(5), ret: at + 5*rng.Int64N(5)} // ties are frequent
		switch rng.IntN(4) {
		case 0:
			op.Kind = history.Put
		case 1:
			if now.exists {
				op.Kind = history.Update
			}
		case 2:
			if !now.exists {
				op.Kind = history.Create
			}
		}
		if st.writes() {
			rev += 1 + uint64(rng.IntN(3))
			op.Value, st.rev = fmt.Sprint("v", i), rev
			now = state{value: op.Value, rev: rev, exists: true}
			if rng.IntN(8) == 0 {
				st.ret = never
			}
		}
		switch rng.IntN(40) {
		case 0: // too late
			st.call, st.ret = st.call+60, max(st.ret, st.call+70)
		case 1:
			st.rev = uint64(max(0, int64(st.rev)-1))
		case 2:
			if st.writes() {
				st.rev, st.maybe, st.ret = 0, true, never
			}
		}
		steps = append(steps, st)
	}
	return steps
}

// TestPiecesDecideLikeTheWhole: a search piece by piece finds what one search of everything finds, whatever is wrong.
func TestPiecesDecideLikeTheWhole(t *testing.T) {
	verdicts := map[porcupine.CheckResult]int{}
	cut := 0
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		steps := randomSteps(rng, 4+rng.IntN(20))
		whole := piece{steps: append([]step(nil), steps...)}.search(time.Minute)
		endOpen(steps)
		parts := pieces(steps, 1+rng.IntN(3))
		got, total := porcupine.Ok, 0
		for _, p := range parts {
			total += len(p.steps)
			if v := p.search(time.Minute); got == porcupine.Ok {
				got = v
			}
		}
		if got != whole || total != len(steps) {
			t.Fatalf("seed %d: %d pieces with %d of %d steps say %v, and the whole says %v", seed, len(parts), total, len(steps), got, whole)
		}
		verdicts[whole]++
		cut += len(parts) - 1
	}
	if verdicts[porcupine.Ok] < 300 || verdicts[porcupine.Illegal] < 300 || cut < 1000 {
		t.Errorf("the test is blind: %v, %d cuts", verdicts, cut)
	}
}
