package store

import (
	"bytes"
	"encoding/binary"

	"github.com/minio/highwayhash"
)

// A record in a block, little endian:
//
//	length(4) sequence(8) timestamp(8) subject_length(2) subject [header_length(4) header] payload checksum(8)
//
// The length is that of the whole record; its highest bit says that there is a header. The checksum covers sequence, timestamp,
// subject, header and payload, but not the three lengths: a flipped bit in the subject's or the header's length moves the border
// between two fields and the checksum still holds. Only the comparison with another replica's digest shows that.
const (
	fixedLen  = 22
	sumLen    = 8
	minRecord = fixedLen + sumLen
	maxRecord = 32 << 20 // nats-server calls anything longer corrupt

	headerBit    = 1 << 31 // in the length
	erasedBit    = 1 << 63 // in the sequence: the record is a placeholder, its content is gone
	tombstoneBit = 1 << 62 // in the sequence: the message with that sequence, here or in an earlier block, is deleted
	seqBits      = erasedBit | tombstoneBit
)

// Limits of the search for the next good record behind a bad one.
const (
	maxChain      = 64 // bad records in a row whose lengths are believed
	maxSeqJump    = 1 << 40
	minTime       = 100_000_000 * 1_000_000_000 // 1973, in nanoseconds: no server's clock is before that
	shortRecord   = 1 << 10                     // tried first
	mediumRecord  = 1 << 16                     // tried first where something like records follows
	followers     = 3
	resyncFactor  = 32      // bytes hashed in search, as a multiple of the block
	resyncMinimum = 8 << 20 // but at least so many
)

// raw is a record as it stands in a block. The slices point into the block.
type raw struct {
	off, size int
	seq       uint64 // with its bits
	ts        int64
	subject   []byte
	header    []byte
	payload   []byte
}

// gap is a stretch of a block that holds no readable record.
type gap struct {
	off, size int
	seq       uint64 // guess; 0 for none
	tombstone bool
	overrun   bool // the block ends before the record does
	why       string
}

// frame decodes the lengths of the record at off. It is not ok where they cannot be those of a record.
func frame(buf []byte, off int) (size, subj int, header, ok bool) {
	if len(buf)-off < fixedLen {
		return 0, 0, false, false
	}
	l := binary.LittleEndian.Uint32(buf[off:])
	header = l&headerBit != 0
	size = int(l &^ headerBit)
	subj = int(binary.LittleEndian.Uint16(buf[off+20:]))
	need := subj + minRecord
	if header {
		need += 4
	}
	ok = size >= need && size <= maxRecord
	return size, subj, header, ok
}

// parse decodes and verifies the record at off. why is "" for a good one.
func parse(buf []byte, off int, h *highwayhash.Digest64) (r raw, why string) {
	size, subj, header, ok := frame(buf, off)
	switch {
	case len(buf)-off < fixedLen:
		return raw{}, "the block ends inside of a record's head"
	case !ok:
		return raw{}, "the record's length is impossible"
	case size > len(buf)-off:
		return raw{}, "the block ends before the record does"
	}
	rec := buf[off : off+size]
	body := rec[fixedLen+subj : size-sumLen]
	if header {
		body = body[4:]
	}
	if h != nil && !verify(h, rec, subj, body) {
		return raw{}, "the record's checksum is wrong"
	}
	r = raw{
		off: off, size: size,
		seq:     binary.LittleEndian.Uint64(rec[4:]),
		ts:      int64(binary.LittleEndian.Uint64(rec[12:])),
		subject: rec[fixedLen : fixedLen+subj],
		payload: body,
	}
	if header {
		n := uint64(binary.LittleEndian.Uint32(rec[fixedLen+subj:]))
		if n > uint64(len(body)) {
			return raw{}, "the header is longer than the record"
		}
		r.header, r.payload = body[:n], body[n:]
	}
	if bytes.ContainsAny(r.subject, " \t\r\n\x00") {
		return raw{}, "the subject is none"
	}
	return r, ""
}

func verify(h *highwayhash.Digest64, rec []byte, subj int, body []byte) bool {
	var sum [sumLen]byte
	h.Reset()
	_, _ = h.Write(rec[4:20]) // a hash never fails to write
	_, _ = h.Write(rec[fixedLen : fixedLen+subj])
	_, _ = h.Write(body)
	return bytes.Equal(h.Sum(sum[:0]), rec[len(rec)-sumLen:])
}

// scan calls visit for every good record of a block, in order, and returns what lies between them. floor is the last sequence of
// the block before, for the guesses.
func scan(buf []byte, h *highwayhash.Digest64, floor uint64, visit func(raw)) []gap {
	s := scanner{buf: buf, hash: h, floor: floor, budget: max(resyncFactor*len(buf), resyncMinimum)}
	for off := 0; off < len(buf); {
		r, why := parse(buf, off, h)
		if why == "" {
			s.settle(r.seq)
			s.note(r.seq)
			visit(r)
			off += r.size
			continue
		}
		off = s.skip(off, why)
	}
	s.settle(0)
	return s.gaps
}

