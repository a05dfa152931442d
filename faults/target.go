package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// target is the part that all verbs share: a verb and whom it hits.
type target struct {
	verb    string
	victims []cluster.NodeID
}

func newTarget(verb string, victims []cluster.NodeID) target {
	var once []cluster.NodeID
	for _, v := range victims {
		if !slices.Contains(once, v) {
			once = append(once, v)
		}
	}
	return target{verb: verb, victims: once}
}

// Name is "verb[n1,n2]".
func (t target) Name() string {
	var ids []string
	for _, v := range t.victims {
		ids = append(ids, string(v))
	}
	return t.verb + "[" + strings.Join(ids, ",") + "]"
}

// Victims are the nodes that the fault touches.
func (t target) Victims() []cluster.NodeID { return slices.Clone(t.victims) }

// nodes finds the victims.
func (t target) nodes(c cluster.Cluster) ([]cluster.Node, error) {
	if len(t.victims) == 0 {
		return nil, fmt.Errorf("%s: %w", t.verb, ErrUnscoped)
	}
	var out []cluster.Node
	for _, id := range t.victims {
		n := cluster.Find(c, id)
		if n == nil {
			return nil, fmt.Errorf("%s %q: %w", t.verb, id, ErrUnknownNode)
		}
		out = append(out, n)
	}
	return out, nil
}

// stopped finds the victims, and is an error while one of them runs: doing says what it stands in the way of.
func (t target) stopped(ctx context.Context, c cluster.Cluster, doing string) ([]cluster.Node, error) {
	victims, err := t.nodes(c)
	if err != nil {
		return nil, err
	}
	now, err := states(ctx, victims)
	if err != nil {
		return nil, err
	}
	for _, v := range victims {
		if now[v.ID()].Running {
			return nil, nodeError(v.ID(), doing, cluster.ErrRunning)
		}
	}
	return victims, nil
}

// observe looks at every victim and makes one observation of what was found.
func (t target) observe(ctx context.Context, c cluster.Cluster, look func(context.Context, cluster.Node) (finding, error)) (Observation, error) {
	victims, err := t.nodes(c)
	if err != nil {
		return Observation{}, err
	}
	found, err := ask(victims, func(n cluster.Node) (finding, error) { return look(ctx, n) })
	if err != nil {
		return Observation{}, err
	}
	return summarize(t.victims, found), nil
}

// without returns the cluster's nodes that are not excluded.
func without(c cluster.Cluster, exclude []cluster.NodeID) []cluster.Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes()), func(n cluster.Node) bool { return slices.Contains(exclude, n.ID()) })
}

// each runs f for all nodes at once and joins the errors.
func each(nodes []cluster.Node, f func(cluster.Node) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ask gathers one value per node, all nodes at once. Errors are joined; the values of the others are there all the same.
func ask[T any](nodes []cluster.Node, f func(cluster.Node) (T, error)) (map[cluster.NodeID]T, error) {
	var mu sync.Mutex
	out := map[cluster.NodeID]T{}
	err := each(nodes, func(n cluster.Node) error {
		v, err := f(n)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		out[n.ID()] = v
		return nil
	})
	return out, err
}

// bystanders asks the nodes that are no victims: of each a figure, and what a fault has done to it, which is nothing where all is well.
func bystanders(c cluster.Cluster, exclude []cluster.NodeID, well, figure string, look func(cluster.Node) (value float64, hit string, err error)) (Observation, bool, error) {
	others := without(c, exclude)
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	type seen struct {
		value float64
		hit   string
	}
	found, err := ask(others, func(n cluster.Node) (s seen, err error) {
		s.value, s.hit, err = look(n)
		return s, err
	})
	if err != nil {
		return Observation{}, false, err
	}
	o := Observation{Detail: well, Figures: map[string]float64{}}
	for id, s := range found {
		o.Figures[string(id)+"."+figure] = s.value
		if s.hit != "" {
			o.InForce, o.Detail = true, s.hit
		}
	}
	return o, true, nil
}

func states(ctx context.Context, nodes []cluster.Node) (map[cluster.NodeID]cluster.State, error) {
	return ask(nodes, func(n cluster.Node) (cluster.State, error) {
		s, err := n.State(ctx)
		return s, nodeError(n.ID(), "read state of", err)
	})
}

// presence is how much of a fault a probe saw on one victim.
type presence int

const (
	none presence = iota
	part
	full
)

// finding is what a probe measured on one victim.
type finding struct {
	presence presence
	detail   string
	figures  map[string]float64
	ago      time.Duration // how long before it was made the fault took effect, where the victim says so
}

// summarize makes one observation of all victims' findings: in force only where every victim is.
func summarize(ids []cluster.NodeID, found map[cluster.NodeID]finding) Observation {
	o := Observation{Figures: map[string]float64{}, InForce: len(ids) > 0}
	var details []string
	some := false
	for i, id := range ids {
		f := found[id]
		if i == 0 || f.ago < o.Ago {
			o.Ago = f.ago // of the victim that was the last
		}
		o.InForce = o.InForce && f.presence == full
		some = some || f.presence != none
		details = append(details, fmt.Sprintf("%s: %s", id, f.detail))
		for k, v := range f.figures {
			o.Figures[string(id)+"."+k] = v
		}
	}
	o.Partial = some && !o.InForce
	o.Detail = strings.Join(details, "; ")
	return o
}

// bystander is implemented by the faults of this package: [Group] widens the set of nodes that do not count as unaffected.
type bystander interface {
	bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error)
}
