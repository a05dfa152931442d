package powerfs

import (
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// maxDelay bounds how late a fault may make an operation: what takes longer is a disk that hangs.
const maxDelay = 60 * time.Second

// permille is the whole of cluster.DiskFault.PerMille.
const permille = 1000

// fault is one way in which the file system misbehaves at present.
//
//	SetFault ──> in force ──┬── ClearFault ──> gone, and what waits for it goes on
//	               ^  Renew │
//	               └────────┴── lease over ──> the same
type fault struct {
	cluster.DiskFault
	until time.Time
	timer *time.Timer
	ended chan struct{}
	room  int // pages, of DiskFull
	rng   *rand.Rand

	seen, hit, bytes uint64
}

// checkFault refuses what cannot be meant.
func checkFault(f cluster.DiskFault) error {
	slow := f.Kind == cluster.DiskSlowSync || f.Kind == cluster.DiskSlowRead
	switch f.Kind {
	case cluster.DiskFull, cluster.DiskSyncError, cluster.DiskWriteError, cluster.DiskReadError, cluster.DiskSlowSync, cluster.DiskSlowRead, cluster.DiskLyingSync:
	default:
		return fmt.Errorf("there is no disk fault of the kind %q", f.Kind)
	}
	switch {
	case f.ID == "":
		return fmt.Errorf("a disk fault needs an id")
	case slow && (f.DelayMS <= 0 || f.DelayMS > ms(maxDelay) || f.JitterMS < 0 || f.JitterMS > f.DelayMS):
		return fmt.Errorf("%s by %v +- %v ms: want more than 0, up to %v, and no more jitter than delay", f.Kind, f.DelayMS, f.JitterMS, ms(maxDelay))
	case !slow && f.DelayMS+f.JitterMS != 0:
		return fmt.Errorf("%s has no delay", f.Kind)
	case f.PerMille < 0 || f.PerMille >= permille:
		return fmt.Errorf("%s hits %d operations in a thousand: want 1 to 999, or 0 for all of them", f.Kind, f.PerMille)
	case f.Under != "" && path.Clean("/"+f.Under) != "/"+f.Under:
		return fmt.Errorf("%q is no clean path below the data directory", f.Under)
	case f.Kind == cluster.DiskFull && (f.Under != "" || f.PerMille != 0 || f.FreeBytes < 0):
		return fmt.Errorf("a full disk is full everywhere and for every write, and has 0 bytes or more left")
	case f.Kind != cluster.DiskFull && f.FreeBytes != 0:
		return fmt.Errorf("%s leaves no space or all of it", f.Kind)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// SetFault begins a fault, or replaces the one of the same id, for as long as the lease.
func (fs *FS) SetFault(want cluster.DiskFault, lease time.Duration) error {
	if err := checkFault(want); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.endFault(want.ID)
	f := &fault{DiskFault: want, until: time.Now().Add(lease), ended: make(chan struct{}), room: int(want.FreeBytes / PageSize)}
	f.rng = rand.New(rand.NewPCG(want.Seed, golden))
	f.timer = time.AfterFunc(lease, func() { fs.lapse(f) })
	fs.faults = append(fs.faults, f)
	return nil
}

// lapse ends a fault whose lease has run out.
func (fs *FS) lapse(f *fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if left := time.Until(f.until); left > 0 { // it was renewed in the last moment
		f.timer.Reset(left)
		return
	}
	if fs.fault(f.ID) == f {
		fs.endFault(f.ID)
	}
}

func (fs *FS) fault(id string) *fault {
	for _, f := range fs.faults {
		if f.ID == id {
			return f
		}
	}
	return nil
}

func (fs *FS) endFault(id string) {
	for i, f := range fs.faults {
		if f.ID == id {
			f.timer.Stop()
			close(f.ended)
			fs.faults = append(fs.faults[:i:i], fs.faults[i+1:]...)
			return
		}
	}
}

// ClearFault ends a fault, and lets what waits for it go on; idempotent.
func (fs *FS) ClearFault(id string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.endFault(id)
}

// RenewFaults gives every fault that is in force a new lease. One whose lease has run out is not brought back.
func (fs *FS) RenewFaults(lease time.Duration) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.faults {
		if f.live() {
			f.until = time.Now().Add(lease)
			f.timer.Reset(lease)
		}
	}
}

// live is false between the end of a lease and its timer: a process that was frozen wakes up there.
func (f *fault) live() bool { return time.Now().Before(f.until) }

// Faults lists what is in force.
func (fs *FS) Faults() []cluster.DiskFaultState {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := []cluster.DiskFaultState{}
	for _, f := range fs.faults {
		if f.live() {
			out = append(out, cluster.DiskFaultState{DiskFault: f.DiskFault, Remaining: time.Until(f.until).Seconds(), Seen: f.seen, Hit: f.hit, Bytes: f.bytes})
		}
	}
	return out
}

// strikes counts an operation and returns the fault of that kind that hits it, or nil.
func (fs *FS) strikes(kind cluster.DiskFaultKind, n *inode) *fault {
	for _, f := range fs.faults {
		if f.Kind != kind || !f.live() || !n.under(f.Under) {
			continue
		}
		f.seen++
		if f.PerMille == 0 || f.rng.IntN(permille) < f.PerMille {
			f.hit++
			return f
		}
	}
	return nil
}

// under tells whether an inode is in a directory or below it, by the name that it was given last.
func (n *inode) under(dir string) bool {
	if dir == "" {
		return true
	}
	if n.parent == nil {
		return false
	}
	return strings.HasPrefix(n.parent.path(n.label)+"/", dir+"/")
}

// Op is a kind of operation that a fault can make late.
type Op int

// Operations that can be late.
const (
	OpSync Op = iota
	OpRead
)

// Delay says how long an operation has to wait before it is done, and closes ended when it need not wait any longer.
func (fs *FS) Delay(op Op, ino uint64) (d time.Duration, ended <-chan struct{}) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino)
	if err != nil {
		return 0, nil
	}
	kind := cluster.DiskSlowSync
	if op == OpRead {
		kind = cluster.DiskSlowRead
	}
	f := fs.strikes(kind, n)
	if f == nil {
		return 0, nil
	}
	late := f.DelayMS + f.JitterMS*(2*f.rng.Float64()-1)
	return time.Duration(late * float64(time.Millisecond)), f.ended
}

