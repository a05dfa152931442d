package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
)

// Formats of index.db (the state of a whole stream, since 2.10), of N.idx (the state of a block, before 2.10), and of the set of
// deleted sequences inside of both.
const (
	indexMagic      = 11
	indexMinVersion = 1
	indexMaxVersion = 4
	indexTTLs       = 2 // since this version: count of TTLs per block
	indexSchedules  = 3 // count of schedules per block
	indexLastBlock  = 4 // last block of every subject, not only of those with more than one message
	minIndexFile    = 32

	idxMagic      = 22
	idxOldVersion = 1
	idxVersion    = 2

	setMagic     = 22
	setHead      = 10
	setOldWords  = 64 // version 1
	setWords     = 32 // version 2
	bitsPerWord  = 64
	setNodeSpan  = setWords * bitsPerWord
	maxIdxInline = 1 << 24 // deleted sequences in an old N.idx
)

var errIndex = errors.New("the index is not readable")

// seqSet is a set of sequences: bitmaps by the first sequence that they speak of.
type seqSet map[uint64]*[setWords]uint64

func (s seqSet) has(seq uint64) bool {
	n := s[seq/setNodeSpan*setNodeSpan]
	return n != nil && n[seq%setNodeSpan/bitsPerWord]&(1<<(seq%bitsPerWord)) != 0
}

func (s seqSet) add(seq uint64) {
	base := seq / setNodeSpan * setNodeSpan
	n := s[base]
	if n == nil {
		n = new([setWords]uint64)
		s[base] = n
	}
	n[seq%setNodeSpan/bitsPerWord] |= 1 << (seq % bitsPerWord)
}

// decodeSet returns the set at the beginning of b and what is behind it.
func decodeSet(b []byte) (seqSet, []byte, error) {
	if len(b) < setHead || b[0] != setMagic || b[1] != 1 && b[1] != 2 {
		return nil, nil, fmt.Errorf("%w: set of deleted sequences", errIndex)
	}
	words := setWords
	if b[1] == 1 {
		words = setOldWords
	}
	nodes, size := uint64(binary.LittleEndian.Uint32(b[2:])), 8+8*words+2
	b = b[setHead:]
	if nodes > uint64(len(b)/size) {
		return nil, nil, fmt.Errorf("%w: set of deleted sequences is cut short", errIndex)
	}
	s := make(seqSet, nodes)
	for range nodes {
		base := binary.LittleEndian.Uint64(b)
		if base%uint64(words*bitsPerWord) != 0 {
			return nil, nil, fmt.Errorf("%w: set of deleted sequences is out of step", errIndex)
		}
		for i := range words {
			if w := binary.LittleEndian.Uint64(b[8+8*i:]); w != 0 {
				at := base + uint64(i)*bitsPerWord
				s.add(at) // makes the node
				n := s[at/setNodeSpan*setNodeSpan]
				n[at%setNodeSpan/bitsPerWord] = w
			}
		}
		b = b[size:]
	}
	return s, b, nil
}

// indexBlock is what an index says of one block.
type indexBlock struct {
	index       uint32
	bytes       uint64
	first, last uint64
	deleted     seqSet
	numDeleted  uint64
}

func (b indexBlock) msgs() uint64 {
	if n := b.last - b.first + 1; n > b.numDeleted {
		return n - b.numDeleted
	}
	return 0
}

// indexState is a decoded index.db.
type indexState struct {
	msgs, bytes uint64
	first, last uint64
	blocks      []indexBlock
	lastBlock   uint32
	lastSum     [sumLen]byte
}

// reader decodes varints; after the first error everything is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() {
	_, n := binary.Varint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return
	}
	r.b = r.b[n:]
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// readIndex reads index.db; the error wraps os.ErrNotExist where there is none and errIndex where it is not one.
func readIndex(dir, stream string) (*indexState, error) {
	b, err := readFile(filepath.Join(dir, indexFile), maxIndexFile)
	if err != nil {
		return nil, err
	}
	if len(b) < minIndexFile {
		return nil, fmt.Errorf("%w: too short", errIndex)
	}
	h, err := newHash(stream)
	if err != nil {
		return nil, err
	}
	b, sum := b[:len(b)-sumLen], b[len(b)-sumLen:]
	_, _ = h.Write(b) // a hash never fails to write
	if !bytes.Equal(h.Sum(nil), sum) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errIndex)
	}
	return decodeIndex(b)
}

