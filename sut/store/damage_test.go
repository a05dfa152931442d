package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/replicas"
	"github.com/unibus/unibus/sut/store"
)

// The stream that the tests of damage break: 32,000 byte blocks, records of damageRecord bytes, the sequence is the place.
const (
	damageStream  = "DMG"
	damageMsgs    = 1000
	damagePayload = 60
	damageRecord  = 30 + len(damageStream) + damagePayload
)

// damageStore fills a store once; every case breaks a copy of its own.
func damageStore(t *testing.T, sig syscall.Signal, compression jetstream.StoreCompression) string {
	t.Helper()
	s := newServer(t, "")
	s.create(jetstream.StreamConfig{Name: damageStream, Subjects: []string{damageStream}, MaxBytes: smallBlocks, Compression: compression})
	s.publish(damageMsgs, one(damageStream), damagePayload)
	if compression != jetstream.NoCompression {
		awaitCompressed(t, s, damageStream)
	}
	s.stop(sig)
	return s.dir
}

func cloned(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(root)))
	return dir
}

func flip(t *testing.T, path string, offset int64, mask byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	b[offset] ^= mask
	must(t, os.WriteFile(path, b, 0o600))
}

// blockOf finds the block and the offset of a sequence in an uncompressed store.
func blockOf(t *testing.T, root string, seq uint64) (path string, block uint32, off int64) {
	t.Helper()
	for i, p := range blockPaths(t, streamDir(root, damageStream)) {
		b, err := os.ReadFile(p)
		must(t, err)
		for off := 0; off < len(b); off += int(binary.LittleEndian.Uint32(b[off:])) {
			if binary.LittleEndian.Uint64(b[off+4:]) == seq {
				return p, uint32(i + 1), int64(off)
			}
		}
	}
	t.Fatalf("no sequence %d", seq)
	return "", 0, 0
}

// seqsIn lists the sequences in an intact, uncompressed block.
func seqsIn(t *testing.T, path string) map[uint64]bool {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	out := map[uint64]bool{}
	for off := 0; off < len(b); off += int(binary.LittleEndian.Uint32(b[off:])) {
		out[binary.LittleEndian.Uint64(b[off+4:])] = true
	}
	return out
}

func seqs(t *testing.T, c store.Copy) map[uint64]bool {
	t.Helper()
	out := map[uint64]bool{}
	must(t, c.Messages(func(m store.Message) bool { out[m.Seq] = true; return true }))
	return out
}

// TestFlippedBit flips one bit of one record, in every field that the checksum or the layout protects.
func TestFlippedBit(t *testing.T) {
	for _, how := range stops {
		t.Run(how.name, func(t *testing.T) {
			root := damageStore(t, how.signal, jetstream.NoCompression)
			if how.dropIndex {
				must(t, os.Remove(filepath.Join(streamDir(root, damageStream), "msgs", "index.db")))
			}
			good := readCopy(t, root, damageStream)
			fields := map[string]int64{
				"length": 0, "length, high": 2, "header bit": 3, "sequence": 4, "tombstone bit": 11, "time": 12,
				"subject": 22, "payload": 22 + int64(len(damageStream)) + 17, "checksum": int64(damageRecord) - 1,
			}
			for name, at := range fields {
				for _, seq := range []uint64{1, 2, 345, 346, damageMsgs - 1, damageMsgs} {
					t.Run(fmt.Sprintf("%s of %d", name, seq), func(t *testing.T) {
						oneFlip(t, cloned(t, root), good, seq, at)
					})
				}
			}
		})
	}
}

func oneFlip(t *testing.T, root string, good store.Copy, seq uint64, at int64) {
	path, block, off := blockOf(t, root, seq)
	flip(t, path, off+at, 0x40)
	c := readCopy(t, root, damageStream)
	var d *store.Damage
	for i := range c.Damaged {
		if c.Damaged[i].Kind == store.Checksum || c.Damaged[i].Kind == store.Torn {
			if d != nil {
				t.Errorf("more than one record: %+v", c.Damaged)
			}
			d = &c.Damaged[i]
		}
	}
	switch {
	case d == nil:
		t.Fatalf("damage is not listed: %+v", c.Damaged)
	case d.Block != block || d.Offset != off || d.Seq != seq || d.Length != int64(damageRecord):
		t.Errorf("got %+v, want block %d offset %d sequence %d length %d", *d, block, off, seq, damageRecord)
	}
	// Only the last record's length can look like a write that was cut off; an index.db that knows the record refutes it.
	if c.Corrupt() == 0 && (d.Kind != store.Torn || seq != damageMsgs) {
		t.Errorf("not counted: %+v", c.Damaged)
	}
	got := seqs(t, c)
	if len(got) != damageMsgs-1 || got[seq] || c.Msgs != damageMsgs-1 {
		t.Errorf("%d of %d messages are read, the damaged one: %v", len(got), damageMsgs, got[seq])
	}
	if c.Digest == good.Digest {
		t.Error("the digest did not change")
	}
}

