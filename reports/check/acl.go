package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// ACL ("acl") holds what users were allowed and refused against the rules. An attempt is judged by what may have been in force at its node from
// its invocation to its answer: while a change is under way, or not confirmed by that node, either answer is lawful and nothing is concluded from it.
type ACL struct {
	Window      Window   `json:"window"`
	Actions     []string `json:"actions,omitempty"`       // empty means all
	Nodes       []string `json:"nodes,omitempty"`         // empty means all
	Users       []string `json:"users,omitempty"`         // prefixes of their names; empty means all
	MinCases    int      `json:"min_cases,omitempty"`     // judged attempts: certain by the model, and with an answer
	MinAllowed  int      `json:"min_allowed,omitempty"`   // of them, allowed
	MinRefused  int      `json:"min_refused,omitempty"`   // of them, refused
	MinEach     int      `json:"min_each,omitempty"`      // judged attempts of every action in Actions
	MinUsers    int      `json:"min_users,omitempty"`     // that were judged
	MinChanges  int      `json:"min_changes,omitempty"`   // confirmed changes of records in the window
	MaxUnsettle float64  `json:"max_unsettled,omitempty"` // largest share of attempts without a certain answer; 0 means 0.5
	// Wrong gives the model a rule that is wrong, for a negative control.
	Wrong string `json:"wrong,omitempty"`
}

const defaultUnsettled = 0.5

// aclCount is what was found.
type aclCount struct {
	cases, allowed, refused, unknown, flux, changes int
	users, perAction                                map[string]int
	leaked, blocked                                 violation
}

// Check implements Checker.
func (c ACL) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	world, err := newAccessWorld(h, c.Wrong)
	if err != nil {
		return inconclusive(nil, CodeBadRecord, "The changes cannot be read: %v.", err)
	}
	n := aclCount{users: map[string]int{}, perAction: map[string]int{}}
	n.leaked = violation{code: CodeForbidden, promise: promiseAccess}
	n.blocked = violation{code: CodeWronglyRefused, promise: promiseAccess}
	for i := range h.Ops {
		op := &h.Ops[i]
		if changed[op.Kind] && op.Outcome == history.OK && w.has(op.Complete) && strings.HasPrefix(op.Target, "control/") && op.Target != settingsTarget {
			n.changes++
		}
		if !c.judges(op, w) {
			continue
		}
		a, err := attemptOf(op)
		if err != nil {
			return inconclusive(nil, CodeBadRecord, "Operation %d: %v.", op.ID, err)
		}
		n.one(op, a, world.judge(a, op.Node, op.Invoke, op.Complete, nil))
	}
	return c.conclude(n)
}

const settingsTarget = "control/settings"

// judges says whether the attempt is one of those that the claim is about.
func (c ACL) judges(op *history.Op, w span) bool {
	action, _, _ := strings.Cut(op.Key, " ")
	return op.Kind == history.Access && op.Invoke >= w.from && op.Invoke <= w.to &&
		(len(c.Actions) == 0 || slices.Contains(c.Actions, action)) &&
		(len(c.Nodes) == 0 || slices.Contains(c.Nodes, op.Node)) && hasPrefix(op.Target, c.Users)
}

// one judges one attempt.
func (n *aclCount) one(op *history.Op, a attempt, may tri) {
	switch {
	case op.Outcome == history.Unknown || op.Complete == 0:
		n.unknown++
		return
	case may.yes && may.no:
		n.flux++
		return
	}
	n.cases++
	n.users[a.user]++
	n.perAction[a.action]++
	allowed := op.Outcome == history.OK
	if allowed {
		n.allowed++
	} else {
		n.refused++
	}
	switch {
	case allowed && !may.yes:
		n.leaked.count++
		n.leaked.seen.add(op.Invoke, []int64{op.ID}, "%s: %q was allowed at %s, which the rules forbid", a.user, op.Key, op.Node)
	case !allowed && !may.no:
		n.blocked.count++
		n.blocked.seen.add(op.Invoke, []int64{op.ID}, "%s: %q was refused at %s (%s), which the rules allow", a.user, op.Key, op.Node, orDash(op.Err))
	}
}

func (c ACL) conclude(n aclCount) Result {
	total := n.cases + n.unknown + n.flux
	figures := []Figure{count("cases", n.cases), count("allowed", n.allowed), count("refused", n.refused), count("wrongly_allowed", n.leaked.count),
		count("wrongly_refused", n.blocked.count), count("unknown", n.unknown), count("in_change", n.flux), count("users", len(n.users)), count("changes", n.changes)}
	for _, a := range sortedKeys(n.perAction) {
		figures = append(figures, count("cases_"+a, n.perAction[a]))
	}
	n.leaked.reason = fmt.Sprintf("%d of %d attempts were allowed that the rules forbid.", n.leaked.count, n.cases)
	n.blocked.reason = fmt.Sprintf("%d of %d attempts were refused that the rules allow.", n.blocked.count, n.cases)
	if r, bad := found(figures, n.leaked, n.blocked); bad {
		return r
	}
	for _, x := range []struct {
		what       string
		have, need int
		code       string
	}{
		{"attempts could be judged", n.cases, max(c.MinCases, 1), CodeTooFewOps},
		{"of them were allowed", n.allowed, c.MinAllowed, CodeTooFewOps},
		{"of them were refused", n.refused, c.MinRefused, CodeTooFewOps},
		{"users were judged", len(n.users), c.MinUsers, CodeTooFewClients},
		{"changes were confirmed", n.changes, c.MinChanges, CodeTooFewEvents},
	} {
		if x.have < x.need {
			return inconclusive(figures, x.code, "%d %s, at least %d are needed.", x.have, x.what, x.need)
		}
	}
	for _, a := range c.Actions {
		if n.perAction[a] < c.MinEach {
			return inconclusive(figures, CodeTooFewOps, "%d attempts at %q could be judged, at least %d are needed.", n.perAction[a], a, c.MinEach)
		}
	}
	if limit := orDefault(c.MaxUnsettle, defaultUnsettled); float64(n.unknown+n.flux) > limit*float64(total) {
		return inconclusive(figures, CodeUnsettled, "%d of %d attempts had no certain answer (%d) or fell into a change (%d).", n.unknown+n.flux, total, n.unknown, n.flux)
	}
	return passed(figures, "%d attempts of %d users are as the rules say: %d allowed, %d refused; %d more fell into a change, %d had no certain answer.%s",
		n.cases, len(n.users), n.allowed, n.refused, n.flux, n.unknown, bound(n.cases))
}

// bound is what no failure in n independent attempts says about the rate of failures, with 95 % confidence.
func bound(n int) string {
	return fmt.Sprintf(" 0 wrong in %d: below %.2g with 95 %% confidence.", n, 3/float64(n))
}