type scanner struct {
	buf    []byte
	hash   *highwayhash.Digest64
	budget int
	floor  uint64
	last   uint64 // sequence of the last good message
	gaps   []gap
	open   int // gaps from here on have no good record behind them yet
}

func (s *scanner) note(seq uint64) {
	if seq&tombstoneBit == 0 {
		s.last = max(s.last, seq&^seqBits)
	}
}

// skip records the bad stretch that begins at off and returns where the next good record begins, or the block's end.
func (s *scanner) skip(off int, why string) int {
	if next, ok := s.chain(off, why); ok {
		return next
	}
	next := s.resync(off + 1)
	size, _, _, ok := frame(s.buf, off)
	overrun := next == len(s.buf) && (len(s.buf)-off < fixedLen || ok && size > len(s.buf)-off)
	s.add(off, next-off, why, overrun)
	return next
}

// chain believes the lengths of a few bad records in a row if they lead to a good one, or exactly to the block's end.
func (s *scanner) chain(off int, why string) (int, bool) {
	type step struct {
		off, size int
		why       string
	}
	var steps []step
	for at := off; len(steps) < maxChain; {
		size, _, _, ok := frame(s.buf, at)
		if !ok || size > len(s.buf)-at {
			return 0, false
		}
		steps = append(steps, step{at, size, why})
		at += size
		if at < len(s.buf) {
			if s.budget -= minRecord; s.budget < 0 {
				return 0, false
			}
			if _, why = parse(s.buf, at, s.hash); why != "" {
				continue
			}
		}
		for _, st := range steps {
			s.add(st.off, st.size, st.why, false)
		}
		return at, true
	}
	return 0, false
}

// resync looks for the next good record byte by byte. What it may spend is bounded, so that garbage costs no more than a few
// times its size. Short records come first, because trying a long one is dear; a long one can only lie before the first short one.
func (s *scanner) resync(from int) int {
	end := s.first(from, len(s.buf), func(off, size int) bool {
		return size <= shortRecord || size <= mediumRecord && s.followed(off+size)
	})
	return s.first(from, end, func(off, size int) bool { return size > shortRecord && off+size <= end && s.followed(off+size) })
}

// first is the offset of the first good record between from and end that try does not leave out, or end.
func (s *scanner) first(from, end int, try func(off, size int) bool) int {
	for off := from; off < end && s.budget > 0; off++ {
		size, ok := s.candidate(off)
		if !ok || !try(off, size) {
			continue
		}
		s.budget -= size
		if _, why := parse(s.buf, off, s.hash); why == "" {
			return off
		}
	}
	return end
}

func (s *scanner) candidate(off int) (size int, ok bool) {
	size, _, _, ok = frame(s.buf, off)
	return size, ok && size <= len(s.buf)-off && s.plausible(off)
}

// followed tells whether the block ends at off or goes on with what may be records.
func (s *scanner) followed(off int) bool {
	for range followers {
		if off == len(s.buf) {
			return true
		}
		size, ok := s.candidate(off)
		if !ok {
			return false
		}
		off += size
	}
	return true
}

// plausible looks at sequence and time: hashing everything whose length could be one would cost too much.
func (s *scanner) plausible(off int) bool {
	seq := binary.LittleEndian.Uint64(s.buf[off+4:])
	if tomb := seq&tombstoneBit != 0; !tomb && seq&^seqBits <= s.last {
		return false
	}
	ts := int64(binary.LittleEndian.Uint64(s.buf[off+12:]))
	return seq&^seqBits < max(s.last, s.floor)+maxSeqJump && (ts == 0 || ts > minTime)
}

func (s *scanner) add(off, size int, why string, overrun bool) {
	g := gap{off: off, size: size, why: why, overrun: overrun}
	if len(s.buf)-off >= 12 {
		g.seq = binary.LittleEndian.Uint64(s.buf[off+4:])
		g.tombstone = g.seq&seqBits == tombstoneBit
	}
	s.gaps = append(s.gaps, g)
}

// settle turns the sequences that stand in the bad records into guesses: they must lie between their neighbours. next is the
// sequence of the good record behind them, 0 for the end of the block.
func (s *scanner) settle(next uint64) {
	if s.open == len(s.gaps) || next&tombstoneBit != 0 {
		return // behind a tombstone comes the record that tells more
	}
	next &^= seqBits
	low := s.last
	if low == 0 && (next == 0 || s.floor < next) {
		low = s.floor
	}
	for i := s.open; i < len(s.gaps); i++ {
		g := &s.gaps[i]
		if g.tombstone && g.seq&^seqBits <= s.last {
			g.seq &^= seqBits
			continue
		}
		g.tombstone = false
		g.seq = guess(g.seq&^seqBits, low, next)
		low = max(low, g.seq)
	}
	s.open = len(s.gaps)
}

func guess(seq, low, next uint64) uint64 {
	above := next == 0 || seq < next
	switch {
	case seq > low && above && (low == 0 || seq-low < maxSeqJump) && (low > 0 || next > 0 || seq < maxSeqJump):
		return seq
	case low > 0 && (next == 0 || low+1 < next):
		return low + 1
	case low == 0 && next > 1:
		return next - 1
	}
	return 0
}
