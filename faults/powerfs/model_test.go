package powerfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/sut/cluster"
)

// reference is a second, naive model: a whole copy of every file at each of its syncs, and of every directory's names at each of its own. It knows
// renames within one directory only, where what strict entries promise needs no more than that.
type reference struct {
	seen, synced map[uint64][]byte            // files
	names, disk  map[uint64]map[string]uint64 // directories

	dirty, ghost map[uint64]map[int]bool // pages of files: written since the last sync that was tried; whose sync has failed
	low          map[uint64]int64        // the smallest size since the last sync that worked
}

// machine drives both with the same operations.
type machine struct {
	disk
	ref   reference
	files []uint64
	dirs  []uint64
}

const (
	maxWrite  = 3*powerfs.PageSize + 100
	maxOffset = 5 * powerfs.PageSize
)

func newMachine(t *rapid.T, mode cluster.EntryMode) *machine {
	m := &machine{disk: disk{t, powerfs.New(mode, powerfs.Owner{}, 0o755)}, dirs: []uint64{powerfs.RootIno}}
	m.ref = reference{map[uint64][]byte{}, map[uint64][]byte{}, map[uint64]map[string]uint64{}, map[uint64]map[string]uint64{},
		map[uint64]map[int]bool{}, map[uint64]map[int]bool{}, map[uint64]int64{}}
	m.ref.names[powerfs.RootIno], m.ref.disk[powerfs.RootIno] = map[string]uint64{}, map[string]uint64{}
	return m
}

var name = rapid.SampledFrom([]string{"a", "b", "c", "d"})

// step does one operation on both.
func (m *machine) step(t *rapid.T) {
	dir := rapid.SampledFrom(m.dirs).Draw(t, "dir")
	n := name.Draw(t, "name")
	ino, there := m.ref.names[dir][n]
	switch op := rapid.IntRange(0, 10).Draw(t, "op"); {
	case op == 0 && !there && len(m.dirs) < 5:
		ino = m.mkdir(dir, n)
		m.dirs = append(m.dirs, ino)
		m.ref.names[dir][n], m.ref.names[ino], m.ref.disk[ino] = ino, map[string]uint64{}, map[string]uint64{}
	case op <= 2 && !there:
		ino = m.create(dir, n)
		m.files = append(m.files, ino)
		m.ref.names[dir][n], m.ref.seen[ino], m.ref.synced[ino] = ino, nil, nil
		m.ref.dirty[ino], m.ref.ghost[ino] = map[int]bool{}, map[int]bool{}
	case op == 3 && there && !slices.Contains(m.dirs, ino):
		m.must(m.Unlink(dir, n))
		delete(m.ref.names[dir], n)
	case op == 4 && there && !slices.Contains(m.dirs, ino):
		to := name.Draw(t, "to")
		if old, taken := m.ref.names[dir][to]; to == n || taken && slices.Contains(m.dirs, old) {
			return
		}
		m.must(m.Rename(dir, n, dir, to, false))
		delete(m.ref.names[dir], n)
		m.ref.names[dir][to] = ino
	case op == 5:
		m.must(m.Fsyncdir(dir))
		m.ref.disk[dir] = maps.Clone(m.ref.names[dir])
	case there && !slices.Contains(m.dirs, ino):
		m.fileStep(t, op, ino)
	}
}

func (m *machine) fileStep(t *rapid.T, op int, ino uint64) {
	switch op {
	case 6:
		m.fsync(ino)
		m.ref.synced[ino] = m.ref.durable(ino)
		m.ref.low[ino] = int64(len(m.ref.seen[ino]))
		clear(m.ref.dirty[ino])
	case 7:
		size := rapid.Int64Range(0, maxOffset).Draw(t, "size")
		m.truncate(ino, size)
		m.ref.truncate(ino, size)
	case 10:
		m.failingSync(ino)
		maps.Copy(m.ref.ghost[ino], m.ref.dirty[ino])
		clear(m.ref.dirty[ino])
	default:
		p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "fill"))}, rapid.IntRange(1, maxWrite).Draw(t, "length"))
		off := rapid.Int64Range(0, maxOffset).Draw(t, "offset")
		m.write(ino, off, p)
		seen := m.ref.seen[ino]
		if end := off + int64(len(p)); end > int64(len(seen)) {
			seen = resized(seen, end)
		}
		copy(seen[off:], p)
		m.ref.seen[ino] = seen
		for i := int(off / powerfs.PageSize); i <= int((off+int64(len(p))-1)/powerfs.PageSize); i++ {
			m.ref.dirty[ino][i] = true
			delete(m.ref.ghost[ino], i)
		}
	}
}

