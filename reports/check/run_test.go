package check_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

func copyOf(node, target, source string, msgs uint64, f ...func(r *history.Replica)) history.Replica {
	r := history.Replica{Node: node, Target: target, Source: source, At: 100, First: 1, Last: msgs, Msgs: msgs, Bytes: 10 * msgs, Digest: "sha256:ab", Replicas: 3}
	for _, g := range f {
		g(&r)
	}
	return r
}

func three(source string, f ...func(r *history.Replica)) []history.Replica {
	return []history.Replica{copyOf("n1", "A/S", source, 5), copyOf("n2", "A/S", source, 5), copyOf("n3", "A/S", source, 5, f...)}
}

func replicas(rs ...[]history.Replica) history.History {
	return history.History{Replicas: slices.Concat(rs...)}
}

func TestReplicaAgreement(t *testing.T) {
	t.Parallel()
	c := check.ReplicaAgreement{}
	others := []history.Replica{copyOf("n1", "A/T", "jsz", 1), copyOf("n2", "A/T", "jsz", 1), copyOf("n3", "A/T", "jsz", 1)}
	later := func(r *history.Replica) { r.At = 50e9 }
	runTable(t, []tableCase{
		{"agree", c, replicas(three("jsz")), pass},
		{"agree, both sources", c, replicas(three("jsz"), three("blocks")), pass},
		{"jsz does not look at digests", c, replicas(three("jsz", func(r *history.Replica) { r.Digest = "x" })), pass},
		{"blocks do not look at bytes", c, replicas(three("blocks", func(r *history.Replica) { r.Bytes = 1 })), pass},
		{"only the last record counts", c, replicas(three("jsz", func(r *history.Replica) { r.Msgs = 1; r.At = 1 }), three("jsz")), pass},
		{"empty, with any first sequence", c, replicas([]history.Replica{copyOf("n1", "A/S", "jsz", 0), copyOf("n2", "A/S", "jsz", 0, func(r *history.Replica) { r.First = 0 }), copyOf("n3", "A/S", "jsz", 0)}), pass},
		{"history forgets", check.ReplicaAgreement{AllowDeleted: true}, replicas([]history.Replica{copyOf("n1", "A/S", "jsz", 5, func(r *history.Replica) { r.Deleted = 1 }), copyOf("n2", "A/S", "jsz", 5, func(r *history.Replica) { r.Deleted = 1 }), copyOf("n3", "A/S", "jsz", 5, func(r *history.Replica) { r.Deleted = 1 })}), pass},
		{"R1", check.ReplicaAgreement{Nodes: 1}, replicas(three("jsz")[:1]), pass},
		{"named targets only", check.ReplicaAgreement{Targets: []string{"A/T"}}, replicas(three("jsz", func(r *history.Replica) { r.Msgs-- }), others), pass},

		{"fewer messages", c, replicas(three("jsz", func(r *history.Replica) { r.Msgs-- })), fail(check.CodeReplicasDiffer)},
		{"other bytes", c, replicas(three("jsz", func(r *history.Replica) { r.Bytes-- })), fail(check.CodeReplicasDiffer)},
		{"another end", c, replicas(three("jsz", func(r *history.Replica) { r.Last-- })), fail(check.CodeReplicasDiffer)},
		{"another digest", c, replicas(three("jsz"), three("blocks", func(r *history.Replica) { r.Digest = "sha256:cd" })), fail(check.CodeReplicasDiffer)},
		{"damaged", c, replicas(three("blocks", func(r *history.Replica) { r.Damaged = 1 })), fail(check.CodeReplicaDamaged)},
		{"sequences missing inside", c, replicas(three("jsz", func(r *history.Replica) { r.Deleted = 2 })), fail(check.CodeReplicaDamaged)},
		{"a node has none", c, replicas(three("jsz")[:2], others), fail(check.CodeReplicaMissing)},
		{"a node stopped to have it", c, replicas(three("jsz"), []history.Replica{copyOf("n3", "A/T", "jsz", 1, later), copyOf("n2", "A/T", "jsz", 1), copyOf("n1", "A/T", "jsz", 1)}), fail(check.CodeReplicaMissing)},
		{"a named target is nowhere", check.ReplicaAgreement{Targets: []string{"A/X"}}, replicas(three("jsz")), fail(check.CodeReplicaMissing)},
		{"damage is said even if a node is silent", c, replicas(three("blocks", func(r *history.Replica) { r.Damaged = 1 })[1:]), fail(check.CodeReplicaDamaged)},

		{"nothing", c, history.History{}, open(check.CodeNoReplicas)},
		{"another source", check.ReplicaAgreement{Source: "blocks"}, replicas(three("jsz")), open(check.CodeNoReplicas)},
		{"no such source", check.ReplicaAgreement{Source: "rumour"}, replicas(three("jsz")), open(check.CodeBadParams)},
		{"a node told nothing", c, replicas(three("jsz")[:2]), open(check.CodeTooFewNodes)},
		{"unreadable", c, replicas(three("blocks", func(r *history.Replica) { r.Err = "permission denied" })), open(check.CodeUnreadable)},
		{"no digest", c, replicas(three("blocks", func(r *history.Replica) { r.Digest = "" })), open(check.CodeUnreadable)},
	})
}

// windowed has marks at 10 s and 20 s.
func windowed(o ...history.Op) history.History {
	return history.History{Ops: ops(o...), Events: []history.Event{mark("from", 10*sec), mark("to", 20*sec)}}
}

var fromTo = check.Window{From: "from", To: "to"}

// at gives a publish its times in milliseconds.
func at(op history.Op, invoke, complete int64) history.Op { return during(op, invoke*ms, complete*ms) }

