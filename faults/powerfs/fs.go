// Package powerfs is the model of a file system whose power can fail: it keeps what was not synced apart from what was, and a power failure
// takes a lawful part of the former away.
//
//	write, truncate ──> pages of a file ──── fsync(file), O_SYNC ─────┐
//	                                                                 ├──> durable ── PowerFail ──> what a disk would give back
//	create, rename, ──> journal of entries ── fsync(directory) ───────┘      + a part of the pending, chosen by seed
//	unlink, mkdir
//
// Reads see everything. The semantics are those of POSIX, taken at its word: the data of a file is durable after its fsync, a directory entry
// after the fsync of its directory, and neither says anything about the other. [Journaled] is what ext4 and XFS promise beyond that: one
// metadata log, which every fsync forces.
//
// This package has no FUSE in it; package fusemount serves it to the kernel.
package powerfs

import (
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// PageSize is the unit in which pending data is kept or lost: a write that spans several pages can be torn between them.
const PageSize = 4096

// Limits of the file system.
const (
	maxName = 255
	maxFile = 1 << 36 // bytes; the pages of a file are in one slice
)

// RootIno is the number of the root directory's inode, as FUSE wants it.
const RootIno = 1

// Modes of directory entries: see cluster.PowerLoss.
const (
	Strict    = cluster.EntriesStrict
	Journaled = cluster.EntriesJournaled
)

// FS is a file system in memory. Its methods are safe for concurrent use. Errors are of type syscall.Errno.
//
// Every [Attr] that Lookup, Create, Mkdir, Symlink and Link return, and every Open, counts as one reference to the inode: an inode
// that is unlinked stays until Forget has given them back.
type FS struct {
	mu      sync.Mutex
	entries cluster.EntryMode
	nodes   map[uint64]*inode
	last    uint64
	root    *inode
	journal []*entryOp // pending, oldest first
	cuts    int
	synced  uint64 // successful syncs, of files and directories
	written uint64 // bytes
	faults  []*fault
}

// inode is a file, a directory or a symbolic link.
type inode struct {
	ino                 uint64
	mode, uid, gid      uint32 // durable with the inode itself
	atime, mtime, ctime time.Time
	target              string // of a symbolic link

	data // of a file

	parent *inode            // where it was put last; nil for the root
	label  string            // its name there
	now    map[string]*inode // of a directory: what is seen
	disk   map[string]*inode // of a directory: what is durable

	links, diskLinks int // entries that name it, seen and durable
	held             int // by journalled operations
	refs             uint64
	lost             bool // a power failure took it: whoever holds it gets ESTALE
}

// Attr is what stat shows.
type Attr struct {
	Ino                 uint64
	Mode                uint32 // with the type
	UID, GID            uint32
	Nlink               uint32
	Size                int64
	Atime, Mtime, Ctime time.Time
}

// Owner is whose process asks.
type Owner struct{ UID, GID uint32 }

// New makes an empty file system whose root belongs to owner.
func New(entries cluster.EntryMode, owner Owner, perm uint32) *FS {
	if entries == "" {
		entries = Strict
	}
	fs := &FS{entries: entries, nodes: map[uint64]*inode{}}
	fs.root = fs.newInode(syscall.S_IFDIR|perm&0o7777, owner)
	fs.root.links, fs.root.diskLinks = 1, 1
	return fs
}

func (fs *FS) newInode(mode uint32, o Owner) *inode {
	fs.last++
	t := time.Now()
	n := &inode{ino: fs.last, mode: mode, uid: o.UID, gid: o.GID, atime: t, mtime: t, ctime: t}
	if n.dir() {
		n.now, n.disk = map[string]*inode{}, map[string]*inode{}
	}
	fs.nodes[n.ino] = n
	return n
}

func (n *inode) kind() uint32 { return n.mode & syscall.S_IFMT }
func (n *inode) dir() bool    { return n.kind() == syscall.S_IFDIR }
func (n *inode) file() bool   { return n.kind() == syscall.S_IFREG }

func (n *inode) attr() Attr {
	a := Attr{Ino: n.ino, Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: uint32(n.links), Size: n.size, Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime}
	switch {
	case n.dir() && n.links > 0:
		a.Nlink, a.Size = 2, PageSize
		for _, c := range n.now {
			if c.dir() {
				a.Nlink++
			}
		}
	case n.kind() == syscall.S_IFLNK:
		a.Size = int64(len(n.target))
	}
	return a
}

// get finds an inode that a power failure has not taken.
func (fs *FS) get(ino uint64) (*inode, error) {
	n := fs.nodes[ino]
	if n == nil || n.lost {
		return nil, syscall.ESTALE
	}
	return n, nil
}

func (fs *FS) getDir(ino uint64) (*inode, error) {
	n, err := fs.get(ino)
	if err == nil && !n.dir() {
		return nil, syscall.ENOTDIR
	}
	return n, err
}

func (fs *FS) getFile(ino uint64) (*inode, error) {
	n, err := fs.get(ino)
	switch {
	case err != nil:
		return nil, err
	case n.dir():
		return nil, syscall.EISDIR
	case !n.file():
		return nil, syscall.EINVAL
	}
	return n, nil
}

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return syscall.EINVAL
	case len(name) > maxName:
		return syscall.ENAMETOOLONG
	}
	return nil
}

