package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoCut says that a stream cannot be cut off behind its intact part, and why.
var ErrNoCut = errors.New("the stream cannot be cut off at its damage")

// A log's record is an entry of Raft, little endian; a message in it begins with a byte that says so:
//
//	leader(8) term(8) commit(8) last_term(8) last_index(8) count(2) { length(4) type(1) data } ...
//	streamMsgOp(1) last_sequence(8) timestamp(8) subject_length(2) subject ...
const (
	entriesHead  = 42
	entryNormal  = 0
	streamMsgOp  = 4
	msgHead      = 19
	marksKept    = 256 // of the newest readable messages
	snapshotHead = 20  // term(8) index(8) length of the peers' state(4)
)

// The state of a stream in a snapshot of its group: magic(1) version(1), then varints: messages, bytes, first and last sequence, refused proposals, ...
const (
	stateMagic      = 42
	stateMinVersion = 1
	stateMaxVersion = 2 // sources behind the varints
)

// Cut is where a damaged stream is to be cut off so that what remains is whole.
type Cut struct {
	Block  uint32
	Path   string   // of that block
	Size   int64    // bytes of the block that remain; 0 where all of it must go
	Behind []string // paths of the blocks behind it
	Intact uint64   // the last sequence that remains; 0 where nothing does

	marks map[string]bool // messages by which its Raft log is known
}

// mark names a message. Raft gives every message of a stream its own time, in nanoseconds.
func mark(ts int64, subject []byte) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(ts))) + string(subject)
}

// Cut finds where the damage of a stopped stream begins. nats-server goes on behind the damage, where messages are left, and the replay of the Raft log
// skips all that is older than the newest message; with everything behind the damage gone, it brings all of it back. Error: ErrNoCut where blocks are missing
// or disagree with a current index.db, and where the stream gets its messages from other streams; else one of reading.
func (s Stream) Cut(ctx context.Context) (Cut, error) {
	a, err := s.Audit(ctx)
	if err != nil {
		return Cut{}, err
	}
	if len(a.Damaged) == 0 {
		return Cut{}, fmt.Errorf("%w: there is none", ErrNoCut)
	}
	for _, d := range a.Damaged {
		if d.Block == 0 || d.Kind != Checksum && d.Kind != Unreadable && d.Kind != EmptyBlock {
			return Cut{}, fmt.Errorf("%w: %s", ErrNoCut, d.Why)
		}
	}
	if err := s.ownMessages(); err != nil {
		return Cut{}, err
	}
	first := slices.MinFunc(a.Damaged, func(a, b Damage) int {
		if a.Block != b.Block {
			return int(a.Block) - int(b.Block)
		}
		return int(a.Offset - b.Offset)
	})
	return s.cutAt(ctx, first)
}

// ownMessages refuses mirrors and streams with sources: the log of another stream holds the same messages with the same times.
func (s Stream) ownMessages() error {
	var c struct {
		Mirror  *json.RawMessage  `json:"mirror"`
		Sources []json.RawMessage `json:"sources"`
	}
	b, err := readFile(filepath.Join(s.Dir, metaFile), maxMetaFile)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeta, err)
	}
	if c.Mirror != nil || len(c.Sources) > 0 {
		return fmt.Errorf("%w: it gets its messages from other streams", ErrNoCut)
	}
	return nil
}

func (s Stream) cutAt(ctx context.Context, at Damage) (Cut, error) {
	c := Cut{Block: at.Block, marks: map[string]bool{}}
	var order []string // of the marks, oldest first
	dir := blockDir(s.Dir)
	files, err := blockFiles(dir)
	if err != nil {
		return Cut{}, fmt.Errorf("cut %s: list blocks: %w", s.Target(), err)
	}
	var load loader
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return Cut{}, fmt.Errorf("read blocks: %w", err)
		}
		l, err := load.load(f.path)
		if err != nil {
			return Cut{}, fmt.Errorf("cut %s: %w", s.Target(), err)
		}
		end := int64(len(l.buf)) // of what remains of this block
		switch {
		case f.index > c.Block:
			c.Behind = append(c.Behind, f.path)
			end = 0
		case f.index == c.Block:
			c.Path = f.path
			if end = 0; int64(len(l.buf)) == l.fileSize { // else it is compressed
				end = at.Offset
			}
			c.Size = end
		}
		h, err := newHash(s.Config.Name + "-" + strconv.FormatUint(uint64(f.index), 10))
		if err != nil {
			return Cut{}, err
		}
		scan(l.buf, h, c.Intact, func(x raw) {
			if int64(x.off+x.size) <= end {
				c.Intact = max(c.Intact, x.seq&^seqBits)
			}
			if x.seq&seqBits == 0 && len(x.subject) > 0 {
				order = append(order, mark(x.ts, x.subject))
			}
		})
		order = order[max(0, len(order)-marksKept):]
	}
	if c.Path == "" {
		return Cut{}, fmt.Errorf("%w: there is no block %d", ErrNoCut, c.Block)
	}
	for _, m := range order {
		c.marks[m] = true
	}
	return c, nil
}

