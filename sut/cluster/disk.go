package cluster

import (
	"context"
	"time"
)

// CapDiskFaults is that the file system under a running node can misbehave: clusters whose Spec asks for PowerFS have one that can.
const CapDiskFaults Capability = "disk-faults"

// DiskLease is how long a disk fault stays in force without RenewDiskFaults.
const DiskLease = 4 * time.Second

// DiskFaultKind is a way in which a disk can misbehave.
type DiskFaultKind string

// Ways in which a disk can misbehave.
const (
	// DiskFull gives ENOSPC to what needs a page of 4 KiB more than there is, after a short write of what still fits. What is freed meanwhile somebody else takes.
	DiskFull DiskFaultKind = "full"
	// DiskSyncError gives EIO to fsync and to synchronous writes, of files and directories. As on Linux the pages count as clean afterwards: they are
	// seen until the power fails, and a later fsync that succeeds does not write them.
	DiskSyncError  DiskFaultKind = "sync-error"
	DiskWriteError DiskFaultKind = "write-error" // EIO
	DiskReadError  DiskFaultKind = "read-error"  // EIO
	DiskSlowSync   DiskFaultKind = "slow-sync"   // each fsync and each synchronous write takes that much longer
	DiskSlowRead   DiskFaultKind = "slow-read"
	// DiskLyingSync says that fsync has succeeded, and nothing is durable for it.
	DiskLyingSync DiskFaultKind = "lying-sync"
)

// DiskFault is one way in which a node's disk misbehaves.
type DiskFault struct {
	ID   string        `json:"id"` // replaces the fault of the same id
	Kind DiskFaultKind `json:"kind"`
	// Under is the directory, below the data directory and with slashes, whose files are concerned; "" means all of them, and the directories too. DiskFull
	// concerns the whole disk.
	Under    string  `json:"under,omitempty"`
	DelayMS  float64 `json:"delay_ms,omitempty"`  // of DiskSlowSync and DiskSlowRead
	JitterMS float64 `json:"jitter_ms,omitempty"` // more or less, evenly
	// PerMille is how many operations in a thousand are hit, each at random by Seed; 0 means all of them.
	PerMille  int    `json:"per_mille,omitempty"`
	Seed      uint64 `json:"seed,omitempty"`
	FreeBytes int64  `json:"free_bytes,omitempty"` // of DiskFull: what can still be written when it begins, in whole pages
}

// DiskFaultState is a fault as the file system has it. Counts are exact, since the fault was set.
type DiskFaultState struct {
	DiskFault
	Remaining float64 `json:"remaining"` // seconds of lease left
	Seen      uint64  `json:"seen"`      // operations that could have been hit
	Hit       uint64  `json:"hit"`       // those that failed, were late, or were lied about
	Bytes     uint64  `json:"bytes"`     // that were refused, not read, or not made durable
}

// DiskProbe is what happened to a small file that was written, synced, and read in a node's data directory, through the node's own view of it. An error is an errno
// by name, such as "EIO"; "" means none.
type DiskProbe struct {
	WriteError string  `json:"write_error,omitempty"`
	SyncError  string  `json:"sync_error,omitempty"`
	ReadError  string  `json:"read_error,omitempty"`
	WriteMS    float64 `json:"write_ms"`
	SyncMS     float64 `json:"sync_ms"`
	ReadMS     float64 `json:"read_ms"`
}

// DiskFaulty is implemented by nodes whose disk can misbehave while their daemon runs (CapDiskFaults).
type DiskFaulty interface {
	// SetDiskFault begins a fault, or replaces the one of the same id. It ends by itself DiskLease after it was set or renewed last.
	SetDiskFault(ctx context.Context, f DiskFault) error
	// ClearDiskFault ends it, and what waits for it goes on at once; none of that id is no error.
	ClearDiskFault(ctx context.Context, id string) error
	// RenewDiskFaults renews the lease of every fault that is still in force.
	RenewDiskFaults(ctx context.Context) error
	// DiskFaults lists the faults in force.
	DiskFaults(ctx context.Context) ([]DiskFaultState, error)
	// ProbeDisk writes, syncs and reads a file of 4 KiB below the directory under the data directory, whether the daemon runs or not.
	ProbeDisk(ctx context.Context, under string) (DiskProbe, error)
}