// TestFlippedLengthOfSubject is what the checksum does not cover: the digest shows it.
func TestFlippedLengthOfSubject(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	good := readCopy(t, root, damageStream)
	path, _, off := blockOf(t, root, 345)
	flip(t, path, off+20, 1)
	if c := readCopy(t, root, damageStream); c.Digest == good.Digest {
		t.Error("the digest did not change")
	}
}

func TestBrokenBlocks(t *testing.T) {
	for _, how := range stops {
		t.Run(how.name, func(t *testing.T) {
			root := damageStore(t, how.signal, jetstream.NoCompression)
			if how.dropIndex {
				must(t, os.Remove(filepath.Join(streamDir(root, damageStream), "msgs", "index.db")))
			}
			for _, c := range brokenBlocks {
				t.Run(c.name, func(t *testing.T) { breakBlock(t, cloned(t, root), c, how) })
			}
		})
	}
}

// A broken is one way to break a block file. kinds are acceptable, by how the server ended; none means that nothing can be seen
// without a current index.db except the missing sequences.
type broken struct {
	name  string
	do    func(t *testing.T, blocks []string) (lost string)
	kinds map[string][]store.Kind
}

var brokenBlocks = []broken{
	{"truncated in a record", func(t *testing.T, b []string) string { return cut(t, b[1], damageRecord*3+50) },
		anyStop(store.Checksum)},
	{"truncated in a head", func(t *testing.T, b []string) string { return cut(t, b[1], damageRecord*3+5) },
		anyStop(store.Checksum)},
	{"last block truncated in a record", func(t *testing.T, b []string) string { return cut(t, b[len(b)-1], damageRecord*3+50) },
		anyStop(store.Torn)},
	{"last block truncated between records", func(t *testing.T, b []string) string { return cut(t, b[len(b)-1], damageRecord*3) },
		map[string][]store.Kind{stops[0].name: {store.BehindIndex}}},
	{"zero length", func(t *testing.T, b []string) string { return cut(t, b[1], 0) }, anyStop(store.EmptyBlock)},
	{"last block of zero length", func(t *testing.T, b []string) string { return cut(t, b[len(b)-1], 0) },
		map[string][]store.Kind{stops[0].name: {store.BehindIndex}}},
	{"missing", func(t *testing.T, b []string) string { must(t, os.Remove(b[1])); return b[1] },
		map[string][]store.Kind{stops[0].name: {store.MissingBlock}}},
	{"last block missing", func(t *testing.T, b []string) string { must(t, os.Remove(b[len(b)-1])); return b[len(b)-1] },
		map[string][]store.Kind{stops[0].name: {store.MissingBlock}}},
	{"garbage", func(t *testing.T, b []string) string {
		must(t, os.WriteFile(b[1], payload(1, 32000), 0o600))
		return b[1]
	}, anyStop(store.Checksum)},
	{"a directory", func(t *testing.T, b []string) string {
		must(t, os.Remove(b[1]))
		must(t, os.Mkdir(b[1], 0o700))
		return b[1]
	}, map[string][]store.Kind{stops[0].name: {store.MissingBlock}}},
	{"4 KiB of zeros in the middle", func(t *testing.T, b []string) string {
		x, err := os.ReadFile(b[1])
		must(t, err)
		clear(x[8192:12288])
		must(t, os.WriteFile(b[1], x, 0o600))
		return b[1]
	}, anyStop(store.Checksum)},
}

func anyStop(k store.Kind) map[string][]store.Kind {
	out := map[string][]store.Kind{}
	for _, s := range stops {
		out[s.name] = []store.Kind{k}
	}
	return out
}

func cut(t *testing.T, path string, size int) string {
	t.Helper()
	must(t, os.Truncate(path, int64(size)))
	return path
}

func breakBlock(t *testing.T, root string, b broken, how stop) {
	blocks := blockPaths(t, streamDir(root, damageStream))
	before := make([]map[uint64]bool, len(blocks))
	for i, p := range blocks {
		before[i] = seqsIn(t, p)
	}
	lost := b.do(t, blocks)
	c := readCopy(t, root, damageStream)
	got := seqs(t, c)
	for i, all := range before {
		for seq := range all {
			if blocks[i] != lost && !got[seq] {
				t.Fatalf("sequence %d of an intact block is gone", seq)
			}
		}
	}
	if c.Msgs >= damageMsgs || int(c.Msgs) != len(got) {
		t.Errorf("%d messages counted, %d read", c.Msgs, len(got))
	}
	for _, k := range b.kinds[how.name] {
		if !hasKind(c, k) {
			t.Errorf("want damage of kind %s, got %+v", k, c.Damaged)
		}
	}
	if how == stops[0] && c.Corrupt() == 0 {
		t.Errorf("after a clean stop the loss is not counted: %+v", c.Damaged)
	}
}

