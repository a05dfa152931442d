package faults_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

func TestSelectors(t *testing.T) {
	ids := func(s ...cluster.NodeID) []cluster.NodeID { return s }
	cases := []struct {
		sel  faults.Selector
		name string
		want []cluster.NodeID // any one of them if count is 1
		size int
	}{
		{faults.Named("n3", "n1"), "nodes n3,n1", ids("n1", "n3"), 2},
		{faults.All(), "all nodes", ids("n1", "n2", "n3"), 3},
		{faults.Leader("ACC/S"), "leader of ACC/S", ids("n2"), 1},
		{faults.Follower("ACC/S"), "follower of ACC/S", ids("n1", "n3"), 1},
		{faults.MetaLeader(), "leader of meta", ids("n3"), 1},
		{faults.LeaderAndFollower("ACC/S"), "leader and a follower of ACC/S", ids("n1", "n2", "n3"), 2},
		{faults.MetaFollower(), "follower of meta", ids("n1", "n2"), 1},
		{faults.HolderOf("ACC/R1"), "holder of ACC/R1", ids("n1"), 1},
		{faults.Majority(), "a majority", ids("n1", "n2", "n3"), 2},
		{faults.Minority(), "a minority", ids("n1", "n2", "n3"), 1},
		{faults.Random(2), "2 random nodes", ids("n1", "n2", "n3"), 2},
	}
	c := newFake(3).monitored(t, "n3", map[string]view{"S": {"n2", "n1,n2,n3"}, "R1": {"n1", "n1"}})
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if tc.sel.Name() != tc.name {
				t.Errorf("name %q", tc.sel.Name())
			}
			chosen := map[cluster.NodeID]bool{}
			for seed := range uint64(20) {
				got, err := tc.sel.Pick(t.Context(), c, seeded(seed))
				if err != nil || len(got) != tc.size {
					t.Fatalf("picked %v, %v", got, err)
				}
				again, err := tc.sel.Pick(t.Context(), c, seeded(seed))
				if err != nil || !slices.Equal(got, again) {
					t.Fatalf("the same seed picked %v, then %v, %v", got, again, err)
				}
				if !slices.IsSorted(got) {
					t.Errorf("%v is not in order", got)
				}
				for _, id := range got {
					chosen[id] = true
				}
			}
			for _, id := range tc.want {
				if !chosen[id] {
					t.Errorf("%s is never picked", id)
				}
			}
			if len(chosen) != len(tc.want) {
				t.Errorf("picked %v, want among %v", chosen, tc.want)
			}
		})
	}
}

func TestSelectorsThatFitNothing(t *testing.T) {
	three := newFake(3).monitored(t, "n3", map[string]view{"R1": {"n1", "n1"}})
	two := newFake(2).monitored(t, "n1", nil)
	dead := newFake(3).monitored(t, "n3", nil)
	dead.node("n1").state, dead.node("n2").state = cluster.State{}, cluster.State{}
	cases := []struct {
		name string
		c    cluster.Cluster
		sel  faults.Selector
		want error
	}{
		{"no such node", three, faults.Named("n7"), faults.ErrUnknownNode},
		{"no node named", three, faults.Named(), faults.ErrNoTarget},
		{"too many", three, faults.Random(4), faults.ErrNoTarget},
		{"none", three, faults.Random(0), faults.ErrNoTarget},
		{"no minority of two", two, faults.Minority(), faults.ErrNoTarget},
		{"no follower of R1", three, faults.Follower("ACC/R1"), faults.ErrNoTarget},
		{"no follower alive", dead, faults.MetaFollower(), faults.ErrNoTarget},
		{"no such stream", three, faults.HolderOf("ACC/NONE"), observe.ErrNoGroup},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := tc.sel.Pick(t.Context(), tc.c, seeded(1)); !errors.Is(err, tc.want) {
				t.Errorf("picked %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}
