package check_test

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// want is what a checker must say.
type want struct {
	verdict check.Verdict
	code    string
}

var (
	pass = want{check.Pass, ""}
	fail = func(code string) want { return want{check.Fail, code} }
	open = func(code string) want { return want{check.Inconclusive, code} }
)

// table runs cases of one checker. A history stands for itself; the name says what is wrong with it.
type tableCase struct {
	name string
	c    check.Checker
	h    history.History
	want want
}

func runTable(t *testing.T, cases []tableCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := check.Of(tc.c).Run(&tc.h)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict != tc.want.verdict || r.Code != tc.want.code {
				t.Fatalf("%s %q: %s\nwant %s %q\n%+v", r.Verdict, r.Code, r.Reason, tc.want.verdict, tc.want.code, r.Witnesses)
			}
			if r.Reason == "" || (r.Verdict == check.Fail) != (r.Promise != "") || len(r.Witnesses) > check.MaxWitnesses {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// ops numbers operations that are given in the order of invocation, at 10 ns from each other if they have no times of their own.
func ops(list ...history.Op) []history.Op {
	for i := range list {
		op := &list[i]
		if op.ID == 0 {
			op.ID = int64(i + 1)
		}
		if op.Client == "" {
			op.Client = "p"
		}
		if op.Invoke == 0 {
			op.Invoke = int64(i+1) * 10
		}
		if op.Complete == 0 {
			op.Complete = op.Invoke + 5
		}
		if op.Complete < 0 { // never answered
			op.Complete = 0
		}
	}
	return list
}

func pub(value string, seq uint64) history.Op {
	return history.Op{Kind: history.Publish, Target: "A", Value: value, Seq: seq, Outcome: history.OK}
}

func with(op history.Op, f func(op *history.Op)) history.Op {
	f(&op)
	return op
}

func lostReply(op history.Op) history.Op {
	op.Outcome, op.Seq, op.Err = history.Unknown, 0, "timeout"
	return op
}

func failed(op history.Op) history.Op {
	op.Outcome, op.Seq, op.Err = history.Failed, 0, "no-responders"
	return op
}

func items(values ...string) []history.Item {
	var out []history.Item
	for i, v := range values {
		if v != "" { // a hole
			out = append(out, history.Item{Target: "A", Seq: uint64(i + 1), Value: v})
		}
	}
	return out
}

// stream is a history with operations and what was read back from A; an empty value is a hole.
func stream(o []history.Op, values ...string) history.History {
	h := history.History{Ops: o, Items: items(values...)}
	d := drainOf("A", h.Items)
	d.Last = uint64(len(values))
	h.Drains = []history.Drain{d}
	return h
}

func edit(h history.History, f func(h *history.History)) history.History {
	f(&h)
	return h
}

func TestStreamAccounting(t *testing.T) {
	t.Parallel()
	c := check.StreamAccounting{Target: "A"}
	runTable(t, []tableCase{
		{"all there", c, stream(ops(pub("1", 1), pub("2", 2)), "1", "2"), pass},
		{"an unknown one is there", c, stream(ops(pub("1", 1), lostReply(pub("2", 0))), "1", "2"), pass},
		{"an unknown one is not there", c, stream(ops(pub("1", 1), lostReply(pub("2", 0))), "1"), pass},
		{"a retry is the same message", c, stream(ops(lostReply(pub("1", 0)), with(pub("1", 1), func(op *history.Op) { op.Dup = true }), pub("2", 2)), "1", "2"), pass},
		{"a failed attempt, then a retry", c, stream(ops(failed(pub("1", 0)), pub("1", 1)), "1"), pass},
		{"a failed attempt, and one that nobody knows", c, stream(ops(failed(pub("2", 0)), lostReply(pub("2", 0)), pub("1", 2)), "2", "1"), pass},
		{"concurrent ones in any order", c, stream(ops(with(pub("1", 2), func(op *history.Op) { op.Complete = 30 }), with(pub("2", 1), func(op *history.Op) { op.Complete = 31 })), "2", "1"), pass},
		{"two producers in any order", c, stream(ops(pub("1", 2), with(pub("2", 1), func(op *history.Op) { op.Client = "q" })), "2", "1"), pass},
		{"an unknown one lands late, after its successors", c, stream(ops(lostReply(pub("1", 0)), pub("2", 1)), "2", "1"), pass},
		{"other streams do not matter", c, edit(stream(ops(pub("1", 1), with(pub("9", 9), func(op *history.Op) { op.Target = "B" })), "1"), func(h *history.History) {
			h.Items = append(h.Items, history.Item{Target: "B", Seq: 5, Value: "x"})
		}), pass},
		{"only the last drain counts", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) {
			h.Items = append(items("old"), h.Items...)
			h.Drains = append([]history.Drain{{Target: "A", At: 1, Complete: true, Items: 1, First: 1, Last: 1}}, h.Drains...)
		}), pass},

		{"lost before", c, stream(ops(pub("1", 1), pub("2", 2)), "", "2"), fail(check.CodeAckedMissing)},
		{"lost inside", c, stream(ops(pub("1", 1), pub("2", 2), pub("3", 3)), "1", "", "3"), fail(check.CodeAckedMissing)},
		{"lost after", c, edit(stream(ops(pub("1", 1), pub("2", 2)), "1"), func(h *history.History) {}), fail(check.CodeAckedMissing)},
		{"lost all", c, stream(ops(pub("1", 1))), fail(check.CodeAckedMissing)},
		{"lost, the retry's ack said duplicate", c, stream(ops(lostReply(pub("1", 0)), with(pub("1", 1), func(op *history.Op) { op.Dup = true }))), fail(check.CodeAckedMissing)},
		{"lost and too few acked: a loss is a loss", check.StreamAccounting{Target: "A", MinAcked: 10}, stream(ops(pub("1", 1))), fail(check.CodeAckedMissing)},
		{"never sent", c, stream(ops(pub("1", 1)), "1", "x"), fail(check.CodeNeverSent)},
		{"failed and there", c, stream(ops(pub("1", 1), failed(pub("2", 0))), "1", "2"), fail(check.CodeFailedPresent)},
		{"twice there", c, stream(ops(pub("1", 1)), "1", "1"), fail(check.CodeDuplicated)},
		{"retried, acked and there twice", c, stream(ops(pub("1", 1), pub("1", 2)), "1", "1"), fail(check.CodeDuplicated)},
		{"acked elsewhere", c, stream(ops(pub("1", 2), pub("2", 1)), "1", "2"), fail(check.CodeWrongSequence)},
		{"acked behind the end", c, stream(ops(pub("1", 7)), "1"), fail(check.CodeWrongSequence)},
		{"two acks at one sequence", c, stream(ops(pub("1", 1), pub("2", 1)), "1", "2"), fail(check.CodeWrongSequence)},
		{"reordered", c, stream(ops(pub("1", 2), pub("2", 1)), "2", "1"), fail(check.CodeReordered)},
		{"reordered with an unknown one", c, stream(ops(pub("1", 2), lostReply(pub("2", 0))), "2", "1"), fail(check.CodeReordered)},
		{"a hole", c, stream(ops(pub("1", 1), pub("2", 3)), "1", "", "2"), fail(check.CodeSequenceGap)},
		{"starts late", c, stream(ops(pub("1", 2)), "", "1"), fail(check.CodeSequenceGap)},
		{"begins where it was made to begin", check.StreamAccounting{Target: "A", First: 2}, stream(ops(pub("1", 2), pub("2", 3)), "", "1", "2"), pass},
		{"begins later than it was made to", check.StreamAccounting{Target: "A", First: 2}, stream(ops(pub("1", 3)), "", "", "1"), fail(check.CodeSequenceGap)},
		{"a hole after a first sequence of its own", check.StreamAccounting{Target: "A", First: 2}, stream(ops(pub("1", 2), pub("2", 4)), "", "1", "", "2"), fail(check.CodeSequenceGap)},
		{"the leader says that it lacks one", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Missing = 1 }), fail(check.CodeSequenceGap)},
		{"the leader says that there is more", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Last = 2 }), fail(check.CodeSequenceGap)},
		{"an absurd last sequence", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Last = 1 << 63 }), fail(check.CodeSequenceGap)},

		{"no drain", c, history.History{Ops: ops(pub("1", 1))}, open(check.CodeNoDrain)},
		{"drain incomplete", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Complete = false }), open(check.CodeDrainPartial)},
		{"drain with an error", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Err = "timeout" }), open(check.CodeDrainPartial)},
		{"the last drain incomplete", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains = append(h.Drains, history.Drain{Target: "A"}) }), open(check.CodeDrainPartial)},
		{"items not counted", c, edit(stream(ops(pub("1", 1)), "1"), func(h *history.History) { h.Drains[0].Items = 2 }), open(check.CodeBadRecord)},
		{"items out of order", c, edit(stream(ops(pub("1", 1), pub("2", 2)), "1", "2"), func(h *history.History) { h.Items[0], h.Items[1] = h.Items[1], h.Items[0] }), open(check.CodeBadRecord)},
		{"nothing published", c, stream(nil), open(check.CodeNoOps)},
		{"nothing acked", c, stream(ops(lostReply(pub("1", 0))), "1"), open(check.CodeTooFewAcked)},
		{"too few acked", check.StreamAccounting{Target: "A", MinAcked: 2}, stream(ops(pub("1", 1)), "1"), open(check.CodeTooFewAcked)},
		{"no message id", c, stream(ops(pub("", 1)), "1"), open(check.CodeBadRecord)},
		{"acked without a sequence", c, stream(ops(pub("1", 0)), "1"), open(check.CodeBadRecord)},
		{"published after the drain", c, stream(ops(with(pub("1", 1), func(op *history.Op) { op.Invoke = drainAt + 1 })), "1"), open(check.CodeOpsAfterDrain)},
		{"completes before it is invoked", c, stream(ops(with(pub("1", 1), func(op *history.Op) { op.Complete = 5 })), "1"), open(check.CodeBadClock)},
		{"one id twice", c, stream(ops(pub("1", 1), with(pub("2", 2), func(op *history.Op) { op.ID = 1 })), "1", "2"), open(check.CodeBadRecord)},
		{"a huge id twice", c, stream(ops(with(pub("1", 1), func(op *history.Op) { op.ID = 1 << 62 }), with(pub("2", 2), func(op *history.Op) { op.ID = 1 << 62 })), "1", "2"), open(check.CodeBadRecord)},
		{"acked but never completed", c, stream(ops(with(pub("1", 1), func(op *history.Op) { op.Complete = -1 })), "1"), open(check.CodeBadRecord)},
	})
}