// Lookup finds a name in a directory.
func (fs *FS) Lookup(dir uint64, name string) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(dir)
	if err != nil {
		return Attr{}, err
	}
	n := d.now[name]
	if n == nil {
		return Attr{}, syscall.ENOENT
	}
	n.refs++
	return n.attr(), nil
}

// Forget gives references back.
func (fs *FS) Forget(ino uint64, refs uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.nodes[ino]; n != nil {
		n.refs -= min(refs, n.refs)
		fs.collect(n)
	}
}

// collect frees an inode that nothing names any more.
func (fs *FS) collect(n *inode) {
	if n == fs.root || n.refs > 0 || n.links > 0 || n.diskLinks > 0 || n.held > 0 || fs.nodes[n.ino] != n {
		return
	}
	delete(fs.nodes, n.ino)
	for _, c := range n.disk {
		c.diskLinks--
		fs.collect(c)
	}
}

// Stat gives an inode's attributes.
func (fs *FS) Stat(ino uint64) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	return n.attr(), nil
}

// Change is what SetAttr sets; nil fields stay.
type Change struct {
	Mode, UID, GID *uint32
	Size           *int64
	Atime, Mtime   *time.Time
}

// SetAttr changes attributes. A new size is pending until the file's fsync; owner and permissions are durable at once.
func (fs *FS) SetAttr(ino uint64, c Change) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	if c.Size != nil {
		if err := n.resize(*c.Size); err != nil {
			return Attr{}, err
		}
	}
	set(&n.uid, c.UID)
	set(&n.gid, c.GID)
	if c.Mode != nil {
		n.mode = n.kind() | *c.Mode&0o7777
	}
	set(&n.atime, c.Atime)
	set(&n.mtime, c.Mtime)
	n.ctime = time.Now()
	return n.attr(), nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (n *inode) resize(size int64) error {
	switch {
	case n.dir():
		return syscall.EISDIR
	case !n.file() || size < 0:
		return syscall.EINVAL
	case size > maxFile:
		return syscall.EFBIG
	}
	n.truncate(size)
	n.mtime = time.Now()
	return nil
}

// Handle is an open file. It dies with the power: see Read.
type Handle struct {
	ino  uint64
	cut  int
	sync bool
}

// Open opens a file; synchronous says that every write is synced before it returns, as O_SYNC and O_DSYNC do.
func (fs *FS) Open(ino uint64, truncate, synchronous bool) (*Handle, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino)
	if err != nil {
		return nil, err
	}
	if truncate {
		if err := n.resize(0); err != nil {
			return nil, err
		}
	}
	n.refs++
	return &Handle{ino: ino, cut: fs.cuts, sync: synchronous}, nil
}

// Synchronous tells whether each write through the handle is synced.
func (h *Handle) Synchronous() bool { return h.sync }

// Release closes a handle.
func (fs *FS) Release(h *Handle) { fs.Forget(h.ino, 1) }