// Replays tells whether s, the log of a Raft group, is that of the stream and brings back everything behind the cut: its newest snapshot is not of later than
// what remains, or it has none and the log goes back to its first entry. The log itself must be whole, see Audit.
func (s Stream) Replays(ctx context.Context, c Cut) (bool, error) {
	if s.Err != nil {
		return false, s.Err
	}
	files, err := blockFiles(blockDir(s.Dir))
	if err != nil {
		return false, fmt.Errorf("read the log of %s: %w", s.Name, err)
	}
	ours, first := false, uint64(0)
	var load loader
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("read blocks: %w", err)
		}
		l, err := load.load(f.path)
		if err != nil {
			return false, fmt.Errorf("read the log of %s: %w", s.Name, err)
		}
		h, err := newHash(s.Config.Name + "-" + strconv.FormatUint(uint64(f.index), 10))
		if err != nil {
			return false, err
		}
		scan(l.buf, h, 0, func(x raw) {
			if x.seq&seqBits != 0 {
				return
			}
			if first == 0 {
				first = x.seq
			}
			ours = ours || carries(x.payload, c.marks)
		})
	}
	if !ours {
		return false, nil
	}
	last, index, err := s.snapshotOf()
	if err != nil {
		return false, err
	}
	// Without an entry right behind the snapshot something of the log is missing.
	return last <= c.Intact && first <= index+1, nil
}

// carries tells whether one of the messages in the entry is among the marks.
func carries(entry []byte, marks map[string]bool) bool {
	if len(entry) < entriesHead {
		return false
	}
	n, b := int(binary.LittleEndian.Uint16(entry[entriesHead-2:])), entry[entriesHead:]
	for range n {
		if len(b) < 4 {
			return false
		}
		size := int(binary.LittleEndian.Uint32(b))
		if b = b[4:]; size < 1 || size > len(b) {
			return false
		}
		e := b[:size]
		b = b[size:]
		if len(e) < 1+msgHead || e[0] != entryNormal || e[1] != streamMsgOp {
			continue
		}
		subj := int(binary.LittleEndian.Uint16(e[18:]))
		if len(e) < 1+msgHead+subj {
			continue
		}
		if marks[mark(int64(binary.LittleEndian.Uint64(e[10:])), e[1+msgHead:1+msgHead+subj])] {
			return true
		}
	}
	return false
}

// snapshotOf returns the last sequence that the newest snapshot of a stream's Raft group tells of, and the index of the last entry in it; zeros for none.
func (s Stream) snapshotOf() (last, index uint64, err error) {
	files, _ := filepath.Glob(filepath.Join(s.Dir, snapshotsDir, snapshotGlob)) // the pattern is well-formed
	newest, term := "", uint64(0)
	for _, f := range files {
		part := strings.Split(filepath.Base(f), ".")
		if len(part) != 3 {
			continue
		}
		t, errTerm := strconv.ParseUint(part[1], 10, 64)
		i, errIndex := strconv.ParseUint(part[2], 10, 64)
		if errTerm != nil || errIndex != nil || newest != "" && (t < term || t == term && i < index) {
			continue
		}
		newest, term, index = f, t, i
	}
	if newest == "" {
		return 0, 0, nil
	}
	b, err := readFile(newest, maxSnapshot)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, 0, err
	}
	last, ok := snapshotLast(b)
	if !ok {
		return 0, 0, fmt.Errorf("%w: the snapshot %s has no state of a stream that is known here", ErrNoCut, filepath.Base(newest))
	}
	return last, index, nil
}

// snapshotLast is the last sequence of the stream in a snapshot of its group.
func snapshotLast(b []byte) (uint64, bool) {
	if len(b) < snapshotHead+sumLen {
		return 0, false
	}
	data, peers := b[snapshotHead:len(b)-sumLen], uint64(binary.LittleEndian.Uint32(b[snapshotHead-4:]))
	if peers > uint64(len(data)) {
		return 0, false
	}
	b = data[peers:]
	if len(b) < 2 || b[0] != stateMagic || b[1] < stateMinVersion || b[1] > stateMaxVersion {
		return 0, false
	}
	r := reader{b: b[2:]}
	_, _, _ = r.uvarint(), r.uvarint(), r.uvarint()
	last := r.uvarint()
	if _ = r.uvarint(); r.bad { // a state that is cut short has none of its numbers
		return 0, false
	}
	return last, true
}
