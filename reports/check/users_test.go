package check_test

import (
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

func recordOf(key, role string) string { return check.Encode(check.UserRecord{Key: key, Role: role}) }

// addOf is a confirmed add of name.
func addOf(name, key string, rev uint64) history.Op {
	return history.Op{Kind: history.Create, Target: check.TargetUsers, Key: name, Value: recordOf(key, "r"), Outcome: history.OK, Seq: rev, Applied: everywhere}
}

func conflicts(op history.Op) history.Op {
	op.Outcome, op.Seq, op.Err = history.Failed, 0, "conflict"
	return op
}

// loginOf is a login at n1 after the list was read.
func loginOf(name, key string, ok bool) history.Op {
	op := history.Op{Kind: history.Access, Node: "n1", Target: name, Key: check.ActLogin, Value: key, Outcome: history.Failed, Invoke: 2000, Complete: 2001}
	if ok {
		op.Outcome = history.OK
	}
	return op
}

// listed is a history whose list of users holds these records, by name in order.
func listed(o []history.Op, users ...[2]string) history.History {
	h := history.History{Ops: ops(o...), Events: []history.Event{mark("logins", 1500), mark("end", 3000)}}
	for i, u := range users {
		h.Items = append(h.Items, history.Item{Target: check.TargetUsers, Seq: uint64(i + 1), Key: u[0], Value: u[1]})
	}
	d := drainOf(check.TargetUsers, h.Items)
	d.At = 1000
	h.Drains = []history.Drain{d}
	return h
}

func TestUsers(t *testing.T) {
	t.Parallel()
	c := check.Users{Prefix: "u-", Logins: check.Window{From: "logins"}, Nodes: []string{"n1"}}
	in, there := loginOf("u-a", "A", true), [2]string{"u-a", recordOf("A", "r")}
	list := func(o ...history.Op) []history.Op { return o }
	runTable(t, []tableCase{
		{"there, and in", c, listed(list(addOf("u-a", "A", 1), in), there), pass},
		{"added twice", c, listed(list(addOf("u-a", "A", 1), addOf("u-a", "A", 1), in), there), pass},
		{"the other key is refused", c, listed(list(addOf("u-a", "A", 1), conflicts(addOf("u-a", "B", 0)), in, loginOf("u-a", "B", false)), there), pass},
		{"unknown, there", c, listed(list(addOf("u-a", "A", 1), lostReply(addOf("u-b", "B", 0)), in), there, [2]string{"u-b", recordOf("B", "r")}), pass},
		{"unknown, not there", c, listed(list(addOf("u-a", "A", 1), lostReply(addOf("u-b", "B", 0)), in), there), pass},
		{"unknown, then conflict", c, listed(list(addOf("u-a", "A", 1), lostReply(addOf("u-b", "B", 0)), conflicts(addOf("u-b", "C", 0)), in), there), pass},
		{"others' users do not matter", c, listed(list(addOf("u-a", "A", 1), in), there, [2]string{"else", "?"}), pass},

		{"lost", c, listed(list(addOf("u-a", "A", 1), in)), fail(check.CodeAckedMissing)},
		{"two owners", c, listed(list(addOf("u-a", "A", 1), addOf("u-a", "B", 2), in), there), fail(check.CodeTwoOwners)},
		{"stored with the other key", c, listed(list(addOf("u-a", "A", 1), lostReply(addOf("u-a", "B", 0))), [2]string{"u-a", recordOf("B", "r")}), fail(check.CodeWrongValue)},
		{"half written", c, listed(list(addOf("u-a", "A", 1), in), [2]string{"u-a", recordOf("A", "")}), fail(check.CodeHalfWritten)},
		{"no record", c, listed(list(addOf("u-a", "A", 1), in), [2]string{"u-a", "quarantined: x"}), fail(check.CodeHalfWritten)},
		{"key of one, role of the other", c, listed(list(addOf("u-a", "A", 1), in), [2]string{"u-a", recordOf("A", "other")}), fail(check.CodeHalfWritten)},
		{"never added", c, listed(list(addOf("u-a", "A", 1), in), there, [2]string{"u-z", recordOf("Z", "r")}), fail(check.CodeNeverSent)},
		{"refused, and there", c, listed(list(addOf("u-a", "A", 1), failed(addOf("u-b", "B", 0)), in), there, [2]string{"u-b", recordOf("B", "r")}), fail(check.CodeFailedPresent)},
		{"again is another revision", c, listed(list(addOf("u-a", "A", 1), addOf("u-a", "A", 2), in), there), fail(check.CodeNotIdempotent)},
		{"a conflict with nobody", c, listed(list(addOf("u-a", "A", 1), conflicts(addOf("u-b", "B", 0)), in), there), fail(check.CodeRefused)},
		{"cannot log in", c, listed(list(addOf("u-a", "A", 1), loginOf("u-a", "A", false)), there), fail(check.CodeWronglyRefused)},
		{"the other key gets in", c, listed(list(addOf("u-a", "A", 1), in, loginOf("u-a", "B", true)), there), fail(check.CodeForbidden)},
		{"a stranger gets in", c, listed(list(addOf("u-a", "A", 1), in, loginOf("u-z", "Z", true)), there), fail(check.CodeForbidden)},

		{"not tried at every node", check.Users{Prefix: "u-", Nodes: []string{"n1", "n2"}}, listed(list(addOf("u-a", "A", 1), in), there), open(check.CodeTooFewTries)},
		{"a login without an answer", c, listed(list(addOf("u-a", "A", 1), lostReply(in)), there), open(check.CodeTooFewTries)},
		{"nobody logged in", check.Users{Prefix: "u-"}, listed(list(addOf("u-a", "A", 1)), there), open(check.CodeTooFewTries)},
		{"nobody confirmed", c, listed(list(lostReply(addOf("u-a", "A", 0)), in), there), open(check.CodeTooFewOps)},
		{"no conflicts", check.Users{Prefix: "u-", MinConflicts: 1}, listed(list(addOf("u-a", "A", 1), in), there), open(check.CodeTooFewOps)},
		{"nothing again", check.Users{Prefix: "u-", MinAgain: 1}, listed(list(addOf("u-a", "A", 1), in), there), open(check.CodeTooFewOps)},
		{"no list", c, history.History{Ops: ops(addOf("u-a", "A", 1))}, open(check.CodeNoDrain)},
		{"half a list", c, edit(listed(list(addOf("u-a", "A", 1), in), there), func(h *history.History) { h.Drains[0].Complete = false }), open(check.CodeDrainPartial)},
		{"added after the list", c, listed(list(between(addOf("u-a", "A", 1), 1100, 1200), in), there), open(check.CodeOpsAfterDrain)},
		{"no mark", check.Users{Logins: check.Window{From: "x"}}, listed(list(addOf("u-a", "A", 1), in), there), open(check.CodeNoMark)},
	})
}
