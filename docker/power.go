package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
)

// A node whose power can fail has its data directory on a file system that a process beside the harness serves, on this host; containers get it as a bind
// mount. It is never served from a container that uses it: such a container can become impossible to kill.
//
//	harness ── host.Disk ──> powerfs ──> /tmp/unibus-powerfs-* ── bind ──> /unibus/data of daemon and agent

// Missing says what containers cannot do here, and why.
func Missing() cluster.Capabilities {
	m := cluster.Capabilities{}
	if why := noPower(); why != "" {
		m[cluster.CapPowerFail], m[cluster.CapDiskFaults] = why, why
	}
	if why := noMemory(); why != "" {
		m[cluster.CapMemory], m[cluster.CapCounts] = why, why
	}
	if runtime.GOARCH != "amd64" {
		m[cluster.CapClock] = "a static program's clock can be moved on amd64 only"
	}
	return m
}

func noPower() string {
	if why := host.Unavailable(); why != "" {
		return why
	}
	if why := host.Unshared(); why != "" {
		return why
	}
	if elsewhere() {
		return "the engine does not run on this host: its containers cannot use a file system that is served here"
	}
	return ""
}

// elsewhere tells whether the engine runs on another host, as far as that can be seen.
func elsewhere() bool {
	at := os.Getenv(client.EnvOverrideHost)
	return runtime.GOOS != "linux" || at != "" && !strings.HasPrefix(at, "unix://")
}

// noBinary is why clusters whose power can fail cannot be had.
const noBinary = "the backend was made without the binary of the file system that loses what was not synced"

// mountDisk makes the pod's file system, if its cluster wants one.
func (p *pod) mountDisk(ctx context.Context) error {
	want := p.c.spec.PowerFS
	if !want.Enabled {
		return nil
	}
	if p.c.b.opts.PowerFS == "" {
		return errors.New(noBinary)
	}
	dir, err := host.MakeDir("")
	if err != nil {
		return err
	}
	p.Disk, err = host.Start(ctx, host.Options{Binary: p.c.b.opts.PowerFS, Dir: dir, Entries: want.Entries, UID: userID, GID: userID, Shared: true})
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return nil
}

// bindDisk puts it over the volume's data directory.
func (p *pod) bindDisk(h *container.HostConfig) {
	if p.Disk != nil {
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: p.Disk.Dir(), Target: dataDir})
	}
}

// removeDisk is idempotent. The containers are gone by then.
func (p *pod) removeDisk() error {
	if p.Disk == nil {
		return nil
	}
	err := p.Disk.Close()
	if gone := os.Remove(p.Disk.Dir()); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove mount point: %w", gone))
	}
	return err
}

// PowerFail implements cluster.PowerLoser.
func (p *pod) PowerFail(ctx context.Context, loss cluster.PowerLoss) (cluster.Dropped, error) {
	if p.Disk == nil {
		return cluster.Dropped{}, host.ErrNoDisk
	}
	p.starting.Lock()
	defer p.starting.Unlock()
	d, err := p.Disk.Cut(ctx, loss, func(ctx context.Context) error {
		if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		return p.WaitExit(ctx)
	})
	if err != nil {
		return d, fmt.Errorf("cut the power of %s: %w", p.id, err)
	}
	return d, nil
}

// PowerState implements cluster.PowerLoser.
func (p *pod) PowerState(ctx context.Context) (cluster.PowerState, error) {
	if p.Disk == nil {
		return cluster.PowerState{}, host.ErrNoDisk
	}
	return p.Disk.State(ctx)
}
