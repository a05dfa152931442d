package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func upTo(n int) []int {
	var out []int
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

// A plan that fails exactly when it contains all culprits is reduced to them, however they lie.
func TestDDMinFindsTheCulprits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 1 + rng.IntN(40)
		culprits := rng.Perm(n)[:1+rng.IntN(min(n, 5))]
		for i := range culprits {
			culprits[i]++
		}
		slices.Sort(culprits)
		asked := 0
		got, err := ddmin(t.Context(), upTo(n), func(_ context.Context, l []int) (bool, error) {
			asked++
			if len(l) == 0 {
				t.Fatal("asked about an empty plan")
			}
			for _, c := range culprits {
				if !slices.Contains(l, c) {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil || !slices.Equal(got, culprits) {
			t.Fatalf("of %d strikes with culprits %v: got %v, %v", n, culprits, got, err)
		}
		if asked > n*n+4*n {
			t.Errorf("%d questions for %d strikes", asked, n)
		}
	}
}

func TestDDMinStopsAtAnError(t *testing.T) {
	want := errors.New("the engine is gone")
	if _, err := ddmin(t.Context(), upTo(8), func(context.Context, []int) (bool, error) { return false, want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}
