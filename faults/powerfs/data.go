package powerfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// maxSizes is how many of a file's intermediate sizes are kept between two syncs, for torn appends; the oldest go first.
const maxSizes = 256

// page is shared between what is seen and what is durable until it is written to again.
type page = [PageSize]byte

// data is a file's content: what is seen, what is durable, and what tells them apart.
type data struct {
	pages []*page // nil is a hole
	size  int64
	dirty map[int]struct{} // pages written since the last sync
	// ghosts are pages whose sync has failed: they are seen, count as clean, and a later sync does not write them, as Linux has it.
	ghosts map[int]struct{}

	diskPages []*page
	diskSize  int64

	// low is the smallest size since the last sync: what is durable above it was truncated. It never exceeds diskSize.
	low int64
	// sizes are those that the file has had on its way up since then: an append that was torn ends at one of them, or between two pages.
	sizes []int64
}

func pagesFor(size int64) int { return int((size + PageSize - 1) / PageSize) }

func (d *data) read(p []byte, off int64) int {
	if off >= d.size {
		return 0
	}
	p = p[:min(int64(len(p)), d.size-off)]
	n := 0
	for n < len(p) {
		i, o := int((off+int64(n))/PageSize), int((off+int64(n))%PageSize)
		part := p[n:min(len(p), n+PageSize-o)]
		if pg := d.pages[i]; pg == nil {
			clear(part)
		} else {
			copy(part, pg[o:])
		}
		n += len(part)
	}
	return n
}

func (d *data) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	if end > d.size {
		d.grow(end)
	}
	for n := 0; n < len(p); {
		i, o := int((off+int64(n))/PageSize), int((off+int64(n))%PageSize)
		n += copy(d.own(i)[o:], p[n:])
	}
}

// own gives a page that may be written to.
func (d *data) own(i int) *page {
	if _, mine := d.dirty[i]; mine {
		return d.pages[i]
	}
	pg := &page{}
	if old := d.pages[i]; old != nil {
		*pg = *old
	}
	if d.dirty == nil {
		d.dirty = map[int]struct{}{}
	}
	d.pages[i], d.dirty[i] = pg, struct{}{}
	delete(d.ghosts, i)
	return pg
}

// forget is a sync that has failed: what it should have written will never be, unless it is written to again. The size stays pending.
func (d *data) forget() {
	if d.ghosts == nil {
		d.ghosts = map[int]struct{}{}
	}
	for i := range d.dirty {
		d.ghosts[i] = struct{}{}
	}
	clear(d.dirty)
}

func (d *data) grow(size int64) {
	d.pages = append(d.pages, make([]*page, pagesFor(size)-len(d.pages))...)
	d.size = size
	if len(d.sizes) == maxSizes {
		d.sizes = slices.Delete(d.sizes, 0, maxSizes/2)
	}
	d.sizes = append(d.sizes, size)
}

// truncate sets the size, either way.
func (d *data) truncate(size int64) {
	if size >= d.size {
		if size > d.size {
			d.grow(size)
		}
		return
	}
	d.pages = cut(d.pages, size)
	for i := range d.dirty {
		if int64(i)*PageSize >= size {
			delete(d.dirty, i)
		}
	}
	for i := range d.ghosts {
		if start := int64(i) * PageSize; start >= size {
			delete(d.ghosts, i)
		} else if start+PageSize > size {
			d.own(i) // the kernel writes zeros beyond the end
		}
	}
	d.size, d.low, d.sizes = size, min(d.low, size), nil
}

// cut shortens pages to a size; what the last page holds beyond it reads as zeros. The last page is a copy.
func cut(pages []*page, size int64) []*page {
	n := min(pagesFor(size), len(pages))
	out := slices.Clone(pages[:n])
	if n == pagesFor(size) && size%PageSize != 0 {
		out[n-1] = tail(out[n-1], size)
	}
	return out
}

// tail is a copy of the page that holds the end of a file of that size, with zeros beyond it.
func tail(p *page, size int64) *page {
	if p == nil {
		return nil
	}
	c := *p
	clear(c[size%PageSize:])
	return &c
}

