package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

const (
	ms  = int64(1e6)
	sec = int64(1e9)

	lostAt  = 10 * sec // the quorum is lost here,
	backAt  = 20 * sec // is back here,
	endAt   = 30 * sec // and clients stop here
	drainAt = endAt + 2*sec
)

// world is a correct cluster with clients, in virtual time: the model that makes good histories. Every operation takes effect at one instant
// between its invocation and its answer, or never.
type world struct {
	rng     *rand.Rand
	h       history.History
	nextID  int64
	think   int64   // mean pause of a client
	unknown float64 // share of effective operations whose answer is lost

	orders []history.Item
	ids    map[string]uint64
	bucket []history.Item
	latest map[string]history.Item
	born   map[uint64]int64 // when an order took effect
	wrote  map[uint64]int64 // when a revision took effect
}

type client struct {
	name  string
	kv    bool
	at    int64
	phase int // 0 invoke, 1 take effect, 2 answer
	op    history.Op
	n     int
	retry string
	known map[string]uint64
}

// newWorld runs clients for 30 s of virtual time with an outage in the middle.
func newWorld(seed uint64, publishers, writers int, think int64, unknown float64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), think: think, unknown: unknown, ids: map[string]uint64{}, latest: map[string]history.Item{}, born: map[uint64]int64{}, wrote: map[uint64]int64{}}
	var clients []*client
	for i := range publishers {
		clients = append(clients, &client{name: fmt.Sprintf("p%d", i), at: 1 + w.rng.Int64N(think)})
	}
	for i := range writers {
		clients = append(clients, &client{name: fmt.Sprintf("k%d", i), kv: true, at: 1 + w.rng.Int64N(think), known: map[string]uint64{}})
	}
	for {
		c := slices.MinFunc(clients, func(a, b *client) int { return int(a.at - b.at) })
		if c.at > endAt && c.phase == 0 {
			break
		}
		w.step(c)
	}
	for { // what is in flight ends before the drain, in the order of time
		clients = slices.DeleteFunc(clients, func(c *client) bool { return c.phase == 0 })
		if len(clients) == 0 {
			break
		}
		w.step(slices.MinFunc(clients, func(a, b *client) int { return int(a.at - b.at) }))
	}
	sort.SliceStable(w.h.Ops, func(i, j int) bool { return w.h.Ops[i].Complete < w.h.Ops[j].Complete })
	w.rest()
	return w
}

func (w *world) step(c *client) {
	switch c.phase {
	case 0:
		w.invoke(c)
		c.at += ms + w.rng.Int64N(5*ms)
	case 1:
		w.effect(c)
		c.at += ms + w.rng.Int64N(5*ms)
		if c.op.Outcome != history.OK {
			c.at += w.rng.Int64N(300 * ms)
		}
	case 2:
		c.op.Complete = c.at
		w.h.Ops = append(w.h.Ops, c.op)
		c.at += 1 + w.rng.Int64N(2*w.think)
	}
	c.phase = (c.phase + 1) % 3
}

func (w *world) invoke(c *client) {
	w.nextID++
	c.n++
	c.op = history.Op{ID: w.nextID, Client: c.name, Node: "n1", Invoke: c.at, Target: "ORDERS", Kind: history.Publish, Value: fmt.Sprintf("%s-%d", c.name, c.n), Key: "orders.a"}
	if !c.kv {
		if c.retry != "" {
			c.op.Value, c.retry = c.retry, ""
		}
		return
	}
	c.op.Target, c.op.Key = "S", string(rune('a'+w.rng.IntN(3)))
	c.op.Kind = []history.Kind{history.Put, history.Get, history.Get, history.Update, history.Direct, history.Create}[w.rng.IntN(6)]
	switch c.op.Kind {
	case history.Update:
		if c.op.Prev = c.known[c.op.Key]; c.op.Prev == 0 {
			c.op.Kind = history.Put
		}
	case history.Get, history.Direct:
		c.op.Value = ""
	}
}

