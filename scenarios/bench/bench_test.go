package bench

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports/check"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// TestRatio wants figures that follow from the definitions: the Walsh averages of 1..n are known, and so is the distribution of the signed ranks.
func TestRatio(t *testing.T) {
	hundredths := func(n int) (a, b []float64) {
		for i := range n {
			a, b = append(a, math.Exp(float64(i+1)/100)), append(b, 1)
		}
		return a, b
	}
	for _, tc := range []struct {
		n                   int
		estimate, low, high float64 // logarithms, in hundredths
		level               float64
	}{
		{n: 1, estimate: 1, low: 1, high: 1, level: 0},
		{n: 5, estimate: 3, low: 1, high: 5, level: 1 - 2.0/32},
		{n: 6, estimate: 3.5, low: 1, high: 6, level: 1 - 2.0/64},
		{n: 10, estimate: 5.5, low: 3, high: 8, level: 1 - 2*25.0/1024}, // as wilcox.test(1:10, conf.int = TRUE) of R
	} {
		a, b := hundredths(tc.n)
		r := ratioOf(a, b)
		if !near(math.Log(r.Estimate)*100, tc.estimate) || !near(math.Log(r.Low)*100, tc.low) || !near(math.Log(r.High)*100, tc.high) || !near(r.Level, tc.level) || r.Pairs != tc.n {
			t.Errorf("n=%d: %+v, want %+v", tc.n, r, tc)
		}
	}
	if r := ratioOf(nil, nil); r != (Ratio{}) {
		t.Errorf("of nothing: %+v", r)
	}
	// One wild pair does not move the estimate out of the others.
	if r := ratioOf([]float64{1, 1, 1, 1, 1, 1, 1, 50}, []float64{1, 1, 1, 1, 1, 1, 1, 1}); r.Estimate != 1 {
		t.Errorf("with an outlier: %+v", r)
	}
}

func TestSpread(t *testing.T) {
	var xs []float64
	for i := 200; i > 0; i-- {
		xs = append(xs, float64(i))
	}
	if got, want := spreadOf(xs), (Spread{N: 200, Median: 100, P90: 180, P99: 198, Max: 200}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := spreadOf([]float64{3, 1, 2}); got.Median != 2 || got.P99 != 3 {
		t.Errorf("of three: %+v", got)
	}
}

func TestVerdict(t *testing.T) {
	for want, judge := range map[string]func() (string, bool, bool){
		"met":                      func() (string, bool, bool) { return atLeast(0.97, Ratio{Estimate: 1, Low: 0.98, High: 1.02}) },
		"met, within the noise":    func() (string, bool, bool) { return atLeast(0.97, Ratio{Estimate: 1, Low: 0.9, High: 1.1}) },
		"MISSED, within the noise": func() (string, bool, bool) { return atLeast(0.97, Ratio{Estimate: 0.96, Low: 0.9, High: 1.1}) },
		"MISSED":                   func() (string, bool, bool) { return atMost(2, Ratio{Estimate: 2.5, Low: 2.1, High: 3}) },
	} {
		row := Row{}
		if row.Wanted, row.Met, row.Certain = judge(); row.Verdict() != want {
			t.Errorf("%+v says %q, want %q", row, row.Verdict(), want)
		}
	}
	if v := (Row{Met: false}).Verdict(); v != "" {
		t.Errorf("a figure of which nothing is wanted says %q", v)
	}
	if v := (Row{Value: 2048}).below(wantMemory, "< 2 KiB").Verdict(); v != "MISSED" {
		t.Errorf("at the limit: %q", v)
	}
}

func TestOnly(t *testing.T) {
	all, err := chosen(nil)
	if err != nil || len(all) != len(parts()) {
		t.Fatalf("%v, %v", all, err)
	}
	some, err := chosen([]string{"connect", "checkers"})
	if err != nil || len(some) != 2 || !slices.Equal(some["users"], []string{rowConnect}) || len(some["checkers"]) != 2 {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := chosen([]string{"nosuch"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a name that is none: %v", err)
	}
	seen := map[string]bool{}
	for _, p := range parts() {
		for _, r := range p.rows {
			if seen[r] {
				t.Errorf("two rows are called %q", r)
			}
			seen[r] = true
		}
	}
}

// Every checker passes the made-up history for what is in it, and fails it once something is wrong.
func TestMadeHistory(t *testing.T) {
	h := madeHistory(8000)
	for _, c := range madeClaims() {
		if r, err := c.Spec.Run(h); err != nil || r.Verdict != check.Pass {
			t.Errorf("%s: %v %s %v", c.ID, r.Verdict, r.Reason, err)
		}
	}
	h.Items = h.Items[1:]
	h.Drains[0].Items--
	failed := 0
	for _, c := range madeClaims() {
		if r, err := c.Spec.Run(h); err == nil && r.Verdict == check.Fail {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no checker sees that a message is gone")
	}
}

// The users in a configuration have what membershipd would give to them, and nothing that is denied to everybody.
func TestStaticUsers(t *testing.T) {
	users, err := newUsers(2)
	if err != nil {
		t.Fatal(err)
	}
	static, err := staticOf(users)
	if err != nil || len(static) != 2 {
		t.Fatalf("%v, %v", static, err)
	}
	for i, u := range static {
		if u.Key != users[i].Public || !u.Respond || !slices.Contains(u.PublishAllow, "bench.>") || !slices.Contains(u.SubscribeAllow, "_INBOX_"+users[i].Name+".>") {
			t.Errorf("%+v", u)
		}
		if slices.ContainsFunc(u.PublishAllow, func(s string) bool { return s == ">" || strings.HasPrefix(s, "$JS.API.>") }) {
			t.Errorf("too much: %v", u.PublishAllow)
		}
	}
}

func TestSpaced(t *testing.T) {
	users, err := newUsers(100)
	if err != nil {
		t.Fatal(err)
	}
	mix := spaced(users)
	seen := map[string]bool{}
	for _, u := range mix {
		seen[u.Name] = true
	}
	if len(seen) != len(users) || mix[0].Name != users[0].Name || mix[1].Name == users[1].Name {
		t.Errorf("%d users, first %s and %s", len(seen), mix[0].Name, mix[1].Name)
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0.5: "0.50", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567: "1,234,567"} {
		if got := short(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}