// failingSync is an fsync that a fault makes fail.
func (m *machine) failingSync(ino uint64) {
	m.must(m.SetFault(cluster.DiskFault{ID: "f", Kind: cluster.DiskSyncError}, time.Minute))
	m.with(ino, func(h *powerfs.Handle) {
		if err := m.Fsync(h); !errors.Is(err, syscall.EIO) {
			m.t.Fatalf("a failing sync: %v", err)
		}
	})
	m.ClearFault("f")
}

// truncate dirties the page that the end is in, as the kernel does.
func (r reference) truncate(ino uint64, size int64) {
	if size < int64(len(r.seen[ino])) {
		for _, set := range []map[int]bool{r.dirty[ino], r.ghost[ino]} {
			maps.DeleteFunc(set, func(i int, _ bool) bool { return int64(i)*powerfs.PageSize >= size })
		}
		if last := int(size / powerfs.PageSize); size%powerfs.PageSize != 0 && r.ghost[ino][last] {
			delete(r.ghost[ino], last)
			r.dirty[ino][last] = true
		}
	}
	r.seen[ino] = resized(r.seen[ino], size)
	r.low[ino] = min(r.low[ino], size)
}

// durable is what a sync of the file leaves on the disk: what is seen, but where syncs have failed what was there before.
func (r reference) durable(ino uint64) []byte {
	out := bytes.Clone(r.seen[ino])
	before := r.synced[ino]
	before = before[:min(int64(len(before)), r.low[ino])]
	for i := range r.ghost[ino] {
		at := i * powerfs.PageSize
		page := out[at:min(at+powerfs.PageSize, len(out))]
		copy(page, part(before, at, len(page)))
	}
	return out
}

func resized(p []byte, size int64) []byte {
	out := make([]byte, size)
	copy(out, p)
	return out
}

// tree reads everything that can be reached.
func (m *machine) tree() map[string]string {
	out := map[string]string{}
	var walk func(uint64, string)
	walk = func(dir uint64, at string) {
		es, err := m.ReadDir(dir)
		m.must(err)
		for _, e := range es {
			p := path.Join(at, e.Name)
			if e.Mode == syscall.S_IFDIR {
				out[p] = "directory"
				walk(e.Ino, p)
				continue
			}
			out[p] = string(m.content(e.Ino))
		}
	}
	walk(powerfs.RootIno, ".")
	return out
}

// expected is the same from the naive model.
func (r reference) expected(names map[uint64]map[string]uint64, files map[uint64][]byte) map[string]string {
	out := map[string]string{}
	var walk func(uint64, string)
	walk = func(dir uint64, at string) {
		for n, ino := range names[dir] {
			p := path.Join(at, n)
			if _, isDir := names[ino]; isDir {
				out[p] = "directory"
				walk(ino, p)
				continue
			}
			out[p] = string(files[ino])
		}
	}
	walk(powerfs.RootIno, ".")
	return out
}

func same(t *rapid.T, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for p := range want {
		if g, ok := got[p]; !ok || g != want[p] {
			t.Fatalf("%s: %s has %d bytes (there: %v), want %d", what, p, len(g), ok, len(want[p]))
		}
	}
	t.Fatalf("%s: there is %v, want %v", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
}

// Reads see everything; when nothing that was not synced survives, exactly what the naive model calls synced is left; when all of it does,
// everything is. Again and again on the same disk.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, powerfs.Strict)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.step(t)
		}
		same(t, "seen", m.tree(), m.ref.expected(m.ref.names, m.ref.seen))
		want := m.ref.expected(m.ref.disk, m.ref.synced)
		loss := nothingKept
		if rapid.Bool().Draw(t, "all survives") {
			kept := map[uint64][]byte{}
			for ino := range m.ref.seen {
				kept[ino] = m.ref.durable(ino)
			}
			want, loss = m.ref.expected(m.ref.names, kept), allKept
		}
		m.PowerFail(loss)
		same(t, "after the power failure", m.tree(), want)
		if u := m.Usage(); u.PendingBytes+int64(u.PendingEntries)+int64(u.PendingPages) != 0 {
			t.Fatalf("%+v is pending after a power failure", u)
		}
		m.PowerFail(nothingKept)
		same(t, "after the second one", m.tree(), want)
	})
}

