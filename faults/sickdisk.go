package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// sickDisk is a disk that misbehaves under a running daemon. The file system itself ends it when the lease runs out; its probe writes, syncs and reads a file through the
// victim's own mount, and compares what the file system has counted before and after.
type sickDisk struct {
	target
	want cluster.DiskFault // without an id
	keep keeper
}

// Verbs on disks of running daemons.
var (
	DiskFull   = sick("disk-full", cluster.DiskFault{Kind: cluster.DiskFull})
	FsyncError = sick("fsync-error", cluster.DiskFault{Kind: cluster.DiskSyncError})
	WriteError = sick("write-error", cluster.DiskFault{Kind: cluster.DiskWriteError})
	ReadError  = sick("read-error", cluster.DiskFault{Kind: cluster.DiskReadError})
	LyingFsync = sick("lying-fsync", cluster.DiskFault{Kind: cluster.DiskLyingSync})
)

// SlowFsync makes a verb that lets every fsync, and every synchronous write, take delay +- jitter longer.
func SlowFsync(delay, jitter time.Duration, seed uint64) Verb {
	return slowDisk("slow-fsync", cluster.DiskSlowSync, delay, jitter, seed)
}

// SlowRead makes a verb that lets every read take delay +- jitter longer.
func SlowRead(delay, jitter time.Duration, seed uint64) Verb {
	return slowDisk("slow-read", cluster.DiskSlowRead, delay, jitter, seed)
}

func slowDisk(verb string, kind cluster.DiskFaultKind, delay, jitter time.Duration, seed uint64) Verb {
	if delay != CommonDelay || jitter != CommonJitter {
		verb = fmt.Sprintf("%s(%v+-%v)", verb, delay, jitter)
	}
	return sick(verb, cluster.DiskFault{Kind: kind, DelayMS: ms(delay), JitterMS: ms(jitter), Seed: seed})
}

func sick(verb string, want cluster.DiskFault) Verb {
	return func(victims ...cluster.NodeID) Fault { return &sickDisk{target: newTarget(verb, victims), want: want} }
}

// Needs lists the capabilities that a backend must have.
func (f *sickDisk) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapDiskFaults} }

// on gives a victim its own id and seed: three disks do not fail at the same operations.
func (f *sickDisk) on(id cluster.NodeID) cluster.DiskFault {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%d", id, f.want.Seed) // a hash takes every write
	want := f.want
	want.ID, want.Seed = f.Name(), h.Sum64()
	return want
}

func diskFaulty(n cluster.Node) (cluster.DiskFaulty, error) {
	d, ok := n.(cluster.DiskFaulty)
	if !ok {
		return nil, fmt.Errorf("make the disk of %s misbehave: %w", n.ID(), ErrUnsupported)
	}
	return d, nil
}

// Inject tells the victims' file systems, all at once, and keeps the lease.
func (f *sickDisk) Inject(ctx context.Context, c cluster.Cluster) error {
	victims, err := f.nodes(c)
	if err != nil {
		return err
	}
	disks, err := ask(victims, diskFaulty)
	if err != nil {
		return err
	}
	err = each(victims, func(n cluster.Node) error {
		return nodeError(n.ID(), f.verb, disks[n.ID()].SetDiskFault(ctx, f.on(n.ID())))
	})
	if err != nil {
		return err
	}
	var renewals []func(context.Context) error
	for _, d := range disks {
		renewals = append(renewals, d.RenewDiskFaults)
	}
	f.keep.renew(ctx, renewals)
	return nil
}

// Heal ends it; what waits for a slow disk goes on at once.
func (f *sickDisk) Heal(ctx context.Context, c cluster.Cluster) error {
	f.keep.end()
	victims, err := f.nodes(c)
	if err != nil {
		return err
	}
	return each(victims, func(n cluster.Node) error {
		d, err := diskFaulty(n)
		if err != nil {
			return err
		}
		return nodeError(n.ID(), "heal "+f.verb+" of", d.ClearDiskFault(ctx, f.Name()))
	})
}

// InForce measures each victim's disk.
func (f *sickDisk) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	return f.observe(ctx, c, f.look)
}

// own finds this fault among those that a file system has in force.
func (f *sickDisk) own(ctx context.Context, d cluster.DiskFaulty) (own cluster.DiskFaultState, ok bool, err error) {
	all, err := d.DiskFaults(ctx)
	if err != nil {
		return own, false, err
	}
	for _, s := range all {
		if s.ID == f.Name() {
			return s, true, nil
		}
	}
	return own, false, nil
}

