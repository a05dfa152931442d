package docker

import (
	"context"
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

var _ cluster.Resourced = (*pod)(nil)

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