// Whatever a seed does, it is lawful: a page is the synced or the last one, or a hole of a file that was never synced that far; a synced file whose
// name is synced and was not touched since is whole; the record adds up.
func TestEveryOutcomeIsLawful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, rapid.SampledFrom([]cluster.EntryMode{powerfs.Strict, powerfs.Journaled}).Draw(t, "mode"))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.step(t)
		}
		before := m.Usage()
		rec := m.PowerFail(cluster.PowerLoss{Seed: rapid.Uint64().Draw(t, "seed"), KeepPercent: rapid.IntRange(0, 100).Draw(t, "keep")})
		if rec.KeptPages+rec.DroppedPages != rec.PendingPages || rec.KeptEntries+rec.DroppedEntries != rec.PendingEntries || rec.PendingEntries != before.PendingEntries {
			t.Fatalf("the record does not add up: %+v", rec)
		}
		if rec.DroppedBytes > rec.PendingBytes || rec.PendingPages < before.PendingPages {
			t.Fatalf("the record says %d of %d bytes, %d pages; %d pages were pending", rec.DroppedBytes, rec.PendingBytes, rec.PendingPages, before.PendingPages)
		}
		for _, ino := range m.files {
			if _, err := m.Stat(ino); err != nil {
				continue // it is gone, as it may be: its name was not synced, or was removed
			}
			m.lawful(t, ino)
		}
		m.whole(t)
	})
}

// lawful holds each page of a file against the two versions that it may have.
func (m *machine) lawful(t *rapid.T, ino uint64) {
	got, seen, synced := m.content(ino), m.ref.seen[ino], m.ref.synced[ino]
	if int64(len(got)) > int64(max(len(seen), len(synced))) {
		t.Fatalf("the file has %d bytes, and had %d and %d", len(got), len(synced), len(seen))
	}
	for at := 0; at < len(got); at += powerfs.PageSize {
		page := got[at:min(at+powerfs.PageSize, len(got))]
		a, b := part(synced, at, len(page)), part(seen, at, len(page))
		if !bytes.Equal(page, a) && !bytes.Equal(page, b) && !prefixThenHole(page, a) {
			t.Fatalf("page at %d of inode %d is neither what was synced nor what was written", at, ino)
		}
	}
}

func part(p []byte, at, n int) []byte {
	out := make([]byte, n)
	if at < len(p) {
		copy(out, p[at:])
	}
	return out
}

// prefixThenHole tells a page that was truncated, and whose new content did not survive.
func prefixThenHole(page, synced []byte) bool {
	n := 0
	for n < len(page) && page[n] == synced[n] {
		n++
	}
	return len(bytes.Trim(page[n:], "\x00")) == 0
}

// whole looks for files that nothing pending touched.
func (m *machine) whole(t *rapid.T) {
	got := m.tree()
	want := m.ref.expected(m.ref.disk, m.ref.synced)
	calm := m.ref.expected(m.ref.names, m.ref.seen)
	if !maps.Equal(m.ref.disk[powerfs.RootIno], m.ref.names[powerfs.RootIno]) {
		return
	}
	for n, ino := range m.ref.disk[powerfs.RootIno] {
		if !slices.Contains(m.files, ino) || want[n] != calm[n] || !bytes.Equal(m.ref.seen[ino], m.ref.synced[ino]) {
			continue
		}
		if got[n] != want[n] {
			t.Fatal(fmt.Sprintf("%s was synced, name and all, and has changed", n))
		}
	}
}