// effect decides what becomes of the operation.
func (w *world) effect(c *client) {
	op := &c.op
	read := op.Kind == history.Get || op.Kind == history.Direct
	if c.at >= lostAt && c.at < backAt || w.rng.Float64() < 0.02 {
		op.Outcome, op.Err = history.Failed, "no-responders"
		if w.rng.IntN(2) == 0 {
			op.Outcome, op.Err = history.Unknown, "timeout"
			if op.Kind == history.Publish {
				c.retry = op.Value
			}
		}
		return
	}
	op.Outcome = history.OK
	switch op.Kind {
	case history.Publish:
		w.publish(op, c.at)
	case history.Get:
		op.Value, op.Seq = w.latest[op.Key].Value, w.latest[op.Key].Seq
	case history.Direct:
		w.direct(op)
	default:
		w.write(op, c.at)
	}
	if op.Outcome == history.OK && !read && w.rng.Float64() < w.unknown {
		op.Outcome, op.Err, op.Seq, op.Dup = history.Unknown, "timeout", 0, false
		if op.Kind == history.Publish && w.rng.IntN(2) == 0 {
			c.retry = op.Value
		}
	}
	if op.Kind == history.Publish && op.Outcome == history.OK && c.n%5 == 0 {
		c.retry = op.Value // again, though it was acked
	}
	if c.kv && op.Outcome == history.OK && op.Seq != 0 {
		c.known[op.Key] = op.Seq
	}
}

func (w *world) publish(op *history.Op, at int64) {
	if seq, ok := w.ids[op.Value]; ok {
		op.Seq, op.Dup = seq, true
		return
	}
	op.Seq = uint64(len(w.orders) + 1)
	w.ids[op.Value] = op.Seq
	w.born[op.Seq] = at
	w.orders = append(w.orders, history.Item{Target: "ORDERS", Seq: op.Seq, Key: op.Key, Value: op.Value})
}

func (w *world) write(op *history.Op, at int64) {
	have := w.latest[op.Key]
	if op.Kind == history.Create && have.Seq != 0 || op.Kind == history.Update && have.Seq != op.Prev {
		op.Outcome, op.Err = history.Failed, "conflict"
		return
	}
	op.Seq = uint64(len(w.bucket) + 1)
	it := history.Item{Target: "S", Seq: op.Seq, Key: op.Key, Value: op.Value}
	w.bucket = append(w.bucket, it)
	w.latest[op.Key] = it
	w.wrote[op.Seq] = at
}

// direct reads what some replica has: the latest, or sometimes an older value.
func (w *world) direct(op *history.Op) {
	it := w.latest[op.Key]
	if w.rng.IntN(10) == 0 {
		for _, old := range w.bucket {
			if old.Key == op.Key {
				it = old
				break
			}
		}
	}
	op.Value, op.Seq = it.Value, it.Seq
}

// rest adds what nodes, consumers and the harness say.
func (w *world) rest() {
	h := &w.h
	h.Items = append(slices.Clone(w.orders), w.bucket...)
	h.Drains = []history.Drain{drainOf("ORDERS", w.orders), drainOf("S", w.bucket)}
	w.appends()
	w.queue()
	w.deliveries()
	w.access()
	for at := int64(0); at < endAt+sec; at += 100 * ms {
		for _, n := range []string{"n1", "n2", "n3"} {
			ready := history.Health{Node: n, Probe: "ready", At: at, Took: ms, Code: 200}
			if at >= lostAt+sec && at < backAt+sec {
				ready.Code, ready.Reason = 503, "no quorum: 1 of 3, 2 needed"
			}
			h.Health = append(h.Health, ready, history.Health{Node: n, Probe: "live", At: at, Took: ms, Code: 200})
		}
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		for _, x := range []struct {
			target string
			items  []history.Item
		}{{"BUS/ORDERS", w.orders}, {"CONTROL/KV_S", w.bucket}} {
			r := history.Replica{Node: n, Target: x.target, At: drainAt, Source: "jsz", First: 1, Last: uint64(len(x.items)), Msgs: uint64(len(x.items)), Bytes: uint64(40 * len(x.items)), Replicas: 3}
			h.Replicas = append(h.Replicas, r)
			r.Source, r.Bytes, r.Digest = "blocks", 0, "sha256:"+x.target
			h.Replicas = append(h.Replicas, r)
		}
	}
	h.Events = append(h.Events, mark("steady", sec), mark("lost", lostAt), mark("back", backAt), mark("end", endAt), mark("logins", loginAt))
	h.Events = append(h.Events, fault("kill[n2]#1", lostAt-5*sec)...)
	h.Events = append(h.Events, fault("kill[n2 n3]#2", lostAt)...)
	h.Events = append(h.Events, converged("start", 0), converged("end", endAt))
	h.Events = append(h.Events, described("before", sec, 10), described("after", endAt, 20))
	h.Events = append(h.Events, measurement("swap-1", "n1", map[string]any{"before": "a", "after": "b", "wanted": "b", "took": 2.0}))
	h.Conns = append(h.Conns, history.Conn{Client: "p0", At: 1, State: "connected"}, history.Conn{Client: "p0", At: lostAt, State: "disconnected"}, history.Conn{Client: "p0", At: backAt, State: "reconnected"})
}

