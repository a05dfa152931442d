package faults_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

// editableNode is a fake node with a real data directory.
type editableNode struct {
	*fakeNode

	root *os.Root
	lies bool // its edits change nothing
}

func (n *editableNode) Files(context.Context) ([]cluster.FileInfo, error) {
	return datadir.Files(n.root)
}

func (n *editableNode) ReadFile(_ context.Context, path string, offset int64, k int) ([]byte, error) {
	return datadir.Read(n.root, path, offset, k)
}

func (n *editableNode) Edit(_ context.Context, e cluster.Edit) (cluster.Edited, error) {
	if n.lies {
		b, err := datadir.Read(n.root, e.Path, e.Offset, 32)
		return cluster.Edited{Path: e.Path, Kind: e.Kind, Offset: e.Offset, Before: b, SizeBefore: 200}, err
	}
	return datadir.Apply(n.root, e)
}

// editable is a cluster of stopped nodes with stores.
type editable struct {
	*fakeCluster

	byID []*editableNode
}

func (c *editable) Nodes() []cluster.Node {
	var out []cluster.Node
	for _, n := range c.byID {
		out = append(out, n)
	}
	return out
}

// store is what each node has: a stream with three blocks, a consumer, and two Raft groups.
var store = []string{
	"jetstream/BUS/streams/ORDERS/msgs/2.blk", "jetstream/BUS/streams/ORDERS/msgs/9.blk", "jetstream/BUS/streams/ORDERS/msgs/10.blk",
	"jetstream/BUS/streams/ORDERS/msgs/index.db", "jetstream/BUS/streams/ORDERS/obs/billing/o.dat",
	"jetstream/SYS/_js_/_meta_/msgs/1.blk", "jetstream/SYS/_js_/_meta_/snapshots/snap.1.5", "jetstream/SYS/_js_/_meta_/snapshots/snap.1.7",
	"jetstream/SYS/_js_/S-R3F-abcdefgh/msgs/4.blk", "jetstream/SYS/_js_/S-R3F-abcdefgh/snapshots/snap.2.9",
}

func newEditable(t *testing.T) *editable {
	t.Helper()
	c := &editable{fakeCluster: newFake(3)}
	for _, f := range c.nodes {
		dir := t.TempDir()
		for i, name := range store {
			path := filepath.Join(dir, filepath.FromSlash(name))
			at := time.Unix(int64(1_700_000_000+i), 0) // later ones were changed later
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bytes.Repeat([]byte{'a', 'b', 'c', 'd'}, 50), 0o600), os.Chtimes(path, at, at)); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = root.Close() })
		f.state = cluster.State{ExitCode: 137}
		c.byID = append(c.byID, &editableNode{fakeNode: f, root: root})
	}
	return c
}

func editInjector(c cluster.Cluster) (*faults.Injector, *[]string, map[string]faults.Observation) {
	var stages []string
	seen := map[string]faults.Observation{}
	i := &faults.Injector{Cluster: c, Limits: faults.Limits{InForce: 100 * time.Millisecond, Healed: time.Second, Poll: time.Millisecond},
		Report: func(stage string, _ faults.Fault, o faults.Observation, _ time.Duration) {
			stages = append(stages, stage)
			seen[stage] = o
		}}
	return i, &stages, seen
}