func TestNoAck(t *testing.T) {
	t.Parallel()
	c := check.NoAck{Window: fromTo, GraceSeconds: 1, MaxSilenceSeconds: 2}
	vain := at(failed(pub("1", 0)), 12_000, 12_500)
	runTable(t, []tableCase{
		{"refused", c, windowed(vain), pass},
		{"unknown", c, windowed(at(lostReply(pub("1", 0)), 12_000, 13_000)), pass},
		{"acked before, in the grace and after", c, windowed(vain, at(pub("2", 1), 9_000, 9_001), at(pub("3", 2), 10_500, 10_501), at(pub("4", 3), 20_500, 20_501)), pass},
		{"acked when the window is over", c, windowed(vain, at(pub("2", 1), 19_500, 20_100)), pass},
		{"invoked before, acked in it", c, windowed(vain, at(pub("2", 1), 9_999, 10_400)), pass},
		{"reads are not judged", c, windowed(vain, at(get("a", 1), 12_000, 12_001)), pass},
		{"other targets are not judged", check.NoAck{Window: fromTo, Targets: []string{"A"}}, windowed(vain, at(with(pub("2", 1), func(op *history.Op) { op.Target = "B" }), 12_000, 12_001)), pass},
		{"reads where asked", check.NoAck{Window: fromTo, Kinds: []string{"get"}}, windowed(at(get("a", 1), 12_000, 12_001)), fail(check.CodeAckedNoQuorum)},
		{"acked", c, windowed(vain, at(pub("2", 1), 12_000, 12_001)), fail(check.CodeAckedNoQuorum)},
		{"acked on the window's end", c, windowed(vain, at(pub("2", 1), 12_000, 20_000)), fail(check.CodeAckedNoQuorum)},
		{"silent", c, windowed(at(lostReply(pub("1", 0)), 12_000, 14_001)), fail(check.CodeSilent)},
		{"never returned", c, windowed(vain, with(at(lostReply(pub("2", 0)), 12_000, 0), func(op *history.Op) { op.Complete = -1 })), fail(check.CodeSilent)},
		{"no attempts", c, windowed(at(pub("1", 1), 9_000, 9_001)), open(check.CodeTooFewTries)},
		{"an id from before is there already", c, windowed(at(pub("1", 0), 9_000, 0), vain, at(with(pub("1", 1), func(op *history.Op) { op.Dup = true }), 12_000, 12_001)), pass},
		{"an id that is new in the window", c, windowed(vain, at(with(pub("1", 1), func(op *history.Op) { op.Dup = true }), 12_000, 12_001)), fail(check.CodeAckedNoQuorum)},
		{"an id from before is written again", c, windowed(at(pub("1", 0), 9_000, 0), vain, at(pub("1", 1), 12_000, 12_001)), fail(check.CodeAckedNoQuorum)},
		{"too few", check.NoAck{Window: fromTo, MinAttempts: 2}, windowed(vain), open(check.CodeTooFewTries)},
		{"no mark", check.NoAck{Window: check.Window{From: "x"}}, windowed(vain), open(check.CodeNoMark)},
		{"marks in the wrong order", check.NoAck{Window: check.Window{From: "to", To: "from"}}, windowed(vain), open(check.CodeNoMark)},
		{"bad clock", c, windowed(vain, at(pub("2", 1), 5_000, 4_000)), open(check.CodeBadClock)},
	})
}

// Of a node that is cut off, what is sent to it is judged; not what the others ack, nor what a client may have sent again to another one.
func TestNoAckOfANode(t *testing.T) {
	t.Parallel()
	c := check.NoAck{Window: fromTo, Nodes: []string{"n1"}}
	to := func(node string, op history.Op) history.Op {
		return with(op, func(op *history.Op) { op.Node, op.Client = node, "c1" })
	}
	vain, acked := to("n1", at(failed(pub("1", 0)), 12_000, 12_500)), to("n1", at(pub("2", 1), 13_000, 13_500))
	moved := func(client string, when int64, ops ...history.Op) history.History {
		h := windowed(ops...)
		h.Conns = append(h.Conns, history.Conn{Client: client, At: when * ms, State: "reconnected", Node: "n2"})
		return h
	}
	runTable(t, []tableCase{
		{"refused", c, windowed(vain), pass},
		{"acked by a node that is well", c, windowed(vain, to("n2", at(pub("2", 1), 13_000, 13_500))), pass},
		{"acked", c, windowed(vain, acked), fail(check.CodeAckedNoQuorum)},
		{"acked to one that changed its connection meanwhile", c, moved("c1", 13_200, vain, acked), pass},
		{"acked to one that changed its connection before", c, moved("c1", 12_800, vain, acked), fail(check.CodeAckedNoQuorum)},
		{"acked while another client changed its connection", c, moved("c2", 13_200, vain, acked), fail(check.CodeAckedNoQuorum)},
		{"nobody tried there", c, windowed(to("n2", at(pub("2", 1), 13_000, 13_500))), open(check.CodeTooFewTries)},
	})
}

