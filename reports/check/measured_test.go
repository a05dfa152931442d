package check_test

import (
	"fmt"
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// measurement is an event of a step that measured something.
func measurement(name, node string, data map[string]any) history.Event {
	return history.Event{At: sec, Kind: check.KindMeasured, Name: name, Nodes: []string{node}, Data: data}
}

func upgrades(change ...func(es []history.Event)) history.History {
	var es []history.Event
	for i := range 3 {
		es = append(es, measurement(fmt.Sprintf("upgrade-%d", i+1), fmt.Sprintf("n%d", i+1), map[string]any{"before": "a", "after": "b", "wanted": "b", "led": 0.0}))
	}
	es = append(es, measurement("other", "n9", nil))
	for _, f := range change {
		f(es)
	}
	return history.History{Events: es}
}

func TestMeasured(t *testing.T) {
	t.Parallel()
	c := check.Measured{Names: []string{"upgrade-"}, Min: 3, Nodes: 3, Same: [][2]string{{"after", "wanted"}}, Differ: [][2]string{{"before", "after"}}}
	led := check.Measured{Names: []string{"upgrade-"}, Bounds: []check.Bound{check.Exactly("led", 0)}}
	set := func(i int, key string, v any) func([]history.Event) {
		return func(es []history.Event) { es[i].Data[key] = v }
	}
	runTable(t, []tableCase{
		{"all upgraded", c, upgrades(), pass},
		{"a node runs the old one", c, upgrades(set(1, "after", "a")), fail(check.CodeStillSame)},
		{"a node runs a third one", c, upgrades(set(1, "after", "c")), fail(check.CodeNotSame)},
		{"no word", c, upgrades(set(1, "after", "")), open(check.CodeBadRecord)},
		{"nothing is said", c, upgrades(func(es []history.Event) { delete(es[2].Data, "wanted") }), open(check.CodeBadRecord)},
		{"a node twice", c, upgrades(func(es []history.Event) { es[2].Nodes = []string{"n1"} }), open(check.CodeTooFewNodes)},
		{"a step missing", c, upgrades(func(es []history.Event) { es[2].Name = "skipped" }), open(check.CodeTooFewEvents)},
		{"another kind of event", c, upgrades(func(es []history.Event) { es[2].Kind = "note" }), open(check.CodeTooFewEvents)},
		{"in bounds", led, upgrades(), pass},
		{"what is needed is there", check.Measured{Names: led.Names, Bounds: led.Bounds, Needs: []check.Bound{check.AtMost("led", 0)}}, upgrades(), pass},
		{"what is needed is not there", check.Measured{Names: led.Names, Bounds: led.Bounds, Needs: []check.Bound{check.AtLeast("led", 1)}}, upgrades(), open(check.CodeTooFewTries)},
		{"out of bounds", led, upgrades(set(0, "led", 1.0)), fail(check.CodeOutOfBounds)},
		{"a truth value", led, upgrades(set(0, "led", true)), fail(check.CodeOutOfBounds)},
		{"not a figure", led, upgrades(set(0, "led", "0")), open(check.CodeBadRecord)},
		{"from below", check.Measured{Names: []string{"upgrade-"}, Bounds: []check.Bound{check.AtLeast("led", 1)}}, upgrades(), fail(check.CodeOutOfBounds)},
		{"from above, at the end", check.Measured{Names: []string{"upgrade-"}, Bounds: []check.Bound{check.AtMost("led", 0)}}, upgrades(), pass},
		{"nothing named", check.Measured{Bounds: led.Bounds}, upgrades(), open(check.CodeBadParams)},
		{"nothing wanted", check.Measured{Names: led.Names}, upgrades(), open(check.CodeBadParams)},
		{"no events", c, history.History{}, open(check.CodeTooFewEvents)},
	})
}

// paced is a history of one client with a calm and a loaded stretch, each of n operations.
func paced(n int, calm, loaded int64, change ...func(op []history.Op)) history.History {
	var list []history.Op
	for i := range 2 * n {
		took := calm
		if i >= n {
			took = loaded
		}
		at := int64(i+1) * sec
		list = append(list, history.Op{Kind: history.Put, Target: "B", Outcome: history.OK, Invoke: at, Complete: at + took, Seq: uint64(i + 1)})
	}
	h := history.History{Ops: ops(list...)}
	for _, f := range change {
		f(h.Ops)
	}
	for name, at := range map[string]int64{"calm": 1, "loaded": int64(n)*sec + sec/2, "end": int64(2*n+1) * sec} {
		h.Events = append(h.Events, history.Event{Kind: "mark", Name: name, At: at})
	}
	return h
}

func TestLatency(t *testing.T) {
	t.Parallel()
	c := check.Latency{Calm: check.Window{From: "calm", To: "loaded"}, Loaded: check.Window{From: "loaded", To: "end"}, Kinds: []string{"put"}, MaxRatio: 3, MinOps: 100}
	with := func(f func(c *check.Latency)) check.Latency {
		d := c
		f(&d)
		return d
	}
	bad := func(err string, out history.Outcome, kind history.Kind) func([]history.Op) {
		return func(op []history.Op) {
			op[150].Outcome, op[150].Err, op[150].Seq, op[150].Kind = out, err, 0, kind
		}
	}
	runTable(t, []tableCase{
		{"unaffected", c, paced(100, 5*ms, 5*ms), pass},
		{"at the bound", c, paced(100, 5*ms, 15*ms), pass},
		{"slower", c, paced(100, 5*ms, 16*ms), fail(check.CodeTooSlow)},
		{"slower, below the floor", with(func(c *check.Latency) { c.FloorMs = 6 }), paced(100, 5*ms, 16*ms), pass},
		{"one outlier of a hundred", c, paced(100, 5*ms, 5*ms, func(op []history.Op) { op[150].Complete = op[150].Invoke + 900*ms }), pass},
		{"two outliers of a hundred", c, paced(100, 5*ms, 5*ms, func(op []history.Op) {
			op[150].Complete, op[151].Complete = op[150].Invoke+900*ms, op[151].Invoke+900*ms
		}), fail(check.CodeTooSlow)},
		{"a failure", c, paced(100, 5*ms, 5*ms, bad("timeout", history.Unknown, history.Put)), fail(check.CodeOpsFailed)},
		{"a failure that may be", with(func(c *check.Latency) { c.MaxBad = 1 }), paced(100, 5*ms, 5*ms, bad("timeout", history.Unknown, history.Put)), pass},
		{"a failure in the calm stretch", c, paced(100, 5*ms, 5*ms, func(op []history.Op) { op[50].Outcome, op[50].Err, op[50].Seq = history.Unknown, "timeout", 0 }), pass},
		{"a conflict of a compare-and-set", with(func(c *check.Latency) { c.Kinds, c.MinOps = []string{"put", "update"}, 0; c.MinOps = 1 }),
			paced(100, 5*ms, 5*ms, func(op []history.Op) {
				op[50].Kind = history.Update
				op[150].Outcome, op[150].Err, op[150].Seq, op[150].Kind = history.Failed, "conflict", 0, history.Update
			}), pass},
		{"too few", c, paced(99, 5*ms, 5*ms), open(check.CodeTooFewOps)},
		{"another target", with(func(c *check.Latency) { c.Targets = []string{"X"} }), paced(100, 5*ms, 5*ms), open(check.CodeTooFewOps)},
		{"no mark", with(func(c *check.Latency) { c.Loaded.To = "never" }), paced(100, 5*ms, 5*ms), open(check.CodeNoMark)},
		{"no ratio", with(func(c *check.Latency) { c.MaxRatio = 0 }), paced(100, 5*ms, 5*ms), open(check.CodeBadParams)},
		{"an answer before its question", c, paced(100, 5*ms, 5*ms, func(op []history.Op) { op[3].Complete = op[3].Invoke - 1 }), open(check.CodeBadClock)},
	})
}

// connected is a history of two clients that stay connected from mark a to mark b.
func connected(more ...history.Conn) history.History {
	cs := []history.Conn{{Client: "pub-0", At: 1, State: "connected", Node: "n1"}, {Client: "kv-0", At: 1, State: "connected", Node: "n2"},
		{Client: "kv-0", At: 2, State: "disconnected"}, {Client: "kv-0", At: 3, State: "reconnected", Node: "n1"}}
	return history.History{Conns: append(cs, more...), Events: []history.Event{{Kind: "mark", Name: "a", At: 10}, {Kind: "mark", Name: "b", At: 20}}}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	c := check.Connections{Window: check.Window{From: "a", To: "b"}, MinClients: 2}
	lost := func(client, state string, at int64) history.Conn {
		return history.Conn{Client: client, At: at, State: state, Node: "n1"}
	}
	runTable(t, []tableCase{
		{"kept", c, connected(), pass},
		{"lost", c, connected(lost("pub-0", "disconnected", 15)), fail(check.CodeDisconnected)},
		{"closed", c, connected(lost("pub-0", "closed", 15)), fail(check.CodeDisconnected)},
		{"lost and back", c, connected(lost("pub-0", "disconnected", 15), lost("pub-0", "reconnected", 16)), fail(check.CodeDisconnected)},
		{"one may", check.Connections{Window: c.Window, MaxEnded: 1}, connected(lost("pub-0", "disconnected", 15)), pass},
		{"lost afterwards", c, connected(lost("pub-0", "closed", 21)), pass},
		{"another client's", check.Connections{Window: c.Window, Clients: []string{"kv"}}, connected(lost("pub-0", "closed", 15)), pass},
		{"lost before", c, connected(lost("pub-0", "disconnected", 5)), open(check.CodeTooFewClients)},
		{"no mark", check.Connections{Window: check.Window{From: "x"}}, connected(), open(check.CodeNoMark)},
	})
}

// Every mutation of the three must fire on a history that they pass.
func TestMutationsOfMeasurements(t *testing.T) {
	t.Parallel()
	up, flow, kept := upgrades(), paced(100, 5*ms, 5*ms), connected()
	for _, tc := range []struct {
		h     *history.History
		c     check.Checker
		fired int
	}{
		{&up, check.Measured{Names: []string{"upgrade-"}, Min: 3, Bounds: []check.Bound{check.AtMost("led", 0)}, Same: [][2]string{{"after", "wanted"}}, Differ: [][2]string{{"before", "after"}}}, 4},
		{&up, check.Measured{Names: []string{"upgrade-"}, Bounds: []check.Bound{check.AtLeast("led", 0)}}, 2},
		{&kept, check.Connections{Window: check.Window{From: "a", To: "b"}}, 1},
		{&flow, check.Latency{Calm: check.Window{From: "calm", To: "loaded"}, Loaded: check.Window{From: "loaded", To: "end"}, Kinds: []string{"put"}, MaxRatio: 3}, 3},
	} {
		fired := 0
		for seed := range uint64(5) {
			for _, m := range check.RunMutations([]check.Spec{check.Of(tc.c)}, tc.h, seed) {
				if m.Applied && !m.Fired {
					t.Errorf("%s with seed %d: %s %q, want %s %q (%s)", m.Mutation, seed, m.Result.Verdict, m.Result.Code, m.Verdict, m.Want, m.Note)
				}
				if m.Fired && seed == 0 {
					fired++
				}
			}
		}
		if fired != tc.fired {
			t.Errorf("%T: %d mutations fired, want %d", tc.c, fired, tc.fired)
		}
	}
}
