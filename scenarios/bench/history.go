package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// The made-up run that checkers are timed on: what ten minutes of an eager standard load with consumers leave behind.
const (
	madeStream     = "ORDERS"
	madeBucket     = "kv-orders"
	madePublishers = 6
	madeWriters    = 6
	madeKeys       = 5
	madeStep       = int64(3 * time.Millisecond) // between two operations taking effect
	madeOrdered    = 3                           // ordered consumers
	madeWatchers   = 3
	madeUnknown    = 100 // one answer in so many is lost
	madeFaults     = 12
	madeLedger     = "LEDGER"
	madeQueue      = "JOBS"
	madeRepeats    = 10 // one publish in so many is made again
	madeOther      = 20 // one operation on the ledger and one on the queue for so many others
)

var madeNodes = []string{"n1", "n2", "n3"}

// maker makes the history of a cluster that keeps its promises, in virtual time. Every operation takes effect at one instant between its
// invocation and its answer.
type maker struct {
	h      history.History
	rng    *rand.Rand
	ends   map[string]int64 // when each client's last operation ended
	orders []history.Item
	bucket []history.Item
	ledger []history.Item
	last   map[string]history.Item // by key
	at     map[uint64]int64        // when an order took effect
	wrote  map[uint64]int64        // when a revision did
}

