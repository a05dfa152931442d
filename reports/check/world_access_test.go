package check_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// What users do in the virtual cluster, after its outage.
const (
	accessAt = backAt + sec
	listAt   = endAt - 2*sec // the users are listed
	loginAt  = listAt + 100*ms
)

// canary is a user whose rights change all the time, as the virtual cluster has them.
type canary struct {
	name            string
	record          check.UserRecord
	level           string
	inForce         map[string]canary // at each node, a little before it is confirmed
	pending         bool              // n3 has not confirmed the last change
	userRev, memRev uint64
}

// may is the rules once more, as a table: what a canary of that role and level may do.
func (c canary) may(key string) bool {
	if c.record.Key == "" || c.record.Disabled {
		return false
	}
	pub, sub := c.record.Role == "loud", c.record.Role == "quiet"
	return map[string]bool{
		"login": true, "status": true, "publish a.b": pub, "request a.b": pub, "subscribe a.b": sub, "subscribe a.>": sub, "subscribe >": false, "publish a.not.b": false,
		"publish lobby.x": c.level == "member" || c.level == "owner", "subscribe lobby.*": c.level != "", "inbox " + c.name: true, "inbox other": false,
		"kv-get K.x": pub || sub, "kv-put K.x": pub, "rollup K.x": pub, "kv-get L.x": false, "info S": pub || sub, "consume S": pub, "divert S": false, "manage": false, "read": pub, "write": false,
	}[key]
}

var canaryTries = []string{"login", "status", "publish a.b", "request a.b", "subscribe a.b", "subscribe a.>", "subscribe >", "publish a.not.b", "publish lobby.x", "subscribe lobby.*",
	"inbox other", "kv-get K.x", "kv-put K.x", "rollup K.x", "kv-get L.x", "info S", "consume S", "divert S", "manage", "read", "write"}

// access adds users, and what they are allowed.
func (w *world) access() {
	at := accessAt
	put := func(kind history.Kind, target, key, value string) {
		w.change(&at, history.Op{Kind: kind, Target: target, Key: key, Value: value}, 1, "n1,n2,n3")
	}
	put(history.Put, check.TargetRoles, "loud", check.Encode(check.RoleRecord{Publish: []string{"a.>"}, Deny: []string{"a.not.>"}, Buckets: map[string]string{"K": "write"},
		Streams: map[string]string{"S": "read"}, Control: "read"}))
	put(history.Put, check.TargetRoles, "quiet", check.Encode(check.RoleRecord{Subscribe: []string{"a.>"}, Buckets: map[string]string{"K": "read"}, Streams: map[string]string{"S": "consume"}}))
	put(history.Create, check.TargetRooms, "lobby", check.Encode(check.RoomRecord{Subjects: []string{"lobby.*"}}))
	c := &canary{name: "canary", inForce: map[string]canary{}}
	for range 12 {
		w.step1(c, &at)
	}
	w.admissions()
}

// change records a change that takes effect 2 ms after its request and is confirmed 3 ms later.
func (w *world) change(at *int64, op history.Op, seq uint64, applied string) {
	w.nextID++
	op.ID, op.Client, op.Node, op.Invoke, op.Complete, op.Outcome, op.Seq, op.Applied = w.nextID, "admin", "n1", *at, *at+5*ms, history.OK, seq, applied
	w.h.Ops = append(w.h.Ops, op)
	*at += 5*ms + 1
}

// step1 changes the canary once, and lets it try things before, meanwhile and after.
func (w *world) step1(c *canary, at *int64) {
	w.tries(c, *at-2*ms, 1)
	op := w.draw(c)
	begin, applied := *at, "n1,n2,n3"
	if c.pending = w.rng.IntN(4) == 0; c.pending {
		applied = "n1,n2"
	}
	w.change(at, op, 1+op.Prev, applied)
	now := *c
	for i, n := range []string{"n1", "n2", "n3"} {
		if n != "n3" || !c.pending {
			old, after := c.inForce[n], begin+int64(1+i)*ms
			w.try(c, n, old.may, after-1, 0)
			c.inForce[n] = now
			w.try(c, n, now.may, after, ms/2)
		}
	}
	w.tries(c, *at, 5)
	if c.pending { // the same again, for the node that was away
		again := op
		again.Kind, again.Prev = history.Put, 0
		w.change(at, again, 1+op.Prev, "n1,n2,n3")
		c.inForce["n3"] = now
	}
	*at += ms
	w.tries(c, *at, 5)
	*at += 10 * ms
}

