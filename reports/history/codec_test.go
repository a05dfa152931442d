package history_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/unibus/unibus/reports/history"
)

// record writes a history that has at least one of everything, and returns the file and what the recorder kept.
func record(t testing.TB) ([]byte, history.History) {
	t.Helper()
	var file bytes.Buffer
	r, err := history.NewRecorder(&file)
	if err != nil {
		t.Fatal(err)
	}
	op := history.Op{Client: "p1", Node: "n1", Kind: history.Publish, Target: "ORDERS", Key: "orders.a", Value: "p1-1"}
	r.Invoke(&op)
	op.Outcome, op.Seq = history.OK, 1
	r.Complete(&op)
	lost := history.Op{Client: "p1", Kind: history.Update, Target: "K", Key: "a\n\"b\"", Value: "é", Prev: 7}
	r.Invoke(&lost)
	r.Abandon(&lost)
	r.Item(history.Item{Target: "ORDERS", Seq: 1, Key: "orders.a", Value: "p1-1", Del: true})
	r.Drain(history.Drain{Target: "ORDERS", Complete: true, Items: 1, First: 1, Last: 1, Missing: 2, Err: "none"})
	r.Delivery(history.Delivery{Client: "c", Node: "n2", Kind: "pull", Target: "ORDERS", Key: "k", Value: "p1-1", Seq: 1, Count: 2, Acked: 5, Ack: history.OK})
	for _, reason := range []string{"no quorum", "no quorum", "", "", "no quorum"} {
		r.Health(history.Health{Node: "n1", Probe: "ready", Took: 3, Code: 503, Reason: reason})
	}
	r.Health(history.Health{Node: "n1", Probe: "live", Code: 200})
	r.Replica(history.Replica{Node: "n1", Target: "BUS/ORDERS", Source: "jsz", First: 1, Last: 1, Msgs: 1, Bytes: 40, Deleted: 1, Digest: "x", Damaged: 1, Replicas: 3, Leader: "n1", Lag: 1, Err: "e"})
	r.Conn(history.Conn{Client: "p1", State: "connected", Node: "n1", Err: "e"})
	r.Mark("steady")
	r.Event(history.Event{Kind: "fault", Name: "kill[n1]#1", Stage: history.StageInForce, Nodes: []string{"n1"}, Detail: "gone", Noop: true, Data: map[string]any{"in_force": true, "force_ms": 3.5}})
	r.Event(history.ConvergedEvent("start", history.Convergence{OK: true, Seconds: 2.5, Ready: []string{"n1"}, Buckets: 6, Replicas: 3, Current: true, Identical: true}))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var kept history.History
	r.Last(func(h *history.History) { kept = *h })
	return file.Bytes(), kept
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	file, kept := record(t)
	got, err := history.Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, kept) {
		t.Errorf("read back\n%+v\nwant\n%+v", *got, kept)
	}
	var reasons []string
	for _, x := range got.Health {
		reasons = append(reasons, x.Reason)
	}
	if want := []string{"no quorum", "no quorum", "", "", "no quorum", ""}; !reflect.DeepEqual(reasons, want) {
		t.Errorf("reasons %q, want %q", reasons, want)
	}
	if n := bytes.Count(file, []byte("no quorum")); n != 2 {
		t.Errorf("the reason stands %d times in the file, want only where it changed: 2", n)
	}
	if c, ok := got.Events[2].Convergence(); !ok || !c.OK || c.Seconds != 2.5 || len(c.Ready) != 1 {
		t.Errorf("convergence %+v, %t", c, ok)
	}
}

