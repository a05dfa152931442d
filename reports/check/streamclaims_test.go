package check_test

import (
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// publishOf is one attempt: outcome, sequence and whether the answer said duplicate.
func publishOf(id int64, value string, at, done int64, out history.Outcome, seq uint64, dup bool) history.Op {
	return history.Op{ID: id, Client: "p0", Kind: history.Publish, Target: "T", Value: value, Invoke: at, Complete: done, Outcome: out, Seq: seq, Dup: dup}
}

func heldIn(target string, last uint64, values ...string) history.History {
	var h history.History
	for i, v := range values {
		h.Items = append(h.Items, history.Item{Target: target, Seq: uint64(i + 1), Value: v})
	}
	h.Drains = []history.Drain{{Target: target, At: 500 * sec, Complete: true, Items: len(values), First: 1, Last: last}}
	return h
}

// TestDeduplication: what may be two messages is not called one.
func TestDeduplication(t *testing.T) {
	t.Parallel()
	ok, unknown, failed := history.OK, history.Unknown, history.Failed
	repeat := []history.Op{publishOf(8, "r", sec, 2*sec, ok, 1, false), publishOf(9, "r", 3*sec, 4*sec, ok, 1, true)}
	for name, c := range map[string]struct {
		stored  []string
		ops     []history.Op
		verdict check.Verdict
		code    string
	}{
		"a repeat that was recognized": {[]string{"r"}, repeat, check.Pass, ""},
		"no repeat":                    {[]string{"r"}, repeat[:1], check.Inconclusive, check.CodeTooFewTries},
		"stored twice":                 {[]string{"r", "r"}, repeat, check.Fail, check.CodeDuplicated},
		"stored twice, the second after the window":     {[]string{"r", "m", "m"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 2, false), publishOf(2, "m", 125*sec, 126*sec, ok, 3, false)), check.Pass, ""},
		"stored twice, the second without an answer":    {[]string{"r", "m", "m"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 2, false), publishOf(2, "m", 3*sec, 0, unknown, 0, false)), check.Pass, ""},
		"a failed attempt does not widen the span":      {[]string{"r", "m", "m"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 2, false), publishOf(2, "m", 3*sec, 4*sec, ok, 3, false), publishOf(3, "m", 300*sec, 301*sec, failed, 0, false)), check.Fail, check.CodeDuplicated},
		"a duplicate of nothing":                        {[]string{"r"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 7, true)), check.Fail, check.CodeAckedMissing},
		"a duplicate of another message":                {[]string{"r", "m"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 1, true)), check.Fail, check.CodeWrongSequence},
		"acked as new at a second place":                {[]string{"r", "m"}, append(repeat, publishOf(1, "m", sec, 2*sec, ok, 2, false), publishOf(2, "m", 3*sec, 4*sec, ok, 9, false)), check.Fail, check.CodeDuplicated},
		"two attempts at once may both be acked as new": {[]string{"r", "m"}, append(repeat, publishOf(1, "m", sec, 4*sec, ok, 2, false), publishOf(2, "m", sec, 5*sec, ok, 2, false)), check.Pass, ""},
	} {
		h := heldIn("T", uint64(len(c.stored)), c.stored...)
		h.Ops = c.ops
		if r := (check.Deduplication{Target: "T"}).Check(&h); r.Verdict != c.verdict || r.Code != c.code {
			t.Errorf("%s: %+v, want %s %q", name, r, c.verdict, c.code)
		}
	}
}

