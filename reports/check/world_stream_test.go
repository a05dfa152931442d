package check_test

import (
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// appends adds clients that state what the stream ends with, outside the outage. Some are refused because somebody else was faster; of some the answer is lost.
func (w *world) appends() {
	h := &w.h
	var stored []history.Item
	for at := 2 * sec; at < endAt-2*sec; at += sec / 4 {
		if at >= lostAt-sec && at < backAt+sec {
			continue
		}
		w.nextID++
		op := history.Op{ID: w.nextID, Client: fmt.Sprintf("e%d", w.nextID%2), Node: "n1", Kind: history.Append, Target: "LEDGER", Key: "ledger", Value: fmt.Sprintf("e-%d", w.nextID),
			Invoke: at, Complete: at + 4*ms, Prev: uint64(len(stored))}
		if len(stored) > 0 && w.rng.IntN(2) == 0 {
			op.Prev, op.After = 0, stored[len(stored)-1].Value
		}
		switch n := w.rng.IntN(8); {
		case n == 0 && len(stored) > 1: // it expects what was overtaken
			op.After, op.Prev, op.Err = "", op.Prev+1<<20, "nats:10071"
		case n == 1:
			op.Err = "timeout"
			stored = append(stored, history.Item{Target: "LEDGER", Seq: uint64(len(stored) + 1), Key: op.Key, Value: op.Value})
		default:
			stored = append(stored, history.Item{Target: "LEDGER", Seq: uint64(len(stored) + 1), Key: op.Key, Value: op.Value})
			op.Outcome, op.Seq = history.OK, uint64(len(stored))
		}
		h.Ops = append(h.Ops, op)
	}
	h.Items = append(h.Items, stored...)
	h.Drains = append(h.Drains, drainOf("LEDGER", stored))
}

// queue adds jobs and two workers. Some acks get lost, so that the job comes again; some jobs nobody has taken in the end; one arrives long after it was sent.
func (w *world) queue() {
	h := &w.h
	var left []history.Item
	seq := uint64(0)
	for at := 2 * sec; at < endAt-2*sec; at += sec / 3 {
		if at >= lostAt-sec && at < backAt+sec {
			continue
		}
		w.nextID++
		seq++
		op := history.Op{ID: w.nextID, Client: "j0", Node: "n1", Kind: history.Publish, Target: "JOBS", Key: "jobs", Value: fmt.Sprintf("j-%d", seq), Invoke: at, Complete: at + 3*ms, Outcome: history.OK, Seq: seq}
		if w.rng.IntN(10) == 0 {
			op.Outcome, op.Err, op.Seq = history.Unknown, "timeout", 0
		}
		h.Ops = append(h.Ops, op)
		if at > endAt-4*sec {
			left = append(left, history.Item{Target: "JOBS", Seq: seq, Key: "jobs", Value: op.Value})
			continue
		}
		d := history.Delivery{Client: fmt.Sprintf("worker%d", seq%2), Kind: "pull", Target: "JOBS", Key: "jobs", Value: op.Value, Seq: seq, Count: 1, Asked: at, At: at + 4*ms}
		if w.rng.IntN(5) == 0 { // the ack got lost: it comes again, and the first one perhaps long afterwards
			first := d
			d.Count, d.Asked, d.At = 2, d.Asked+sec, d.At+sec
			if w.rng.IntN(2) == 0 {
				first.At += 4 * sec
			}
			h.Deliveries = append(h.Deliveries, first)
		}
		d.Ack, d.Acked = history.OK, d.At+2*ms
		h.Deliveries = append(h.Deliveries, d)
	}
	h.Items = append(h.Items, left...)
	d := drainOf("JOBS", left)
	d.First = seq + 1 - uint64(len(left))
	d.Last = seq
	h.Drains = append(h.Drains, d)
}