func (f *sickDisk) look(ctx context.Context, n cluster.Node) (finding, error) {
	d, err := diskFaulty(n)
	if err != nil {
		return finding{}, err
	}
	before, was, err := f.own(ctx, d)
	if err != nil {
		return finding{}, nodeError(n.ID(), "ask the file system of", err)
	}
	p, err := d.ProbeDisk(ctx, f.want.Under)
	if err != nil {
		return finding{}, nodeError(n.ID(), "probe the disk of", err)
	}
	after, is, err := f.own(ctx, d)
	if err != nil {
		return finding{}, nodeError(n.ID(), "ask the file system of", err)
	}
	fd := finding{figures: diskFigures(p)}
	fd.figures["hit"], fd.figures["seen"], fd.figures["bytes"], fd.figures["lease_seconds"] = float64(after.Hit), float64(after.Seen), float64(after.Bytes), after.Remaining
	fd.detail = fmt.Sprintf("%s; operations hit: %d of %d", sentence(p), after.Hit, after.Seen)
	switch {
	case was && is && after.Hit > before.Hit && f.shows(p):
		fd.presence = full
	case was || is:
		fd.presence = part
	}
	return fd, nil
}

// shows tells whether a probe met what the fault does. That fsync lies cannot be seen from above: there the file system's count, which has grown
// by this probe's own fsync, has to do.
func (f *sickDisk) shows(p cluster.DiskProbe) bool {
	const eio = "EIO"
	least := f.want.DelayMS - f.want.JitterMS
	switch f.want.Kind {
	case cluster.DiskFull:
		return p.WriteError == "ENOSPC"
	case cluster.DiskSyncError:
		return p.SyncError == eio
	case cluster.DiskWriteError:
		return p.WriteError == eio
	case cluster.DiskReadError:
		return p.ReadError == eio
	case cluster.DiskSlowSync:
		return p.SyncError == "" && p.SyncMS >= least
	case cluster.DiskSlowRead:
		return p.ReadError == "" && p.ReadMS >= least
	case cluster.DiskLyingSync:
		return p.SyncError == ""
	}
	return false
}

func diskFigures(p cluster.DiskProbe) map[string]float64 {
	return map[string]float64{
		"write_ms": p.WriteMS, "sync_ms": p.SyncMS, "read_ms": p.ReadMS,
		"write_failed": oneIf(p.WriteError != ""), "sync_failed": oneIf(p.SyncError != ""), "read_failed": oneIf(p.ReadError != ""),
	}
}

func sentence(p cluster.DiskProbe) string {
	part := func(what, err string, took float64) string {
		if err == "" {
			err = "ok"
		}
		return fmt.Sprintf("%s %s in %.1f ms", what, err, took)
	}
	return part("write", p.WriteError, p.WriteMS) + ", " + part("fsync", p.SyncError, p.SyncMS) + ", " + part("read", p.ReadError, p.ReadMS)
}

// Bystander measures the disks of nodes that are no victims.
func (f *sickDisk) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return f.bystanderExcept(ctx, c, f.victims)
}

// bystanderExcept takes any fault of this name for a stray one, and any error of a disk that has no fault.
func (f *sickDisk) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	others := without(c, exclude)
	if len(others) == 0 {
		return Observation{}, false, nil
	}
	var ids []cluster.NodeID
	for _, n := range others {
		ids = append(ids, n.ID())
	}
	found, err := ask(others, func(n cluster.Node) (finding, error) {
		d, err := diskFaulty(n)
		if err != nil {
			return finding{}, err
		}
		all, err := d.DiskFaults(ctx)
		if err != nil {
			return finding{}, nodeError(n.ID(), "ask the file system of", err)
		}
		_, own, err := f.own(ctx, d)
		if err != nil {
			return finding{}, nodeError(n.ID(), "ask the file system of", err)
		}
		p, err := d.ProbeDisk(ctx, "")
		if err != nil {
			return finding{}, nodeError(n.ID(), "probe the disk of", err)
		}
		fd := finding{detail: sentence(p), figures: diskFigures(p)}
		if own || len(all) == 0 && p.WriteError+p.SyncError+p.ReadError != "" {
			fd.presence = full
		}
		return fd, nil
	})
	if err != nil {
		return Observation{}, false, err
	}
	o := summarize(ids, found)
	o.InForce = false
	for _, fd := range found {
		o.InForce = o.InForce || fd.presence != none
	}
	o.Partial = false
	return o, true, nil
}
