// Package scenarios holds what the harness does to a cluster, as values, and the runner that does it: start, load, break, mend, drain,
// write the bundle, judge it.
//
//	steps ──> faults ──> cluster          (what is done)
//	  │                     │
//	  └──> workload ──> history.Recorder  (what is seen)
//	                        │
//	        Seal ──> Judge ──> Finish     (evidence, verdict, report)
package scenarios

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/sut/cluster"
)

// Scenario is one story told to one cluster, and the claims about it. It is a value: nothing runs before Execute.
type Scenario struct {
	Name   string // "node-kill", unique together with Variant
	Family string // "node-kill": what policies and SCENARIO= ask for
	Doc    string // one sentence for lists
	// Control, when true, makes the scenario run against plain nats-server of the version that membershipd embeds, whatever is under test.
	Control bool
	// Only names the one kind of subject that it applies to; "" for every kind.
	Only cluster.Kind
	// Nightly, when true, keeps it out of a run that names no scenario: it takes long, or what it finds is not for a laptop.
	Nightly  bool
	Upgrade  bool // nodes run the previous build at first, see Settings.Earlier
	Hosts    bool // nodes are whole hosts on which nothing is installed, see Settings.Hosts
	Replicas int  // R of membershipd's buckets at the start; 0 means 3
	// Power puts the nodes' data on a file system that can lose what was not synced, where the backend has one.
	Power   cluster.PowerFS
	Sync    string // overrides Settings.Sync unless it is ""
	Needs   []cluster.Capability
	Seed    []string // names of first admins that every node of membershipd is given in a seed file
	Seconds int      // about how long it takes, to start the longest first
	// Steps and Claims are built for one run, so that they can use its seed. Claims is called after the last step.
	Steps  func(p *Plan) []Step
	Claims func(r *Run) []reports.Claim
}

// Variant is the word that tells a control's bundle from the scenario's own.
func (s Scenario) Variant() string {
	if s.Control {
		return string(cluster.NATSServer)
	}
	return ""
}

// DefaultKind is the program under test when nobody says otherwise.
const DefaultKind = cluster.Membershipd

// Plan is what is known before the first step.
type Plan struct {
	Kind cluster.Kind
	Seed uint64
	Rand *rand.Rand // drives targets, orders and schedules; only steps in sequence use it
	Full bool       // the whole product of cases, not a sample
	Nemesis
}

// Nemesis bounds the random nemesis; other scenarios do not look at it.
type Nemesis struct {
	For  time.Duration `json:"for,omitempty"`  // about how long it strikes; 0 means a minute
	Any  bool          `json:"any,omitempty"`  // no limit on how many nodes are hit at once
	Keep []int         `json:"keep,omitempty"` // numbers of the strikes to keep, from 1; empty keeps all
}

// Step is one thing that a scenario does.
type Step struct {
	Name string
	Do   func(ctx context.Context, r *Run) error
}

// NewPlan derives a scenario's own seed from the run's: scenarios do not disturb each other's choices.
func NewPlan(s Scenario, kind cluster.Kind, seed uint64, full bool, n Nemesis) *Plan {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%s/%d", s.Name, s.Variant(), seed) // a hash takes every write
	own := h.Sum64()
	return &Plan{Kind: kind, Seed: own, Rand: rand.New(rand.NewPCG(own, seed)), Full: full, Nemesis: n}
}

// Applies says why a scenario cannot be run here, or "".
func (s Scenario) Applies(kind cluster.Kind, have cluster.Capabilities) string {
	if s.Control {
		kind = cluster.NATSServer
	}
	if s.Only != "" && s.Only != kind {
		return fmt.Sprintf("the scenario is about %s, the subject is %s", s.Only, kind)
	}
	for _, c := range s.Needs {
		if why := have.Missing(c); why != "" {
			return fmt.Sprintf("needs %s: %s", c, why)
		}
	}
	return ""
}

// Select picks scenarios by exact name or family, comma separated; "" picks all that are not nightly, or all of them if full. An unknown word is an error with those that are like it.
func Select(all []Scenario, words string, full bool) ([]Scenario, error) {
	if strings.TrimSpace(words) == "" {
		return slices.DeleteFunc(slices.Clone(all), func(s Scenario) bool { return s.Nightly && !full }), nil
	}
	var picked []Scenario
	seen := map[string]bool{}
	for _, w := range strings.Split(words, ",") {
		w = strings.TrimSpace(w)
		found := false
		for _, s := range all {
			if s.Name != w && s.Family != w {
				continue
			}
			found = true
			if !seen[s.Name] {
				seen[s.Name] = true
				picked = append(picked, s)
			}
		}
		if !found {
			return nil, unknown(w, names(all))
		}
	}
	return picked, nil
}

func names(all []Scenario) []string {
	var ns []string
	seen := map[string]bool{}
	for _, s := range all {
		for _, n := range []string{s.Family, s.Name} {
			if !seen[n] {
				seen[n] = true
				ns = append(ns, n)
			}
		}
	}
	return ns
}
