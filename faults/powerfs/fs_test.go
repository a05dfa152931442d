package powerfs_test

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/sut/cluster"
)

// nothingKept and allKept are the ends of what a power failure may do.
var (
	nothingKept = cluster.PowerLoss{Seed: 1}
	allKept     = cluster.PowerLoss{Seed: 1, KeepPercent: 100}
)

// disk is a file system with the words of a test.
type disk struct {
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	*powerfs.FS
}

func newDisk(t *testing.T, mode cluster.EntryMode) disk {
	return disk{t, powerfs.New(mode, powerfs.Owner{}, 0o755)}
}

func (d disk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%v", err)
	}
}

func (d disk) create(dir uint64, name string) uint64 {
	d.t.Helper()
	a, err := d.Create(dir, name, 0o600, powerfs.Owner{})
	d.must(err)
	d.Forget(a.Ino, 1)
	return a.Ino
}

func (d disk) mkdir(dir uint64, name string) uint64 {
	d.t.Helper()
	a, err := d.Mkdir(dir, name, 0o700, powerfs.Owner{})
	d.must(err)
	d.Forget(a.Ino, 1)
	return a.Ino
}

func (d disk) lookup(dir uint64, name string) (uint64, bool) {
	d.t.Helper()
	a, err := d.Lookup(dir, name)
	if errors.Is(err, syscall.ENOENT) {
		return 0, false
	}
	d.must(err)
	d.Forget(a.Ino, 1)
	return a.Ino, true
}

func (d disk) with(ino uint64, f func(*powerfs.Handle)) {
	d.t.Helper()
	h, err := d.Open(ino, false, false)
	d.must(err)
	f(h)
	d.Release(h)
}

func (d disk) write(ino uint64, off int64, p []byte) {
	d.t.Helper()
	d.with(ino, func(h *powerfs.Handle) { _, err := d.Write(h, p, off); d.must(err) })
}

func (d disk) fsync(ino uint64) {
	d.t.Helper()
	d.with(ino, func(h *powerfs.Handle) { d.must(d.Fsync(h)) })
}

func (d disk) truncate(ino uint64, size int64) {
	d.t.Helper()
	_, err := d.SetAttr(ino, powerfs.Change{Size: &size})
	d.must(err)
}

func (d disk) content(ino uint64) (out []byte) {
	d.t.Helper()
	a, err := d.Stat(ino)
	d.must(err)
	out = make([]byte, a.Size)
	d.with(ino, func(h *powerfs.Handle) {
		n, err := d.Read(h, out, 0)
		d.must(err)
		if n != len(out) {
			d.t.Fatalf("read %d of %d bytes", n, len(out))
		}
	})
	return out
}

func pages(fill ...byte) []byte {
	var out []byte
	for _, b := range fill {
		out = append(out, bytes.Repeat([]byte{b}, powerfs.PageSize)...)
	}
	return out
}

func TestWhatIsSyncedStays(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, pages(1, 2))
	d.fsync(f)
	d.must(d.Fsyncdir(powerfs.RootIno))
	d.write(f, powerfs.PageSize, pages(9, 9))
	if got := d.content(f); !bytes.Equal(got, pages(1, 9, 9)) {
		t.Error("what was written last is not what is read")
	}
	rec := d.PowerFail(nothingKept)
	if got := d.content(f); !bytes.Equal(got, pages(1, 2)) {
		t.Errorf("%d bytes are left, and not those that were synced", len(got))
	}
	want := []cluster.DroppedFile{{Path: "f", SizeBefore: 3 * powerfs.PageSize, SizeAfter: 2 * powerfs.PageSize,
		Dropped: []cluster.DroppedRange{{Offset: powerfs.PageSize, Length: 2 * powerfs.PageSize}}}}
	if len(rec.Files) != 1 || rec.Files[0].Path != want[0].Path || !slices.Equal(rec.Files[0].Dropped, want[0].Dropped) || rec.Files[0].SizeAfter != want[0].SizeAfter {
		t.Errorf("record %+v", rec.Files)
	}
	if rec.DroppedPages != 2 || rec.PendingPages != 2 || rec.DroppedBytes != 2*powerfs.PageSize || rec.KeptPages != 0 {
		t.Errorf("record %+v", rec)
	}
}

