package faults_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/sut/cluster"
)

// fakeDisk is the real model of the file system, without a kernel in between.
type fakeDisk struct {
	fs      *powerfs.FS
	healthy bool // faults have no effect
	probes  int
}

func newFakeDisk() *fakeDisk {
	return &fakeDisk{fs: powerfs.New(powerfs.Journaled, powerfs.Owner{}, 0o700)}
}

func (n *fakeNode) SetDiskFault(_ context.Context, f cluster.DiskFault) error {
	if n.disk.healthy {
		f.Under = "elsewhere"
		if f.Kind == cluster.DiskFull {
			f.Under, f.FreeBytes = "", 1<<30
		}
	}
	return n.disk.fs.SetFault(f, cluster.DiskLease)
}

func (n *fakeNode) ClearDiskFault(_ context.Context, id string) error {
	n.disk.fs.ClearFault(id)
	return nil
}

func (n *fakeNode) RenewDiskFaults(context.Context) error {
	n.disk.fs.RenewFaults(cluster.DiskLease)
	return nil
}

func (n *fakeNode) DiskFaults(context.Context) ([]cluster.DiskFaultState, error) {
	return n.disk.fs.Faults(), nil
}

// ProbeDisk does what package datadir does, on the model.
func (n *fakeNode) ProbeDisk(ctx context.Context, _ string) (p cluster.DiskProbe, err error) {
	n.mu.Lock()
	n.disk.probes++
	name := fmt.Sprintf("probe-%d", n.disk.probes)
	n.mu.Unlock()
	fs := n.disk.fs
	a, err := fs.Create(powerfs.RootIno, name, 0o600, powerfs.Owner{})
	if err != nil {
		return p, err
	}
	h, err := fs.Open(a.Ino, false, false)
	if err != nil {
		return p, err
	}
	late := func(op powerfs.Op) float64 {
		d, ended := fs.Delay(op, a.Ino)
		select {
		case <-time.After(d):
		case <-ended:
		case <-ctx.Done():
		}
		return float64(d.Microseconds()) / 1000
	}
	buf := make([]byte, powerfs.PageSize)
	_, err = fs.Write(h, buf, 0)
	p.WriteError = errno(err)
	p.SyncMS = late(powerfs.OpSync)
	p.SyncError = errno(fs.Fsync(h))
	p.ReadMS = late(powerfs.OpRead)
	_, err = fs.Read(h, buf, 0)
	p.ReadError = errno(err)
	return p, fs.Unlink(powerfs.RootIno, name)
}

func errno(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ENOSPC):
		return "ENOSPC"
	case errors.Is(err, syscall.EIO):
		return "EIO"
	}
	return err.Error()
}
