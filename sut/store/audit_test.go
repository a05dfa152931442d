package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/store"
)

func auditOf(t *testing.T, root string) store.Audited {
	t.Helper()
	a, err := findStream(t, root, damageStream).Audit(context.Background())
	must(t, err)
	return a
}

// TestAudit: what a server leaves behind is no damage, however it ends; every damage that reading finds, the audit finds too.
func TestAudit(t *testing.T) {
	for _, how := range stops {
		t.Run(how.name, func(t *testing.T) {
			root := damageStore(t, how.signal, jetstream.NoCompression)
			if how.dropIndex {
				must(t, os.Remove(filepath.Join(streamDir(root, damageStream), "msgs", "index.db")))
			}
			a := auditOf(t, root)
			if len(a.Damaged) > 0 || a.Bytes < damageMsgs*int64(damageRecord) {
				t.Fatalf("got %+v", a)
			}
			for _, c := range brokenBlocks {
				t.Run(c.name, func(t *testing.T) {
					dir := cloned(t, root)
					c.do(t, blockPaths(t, streamDir(dir, damageStream)))
					read := readCopy(t, dir, damageStream)
					if got := auditOf(t, dir); (len(got.Damaged) > 0) != (read.Corrupt() > 0) {
						t.Errorf("the audit finds %+v, reading %+v", got.Damaged, read.Damaged)
					}
				})
			}
		})
	}
}

func TestAuditFindsOneFlip(t *testing.T) {
	root := damageStore(t, syscall.SIGKILL, jetstream.S2Compression)
	if a := auditOf(t, root); len(a.Damaged) > 0 {
		t.Fatalf("got %+v", a)
	}
	for _, share := range []float64{0.1, 0.5, 0.9} {
		dir := cloned(t, root)
		first := blockPaths(t, streamDir(dir, damageStream))[0]
		fi, err := os.Stat(first)
		must(t, err)
		flip(t, first, int64(share*float64(fi.Size())), 1)
		if a := auditOf(t, dir); len(a.Damaged) == 0 {
			t.Errorf("a flip at %.1f of a compressed block is not found", share)
		}
	}
	must(t, os.WriteFile(filepath.Join(streamDir(root, damageStream), "meta.inf"), []byte("{}"), 0o600))
	if a := auditOf(t, root); len(a.Damaged) != 1 {
		t.Errorf("meta data that does not verify: got %+v", a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := findStream(t, damageStore(t, syscall.SIGTERM, jetstream.NoCompression), damageStream).Audit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestAuditOfRaftGroups: logs and snapshots, after a stop and after a kill.
func TestAuditOfRaftGroups(t *testing.T) {
	nodes := cluster(t)
	nodes[0].create(jetstream.StreamConfig{Name: damageStream, Subjects: []string{damageStream}, Replicas: 3})
	nodes[0].publish(damageMsgs, one(damageStream), damagePayload)
	nodes[1].stop(syscall.SIGTERM) // writes snapshots
	nodes[0].stop(syscall.SIGKILL)
	nodes[2].stop(syscall.SIGKILL)
	for _, n := range nodes {
		groups, err := store.RaftGroups(n.dir)
		must(t, err)
		if len(groups) < 2 {
			t.Fatalf("%d groups", len(groups))
		}
		for _, g := range groups {
			if a, err := g.Audit(context.Background()); err != nil || len(a.Damaged) > 0 {
				t.Errorf("%s: %+v %v", g.Target(), a, err)
			}
		}
	}
	snaps, err := filepath.Glob(filepath.Join(nodes[1].dir, "jetstream", "*", "_js_", "*", "snapshots", "snap.*"))
	must(t, err)
	if len(snaps) == 0 {
		t.Fatal("there is no snapshot")
	}
	fi, err := os.Stat(snaps[0])
	must(t, err)
	flip(t, snaps[0], fi.Size()/2, 1)
	groups, err := store.RaftGroups(nodes[1].dir)
	must(t, err)
	damaged := 0
	for _, g := range groups {
		a, err := g.Audit(context.Background())
		must(t, err)
		damaged += len(a.Damaged)
	}
	if damaged != 1 {
		t.Errorf("%d groups are damaged", damaged)
	}
}

// TestAuditSpeed says how fast it is.
func TestAuditSpeed(t *testing.T) {
	s := bigStore(t)
	s.stop(syscall.SIGTERM)
	began := time.Now()
	a, err := findStream(t, s.dir, "BIG").Audit(context.Background())
	must(t, err)
	if len(a.Damaged) > 0 || a.Bytes < bigMsgs*bigPayload {
		t.Errorf("got %+v", a)
	}
	t.Logf("%d MiB, %.0f MiB/s", a.Bytes>>20, float64(a.Bytes)/(1<<20)/time.Since(began).Seconds())
}