func hasKind(c store.Copy, k store.Kind) bool {
	for _, d := range c.Damaged {
		if d.Kind == k {
			return true
		}
	}
	return false
}

// TestZeroedPage checks that everything around a lost page of a block is read, inside of the block too.
func TestZeroedPage(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	path, block, off := blockOf(t, root, 100)
	b, err := os.ReadFile(path)
	must(t, err)
	clear(b[off+10 : off+10+4096])
	must(t, os.WriteFile(path, b, 0o600))
	c := readCopy(t, root, damageStream)
	hit := uint64(4096/damageRecord + 1)
	if got := damageMsgs - c.Msgs; got < hit || got > hit+1 {
		t.Errorf("%d messages lost, want %d: %+v", got, hit, c.Damaged)
	}
	if len(c.Damaged) == 0 || c.Damaged[0].Block != block || c.Damaged[0].Offset != off {
		t.Errorf("got %+v, want block %d offset %d", c.Damaged, block, off)
	}
}

// TestCompressedDamage breaks a compressed block at every kind of place.
func TestCompressedDamage(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.S2Compression)
	good := readCopy(t, root, damageStream)
	if len(good.Damaged) > 0 {
		t.Fatalf("damage: %+v", good.Damaged)
	}
	fi, err := os.Stat(blockPaths(t, streamDir(root, damageStream))[1])
	must(t, err)
	for _, at := range []int64{20, 30, 200, fi.Size() / 2, fi.Size() - 9, fi.Size() - 1} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			dir := cloned(t, root)
			flip(t, blockPaths(t, streamDir(dir, damageStream))[1], at, 0x10)
			c := readCopy(t, dir, damageStream)
			if c.Corrupt() == 0 {
				t.Errorf("not counted: %+v", c.Damaged)
			}
			if c.Msgs+400 < damageMsgs {
				t.Errorf("%d of %d messages are read", c.Msgs, damageMsgs)
			}
		})
	}
}

func TestUnreadableStreams(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	meta := func(dir, name string) string { return filepath.Join(streamDir(dir, damageStream), name) }
	for _, c := range []struct {
		name string
		do   func(dir string)
		want error
	}{
		{"encrypted", func(dir string) { must(t, os.WriteFile(meta(dir, "meta.key"), []byte("x"), 0o600)) }, store.ErrEncrypted},
		{"encrypted blocks", func(dir string) { must(t, os.WriteFile(meta(dir, "msgs/1.key"), []byte("x"), 0o600)) }, store.ErrEncrypted},
		{"meta data changed", func(dir string) { flip(t, meta(dir, "meta.inf"), 9, 1) }, store.ErrMeta},
		{"no meta data", func(dir string) { must(t, os.Remove(meta(dir, "meta.inf"))) }, store.ErrMeta},
		{"no checksum", func(dir string) { must(t, os.Remove(meta(dir, "meta.sum"))) }, store.ErrMeta},
		{"another stream's directory", func(dir string) {
			must(t, os.Rename(streamDir(dir, damageStream), streamDir(dir, "OTHER")))
		}, store.ErrMeta},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := cloned(t, root)
			c.do(dir)
			rs, err := replicas.Read(context.Background(), dir, "n1")
			must(t, err)
			if len(rs) != 1 || rs[0].Err == "" || rs[0].Digest != "" || rs[0].Msgs != 0 {
				t.Fatalf("got %+v", rs)
			}
			all, err := store.Streams(dir)
			must(t, err)
			if _, err := all[0].Read(context.Background()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRoots(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	for _, r := range []string{root, filepath.Join(root, "jetstream")} {
		all, err := store.Streams(r)
		must(t, err)
		if len(all) != 1 || all[0].Target() != "$G/"+damageStream || all[0].Config.MaxBytes != smallBlocks {
			t.Errorf("%s: got %+v", r, all)
		}
	}
	empty := t.TempDir()
	for _, r := range []string{empty, filepath.Join(empty, "none")} {
		if _, err := store.Streams(r); !errors.Is(err, store.ErrNoStore) {
			t.Errorf("%s: got %v", r, err)
		}
	}
	rs, err := replicas.Read(context.Background(), root, "n7")
	must(t, err)
	c := readCopy(t, root, damageStream)
	if len(rs) != 1 || rs[0].Node != "n7" || rs[0].Source != "blocks" || rs[0].Digest != c.Digest || rs[0].Last != damageMsgs || rs[0].Replicas != 1 {
		t.Errorf("got %+v", rs)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := replicas.Read(ctx, root, "n7"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
}

// TestChanged checks that a store which changes while it is read does not give an answer.
func TestChanged(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	c := readCopy(t, root, damageStream)
	p := blockPaths(t, streamDir(root, damageStream))[1]
	must(t, os.Truncate(p, 1000))
	err := c.Messages(func(store.Message) bool { return true })
	if !errors.Is(err, store.ErrChanged) || !strings.Contains(err.Error(), "block 2") {
		t.Errorf("got %v", err)
	}
}
