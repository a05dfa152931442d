package cluster

import "context"

// CapPowerFail is that nodes can lose what they did not sync: clusters whose Spec asks for PowerFS keep their data on a file system that knows.
const CapPowerFail Capability = "power-failure"

// EntryMode is what the file system under a node promises about directory entries.
type EntryMode string

// Modes of directory entries.
const (
	// EntriesStrict is POSIX at its word: an entry is durable after an fsync of its directory, and after nothing else.
	EntriesStrict EntryMode = "strict"
	// EntriesJournaled is what ext4 and XFS do: one log of metadata, written in order, which every fsync forces.
	EntriesJournaled EntryMode = "journaled"
)

// PowerFS asks for a file system that can lose what was not synced. The zero value asks for none.
type PowerFS struct {
	Enabled bool
	Entries EntryMode // "" means EntriesStrict
}

// PowerLoss says how much of what is pending a power failure leaves: any part of it is lawful.
type PowerLoss struct {
	Seed        uint64 `json:"seed"`
	KeepPercent int    `json:"keep_percent"` // the chance of each pending page and entry to survive; 0 loses all of them
}

// PowerLoser is implemented by nodes whose power can fail (CapPowerFail).
type PowerLoser interface {
	// PowerFail ends the daemon as SIGKILL does and drops what was not synced. From the first moment on nothing that the daemon does reaches the disk. It
	// returns when no process is left and Start may be called. ErrNotRunning if there is no process.
	PowerFail(ctx context.Context, loss PowerLoss) (Dropped, error)
	// PowerState asks the file system.
	PowerState(ctx context.Context) (PowerState, error)
}

// PowerState is what a node's file system says of itself.
type PowerState struct {
	Cuts           int       `json:"cuts"` // power failures so far
	Entries        EntryMode `json:"entries"`
	Files          int       `json:"files"`
	Bytes          int64     `json:"bytes"`
	PendingPages   int       `json:"pending_pages"` // of 4 KiB, written and not synced
	PendingBytes   int64     `json:"pending_bytes"`
	PendingEntries int       `json:"pending_entries"` // directory operations
	Syncs          uint64    `json:"syncs"`           // since the file system was made
	Written        uint64    `json:"written"`         // bytes, since then
}

// Dropped is the record of a power failure: exactly what was lost. Pages are 4 KiB.
type Dropped struct {
	PowerLoss
	Cut       int       `json:"cut"` // the number of this power failure, from 1
	EntryMode EntryMode `json:"entry_mode"`

	PendingPages   int   `json:"pending_pages"` // before
	PendingBytes   int64 `json:"pending_bytes"`
	PendingEntries int   `json:"pending_entries"`

	KeptPages      int   `json:"kept_pages"`
	DroppedPages   int   `json:"dropped_pages"`
	DroppedBytes   int64 `json:"dropped_bytes"`
	KeptEntries    int   `json:"kept_entries"`
	DroppedEntries int   `json:"dropped_entries"`
	// LostFiles could be reached before and cannot be any more, as their entry or that of a directory above them was never synced; LostBytes is what was in
	// them, synced or not.
	LostFiles int   `json:"lost_files"`
	LostBytes int64 `json:"lost_bytes"`

	Files   []DroppedFile  `json:"files,omitempty"`
	Entries []DroppedEntry `json:"entries,omitempty"`
}

// DroppedFile is a file that lost something.
type DroppedFile struct {
	Path       string `json:"path"` // below the data directory: afterwards, or before if the file is lost
	Lost       bool   `json:"lost,omitempty"`
	SizeBefore int64  `json:"size_before"`
	SizeAfter  int64  `json:"size_after"`
	// Dropped are the written ranges that did not survive.
	Dropped     []DroppedRange `json:"dropped,omitempty"`
	Torn        bool           `json:"torn,omitempty"`        // some pending pages survived and others did not
	Untruncated bool           `json:"untruncated,omitempty"` // a truncation did not survive
}

// DroppedRange is in bytes.
type DroppedRange struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// DroppedEntry is a directory operation that did not survive.
type DroppedEntry struct {
	Op   string `json:"op"` // create, mkdir, symlink, link, unlink, rmdir, rename
	Path string `json:"path"`
	To   string `json:"to,omitempty"` // of a rename
}
