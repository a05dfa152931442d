package check

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Users ("users") accounts for every attempt to add a user: what was confirmed is there, whole, once, and lets its owner in at every node; a name
// belongs to one key; the same again changes nothing; what was refused left nothing behind. Attempts without an answer are settled by the final list.
type Users struct {
	Prefix       string   `json:"prefix"`                  // of the names that the claim is about
	Logins       Window   `json:"logins"`                  // when logins were tried, after the list was read
	Nodes        []string `json:"nodes"`                   // at which every confirmed user was tried
	MinConfirmed int      `json:"min_confirmed,omitempty"` // names with a confirmed add; 0 means 1
	MinConflicts int      `json:"min_conflicts,omitempty"` // adds that were refused because the name had another key
	MinAgain     int      `json:"min_again,omitempty"`     // confirmed adds of what was there
	MinUnknown   int      `json:"min_unknown,omitempty"`   // adds without an answer: without any, nothing was tried
}

// userCase is all that happened to one name.
type userCase struct {
	name string
	adds []*history.Op
	item *history.Item // nil for none
}

// usersCount is what was found.
type usersCount struct {
	attempts, confirmed, again, conflicts, unknown, settled, logins, refusedLogins int

	missing, twoOwners, wrong, half, never, failedPresent, again2, noCause, blocked, leaked violation
}

// Check implements Checker.
func (c Users) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	rb, no := drained(h, TargetUsers)
	if no != nil {
		return *no
	}
	w, no := bounds(h, c.Logins)
	if no != nil {
		return *no
	}
	cases, late := c.cases(h, rb)
	if late != nil {
		return inconclusive(nil, CodeOpsAfterDrain, "Operation %d by %s was not over when the list was read.", late.ID, late.Client)
	}
	n := newUsersCount()
	for _, name := range sortedKeys(cases) {
		n.one(cases[name])
	}
	untried := c.logins(h, w, cases, &n)
	return c.conclude(n, len(cases), untried)
}

func newUsersCount() usersCount {
	v := func(code, promise string) violation { return violation{code: code, promise: promise} }
	return usersCount{
		missing: v(CodeAckedMissing, promiseUsers), twoOwners: v(CodeTwoOwners, promiseUsers), wrong: v(CodeWrongValue, promiseUsers),
		half: v(CodeHalfWritten, promiseUsers), never: v(CodeNeverSent, promiseUsers), failedPresent: v(CodeFailedPresent, promiseOutcome),
		again2: v(CodeNotIdempotent, promiseUsers), noCause: v(CodeRefused, promiseUsers),
		blocked: v(CodeWronglyRefused, promiseAccess), leaked: v(CodeForbidden, promiseAccess),
	}
}

// cases groups adds and what was read back by name.
func (c Users) cases(h *history.History, rb readback) (cases map[string]*userCase, late *history.Op) {
	cases = map[string]*userCase{}
	of := func(name string) *userCase {
		if cases[name] == nil {
			cases[name] = &userCase{name: name}
		}
		return cases[name]
	}
	prefix := []string{c.Prefix}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Create || op.Target != TargetUsers || !hasPrefix(op.Key, prefix) {
			continue
		}
		if op.Invoke > rb.drain.At || op.Complete > rb.drain.At {
			return nil, op
		}
		of(op.Key).adds = append(of(op.Key).adds, op)
	}
	for i := range rb.items {
		if it := &rb.items[i]; hasPrefix(it.Key, prefix) {
			of(it.Key).item = it
		}
	}
	return cases, nil
}

// one judges the adds of one name against what is there.
func (n *usersCount) one(u *userCase) {
	var first *history.Op // confirmed
	for _, op := range u.adds {
		n.attempts++
		switch {
		case op.Outcome == history.Unknown:
			n.unknown++
			if u.item == nil || u.item.Value == op.Value {
				n.settled++
			}
		case op.Outcome == history.Failed && op.Err == errConflict:
			n.conflicts++
			n.cause(u, op)
		case op.Outcome == history.OK && first == nil:
			n.confirmed++
			first = op
		case op.Outcome == history.OK:
			n.again++
			n.same(first, op)
		}
	}
	n.stored(u, first)
}

// errConflict is what an operation's Err says when the name has another key.
const errConflict = "conflict"

// cause wants that somebody else tried the name with another key before the refusal.
func (n *usersCount) cause(u *userCase, op *history.Op) {
	mine := keyOf(op.Value)
	for _, other := range u.adds {
		if keyOf(other.Value) != mine && other.Invoke < op.Complete && other.Outcome != history.Failed {
			return
		}
	}
	n.noCause.count++
	n.noCause.seen.add(op.Complete, []int64{op.ID}, "adding %s was refused as a conflict, and nobody had added it with another key", u.name)
}

// same compares two confirmed adds of one name.
func (n *usersCount) same(first, op *history.Op) {
	if keyOf(first.Value) != keyOf(op.Value) {
		n.twoOwners.count++
		n.twoOwners.seen.add(op.Complete, []int64{first.ID, op.ID}, "%s was confirmed for two keys", op.Key)
		return
	}
	if first.Seq != op.Seq {
		n.again2.count++
		n.again2.seen.add(op.Complete, []int64{first.ID, op.ID}, "adding %s again answered revision %d instead of %d", op.Key, op.Seq, first.Seq)
	}
}

