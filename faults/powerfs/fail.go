package powerfs

import (
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// golden mixes the number of the power failure into the seed.
const golden = 0x9e3779b97f4a7c15

// PowerFail takes pending data and entries away, by loss.Seed: each page and each operation survives with probability loss.KeepPercent/100. What is left
// is durable. Every handle that was open is dead.
//
// Only lawful outcomes are made: an operation does not survive one that it rests on, a rename is atomic, and nothing that was synced
// is lost but by losing the way to it, when a directory above it was never synced.
func (fs *FS) PowerFail(loss cluster.PowerLoss) cluster.Dropped {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.cuts++
	f := &failure{fs: fs, chance: min(1, max(0, float64(loss.KeepPercent)/100)), rng: rand.New(rand.NewPCG(loss.Seed, golden*uint64(fs.cuts)))}
	f.rec = cluster.Dropped{PowerLoss: loss, Cut: fs.cuts, EntryMode: fs.entries}
	f.before = fs.paths(now)
	f.loseEntries()
	after := fs.paths(disk)
	f.losePaths(after)
	f.loseData(after)
	fs.restart(after)
	return f.rec
}

// failure is one power failure.
type failure struct {
	fs     *FS
	rng    *rand.Rand
	chance float64
	before map[*inode]string // what was seen
	rec    cluster.Dropped
}

func now(n *inode) map[string]*inode  { return n.now }
func disk(n *inode) map[string]*inode { return n.disk }

// paths finds everything that can be reached, with one path each (the first by name).
func (fs *FS) paths(entries func(*inode) map[string]*inode) map[*inode]string {
	found := map[*inode]string{fs.root: "."}
	var walk func(d *inode, at string)
	walk = func(d *inode, at string) {
		for name, n := range entries(d) {
			p := path.Join(at, name)
			if q, seen := found[n]; !seen || p < q {
				found[n] = p
			}
			if n.dir() {
				walk(n, p)
			}
		}
	}
	walk(fs.root, ".")
	return found
}

func inOrder(m map[*inode]string) []*inode {
	out := make([]*inode, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *inode) int { return strings.Compare(m[a], m[b]) })
	return out
}

// loseEntries decides which operations survive.
func (f *failure) loseEntries() {
	ops := f.fs.journal
	survives := f.choose(ops)
	lost := newChain()
	for i, op := range ops {
		if survives[i] && !lost.lacks(op) {
			op.commit()
			f.rec.KeptEntries++
			continue
		}
		lost.lose(op)
		f.rec.DroppedEntries++
		f.rec.Entries = append(f.rec.Entries, cluster.DroppedEntry{Op: op.verb, Path: op.path, To: op.target})
	}
	f.rec.PendingEntries = len(ops)
	f.fs.journal = nil
	f.fs.release(ops)
}

// choose draws lots. A metadata log is written in order, so that with it the first operations survive, and the later ones do not.
func (f *failure) choose(ops []*entryOp) []bool {
	out := make([]bool, len(ops))
	if f.fs.entries == Journaled {
		n := 0
		switch {
		case f.chance >= 1:
			n = len(ops)
		case f.chance > 0:
			n = f.rng.IntN(len(ops) + 1)
		}
		for i := range n {
			out[i] = true
		}
		return out
	}
	for i := range ops {
		out[i] = lucky(f.rng, f.chance)
	}
	return out
}

// losePaths records what was synced and cannot be reached any more.
func (f *failure) losePaths(after map[*inode]string) {
	for _, n := range inOrder(f.before) {
		if _, left := after[n]; left || !n.file() {
			continue
		}
		f.rec.LostFiles++
		p := n.pending()
		f.rec.PendingPages += p.pages
		f.rec.DroppedPages += p.pages
		f.rec.PendingBytes += p.bytes
		f.rec.DroppedBytes += p.bytes
		f.rec.LostBytes += n.size
		f.rec.Files = append(f.rec.Files, cluster.DroppedFile{Path: f.before[n], Lost: true, SizeBefore: n.size, Dropped: ranges(n.undurable(), n.size)})
	}
}

// loseData decides what of the pending data survives, in all files that are left.
func (f *failure) loseData(after map[*inode]string) {
	for _, n := range inOrder(after) {
		if n.clean() {
			continue
		}
		was := n.size
		p := n.pending()
		touched := pageBytes(n.undurable(), was)
		fate := n.fail(f.rng, f.chance)
		f.rec.PendingPages += p.pages
		f.rec.PendingBytes += p.bytes
		f.rec.KeptPages += len(fate.kept)
		f.rec.DroppedPages += len(fate.dropped)
		file := cluster.DroppedFile{Path: after[n], SizeBefore: was, SizeAfter: n.size, Dropped: ranges(fate.dropped, was), Untruncated: fate.untruncated}
		for _, i := range fate.dropped {
			f.rec.DroppedBytes += touched[i]
		}
		for _, i := range fate.kept { // a page that survived beyond the new end has lost its tail
			f.rec.DroppedBytes += touched[i] - max(0, min(touched[i], n.size-int64(i)*PageSize))
		}
		file.Torn = len(fate.kept) > 0 && (len(fate.dropped) > 0 || n.size < was)
		if len(fate.dropped) > 0 || n.size != was {
			f.rec.Files = append(f.rec.Files, file)
		}
	}
}

// pageBytes says how much of a file of that size is in each of the pages.
func pageBytes(pages []int, size int64) map[int]int64 {
	m := map[int]int64{}
	for _, i := range pages {
		m[i] = min(PageSize, size-int64(i)*PageSize)
	}
	return m
}

// ranges joins neighbouring pages.
func ranges(pages []int, size int64) []cluster.DroppedRange {
	var out []cluster.DroppedRange
	for _, i := range pages {
		at := int64(i) * PageSize
		length := min(PageSize, size-at)
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length == at {
			out[n-1].Length += length
			continue
		}
		out = append(out, cluster.DroppedRange{Offset: at, Length: length})
	}
	return out
}

// restart makes what is durable visible, and forgets everything else.
func (fs *FS) restart(after map[*inode]string) {
	for _, n := range fs.nodes {
		if _, left := after[n]; !left {
			n.lost = true
			n.data, n.now, n.disk = data{}, map[string]*inode{}, map[string]*inode{}
		}
		n.links, n.diskLinks, n.parent, n.label = 0, 0, nil, ""
	}
	fs.root.links, fs.root.diskLinks = 1, 1
	for n := range after {
		if !n.dir() {
			continue
		}
		n.now = map[string]*inode{}
		for name, c := range n.disk {
			n.now[name] = c
			c.links++
			c.diskLinks++
			c.parent, c.label = n, name
		}
	}
	for _, n := range fs.nodes {
		fs.collect(n)
	}
}
