package check_test

import (
	"slices"
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// chatWorld has one message of 12 s, sent through n1 and given to a subscriber that is connected from 1 s on.
func chatWorld(change func(h *history.History)) history.History {
	h := history.History{
		Ops:        ops(during(history.Op{ID: 1, Client: "t", Node: "n1", Kind: history.Send, Target: "chat", Value: "a", Outcome: history.OK}, 12*sec, 12*sec+ms)),
		Events:     []history.Event{mark("from", 10*sec), mark("to", 20*sec)},
		Conns:      []history.Conn{{Client: "s", At: sec, State: "connected", Node: "n2"}},
		Deliveries: []history.Delivery{{Client: "s", Kind: "core", Target: "chat", Value: "before", At: 2 * sec}, {Client: "s", Kind: "core", Target: "chat", Value: "a", At: 12*sec + 2*ms}},
	}
	if change != nil {
		change(&h)
	}
	return h
}

func TestCoreDelivered(t *testing.T) {
	t.Parallel()
	c := check.CoreDelivered{Window: fromTo, Target: "chat"}
	lose := func(h *history.History) { h.Deliveries = h.Deliveries[:1] }
	both := func(fs ...func(h *history.History)) func(h *history.History) {
		return func(h *history.History) {
			for _, f := range fs {
				f(h)
			}
		}
	}
	conn := func(at int64, state string) func(h *history.History) {
		return func(h *history.History) {
			h.Conns = append(slices.Clone(h.Conns), history.Conn{Client: "s", At: at, State: state, Node: "n3"})
		}
	}
	op := func(f func(op *history.Op)) func(h *history.History) {
		return func(h *history.History) { f(&h.Ops[0]) }
	}
	all := check.CoreDelivered{Window: fromTo, Target: "chat", Clients: []string{"s"}, MinClients: 1}
	pair := all
	pair.MinClients = 2
	deaf := func(h *history.History) {
		h.Conns = append(h.Conns, history.Conn{Client: "s-1", At: sec, State: "connected", Node: "n1"})
	}
	runTable(t, []tableCase{
		{"arrived", c, chatWorld(nil), pass},
		{"lost", c, chatWorld(lose), fail(check.CodeSkipped)},
		{"lost by one of another subject", c, chatWorld(both(lose, func(h *history.History) { h.Deliveries[0].Target = "other" })), open(check.CodeTooFewArrived)},
		{"lost, the server had not taken it", c, chatWorld(both(lose, op(func(op *history.Op) { op.Outcome, op.Err = history.Unknown, "disconnected" }))), open(check.CodeTooFewArrived)},
		{"lost before the window", c, chatWorld(both(lose, op(func(op *history.Op) { op.Invoke, op.Complete = 5*sec, 5*sec+ms }))), open(check.CodeTooFewArrived)},
		{"lost, the subscriber was away", c, chatWorld(both(lose, conn(11*sec, "disconnected"), conn(15*sec, "reconnected"))), open(check.CodeTooFewArrived)},
		{"lost, the subscriber had just come back", c, chatWorld(both(lose, conn(9*sec, "disconnected"), conn(11*sec+500*ms, "reconnected"))), open(check.CodeTooFewArrived)},
		{"lost, the subscriber was long back", c, chatWorld(both(lose, conn(9*sec, "disconnected"), conn(9*sec+500*ms, "reconnected"), conn(19*sec, "closed"))), fail(check.CodeSkipped)},
		{"lost, the subscriber left right after", c, chatWorld(both(lose, conn(12*sec+500*ms, "closed"), conn(20*sec, "connected"))), open(check.CodeTooFewArrived)},
		{"a subscriber that was given nothing is not known", c, chatWorld(deaf), pass},
		{"a subscriber that was given nothing", all, chatWorld(deaf), fail(check.CodeSkipped)},
		{"all subscribers that connected were given it", all, chatWorld(nil), pass},
		{"a subscriber that was given nothing, and was away", all, chatWorld(both(deaf, func(h *history.History) {
			h.Conns = append(h.Conns, history.Conn{Client: "s-1", At: 11 * sec, State: "disconnected"})
		})), pass},
		{"two subscribers are wanted, and one was away", pair, chatWorld(both(deaf, func(h *history.History) {
			h.Conns = append(h.Conns, history.Conn{Client: "s-1", At: 11 * sec, State: "disconnected"})
		})), open(check.CodeTooFewClients)},
		{"two subscribers are wanted, and one never connected", pair, chatWorld(nil), open(check.CodeTooFewClients)},
		{"somebody else who was given nothing", all, chatWorld(func(h *history.History) {
			h.Conns = append(h.Conns, history.Conn{Client: "x", At: sec, State: "connected"})
		}), pass},
		{"too few", check.CoreDelivered{Window: fromTo, Target: "chat", MinPairs: 2}, chatWorld(nil), open(check.CodeTooFewArrived)},
		{"no mark", check.CoreDelivered{Window: check.Window{From: "x"}, Target: "chat"}, chatWorld(nil), open(check.CodeNoMark)},
		{"bad clock", c, chatWorld(op(func(op *history.Op) { op.Complete = sec })), open(check.CodeBadClock)},
	})
}