func TestTheEntryOfASyncedFileIsPending(t *testing.T) {
	for mode, stays := range map[cluster.EntryMode]bool{powerfs.Strict: false, powerfs.Journaled: true} {
		d := newDisk(t, mode)
		dir := d.mkdir(powerfs.RootIno, "dir")
		f := d.create(dir, "f")
		d.write(f, 0, []byte("data"))
		d.fsync(f)
		rec := d.PowerFail(nothingKept)
		_, left := d.lookup(powerfs.RootIno, "dir")
		if left != stays {
			t.Errorf("%s: the entry stays: %v", mode, left)
		}
		if !stays && (rec.LostFiles != 1 || rec.LostBytes != 4 || rec.DroppedEntries != 2 || rec.Files[0].Path != "dir/f" || !rec.Files[0].Lost) {
			t.Errorf("%s: record %+v", mode, rec)
		}
	}
}

func TestSynchronousHandleNeedsNoFsync(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.must(d.Fsyncdir(powerfs.RootIno))
	h, err := d.Open(f, false, true)
	d.must(err)
	_, err = d.Write(h, []byte("synced"), 0)
	d.must(err)
	d.PowerFail(nothingKept)
	if got := d.content(f); string(got) != "synced" {
		t.Errorf("%q is left", got)
	}
	if _, err := d.Write(h, []byte("x"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a handle from before the power failure still writes: %v", err)
	}
}

func TestRenameIsAtomic(t *testing.T) {
	old, new := 0, 0
	for seed := range uint64(60) {
		d := newDisk(t, powerfs.Strict)
		f := d.create(powerfs.RootIno, "f")
		d.write(f, 0, []byte("old"))
		d.fsync(f)
		g := d.create(powerfs.RootIno, "f.tmp")
		d.write(g, 0, []byte("new"))
		d.fsync(g)
		d.must(d.Fsyncdir(powerfs.RootIno))
		d.must(d.Rename(powerfs.RootIno, "f.tmp", powerfs.RootIno, "f", false))
		d.PowerFail(cluster.PowerLoss{Seed: seed, KeepPercent: 50})
		ino, there := d.lookup(powerfs.RootIno, "f")
		_, tmp := d.lookup(powerfs.RootIno, "f.tmp")
		if !there {
			t.Fatal("the name is gone: it was replaced in one step")
		}
		switch s := string(d.content(ino)); {
		case s == "old" && tmp:
			old++
		case s == "new" && !tmp:
			new++
		default:
			t.Fatalf("%q under the name, the other name there: %v", s, tmp)
		}
	}
	if old == 0 || new == 0 {
		t.Errorf("%d old, %d new: the seed decides nothing", old, new)
	}
}

func TestReplaceByRenameWithoutFsyncMayLoseBoth(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, []byte("old"))
	d.fsync(f)
	g := d.create(powerfs.RootIno, "f.tmp")
	d.write(g, 0, []byte("new"))
	d.must(d.Rename(powerfs.RootIno, "f.tmp", powerfs.RootIno, "f", false))
	d.must(d.Fsyncdir(powerfs.RootIno))
	d.PowerFail(nothingKept)
	ino, _ := d.lookup(powerfs.RootIno, "f")
	if got := d.content(ino); len(got) != 0 {
		t.Errorf("%q is left of data that was never synced", got)
	}
}