func TestAvailability(t *testing.T) {
	t.Parallel()
	c := check.Availability{Window: fromTo, MaxGapSeconds: 4, WithinSeconds: 3}
	acks := func(times ...int64) []history.Op {
		var o []history.Op
		for i, x := range times {
			o = append(o, at(pub(string(rune('a'+i)), uint64(i+1)), x, x+1))
		}
		return o
	}
	vain := func(times ...int64) []history.Op {
		var o []history.Op
		for _, x := range times {
			o = append(o, at(failed(pub("x", 0)), x, x+1))
		}
		return o
	}
	join := func(o ...[]history.Op) history.History {
		all := slices.Concat(o...)
		slices.SortFunc(all, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
		return windowed(all...)
	}
	runTable(t, []tableCase{
		{"steady", c, join(acks(11_000, 14_000, 17_000)), pass},
		{"gaps only reported", check.Availability{Window: fromTo}, join(acks(10_100)), pass},
		{"gap inside", c, join(acks(11_000, 17_000), vain(13_000)), fail(check.CodeGapTooLong)},
		{"gap at the start", check.Availability{Window: fromTo, MaxGapSeconds: 4}, join(acks(15_000, 17_000), vain(11_000)), fail(check.CodeGapTooLong)},
		{"gap at the end", c, join(acks(11_000, 14_000), vain(16_000)), fail(check.CodeGapTooLong)},
		{"late", check.Availability{Window: fromTo, WithinSeconds: 3}, join(vain(10_001), acks(13_500)), fail(check.CodeLate)},
		{"an ack of something invoked before does not count as first", check.Availability{Window: fromTo, WithinSeconds: 3}, join([]history.Op{at(pub("z", 9), 9_000, 10_500)}, acks(13_500)), fail(check.CodeLate)},
		{"nothing acked", c, join(vain(11_000, 12_000)), fail(check.CodeUnavailable)},
		{"acked before and after only", c, join(acks(9_000, 21_000), vain(11_000)), fail(check.CodeUnavailable)},
		{"nobody tried", c, join(acks(9_000)), open(check.CodeNoOps)},
		{"one waited through the gap", c, join(acks(11_000), []history.Op{at(pub("w", 9), 12_000, 17_000)}, acks(17_500)), fail(check.CodeGapTooLong)},
		{"nobody tried in the gap", c, join(acks(11_000, 17_000)), open(check.CodeIdle)},
		{"too few acks", check.Availability{Window: fromTo, MinOK: 5}, join(acks(11_000, 14_000)), open(check.CodeTooFewAcked)},
		{"no mark", check.Availability{Window: check.Window{To: "x"}}, join(acks(11_000)), open(check.CodeNoMark)},
	})
	h := join(acks(11_000, 14_000, 17_500))
	r := c.Check(&h)
	for name, v := range map[string]float64{"longest_gap_s": 3.5, "first_ok_s": 1.001, "ok": 3, "attempts": 3, "window_s": 10} {
		if got, _ := r.Figure(name); got != v {
			t.Errorf("%s is %v, want %v", name, got, v)
		}
	}
}

func polls(node string, from, to int64, code int, reason string) []history.Health {
	var out []history.Health
	for x := from; x < to; x += 100 {
		out = append(out, history.Health{Node: node, Probe: "ready", At: x * ms, Took: ms, Code: code, Reason: reason})
	}
	return out
}

func health(hs ...[]history.Health) history.History {
	h := windowed()
	h.Health = slices.Concat(hs...)
	return h
}

func TestHealth(t *testing.T) {
	t.Parallel()
	n1 := []string{"n1"}
	never := check.HealthCheck{Probe: "ready", Nodes: n1, Window: fromTo, GraceSeconds: 2, Want: check.WantNever200, ReasonContains: []string{"no quorum"}, MinHz: 10}
	always := check.HealthCheck{Probe: "ready", Nodes: n1, Window: fromTo, Want: check.WantAlways200, MinHz: 10}
	ends := check.HealthCheck{Probe: "ready", Nodes: n1, Window: fromTo, Want: check.WantEnds200, MinHz: 10}
	endsNot := check.HealthCheck{Probe: "ready", Nodes: n1, Window: fromTo, Want: check.WantEndsNot200, MinHz: 10}
	set := func(c check.HealthCheck, f func(c *check.HealthCheck)) check.HealthCheck { f(&c); return c }
	refused := polls("n1", 10_000, 20_001, 503, "no quorum: 1 of 3")
	blip := func(hs []history.Health, i, code int) []history.Health {
		hs = slices.Clone(hs)
		hs[i].Code = code
		return hs
	}
	ok := polls("n1", 10_000, 20_001, 200, "")
	runTable(t, []tableCase{
		{"never", never, health(refused), pass},
		{"never, with 200 in the grace and outside", never, health(polls("n1", 5_000, 11_500, 200, ""), polls("n1", 11_500, 20_001, 503, "no quorum"), polls("n1", 20_100, 25_000, 200, "")), pass},
		{"never, other nodes do not matter", never, health(refused, polls("n2", 10_000, 20_000, 200, "")), pass},
		{"always, one silence of a hundred where one may be", set(always, func(c *check.HealthCheck) { c.SilentShare = 0.05 }), health(blip(ok, 40, 0)), pass},
		{"always, one refusal where silence may be", set(always, func(c *check.HealthCheck) { c.SilentShare = 0.05 }), health(blip(ok, 40, 503)), fail(check.CodeRefused)},
		{"always, more silence than may be", set(always, func(c *check.HealthCheck) { c.SilentShare = 0.005 }), health(blip(ok, 40, 0)), fail(check.CodeRefused)},
		{"always, silence", always, health(blip(ok, 40, 0)), fail(check.CodeRefused)},
		{"never, one without a reason", never, health(func() []history.Health { hs := slices.Clone(refused); hs[40].Reason = ""; return hs }()), pass},
		{"always", always, health(ok), pass},
		{"ends", ends, health(polls("n1", 10_000, 15_000, 503, ""), polls("n1", 15_000, 20_001, 200, "")), pass},
		{"ends not", endsNot, health(polls("n1", 10_000, 15_000, 200, ""), polls("n1", 15_000, 20_001, 503, "")), pass},
		{"default rate", set(always, func(c *check.HealthCheck) { c.MinHz = 0 }), health(ok), pass},

		{"one 200", never, health(blip(refused, 60, 200)), fail(check.CodeReadyNoQuorum)},
		{"another reason", never, health(polls("n1", 10_000, 20_001, 503, "starting")), fail(check.CodeNoReason)},
		{"no answer is no reason", never, health(polls("n1", 10_000, 20_001, 0, "")), fail(check.CodeNoReason)},
		{"one refusal", always, health(blip(ok, 60, 503)), fail(check.CodeRefused)},
		{"one without an answer", always, health(blip(ok, 60, 0)), fail(check.CodeRefused)},
		{"ends refused", ends, health(blip(ok, len(ok)-1, 503)), fail(check.CodeNeverReady)},
		{"ends ready", endsNot, health(blip(refused, len(refused)-1, 200)), fail(check.CodeReadyNoQuorum)},
		{"the second node", set(always, func(c *check.HealthCheck) { c.Nodes = []string{"n1", "n2"} }), health(ok, polls("n2", 10_000, 20_001, 503, "")), fail(check.CodeRefused)},
		{"a 200 counts however few samples there are", never, health(polls("n1", 15_000, 15_100, 200, "")), fail(check.CodeReadyNoQuorum)},

		{"no samples", never, health(), open(check.CodeTooFewSamples)},
		{"too few", never, health(polls("n1", 10_000, 15_000, 503, "no quorum")), open(check.CodeTooFewSamples)},
		{"one node not sampled", set(always, func(c *check.HealthCheck) { c.Nodes = []string{"n1", "n2"} }), health(ok), open(check.CodeTooFewSamples)},
		{"no nodes", set(never, func(c *check.HealthCheck) { c.Nodes = nil }), health(refused), open(check.CodeBadParams)},
		{"no such endpoint", set(never, func(c *check.HealthCheck) { c.Probe = "x" }), health(refused), open(check.CodeBadParams)},
		{"no such want", set(never, func(c *check.HealthCheck) { c.Want = "" }), health(refused), open(check.CodeBadParams)},
		{"no mark", set(never, func(c *check.HealthCheck) { c.Window.From = "x" }), health(refused), open(check.CodeNoMark)},
		{"all grace", set(never, func(c *check.HealthCheck) { c.GraceSeconds = 10 }), health(refused), open(check.CodeNoMark)},
	})
}

func TestHealthTruth(t *testing.T) {
	t.Parallel()
	c := check.HealthTruth{GraceSeconds: 2}
	// Acked until 10 s and from 20 s on; tried every half second in between.
	writes := func() []history.Op {
		var o []history.Op
		for x := int64(100); x < 30_000; x += 500 {
			op := at(pub("v", 1), x, x+10)
			if x >= 10_000 && x < 20_000 {
				op = at(failed(pub("v", 0)), x, x+200)
			}
			o = append(o, op)
		}
		return o
	}
	mk := func(o []history.Op, hs ...[]history.Health) history.History {
		return history.History{Ops: ops(o...), Health: slices.Concat(hs...)}
	}
	// A second stream: acked at the start, and tried in vain from a time on.
	second := func(from int64) []history.Op {
		o := []history.Op{at(pub("w", 1), 50, 60)}
		if from > 0 {
			o = append(o, at(failed(pub("w", 0)), from, from+200))
		}
		for i := range o {
			o[i].Target = "SECOND"
		}
		return o
	}
	// The load rests from 10 s on and tries again shortly before others can write.
	rested := slices.DeleteFunc(writes(), func(op history.Op) bool { return op.Outcome != history.OK && op.Invoke < 18_400*ms })
	// One client waits for its answer from before the outage on, others try at its end only.
	hung := append(slices.Clone(rested), at(failed(pub("v", 0)), 9_000, 19_990))
	quiet := slices.DeleteFunc(writes(), func(op history.Op) bool { return op.Outcome != history.OK })
	runTable(t, []tableCase{
		{"honest", c, mk(writes(), polls("n1", 0, 10_000, 200, ""), polls("n1", 10_000, 20_000, 503, ""), polls("n1", 20_000, 30_000, 200, "")), pass},
		{"turns within the grace", c, mk(writes(), polls("n1", 0, 11_500, 200, ""), polls("n1", 11_500, 20_000, 503, "")), pass},
		{"ready again shortly before the first ack", c, mk(writes(), polls("n1", 11_000, 19_300, 503, ""), polls("n1", 19_300, 30_000, 200, "")), pass},
		{"nobody tried to write", c, mk(quiet, polls("n1", 0, 30_000, 200, "")), pass},
		{"a lie", c, mk(writes(), polls("n1", 0, 30_000, 200, "")), fail(check.CodeReadyUnwritten)},
		{"one lie", c, mk(writes(), polls("n1", 11_000, 20_000, 503, ""), polls("n2", 15_000, 15_050, 200, "")), fail(check.CodeReadyUnwritten)},
		{"ready before the last of the streams has a leader", c, mk(slices.Concat(writes(), second(11_000)), polls("n1", 11_500, 30_000, 200, "")), pass},
		{"nobody tried the other stream", c, mk(slices.Concat(writes(), second(0)), polls("n1", 0, 30_000, 200, "")), pass},
		{"neither stream can be written", c, mk(slices.Concat(writes(), second(15_000)), polls("n1", 0, 30_000, 200, "")), fail(check.CodeReadyUnwritten)},
		{"nobody tried for most of the time", c, mk(rested, polls("n1", 0, 30_000, 200, "")), pass},
		{"tried again and again after a rest", c, mk(slices.Concat(rested, writes()[24:40]), polls("n1", 0, 30_000, 200, "")), fail(check.CodeReadyUnwritten)},
		{"one attempt hung for the whole outage, others came late", c, mk(hung, polls("n1", 0, 30_000, 200, "")), fail(check.CodeReadyUnwritten)},
		{"nobody could write at all", c, mk(writes()[20:40], polls("n1", 0, 20_000, 200, "")), fail(check.CodeReadyUnwritten)},
		{"no samples", c, mk(writes()), open(check.CodeTooFewSamples)},
		{"too few", check.HealthTruth{MinSamples: 1000}, mk(writes(), polls("n1", 0, 10_000, 200, "")), open(check.CodeTooFewSamples)},
		{"no writes", c, mk(nil, polls("n1", 0, 10_000, 200, "")), open(check.CodeNoOps)},
	})
}

func TestConverged(t *testing.T) {
	t.Parallel()
	c := check.Converged{}
	mk := func(f ...func(v *history.Convergence)) history.History {
		v := history.Convergence{OK: true, Seconds: 2, Ready: []string{"n1", "n2", "n3"}, Buckets: 6, Replicas: 3, Current: true, Identical: true}
		for _, g := range f {
			g(&v)
		}
		return history.History{Events: []history.Event{converged("first", sec), history.ConvergedEvent("second", v)}}
	}
	runTable(t, []tableCase{
		{"twice", check.Converged{Min: 2, MaxSeconds: 3}, mk(), pass},
		{"plain nats-server", check.Converged{Buckets: -1}, mk(func(v *history.Convergence) { v.Buckets, v.Replicas = 0, 0 }), pass},
		{"gave up", c, mk(func(v *history.Convergence) { v.OK, v.Identical = false, false }), fail(check.CodeNotConverged)},
		{"a node missing", c, mk(func(v *history.Convergence) { v.Ready = v.Ready[:2] }), fail(check.CodeNotConverged)},
		{"a bucket missing", c, mk(func(v *history.Convergence) { v.Buckets = 5 }), fail(check.CodeNotConverged)},
		{"not current", c, mk(func(v *history.Convergence) { v.Current = false }), fail(check.CodeNotConverged)},
		{"R1", c, mk(func(v *history.Convergence) { v.Replicas = 1 }), fail(check.CodeUnderRepl)},
		{"gave up for R1", c, mk(func(v *history.Convergence) { v.OK, v.Replicas = false, 1 }), fail(check.CodeUnderRepl)},
		{"contents differ", c, mk(func(v *history.Convergence) { v.Identical = false }), fail(check.CodeContentsDiffer)},
		{"slow", check.Converged{MaxSeconds: 3}, mk(func(v *history.Convergence) { v.Seconds = 3.5 }), fail(check.CodeTooSlow)},
		{"none", c, history.History{}, open(check.CodeTooFewEvents)},
		{"too few", check.Converged{Min: 3}, mk(), open(check.CodeTooFewEvents)},
		{"without figures", c, history.History{Events: []history.Event{{Kind: "converged", Name: "x"}}}, open(check.CodeBadRecord)},
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	c := check.Faults{}
	mk := func(f ...func(es []history.Event) []history.Event) history.History {
		es := fault("kill[n1]#1", 10*sec)
		for _, g := range f {
			es = g(es)
		}
		return history.History{Events: append(es, fault("pause[n2]#2", 20*sec)...)}
	}
	without := func(stages ...history.Stage) func([]history.Event) []history.Event {
		return func(es []history.Event) []history.Event {
			return slices.DeleteFunc(es, func(e history.Event) bool { return slices.Contains(stages, e.Stage) })
		}
	}
	set := func(stage history.Stage, f func(e *history.Event)) func([]history.Event) []history.Event {
		return func(es []history.Event) []history.Event {
			for i := range es {
				if es[i].Stage == stage {
					f(&es[i])
				}
			}
			return es
		}
	}
	data := func(k string, v any) func(e *history.Event) { return func(e *history.Event) { e.Data[k] = v } }
	notSeen := func(stage history.Stage) func([]history.Event) []history.Event {
		return set(stage, func(e *history.Event) { e.Stage, e.Data = history.StageNotSeen, nil })
	}
	noop := func(real bool) history.History {
		h := mk(without(history.StageInForce, history.StageStillOn, history.StageBystand, history.StageHealing, history.StageHealed))
		if !real {
			h.Events = h.Events[:2]
		}
		for i := range h.Events {
			h.Events[i].Noop = h.Events[i].Name == "kill[n1]#1"
		}
		return h
	}
	runTable(t, []tableCase{
		{"two", check.Faults{Min: 2}, mk(), pass},
		{"kept to the end", c, mk(set(history.StageInForce, data("kept", true)), without(history.StageHealing, history.StageHealed)), pass},
		{"no bystander", c, mk(without(history.StageBystand)), pass},
		{"no figures on healed", c, mk(set(history.StageHealed, func(e *history.Event) { e.Data = nil })), pass},
		{"never in force", c, mk(without(history.StageInForce, history.StageStillOn)), fail(check.CodeNotInForce)},
		{"probed, not seen", c, mk(notSeen(history.StageInForce)), fail(check.CodeNotInForce)},
		{"in force, says the stage, not the probe", c, mk(set(history.StageInForce, data("in_force", false))), fail(check.CodeNotInForce)},
		{"went away", c, mk(set(history.StageStillOn, data("in_force", false))), fail(check.CodeNotInForce)},
		{"went away, not seen", c, mk(notSeen(history.StageStillOn)), fail(check.CodeNotInForce)},
		{"not healed", c, mk(without(history.StageHealed)), fail(check.CodeNotHealed)},
		{"nor healing", c, mk(without(history.StageHealing, history.StageHealed)), fail(check.CodeNotHealed)},
		{"still seen after", c, mk(notSeen(history.StageHealed)), fail(check.CodeNotHealed)},
		{"healed, says the stage, not the probe", c, mk(set(history.StageHealed, data("in_force", true))), fail(check.CodeNotHealed)},
		{"bystander", c, mk(set(history.StageBystand, data("in_force", true))), fail(check.CodeBystanderHit)},
		{"there before", c, mk(set(history.StageAbsent, data("in_force", true))), fail(check.CodeWasThere)},
		{"there before, not seen", c, mk(notSeen(history.StageAbsent)), fail(check.CodeWasThere)},
		{"a no-op as control", check.Faults{Noop: true}, noop(false), fail(check.CodeNotInForce)},
		{"a no-op taken for a fault", c, noop(false), fail(check.CodeNotInForce)},

		{"a real fault in the control", check.Faults{Noop: true}, noop(true), open(check.CodeNotNoop)},
		{"only the named ones", check.Faults{Names: []string{"pause"}}, mk(without(history.StageInForce)), pass},
		{"the named one", check.Faults{Names: []string{"kill"}}, mk(without(history.StageInForce)), fail(check.CodeNotInForce)},
		{"none of the name", check.Faults{Names: []string{"wipe"}}, mk(), open(check.CodeNoFaults)},
		{"none", c, history.History{}, open(check.CodeNoFaults)},
		{"too few", check.Faults{Min: 3}, mk(), open(check.CodeNoFaults)},
		{"not probed before", c, mk(without(history.StageAbsent)), open(check.CodeNotProbed)},
		{"not decided", c, mk(without(history.StageDecided)), open(check.CodeNotProbed)},
		{"bystander says nothing", c, mk(set(history.StageBystand, func(e *history.Event) { e.Data = nil })), open(check.CodeNotProbed)},
		{"out of order", c, mk(set(history.StageInForce, func(e *history.Event) { e.At = 9 * sec })), open(check.CodeNotProbed)},
		{"no such stage", c, mk(set(history.StageBystand, func(e *history.Event) { e.Stage = "odd" })), open(check.CodeNotProbed)},
	})
	h := mk(set(history.StageInForce, data("force_ms", 12.5)))
	r := c.Check(&h)
	for name, v := range map[string]float64{"faults": 2, "kinds": 2, "kind kill": 1, "force_median": 10, "force_max": 12.5} {
		if got, _ := r.Figure(name); got != v {
			t.Errorf("%s is %v, want %v", name, got, v)
		}
	}
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	h := windowed(at(pub("1", 1), 1_000, 1_001), at(failed(pub("2", 0)), 12_000, 12_001), at(pub("3", 2), 25_000, 25_001))
	h.Events = append(h.Events, fault("kill[n1]#1", 10*sec)...)
	h.Items, h.Drains = items("1", "3"), []history.Drain{drainOf("A", items("1", "3"))}
	kept := edit(h, func(h *history.History) {
		h.Events = slices.DeleteFunc(slices.Clone(h.Events), func(e history.Event) bool {
			return e.Stage == history.StageHealed || e.Stage == history.StageHealing
		})
	})
	runTable(t, []tableCase{
		{"enough", check.Preconditions{MinOps: 3, MinBefore: 1, MinDuring: 1, MinAfter: 1, Marks: []string{"from"}, Drained: []string{"A"}, Targets: []string{"A"}}, h, pass},
		{"operations", check.Preconditions{MinOps: 4}, h, open(check.CodeTooFewOps)},
		{"of the target", check.Preconditions{Targets: []string{"B"}}, h, open(check.CodeTooFewOps)},
		{"before", check.Preconditions{MinBefore: 2}, h, open(check.CodeTooFewBefore)},
		{"during", check.Preconditions{MinDuring: 2}, h, open(check.CodeTooFewDuring)},
		{"after", check.Preconditions{MinAfter: 2}, h, open(check.CodeTooFewAfter)},
		{"after, of a fault that is never healed", check.Preconditions{MinAfter: 1}, kept, open(check.CodeTooFewAfter)},
		{"before, without faults", check.Preconditions{MinBefore: 1}, windowed(at(pub("1", 1), 1_000, 1_001)), open(check.CodeTooFewBefore)},
		{"after, without faults", check.Preconditions{MinAfter: 1}, windowed(at(pub("1", 1), 1_000, 1_001)), open(check.CodeTooFewAfter)},
		{"mark", check.Preconditions{Marks: []string{"from", "leader changed"}}, h, open(check.CodeNoMark)},
		{"drain", check.Preconditions{Drained: []string{"A", "B"}}, h, open(check.CodeNoDrain)},
		{"bad clock", check.Preconditions{}, windowed(at(pub("1", 1), 5_000, 4_000)), open(check.CodeBadClock)},
	})
}

func deliver(kind, client, value string, seq uint64, atMS int64) history.Delivery {
	return history.Delivery{Kind: kind, Client: client, Target: "A", Key: "k", Value: value, Seq: seq, Count: 1, At: atMS * ms}
}

func ackedAt(d history.Delivery, atMS int64) history.Delivery {
	d.Ack, d.Acked = history.OK, atMS*ms
	return d
}

func TestConsumers(t *testing.T) {
	t.Parallel()
	mk := func(ds ...history.Delivery) history.History {
		h := stream(ops(pub("1", 1), pub("2", 2), pub("3", 3)), "1", "2", "3")
		h.Deliveries = ds
		return h
	}
	d := deliver
	c := check.Consumers{Target: "A", Complete: true}
	loose := check.Consumers{Target: "A"}
	three := func(kind string) []history.Delivery {
		return []history.Delivery{d(kind, "c", "1", 1, 1), d(kind, "c", "2", 2, 2), d(kind, "c", "3", 3, 3)}
	}
	runTable(t, []tableCase{
		{"pull", c, mk(three("pull")...), pass},
		{"pull, shared", c, mk(d("pull", "a", "1", 1, 1), d("pull", "b", "2", 2, 1), d("pull", "a", "3", 3, 1)), pass},
		{"pull, again after a lost ack", c, mk(append(three("pull"), d("pull", "b", "1", 1, 9_000))...), pass},
		{"pull, again within the slack", c, mk(append(three("pull")[1:], ackedAt(d("pull", "a", "1", 1, 1), 2), d("pull", "b", "1", 1, 500))...), pass},
		{"pull, not complete", loose, mk(d("pull", "a", "3", 3, 1)), pass},
		{"ordered", c, mk(three("ordered")...), pass},
		{"ordered, started late", loose, mk(three("ordered")[1:]...), pass},
		{"watch", c, mk(d("watch", "w", "1", 1, 1), d("watch", "w", "3", 3, 3)), pass},
		{"core is not judged here", c, mk(append(three("pull"), d("core", "x", "zzz", 0, 1))...), pass},

		{"pull, skipped", c, mk(three("pull")[:2]...), fail(check.CodeSkipped)},
		{"pull, again after the ack", c, mk(append(three("pull")[1:], ackedAt(d("pull", "a", "1", 1, 1), 2), d("pull", "b", "1", 1, 5_000))...), fail(check.CodeRedelivered)},
		{"ordered, skipped inside", loose, mk(d("ordered", "o", "1", 1, 1), d("ordered", "o", "3", 3, 2)), fail(check.CodeSkipped)},
		{"ordered, skipped at the end", c, mk(three("ordered")[:2]...), fail(check.CodeSkipped)},
		{"ordered, skipped at the start", c, mk(three("ordered")[1:]...), fail(check.CodeSkipped)},
		{"ordered, each for itself", c, mk(append(three("ordered"), d("ordered", "o", "1", 1, 1))...), fail(check.CodeSkipped)},
		{"ordered, twice", c, mk(append(three("ordered"), d("ordered", "c", "3", 3, 4))...), fail(check.CodeOutOfOrder)},
		{"watch, back", c, mk(append(three("watch"), d("watch", "c", "2", 2, 4))...), fail(check.CodeOutOfOrder)},
		{"watch, last value missing", c, edit(mk(three("watch")[:2]...), func(h *history.History) {
			for i := range h.Items {
				h.Items[i].Key = "k"
			}
		}), fail(check.CodeSkipped)},
		{"never sent", c, mk(append(three("pull"), d("pull", "c", "x", 4, 4))...), fail(check.CodeNeverSent)},
		{"something else at that sequence", c, mk(append(three("pull"), d("pull", "c", "1", 2, 4))...), fail(check.CodeDelivDiffers)},
		{"a sequence that is not there", c, mk(append(three("pull"), d("pull", "c", "1", 9, 4))...), fail(check.CodeDelivDiffers)},

		{"nothing", c, mk(), open(check.CodeTooFewArrived)},
		{"none of a kind", check.Consumers{Target: "A", Kinds: []string{"pull", "watch"}}, mk(three("pull")...), open(check.CodeTooFewArrived)},
		{"too few", check.Consumers{Target: "A", MinDeliveries: 4}, mk(three("pull")...), open(check.CodeTooFewArrived)},
		{"no such kind", check.Consumers{Target: "A", Kinds: []string{"push"}}, mk(three("pull")...), open(check.CodeBadParams)},
		{"no drain", c, edit(mk(three("pull")...), func(h *history.History) { h.Drains = nil }), open(check.CodeNoDrain)},
	})
}

// TestSilentConsumers: who was given nothing leaves no delivery, only a connection.
func TestSilentConsumers(t *testing.T) {
	t.Parallel()
	conn := func(client string, at int64, state string) history.Conn {
		return history.Conn{Client: client, At: at, State: state, Node: "n1"}
	}
	// o-0 is given everything; o-1 is not in the deliveries.
	mk := func(kind string, conns ...history.Conn) history.History {
		h := stream(ops(pub("1", 1), pub("2", 2), pub("3", 3)), "1", "2", "3")
		for i := range h.Items {
			h.Items[i].Key = "k"
		}
		h.Deliveries = []history.Delivery{deliver(kind, "o-0", "1", 1, 1), deliver(kind, "o-0", "2", 2, 2), deliver(kind, "o-0", "3", 3, 3)}
		h.Conns = append([]history.Conn{conn("o-0", 1, "connected")}, conns...)
		return h
	}
	whole := func(kind string) check.Consumers {
		return check.Consumers{Target: "A", Kinds: []string{kind}, Complete: true, Clients: []string{"o-"}, MinClients: 1}
	}
	loose, two := whole("ordered"), whole("ordered")
	loose.Complete, two.MinClients = false, 2
	for _, kind := range []string{"ordered", "watch"} {
		runTable(t, []tableCase{
			{kind + ", alone", whole(kind), mk(kind), pass},
			{kind + ", the other was given nothing", whole(kind), mk(kind, conn("o-1", 2, "connected")), fail(check.CodeSkipped)},
			{kind + ", the other came back", whole(kind), mk(kind, conn("o-1", 2, "reconnected")), fail(check.CodeSkipped)},
			{kind + ", the other was cut off, and everything has to arrive", whole(kind), mk(kind, conn("o-1", 2, "connected"), conn("o-1", 3, "disconnected")), fail(check.CodeSkipped)},
			{kind + ", the other never connected", whole(kind), mk(kind, conn("o-1", 2, "disconnected"), conn("o-1", 3, "closed")), pass},
			{kind + ", the other connected after the drain", whole(kind), mk(kind, conn("o-1", drainAt+1, "connected")), pass},
			{kind + ", somebody else was given nothing", whole(kind), mk(kind, conn("x-1", 2, "connected")), pass},
		})
	}
	nobody := edit(mk("ordered", conn("o-1", 2, "connected")), func(h *history.History) { h.Deliveries = nil })
	runTable(t, []tableCase{
		{"before anything was written", loose, mk("ordered", conn("o-1", 2, "connected")), fail(check.CodeSkipped)},
		{"before the last message", loose, mk("ordered", conn("o-1", 25, "connected")), fail(check.CodeSkipped)},
		{"after the last message", loose, mk("ordered", conn("o-1", 31, "connected")), pass},
		{"lost its connection for good", loose, mk("ordered", conn("o-1", 2, "connected"), conn("o-1", 3, "disconnected")), pass},
		{"lost its connection and came back", loose, mk("ordered", conn("o-1", 2, "connected"), conn("o-1", 3, "disconnected"), conn("o-1", 4, "reconnected")), fail(check.CodeSkipped)},
		{"closed after all was read back", loose, mk("ordered", conn("o-1", 2, "connected"), conn("o-1", drainAt+1, "closed")), fail(check.CodeSkipped)},
		{"nobody was given anything", whole("ordered"), nobody, fail(check.CodeSkipped)},
		{"two are wanted, and one never connected", two, mk("ordered"), open(check.CodeTooFewClients)},
		{"two are wanted, and one was given nothing", two, mk("ordered", conn("o-1", 2, "connected")), fail(check.CodeSkipped)},
		{"two that share a consumer are wanted", check.Consumers{Target: "A", MinClients: 2}, mk("pull"), open(check.CodeTooFewClients)},
		{"who shares a consumer need not be given anything", check.Consumers{Target: "A", MinClients: 1}, mk("pull", conn("o-1", 2, "connected")), pass},
		{"names without a kind", check.Consumers{Target: "A", Clients: []string{"o-"}}, mk("ordered"), open(check.CodeBadParams)},
		{"names of two kinds", check.Consumers{Target: "A", Kinds: []string{"ordered", "watch"}, Clients: []string{"o-"}}, mk("ordered"), open(check.CodeBadParams)},
		{"names of those who share a consumer", check.Consumers{Target: "A", Kinds: []string{"pull"}, Clients: []string{"o-"}}, mk("pull"), open(check.CodeBadParams)},
	})
}

// TestOldClaimsStay: a claim that names no clients is written, judged and damaged as it was before claims could: proofs are judged again by later programs.
func TestOldClaimsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(5, 2, 2, 100*ms, 0.1)
	for params, c := range map[string]check.Checker{
		`{"target":"ORDERS","kinds":["ordered"],"min_deliveries":1,"complete":true}`:                check.Consumers{Target: "ORDERS", Kinds: []string{"ordered"}, MinDeliveries: 1, Complete: true},
		`{"window":{"from":"steady","to":"end"},"target":"chat","settle_seconds":0,"min_pairs":20}`: check.CoreDelivered{Window: check.Window{From: "steady", To: "end"}, Target: "chat", MinPairs: 20},
	} {
		spec := check.Of(c)
		if string(spec.Params) != params {
			t.Errorf("the parameters are %s, and were %s", spec.Params, params)
		}
		r, err := spec.Run(&w.h)
		if _, has := r.Figure("silent"); err != nil || r.Verdict != check.Pass || has {
			t.Errorf("%s: %v %+v", spec.Checker, err, r)
		}
		for _, m := range check.RunMutations([]check.Spec{spec}, &w.h, 1) {
			if strings.HasPrefix(m.Mutation, "silence-") || strings.HasPrefix(m.Mutation, "forget-") {
				t.Errorf("%s is made under %s %s", m.Mutation, spec.Checker, spec.Params)
			}
		}
	}
}

func TestClientGaps(t *testing.T) {
	t.Parallel()
	c := check.ClientGaps{Window: fromTo, EndSeconds: 2, MaxGapSeconds: 4}
	mk := func(times ...int64) history.History {
		var o []history.Op
		for _, x := range times {
			o = append(o, at(pub("v", 1), x, x+1))
		}
		return windowed(o...)
	}
	steady := []int64{9_000, 11_000, 14_000, 17_000, 19_000}
	runTable(t, []tableCase{
		{"steady", c, mk(steady...), pass},
		{"deliveries count", c, edit(mk(11_000, 14_000), func(h *history.History) {
			h.Deliveries = []history.Delivery{{Client: "p", At: 17 * sec}, {Client: "p", At: 19 * sec}}
		}), pass},
		{"reconnected", c, edit(mk(steady...), func(h *history.History) {
			h.Conns = []history.Conn{{Client: "p", At: 12 * sec, State: "disconnected"}, {Client: "p", At: 13 * sec, State: "reconnected"}}
		}), pass},
		{"closed after the window", c, edit(mk(steady...), func(h *history.History) { h.Conns = []history.Conn{{Client: "p", At: 21 * sec, State: "closed"}} }), pass},
		{"others do not matter", check.ClientGaps{Window: fromTo, Clients: []string{"p"}}, edit(mk(steady...), func(h *history.History) { h.Conns = []history.Conn{{Client: "q", At: 12 * sec, State: "closed"}} }), pass},
		{"stranded at the end", c, mk(11_000, 14_000, 17_000), fail(check.CodeStranded)},
		{"stranded all the time", c, edit(mk(steady...), func(h *history.History) { h.Conns = []history.Conn{{Client: "q", At: 5 * sec, State: "connected"}} }), fail(check.CodeStranded)},
		{"closed", c, edit(mk(steady...), func(h *history.History) { h.Conns = []history.Conn{{Client: "p", At: 19 * sec, State: "closed"}} }), fail(check.CodeStranded)},
		{"gap", c, mk(11_000, 16_000, 19_000), fail(check.CodeGapTooLong)},
		{"gap at the start", c, mk(9_000, 15_000, 19_000), fail(check.CodeGapTooLong)},
		{"no clients", c, mk(), open(check.CodeTooFewClients)},
		{"too few", check.ClientGaps{Window: fromTo, MinClients: 2}, mk(steady...), open(check.CodeTooFewClients)},
		{"no mark", check.ClientGaps{Window: check.Window{From: "x"}}, mk(steady...), open(check.CodeNoMark)},
	})
}

func TestSpec(t *testing.T) {
	t.Parallel()
	value, pointer := check.Of(check.StreamAccounting{Target: "A"}), check.Of(&check.StreamAccounting{Target: "A"})
	if value.Checker != "stream-accounting" || value.Checker != pointer.Checker || string(value.Params) != string(pointer.Params) {
		t.Errorf("%+v and %+v", value, pointer)
	}
	if n := len(check.Names()); n < 14 || !slices.IsSorted(check.Names()) {
		t.Errorf("%d names", n)
	}
	for name, params := range map[string]string{"unknown field": `{"surprise":1}`, "more behind it": `{} {}`, "garbage behind it": `{}x`, "wrong type": `{"target":1}`, "not an object": `[]`, "cut": `{`} {
		if r, err := (check.Spec{Checker: "stream-accounting", Params: json.RawMessage(params)}).Run(&history.History{}); err == nil {
			t.Errorf("%s was accepted: %+v", name, r)
		}
	}
	if _, err := (check.Spec{Checker: "no such"}).Run(&history.History{}); !errors.Is(err, check.ErrUnknownChecker) {
		t.Errorf("error %v", err)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	var zero check.Verdict
	if zero != check.Inconclusive {
		t.Error("the zero verdict is not inconclusive")
	}
	for _, v := range []check.Verdict{check.Inconclusive, check.Pass, check.Fail} {
		b, err := json.Marshal(v)
		var got check.Verdict
		if err2 := json.Unmarshal(b, &got); err != nil || err2 != nil || got != v {
			t.Errorf("%s came back as %s", v, got)
		}
	}
	if err := json.Unmarshal([]byte(`"passed"`), &zero); err == nil {
		t.Error("an unknown verdict was accepted")
	}
}
