package check_test

import (
	"testing"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

const everywhere = "n1,n2,n3"

func user(role string, disabled bool) string {
	return check.Encode(check.UserRecord{Key: "UA", Role: role, Disabled: disabled})
}

func member(level string) string { return check.Encode(check.MemberRecord{Level: level}) }

// changeOf is a confirmed change; kind Create, Update or Put.
func changeOf(kind history.Kind, target, key, value, applied string) history.Op {
	return history.Op{Kind: kind, Target: target, Key: key, Value: value, Outcome: history.OK, Seq: 1, Applied: applied}
}

// tryOf is an attempt of user a at n1.
func tryOf(key string, allowed bool) history.Op {
	op := history.Op{Kind: history.Access, Node: "n1", Target: "a", Key: key, Value: "UA", Outcome: history.Failed, Err: "denied"}
	if allowed {
		op.Outcome, op.Err = history.OK, ""
	}
	return op
}

// loud is a role, and user a has it.
func loud(more ...history.Op) history.History {
	role := check.Encode(check.RoleRecord{Publish: []string{"a.>"}, Subscribe: []string{"b.*"}, Deny: []string{"a.no.>"}, Buckets: map[string]string{"K": "read"}})
	first := []history.Op{changeOf(history.Put, check.TargetRoles, "loud", role, everywhere), changeOf(history.Create, check.TargetUsers, "a", user("loud", false), everywhere)}
	return history.History{Ops: ops(append(first, more...)...)}
}

func between(op history.Op, invoke, complete int64) history.Op {
	op.Invoke, op.Complete = invoke, complete
	return op
}

func TestACL(t *testing.T) {
	t.Parallel()
	c := check.ACL{}
	update := func(value, applied string) history.Op {
		op := changeOf(history.Update, check.TargetUsers, "a", value, applied)
		op.Prev = 1
		return op
	}
	lobby := changeOf(history.Create, check.TargetRooms, "lobby", check.Encode(check.RoomRecord{Subjects: []string{"c.>"}}), everywhere)
	joined := func(level string) history.Op {
		return changeOf(history.Put, check.TargetMembers, "lobby.a", member(level), everywhere)
	}
	runTable(t, []tableCase{
		{"allowed by the role", c, loud(tryOf("publish a.x", true), tryOf("subscribe b.x", true), tryOf("kv-get K.x", true), tryOf("status", true)), pass},
		{"refused by default", c, loud(tryOf("publish b.x", false), tryOf("subscribe a.x", false), tryOf("kv-put K.x", false), tryOf("rollup K.x", false), tryOf("read users.list", false)), pass},
		{"another bucket", c, loud(tryOf("kv-get L.x", true)), fail(check.CodeForbidden)},
		{"reads cannot write", c, loud(tryOf("kv-put K.x", true)), fail(check.CodeForbidden)},
		{"rollup by a reader", c, loud(tryOf("rollup K.x", true)), fail(check.CodeForbidden)},
		{"denied wins", c, loud(tryOf("publish a.no.x", true)), fail(check.CodeForbidden)},
		{"wider than the role", c, loud(tryOf("subscribe b.>", true)), fail(check.CodeForbidden)},
		{"another's inbox", c, loud(tryOf("inbox b", true)), fail(check.CodeForbidden)},
		{"its own inbox", c, loud(tryOf("inbox a", false)), fail(check.CodeWronglyRefused)},
		{"refused what the role gives", c, loud(tryOf("publish a.x", false)), fail(check.CodeWronglyRefused)},
		{"manages streams", c, loud(tryOf("manage delete X", true)), fail(check.CodeForbidden)},
		{"writes the control plane", c, loud(tryOf("write users.add", true)), fail(check.CodeForbidden)},
		{"a stranger", c, loud(with(tryOf("login", true), func(op *history.Op) { op.Target = "nobody" })), fail(check.CodeForbidden)},
		{"another key", c, loud(with(tryOf("login", true), func(op *history.Op) { op.Value = "UB" })), fail(check.CodeForbidden)},
		{"another key is refused", c, loud(with(tryOf("login", false), func(op *history.Op) { op.Value = "UB" })), pass},

		{"a room gives both", c, loud(lobby, joined("member"), tryOf("publish c.x", true), tryOf("subscribe c.>", true)), pass},
		{"an observer only listens", c, loud(lobby, joined("observer"), tryOf("publish c.x", false), tryOf("subscribe c.>", true)), pass},
		{"an observer speaks", c, loud(lobby, joined("observer"), tryOf("publish c.x", true)), fail(check.CodeForbidden)},
		{"left the room", c, loud(lobby, joined("member"), joined(""), tryOf("publish c.x", true)), fail(check.CodeForbidden)},
		{"not in the room", c, loud(lobby, tryOf("subscribe c.x", true)), fail(check.CodeForbidden)},
		{"a member is kept out", c, loud(lobby, joined("owner"), tryOf("publish c.x", false)), fail(check.CodeWronglyRefused)},

		{"disabled, and in", c, loud(update(user("loud", true), everywhere), tryOf("login", true)), fail(check.CodeForbidden)},
		{"disabled, and out", c, loud(update(user("loud", true), everywhere), tryOf("login", false)), pass},
		{"disabled elsewhere: either", c, loud(tryOf("status", true), update(user("loud", true), "n2,n3"), tryOf("login", true), tryOf("login", false)), open(check.CodeUnsettled)},
		{"confirmed here later", c, loud(update(user("loud", true), "n2,n3"), update(user("loud", true), everywhere), tryOf("login", true)), fail(check.CodeForbidden)},
		{"while it is confirmed: either", check.ACL{MaxUnsettle: 0.9}, loud(tryOf("status", true), between(update(user("loud", true), everywhere), 100, 200), between(tryOf("login", true), 150, 160), between(tryOf("login", false), 170, 180)), pass},
		{"before it is asked for", c, loud(between(tryOf("login", false), 50, 60), between(update(user("loud", true), everywhere), 100, 200)), fail(check.CodeWronglyRefused)},
		{"after it is confirmed", c, loud(between(update(user("loud", true), everywhere), 100, 200), between(tryOf("login", true), 201, 210)), fail(check.CodeForbidden)},
		{"asked for, no answer: either", check.ACL{MaxUnsettle: 0.9}, loud(tryOf("status", true), lostReply(update(user("loud", true), "")), tryOf("login", true), tryOf("login", false)), pass},
		{"no answer, then settled", c, loud(lostReply(update(user("loud", true), "")), update(user("loud", false), everywhere), tryOf("login", false)), fail(check.CodeWronglyRefused)},
		{"a put without an answer never settles", check.ACL{MaxUnsettle: 0.9},
			loud(lobby, tryOf("status", true), lostReply(joined("member")), joined(""), tryOf("publish c.x", true), tryOf("publish c.x", false)), pass},
		{"the same put again does", c, loud(lobby, lostReply(joined("member")), joined("member"), tryOf("publish c.x", false)), fail(check.CodeWronglyRefused)},
		{"the node that answers has not confirmed", check.ACL{MaxUnsettle: 0.9}, loud(tryOf("login", true), changeOf(history.Put, check.TargetRoles, "loud", check.Encode(check.RoleRecord{Control: "read"}), "n1,n2"),
			tryOf("read users.list", false), tryOf("read users.list", true)), pass},
		{"the user's own node has not confirmed", check.ACL{MaxUnsettle: 0.9}, loud(tryOf("login", true), changeOf(history.Put, check.TargetRoles, "loud", check.Encode(check.RoleRecord{Control: "read"}), "n2,n3"),
			tryOf("read users.list", false), tryOf("read users.list", true)), pass},
		{"every node that may answer has", c, loud(changeOf(history.Put, check.TargetRoles, "loud", check.Encode(check.RoleRecord{Control: "read"}), everywhere), tryOf("read users.list", false)),
			fail(check.CodeWronglyRefused)},
		{"a refused change is none", c, loud(failed(update(user("loud", true), "")), tryOf("login", false)), fail(check.CodeWronglyRefused)},
		{"a role changes for its users", c, loud(changeOf(history.Put, check.TargetRoles, "loud", "{}", everywhere), tryOf("publish a.x", true)), fail(check.CodeForbidden)},

		{"nothing tried", c, loud(), open(check.CodeTooFewOps)},
		{"no certain answer", c, loud(lostReply(tryOf("login", true))), open(check.CodeTooFewOps)},
		{"too few", check.ACL{MinCases: 2}, loud(tryOf("login", true)), open(check.CodeTooFewOps)},
		{"too few allowed", check.ACL{MinAllowed: 1}, loud(tryOf("publish b", false)), open(check.CodeTooFewOps)},
		{"too few refused", check.ACL{MinRefused: 1}, loud(tryOf("login", true)), open(check.CodeTooFewOps)},
		{"too few of an action", check.ACL{Actions: []string{"login", "info"}, MinEach: 1}, loud(tryOf("login", true)), open(check.CodeTooFewOps)},
		{"too few users", check.ACL{MinUsers: 2}, loud(tryOf("login", true)), open(check.CodeTooFewClients)},
		{"too few changes", check.ACL{MinChanges: 3}, loud(tryOf("login", true)), open(check.CodeTooFewEvents)},
		{"another action", check.ACL{Actions: []string{"info"}}, loud(tryOf("login", false)), open(check.CodeTooFewOps)},
		{"another node", check.ACL{Nodes: []string{"n2"}}, loud(tryOf("login", false)), open(check.CodeTooFewOps)},
		{"another user", check.ACL{Users: []string{"b"}}, loud(tryOf("login", false)), open(check.CodeTooFewOps)},
		{"no mark", check.ACL{Window: check.Window{From: "x"}}, loud(tryOf("login", true)), open(check.CodeNoMark)},
		{"no such action", c, loud(tryOf("dance", true)), open(check.CodeBadRecord)},
		{"no such wrong rule", check.ACL{Wrong: "x"}, loud(tryOf("login", true)), open(check.CodeBadRecord)},
		{"a record that is none", c, loud(changeOf(history.Put, check.TargetRoles, "r", `{"surprise":1}`, everywhere), tryOf("login", true)), open(check.CodeBadRecord)},

		{"a model without deny", check.ACL{Wrong: check.WrongNoDeny}, loud(tryOf("publish a.no.x", false)), fail(check.CodeWronglyRefused)},
		{"a model without rooms", check.ACL{Wrong: check.WrongNoRooms}, loud(lobby, joined("member"), tryOf("publish c.x", true)), fail(check.CodeForbidden)},
		{"a model without disable", check.ACL{Wrong: check.WrongDisable}, loud(update(user("loud", true), everywhere), tryOf("login", false)), fail(check.CodeWronglyRefused)},
		{"a model without publishing", check.ACL{Wrong: check.WrongRoleNever}, loud(tryOf("publish a.x", true)), fail(check.CodeForbidden)},
		{"a model that lets nobody in", check.ACL{Wrong: check.WrongNobody}, loud(tryOf("login", true)), fail(check.CodeForbidden)},
	})
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"a.>", "a.b.c", true}, {"a.>", "a", false},
		{"a.*", "a.*", true}, {"a.b", "a.*", false}, {"a.*", "a.>", false}, {"a.>", "a.>", true}, {"a.>", "a.*.c", true}, {">", "a", true}, {">", ">", true}, {"*", ">", false}, {"a.*.c", "a.>", false},
	} {
		if got := check.Covers(c.pattern, c.subject); got != c.want {
			t.Errorf("Covers(%q, %q) = %t", c.pattern, c.subject, got)
		}
	}
}

