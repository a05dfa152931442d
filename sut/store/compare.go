package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"math/bits"
)

// Bounds of a comparison.
const (
	maxDifferences = 1000 // ranges that are listed; Sequences counts all
	maxCopies      = 64
)

// Difference is a range of sequences in which the copies differ in the same way.
type Difference struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Lack  []int  `json:"lack,omitempty"` // numbers of the copies that do not have the messages
	Vary  bool   `json:"vary"`           // the copies that have the messages do not have the same ones
}

// Comparison is what Compare found.
type Comparison struct {
	Sequences   uint64       `json:"sequences"` // how many differ
	Differences []Difference `json:"differences,omitempty"`
}

// Compare says in which sequences copies of one stream differ. It holds one message of each in memory.
func Compare(ctx context.Context, copies []Copy) (Comparison, error) {
	if len(copies) > maxCopies {
		return Comparison{}, fmt.Errorf("compare copies: %d are too many", len(copies))
	}
	cs := make([]*cursor, len(copies))
	for i, c := range copies {
		cs[i] = newCursor(ctx, c)
		defer cs[i].stop()
	}
	var out Comparison
	var prev pattern
	for {
		p, ok := nextPattern(cs)
		if !ok {
			break
		}
		if p.differs(len(cs)) {
			out.note(p, prev, len(cs))
		}
		prev = p
		for _, c := range cs {
			if c.ok && c.seq == p.seq {
				c.next()
			}
		}
	}
	for i, c := range cs {
		if c.err != nil {
			return Comparison{}, fmt.Errorf("compare copies: copy %d: %w", i+1, c.err)
		}
	}
	return out, nil
}

// cursor is the current message of one copy.
type cursor struct {
	pull func() (entry, bool)
	stop func()
	entry
	ok  bool
	err error
}

type entry struct {
	seq uint64
	sum [sha256.Size]byte
}

func newCursor(ctx context.Context, c Copy) *cursor {
	cur := &cursor{}
	cur.pull, cur.stop = iter.Pull(func(yield func(entry) bool) {
		var buf []byte
		cur.err = c.messages(ctx, func(m Message) bool {
			buf = appendMessage(buf[:0], m)
			return yield(entry{m.Seq, sha256.Sum256(buf)})
		})
	})
	cur.next()
	return cur
}

func (c *cursor) next() { c.entry, c.ok = c.pull() }

// pattern is who has a sequence: one bit per copy.
type pattern struct {
	seq  uint64
	has  uint64
	vary bool
}

func (p pattern) differs(n int) bool { return p.vary || bits.OnesCount64(p.has) < n }

// nextPattern looks at the lowest sequence that any cursor stands on.
func nextPattern(cs []*cursor) (p pattern, ok bool) {
	var first *cursor
	for _, c := range cs {
		if c.ok && (first == nil || c.seq < first.seq) {
			first = c
		}
	}
	if first == nil {
		return p, false
	}
	p.seq = first.seq
	for i, c := range cs {
		if c.ok && c.seq == p.seq {
			p.has |= 1 << i
			p.vary = p.vary || c.sum != first.sum
		}
	}
	return p, true
}

// note adds a sequence. It continues the last range where every sequence that any copy has differs in the same way: those that
// nobody has may lie in between.
func (c *Comparison) note(p, prev pattern, n int) {
	c.Sequences++
	last := len(c.Differences) - 1
	if last >= 0 && c.Differences[last].Last == prev.seq && prev.has == p.has && prev.vary == p.vary {
		c.Differences[last].Last = p.seq
		return
	}
	if last+1 >= maxDifferences {
		return
	}
	d := Difference{First: p.seq, Last: p.seq, Vary: p.vary}
	for i := range n {
		if p.has&(1<<i) == 0 {
			d.Lack = append(d.Lack, i)
		}
	}
	c.Differences = append(c.Differences, d)
}
