package powerfs

import (
	"slices"
	"syscall"
	"time"
)

// key names a directory entry.
type key struct {
	dir  *inode
	name string
}

// edit sets an entry, or removes it where to is nil.
type edit struct {
	key
	to *inode
}

// entryOp is one directory operation. Its edits become durable, survive, or are lost all at once: that is what makes a rename atomic.
type entryOp struct {
	verb, path, target string // as seen when it was made, for the record
	edits              []edit
	// moved is the directory that is put elsewhere. Such moves survive in their order or not at all: otherwise two directories could end up in each other.
	moved *inode
	// under is, for a rename from one directory into another, the directory it leads into and those above it: what is moved into a directory that
	// does not survive would be lost from both places.
	under []*inode
}

// do makes an operation visible and journals it.
func (fs *FS) do(op *entryOp) {
	for _, e := range op.edits {
		if old := e.dir.now[e.name]; old != nil {
			old.links--
			old.ctime = time.Now()
			delete(e.dir.now, e.name)
		}
		if e.to != nil {
			e.dir.now[e.name] = e.to
			e.to.links++
			e.to.parent, e.to.label = e.dir, e.name
		}
		e.dir.mtime = time.Now()
	}
	op.hold(1)
	fs.journal = append(fs.journal, op)
}

// hold keeps the inodes of an operation until it is committed or lost.
func (op *entryOp) hold(by int) {
	for _, e := range op.edits {
		e.dir.held += by
		if e.to != nil {
			e.to.held += by
		}
	}
}

// chain is a set of operations that a walk over the journal gathers: it says which others depend on them.
type chain struct {
	keys  map[key]bool
	dirs  map[*inode]bool // directories that are linked, or must be
	never map[*inode]bool // directories that were lost before they were anywhere
	moves bool
}

func newChain() *chain {
	return &chain{keys: map[key]bool{}, dirs: map[*inode]bool{}, never: map[*inode]bool{}}
}

// commitDir makes what was done in a directory durable, and what that rests on.
func (fs *FS) commitDir(d *inode) {
	need := newChain()
	chosen := map[*entryOp]bool{}
	for _, op := range slices.Backward(fs.journal) {
		if !op.touches(d) && !need.wants(op) {
			continue
		}
		chosen[op] = true
		need.require(op)
	}
	fs.settle(func(op *entryOp) bool { return chosen[op] })
}

func (fs *FS) commitAll() {
	if len(fs.journal) > 0 {
		fs.settle(func(*entryOp) bool { return true })
	}
}

// settle makes the chosen operations durable, oldest first, and keeps the others.
func (fs *FS) settle(chosen func(*entryOp) bool) {
	var left, done []*entryOp
	for _, op := range fs.journal {
		if !chosen(op) {
			left = append(left, op)
			continue
		}
		op.commit()
		done = append(done, op)
	}
	left = slices.DeleteFunc(left, func(op *entryOp) bool {
		moot := op.moot()
		if moot {
			done = append(done, op)
		}
		return moot
	})
	fs.journal = left
	fs.release(done)
}

// moot tells whether an operation was in directories that are durably gone.
func (op *entryOp) moot() bool {
	return !slices.ContainsFunc(op.edits, func(e edit) bool { return e.dir.links > 0 || e.dir.diskLinks > 0 })
}

func (op *entryOp) commit() {
	for _, e := range op.edits {
		if old := e.dir.disk[e.name]; old != nil {
			old.diskLinks--
			delete(e.dir.disk, e.name)
		}
		if e.to != nil {
			e.dir.disk[e.name] = e.to
			e.to.diskLinks++
		}
	}
}

// release lets go of operations that are not pending any more.
func (fs *FS) release(ops []*entryOp) {
	for _, op := range ops {
		op.hold(-1)
	}
	for _, op := range ops {
		for _, e := range op.edits {
			if e.to != nil {
				fs.collect(e.to)
			}
			fs.collect(e.dir)
		}
	}
}

func (op *entryOp) touches(d *inode) bool {
	return slices.ContainsFunc(op.edits, func(e edit) bool { return e.dir == d })
}

// wants tells whether operations that came later rest on this one.
func (c *chain) wants(op *entryOp) bool {
	if c.moves && op.moved != nil {
		return true
	}
	return slices.ContainsFunc(op.edits, func(e edit) bool { return c.keys[e.key] || e.to != nil && c.dirs[e.to] })
}

func (c *chain) require(op *entryOp) {
	for _, e := range op.edits {
		c.keys[e.key] = true
	}
	for _, d := range op.under {
		c.dirs[d] = true
	}
	c.moves = c.moves || op.moved != nil
}

// lacks tells whether an operation rests on one that was lost; lose adds one.
func (c *chain) lacks(op *entryOp) bool {
	if c.moves && op.moved != nil || slices.ContainsFunc(op.under, func(d *inode) bool { return c.dirs[d] }) {
		return true
	}
	return slices.ContainsFunc(op.edits, func(e edit) bool { return c.keys[e.key] || c.never[e.dir] })
}

func (c *chain) lose(op *entryOp) {
	for _, e := range op.edits {
		c.keys[e.key] = true
		if e.to != nil && e.to.dir() {
			c.dirs[e.to] = true
			c.never[e.to] = c.never[e.to] || op.verb == "mkdir"
		}
	}
	c.moves = c.moves || op.moved != nil
}

