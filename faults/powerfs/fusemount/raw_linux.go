package fusemount

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/faults/powerfs/host"
)

// raw is the file system in FUSE's words. Nothing is cached by the kernel beyond one operation but the pages of open files: after a power failure
// there is nothing that it could remember wrongly.
type raw struct {
	fuse.RawFileSystem // answers ENOSYS to the rest
	gate

	fs *powerfs.FS

	mu    sync.Mutex
	last  uint64
	files map[uint64]*powerfs.Handle
	dirs  map[uint64][]powerfs.Entry
}

func (r *raw) String() string { return host.FSName }

// status makes FUSE's word of an error.
func status(err error) fuse.Status {
	var no syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &no):
		return fuse.Status(no)
	default:
		return fuse.EIO
	}
}

func owner(h *fuse.InHeader) powerfs.Owner { return powerfs.Owner{UID: h.Uid, GID: h.Gid} }

func fill(out *fuse.Attr, a powerfs.Attr) {
	*out = fuse.Attr{
		Ino: a.Ino, Size: uint64(a.Size), Blocks: uint64((a.Size + 511) / 512), Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
		Blksize: powerfs.PageSize,
	}
	out.SetTimes(&a.Atime, &a.Mtime, &a.Ctime)
}

func entry(out *fuse.EntryOut, a powerfs.Attr) {
	out.NodeId, out.Generation = a.Ino, 1
	fill(&out.Attr, a)
}

func (r *raw) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Lookup(h.NodeId, name)
	if err != nil {
		return status(err)
	}
	entry(out, a)
	return fuse.OK
}

func (r *raw) Forget(node, refs uint64) { r.fs.Forget(node, refs) }

func (r *raw) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Stat(in.NodeId)
	fill(&out.Attr, a)
	return status(err)
}

func (r *raw) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	var c powerfs.Change
	if v, ok := in.GetMode(); ok {
		c.Mode = &v
	}
	if v, ok := in.GetUID(); ok {
		c.UID = &v
	}
	if v, ok := in.GetGID(); ok {
		c.GID = &v
	}
	if v, ok := in.GetSize(); ok {
		size := int64(v)
		c.Size = &size
	}
	if v, ok := in.GetATime(); ok {
		c.Atime = &v
	}
	if v, ok := in.GetMTime(); ok {
		c.Mtime = &v
	}
	a, err := r.fs.SetAttr(in.NodeId, c)
	fill(&out.Attr, a)
	return status(err)
}

func (r *raw) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EPERM // no devices, pipes or sockets
	}
	a, err := r.fs.Create(in.NodeId, name, in.Mode, owner(&in.InHeader))
	if err != nil {
		return status(err)
	}
	entry(out, a)
	return fuse.OK
}

func (r *raw) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Mkdir(in.NodeId, name, in.Mode, owner(&in.InHeader))
	if err != nil {
		return status(err)
	}
	entry(out, a)
	return fuse.OK
}

func (r *raw) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	return status(r.fs.Unlink(h.NodeId, name))
}

func (r *raw) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	return status(r.fs.Rmdir(h.NodeId, name))
}

// renameNoReplace is RENAME_NOREPLACE of renameat2(2).
const renameNoReplace = 1

func (r *raw) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	if in.Flags&^renameNoReplace != 0 {
		return fuse.EINVAL
	}
	return status(r.fs.Rename(in.NodeId, from, in.Newdir, to, in.Flags&renameNoReplace != 0))
}

func (r *raw) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Link(in.Oldnodeid, in.NodeId, name)
	if err != nil {
		return status(err)
	}
	entry(out, a)
	return fuse.OK
}

func (r *raw) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Symlink(h.NodeId, name, target, owner(h))
	if err != nil {
		return status(err)
	}
	entry(out, a)
	return fuse.OK
}

func (r *raw) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	if s := r.pass(cancel); !s.Ok() {
		return nil, s
	}
	t, err := r.fs.Readlink(h.NodeId)
	return []byte(t), status(err)
}

// Access is never asked: the kernel checks permissions itself.
func (r *raw) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	a, err := r.fs.Create(in.NodeId, name, in.Mode, owner(&in.InHeader))
	if err != nil {
		return status(err)
	}
	h, err := r.fs.Open(a.Ino, false, synchronous(in.Flags))
	if err != nil {
		r.fs.Forget(a.Ino, 1)
		return status(err)
	}
	entry(&out.EntryOut, a)
	out.Fh = r.keep(h)
	return fuse.OK
}

// synchronous tells O_DSYNC, which is one of the two bits of O_SYNC.
func synchronous(flags uint32) bool { return flags&syscall.O_DSYNC != 0 }

func (r *raw) keep(h *powerfs.Handle) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.files[r.last] = h
	return r.last
}