func TestRoundTripOfAnyOperation(t *testing.T) {
	t.Parallel()
	text := rapid.String()
	rapid.Check(t, func(t *rapid.T) {
		var file bytes.Buffer
		r, err := history.NewRecorder(&file)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(0, 20).Draw(t, "ops")
		for range n {
			op := history.Op{Client: text.Draw(t, "client"), Kind: history.Kind(text.Draw(t, "kind")), Target: text.Draw(t, "target"), Key: text.Draw(t, "key"),
				Value: text.Draw(t, "value"), Err: text.Draw(t, "err"), Prev: rapid.Uint64().Draw(t, "prev"), Seq: rapid.Uint64().Draw(t, "seq"), Dup: rapid.Bool().Draw(t, "dup")}
			r.Invoke(&op)
			op.Outcome = history.Outcome(rapid.IntRange(0, 2).Draw(t, "outcome"))
			r.Complete(&op)
			r.Health(history.Health{Node: text.Draw(t, "node"), Probe: "ready", Reason: strings.Repeat(text.Draw(t, "reason"), 40)})
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := history.Read(bytes.NewReader(file.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		r.Last(func(h *history.History) {
			if !reflect.DeepEqual(got.Ops, h.Ops) {
				t.Fatalf("ops %+v, want %+v", got.Ops, h.Ops)
			}
			for i := range h.Health {
				if want := strings.TrimPrefix(h.Health[i].Reason, "-"); h.Health[i].Reason != "-" && got.Health[i].Reason != h.Health[i].Reason {
					t.Fatalf("reason %q, want %q", got.Health[i].Reason, want)
				}
			}
		})
	})
}

// TestTruncated cuts the file at every byte: only at the end of a line is what remains a record.
func TestTruncated(t *testing.T) {
	t.Parallel()
	file, _ := record(t)
	for n := range file {
		_, err := history.Read(bytes.NewReader(file[:n]))
		whole := n > 0 && file[n-1] == '\n'
		switch {
		case whole && err != nil:
			t.Errorf("cut at %d, at a line's end: %v", n, err)
		case !whole && !errors.Is(err, history.ErrCorrupt):
			t.Errorf("cut at %d, within a line: error %v, want ErrCorrupt", n, err)
		}
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	const header = `{"format":"unibus-history/1","start":"2026-01-01T00:00:00Z"}` + "\n"
	for name, file := range map[string]string{
		"empty":               "",
		"another format":      `{"format":"unibus-history/2","start":"2026-01-01T00:00:00Z"}` + "\n",
		"no header":           `["op",{"id":1}]` + "\n",
		"header and more":     strings.TrimSpace(header) + ` {}` + "\n",
		"unknown type":        header + `["opp",{}]` + "\n",
		"unknown field":       header + `["op",{"id":1,"outcome":"ok","surprise":1}]` + "\n",
		"unknown outcome":     header + `["op",{"id":1,"outcome":"fine"}]` + "\n",
		"outcome as a number": header + `["op",{"id":1,"outcome":1}]` + "\n",
		"null":                header + `["op",null]` + "\n",
		"array":               header + `["op",[1]]` + "\n",
		"two values":          header + `["op",{"outcome":"ok"},{"outcome":"ok"}]` + "\n",
		"blank line":          header + "\n",
		"garbage":             header + "\x00\xff\n",
		"no body":             header + `["op",]` + "\n",
		"negative sequence":   header + `["item",{"target":"A","seq":-1,"value":""}]` + "\n",
		"endless line":        header + `["op",{"client":"` + strings.Repeat("x", 2<<20) + `"}]` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := history.Read(strings.NewReader(file))
			if !errors.Is(err, history.ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			if h != nil {
				t.Errorf("a history came with the error")
			}
		})
	}
}

func TestReadError(t *testing.T) {
	t.Parallel()
	file, _ := record(t)
	broken := errors.New("disk gone")
	_, err := history.Read(io.MultiReader(bytes.NewReader(file[:200]), failing{broken}))
	if !errors.Is(err, broken) || errors.Is(err, history.ErrCorrupt) {
		t.Errorf("error %v, want the reader's own", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestWriteErrorIsKept(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	r, err := history.NewRecorder(failing{full})
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		r.Item(history.Item{Target: "A", Seq: 1, Value: strings.Repeat("x", 100)})
	}
	for range 2 {
		if err := r.Close(); !errors.Is(err, full) {
			t.Errorf("close: %v, want %v", err, full)
		}
	}
}

func TestRecordTooLongToReadBack(t *testing.T) {
	t.Parallel()
	r, err := history.NewRecorder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r.Item(history.Item{Target: "A", Value: strings.Repeat("x", 1<<20)})
	if err := r.Close(); err == nil {
		t.Error("a record that Read refuses was written without an error")
	}
}

func TestSealed(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	r, err := history.NewRecorder(&file)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	size := file.Len()
	r.Mark("late")
	if err := r.Close(); err != nil || file.Len() != size {
		t.Errorf("a straggler changed the sealed record (%d to %d bytes, %v)", size, file.Len(), err)
	}
}

func TestConcurrentRecorder(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	r, err := history.NewRecorder(&file)
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 8, 200
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				op := history.Op{Client: fmt.Sprint(c), Kind: history.Publish, Target: "ORDERS", Value: fmt.Sprintf("%d-%d", c, i), Outcome: history.OK}
				r.Invoke(&op)
				r.Complete(&op)
				r.Health(history.Health{Node: "n1", Probe: "ready", Code: 503, Reason: fmt.Sprint(i % 3)})
			}
		})
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := history.Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	byID := make([]int64, clients*each+1)
	for _, op := range h.Ops {
		if byID[op.ID] != 0 || op.Complete < op.Invoke {
			t.Fatalf("operation %+v", op)
		}
		byID[op.ID] = op.Invoke
	}
	for id := 2; id < len(byID); id++ {
		if byID[id] < byID[id-1] {
			t.Fatalf("operation %d was invoked before operation %d", id, id-1)
		}
	}
	r.Last(func(mem *history.History) {
		if !reflect.DeepEqual(mem.Health, h.Health) {
			t.Error("the reasons read back are not the ones that were recorded")
		}
	})
	if ops, ok := r.Counts(); ops != clients*each || ok != clients*each {
		t.Errorf("counts %d, %d", ops, ok)
	}
}

func TestConvergence(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := history.Convergence{OK: rapid.Bool().Draw(t, "ok"), Seconds: rapid.Float64Range(0, 1e6).Draw(t, "s"), Ready: rapid.SliceOfN(rapid.StringN(0, 3, 3), 1, 3).Draw(t, "ready"),
			Buckets: rapid.IntRange(0, 9).Draw(t, "b"), Replicas: rapid.IntRange(0, 5).Draw(t, "r"), Current: rapid.Bool().Draw(t, "c"), Identical: rapid.Bool().Draw(t, "i"), Why: rapid.String().Draw(t, "why")}
		got, ok := history.ConvergedEvent("x", c).Convergence()
		if !ok || !reflect.DeepEqual(got, c) {
			t.Fatalf("%+v, %t, want %+v", got, ok, c)
		}
	})
	for name, e := range map[string]history.Event{
		"another kind":  {Kind: "mark", Data: map[string]any{"ok": true}},
		"no data":       {Kind: "converged"},
		"unknown field": {Kind: "converged", Data: map[string]any{"ok": true, "surprise": 1}},
		"wrong type":    {Kind: "converged", Data: map[string]any{"ok": "yes"}},
	} {
		if _, ok := e.Convergence(); ok {
			t.Errorf("%s: read as a convergence", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	file, _ := record(f)
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte(`{"format":"unibus-history/1"}` + "\n" + `["health",{"node":"n","probe":"ready","at":1,"took":1,"code":200}]` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := history.Read(bytes.NewReader(b))
		if err == nil != (h != nil) || err != nil && !errors.Is(err, history.ErrCorrupt) {
			t.Fatalf("history %v, error %v", h, err)
		}
		if h != nil {
			h.End()
			h.Mark("steady")
		}
	})
}
