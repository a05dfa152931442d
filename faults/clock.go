package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

const (
	// CommonJump is how far a clock jumps.
	CommonJump = time.Hour
	// clockTolerance is by how much a node's clock may differ from what it should say: the probe asks over HTTP on a loaded machine.
	clockTolerance = 3 * time.Second
)

// skew moves the clocks of daemons.
type skew struct {
	target
	offset time.Duration
	keep   keeper
}

// Jump makes a verb that moves CLOCK_REALTIME of the victims' daemons by offset, in whole seconds; their monotonic clocks go on. It is leased: see
// package agent.
func Jump(offset time.Duration) Verb {
	return func(victims ...cluster.NodeID) Fault {
		verb := fmt.Sprintf("clock(%v)", offset)
		switch offset {
		case CommonJump:
			verb = "clock-forward"
		case -CommonJump:
			verb = "clock-back"
		}
		return &skew{target: newTarget(verb, victims), offset: offset}
	}
}

// Needs lists the capabilities that a backend must have.
func (f *skew) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapClock} }

func (f *skew) hosts(c cluster.Cluster) ([]host, error) {
	nodes, err := f.nodes(c)
	if err != nil {
		return nil, err
	}
	var hosts []host
	for _, n := range nodes {
		h, err := newHost(n)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// Inject moves the clocks and keeps their lease.
func (f *skew) Inject(ctx context.Context, c cluster.Cluster) error {
	hosts, err := f.hosts(c)
	if err != nil {
		return err
	}
	f.keep.begin(ctx, hosts)
	return f.set(ctx, hosts, f.offset)
}

func (f *skew) set(ctx context.Context, hosts []host, offset time.Duration) error {
	return eachIndex(len(hosts), func(i int) error {
		p := agent.ClockParams{OffsetSeconds: int64(offset / time.Second)}
		return nodeError(hosts[i].id, "move clock of", hosts[i].agent.Call(ctx, agent.MethodClock, p, nil))
	})
}

// Heal puts the clocks right.
func (f *skew) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	hosts, err := f.hosts(c)
	if err != nil {
		return err
	}
	return f.set(ctx, hosts, 0)
}

// InForce asks each victim for the time, and its agent for the lease.
func (f *skew) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	return f.observe(ctx, c, f.look)
}

func (f *skew) look(ctx context.Context, n cluster.Node) (finding, error) {
	h, err := newHost(n)
	if err != nil {
		return finding{}, err
	}
	var r agent.ClockResult
	if err := h.agent.Call(ctx, agent.MethodClockRead, nil, &r); err != nil {
		return finding{}, nodeError(n.ID(), "read clock of", err)
	}
	ahead, err := clockAhead(ctx, n)
	if err != nil {
		return finding{}, nodeError(n.ID(), "ask the time of", err)
	}
	fd := finding{
		detail:  fmt.Sprintf("its clock is %v ahead of the harness's, lease %.1f s", ahead.Round(time.Millisecond), r.Remaining),
		figures: map[string]float64{"ahead_seconds": ahead.Seconds(), "lease_seconds": r.Remaining},
	}
	switch {
	case r.Applied && near(ahead, f.offset):
		fd.presence = full
	case r.Applied || !near(ahead, 0):
		fd.presence = part
	}
	return fd, nil
}

func near(got, want time.Duration) bool { return (got - want).Abs() <= clockTolerance }

// clockAhead is by how much the daemon's clock is ahead, as nats-server's own monitoring says the time.
func clockAhead(ctx context.Context, n cluster.Node) (time.Duration, error) {
	before := time.Now()
	_, body, err := observe.Get(ctx, n.Endpoints().Monitor+"/varz")
	if err != nil {
		return 0, err
	}
	middle := before.Add(time.Since(before) / 2)
	var varz struct {
		Now time.Time `json:"now"`
	}
	if err := json.Unmarshal(body, &varz); err != nil || varz.Now.IsZero() {
		return 0, fmt.Errorf("read the time from /varz: %w", err)
	}
	return varz.Now.Sub(middle), nil
}

// Bystander asks the other nodes for the time.
func (f *skew) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

func (f *skew) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	others := without(c, exclude)
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	found, err := ask(others, func(n cluster.Node) (time.Duration, error) {
		ahead, err := clockAhead(ctx, n)
		return ahead, nodeError(n.ID(), "ask the time of", err)
	})
	if err != nil {
		return Observation{}, false, err
	}
	o := Observation{Detail: "the other nodes' clocks are right", Figures: map[string]float64{}}
	for id, ahead := range found {
		o.Figures[string(id)+".ahead_seconds"] = ahead.Seconds()
		if !near(ahead, 0) {
			o.InForce, o.Detail = true, fmt.Sprintf("the clock of %s is %v ahead", id, ahead)
		}
	}
	return o, true, nil
}
