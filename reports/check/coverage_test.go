package check_test

import (
	"slices"
	"testing"

	"github.com/unibus/unibus/reports/check"
)

// TestEveryCheckerHasMutations: a checker is listed only with damaged histories that it must catch, and with a claim in every good world to damage. What
// TestGoodHistoriesPass demands of each mutation, that it applies and is caught, then holds for each checker.
func TestEveryCheckerHasMutations(t *testing.T) {
	t.Parallel()
	neverFails := []string{"preconditions"} // it only says whether there is enough to judge
	for _, name := range check.Names() {
		want := check.Fail
		if slices.Contains(neverFails, name) {
			want = check.Inconclusive
		}
		n := 0
		for _, m := range check.Mutations {
			if m.Checker == name && m.Verdict == want && m.Code != check.CodeBadClock {
				n++
			}
		}
		if n == 0 {
			t.Errorf("no mutation must be caught by %s as %s: add one to check.Mutations", name, want)
		}
		if !slices.ContainsFunc(goodSpecs(), func(s check.Spec) bool { return s.Checker == name }) {
			t.Errorf("no claim of goodSpecs is judged by %s", name)
		}
	}
	for _, m := range check.Mutations {
		if !slices.Contains(check.Names(), m.Checker) {
			t.Errorf("the mutation %s is for a checker %q that does not exist", m.Name, m.Checker)
		}
		if same := func(o check.Mutation) bool { return o.Checker == m.Checker && o.Name == m.Name }; slices.IndexFunc(check.Mutations, same) != len(check.Mutations)-1-slices.IndexFunc(reversed(check.Mutations), same) {
			t.Errorf("two mutations of %s are called %s", m.Checker, m.Name)
		}
	}
}

func reversed(ms []check.Mutation) []check.Mutation {
	ms = slices.Clone(ms)
	slices.Reverse(ms)
	return ms
}
