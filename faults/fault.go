// Package faults breaks a cluster on purpose: verbs (kill, pause, isolate, ...) on nodes that selectors pick
// (named, leader, follower, majority, ...), each with a probe that says whether the fault is in force.
package faults

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// Observation is what a probe measured, not what was asked for.
type Observation struct {
	InForce bool               `json:"in_force"`
	Partial bool               `json:"partial,omitempty"` // not in force, but not gone either: one victim of two, rules on one end
	Detail  string             `json:"detail"`            // a sentence with the measured facts
	Figures map[string]float64 `json:"figures,omitempty"` // "packets_dropped", "pid", ...
	// Ago is how long before the observation was made the fault took effect on the last of its victims, as the victim itself says; 0 where it says
	// nothing. What takes long to measure need not have taken long to happen.
	Ago time.Duration `json:"-"`
}

// Fault is one verb on nodes that are already picked: a plain value that can be named in a report.
type Fault interface {
	// Name is "kill[n2]": the verb, then the victims.
	Name() string
	// Victims are the nodes that the fault touches.
	Victims() []cluster.NodeID
	// Inject makes the fault. An error may leave part of it in force: Heal undoes that too.
	Inject(ctx context.Context, c cluster.Cluster) error
	// Heal undoes it; idempotent. Healing a kill starts the node again, without waiting for it to be ready.
	Heal(ctx context.Context, c cluster.Cluster) error
	// InForce measures, inside the victim where it can be. It must be false before Inject and after Heal,
	// and false when Inject did nothing.
	InForce(ctx context.Context, c cluster.Cluster) (Observation, error)
	// Bystander measures a node that the fault must not touch; in force there is a defect of the fault. Without an unaffected
	// node it returns ok=false.
	Bystander(ctx context.Context, c cluster.Cluster) (o Observation, ok bool, err error)
	// Needs lists the capabilities that a backend must have.
	Needs() []cluster.Capability
}

// Verb makes a Fault for victims.
type Verb func(victims ...cluster.NodeID) Fault

// Selector picks victims. rng is seeded by the run.
type Selector interface {
	Name() string // "leader of BUS/ORDERS"
	Pick(ctx context.Context, c cluster.Cluster, rng *rand.Rand) ([]cluster.NodeID, error)
}
