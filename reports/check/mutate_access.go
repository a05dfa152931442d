package check

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// flipAccess turns one judged answer around: what was refused is allowed, or the other way.
func flipAccess(was history.Outcome) damage[ACL] {
	return func(h *history.History, c ACL, rng *rand.Rand) (string, bool) {
		w, no := bounds(h, c.Window)
		if no != nil {
			return no.Reason, false
		}
		world, err := newAccessWorld(h, c.Wrong)
		if err != nil {
			return err.Error(), false
		}
		i := pick(rng, h.Ops, func(op *history.Op) bool {
			if !c.judges(op, w) || op.Outcome != was {
				return false
			}
			a, err := attemptOf(op)
			may := world.judge(a, op.Node, op.Invoke, op.Complete, nil)
			return err == nil && may.yes != may.no
		})
		if i < 0 {
			return "no attempt that the rules are certain about was answered so", false
		}
		h.Ops = slices.Clone(h.Ops)
		turn(&h.Ops[i])
		return fmt.Sprintf("turned the answer to %q of %s at %s around", h.Ops[i].Key, h.Ops[i].Target, h.Ops[i].Node), true
	}
}

func turn(op *history.Op) {
	if op.Outcome == history.OK {
		op.Outcome, op.Err = history.Failed, "denied"
	} else {
		op.Outcome, op.Err = history.OK, ""
	}
}

// staleNode makes a node go on with what was in force before a change that it confirmed.
func staleNode(h *history.History, c Effect, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	world, err := newAccessWorld(h, "")
	if err != nil {
		return err.Error(), false
	}
	samples := c.samples(h, world, w)
	rng.Shuffle(len(samples), func(i, j int) { samples[i], samples[j] = samples[j], samples[i] })
	ops := h.Ops
	for _, s := range samples {
		h.Ops = slices.Clone(ops)
		for tried := 0; ; tried++ {
			var mine []*history.Op
			for i := range h.Ops {
				if op := &h.Ops[i]; op.Kind == history.Access && op.Outcome != history.Unknown && op.Target == userOf(s.write.op) {
					mine = append(mine, op)
				}
			}
			slices.SortFunc(mine, func(a, b *history.Op) int { return int(a.ID - b.ID) })
			k := recordKey{s.write.op.Target, s.write.op.Key}
			i := slices.IndexFunc(world.records[k], func(x written) bool { return x.op.ID == s.write.op.ID })
			now := world.sample(k, i, s.node, world.next(world.keysOf(userOf(s.write.op)), s.write), mine)
			if now.first == nil && now.tried > 0 && tried > 0 {
				return fmt.Sprintf("turned %d answers at %s around, as if change %d had never come there", tried, s.node, s.write.op.ID), true
			}
			if now.first == nil {
				break
			}
			turn(now.first)
		}
	}
	h.Ops = ops
	return "no change was tried at a node after it was confirmed", false
}

// userOf is whose record a change is about.
func userOf(op *history.Op) string {
	if op.Target != TargetMembers {
		return op.Key
	}
	for i := len(op.Key) - 1; i >= 0; i-- {
		if op.Key[i] == '.' {
			return op.Key[i+1:]
		}
	}
	return op.Key
}

// slowTime makes everything take so much longer that the bound is broken.
func slowTime(h *history.History, c Effect, _ *rand.Rand) (string, bool) {
	p99, _ := c.Check(h).Figure("after_confirmed_p99_s")
	if c.MaxP99 <= 0 || p99 <= 0 {
		return "there is no bound, or every effect came before the confirmation", false
	}
	k := int64(math.Ceil(2 * c.MaxP99 / p99))
	h.Ops, h.Events = slices.Clone(h.Ops), slices.Clone(h.Events)
	for i := range h.Ops {
		h.Ops[i].Invoke *= k
		h.Ops[i].Complete *= k
	}
	for i := range h.Events {
		h.Events[i].At *= k
	}
	return fmt.Sprintf("let everything take %d times as long", k), true
}

// mine fits items of the claim's users.
func (c Users) mine(it *history.Item) bool {
	return it.Target == TargetUsers && hasPrefix(it.Key, []string{c.Prefix})
}

// confirmed is the confirmed adds, by name.
func (c Users) confirmed(h *history.History) map[string]*history.Op {
	out := map[string]*history.Op{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Create && op.Target == TargetUsers && op.Outcome == history.OK && hasPrefix(op.Key, []string{c.Prefix}) {
			out[op.Key] = op
		}
	}
	return out
}

