package scenarios

import (
	"slices"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
)

// What a sequence does is told by its steps: in order, each fault healed, the last one first.
func TestSequences(t *testing.T) {
	one := func(word string, v faults.Verb, hold, gap time.Duration) blow {
		return strikeWith(word, v, faults.Named("n1"), hold, gap)
	}
	for name, c := range map[string]struct {
		s      sequence
		faults int
		want   []string
	}{
		"repeated": {repeat(2, one("kill", faults.Kill, time.Second, 0)), 2, []string{
			"inject x-1-kill on nodes n1", "in force for 1s", "heal x-1-kill",
			"inject x-2-kill on nodes n1", "in force for 1s", "heal x-2-kill",
		}},
		"together": {sequence{calmly(both(one("slow", faults.Slow(time.Second, 0, 1), 9*time.Second, 9*time.Second), one("kill", faults.Kill, 2*time.Second, 3*time.Second), time.Second))}, 2, []string{
			"inject x-1-slow on nodes n1", "one of two for 1s", "inject x-1-kill on nodes n1", "in force for 2s",
			"heal x-1-kill", "heal x-1-slow", "gap for 3s", "converge: after x-1",
		}},
		"rounds of two": {repeat(2, one("kill", faults.Kill, 0, 0), one("pause", faults.Pause, 0, time.Second)), 4, []string{
			"inject x-1-kill on nodes n1", "heal x-1-kill", "inject x-2-pause on nodes n1", "heal x-2-pause", "gap for 1s",
			"inject x-3-kill on nodes n1", "heal x-3-kill", "inject x-4-pause on nodes n1", "heal x-4-pause", "gap for 1s",
		}},
	} {
		if got := stepNames(&Run{steps: c.s.steps("x")}); !slices.Equal(got, c.want) {
			t.Errorf("%s: steps\n%q, want\n%q", name, got, c.want)
		}
		if n := (&Run{steps: c.s.steps("x")}).injections(); n != c.faults {
			t.Errorf("%s: %d faults, want %d", name, n, c.faults)
		}
	}
	a, b := one("a", faults.Kill, 0, 0), one("b", faults.Kill, 0, 0)
	both(a, b, 0)
	if len(a.parts) != 1 || len(b.parts) != 1 {
		t.Error("putting blows together changes them")
	}
}
