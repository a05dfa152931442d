package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/store"
)

func only(t *testing.T, root, name string) store.Stream {
	t.Helper()
	all, err := store.Streams(root)
	must(t, err)
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no stream %s", name)
	return store.Stream{}
}

// logsOf are the Raft groups that bring back what is behind the cut.
func logsOf(t *testing.T, root string, c store.Cut) (names []string) {
	t.Helper()
	groups, err := store.RaftGroups(root)
	must(t, err)
	for _, g := range groups {
		ok, err := g.Replays(context.Background(), c)
		if err != nil && !errors.Is(err, store.ErrNoCut) { // a snapshot of the meta group is not one of a stream
			t.Fatal(err)
		}
		if ok {
			names = append(names, g.Name)
		}
	}
	return names
}

func doCut(t *testing.T, c store.Cut) {
	t.Helper()
	for _, p := range c.Behind {
		must(t, os.Remove(p))
	}
	if err := os.Remove(filepath.Join(filepath.Dir(c.Path), "index.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if c.Size == 0 {
		must(t, os.Remove(c.Path))
		return
	}
	must(t, os.Truncate(c.Path, c.Size))
}

// TestCutAndReplay damages an early block of a stream on all three nodes of a cluster, each at another place. With everything behind the damage cut off, the
// log of the stream's group, and of no other, brings all of it back; after a polite stop its snapshot is newer than what would remain, and Replays says so.
func TestCutAndReplay(t *testing.T) {
	const msgs = 500
	all := cluster(t)
	s := all[0]
	for _, name := range []string{"R", "OTHER"} {
		s.wait("stream", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: 3, MaxBytes: smallBlocks})
			return err
		})
	}
	s.publish(msgs, func(i int) string { return fmt.Sprintf("R.%d", i%5) }, 150)
	s.publish(50, func(i int) string { return fmt.Sprintf("OTHER.%d", i%5) }, 150)
	want := agree(t, all, "R", msgs)
	for _, n := range all {
		n.nc.Close()
		n.stop(syscall.SIGKILL)
	}
	for i, n := range all {
		blocks := blockPaths(t, filepath.Join(n.dir, "jetstream", "$G", "streams", "R"))
		if len(blocks) < 3 {
			t.Fatalf("%d blocks", len(blocks))
		}
		at := int64(10_000 + 2_000*i)
		flip(t, blocks[1], at, 0x40)
		c, err := only(t, n.dir, "R").Cut(context.Background())
		must(t, err)
		if c.Path != blocks[1] || c.Size == 0 || c.Size > at || c.Intact == 0 || c.Intact >= msgs || len(c.Behind) != len(blocks)-2 {
			t.Fatalf("n%d: %+v", i+1, c)
		}
		if logs := logsOf(t, n.dir, c); len(logs) != 1 {
			t.Fatalf("n%d: brought back by %q", i+1, logs)
		}
		doCut(t, c)
		if a, err := only(t, n.dir, "R").Audit(context.Background()); err != nil || len(a.Damaged) > 0 {
			t.Fatalf("n%d: after the cut: %+v %v", i+1, a, err)
		}
	}
	for _, n := range all {
		n.launch()
	}
	for _, n := range all {
		n.connect()
		n.healthy()
	}
	if got := agree(t, all, "R", msgs); got != want {
		t.Fatalf("got %+v, before it was %+v", got, want)
	}

	last := all[2]
	last.stop(syscall.SIGTERM)
	if _, err := only(t, last.dir, "R").Cut(context.Background()); !errors.Is(err, store.ErrNoCut) {
		t.Errorf("nothing is damaged: %v", err)
	}
	flip(t, blockPaths(t, filepath.Join(last.dir, "jetstream", "$G", "streams", "R"))[1], 10_000, 0x40)
	must(t, os.Remove(filepath.Join(last.dir, "jetstream", "$G", "streams", "R", "msgs", "index.db")))
	c, err := only(t, last.dir, "R").Cut(context.Background())
	must(t, err)
	if logs := logsOf(t, last.dir, c); len(logs) != 0 {
		t.Errorf("after the snapshot: brought back by %q", logs)
	}
}

// TestNoCut: a missing block is no place to cut at; an unreplicated stream has one, but no log knows it.
func TestNoCut(t *testing.T) {
	root := damageStore(t, syscall.SIGTERM, jetstream.NoCompression)
	blocks := blockPaths(t, streamDir(root, damageStream))
	missing := cloned(t, root)
	must(t, os.Remove(blockPaths(t, streamDir(missing, damageStream))[1]))
	if _, err := only(t, missing, damageStream).Cut(context.Background()); !errors.Is(err, store.ErrNoCut) {
		t.Errorf("a missing block: %v", err)
	}
	must(t, os.Remove(filepath.Join(streamDir(root, damageStream), "msgs", "index.db")))
	flip(t, blocks[1], 5000, 1)
	c, err := only(t, root, damageStream).Cut(context.Background())
	must(t, err)
	if logs := logsOf(t, root, c); len(logs) != 0 {
		t.Errorf("brought back by %q", logs)
	}
}