// TestAppends: an attempt without an answer may be there or not, but not where it did not want to be.
func TestAppends(t *testing.T) {
	t.Parallel()
	ap := func(id int64, value string, out history.Outcome, seq, prev uint64, after string) history.Op {
		return history.Op{ID: id, Client: "e0", Kind: history.Append, Target: "T", Value: value, Invoke: id * sec, Complete: id*sec + ms, Outcome: out, Seq: seq, Prev: prev, After: after}
	}
	ok, unknown, failed := history.OK, history.Unknown, history.Failed
	for name, c := range map[string]struct {
		stored  []string
		ops     []history.Op
		verdict check.Verdict
		code    string
	}{
		"by sequence, then by id":                     {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", ok, 2, 0, "a")}, check.Pass, ""},
		"without an answer and not there":             {[]string{"a"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", unknown, 0, 1, "")}, check.Pass, ""},
		"without an answer and there":                 {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", unknown, 0, 1, "")}, check.Pass, ""},
		"without an answer and in the wrong place":    {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", unknown, 0, 7, "")}, check.Fail, check.CodeExpectation},
		"without an answer, behind another message":   {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", unknown, 0, 0, "x")}, check.Fail, check.CodeExpectation},
		"one acked, one not, with one expectation":    {[]string{"a"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", unknown, 0, 0, "")}, check.Pass, ""},
		"two acked with one expectation":              {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", ok, 2, 0, "")}, check.Fail, check.CodeCASViolation},
		"acked and gone":                              {[]string{"a"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", ok, 2, 1, "")}, check.Fail, check.CodeAckedMissing},
		"refused and there":                           {[]string{"a", "b"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "b", failed, 0, 1, "")}, check.Fail, check.CodeFailedPresent},
		"all refused":                                 {nil, []history.Op{ap(1, "a", failed, 0, 0, "")}, check.Inconclusive, check.CodeTooFewAcked},
		"an id that two attempts share proves little": {[]string{"a"}, []history.Op{ap(1, "a", ok, 1, 0, ""), ap(2, "a", unknown, 0, 1, "")}, check.Inconclusive, check.CodeBadRecord},
	} {
		h := heldIn("T", uint64(len(c.stored)), c.stored...)
		h.Ops = c.ops
		if r := (check.Appends{Target: "T"}).Check(&h); r.Verdict != c.verdict || r.Code != c.code {
			t.Errorf("%s: %+v, want %s %q", name, r, c.verdict, c.code)
		}
	}
}

// TestWorkQueue: a job may come as often as the server likes until an ack was confirmed, and what was sent before may arrive long after.
func TestWorkQueue(t *testing.T) {
	t.Parallel()
	given := func(value string, seq uint64, asked, at, acked int64) history.Delivery {
		d := history.Delivery{Client: "w0", Kind: "pull", Target: "T", Value: value, Seq: seq, Count: 1, Asked: asked, At: at, Acked: acked}
		if acked > 0 {
			d.Ack = history.OK
		}
		return d
	}
	ok, unknown, failed := history.OK, history.Unknown, history.Failed
	one := []history.Op{publishOf(1, "a", sec, 2*sec, ok, 1, false)}
	done := []history.Delivery{given("a", 1, sec, 3*sec, 4*sec)}
	for name, c := range map[string]struct {
		left    []string
		ops     []history.Op
		given   []history.Delivery
		verdict check.Verdict
		code    string
	}{
		"handed out and acked":                            {nil, one, done, check.Pass, ""},
		"handed out twice before the ack":                 {nil, one, append([]history.Delivery{given("a", 1, sec, 2*sec, 0)}, done...), check.Pass, ""},
		"sent before the ack, and very late":              {nil, one, append(done, given("a", 1, 3*sec, 90*sec, 0)), check.Pass, ""},
		"asked for after the ack":                         {nil, one, append(done, given("a", 1, 5*sec, 6*sec, 0)), check.Fail, check.CodeRedelivered},
		"an old record, within the slack":                 {nil, one, append(done, given("a", 1, 0, 4*sec+ms, 0)), check.Pass, ""},
		"an old record, after the slack":                  {nil, one, append(done, given("a", 1, 0, 6*sec, 0)), check.Fail, check.CodeRedelivered},
		"still there":                                     {[]string{"a"}, append(one, publishOf(2, "b", sec, 2*sec, ok, 2, false)), []history.Delivery{given("b", 2, sec, 3*sec, 4*sec)}, check.Pass, ""},
		"nowhere":                                         {nil, append(one, publishOf(2, "b", sec, 2*sec, ok, 2, false)), done, check.Fail, check.CodeAckedMissing},
		"no answer, and nowhere":                          {nil, append(one, publishOf(2, "b", sec, 2*sec, unknown, 0, false)), done, check.Pass, ""},
		"never sent":                                      {nil, one, append(done, given("z", 2, sec, 3*sec, 0)), check.Fail, check.CodeNeverSent},
		"failed, and handed out":                          {nil, append(one, publishOf(2, "b", sec, 2*sec, failed, 0, false)), append(done, given("b", 2, sec, 3*sec, 0)), check.Fail, check.CodeFailedPresent},
		"sent once, at two sequences":                     {nil, one, append(done, given("a", 2, sec, 3*sec, 0)), check.Fail, check.CodeDuplicated},
		"sent twice, at two sequences: no durable window": {nil, append(one, publishOf(2, "a", 3*sec, 4*sec, unknown, 0, false)), append(done, given("a", 2, sec, 3*sec, 0)), check.Pass, ""},
		"acked at another sequence":                       {nil, one, []history.Delivery{given("a", 5, sec, 3*sec, 4*sec)}, check.Fail, check.CodeWrongSequence},
		"no ack was confirmed":                            {nil, one, []history.Delivery{given("a", 1, sec, 3*sec, 0)}, check.Inconclusive, check.CodeTooFewArrived},
	} {
		h := heldIn("T", 9, c.left...)
		h.Ops, h.Deliveries = c.ops, c.given
		if r := (check.WorkQueue{Target: "T"}).Check(&h); r.Verdict != c.verdict || r.Code != c.code {
			t.Errorf("%s: %+v, want %s %q", name, r, c.verdict, c.code)
		}
	}
}
