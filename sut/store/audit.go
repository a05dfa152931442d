package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	snapshotsDir = "snapshots" // below a raft group
	snapshotGlob = "snap.*"
	maxSnapshot  = 1 << 30
)

// Audited is what an audit of one directory found.
type Audited struct {
	Bytes   int64    // read
	Damaged []Damage // what a crash alone does not explain, in order of block and offset
}

// Audit verifies the checksum of every record of a stopped stream or raft group, holds each block against a current index.db, and verifies the snapshots
// of a raft group. It does not compute what the copy holds: it keeps one block in memory at a time. The error is about reading (ErrEncrypted, an error of
// the file system, or that of ctx); meta data that cannot be read is damage.
//
// What it cannot see: records that were lost at the end of a block, exactly between two of them, while index.db is not current (after SIGKILL).
func (s Stream) Audit(ctx context.Context) (Audited, error) {
	if errors.Is(s.Err, ErrMeta) {
		if holdsNothing(s.Dir) {
			return Audited{}, nil
		}
		return Audited{Damaged: []Damage{{Kind: Unreadable, Why: s.Err.Error()}}}, nil
	}
	if s.Err != nil {
		return Audited{}, s.Err
	}
	r := &recovery{stream: s, asOf: time.Now(), subjects: map[string]uint32{}, ttls: map[uint64]int64{}, dir: blockDir(s.Dir)}
	if keys, _ := filepath.Glob(filepath.Join(r.dir, "*.key")); len(keys) > 0 { // the pattern is well-formed
		return Audited{}, ErrEncrypted
	}
	files, err := blockFiles(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Audited{}, fmt.Errorf("audit %s: list blocks: %w", s.Target(), err)
	}
	out := Audited{}
	if err := r.auditBlocks(ctx, files, &out); err != nil {
		return out, fmt.Errorf("audit %s: %w", s.Target(), err)
	}
	if err := s.auditSnapshots(ctx, &out); err != nil {
		return out, fmt.Errorf("audit %s: %w", s.Target(), err)
	}
	return out, nil
}

// holdsNothing is true for a directory that was just being made: the server writes the meta data first, in two files.
func holdsNothing(dir string) bool {
	files, err := blockFiles(blockDir(dir))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	for _, f := range files {
		if fi, err := os.Stat(f.path); err != nil || fi.Size() > 0 {
			return false
		}
	}
	return true
}

func (r *recovery) auditBlocks(ctx context.Context, files []blockFile, out *Audited) error {
	known, err := r.auditIndex(files)
	if err != nil {
		return err
	}
	stubs := r.blocks
	r.blocks = nil
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read blocks: %w", err)
		}
		if err := r.readBlock(f); err != nil {
			return err
		}
		b := r.blocks[0]
		out.Bytes += b.fileSize
		switch x, ok := known[f.index]; {
		case ok:
			b.adopt(x)
		case known != nil:
			b.damage = nil // left over: the server does not look at it
		case i != len(files)-1 && b.fileSize == 0 && len(b.damage) == 0:
			b.damage = append(b.damage, Damage{Block: b.index, Kind: EmptyBlock, Why: "the block's file is empty"})
		}
		stubs[i].damage = b.damage
		r.forget(b)
	}
	r.blocks = stubs
	if known == nil && filepath.Base(filepath.Dir(r.stream.Dir)) != raftDir { // a raft log is cut back in good health
		r.auditEnd()
	}
	r.collectDamage()
	for _, d := range r.damage {
		if !d.Crash {
			out.Damaged = append(out.Damaged, d)
		}
	}
	return nil
}

// auditIndex returns what a current index.db says of each block; nil where there is none.
func (r *recovery) auditIndex(files []blockFile) (map[uint32]indexBlock, error) {
	for _, f := range files {
		r.blocks = append(r.blocks, &block{blockFile: f})
	}
	if len(files) == 0 {
		return nil, nil
	}
	last := r.blocks[len(r.blocks)-1]
	last.tail = tailOf(last.path)
	x, err := readIndex(r.dir, r.stream.Config.Name)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errIndex) { // one that cannot be read is only a cache
		return nil, fmt.Errorf("read index: %w", err)
	}
	if x == nil || !r.current(x) {
		return nil, nil
	}
	known := make(map[uint32]indexBlock, len(x.blocks))
	for i, ib := range x.blocks {
		if ib.msgs() > 0 || i == len(x.blocks)-1 {
			known[ib.index] = ib
		}
	}
	return known, nil
}

// auditEnd compares the last sequence with an index.db that is not current but may know of a later one.
func (r *recovery) auditEnd() {
	x, err := readIndex(r.dir, r.stream.Config.Name)
	if err != nil || x == nil {
		return
	}
	r.last = max(r.newest(), r.maxTomb)
	if x.last > r.last {
		r.damage = append(r.damage, Damage{Kind: BehindIndex, Seq: r.last + 1, Block: x.lastBlock,
			Why: fmt.Sprintf("index.db remembers sequence %d, the blocks end at %d", x.last, r.last)})
	}
}

// tailOf reads the checksum that a block ends with; zeros where it cannot.
func tailOf(path string) (tail [sumLen]byte) {
	f, err := os.Open(path)
	if err != nil {
		return tail
	}
	defer func() { _ = f.Close() }() // opened for reading
	if fi, err := f.Stat(); err == nil && fi.Size() >= sumLen {
		if _, err := f.ReadAt(tail[:], fi.Size()-sumLen); err != nil && !errors.Is(err, io.EOF) {
			return [sumLen]byte{}
		}
	}
	return tail
}

// forget keeps of a block only its last sequence, which the guesses about the next one start from.
func (r *recovery) forget(b *block) {
	r.blocks = nil
	r.maxTomb = max(r.maxTomb, b.maxTomb)
	if n := len(b.recs); n > 0 {
		r.full = []*block{{recs: []rec{b.recs[n-1]}}}
	}
	clear(r.subjects)
	clear(r.ttls)
}

// auditSnapshots verifies the snapshots of a raft group, which end with a checksum of their own.
func (s Stream) auditSnapshots(ctx context.Context, out *Audited) error {
	files, _ := filepath.Glob(filepath.Join(s.Dir, snapshotsDir, snapshotGlob)) // the pattern is well-formed
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readFile(f, maxSnapshot)
		if err != nil {
			out.Damaged = append(out.Damaged, Damage{Kind: Unreadable, Why: err.Error()})
			continue
		}
		out.Bytes += int64(len(b))
		h, err := newHash(s.Name)
		if err != nil {
			return err
		}
		if len(b) >= sumLen {
			_, _ = h.Write(b[:len(b)-sumLen]) // a hash never fails to write
			if bytes.Equal(h.Sum(nil), b[len(b)-sumLen:]) {
				continue
			}
		}
		out.Damaged = append(out.Damaged, Damage{Kind: Checksum, Length: int64(len(b)), Why: "the checksum of " + filepath.Base(f) + " is wrong"})
	}
	return nil
}