func (r *raw) file(fh uint64) *powerfs.Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[fh]
}

func (r *raw) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	h, err := r.fs.Open(in.NodeId, in.Flags&syscall.O_TRUNC != 0, synchronous(in.Flags))
	if err != nil {
		return status(err)
	}
	out.Fh = r.keep(h)
	return fuse.OK
}

func (r *raw) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if s := r.pass(cancel); !s.Ok() {
		return nil, s
	}
	h := r.file(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	if s := r.late(cancel, powerfs.OpRead, in.NodeId); !s.Ok() {
		return nil, s
	}
	n, err := r.fs.Read(h, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	return fuse.ReadResultData(buf[:n]), status(err)
}

func (r *raw) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if s := r.pass(cancel); !s.Ok() {
		return 0, s
	}
	h := r.file(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if h.Synchronous() {
		if s := r.late(cancel, powerfs.OpSync, in.NodeId); !s.Ok() {
			return 0, s
		}
	}
	n, err := r.fs.Write(h, data, int64(in.Offset))
	return uint32(n), status(err)
}

// Writev is served by Write.
func (r *raw) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Flush is not held back: a process that dies closes its files, and must get away.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	r.mu.Lock()
	h := r.files[in.Fh]
	delete(r.files, in.Fh)
	r.mu.Unlock()
	if h != nil {
		r.fs.Release(h)
	}
}

func (r *raw) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	h := r.file(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if s := r.late(cancel, powerfs.OpSync, in.NodeId); !s.Ok() {
		return s
	}
	return status(r.fs.Fsync(h))
}

func (r *raw) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	h := r.file(in.Fh)
	switch {
	case h == nil:
		return fuse.EBADF
	case in.Mode != 0:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return status(r.fs.Allocate(h, int64(in.Offset+in.Length)))
}

func (r *raw) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	if _, err := r.fs.ReadDir(in.NodeId); err != nil {
		return status(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	out.Fh = r.last
	return fuse.OK
}

// ReadDir reads the directory when its reader begins, and again when it goes back to the beginning.
func (r *raw) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	es, err := r.listing(in)
	if err != nil {
		return status(err)
	}
	for i := int(in.Offset); i < len(es); i++ {
		if !out.AddDirEntry(fuse.DirEntry{Name: es[i].Name, Ino: es[i].Ino, Mode: es[i].Mode}) {
			break
		}
	}
	return fuse.OK
}

func (r *raw) listing(in *fuse.ReadIn) ([]powerfs.Entry, error) {
	r.mu.Lock()
	es := r.dirs[in.Fh]
	r.mu.Unlock()
	if in.Offset > 0 && es != nil {
		return es, nil
	}
	es, err := r.fs.ReadDir(in.NodeId)
	if err != nil {
		return nil, err
	}
	self := []powerfs.Entry{{Name: ".", Ino: in.NodeId, Mode: syscall.S_IFDIR}, {Name: "..", Ino: in.NodeId, Mode: syscall.S_IFDIR}}
	es = append(self, es...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirs[in.Fh] = es
	return es, nil
}

// ReadDirPlus is served by ReadDir.
func (r *raw) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.ENOSYS
}

func (r *raw) ReleaseDir(in *fuse.ReleaseIn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.dirs, in.Fh)
}

func (r *raw) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	if s := r.late(cancel, powerfs.OpSync, in.NodeId); !s.Ok() {
		return s
	}
	return status(r.fs.Fsyncdir(in.NodeId))
}

// late lets an operation wait for as long as a fault wants it to, and then at the gate. A signal ends the wait: see pass.
func (r *raw) late(cancel <-chan struct{}, op powerfs.Op, ino uint64) fuse.Status {
	d, ended := r.fs.Delay(op, ino)
	if d <= 0 {
		return fuse.OK
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ended:
	case <-cancel:
		return fuse.EINTR
	}
	return r.pass(cancel)
}

// Sizes for df of a disk that is not full.
const (
	statBlocks = 1 << 24 // of one page: 64 GiB
	statFiles  = 1 << 20
)

func (r *raw) StatFs(cancel <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if s := r.pass(cancel); !s.Ok() {
		return s
	}
	u := r.fs.Usage()
	used := min(uint64(u.Bytes)/powerfs.PageSize, statBlocks)
	free := uint64(r.fs.Free(int(statBlocks - used)))
	*out = fuse.StatfsOut{
		Blocks: statBlocks, Bfree: free, Bavail: free, Files: statFiles, Ffree: statFiles - min(uint64(u.Files), statFiles),
		Bsize: powerfs.PageSize, Frsize: powerfs.PageSize, NameLen: 255,
	}
	return fuse.OK
}
