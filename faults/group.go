package faults

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// group is several faults as one.
type group struct {
	name  string
	parts []Fault
}

// Group injects faults in order and heals them in reverse. It is in force when all of them are.
func Group(name string, faults ...Fault) Fault { return &group{name: name, parts: faults} }

// Name is the given one.
func (g *group) Name() string { return g.name }

// Victims are those of all parts, each once.
func (g *group) Victims() []cluster.NodeID {
	var out []cluster.NodeID
	for _, p := range g.parts {
		for _, v := range p.Victims() {
			if !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out
}

// Needs are those of all parts, each once.
func (g *group) Needs() []cluster.Capability {
	var out []cluster.Capability
	for _, p := range g.parts {
		for _, n := range p.Needs() {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// Inject stops at the first part that fails.
func (g *group) Inject(ctx context.Context, c cluster.Cluster) error {
	if len(g.parts) == 0 {
		return ErrUnscoped
	}
	for _, p := range g.parts {
		if err := p.Inject(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) pretend(ctx context.Context, c cluster.Cluster) error {
	for _, p := range g.parts {
		if err := pretend(ctx, c, p); err != nil {
			return err
		}
	}
	return nil
}

// Heal heals every part, also when another one fails to.
func (g *group) Heal(ctx context.Context, c cluster.Cluster) error {
	var errs []error
	for _, p := range slices.Backward(g.parts) {
		errs = append(errs, p.Heal(ctx, c))
	}
	return errors.Join(errs...)
}

// InForce asks every part.
func (g *group) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	if len(g.parts) == 0 {
		return Observation{}, ErrUnscoped
	}
	var seen []Observation
	for _, p := range g.parts {
		o, err := p.InForce(ctx, c)
		if err != nil {
			return o, err
		}
		seen = append(seen, o)
	}
	o := g.merge(seen)
	some := slices.ContainsFunc(seen, func(s Observation) bool { return s.InForce || s.Partial })
	o.InForce = !slices.ContainsFunc(seen, func(s Observation) bool { return !s.InForce })
	o.Partial = some && !o.InForce
	return o, nil
}

// Bystander asks the parts about nodes that none of them touches.
func (g *group) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return g.bystanderExcept(ctx, c, g.Victims())
}

func (g *group) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	var seen []Observation
	for _, p := range g.parts {
		o, ok, err := askBystander(ctx, c, p, exclude)
		if err != nil {
			return o, false, err
		}
		if ok {
			seen = append(seen, o)
		}
	}
	o := g.merge(seen)
	o.InForce = slices.ContainsFunc(seen, func(s Observation) bool { return s.InForce })
	return o, len(seen) > 0, nil
}

func askBystander(ctx context.Context, c cluster.Cluster, f Fault, exclude []cluster.NodeID) (Observation, bool, error) {
	if b, ok := f.(bystander); ok {
		return b.bystanderExcept(ctx, c, exclude)
	}
	return f.Bystander(ctx, c)
}

// merge puts details and figures together; where two parts have the same figure, the name of the part tells them apart.
func (g *group) merge(seen []Observation) Observation {
	o := Observation{Figures: map[string]float64{}}
	var details []string
	for i, s := range seen {
		if i == 0 || s.Ago < o.Ago {
			o.Ago = s.Ago
		}
		details = append(details, s.Detail)
		for k, v := range s.Figures {
			if _, taken := o.Figures[k]; taken && i < len(g.parts) {
				k = g.parts[i].Name() + "." + k
			}
			o.Figures[k] = v
		}
	}
	o.Detail = strings.Join(details, "; ")
	return o
}