func TestTornWrite(t *testing.T) {
	torn := 0
	for seed := range uint64(40) {
		d := newDisk(t, powerfs.Strict)
		f := d.create(powerfs.RootIno, "f")
		d.write(f, 0, pages(1, 1, 1, 1))
		d.fsync(f)
		d.must(d.Fsyncdir(powerfs.RootIno))
		d.write(f, 0, pages(2, 2, 2, 2))
		rec := d.PowerFail(cluster.PowerLoss{Seed: seed, KeepPercent: 50})
		got := d.content(f)
		new := 0
		for i := range 4 {
			p := got[i*powerfs.PageSize:][:powerfs.PageSize]
			if !bytes.Equal(p, pages(1)) && !bytes.Equal(p, pages(2)) {
				t.Fatalf("page %d is neither old nor new: a page is whole", i)
			}
			new += int(p[0]) - 1
		}
		if new != rec.KeptPages || 4-new != rec.DroppedPages {
			t.Errorf("%d pages are new, the record says %d", new, rec.KeptPages)
		}
		if new > 0 && new < 4 {
			torn++
			if !rec.Files[0].Torn {
				t.Error("a torn write is not recorded as one")
			}
		}
	}
	if torn == 0 {
		t.Error("no write was ever torn")
	}
}

func TestTornAppendEndsAtAnAppend(t *testing.T) {
	seen := map[int]bool{}
	for seed := range uint64(80) {
		d := newDisk(t, powerfs.Strict)
		f := d.create(powerfs.RootIno, "f")
		d.write(f, 0, []byte("AAAA"))
		d.fsync(f)
		d.must(d.Fsyncdir(powerfs.RootIno))
		for i := range 3 {
			d.write(f, int64(4+4*i), []byte("bbbb"))
		}
		d.PowerFail(cluster.PowerLoss{Seed: seed, KeepPercent: 50})
		got := d.content(f)
		seen[len(got)] = true
		if len(got)%4 != 0 || len(got) < 4 || string(got[:4]) != "AAAA" {
			t.Fatalf("%q is left", got)
		}
		rest := got[4:]
		if !bytes.Equal(rest, bytes.Repeat([]byte("b"), len(rest))) && !bytes.Equal(rest, make([]byte, len(rest))) {
			t.Fatalf("%q is left: neither what was written nor a hole", got)
		}
	}
	if len(seen) < 4 {
		t.Errorf("lengths %v: an append is never torn", seen)
	}
}

func TestTruncationIsPending(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, pages(1, 2))
	d.fsync(f)
	d.must(d.Fsyncdir(powerfs.RootIno))
	d.truncate(f, 10)
	d.write(f, powerfs.PageSize, pages(3))
	rec := d.PowerFail(nothingKept)
	if got := d.content(f); !bytes.Equal(got, pages(1, 2)) {
		t.Error("a truncation that was never synced has had effects")
	}
	if len(rec.Files) != 1 || !rec.Files[0].Untruncated {
		t.Errorf("record %+v", rec.Files)
	}
	d.truncate(f, 10)
	d.write(f, powerfs.PageSize, pages(3))
	want := slices.Clone(d.content(f))
	d.fsync(f)
	d.PowerFail(nothingKept)
	if !bytes.Equal(d.content(f), want) || want[10] != 0 || want[9] != 1 {
		t.Error("a truncation that was synced is not durable")
	}
}

func TestUnlinkIsPending(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, []byte("data"))
	d.fsync(f)
	d.must(d.Fsyncdir(powerfs.RootIno))
	d.must(d.Unlink(powerfs.RootIno, "f"))
	if rec := d.PowerFail(nothingKept); rec.DroppedEntries != 1 || rec.Entries[0].Op != "unlink" {
		t.Errorf("record %+v", rec)
	}
	ino, there := d.lookup(powerfs.RootIno, "f")
	if !there || string(d.content(ino)) != "data" {
		t.Fatal("an unlink that was never synced is durable")
	}
	d.must(d.Unlink(powerfs.RootIno, "f"))
	d.must(d.Fsyncdir(powerfs.RootIno))
	d.PowerFail(nothingKept)
	if _, there := d.lookup(powerfs.RootIno, "f"); there {
		t.Error("an unlink that was synced is not durable")
	}
	if u := d.Usage(); u.Files != 0 || u.Bytes != 0 {
		t.Errorf("usage %+v of an empty file system", u)
	}
}