func (c Users) pickConfirmed(h *history.History, rng *rand.Rand) int {
	ok := c.confirmed(h)
	return pick(rng, h.Items, func(it *history.Item) bool { return c.mine(it) && ok[it.Key] != nil })
}

func dropUser(h *history.History, c Users, rng *rand.Rand) (string, bool) {
	i := c.pickConfirmed(h, rng)
	if i < 0 {
		return "no confirmed user is in the list", false
	}
	name := h.Items[i].Key
	removeItem(h, i)
	return "took the confirmed user " + name + " out of the list", true
}

// restore changes what is stored of a confirmed user.
func restore(what string, f func(u *UserRecord)) damage[Users] {
	return func(h *history.History, c Users, rng *rand.Rand) (string, bool) {
		i := c.pickConfirmed(h, rng)
		if i < 0 {
			return "no confirmed user is in the list", false
		}
		u := decodeStrictly(h.Items[i].Value)
		f(u)
		h.Items = slices.Clone(h.Items)
		h.Items[i].Value = Encode(u)
		return fmt.Sprintf("changed the %s that is stored of %s", what, h.Items[i].Key), true
	}
}

func insertUser(h *history.History, c Users, _ *rand.Rand) (string, bool) {
	appendItem(h, TargetUsers, history.Item{Key: c.Prefix + "never-added", Value: Encode(UserRecord{Key: foreign, Role: foreign})})
	return "put a user into the list that nobody added", true
}

// secondOwner confirms an add that was refused because the name had another key.
func secondOwner(h *history.History, c Users, rng *rand.Rand) (string, bool) {
	ok := c.confirmed(h)
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		return op.Kind == history.Create && op.Target == TargetUsers && op.Outcome == history.Failed && op.Err == errConflict && ok[op.Key] != nil &&
			keyOf(ok[op.Key].Value) != keyOf(op.Value)
	})
	if i < 0 {
		return "no add met another key", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	op.Outcome, op.Err, op.Seq = history.OK, "", 1
	return fmt.Sprintf("confirmed add %d of %s, which has another key", op.ID, op.Key), true
}

// againChanges makes a second add of the same user write something.
func againChanges(h *history.History, c Users, rng *rand.Rand) (string, bool) {
	times := map[string]int{}
	fits := func(op *history.Op) bool {
		return op.Kind == history.Create && op.Target == TargetUsers && op.Outcome == history.OK && hasPrefix(op.Key, []string{c.Prefix})
	}
	for i := range h.Ops {
		if fits(&h.Ops[i]) {
			times[h.Ops[i].Key]++
		}
	}
	i := pick(rng, h.Ops, func(op *history.Op) bool { return fits(op) && times[op.Key] > 1 })
	if i < 0 {
		return "nobody was added twice", false
	}
	h.Ops = slices.Clone(h.Ops)
	h.Ops[i].Seq++
	return fmt.Sprintf("gave add %d of %s another revision", h.Ops[i].ID, h.Ops[i].Key), true
}

// refuseAdds makes every add of what is stored certainly fail.
func refuseAdds(h *history.History, c Users, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Items, c.mine)
	if i < 0 {
		return "no user is in the list", false
	}
	it := h.Items[i]
	h.Ops = slices.Clone(h.Ops)
	for k := range h.Ops {
		if op := &h.Ops[k]; op.Kind == history.Create && op.Target == TargetUsers && op.Key == it.Key {
			op.Outcome, op.Err, op.Seq = history.Failed, "unavailable", 0
			op.Complete = max(op.Complete, op.Invoke+1)
		}
	}
	return "made every add of " + it.Key + " fail, which is in the list", true
}

// turnLogin turns one login of the end around.
func turnLogin(was history.Outcome) damage[Users] {
	return func(h *history.History, c Users, rng *rand.Rand) (string, bool) {
		w, no := bounds(h, c.Logins)
		if no != nil {
			return no.Reason, false
		}
		i := pick(rng, h.Ops, func(op *history.Op) bool {
			return op.Kind == history.Access && op.Key == ActLogin && op.Outcome == was && hasPrefix(op.Target, []string{c.Prefix}) && w.has(op.Invoke)
		})
		if i < 0 {
			return "no login had that answer", false
		}
		h.Ops = slices.Clone(h.Ops)
		turn(&h.Ops[i])
		return fmt.Sprintf("turned the answer to the login of %s at %s around", h.Ops[i].Target, h.Ops[i].Node), true
	}
}