// opened finds the file of a handle; EIO says that it was opened before the last power failure.
func (fs *FS) opened(h *Handle) (*inode, error) {
	if h.cut != fs.cuts {
		return nil, syscall.EIO
	}
	return fs.getFile(h.ino)
}

// Read reads what was written last, synced or not.
func (fs *FS) Read(h *Handle, p []byte, off int64) (int, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.opened(h)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if f := fs.strikes(cluster.DiskReadError, n); f != nil {
		f.bytes += uint64(len(p))
		return 0, syscall.EIO
	}
	return n.read(p, off), nil
}

// Write writes to a file; it is pending until the file is synced. On a full disk it writes what fits.
func (fs *FS) Write(h *Handle, p []byte, off int64) (int, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.opened(h)
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, syscall.EINVAL
	case off > maxFile-int64(len(p)):
		return 0, syscall.EFBIG
	}
	if f := fs.strikes(cluster.DiskWriteError, n); f != nil {
		f.bytes += uint64(len(p))
		return 0, syscall.EIO
	}
	fits, err := fs.space(n, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	p = p[:fits]
	n.write(p, off)
	fs.written += uint64(len(p))
	n.mtime = time.Now()
	if h.sync {
		if err := fs.syncFile(n); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Fsync makes a file's data and size durable; with [Journaled] entries, every directory operation so far too.
func (fs *FS) Fsync(h *Handle) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.opened(h)
	if err != nil {
		return err
	}
	return fs.syncFile(n)
}

func (fs *FS) syncFile(n *inode) error {
	switch fs.falseSync(n) {
	case syncFails:
		n.forget()
		return syscall.EIO
	case syncLies:
		return nil
	case syncWorks:
	}
	n.persist()
	fs.synced++
	if fs.entries == Journaled {
		fs.commitAll()
	}
	return nil
}

// Fsyncdir makes the entries of a directory durable; with [Journaled] entries, every directory operation so far.
func (fs *FS) Fsyncdir(ino uint64) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(ino)
	if err != nil {
		return err
	}
	switch fs.falseSync(d) {
	case syncFails:
		return syscall.EIO
	case syncLies:
		return nil
	case syncWorks:
	}
	fs.synced++
	if fs.entries == Journaled {
		fs.commitAll()
	} else {
		fs.commitDir(d)
	}
	return nil
}

// Allocate makes a file at least size bytes long.
func (fs *FS) Allocate(h *Handle, size int64) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.opened(h)
	if err != nil {
		return err
	}
	if size <= n.size {
		return nil
	}
	if pages, full := fs.free(); full && pagesFor(size)-len(n.pages) > pages {
		return syscall.ENOSPC
	}
	return n.resize(size)
}

// Readlink gives a symbolic link's target.
func (fs *FS) Readlink(ino uint64) (string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino)
	switch {
	case err != nil:
		return "", err
	case n.kind() != syscall.S_IFLNK:
		return "", syscall.EINVAL
	}
	return n.target, nil
}

// Entry is one name of a directory.
type Entry struct {
	Name string
	Ino  uint64
	Mode uint32 // the type alone
}

// ReadDir lists a directory without "." and "..", sorted by name.
func (fs *FS) ReadDir(ino uint64) ([]Entry, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, err := fs.getDir(ino)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(d.now))
	for _, name := range slices.Sorted(maps.Keys(d.now)) {
		out = append(out, Entry{Name: name, Ino: d.now[name].ino, Mode: d.now[name].kind()})
	}
	return out, nil
}

// Usage is what the file system holds, and what of it is pending.
func (fs *FS) Usage() cluster.PowerState {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.usage()
}

func (fs *FS) usage() cluster.PowerState {
	s := cluster.PowerState{Cuts: fs.cuts, PendingEntries: len(fs.journal), Syncs: fs.synced, Written: fs.written, Entries: fs.entries}
	for _, n := range fs.nodes {
		if !n.file() || n.links == 0 {
			continue
		}
		s.Files++
		s.Bytes += n.size
		p := n.pending()
		s.PendingPages += p.pages
		s.PendingBytes += p.bytes
	}
	return s
}