func (w *world) deliveries() {
	h := &w.h
	for i, it := range w.orders {
		d := history.Delivery{Client: fmt.Sprintf("c%d", i%2), Kind: "pull", Target: "ORDERS", Key: it.Key, Value: it.Value, Seq: it.Seq, Count: 1, At: w.born[it.Seq] + ms}
		if w.rng.IntN(10) == 0 { // the ack got lost: it comes again
			h.Deliveries = append(h.Deliveries, d)
			d.Count, d.At = 2, d.At+sec
		}
		d.Ack, d.Acked = history.OK, d.At+ms
		h.Deliveries = append(h.Deliveries, d)
		h.Deliveries = append(h.Deliveries, history.Delivery{Client: "o0", Kind: "ordered", Target: "ORDERS", Value: it.Value, Seq: it.Seq, Count: 1, At: w.born[it.Seq] + ms})
	}
	for _, it := range w.bucket {
		h.Deliveries = append(h.Deliveries, history.Delivery{Client: "w0", Kind: "watch", Target: "S", Key: it.Key, Value: it.Value, Seq: it.Seq, At: w.wrote[it.Seq] + ms})
	}
	h.Conns = append(h.Conns, history.Conn{Client: "o0", At: 1, State: "connected", Node: "n1"}, history.Conn{Client: "w0", At: 1, State: "connected", Node: "n2"},
		history.Conn{Client: "w0", At: lostAt, State: "disconnected"}, history.Conn{Client: "w0", At: backAt, State: "reconnected", Node: "n3"},
		history.Conn{Client: "w0", At: drainAt + sec, State: "closed"})
	w.chat()
	sort.SliceStable(h.Deliveries, func(i, j int) bool { return h.Deliveries[i].At < h.Deliveries[j].At })
}

// chat sends core messages to two subscribers: one stays, one is away in the outage and misses what comes then.
func (w *world) chat() {
	h := &w.h
	h.Conns = append(h.Conns, history.Conn{Client: "s0", At: 1, State: "connected", Node: "n1"}, history.Conn{Client: "s1", At: 1, State: "connected", Node: "n2"},
		history.Conn{Client: "s1", At: lostAt, State: "disconnected"}, history.Conn{Client: "s1", At: backAt, State: "reconnected", Node: "n3"})
	for at := 2 * sec; at < endAt-2*sec; at += sec / 2 {
		w.nextID++
		value := fmt.Sprintf("chat-%d", at)
		h.Ops = append(h.Ops, history.Op{ID: w.nextID, Client: "t0", Node: "n1", Kind: history.Send, Target: "chat", Value: value, Invoke: at, Complete: at + ms, Outcome: history.OK})
		for _, s := range []string{"s0", "s1"} {
			if s == "s0" || at < lostAt || at > backAt {
				h.Deliveries = append(h.Deliveries, history.Delivery{Client: s, Kind: "core", Target: "chat", Value: value, At: at + 2*ms})
			}
		}
	}
}

func drainOf(target string, items []history.Item) history.Drain {
	d := history.Drain{Target: target, At: drainAt, Complete: true, Items: len(items), Last: uint64(len(items))}
	if len(items) > 0 {
		d.First, d.Last = items[0].Seq, items[len(items)-1].Seq
	}
	return d
}

func mark(name string, at int64) history.Event {
	return history.Event{Kind: "mark", Name: name, At: at}
}

func converged(name string, at int64) history.Event {
	e := history.ConvergedEvent(name, history.Convergence{OK: true, Seconds: 2, Ready: []string{"n1", "n2", "n3"}, Buckets: 6, Replicas: 3, Current: true, Identical: true})
	e.At = at
	return e
}

// fault is a whole fault from at on, 4 s long.
func fault(name string, at int64) []history.Event {
	ev := func(stage history.Stage, at int64, inForce bool) history.Event {
		return history.Event{Kind: "fault", Name: name, Stage: stage, At: at, Data: map[string]any{"in_force": inForce}}
	}
	in := ev(history.StageInForce, at+20*ms, true)
	in.Data["force_ms"] = 7.5
	return []history.Event{ev(history.StageAbsent, at-ms, false), ev(history.StageDecided, at, false), in, ev(history.StageBystand, at+30*ms, false),
		ev(history.StageStillOn, at+2*sec, true), ev(history.StageHealing, at+4*sec, true), ev(history.StageHealed, at+4*sec+ms, false)}
}