// TestDiskFaults: each damage hits the file that its place names, on the victim alone, and the probe tells the bytes before and after.
func TestDiskFaults(t *testing.T) {
	rollback := faults.Rollback(faults.Chunk{Path: store[2], Offset: 8, Data: []byte("old!")})
	for _, tc := range []struct {
		damage faults.Damage
		place  faults.Place
		file   string
		says   string
	}{
		{faults.BitFlip(0), faults.StreamBlock("BUS", "ORDERS", 1), store[0], "at 0: 60626364"},
		{faults.BitFlip(0.5), faults.StreamBlock("BUS", "ORDERS", 2), store[1], "at 100: 60626364"},
		{faults.BitFlip(1), faults.StreamBlock("BUS", "ORDERS", 0), store[2], "at 199: 65"},
		{faults.Truncate(0.25), faults.StreamIndex("BUS", "ORDERS"), store[3], "50 bytes, before 200"},
		{faults.Delete(), faults.ConsumerState("BUS", "ORDERS", "billing"), store[4], "is gone, it had 200 bytes"},
		{faults.BitFlip(0.5), faults.RaftLog("_meta_"), store[5], "at 100"},
		{faults.BitFlip(0.5), faults.MetaSnapshot(), store[7], "at 100"},
		{faults.BitFlip(0.5), faults.RaftLog("S-*"), store[8], "at 100"},
		{faults.Truncate(0), faults.StreamSnapshot(), store[9], "0 bytes, before 200"},
		{rollback, faults.StreamBlock("BUS", "ORDERS", 3), store[2], "at 8: 6f6c6421"},
	} {
		f := faults.Disk(tc.damage, tc.place)("n2")
		t.Run(f.Name(), func(t *testing.T) {
			c := newEditable(t)
			i, stages, seen := editInjector(c)
			if err := i.Run(t.Context(), f, func(context.Context) error { return nil }); err != nil {
				t.Fatalf("%v (stages %v)", err, *stages)
			}
			in := seen[faults.StageInForce].Detail
			if !strings.Contains(in, tc.file) || !strings.Contains(in, tc.says) {
				t.Errorf("the probe says %q, want %s and %q", in, tc.file, tc.says)
			}
			if o := seen[faults.StageBystander]; o.InForce || !strings.Contains(o.Detail, "n1") || !strings.Contains(o.Detail, "n3") {
				t.Errorf("bystanders: %+v", o)
			}
		})
	}
}

// TestDiskNoop: a damage that was not done, one that has no effect, and one on a running node are caught.
func TestDiskNoop(t *testing.T) {
	flip := faults.Disk(faults.BitFlip(0.5), faults.MetaSnapshot())
	t.Run("not injected", func(t *testing.T) {
		i, _, _ := editInjector(newEditable(t))
		if err := i.Inject(t.Context(), faults.Noop(flip("n2"))); !errors.Is(err, faults.ErrNotInForce) {
			t.Errorf("inject: %v", err)
		}
	})
	t.Run("without effect", func(t *testing.T) {
		c := newEditable(t)
		c.byID[1].lies = true
		i, _, _ := editInjector(c)
		if err := i.Inject(t.Context(), flip("n2")); !errors.Is(err, faults.ErrNotInForce) {
			t.Errorf("inject: %v", err)
		}
	})
	t.Run("the node runs", func(t *testing.T) {
		c := newEditable(t)
		c.byID[1].state = cluster.State{Running: true, PID: 7}
		i, _, _ := editInjector(c)
		if err := i.Inject(t.Context(), flip("n2")); !errors.Is(err, cluster.ErrRunning) {
			t.Errorf("inject: %v", err)
		}
	})
	t.Run("no such file", func(t *testing.T) {
		i, _, _ := editInjector(newEditable(t))
		if err := i.Inject(t.Context(), faults.Disk(faults.Delete(), faults.StreamBlock("BUS", "ORDERS", 4))("n2")); !errors.Is(err, faults.ErrNoFile) {
			t.Errorf("inject: %v", err)
		}
	})
	t.Run("no files to reach", func(t *testing.T) {
		c := newFake(3)
		c.node("n2").state = cluster.State{ExitCode: 137}
		i, _, _ := editInjector(c)
		if err := i.Inject(t.Context(), flip("n2")); !errors.Is(err, faults.ErrUnsupported) {
			t.Errorf("inject: %v", err)
		}
	})
	t.Run("another file than the copy's", func(t *testing.T) {
		c := newEditable(t)
		chunk, err := faults.ReadChunk(t.Context(), c.byID[1], faults.StreamIndex("BUS", "ORDERS"), 0, 4)
		if err != nil || string(chunk.Data) != "abcd" {
			t.Fatalf("%+v, %v", chunk, err)
		}
		i, _, _ := editInjector(c)
		if err := i.Inject(t.Context(), faults.Disk(faults.Rollback(chunk), faults.MetaSnapshot())("n2")); err == nil {
			t.Error("it was rolled back")
		}
	})
}

// TestDiskIsOverWhenTheDaemonRuns: a daemon that was started on the damaged file may have changed it.
func TestDiskIsOverWhenTheDaemonRuns(t *testing.T) {
	c := newEditable(t)
	i, _, _ := editInjector(c)
	f := faults.Disk(faults.BitFlip(0.5), faults.MetaSnapshot())("n2")
	if err := i.Inject(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	c.byID[1].state = cluster.State{Running: true, PID: 7}
	if err := i.StillOn(t.Context(), f); !errors.Is(err, faults.ErrNotInForce) {
		t.Errorf("still on: %v", err)
	}
}
