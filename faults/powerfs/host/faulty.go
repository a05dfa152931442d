package host

import (
	"context"
	"errors"

	"github.com/unibus/unibus/sut/cluster"
)

// ErrNoDisk means that a node's data is on an ordinary file system.
var ErrNoDisk = errors.New("the cluster's data is not on a file system that can lose what was not synced, or misbehave: its Spec did not ask for one")

// Faulty is what every backend's node has of cluster.DiskFaulty, to be embedded: a probe is the node's own business. Without a Disk it says ErrNoDisk.
type Faulty struct{ Disk *Disk }

// SetDiskFault implements cluster.DiskFaulty.
func (n Faulty) SetDiskFault(ctx context.Context, f cluster.DiskFault) error {
	if n.Disk == nil {
		return ErrNoDisk
	}
	return n.Disk.call(ctx, Request{Method: MethodSetFault, Fault: f}, nil)
}

// ClearDiskFault implements cluster.DiskFaulty.
func (n Faulty) ClearDiskFault(ctx context.Context, id string) error {
	if n.Disk == nil {
		return ErrNoDisk
	}
	return n.Disk.call(ctx, Request{Method: MethodClearFault, Fault: cluster.DiskFault{ID: id}}, nil)
}

// RenewDiskFaults implements cluster.DiskFaulty.
func (n Faulty) RenewDiskFaults(ctx context.Context) error {
	if n.Disk == nil {
		return ErrNoDisk
	}
	return n.Disk.call(ctx, Request{Method: MethodRenew}, nil)
}

// DiskFaults implements cluster.DiskFaulty.
func (n Faulty) DiskFaults(ctx context.Context) (fs []cluster.DiskFaultState, err error) {
	if n.Disk == nil {
		return nil, ErrNoDisk
	}
	return fs, n.Disk.call(ctx, Request{Method: MethodFaults}, &fs)
}
