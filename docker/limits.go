package docker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/unibus/unibus/sut/cluster"
)

// cpuPeriod is the scheduler's bandwidth period in microseconds: its default, so that a lifted limit is as if there had never been one.
const cpuPeriod = 100_000

var _ cluster.Resourced = (*pod)(nil)

// LimitCPU implements cluster.Resourced.
func (p *pod) LimitCPU(ctx context.Context, processors float64) error {
	quota := int64(processors * cpuPeriod)
	if processors <= 0 {
		quota = -1 // 0 would mean "as it was"
	}
	_, err := p.c.b.cli.ContainerUpdate(ctx, p.daemon(), client.ContainerUpdateOptions{
		Resources: &container.Resources{CPUPeriod: cpuPeriod, CPUQuota: quota},
	})
	if err != nil {
		return fmt.Errorf("limit processor time of %s: %w", p.id, explain(err))
	}
	return nil
}

// CPU implements cluster.Resourced. The counts are those of the daemon's present life.
func (p *pod) CPU(ctx context.Context) (cluster.CPU, error) {
	r, err := p.c.b.cli.ContainerInspect(ctx, p.daemon(), client.ContainerInspectOptions{})
	if err != nil {
		return cluster.CPU{}, fmt.Errorf("inspect daemon of %s: %w", p.id, explain(err))
	}
	var c cluster.CPU
	if h := r.Container.HostConfig; h != nil && h.CPUQuota > 0 && h.CPUPeriod > 0 {
		c.Limit = float64(h.CPUQuota) / float64(h.CPUPeriod)
	}
	s, err := p.c.b.cli.ContainerStats(ctx, p.daemon(), client.ContainerStatsOptions{})
	if err != nil {
		return c, fmt.Errorf("read processor time of %s: %w", p.id, explain(err))
	}
	defer func() { _ = s.Body.Close() }() // only read
	var stats container.StatsResponse
	if err := json.NewDecoder(s.Body).Decode(&stats); err != nil {
		return c, fmt.Errorf("read processor time of %s: %w", p.id, err)
	}
	c.Periods, c.Throttled = stats.CPUStats.ThrottlingData.Periods, stats.CPUStats.ThrottlingData.ThrottledPeriods
	return c, nil
}