// madeHistory has so many operations, half of them publishes and half on keys, beside what consumers, nodes and the harness saw meanwhile.
func madeHistory(ops int) *history.History {
	m := &maker{rng: rand.New(rand.NewPCG(1, 1)), ends: map[string]int64{}, last: map[string]history.Item{}, at: map[uint64]int64{}, wrote: map[uint64]int64{}}
	for i := range ops {
		at := int64(i+100) * madeStep
		if i%2 == 0 {
			m.publish(at, i/2)
		} else {
			m.keyed(at, i/2)
		}
	}
	for i := range ops / madeOther {
		m.append(int64(i+5)*madeOther*madeStep, i)
		m.job(int64(i+5)*madeOther*madeStep, i)
	}
	slices.SortStableFunc(m.h.Ops, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
	for i := range m.h.Ops {
		m.h.Ops[i].ID = int64(i + 1)
	}
	slices.SortStableFunc(m.h.Ops, func(a, b history.Op) int { return int(a.Complete - b.Complete) })
	end := int64(ops+200) * madeStep
	m.h.Items = slices.Concat(m.orders, m.bucket, m.ledger)
	m.h.Drains = []history.Drain{m.drain(madeStream, m.orders, end), m.drain(madeBucket, m.bucket, end), m.drain(madeLedger, m.ledger, end), m.drain(madeQueue, nil, end)}
	m.deliveries()
	m.nodes(end)
	m.harness(end)
	return &m.h
}

// around gives an operation that takes effect at that time its ends: clients overlap, and each does one thing at a time.
func (m *maker) around(op *history.Op, at int64, clients int) {
	period := 2 * int64(clients) * madeStep
	op.Invoke = max(at-1-m.rng.Int64N(period*2/5), m.ends[op.Client]+1)
	op.Complete = at + 1 + m.rng.Int64N(period*2/5)
	m.ends[op.Client] = op.Complete
}

func (m *maker) publish(at int64, i int) {
	op := history.Op{Client: fmt.Sprintf("pub-%d", i%madePublishers), Node: madeNodes[i%3], Kind: history.Publish, Target: madeStream, Key: "orders.a",
		Value: fmt.Sprintf("pub-%d-%d", i%madePublishers, i), Outcome: history.OK, Seq: uint64(len(m.orders) + 1)}
	m.around(&op, at, madePublishers)
	m.orders = append(m.orders, history.Item{Target: madeStream, Seq: op.Seq, Key: op.Key, Value: op.Value})
	m.at[op.Seq] = at
	again := op
	m.lose(&op)
	m.h.Ops = append(m.h.Ops, op)
	if i%madeRepeats == 0 {
		again.Client, again.Dup = fmt.Sprintf("pub-%d", (i+1)%madePublishers), true
		again.Invoke, again.Complete = op.Complete+madeStep, op.Complete+2*madeStep
		m.h.Ops = append(m.h.Ops, again)
	}
}

// append is one conditional publish: half of them expect a sequence, half a message id.
func (m *maker) append(at int64, i int) {
	op := history.Op{Client: fmt.Sprintf("ledger-%d", i%3), Node: madeNodes[i%3], Kind: history.Append, Target: madeLedger, Key: "ledger", Value: fmt.Sprintf("ledger-%d", i),
		Invoke: at, Complete: at + 2*madeStep, Outcome: history.OK, Seq: uint64(i + 1), Prev: uint64(i)}
	if i%2 == 1 {
		op.Prev, op.After = 0, m.ledger[i-1].Value
	}
	m.ledger = append(m.ledger, history.Item{Target: madeLedger, Seq: op.Seq, Key: op.Key, Value: op.Value})
	m.lose(&op)
	m.h.Ops = append(m.h.Ops, op)
}

// job is one message of a work queue, and that it was handled.
func (m *maker) job(at int64, i int) {
	op := history.Op{Client: fmt.Sprintf("jobs-%d", i%3), Node: madeNodes[i%3], Kind: history.Publish, Target: madeQueue, Key: "jobs.a", Value: fmt.Sprintf("jobs-%d", i),
		Invoke: at, Complete: at + 2*madeStep, Outcome: history.OK, Seq: uint64(i + 1)}
	m.h.Deliveries = append(m.h.Deliveries, history.Delivery{Client: fmt.Sprintf("worker-%d", i%3), Kind: "pull", Target: madeQueue, Key: op.Key, Value: op.Value, Seq: op.Seq, Count: 1,
		Asked: at, At: at + 3*madeStep, Acked: at + 4*madeStep, Ack: history.OK})
	m.lose(&op)
	m.h.Ops = append(m.h.Ops, op)
}

// lose takes the answer of some operations away.
func (m *maker) lose(op *history.Op) {
	if m.rng.IntN(madeUnknown) == 0 {
		op.Outcome, op.Err, op.Seq = history.Unknown, "timeout", 0
	}
}

func (m *maker) keyed(at int64, i int) {
	op := history.Op{Client: fmt.Sprintf("kv-%d", i%madeWriters), Node: madeNodes[i%3], Target: madeBucket, Key: fmt.Sprintf("key-%d", m.rng.IntN(madeKeys)), Outcome: history.OK}
	m.around(&op, at, madeWriters)
	have := m.last[op.Key]
	switch x := m.rng.IntN(100); {
	case x < 40:
		op.Kind, op.Value, op.Seq = history.Get, have.Value, have.Seq
	case x < 60 || have.Seq == 0:
		op.Kind = history.Put
		m.write(&op, at, i)
	case x < 65:
		op.Kind, op.Value, op.Outcome, op.Err = history.Create, fmt.Sprintf("%s-%d", op.Client, i), history.Failed, "conflict"
	case x < 75: // somebody else was faster
		op.Kind, op.Prev, op.Value, op.Outcome, op.Err = history.Update, have.Seq-1, fmt.Sprintf("%s-%d", op.Client, i), history.Failed, "conflict"
	default:
		op.Kind, op.Prev = history.Update, have.Seq
		m.write(&op, at, i)
	}
	m.h.Ops = append(m.h.Ops, op)
}

func (m *maker) write(op *history.Op, at int64, i int) {
	op.Value, op.Seq = fmt.Sprintf("%s-%d", op.Client, i), uint64(len(m.bucket)+1)
	it := history.Item{Target: madeBucket, Seq: op.Seq, Key: op.Key, Value: op.Value}
	m.bucket, m.last[op.Key], m.wrote[op.Seq] = append(m.bucket, it), it, at
	m.lose(op)
}

func (m *maker) drain(target string, items []history.Item, at int64) history.Drain {
	return history.Drain{Target: target, At: at + int64(time.Second), Complete: true, Items: len(items), First: 1, Last: uint64(len(items))}
}

// deliveries: one pull consumer that two clients share, and for some messages asks again because an answer was lost; ordered consumers; watchers.
func (m *maker) deliveries() {
	for i, it := range m.orders {
		d := history.Delivery{Client: fmt.Sprintf("pull-%d", i%2), Kind: "pull", Target: madeStream, Key: it.Key, Value: it.Value, Seq: it.Seq, Count: 1, At: m.at[it.Seq] + madeStep}
		if m.rng.IntN(madeUnknown) == 0 {
			m.h.Deliveries = append(m.h.Deliveries, d)
			d.Count, d.At = 2, d.At+int64(5*time.Second)
		}
		d.Ack, d.Acked = history.OK, d.At+madeStep
		m.h.Deliveries = append(m.h.Deliveries, d)
		for k := range madeOrdered {
			m.h.Deliveries = append(m.h.Deliveries, history.Delivery{Client: fmt.Sprintf("ordered-%d", k), Kind: "ordered", Target: madeStream, Key: it.Key, Value: it.Value,
				Seq: it.Seq, Count: 1, At: m.at[it.Seq] + madeStep})
		}
	}
	for _, it := range m.bucket {
		for k := range madeWatchers {
			m.h.Deliveries = append(m.h.Deliveries, history.Delivery{Client: fmt.Sprintf("watch-%d", k), Kind: "watch", Target: madeBucket, Key: it.Key, Value: it.Value,
				Seq: it.Seq, At: m.wrote[it.Seq] + madeStep})
		}
	}
	slices.SortStableFunc(m.h.Deliveries, func(a, b history.Delivery) int { return int(a.At - b.At) })
}

// nodes is what they say of themselves, ten times a second, and their own copies.
func (m *maker) nodes(end int64) {
	for at := int64(0); at < end; at += int64(100 * time.Millisecond) {
		for _, n := range madeNodes {
			for _, probe := range []string{"ready", "live"} {
				m.h.Health = append(m.h.Health, history.Health{Node: n, Probe: probe, At: at, Took: madeStep, Code: 200})
			}
		}
	}
	for _, n := range madeNodes {
		for target, items := range map[string][]history.Item{"BUS/ORDERS": m.orders, "BUS/KV_kv-orders": m.bucket} {
			m.h.Replicas = append(m.h.Replicas, history.Replica{Node: n, Target: target, At: end, Source: "blocks", First: 1, Last: uint64(len(items)), Msgs: uint64(len(items)),
				Digest: "sha256:" + target, Replicas: 3})
		}
	}
}

// harness is marks, faults and waits for convergence.
func (m *maker) harness(end int64) {
	mark := func(name string, at int64) {
		m.h.Events = append(m.h.Events, history.Event{Kind: "mark", Name: name, At: at})
	}
	settled := func(name string, at int64) {
		e := history.ConvergedEvent(name, history.Convergence{OK: true, Seconds: 2, Ready: madeNodes, Buckets: 6, Replicas: 3, Current: true, Identical: true})
		e.At = at
		m.h.Events = append(m.h.Events, e)
	}
	settled("start", 0)
	mark("faults", end/10)
	for i := range madeFaults {
		m.fault(fmt.Sprintf("kill[%s]#%d", madeNodes[i%3], i+1), end/10+int64(i)*(end*8/10/madeFaults))
	}
	mark("faults-end", end*9/10)
	settled("end", end)
}

func (m *maker) fault(name string, at int64) {
	add := func(stage history.Stage, after int64, there bool) {
		m.h.Events = append(m.h.Events, history.Event{Kind: "fault", Name: name, Stage: stage, At: at + after*madeStep, Data: map[string]any{"in_force": there}})
	}
	add(history.StageAbsent, -1, false)
	add(history.StageDecided, 0, false)
	add(history.StageInForce, 5, true)
	add(history.StageBystand, 6, false)
	add(history.StageStillOn, 500, true)
	add(history.StageHealing, 1000, true)
	add(history.StageHealed, 1010, false)
}

// madeClaims are those of the standard scenarios about load, consumers, nodes and faults.
func madeClaims() []reports.Claim {
	during := check.Window{From: "faults", To: "faults-end"}
	var all []reports.Claim
	for id, c := range map[string]check.Checker{
		"stream-intact":      check.StreamAccounting{Target: madeStream, MinAcked: 300},
		"kv-linearizable":    check.KVLinearizable{Target: madeBucket, Keys: madeKeys, MinOps: 200},
		"kv-durable":         check.KVDurable{Target: madeBucket, MinKeys: madeKeys},
		"cas-serialized":     check.CASSerialized{Target: madeBucket},
		"deduplicated":       check.Deduplication{Target: madeStream, MinRepeats: 200},
		"appends":            check.Appends{Target: madeLedger, MinAcked: 200},
		"work-queue":         check.WorkQueue{Target: madeQueue, MinAcked: 200, MinHandled: 200},
		"pull-consumer":      check.Consumers{Target: madeStream, Kinds: []string{"pull"}, MinDeliveries: 200, Complete: true},
		"ordered-consumer":   check.Consumers{Target: madeStream, Kinds: []string{"ordered"}, MinDeliveries: 200, Complete: true},
		"kv-watcher":         check.Consumers{Target: madeBucket, Kinds: []string{"watch"}, MinDeliveries: 50, Complete: true},
		"converged":          check.Converged{Min: 2, Buckets: 6},
		"copies-agree":       check.ReplicaAgreement{Source: "blocks", Nodes: 3, AllowDeleted: true},
		"write-gap":          check.Availability{Window: during, Kinds: []string{"publish"}, Targets: []string{madeStream}, MaxGapSeconds: 30, MinOK: 100},
		"no-client-stranded": check.ClientGaps{Window: during, MinClients: madePublishers, EndSeconds: 10},
		"health-truth":       check.HealthTruth{GraceSeconds: 5, MinSamples: 100},
		"faults-in-force":    check.Faults{Min: madeFaults},
		"exercised":          check.Preconditions{MinOps: 800, MinBefore: 100, MinDuring: 100, MinAfter: 20, Drained: []string{madeStream, madeBucket}},
	} {
		all = append(all, reports.Claim{ID: id, Text: id, Spec: check.Of(c), Expect: check.Pass})
	}
	slices.SortFunc(all, func(a, b reports.Claim) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return all
}
