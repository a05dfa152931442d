package docker

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

const (
	// hostGroups is where the engine's host has its control groups, in either version, and groupsDir is where the agent finds them.
	hostGroups = "/sys/fs/cgroup"
	groupsDir  = "/cgroups"
)

const (
	// exhaustBound is how long a daemon may live on with hardly any memory left to it, on a loaded machine.
	exhaustBound = 30 * time.Second
)

var (
	_ cluster.Resourced     = (*pod)(nil)
	_ cluster.MemoryLimited = (*pod)(nil)
	_ cluster.CountLimited  = (*pod)(nil)
)

// noMemory is why the memory of daemons, and what else the kernel counts for them, cannot be limited, or "".
func noMemory() string {
	if elsewhere() {
		return "the engine does not run on this host: the agent is not given its control groups"
	}
	for _, at := range []string{"memory", "cgroup.controllers"} {
		if _, err := os.Stat(filepath.Join(hostGroups, at)); err == nil {
			return ""
		}
	}
	return "this host has no control groups of memory in " + hostGroups
}

// ExhaustMemory implements cluster.MemoryLimited. The agent lowers the limit and counts what the kernel does: through the engine, which knows no such count, it
// would take several times as long.
func (p *pod) ExhaustMemory(ctx context.Context) (cluster.Exhausted, error) {
	ctx, cancel := context.WithTimeout(ctx, exhaustBound)
	defer cancel()
	p.mu.Lock()
	life := p.lives
	p.mu.Unlock()
	var r agent.ExhaustResult
	err := p.ctl.Call(ctx, agent.MethodExhaust, agent.ExhaustParams{BoundMS: int(exhaustBound.Milliseconds()) / 2}, &r)
	if r.Kills > 0 {
		p.mu.Lock()
		p.starved = p.lives == life // not when it was started again meanwhile
		p.mu.Unlock()
	}
	return cluster.Exhausted{Kills: r.Kills, Usage: r.Usage, Limit: r.Limit, Failed: r.Failed, Took: time.Duration(r.TookMS * float64(time.Millisecond))}, err
}

// bindGroups lets the agent see the control groups as the host does. It changes that of its own pod's daemon and no other: see package agent. The engine could do
// the same, but takes 50 ms and more to set a limit, and seconds to tell what came of it.
func bindGroups(h *container.HostConfig) {
	h.CgroupnsMode = container.CgroupnsModeHost
	h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: hostGroups, Target: groupsDir})
}

// LimitCPU implements cluster.Resourced.
func (p *pod) LimitCPU(ctx context.Context, processors float64) error {
	return p.ctl.Call(ctx, agent.MethodCPU, agent.CPUParams{Processors: processors}, nil)
}

// CPU implements cluster.Resourced. The counts are those of the daemon's present life.
func (p *pod) CPU(ctx context.Context) (cluster.CPU, error) {
	var r agent.CPUResult
	err := p.ctl.Call(ctx, agent.MethodCPURead, nil, &r)
	r.Ago = time.Duration(r.AgoMS * float64(time.Millisecond))
	return r.CPU, err
}

// Exhaust implements cluster.CountLimited.
func (p *pod) Exhaust(ctx context.Context, what cluster.CountKind, on bool) error {
	return p.ctl.Call(ctx, agent.MethodCount, agent.CountParams{What: what, Exhaust: on}, nil)
}

// Count implements cluster.CountLimited.
func (p *pod) Count(ctx context.Context, what cluster.CountKind) (cluster.Count, error) {
	var r agent.CountResult
	err := p.ctl.Call(ctx, agent.MethodCountRead, agent.CountParams{What: what}, &r)
	r.Ago = time.Duration(r.AgoMS * float64(time.Millisecond))
	return r.Count, err
}
