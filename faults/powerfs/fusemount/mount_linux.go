// Package fusemount serves a powerfs.FS to the kernel through FUSE. It translates, and can hold every operation back: that is the moment in
// which the power goes.
package fusemount

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
)

// Mount is a mounted file system.
type Mount struct {
	dir    string
	fs     *powerfs.FS
	server *fuse.Server
	raw    *raw
}

// Options of a mount.
type Options struct {
	Shared bool      // other users may use it, within the permissions of the files; needs root, or user_allow_other in /etc/fuse.conf
	Log    io.Writer // what the library has to say; nil for nothing
}

// New mounts fs at dir, an empty directory.
func New(fs *powerfs.FS, dir string, o Options) (*Mount, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	r := &raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: fs, files: map[uint64]*powerfs.Handle{}, dirs: map[uint64][]powerfs.Entry{}}
	s, err := fuse.NewServer(r, dir, &fuse.MountOptions{
		AllowOther: o.Shared, Options: []string{"default_permissions"}, FsName: host.FSName, Name: "powerfs", MaxWrite: 1 << 20,
		DirectMount: os.Geteuid() == 0, DisableXAttrs: true, DisableReadDirPlus: true, Logger: log.New(o.Log, "", 0),
	})
	if err != nil {
		return nil, fmt.Errorf("mount file system at %s: %w", dir, err)
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount file system at %s: %w", dir, err), host.Detach(dir))
	}
	return &Mount{dir: dir, fs: fs, server: s, raw: r}, nil
}

// Freeze holds back every operation that begins from now on: the daemon has lost its power, and does not know yet. A process that is
// killed gets away.
func (m *Mount) Freeze() { m.raw.freeze() }

// PowerFail drops what is pending, see powerfs.FS.PowerFail, and lets operations pass again.
func (m *Mount) PowerFail(loss cluster.PowerLoss) cluster.Dropped {
	defer m.raw.thaw()
	return m.fs.PowerFail(loss)
}

// Thaw lets operations pass again as if nothing had been.
func (m *Mount) Thaw() { m.raw.thaw() }

// Usage is powerfs.FS.Usage.
func (m *Mount) Usage() cluster.PowerState { return m.fs.Usage() }

// SetFault is powerfs.FS.SetFault.
func (m *Mount) SetFault(f cluster.DiskFault) error { return m.fs.SetFault(f, cluster.DiskLease) }

// ClearFault is powerfs.FS.ClearFault.
func (m *Mount) ClearFault(id string) { m.fs.ClearFault(id) }

// RenewFaults is powerfs.FS.RenewFaults.
func (m *Mount) RenewFaults() { m.fs.RenewFaults(cluster.DiskLease) }

// Faults is powerfs.FS.Faults.
func (m *Mount) Faults() []cluster.DiskFaultState { return m.fs.Faults() }

// Close unmounts, also while somebody has files open there: they get ENOTCONN once this process has ended.
func (m *Mount) Close() error {
	m.raw.thaw()
	return host.Detach(m.dir)
}

// gate lets operations pass, or holds them back.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil while it is open
}

func (g *gate) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
}

func (g *gate) thaw() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

// pass waits at a closed gate. A signal ends the wait, as it does on a disk that hangs: one that is fatal lets the process die, after any other
// the process tries again.
func (g *gate) pass(cancel <-chan struct{}) fuse.Status {
	for {
		g.mu.Lock()
		c := g.closed
		g.mu.Unlock()
		if c == nil {
			return fuse.OK
		}
		select {
		case <-c:
		case <-cancel:
			return fuse.EINTR
		}
	}
}