// persist makes what is seen durable.
func (d *data) persist() {
	if d.clean() {
		return
	}
	keep := pagesFor(d.low) // durable pages below low are only replaced where they are dirty
	if d.low%PageSize != 0 {
		keep--
	}
	if d.low == d.diskSize {
		keep = len(d.diskPages)
	}
	keep = min(keep, len(d.diskPages), len(d.pages))
	ghosts := d.underGhosts()
	d.diskPages = append(d.diskPages[:keep], d.pages[keep:]...)
	for i := range d.dirty {
		d.diskPages[i] = d.pages[i]
	}
	for i, pg := range ghosts {
		d.diskPages[i] = pg
	}
	clear(d.dirty)
	d.diskSize, d.low, d.sizes = d.size, d.size, nil
}

// underGhosts is what the disk holds where syncs have failed, as the sync that works now leaves it.
func (d *data) underGhosts() map[int]*page {
	if len(d.ghosts) == 0 {
		return nil
	}
	out := map[int]*page{}
	for i := range d.ghosts {
		out[i] = nil
		start := int64(i) * PageSize
		switch {
		case i >= len(d.diskPages) || start >= d.low:
		case start+PageSize > d.low:
			out[i] = tail(d.diskPages[i], d.low)
		default:
			out[i] = d.diskPages[i]
		}
	}
	return out
}

func (d *data) clean() bool {
	return len(d.dirty)+len(d.ghosts) == 0 && d.size == d.diskSize && d.low == d.diskSize
}

// pendingData counts what is not durable.
type pendingData struct {
	pages int
	bytes int64
}

func (d *data) pending() pendingData {
	p := pendingData{pages: len(d.dirty) + len(d.ghosts)}
	for _, i := range d.undurable() {
		p.bytes += min(PageSize, d.size-int64(i)*PageSize)
	}
	return p
}

// fate is what a power failure made of a file's pending data.
type fate struct {
	kept, dropped []int // pages that were not durable
	size          int64
	truncated     bool // a pending truncation has survived
	untruncated   bool // one has not
}

// fail decides what survives and leaves it as both what is seen and what is durable. chance is the probability, 0 to 1, of each survival.
//
// A truncation comes before whatever was written above it: if it does not survive, nothing of that does.
func (d *data) fail(rng *rand.Rand, chance float64) fate {
	f := fate{}
	base, limit := d.diskPages, d.diskSize
	above := int64(maxFile) // dirty pages that reach above it are lost
	if d.low < d.diskSize {
		if f.truncated = lucky(rng, chance); f.truncated {
			base, limit = cut(d.diskPages, d.low), d.low
		} else {
			f.untruncated = true
			above = d.low
		}
	}
	f.size = limit
	if !f.untruncated {
		f.size = d.survivingSize(rng, chance, limit)
	}
	pages := slices.Concat(base, make([]*page, max(0, pagesFor(f.size)-len(base))))
	for _, i := range d.dirtyInOrder() {
		start := int64(i) * PageSize
		reaches := min(start+PageSize, d.size) > above
		if survives := lucky(rng, chance); survives && !reaches && start < f.size {
			pages[i] = d.pages[i]
			f.kept = append(f.kept, i)
		} else {
			f.dropped = append(f.dropped, i)
		}
	}
	for i := range d.ghosts {
		f.dropped = append(f.dropped, i)
	}
	slices.Sort(f.dropped)
	pages = cut(pages, f.size)
	d.pages, d.size, d.dirty, d.ghosts, d.sizes = pages, f.size, nil, nil, nil
	d.diskPages, d.diskSize, d.low = slices.Clone(pages), f.size, f.size
	return f
}

// survivingSize chooses how much of an extension survives: all of it, or up to an earlier append or the end of a page.
func (d *data) survivingSize(rng *rand.Rand, chance float64, base int64) int64 {
	if d.size <= base || lucky(rng, chance) {
		return d.size
	}
	if chance <= 0 {
		return base
	}
	torn := []int64{base}
	for _, s := range d.sizes {
		if s > base && s < d.size {
			torn = append(torn, s)
		}
	}
	for _, i := range d.dirtyInOrder() {
		if s := int64(i) * PageSize; s > base && s < d.size {
			torn = append(torn, s)
		}
	}
	return torn[rng.IntN(len(torn))]
}

func (d *data) dirtyInOrder() []int { return slices.Sorted(maps.Keys(d.dirty)) }

// undurable lists the pages that are seen and not durable, those included that no sync will write any more.
func (d *data) undurable() []int {
	out := slices.AppendSeq(d.dirtyInOrder(), maps.Keys(d.ghosts))
	slices.Sort(out)
	return out
}

// lucky is never true for chance 0 and always for 1. It always takes one number, so that one decision does not shift the others.
func lucky(rng *rand.Rand, chance float64) bool { return rng.Float64() < chance }
