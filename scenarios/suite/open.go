package suite

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/docker/hosts"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/process"
)

// Select finds the scenarios that the configuration names, in its order.
func (c Config) Select() ([]scenarios.Scenario, error) {
	byName := map[string]scenarios.Scenario{}
	for _, s := range scenarios.All() {
		byName[s.Name] = s
	}
	var list []scenarios.Scenario
	for _, n := range c.Scenarios {
		s, ok := byName[n]
		if !ok {
			return nil, fmt.Errorf("the run's configuration names an unknown scenario %q", n)
		}
		list = append(list, s)
	}
	return list, nil
}

// Open connects to the backend. The caller closes Settings.Backend.
func (c Config) Open(ctx context.Context, log *slog.Logger) (scenarios.Settings, error) {
	set := scenarios.Settings{
		Subject: c.Subject.Resolve(), Plain: c.Plain.Resolve(), RunID: c.RunID, Seed: c.Seed, Full: c.Full, Nemesis: c.Nemesis, OutDir: c.OutDir, Sync: c.Sync,
		Harness: c.Harness, Env: c.Env, Log: log, NoUpgrade: c.NoUpgrade, Earlier: map[cluster.Kind]cluster.Subject{},
	}
	for _, e := range c.Earlier {
		set.Earlier[e.Kind] = e.Resolve()
	}
	var b cluster.Backend
	var err error
	switch c.Backend {
	case docker.Name:
		set.Hosts = func(ctx context.Context) (cluster.Backend, error) { return hosts.New(ctx) }
		b, err = docker.New(ctx, docker.Options{Holder: c.Holder, Agent: c.Agent, PowerFS: c.PowerFS})
	case process.Name:
		b = process.New(process.Options{PowerFS: c.PowerFS})
	default:
		err = fmt.Errorf("no backend is called %q", c.Backend)
	}
	if err != nil {
		return set, err
	}
	set.Backend = b
	return set, nil
}
