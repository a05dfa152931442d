package check_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

func kv(kind history.Kind, value string, rev uint64) history.Op {
	return history.Op{Kind: kind, Target: "A", Key: "k", Value: value, Seq: rev, Outcome: history.OK}
}

func put(value string, rev uint64) history.Op    { return kv(history.Put, value, rev) }
func get(value string, rev uint64) history.Op    { return kv(history.Get, value, rev) }
func create(value string, rev uint64) history.Op { return kv(history.Create, value, rev) }
func update(value string, prev, rev uint64) history.Op {
	return with(kv(history.Update, value, rev), func(op *history.Op) { op.Prev = prev })
}

func onJ(op history.Op) history.Op {
	op.Key = "j"
	return op
}

// during gives an operation its own times.
func during(op history.Op, invoke, complete int64) history.Op {
	op.Invoke, op.Complete = invoke, complete
	return op
}

func conflict(op history.Op) history.Op {
	op.Outcome, op.Seq, op.Err = history.Failed, 0, "conflict"
	return op
}

func kvh(o ...history.Op) history.History { return history.History{Ops: ops(o...)} }

// With reads left out, a stale one is counted and not judged; what writes say of each other still is.
func TestKVLinearizableWritesOnly(t *testing.T) {
	t.Parallel()
	c := check.KVLinearizable{Target: "A", WritesOnly: true}
	stale := kvh(put("a", 1), put("b", 2), get("a", 1), get("b", 2))
	r := c.Check(&stale)
	if r.Verdict != check.Pass {
		t.Errorf("a stale read: %+v", r)
	}
	figures := map[string]float64{}
	for _, f := range r.Figures {
		figures[f.Name] = f.Value
	}
	if figures["reads"] != 2 || figures["stale_reads"] != 1 {
		t.Errorf("figures %v, want 2 reads, 1 of them stale", figures)
	}
	for name, h := range map[string]history.History{
		"two updates won": kvh(put("a", 1), update("b", 1, 2), update("c", 1, 3)),
		"out of order":    kvh(put("a", 5), put("b", 4)),
	} {
		if r := c.Check(&h); r.Verdict != check.Fail {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestKVLinearizable(t *testing.T) {
	t.Parallel()
	c := check.KVLinearizable{Target: "A"}
	never := int64(-1)
	runTable(t, []tableCase{
		{"write and read", c, kvh(get("", 0), put("a", 1), get("a", 1), put("b", 2), get("b", 2)), pass},
		{"create, update", c, kvh(create("a", 1), update("b", 1, 2), conflict(update("x", 1, 0)), update("c", 2, 5), get("c", 5)), pass},
		{"an unknown write is seen", c, kvh(put("a", 1), lostReply(put("b", 0)), get("b", 2)), pass},
		{"an unknown write is seen much later", c, kvh(put("a", 1), lostReply(put("b", 0)), get("a", 1), get("a", 1), get("b", 2), get("b", 2)), pass},
		{"an unknown write is seen by nobody", c, kvh(put("a", 1), lostReply(put("b", 0)), get("a", 1)), pass},
		{"an unknown write is expected by an update", c, kvh(put("a", 1), lostReply(put("b", 0)), update("c", 2, 3), get("c", 3)), pass},
		{"unknown writes of the same value", c, kvh(put("a", 1), lostReply(put("b", 0)), lostReply(put("b", 0)), get("b", 2), get("b", 3)), pass},
		{"a failed write had no effect", c, kvh(put("a", 1), failed(put("b", 0)), get("a", 1)), pass},
		{"an unknown read says nothing", c, kvh(put("a", 1), lostReply(get("zzz", 0))), pass},
		{"concurrent read sees the old or the new", c, kvh(put("a", 1), during(put("b", 2), 100, 200), during(get("a", 1), 110, 120), during(get("b", 2), 130, 140)), pass},
		{"direct reads may be old", c, kvh(put("a", 1), put("b", 2), kv(history.Direct, "a", 1)), pass},
		{"an unknown write that never returned", c, kvh(put("a", 1), during(lostReply(put("b", 0)), 15, never), get("a", 1), get("b", 2)), pass},
		{"keys are apart", c, kvh(put("a", 1), onJ(put("x", 2)), get("a", 1), onJ(get("x", 2))), pass},

		{"stale read", c, kvh(put("a", 1), put("b", 2), get("a", 1)), fail(check.CodeNotLinear)},
		{"read of a write not yet invoked", c, kvh(put("a", 1), get("b", 2), put("b", 2)), fail(check.CodeNotLinear)},
		{"read of an unknown write not yet invoked", c, kvh(put("a", 1), get("b", 2), lostReply(put("b", 0))), fail(check.CodeNotLinear)},
		{"read of what nobody wrote", c, kvh(put("a", 1), get("x", 7)), fail(check.CodeNotLinear)},
		{"read of a failed write", c, kvh(put("a", 1), failed(put("b", 0)), get("b", 2)), fail(check.CodeNotLinear)},
		{"nothing after a write", c, kvh(put("a", 1), get("", 0)), fail(check.CodeNotLinear)},
		{"right value, wrong revision", c, kvh(put("a", 1), get("a", 3)), fail(check.CodeNotLinear)},
		{"an unknown write comes and goes", c, kvh(put("a", 1), lostReply(put("b", 0)), get("b", 2), get("a", 1)), fail(check.CodeNotLinear)},
		{"reads go back while a write is pending", c, kvh(put("a", 1), during(put("b", 2), 100, 200), during(get("b", 2), 110, 120), during(get("a", 1), 130, 140)), fail(check.CodeNotLinear)},
		{"an update of a revision that was replaced", c, kvh(put("a", 1), put("b", 2), update("c", 1, 3)), fail(check.CodeNotLinear)},
		{"an update got a revision not above the expected one", c, kvh(put("a", 5), update("b", 5, 5)), fail(check.CodeRevReused)},
		{"create of what exists", c, kvh(put("a", 1), create("b", 2)), fail(check.CodeNotLinear)},
		{"two updates of one revision", c, kvh(put("a", 1), update("b", 1, 2), update("c", 1, 3)), fail(check.CodeCASViolation)},
		{"two creates", c, kvh(create("a", 1), create("b", 2)), fail(check.CodeCASViolation)},
		{"one revision twice, two keys", c, kvh(put("a", 1), onJ(put("b", 1))), fail(check.CodeRevReused)},
		{"revisions go back, two keys", c, kvh(put("a", 2), onJ(put("b", 1))), fail(check.CodeRevOrder)},

		{"nothing", c, kvh(), open(check.CodeNoOps)},
		{"only unknown", c, kvh(lostReply(put("a", 0))), open(check.CodeNoOps)},
		{"only direct reads", c, kvh(kv(history.Direct, "a", 1)), open(check.CodeNoOps)},
		{"another bucket", check.KVLinearizable{Target: "B"}, kvh(put("a", 1)), open(check.CodeNoOps)},
		{"too few keys", check.KVLinearizable{Target: "A", Keys: 2}, kvh(put("a", 1)), open(check.CodeTooFewKeys)},
		{"too few operations", check.KVLinearizable{Target: "A", MinOps: 2}, kvh(put("a", 1)), open(check.CodeTooFewOps)},
		{"acked without a revision", c, kvh(put("a", 0)), open(check.CodeBadRecord)},
		{"bad clock", c, kvh(during(put("a", 1), 10, 5)), open(check.CodeBadClock)},
	})
}

// TestKVLinearizableWitness: the witness is the first answer that cannot be, with the write that it contradicts.
func TestKVLinearizableWitness(t *testing.T) {
	t.Parallel()
	var list []history.Op
	for i := range 50 {
		v := fmt.Sprint(i)
		list = append(list, put(v, uint64(i+1)), get(v, uint64(i+1)))
	}
	list[61] = get("3", 4) // after write 61 (id), which wrote revision 31
	h := kvh(list...)
	r := check.KVLinearizable{Target: "A"}.Check(&h)
	if r.Verdict != check.Fail || len(r.Witnesses) != 1 || fmt.Sprint(r.Witnesses[0].Ops) != "[61 62]" || !strings.Contains(r.Witnesses[0].Text, `"3"`) {
		t.Errorf("%+v", r)
	}
}

// TestUnknownWritesDoNotExplode: a search would be exponential in writes that may float to the end; settling takes them out of it.
func TestUnknownWritesDoNotExplode(t *testing.T) {
	t.Parallel()
	var list []history.Op
	for i := range 2000 {
		v, rev := fmt.Sprint(i), uint64(i+1)
		switch i % 10 {
		case 3: // took effect, the reply was lost, and somebody read it
			list = append(list, lostReply(put(v, 0)), get(v, rev))
		case 7: // never took effect
			list = append(list, lostReply(put(v, 0)))
		default:
			list = append(list, put(v, rev))
		}
	}
	good, bad := kvh(list...), kvh(append(append([]history.Op{}, list...), get("0", 1))...)
	start := time.Now()
	r := check.KVLinearizable{Target: "A"}.Check(&good)
	settled, _ := r.Figure("settled")
	dropped, _ := r.Figure("left_out")
	floating, _ := r.Figure("floating")
	if r.Verdict != check.Pass || settled != 200 || dropped != 200 || floating != 0 {
		t.Errorf("good: %+v", r)
	}
	if r := (check.KVLinearizable{Target: "A"}).Check(&bad); r.Verdict != check.Fail || r.Code != check.CodeNotLinear {
		t.Errorf("bad: %+v", r)
	}
	t.Logf("400 unknown writes, good and bad: %v", time.Since(start))
}

// TestSettledByDrain: what nobody read is settled by the drain and by watchers too.
func TestSettledByDrain(t *testing.T) {
	t.Parallel()
	h := kvh(put("a", 1), lostReply(put("b", 0)), lostReply(put("c", 0)), update("d", 3, 4))
	h.Items = []history.Item{{Target: "A", Seq: 3, Key: "k", Value: "c"}}
	h.Deliveries = []history.Delivery{{Client: "w", Kind: "watch", Target: "A", Key: "k", Value: "b", Seq: 2, At: 100}}
	r := check.KVLinearizable{Target: "A"}.Check(&h)
	if settled, _ := r.Figure("settled"); r.Verdict != check.Pass || settled != 2 {
		t.Errorf("%+v", r)
	}
}

// TestSearchTimeout: a search that is given no time says so, and never Pass.
func TestSearchTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(1, 1, 4, 60*ms, 0.1)
	r := check.KVLinearizable{Target: "S", TimeoutSeconds: 1e-9}.Check(&w.h)
	if r.Verdict != check.Inconclusive || r.Code != check.CodeSearchTimeout {
		t.Errorf("%+v", r)
	}
}

// long is one key with n operations of 4 concurrent clients.
func long(n int) history.History {
	var list []history.Op
	for i := range n / 2 {
		at := int64(i+1) * 10
		list = append(list, during(put(fmt.Sprint(i), uint64(i+1)), at, at+35), during(get(fmt.Sprint(i), uint64(i+1)), at+1, at+36))
	}
	return kvh(list...)
}

func TestKVLinearizableOf20000OnOneKey(t *testing.T) {
	t.Parallel()
	h := long(20_000)
	start := time.Now()
	r := check.KVLinearizable{Target: "A", TimeoutSeconds: 60}.Check(&h)
	t.Logf("%v: %s", time.Since(start), r.Reason)
	if r.Verdict != check.Pass {
		t.Error(r)
	}
}

func BenchmarkKVLinearizable20000(b *testing.B) {
	h := long(20_000)
	b.ReportAllocs()
	for b.Loop() {
		if r := (check.KVLinearizable{Target: "A"}).Check(&h); r.Verdict != check.Pass {
			b.Fatal(r)
		}
	}
}

func bucketWith(o []history.Op, its ...history.Item) history.History {
	for i := range its {
		its[i].Target = "A"
	}
	d := drainOf("A", its)
	return history.History{Ops: o, Items: its, Drains: []history.Drain{d}}
}

func it(key, value string, rev uint64) history.Item {
	return history.Item{Key: key, Value: value, Seq: rev}
}

func TestKVDurable(t *testing.T) {
	t.Parallel()
	c := check.KVDurable{Target: "A"}
	runTable(t, []tableCase{
		{"the last acked value", c, bucketWith(ops(put("a", 1), put("b", 2)), it("k", "b", 2)), pass},
		{"with history", c, bucketWith(ops(put("a", 1), put("b", 2)), it("k", "a", 1), it("k", "b", 2)), pass},
		{"in any order", c, bucketWith(ops(put("a", 1), put("b", 2)), it("k", "b", 2), it("k", "a", 1)), pass},
		{"a later unknown write", c, bucketWith(ops(put("a", 1), lostReply(put("b", 0))), it("k", "b", 2)), pass},
		{"an unknown write that had no effect", c, bucketWith(ops(put("a", 1), lostReply(put("b", 0))), it("k", "a", 1)), pass},
		{"an earlier unknown write that landed late", c, bucketWith(ops(lostReply(put("b", 0)), put("a", 1)), it("k", "b", 2)), pass},
		{"a key with unknown writes only", c, bucketWith(ops(put("a", 1), onJ(lostReply(put("b", 0)))), it("k", "a", 1)), pass},
		{"unibus's own keys", c, bucketWith(ops(put("a", 1)), it("k", "a", 1), it("unibus.replicas", "3", 9)), pass},
		{"ignored keys", check.KVDurable{Target: "A", Ignore: []string{"sys"}}, bucketWith(ops(put("a", 1)), it("k", "a", 1), it("sys.x", "3", 9)), pass},

		{"key gone", c, bucketWith(ops(put("a", 1))), fail(check.CodeAckedMissing)},
		{"older revision", c, bucketWith(ops(put("a", 1), put("b", 2)), it("k", "a", 1)), fail(check.CodeAckedMissing)},
		{"another value at the acked revision", c, bucketWith(ops(put("a", 1), put("b", 2)), it("k", "a", 2)), fail(check.CodeWrongValue)},
		{"an acked value at another revision", c, bucketWith(ops(put("a", 1)), it("k", "a", 5)), fail(check.CodeWrongValue)},
		{"another key's revision", c, bucketWith(ops(put("a", 1), onJ(put("b", 2)), lostReply(put("c", 0))), it("k", "c", 2), it("j", "b", 2)), fail(check.CodeWrongValue)},
		{"deleted", c, bucketWith(ops(put("a", 1)), history.Item{Key: "k", Seq: 2, Del: true}), fail(check.CodeWrongValue)},
		{"never sent", c, bucketWith(ops(put("a", 1)), it("k", "x", 2)), fail(check.CodeNeverSent)},
		{"a key that nobody wrote", c, bucketWith(ops(put("a", 1)), it("k", "a", 1), it("x", "x", 2)), fail(check.CodeNeverSent)},
		{"a failed write is there", c, bucketWith(ops(put("a", 1), failed(put("b", 0))), it("k", "b", 2)), fail(check.CodeFailedPresent)},

		{"no drain", c, kvh(put("a", 1)), open(check.CodeNoDrain)},
		{"incomplete", c, edit(bucketWith(ops(put("a", 1))), func(h *history.History) { h.Drains[0].Complete = false }), open(check.CodeDrainPartial)},
		{"no writes", c, bucketWith(ops(get("", 0))), open(check.CodeNoOps)},
		{"nothing acked", c, bucketWith(ops(lostReply(put("a", 0)))), open(check.CodeTooFewKeys)},
		{"too few keys", check.KVDurable{Target: "A", MinKeys: 2}, bucketWith(ops(put("a", 1)), it("k", "a", 1)), open(check.CodeTooFewKeys)},
		{"no revision", c, bucketWith(ops(put("a", 0)), it("k", "a", 1)), open(check.CodeBadRecord)},
		{"written after the drain", c, bucketWith(ops(during(put("a", 1), drainAt+1, drainAt+2)), it("k", "a", 1)), open(check.CodeOpsAfterDrain)},
		{"bad clock", c, bucketWith(ops(during(put("a", 1), 10, 5)), it("k", "a", 1)), open(check.CodeBadClock)},
	})
}

func TestStaleReads(t *testing.T) {
	t.Parallel()
	c := check.StaleReads{Target: "A"}
	direct := func(v string, rev uint64) history.Op { return kv(history.Direct, v, rev) }
	runTable(t, []tableCase{
		{"fresh", c, kvh(put("a", 1), direct("a", 1)), pass},
		{"stale is documented", c, kvh(put("a", 1), put("b", 2), direct("a", 1)), pass},
		{"no direct read", c, kvh(put("a", 1)), open(check.CodeTooFewOps)},
		{"no own write", c, kvh(put("a", 1), with(direct("a", 1), func(op *history.Op) { op.Client = "q" })), open(check.CodeTooFewOps)},
	})
	h := kvh(put("a", 1), put("b", 4), direct("a", 1), direct("b", 4), onJ(direct("", 0)))
	r := c.Check(&h)
	for name, n := range map[string]float64{"direct_reads": 3, "comparable": 2, "stale": 1, "stale_share": 50, "worst_revisions_behind": 3} {
		if got, _ := r.Figure(name); got != n {
			t.Errorf("%s is %v, want %v", name, got, n)
		}
	}
}