// draw picks the next change of the canary.
func (w *world) draw(c *canary) history.Op {
	user := func(kind history.Kind) history.Op {
		c.userRev++
		return history.Op{Kind: kind, Target: check.TargetUsers, Key: c.name, Value: check.Encode(c.record), Prev: c.userRev - 1}
	}
	if c.record.Key == "" {
		c.record = check.UserRecord{Key: "UA", Role: "quiet"}
		return user(history.Create)
	}
	switch w.rng.IntN(4) {
	case 0:
		c.record.Disabled = !c.record.Disabled
	case 1:
		c.record.Role = map[string]string{"loud": "quiet", "quiet": "loud"}[c.record.Role]
	case 2:
		c.record.Disabled, c.record.Role = false, "loud"
	default:
		c.level = []string{"", "member", "observer", "owner"}[w.rng.IntN(4)]
		c.memRev++
		return history.Op{Kind: history.Put, Target: check.TargetMembers, Key: "lobby." + c.name, Value: check.Encode(check.MemberRecord{Level: c.level}), Prev: c.memRev - 1}
	}
	return user(history.Update)
}

// tries lets the canary try everything at every node, at one moment.
func (w *world) tries(c *canary, at int64, n int) {
	for range n {
		for _, node := range []string{"n1", "n2", "n3"} {
			c := c.inForce[node]
			c.name = "canary"
			w.try(&c, node, c.may, at, ms/4)
		}
	}
}

// try records one attempt.
func (w *world) try(c *canary, node string, may func(string) bool, at, took int64) {
	key := canaryTries[w.rng.IntN(len(canaryTries))]
	if w.rng.IntN(3) == 0 {
		key = "publish a.b"
	}
	out, word := history.Failed, "denied"
	if may(key) {
		out, word = history.OK, ""
	}
	if w.rng.IntN(20) == 0 {
		out, word = history.Unknown, "disconnected"
	}
	w.nextID++
	w.h.Ops = append(w.h.Ops, history.Op{ID: w.nextID, Client: "as-" + c.name, Node: node, Kind: history.Access, Target: "canary", Key: key, Value: "UA", Invoke: at, Complete: at + took, Outcome: out, Err: word})
}

// admissions adds users from two clients that want the same names.
func (w *world) admissions() {
	type held struct {
		value string
		rev   uint64
	}
	have, at := map[string]held{}, accessAt+sec
	for i := range 40 {
		name := fmt.Sprintf("add-%d", w.rng.IntN(8))
		op := history.Op{Client: fmt.Sprintf("m%d", i%2), Node: "n1", Kind: history.Create, Target: check.TargetUsers, Key: name, Invoke: at, Complete: at + 5*ms,
			Value: check.Encode(check.UserRecord{Key: fmt.Sprintf("U%s%d", name, i%2), Role: "member"})}
		w.nextID++
		op.ID = w.nextID
		now, ok := have[name]
		switch {
		case !ok && w.rng.IntN(10) == 0:
			op.Outcome, op.Err = history.Failed, "unavailable"
		case ok && now.value != op.Value:
			op.Outcome, op.Err = history.Failed, "conflict"
		default:
			if !ok {
				have[name] = held{op.Value, uint64(len(have) + 1)}
			}
			op.Outcome, op.Seq, op.Applied = history.OK, have[name].rev, "n1,n2,n3"
			if w.rng.IntN(6) == 0 {
				op.Outcome, op.Seq, op.Applied, op.Err = history.Unknown, 0, "", "timeout"
			}
		}
		w.h.Ops = append(w.h.Ops, op)
		at += 20 * ms
	}
	names := slices.SortedFunc(maps.Keys(have), func(a, b string) int { return cmp.Compare(have[a].rev, have[b].rev) })
	d := history.Drain{Target: check.TargetUsers, At: listAt, Complete: true, Items: len(names), Last: uint64(len(names))}
	for _, n := range names {
		w.h.Items = append(w.h.Items, history.Item{Target: check.TargetUsers, Seq: have[n].rev, Key: n, Value: have[n].value})
	}
	w.h.Drains = append(w.h.Drains, d)
	at = loginAt
	login := func(name, node, key string, ok bool) {
		w.nextID++
		op := history.Op{ID: w.nextID, Client: "as-" + name, Node: node, Kind: history.Access, Target: name, Key: "login", Value: key, Invoke: at, Complete: at + ms, Outcome: history.Failed, Err: "denied"}
		if ok {
			op.Outcome, op.Err = history.OK, ""
		}
		w.h.Ops = append(w.h.Ops, op)
		at += 2 * ms
	}
	for _, n := range names {
		for _, node := range []string{"n1", "n2", "n3"} {
			for k := range 2 {
				key := fmt.Sprintf("U%s%d", n, k)
				login(n, node, key, strings.Contains(have[n].value, `"`+key+`"`))
			}
		}
	}
	login("add-nobody", "n2", "UX", false)
}

func accessSpecs() []check.Spec {
	return []check.Spec{
		check.Of(check.ACL{MinCases: 50, MinAllowed: 5, MinRefused: 20, MinUsers: 1, MinChanges: 4, Users: []string{"canary"}}),
		check.Of(check.ACL{Nodes: []string{"n3"}, Users: []string{"canary"}, MaxUnsettle: 0.9}),
		check.Of(check.Effect{Users: []string{"canary"}, MaxP99: 0.1}),
		check.Of(check.Users{Prefix: "add-", Logins: check.Window{From: "logins"}, Nodes: []string{"n1", "n2", "n3"}, MinConfirmed: 1}),
	}
}
