package docker

import (
	"context"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

var _ cluster.DiskFaulty = (*pod)(nil)

// ProbeDisk implements cluster.DiskFaulty: by the agent, who sees the same mount as the daemon.
func (p *pod) ProbeDisk(ctx context.Context, under string) (d cluster.DiskProbe, err error) {
	return d, p.ctl.Call(ctx, agent.MethodDiskProbe, agent.DiskProbeParams{Under: under}, &d)
}