// space says how much of a write there is space for, and takes it.
func (fs *FS) space(n *inode, off, length int64) (int64, error) {
	f := fs.full(n)
	if f == nil || length == 0 {
		return length, nil
	}
	for i := off / PageSize; i <= (off+length-1)/PageSize; i++ {
		if i < int64(len(n.pages)) && n.pages[i] != nil {
			continue
		}
		if f.room > 0 {
			f.room--
			continue
		}
		fits := max(0, i*PageSize-off)
		f.hit++
		f.bytes += uint64(length - fits)
		if fits == 0 {
			return 0, syscall.ENOSPC
		}
		return fits, nil
	}
	return length, nil
}

// entryRoom takes the page that a new directory needs.
func (fs *FS) entryRoom(d *inode) error {
	f := fs.full(d)
	switch {
	case f == nil:
		return nil
	case f.room > 0:
		f.room--
		return nil
	}
	f.hit++
	return syscall.ENOSPC
}

// full finds the fault that fills the disk, and counts the operation.
func (fs *FS) full(n *inode) *fault {
	f := fs.strikes(cluster.DiskFull, n)
	if f != nil {
		f.hit-- // only what does not fit is hit
	}
	return f
}

// free is how many pages a full disk has left; ok is false for one that is not full.
func (fs *FS) free() (pages int, ok bool) {
	for _, f := range fs.faults {
		if f.Kind == cluster.DiskFull && f.live() {
			return f.room, true
		}
	}
	return 0, false
}

// Free is how many pages are left, at most.
func (fs *FS) Free(most int) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n, ok := fs.free(); ok {
		return min(n, most)
	}
	return most
}

// syncOutcome is what becomes of an fsync.
type syncOutcome int

const (
	syncWorks syncOutcome = iota
	syncFails             // EIO
	syncLies              // success, and nothing is durable
)

func (fs *FS) falseSync(n *inode) syncOutcome {
	if f := fs.strikes(cluster.DiskSyncError, n); f != nil {
		f.bytes += uint64(n.pending().bytes)
		return syncFails
	}
	if f := fs.strikes(cluster.DiskLyingSync, n); f != nil {
		f.bytes += uint64(n.pending().bytes)
		return syncLies
	}
	return syncWorks
}
