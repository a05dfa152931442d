package check_test

import (
	"strings"
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// described is an observation of ORDERS.
func described(name string, at int64, last uint64) history.Event {
	return observed(name, at, history.Metadata{Target: "ORDERS", Status: history.StreamFound, Created: "2024-05-01T10:00:00.000000001Z", Config: `{"name":"ORDERS"}`,
		Replicas: 3, Leader: "n1", First: 1, Last: last, Msgs: last, Healthz: map[string]int{"n1": 200, "n2": 200, "n3": 200}})
}

func observed(name string, at int64, m history.Metadata) history.Event {
	e := history.MetadataEvent(name, m)
	e.At = at
	return e
}

func events(es ...history.Event) history.History { return history.History{Events: es} }

// redescribed changes a description.
func redescribed(name string, at int64, f func(m *history.Metadata)) history.Event {
	m, _ := described(name, at, 20).Metadata()
	f(&m)
	return observed(name, at, m)
}

func absent(m *history.Metadata)  { m.Status = history.StreamAbsent }
func silent(m *history.Metadata)  { m.Status = history.StreamSilence }
func another(m *history.Metadata) { m.Created = "2024-05-01T11:00:00Z" }

func TestStreamMetadata(t *testing.T) {
	t.Parallel()
	c := check.StreamMetadata{Target: "ORDERS"}
	before := described("before", 1, 10)
	runTable(t, []tableCase{
		{"the same", c, events(before, described("after", 2, 10)), pass},
		{"it grew", c, events(before, described("after", 2, 12)), pass},
		{"not yet there at first", c, events(redescribed("early", 0, absent), before, described("after", 2, 10)), pass},
		{"silence in the middle", c, events(before, redescribed("mid", 2, silent), described("after", 3, 10)), pass},
		{"another stream is gone", c, events(before, described("after", 2, 10), redescribed("x", 3, func(m *history.Metadata) { m.Target = "OTHER"; absent(m) })), pass},

		{"gone", c, events(before, redescribed("after", 2, absent)), fail(check.CodeStreamGone)},
		{"gone and back", c, events(before, redescribed("mid", 2, absent), described("after", 3, 10)), fail(check.CodeStreamGone)},
		{"created again", c, events(before, redescribed("after", 2, another)), fail(check.CodeStreamReset)},
		{"lost its end", c, events(described("before", 1, 30), described("after", 2, 20)), fail(check.CodeStreamReset)},
		{"another configuration", c, events(before, redescribed("after", 2, func(m *history.Metadata) { m.Config = `{"name":"ORDERS","num_replicas":1}` })), fail(check.CodeConfigChanged)},
		{"in order of time", c, events(redescribed("after", 2, absent), before), fail(check.CodeStreamGone)},

		{"never asked", c, events(), open(check.CodeNoOps)},
		{"asked once", c, events(before), open(check.CodeTooFewEvents)},
		{"nobody answers at the end", c, events(before, described("mid", 2, 10), redescribed("after", 3, silent)), open(check.CodeUnanswered)},
		{"the named observation is missing", check.StreamMetadata{Target: "ORDERS", Last: "after"}, events(before, described("mid", 2, 10)), open(check.CodeNoMark)},
		{"a status that does not exist", c, events(before, redescribed("after", 2, func(m *history.Metadata) { m.Status = "perhaps" })), open(check.CodeBadRecord)},
	})
}

// TestStreamMetadataWitness: the witness says what the nodes said of themselves meanwhile.
func TestStreamMetadataWitness(t *testing.T) {
	t.Parallel()
	h := events(described("before", 1, 10), redescribed("after", 2, absent))
	r := check.StreamMetadata{Target: "ORDERS"}.Check(&h)
	if len(r.Witnesses) != 1 || !strings.Contains(r.Witnesses[0].Text, "n1 200, n2 200, n3 200") {
		t.Errorf("witnesses %+v", r.Witnesses)
	}
}

func TestCASSerialized(t *testing.T) {
	t.Parallel()
	c := check.CASSerialized{Target: "A"}
	runTable(t, []tableCase{
		{"one after the other", c, kvh(create("a", 1), update("b", 1, 2), update("c", 2, 3)), pass},
		{"a refused one", c, kvh(create("a", 1), update("b", 1, 2), conflict(update("c", 1, 0))), pass},
		{"an unknown one", c, kvh(create("a", 1), update("b", 1, 2), lostReply(update("c", 1, 0))), pass},
		{"the same revision of two keys", c, kvh(update("b", 1, 2), onJ(update("c", 1, 3))), pass},
		{"unconditional writes", c, kvh(update("b", 1, 2), put("x", 3), put("y", 4)), pass},

		{"two updates of one revision", c, kvh(update("b", 1, 2), update("c", 1, 3)), fail(check.CodeCASViolation)},
		{"two creates", c, kvh(create("a", 1), create("b", 2)), fail(check.CodeCASViolation)},

		{"nothing", c, kvh(), open(check.CodeTooFewAcked)},
		{"only unconditional writes", c, kvh(put("a", 1)), open(check.CodeTooFewAcked)},
		{"too few", check.CASSerialized{Target: "A", MinAcked: 2}, kvh(create("a", 1)), open(check.CodeTooFewAcked)},
		{"acked without a revision", c, kvh(update("b", 1, 0)), open(check.CodeBadRecord)},
		{"bad clock", c, kvh(during(update("b", 1, 2), 10, 5)), open(check.CodeBadClock)},
	})
}

// TestStreamKeepsItsStart: an empty stream's start is what it will give next, so that a stream that was described before the first message is held to that.
func TestStreamKeepsItsStart(t *testing.T) {
	t.Parallel()
	at := func(name string, when int64, first, last, msgs uint64) history.Event {
		return observed(name, when, history.Metadata{Target: "T", Status: history.StreamFound, Created: "c", Config: "{}", First: first, Last: last, Msgs: msgs})
	}
	for name, c := range map[string]struct {
		events []history.Event
		code   string
	}{
		"empty, then all there":             {[]history.Event{at("a", 1, 0, 0, 0), at("b", 2, 1, 9, 9)}, ""},
		"empty, then without its start":     {[]history.Event{at("a", 1, 0, 0, 0), at("b", 2, 3, 9, 7)}, check.CodeStartLost},
		"empty all the time":                {[]history.Event{at("a", 1, 0, 0, 0), at("b", 2, 0, 0, 0)}, ""},
		"all there, then all gone":          {[]history.Event{at("a", 1, 1, 9, 9), at("b", 2, 10, 9, 0)}, check.CodeStartLost},
		"all there, then more, all there":   {[]history.Event{at("a", 1, 1, 9, 9), at("b", 2, 1, 20, 20)}, ""},
		"all there, then without the first": {[]history.Event{at("a", 1, 1, 9, 9), at("b", 2, 2, 20, 19)}, check.CodeStartLost},
	} {
		h := history.History{Events: c.events}
		if r := (check.StreamMetadata{Target: "T", KeepsStart: true}).Check(&h); r.Code != c.code {
			t.Errorf("%s: %+v, want %q", name, r, c.code)
		}
	}
}