func TestEffect(t *testing.T) {
	t.Parallel()
	c := check.Effect{Users: []string{"a"}, MaxP99: 0.1}
	disabled := between(with(changeOf(history.Update, check.TargetUsers, "a", user("loud", true), "n1,n2"), func(op *history.Op) { op.Prev = 1 }), sec, sec+20*ms)
	login := func(from int64, allowed bool) history.Op {
		return between(tryOf("login", allowed), sec+from, sec+from+5*ms)
	}
	on := func(node string, op history.Op) history.Op { op.Node = node; return op }
	runTable(t, []tableCase{
		{"at once", c, loud(disabled, login(10*ms, false)), pass},
		{"soon", c, loud(disabled, login(10*ms, true), login(30*ms, false)), pass},
		{"at both nodes", check.Effect{Users: []string{"a"}, MaxP99: 0.1, MinNodes: 2, MinSamples: 2}, loud(disabled, login(30*ms, false), on("n2", login(30*ms, false))), pass},
		{"late", c, loud(disabled, login(30*ms, true), login(200*ms, true), login(210*ms, false)), fail(check.CodeTooSlow)},
		{"late at one node", c, loud(disabled, login(30*ms, false), on("n2", login(200*ms, true)), on("n2", login(300*ms, false))), fail(check.CodeTooSlow)},
		{"never", c, loud(disabled, login(30*ms, true), login(200*ms, true)), fail(check.CodeNeverInForce)},
		{"not bounded", check.Effect{Users: []string{"a"}}, loud(disabled, login(200*ms, true), login(210*ms, false)), pass},
		{"tried too late to tell", c, loud(disabled, login(10*ms, true), login(300*ms, false)), open(check.CodeUnsettled)},
		{"not tried", c, loud(disabled), open(check.CodeTooFewSamples)},
		{"tried where it was not confirmed", c, loud(disabled, on("n3", login(30*ms, true))), open(check.CodeTooFewSamples)},
		{"what was tried does not tell", c, loud(disabled, between(tryOf("publish x", false), sec+30*ms, sec+31*ms)), open(check.CodeTooFewSamples)},
		{"overtaken by the next change", c, loud(disabled, between(with(changeOf(history.Update, check.TargetUsers, "a", user("loud", false), everywhere), func(op *history.Op) { op.Prev = 2 }), sec+40*ms, sec+50*ms),
			login(60*ms, true)), pass},
		{"too few", check.Effect{Users: []string{"a"}, MinSamples: 2}, loud(disabled, login(30*ms, false)), open(check.CodeTooFewSamples)},
		{"too few nodes", check.Effect{Users: []string{"a"}, MinNodes: 2}, loud(disabled, login(30*ms, false)), open(check.CodeTooFewNodes)},
		{"other users", check.Effect{Users: []string{"b"}}, loud(disabled, login(30*ms, true)), open(check.CodeTooFewSamples)},
		{"no mark", check.Effect{Window: check.Window{To: "x"}}, loud(disabled), open(check.CodeNoMark)},
		{"a record that is none", c, loud(changeOf(history.Put, check.TargetUsers, "b", `[]`, everywhere)), open(check.CodeBadRecord)},
	})
}