func decodeIndex(b []byte) (*indexState, error) {
	if len(b) < 2 || b[0] != indexMagic || b[1] < indexMinVersion || b[1] > indexMaxVersion {
		return nil, fmt.Errorf("%w: unknown version", errIndex)
	}
	version := b[1]
	r := &reader{b: b[2:]}
	x := &indexState{msgs: r.uvarint(), bytes: r.uvarint(), first: r.uvarint()}
	r.varint() // time of the first message
	x.last = r.uvarint()
	r.varint() // time of the last one
	skipSubjects(r, version)
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		return nil, fmt.Errorf("%w: bad count of blocks", errIndex)
	}
	for range n {
		blk, err := decodeIndexBlock(r, version)
		if err != nil {
			return nil, err
		}
		x.blocks = append(x.blocks, blk)
	}
	x.lastBlock = uint32(r.uvarint())
	copy(x.lastSum[:], r.bytes(sumLen))
	if r.bad {
		return nil, fmt.Errorf("%w: cut short", errIndex)
	}
	return x, nil
}

// skipSubjects reads over the subjects: who has them can be told from the messages.
func skipSubjects(r *reader, version byte) {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
	}
	for i := uint64(0); i < n && !r.bad; i++ {
		l := r.uvarint()
		if l == 0 {
			continue
		}
		r.bytes(l)
		total := r.uvarint()
		r.uvarint()
		if total > 1 || version >= indexLastBlock {
			r.uvarint()
		}
	}
}

func decodeIndexBlock(r *reader, version byte) (indexBlock, error) {
	var b indexBlock
	b.index, b.bytes = uint32(r.uvarint()), r.uvarint()
	b.first = r.uvarint()
	r.varint()
	b.last = r.uvarint()
	r.varint()
	b.numDeleted = r.uvarint()
	if version >= indexTTLs {
		r.uvarint()
	}
	if version >= indexSchedules {
		r.uvarint()
	}
	if r.bad {
		return b, fmt.Errorf("%w: cut short", errIndex)
	}
	if b.numDeleted > 0 {
		var err error
		if b.deleted, r.b, err = decodeSet(r.b); err != nil {
			return b, err
		}
	}
	return b, nil
}

// consistent tells whether the blocks of the index add up to its totals, as nats-server asks before it believes it.
func (x *indexState) consistent() bool {
	var msgs, size, last, first uint64
	for i, b := range x.blocks {
		if b.msgs() == 0 && i != len(x.blocks)-1 {
			continue
		}
		if first == 0 || b.first < first {
			first = b.first
		}
		msgs, size, last = msgs+b.msgs(), size+b.bytes, max(last, b.last)
	}
	if msgs != x.msgs || size != x.bytes || last != x.last {
		return false
	}
	return first <= 1 || first == x.first
}

// readBlockIndex reads N.idx. sum is the checksum of the last record that it knows.
func readBlockIndex(blockPath string, index uint32) (b indexBlock, sum [sumLen]byte, err error) {
	buf, err := readFile(filepath.Join(filepath.Dir(blockPath), fmt.Sprintf("%d.idx", index)), maxIndexFile)
	if err != nil {
		return b, sum, err
	}
	return decodeBlockIndex(buf, index)
}

func decodeBlockIndex(buf []byte, index uint32) (b indexBlock, sum [sumLen]byte, err error) {
	if len(buf) < 2 || buf[0] != idxMagic || buf[1] != idxOldVersion && buf[1] != idxVersion {
		return b, sum, fmt.Errorf("%w: unknown version", errIndex)
	}
	r := &reader{b: buf[2:]}
	msgs := r.uvarint() &^ erasedBit
	b = indexBlock{index: index, bytes: r.uvarint() &^ erasedBit}
	b.first = r.uvarint() &^ erasedBit
	r.varint()
	b.last = r.uvarint() &^ erasedBit
	r.varint()
	b.numDeleted = r.uvarint() &^ erasedBit
	copy(sum[:], r.bytes(sumLen))
	if r.bad || msgs != b.last-b.first+1-b.numDeleted {
		return b, sum, fmt.Errorf("%w: it does not add up", errIndex)
	}
	switch {
	case b.numDeleted == 0:
	case buf[1] == idxVersion:
		b.deleted, _, err = decodeSet(r.b)
	case b.numDeleted > maxIdxInline:
		err = fmt.Errorf("%w: too many deleted sequences", errIndex)
	default:
		b.deleted = seqSet{}
		for range b.numDeleted {
			seq := r.uvarint() &^ erasedBit
			if r.bad || seq == 0 {
				break
			}
			b.deleted.add(b.first + seq)
		}
	}
	return b, sum, err
}

func sortBlocks(bs []blockFile) {
	sort.Slice(bs, func(i, j int) bool { return bs[i].index < bs[j].index })
}