// vacant returns the directory if the name may be made in it.
func (fs *FS) vacant(dir uint64, name string) (*inode, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	d, err := fs.getDir(dir)
	switch {
	case err != nil:
		return nil, err
	case d.links == 0:
		return nil, syscall.ENOENT // it was removed, and somebody still holds it
	case d.now[name] != nil:
		return nil, syscall.EEXIST
	}
	return d, nil
}

func (fs *FS) make(verb string, dir uint64, name string, mode uint32, o Owner) (*inode, error) {
	d, err := fs.vacant(dir, name)
	if err != nil {
		return nil, err
	}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		if err := fs.entryRoom(d); err != nil {
			return nil, err
		}
	}
	n := fs.newInode(mode, o)
	n.refs++
	fs.do(&entryOp{verb: verb, path: d.path(name), edits: []edit{{key{d, name}, n}}})
	return n, nil
}

// Create makes an empty file. Its entry is pending until the directory's fsync.
func (fs *FS) Create(dir uint64, name string, perm uint32, o Owner) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.make("create", dir, name, syscall.S_IFREG|perm&0o7777, o)
	if err != nil {
		return Attr{}, err
	}
	return n.attr(), nil
}

// Mkdir makes an empty directory.
func (fs *FS) Mkdir(dir uint64, name string, perm uint32, o Owner) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.make("mkdir", dir, name, syscall.S_IFDIR|perm&0o7777, o)
	if err != nil {
		return Attr{}, err
	}
	return n.attr(), nil
}

// Symlink makes a symbolic link.
func (fs *FS) Symlink(dir uint64, name, target string, o Owner) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.make("symlink", dir, name, syscall.S_IFLNK|0o777, o)
	if err != nil {
		return Attr{}, err
	}
	n.target = target
	return n.attr(), nil
}

// Link gives a file another name.
func (fs *FS) Link(ino uint64, dir uint64, name string) (Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	if n.dir() {
		return Attr{}, syscall.EPERM
	}
	d, err := fs.vacant(dir, name)
	if err != nil {
		return Attr{}, err
	}
	if n.links == 0 {
		return Attr{}, syscall.ENOENT
	}
	fs.do(&entryOp{verb: "link", path: d.path(name), edits: []edit{{key{d, name}, n}}})
	n.refs++
	n.ctime = time.Now()
	return n.attr(), nil
}

// Unlink removes a name of a file.
func (fs *FS) Unlink(dir uint64, name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, n, err := fs.entry(dir, name)
	switch {
	case err != nil:
		return err
	case n.dir():
		return syscall.EISDIR
	}
	fs.do(&entryOp{verb: "unlink", path: d.path(name), edits: []edit{{key{d, name}, nil}}})
	return nil
}

// Rmdir removes an empty directory.
func (fs *FS) Rmdir(dir uint64, name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	d, n, err := fs.entry(dir, name)
	switch {
	case err != nil:
		return err
	case !n.dir():
		return syscall.ENOTDIR
	case len(n.now) > 0:
		return syscall.ENOTEMPTY
	}
	fs.do(&entryOp{verb: "rmdir", path: d.path(name), edits: []edit{{key{d, name}, nil}}})
	return nil
}

func (fs *FS) entry(dir uint64, name string) (d, n *inode, err error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	if d, err = fs.getDir(dir); err != nil {
		return nil, nil, err
	}
	if n = d.now[name]; n == nil {
		return nil, nil, syscall.ENOENT
	}
	return d, n, nil
}

// Rename moves an entry, replacing what is there unless keep is set. It is atomic, also in a power failure. It is durable after an fsync of either
// directory.
func (fs *FS) Rename(fromDir uint64, from string, toDir uint64, to string, keep bool) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	src, n, err := fs.entry(fromDir, from)
	if err != nil {
		return err
	}
	if err := checkName(to); err != nil {
		return err
	}
	dst, err := fs.getDir(toDir)
	if err != nil {
		return err
	}
	old := dst.now[to]
	if old == n {
		return nil // POSIX: two names of one file stay
	}
	if err := mayMove(n, dst, old, keep); err != nil {
		return err
	}
	op := &entryOp{verb: "rename", path: src.path(from), target: dst.path(to), edits: []edit{{key{src, from}, nil}, {key{dst, to}, n}}}
	if src != dst {
		if n.dir() {
			op.moved = n
		}
		for d := dst; d != nil; d = d.parent {
			op.under = append(op.under, d)
		}
	}
	fs.do(op)
	return nil
}

func mayMove(n, dst, old *inode, keep bool) error {
	if dst.links == 0 {
		return syscall.ENOENT
	}
	for d := dst; d != nil && n.dir(); d = d.parent {
		if d == n {
			return syscall.EINVAL // into itself
		}
	}
	switch {
	case old == nil:
		return nil
	case keep:
		return syscall.EEXIST
	case n.dir() && !old.dir():
		return syscall.ENOTDIR
	case !n.dir() && old.dir():
		return syscall.EISDIR
	case len(old.now) > 0:
		return syscall.ENOTEMPTY
	}
	return nil
}

// path is where a name of this directory is seen.
func (n *inode) path(name string) string {
	p := name
	for d := n; d.parent != nil; d = d.parent {
		p = d.label + "/" + p
	}
	return p
}