// goodSpecs are claims that hold in every world.
func goodSpecs() []check.Spec {
	outage := check.Window{From: "lost", To: "back"}
	nodes := []string{"n1", "n2", "n3"}
	return append(accessSpecs(), []check.Spec{
		check.Of(check.StreamAccounting{Target: "ORDERS"}),
		check.Of(check.ReplicaAgreement{}),
		check.Of(check.ReplicaAgreement{Source: "blocks", Targets: []string{"BUS/ORDERS"}}),
		check.Of(check.KVLinearizable{Target: "S"}),
		check.Of(check.KVDurable{Target: "S"}),
		check.Of(check.NoAck{Window: outage, GraceSeconds: 0.1, MaxSilenceSeconds: 1}),
		check.Of(check.Availability{Window: check.Window{From: "back", To: "end"}, MaxGapSeconds: 4, WithinSeconds: 4}),
		check.Of(check.HealthCheck{Probe: "ready", Nodes: nodes, Window: outage, GraceSeconds: 1, Want: check.WantNever200, ReasonContains: []string{"no quorum"}, MinHz: 10}),
		check.Of(check.HealthCheck{Probe: "ready", Nodes: nodes, Window: outage, Want: check.WantEndsNot200}),
		check.Of(check.HealthCheck{Probe: "ready", Nodes: nodes, Window: check.Window{From: "back"}, Want: check.WantEnds200}),
		check.Of(check.HealthCheck{Probe: "live", Nodes: nodes, Want: check.WantAlways200}),
		check.Of(check.HealthTruth{Targets: []string{"ORDERS", "S"}, GraceSeconds: 2}),
		check.Of(check.Converged{Min: 2}),
		check.Of(check.CASSerialized{Target: "S"}),
		check.Of(check.StreamMetadata{Target: "ORDERS", Last: "after", KeepsStart: true}),
		check.Of(check.Deduplication{Target: "ORDERS", MinRepeats: 2}),
		check.Of(check.Appends{Target: "LEDGER", MinAcked: 10}),
		check.Of(check.WorkQueue{Target: "JOBS", MinAcked: 10, MinHandled: 10}),
		check.Of(check.StaleReads{Target: "S", Kind: "get", Forbid: true}),
		check.Of(check.Faults{Min: 2}),
		check.Of(check.Preconditions{MinOps: 20, MinBefore: 1, MinDuring: 1, MinAfter: 1, Marks: []string{"lost"}, Drained: []string{"ORDERS", "S"}}),
		check.Of(check.Consumers{Target: "ORDERS", Complete: true}),
		check.Of(check.Consumers{Target: "S", Kinds: []string{"watch"}, Complete: true}),
		check.Of(check.Consumers{Target: "ORDERS", Kinds: []string{"pull"}, Complete: true, MinClients: 2}),
		check.Of(check.Consumers{Target: "ORDERS", Kinds: []string{"ordered"}, Complete: true, Clients: []string{"o"}, MinClients: 1}),
		check.Of(check.Consumers{Target: "ORDERS", Kinds: []string{"ordered"}, Clients: []string{"o"}}),
		check.Of(check.Consumers{Target: "S", Kinds: []string{"watch"}, Complete: true, Clients: []string{"w0"}, MinClients: 1}),
		check.Of(check.Consumers{Target: "S", Kinds: []string{"watch"}, Clients: []string{"w0"}}),
		check.Of(check.Measured{Names: []string{"swap-"}, Nodes: 1, Bounds: []check.Bound{check.AtMost("took", 3)}, Same: [][2]string{{"after", "wanted"}}, Differ: [][2]string{{"before", "after"}}}),
		check.Of(check.Latency{Calm: check.Window{To: "lost"}, Loaded: check.Window{From: "back", To: "end"}, Kinds: []string{"get"}, MaxRatio: 20, FloorMs: 50, MaxBad: 25, MinOps: 1}),
		check.Of(check.CoreDelivered{Window: check.Window{From: "steady", To: "end"}, Target: "chat", MinPairs: 20}),
		check.Of(check.CoreDelivered{Window: check.Window{From: "steady", To: "end"}, Target: "chat", MinPairs: 20, Clients: []string{"s"}, MinClients: 2}),
		check.Of(check.Connections{Window: check.Window{From: "back", To: "end"}}),
		check.Of(check.ClientGaps{Window: check.Window{To: "end"}, Clients: []string{"p", "k"}, Classes: map[string][]string{"publishers": {"p"}}}),
	}...)
}
