package store_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/store"
)

// The stream of the tests with blocks of full size.
const (
	bigMsgs    = 60_000
	bigPayload = 512
)

func bigStore(t testing.TB) *server {
	t.Helper()
	s := newServer(t, "")
	s.create(jetstream.StreamConfig{Name: "BIG", Subjects: []string{"big.>"}})
	s.publish(bigMsgs, one("big.x"), bigPayload)
	return s
}

// TestBigBlocks is the published bug's shape: 60,000 messages of 512 bytes, SIGKILL, one bit flipped at a third of the first block.
// nats-server then shows some 49,000 of them and says nothing.
func TestBigBlocks(t *testing.T) {
	s := bigStore(t)
	s.stop(syscall.SIGKILL)
	good := readCopy(t, s.dir, "BIG")
	if good.Msgs != bigMsgs || good.First != 1 || good.Last != bigMsgs || len(good.Damaged) > 0 {
		t.Fatalf("got %+v %+v", stateOf(good), good.Damaged)
	}
	blocks := blockPaths(t, streamDir(s.dir, "BIG"))
	if len(blocks) < 4 {
		t.Fatalf("%d blocks", len(blocks))
	}
	fi, err := os.Stat(blocks[0])
	must(t, err)
	flip(t, blocks[0], fi.Size()/3, 1)
	bad := readCopy(t, s.dir, "BIG")
	if bad.Msgs != bigMsgs-1 || bad.Corrupt() != 1 {
		t.Fatalf("got %+v %+v", stateOf(bad), bad.Damaged)
	}
	s.start()
	if n := s.state("BIG").Msgs; n >= bigMsgs-1 {
		t.Logf("nats-server kept %d messages: the bug is gone", n)
	} else {
		t.Logf("nats-server shows %d of %d messages, this package reads %d", n, bigMsgs, bad.Msgs)
	}
}

func TestCompare(t *testing.T) {
	a := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	b, c := cloned(t, a), cloned(t, a)
	for _, seq := range []uint64{10, 11, 12, 400} {
		p, _, off := blockOf(t, b, seq)
		flip(t, p, off+40, 1)
	}
	p, _, off := blockOf(t, c, 500)
	flip(t, p, off+20, 1) // the subject's length: the checksum holds
	copies := []store.Copy{readCopy(t, a, damageStream), readCopy(t, b, damageStream), readCopy(t, c, damageStream)}
	got, err := store.Compare(context.Background(), copies)
	must(t, err)
	want := []store.Difference{{First: 10, Last: 12, Lack: []int{1}}, {First: 400, Last: 400, Lack: []int{1}}, {First: 500, Last: 500, Vary: true}}
	if got.Sequences != 5 || len(got.Differences) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, w := range want {
		g := got.Differences[i]
		if g.First != w.First || g.Last != w.Last || len(g.Lack) != len(w.Lack) || g.Vary != w.Vary || len(w.Lack) > 0 && g.Lack[0] != w.Lack[0] {
			t.Errorf("got %+v, want %+v", g, w)
		}
	}
	same, err := store.Compare(context.Background(), []store.Copy{copies[0], copies[0]})
	if err != nil || same.Sequences != 0 {
		t.Errorf("a copy differs from itself: %+v %v", same, err)
	}
}

// TestInterruptedPurge puts the directories as nats-server leaves them when it is killed in the middle of a purge.
func TestInterruptedPurge(t *testing.T) {
	root := damageStore(t, syscall.SIGKILL, jetstream.NoCompression)
	dir := streamDir(root, damageStream)
	must(t, os.Mkdir(filepath.Join(dir, "__new_msgs__"), 0o700))
	if c := readCopy(t, root, damageStream); c.Msgs != damageMsgs {
		t.Errorf("without a block in it the new directory counts: %+v", stateOf(c))
	}
	blocks := blockPaths(t, dir)
	last := blocks[len(blocks)-1]
	must(t, os.Rename(last, filepath.Join(dir, "__new_msgs__", filepath.Base(last))))
	if c := readCopy(t, root, damageStream); c.Last != damageMsgs || c.First < 500 {
		t.Errorf("got %+v", stateOf(c))
	}
}

// BenchmarkRead reads 60,000 messages of 512 bytes in four blocks: checksums, limits, digest.
func BenchmarkRead(b *testing.B) {
	s := bigStore(b)
	s.stop(syscall.SIGTERM)
	streams, err := store.Streams(s.dir)
	if err != nil || len(streams) != 1 {
		b.Fatalf("%d streams, %v", len(streams), err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := streams[0].Read(context.Background())
		if err != nil || c.Msgs != bigMsgs {
			b.Fatalf("%d messages, %v", c.Msgs, err)
		}
		b.SetBytes(int64(c.Bytes))
	}
}