// stored judges what was read back.
func (n *usersCount) stored(u *userCase, first *history.Op) {
	if u.item == nil {
		if first != nil {
			n.missing.count++
			n.missing.seen.add(first.Complete, []int64{first.ID}, "%s was confirmed at revision %d and is not there", u.name, first.Seq)
		}
		return
	}
	at, rec := u.item.Value, decodeStrictly(u.item.Value)
	if rec == nil || rec.Key == "" || rec.Role == "" {
		n.half.count++
		n.half.seen.add(0, nil, "%s is stored as %q, which is no whole user", u.name, at)
		return
	}
	if first != nil && keyOf(first.Value) != rec.Key {
		n.wrong.count++
		n.wrong.seen.add(first.Complete, []int64{first.ID}, "%s was confirmed for one key and is stored with another", u.name)
		return
	}
	var sent, sentKey, lives bool
	for _, op := range u.adds {
		sent = sent || op.Value == at
		sentKey = sentKey || keyOf(op.Value) == rec.Key
		lives = lives || op.Value == at && op.Outcome != history.Failed
	}
	switch {
	case !sentKey:
		n.never.count++
		n.never.seen.add(0, nil, "%s is stored with a key that nobody sent", u.name)
	case !sent:
		n.half.count++
		n.half.seen.add(0, nil, "%s is stored with the key of one request and the role of another: %s", u.name, at)
	case !lives:
		n.failedPresent.count++
		n.failedPresent.seen.add(0, nil, "every add of what is stored as %s was refused", u.name)
	}
}

func decodeStrictly(value string) *UserRecord {
	var u UserRecord
	if strict(json.RawMessage(value), &u) != nil {
		return nil
	}
	return &u
}

func keyOf(value string) string {
	if u := decodeStrictly(value); u != nil {
		return u.Key
	}
	return ""
}

// logins judges who got in after the list was read, and counts the users that were not tried at every node.
func (c Users) logins(h *history.History, w span, cases map[string]*userCase, n *usersCount) (untried int) {
	tried := map[string]map[string]bool{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Access || op.Key != ActLogin || !hasPrefix(op.Target, []string{c.Prefix}) || op.Invoke < w.from || op.Invoke > w.to || op.Outcome == history.Unknown {
			continue
		}
		u := cases[op.Target] // nil for one that nobody ever added
		owner := u != nil && u.item != nil && keyOf(u.item.Value) == op.Value
		switch {
		case op.Outcome == history.OK && !owner:
			n.leaked.count++
			n.leaked.seen.add(op.Complete, []int64{op.ID}, "somebody logged in at %s as %s with a key that is not the user's", op.Node, op.Target)
		case op.Outcome == history.OK:
			n.logins++
		case owner:
			n.blocked.count++
			n.blocked.seen.add(op.Complete, []int64{op.ID}, "%s could not log in at %s (%s)", op.Target, op.Node, orDash(op.Err))
		default:
			n.refusedLogins++
		}
		if owner {
			if tried[op.Target] == nil {
				tried[op.Target] = map[string]bool{}
			}
			tried[op.Target][op.Node] = true
		}
	}
	for name, u := range cases {
		confirmed := slices.ContainsFunc(u.adds, func(op *history.Op) bool { return op.Outcome == history.OK })
		for _, node := range c.Nodes {
			if confirmed && u.item != nil && !tried[name][node] {
				untried++
			}
		}
	}
	return untried
}

func (c Users) conclude(n usersCount, names, untried int) Result {
	figures := []Figure{count("names", names), count("attempts", n.attempts), count("confirmed", n.confirmed), count("again", n.again), count("conflicts", n.conflicts),
		count("unknown", n.unknown), count("unknown_settled", n.settled), count("logins", n.logins), count("logins_refused", n.refusedLogins)}
	for _, v := range []struct {
		v    *violation
		text string
	}{
		{&n.missing, "%d confirmed users are lost."},
		{&n.twoOwners, "%d names were confirmed for two keys."},
		{&n.wrong, "%d users are stored with another key than was confirmed."},
		{&n.half, "%d users are half written."},
		{&n.never, "%d users are there that nobody added."},
		{&n.failedPresent, "%d users are there although every add of them was refused."},
		{&n.again2, "%d adds of what was there already changed it."},
		{&n.noCause, "%d adds were refused as conflicts without a cause."},
		{&n.leaked, "%d logins with a wrong key were let in."},
		{&n.blocked, "%d logins of stored users were refused."},
	} {
		v.v.reason = fmt.Sprintf(v.text, v.v.count)
	}
	if r, bad := found(figures, n.missing, n.twoOwners, n.wrong, n.half, n.never, n.failedPresent, n.again2, n.noCause, n.leaked, n.blocked); bad {
		return r
	}
	for _, x := range []struct {
		what       string
		have, need int
	}{
		{"names were confirmed", n.confirmed, orDefault(c.MinConfirmed, 1)}, {"adds met another key", n.conflicts, c.MinConflicts},
		{"adds of what was there were confirmed", n.again, c.MinAgain}, {"adds had no answer", n.unknown, c.MinUnknown},
	} {
		if x.have < x.need {
			return inconclusive(figures, CodeTooFewOps, "%d %s, at least %d are needed.", x.have, x.what, x.need)
		}
	}
	if untried > 0 || n.logins == 0 {
		return inconclusive(figures, CodeTooFewTries, "%d logins of confirmed users, of all there should be, were not tried with a certain answer; %d were let in.", untried, n.logins)
	}
	return passed(figures, "%d names in %d attempts: %d confirmed, %d again, %d conflicts, %d without an answer. All confirmed ones are there, whole, and %d logins of them at %d nodes were let in.%s",
		names, n.attempts, n.confirmed, n.again, n.conflicts, n.unknown, n.logins, len(c.Nodes), bound(n.confirmed))
}