func TestStreamAccountingSplitsLosses(t *testing.T) {
	t.Parallel()
	h := stream(ops(pub("1", 1), pub("2", 2), pub("3", 3), pub("4", 4), pub("5", 5), pub("6", 6), pub("7", 7)), "", "2", "", "4", "", "", "")
	r := check.StreamAccounting{Target: "A"}.Check(&h)
	for name, n := range map[string]float64{"acked": 7, "acked_missing": 5, "missing_prefix": 1, "missing_middle": 1, "missing_suffix": 3, "sequence_gaps": 5} {
		if got, ok := r.Figure(name); !ok || got != n {
			t.Errorf("%s is %v (%t), want %v", name, got, ok, n)
		}
	}
	if len(r.Witnesses) == 0 || !reflect.DeepEqual(r.Witnesses[0].Ops, []int64{1}) || r.Witnesses[0].At != 15 {
		t.Errorf("witnesses %+v", r.Witnesses)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	h := stream(ops(pub("1", 1), lostReply(pub("2", 0)), lostReply(pub("3", 0)), failed(pub("4", 0)), lostReply(pub("2", 0))), "1", "2")
	got, err := check.Resolve(&h, "A")
	want := check.Resolution{Target: "A", Present: 2, Absent: 1, Settled: []check.Settlement{{Op: 2, Outcome: history.OK, Seq: 2}, {Op: 3, Outcome: history.Failed}, {Op: 5, Outcome: history.OK, Seq: 2}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v (%v), want %+v", got, err, want)
	}
	h.Drains[0].Complete = false
	if _, err := check.Resolve(&h, "A"); !errors.Is(err, check.ErrUnsettled) {
		t.Errorf("an incomplete drain settled something: %v", err)
	}
}

// million is a run of n publishes by 8 producers, some with lost replies, all there.
func million(n int) *history.History {
	h := &history.History{Ops: make([]history.Op, 0, n), Items: make([]history.Item, 0, n)}
	for i := range n {
		op := pub(fmt.Sprintf("p%d-%d", i%8, i), uint64(i+1))
		op.ID, op.Client, op.Invoke, op.Complete = int64(i+1), fmt.Sprintf("p%d", i%8), int64(i)*10, int64(i)*10+60
		if i%50 == 0 {
			op = lostReply(op)
		}
		h.Ops = append(h.Ops, op)
		h.Items = append(h.Items, history.Item{Target: "A", Seq: uint64(i + 1), Value: op.Value})
	}
	d := drainOf("A", h.Items)
	d.At = int64(n)*10 + 100
	h.Drains = []history.Drain{d}
	return h
}

// TestStreamAccountingMemory: twice the operations take about twice the memory, and not four times.
func TestStreamAccountingMemory(t *testing.T) {
	used := func(h *history.History) float64 {
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		if r := (check.StreamAccounting{Target: "A"}).Check(h); r.Verdict != check.Pass {
			t.Fatal(r)
		}
		runtime.ReadMemStats(&b)
		return float64(b.TotalAlloc - a.TotalAlloc)
	}
	one, four := used(million(20_000)), used(million(80_000))
	if four > 6*one {
		t.Errorf("80,000 operations took %.0f bytes, 20,000 took %.0f", four, one)
	}
}

func TestStreamAccountingOfAMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("a million operations")
	}
	h := million(1_000_000)
	start := time.Now()
	r := check.StreamAccounting{Target: "A"}.Check(h)
	took := time.Since(start)
	t.Logf("%v: %s", took, r.Reason)
	if r.Verdict != check.Pass {
		t.Fatal(r)
	}
	if took > 20*time.Second { // ten times the target of the benchmark: this is about its order, on any machine
		t.Errorf("it took %v", took)
	}
}

func BenchmarkStreamAccounting(b *testing.B) {
	h := million(1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if r := (check.StreamAccounting{Target: "A"}).Check(h); r.Verdict != check.Pass {
			b.Fatal(r)
		}
	}
}