// A directory that is moved into another must not be lost with it, nor may two end up in each other.
func TestMovedDirectoriesAreNeverLost(t *testing.T) {
	for seed := range uint64(200) {
		d := newDisk(t, powerfs.Strict)
		a, b := d.mkdir(powerfs.RootIno, "a"), d.mkdir(powerfs.RootIno, "b")
		c := d.mkdir(b, "c")
		f := d.create(a, "f")
		for _, dir := range []uint64{a, b, powerfs.RootIno} {
			d.must(d.Fsyncdir(dir))
		}
		n := d.mkdir(powerfs.RootIno, "new")
		d.must(d.Rename(powerfs.RootIno, "b", a, "b", false)) // a/b/c
		d.must(d.Rename(a, "b", powerfs.RootIno, "b", false)) // b/c
		d.must(d.Rename(powerfs.RootIno, "a", c, "a", false)) // b/c/a
		d.must(d.Rename(powerfs.RootIno, "b", n, "b", false)) // new/b/c/a
		if seed%2 == 1 {
			d.must(d.Fsyncdir(n))
		}
		d.PowerFail(cluster.PowerLoss{Seed: seed, KeepPercent: 50})
		found := map[uint64]int{}
		walk(d, powerfs.RootIno, found)
		if found[a] != 1 || found[b] != 1 || found[c] != 1 || found[f] != 1 {
			t.Fatalf("seed %d: directories are found %d, %d, %d times, the file %d", seed, found[a], found[b], found[c], found[f])
		}
	}
}

func walk(d disk, dir uint64, found map[uint64]int) {
	d.t.Helper()
	es, err := d.ReadDir(dir)
	d.must(err)
	for _, e := range es {
		found[e.Ino]++
		if found[e.Ino] > 1 {
			d.t.Fatalf("inode %d is in two places", e.Ino)
		}
		if e.Mode == syscall.S_IFDIR {
			walk(d, e.Ino, found)
		}
	}
}

func TestErrors(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	dir := d.mkdir(powerfs.RootIno, "dir")
	f := d.create(dir, "f")
	size := int64(-1)
	_, createErr := d.Create(powerfs.RootIno, "dir", 0o600, powerfs.Owner{})
	_, longErr := d.Create(powerfs.RootIno, string(make([]byte, 300)), 0o600, powerfs.Owner{})
	_, linkErr := d.Link(dir, powerfs.RootIno, "other")
	_, openErr := d.Open(dir, false, false)
	_, staleErr := d.Stat(999)
	_, sizeErr := d.SetAttr(f, powerfs.Change{Size: &size})
	_, noDirErr := d.Lookup(f, "x")
	for _, c := range []struct {
		what      string
		got, want error
	}{
		{"create what is there", createErr, syscall.EEXIST},
		{"create a long name", longErr, syscall.ENAMETOOLONG},
		{"link a directory", linkErr, syscall.EPERM},
		{"open a directory", openErr, syscall.EISDIR},
		{"stat nothing", staleErr, syscall.ESTALE},
		{"a negative size", sizeErr, syscall.EINVAL},
		{"look a name up in a file", noDirErr, syscall.ENOTDIR},
		{"remove a directory that is not empty", d.Rmdir(powerfs.RootIno, "dir"), syscall.ENOTEMPTY},
		{"unlink a directory", d.Unlink(powerfs.RootIno, "dir"), syscall.EISDIR},
		{"rmdir a file", d.Rmdir(dir, "f"), syscall.ENOTDIR},
		{"unlink nothing", d.Unlink(dir, "x"), syscall.ENOENT},
		{"move a directory into itself", d.Rename(powerfs.RootIno, "dir", dir, "x", false), syscall.EINVAL},
		{"rename over what must stay", d.Rename(dir, "f", powerfs.RootIno, "dir", true), syscall.EEXIST},
		{"rename a file over a directory", d.Rename(dir, "f", powerfs.RootIno, "dir", false), syscall.EISDIR},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}
