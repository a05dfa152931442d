package membershipd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestRebuildable(t *testing.T) {
	stream := damage{Target: "BUS/ORDERS", Dir: "jetstream/BUS/streams/ORDERS", Replicas: 3}
	group := damage{Group: true, Target: "S-R3F-abc", Dir: "jetstream/SYS/_js_/S-R3F-abc"}
	consumer := damage{Group: true, Target: "C-R3F-abc", Dir: "jetstream/SYS/_js_/C-R3F-abc"}
	says := func(node string, ready bool, words map[string]groupWord) replicaAnswer {
		return replicaAnswer{Node: node, Ready: ready, Words: words}
	}
	leads := groupWord{Group: "S-R3F-abc", Stream: "BUS/ORDERS", Leader: true, Size: 3, Covered: 2}
	follows := groupWord{Group: "S-R3F-abc", Stream: "BUS/ORDERS", Size: 3}
	alone := leads
	alone.Covered = 1
	r5 := leads
	r5.Size, r5.Covered = 5, 2
	evil := leads
	evil.Group = "../../../etc"
	both := []string{group.Dir, stream.Dir}
	single, unknown := stream, stream
	single.Replicas, unknown.Replicas = 1, 0
	of := func(target string, w groupWord) map[string]groupWord { return map[string]groupWord{target: w} }
	for _, c := range []struct {
		name  string
		found []damage
		said  []replicaAnswer
		gone  []string
		wait  string
	}{
		{"the leader and another have it", []damage{stream}, []replicaAnswer{says("n1", true, of("BUS/ORDERS", follows)), says("n3", true, of("BUS/ORDERS", leads))}, both, ""},
		{"the group's log", []damage{group}, []replicaAnswer{says("n3", true, of("S-R3F-abc", leads))}, both, ""},
		{"a consumer's group", []damage{consumer}, []replicaAnswer{says("n3", true, of("C-R3F-abc", groupWord{Group: "C-R3F-abc", Leader: true, Size: 3, Covered: 2}))}, []string{consumer.Dir}, ""},
		{"nobody answers", []damage{stream}, nil, nil, "no other node"},
		{"only followers", []damage{stream}, []replicaAnswer{says("n1", true, of("BUS/ORDERS", follows)), says("n3", true, of("BUS/ORDERS", follows))}, nil, "no majority"},
		{"the other is behind", []damage{stream}, []replicaAnswer{says("n1", true, of("BUS/ORDERS", follows)), says("n3", true, of("BUS/ORDERS", alone))}, nil, "no majority"},
		{"two of five", []damage{stream}, []replicaAnswer{says("n3", true, of("BUS/ORDERS", r5))}, nil, "no majority"},
		{"its own word does not count", []damage{stream}, []replicaAnswer{says("n2", true, of("BUS/ORDERS", leads))}, nil, "no other node"},
		{"one replica", []damage{single}, []replicaAnswer{says("n1", true, nil), says("n3", true, nil)}, nil, "one replica"},
		{"deleted meanwhile", []damage{stream}, []replicaAnswer{says("n1", true, nil), says("n3", true, nil)}, []string{stream.Dir}, ""},
		{"perhaps deleted", []damage{stream}, []replicaAnswer{says("n1", true, nil), says("n3", false, nil)}, nil, "no majority"},
		{"nobody has it and it may have had one replica", []damage{unknown}, []replicaAnswer{says("n1", true, nil), says("n3", true, nil)}, nil, "no majority"},
		{"one of two", []damage{stream, single}, []replicaAnswer{says("n3", true, of("BUS/ORDERS", leads))}, nil, "one replica"},
		{"the meta group", []damage{{Group: true, Target: metaGroup}}, []replicaAnswer{says("n3", true, of(metaGroup, leads))}, nil, "replace this node"},
		{"a name that leads elsewhere", []damage{stream}, []replicaAnswer{says("n3", true, of("BUS/ORDERS", evil))}, []string{stream.Dir}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			gone, wait := rebuildable(c.found, c.said, "n2", 3)
			slices.Sort(gone)
			if !slices.Equal(gone, c.gone) && !slices.Equal(gone, sorted(c.gone)) || (wait == "") != (c.wait == "") || !strings.Contains(wait, c.wait) {
				t.Errorf("got %v %q, want %v %q", gone, wait, c.gone, c.wait)
			}
		})
	}
}

// TestDeadlocked: only when no majority without this node is left or will come, and only for ends.
func TestDeadlocked(t *testing.T) {
	end, middle := damage{Target: "BUS/ORDERS", Replicas: 3, Tail: true}, damage{Target: "BUS/LEDGER", Replicas: 3}
	held := func(nodes ...string) (said []replicaAnswer) {
		for _, n := range nodes {
			said = append(said, replicaAnswer{Node: n, Held: true})
		}
		return said
	}
	for _, c := range []struct {
		name  string
		found []damage
		said  []replicaAnswer
		size  int
		want  bool
	}{
		{"all stay out", []damage{end, end}, held("n1", "n3"), 3, true},
		{"one of the others does", []damage{end}, held("n3"), 3, true},
		{"one of the others does, and says it twice", []damage{end}, held("n3", "n3"), 5, false},
		{"two of four others", []damage{end}, held("n3", "n4"), 5, true},
		{"nobody else", []damage{end}, nil, 3, false},
		{"the others run", []damage{end}, []replicaAnswer{{Node: "n1"}, {Node: "n3"}}, 3, false},
		{"its own word does not count", []damage{end}, held("n2"), 3, false},
		{"not the end", []damage{end, middle}, held("n1", "n3"), 3, false},
	} {
		if got := deadlocked(c.found, c.said, "n2", c.size); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func TestMoveAsideKeepsTheVote(t *testing.T) {
	dir := t.TempDir()
	g := newStoreGuard(Config{DataDir: dir, OnDamage: OnDamageRebuild}, Config{}.logger())
	group, stream := "jetstream/SYS/_js_/S-1", "jetstream/BUS/streams/ORDERS"
	for _, f := range []string{group + "/tav.idx", group + "/msgs/1.blk", stream + "/msgs/1.blk"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o700); err != nil {
			t.Fatal(err)
		}
		putFile(t, filepath.Join(dir, f), f, 0o600)
	}
	kept, err := g.moveAside([]damage{{Target: "BUS/ORDERS", Why: "a test"}}, []string{stream, group, group, "jetstream/SYS/_js_/S-2"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{group + "/tav.idx", group + "/msgs/1.blk", stream + "/msgs/1.blk"} {
		if b, err := os.ReadFile(filepath.Join(dir, kept, f)); err != nil || string(b) != f {
			t.Errorf("%s was not kept: %q %v", f, b, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, group, "tav.idx")); err != nil || string(b) != group+"/tav.idx" {
		t.Errorf("the vote is forgotten: %q %v", b, err)
	}
	for _, f := range []string{group + "/msgs", stream} {
		if _, err := os.Stat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", f, err)
		}
	}
}

const damagedMsgs = 600 // of 32 KiB: more than two blocks

// fillStream makes a stream of three replicas in account CONTROL and returns how many messages it holds.
func (c *inProcess) fillStream(name string) {
	c.t.Helper()
	js, err := jetstream.New(c.nodes[0].running.Load().nc)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	untilTrue(c.t, "the stream is made", func() bool {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3, Storage: jetstream.FileStorage})
		return err == nil
	})
	body := make([]byte, 32<<10)
	_, _ = rand.Read(body) // never fails
	for range damagedMsgs {
		if _, err := js.Publish(ctx, name, body); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *inProcess) holds(i int, name string) uint64 {
	n := c.nodes[i].running.Load()
	if n == nil {
		return 0
	}
	for stream, s := range n.obs.localStreams() {
		if stream == name {
			return s.State.Msgs
		}
	}
	return 0
}

func flipInFirstBlock(t *testing.T, dataDir, account, stream string) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dataDir, "jetstream", account, "streams", stream, "msgs", "*.blk"))
	if err != nil || len(blocks) < 2 {
		t.Fatalf("%d blocks: %v", len(blocks), err)
	}
	path := slices.MinFunc(blocks, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }) // by number
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedNodeIsRebuilt: with the others there it is whole again, told everywhere; without them, or told to, it stays out and says why; and told to ignore
// damage it serves less than it had: that is what the audit is for.
func TestDamagedNodeIsRebuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster")
	}
	c := newInProcess(t, nil)
	c.startAll()
	c.fillStream("DMG")
	c.stop(1)
	flipInFirstBlock(t, c.confs[1].DataDir, accountControl, "DMG")
	c.stop(2) // n1 alone is no majority
	c.start(1)
	untilTrue(t, "n2 stays out", func() bool {
		return strings.Contains(strings.Join(c.nodes[1].eval.view().Reasons, "\n"), "CONTROL/DMG") && len(c.nodes[1].status().Store.Damaged) > 0
	})
	if c.nodes[1].running.Load() != nil {
		t.Error("its server runs")
	}
	c.start(2)
	c.ready(0, 1, 2)
	untilTrue(t, "n2 has everything again", func() bool { return c.holds(1, "DMG") == damagedMsgs })
	s := c.nodes[1].status().Store
	if len(s.Rebuilt) != 1 || len(s.Damaged) != 0 || s.AuditedBytes < damagedMsgs*(32<<10) {
		t.Errorf("the status says %+v", s)
	}
	if _, err := os.Stat(filepath.Join(c.confs[1].DataDir, s.Kept, "jetstream", accountControl, "streams", "DMG", "msgs", "1.blk")); err != nil {
		t.Errorf("the damaged data was not kept: %v", err)
	}
	untilTrue(t, "the audit trail tells it", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		m, err := (jsAPI{nc: c.nodes[0].running.Load().nc}).last(ctx, AuditStream, auditSubject("store"))
		var r AuditRecord
		return err == nil && m.seq > 0 && json.Unmarshal(m.data, &r) == nil && r.What == "store.rebuild" && r.Node == "n2" && strings.Contains(r.Name, "DMG")
	})
	t.Logf("audited %d MiB in %.2f s", s.AuditedBytes>>20, s.AuditSeconds)

	c.stop(1)
	flipInFirstBlock(t, c.confs[1].DataDir, accountControl, "DMG")
	c.confs[1].OnDamage = OnDamageStayOut
	c.start(1)
	untilTrue(t, "n2 waits for a human", func() bool {
		return strings.Contains(strings.Join(c.nodes[1].eval.view().Reasons, "\n"), fmt.Sprintf("--on-damage=%s", OnDamageStayOut))
	})
	c.stop(1)
	c.confs[1].OnDamage = OnDamageIgnore
	c.start(1)
	untilTrue(t, "n2 runs", func() bool { return c.nodes[1].running.Load() != nil && c.holds(1, "DMG") > 0 })
	if n := c.holds(1, "DMG"); n == damagedMsgs {
		t.Logf("the server kept all %d messages in spite of the damage: the audit is no longer needed", n)
	}
}

// TestPowerFailureIsMended: all three nodes find the same stream damaged, far from its end, as after a power failure of all. Each cuts it off and has its own
// Raft log bring it back; nobody waits for anybody.
func TestPowerFailureIsMended(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster")
	}
	const msgs = 400
	c := newInProcess(t, nil)
	c.startAll()
	js, err := jetstream.New(c.nodes[0].running.Load().nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	untilTrue(t, "the stream is made", func() bool {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "CUT", Subjects: []string{"CUT"}, Replicas: 3, MaxBytes: 127_000}) // blocks of 32,000 bytes
		return err == nil
	})
	for range msgs {
		if _, err := js.Publish(ctx, "CUT", make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
	}
	untilTrue(t, "all hold all", func() bool {
		return c.holds(0, "CUT") == msgs && c.holds(1, "CUT") == msgs && c.holds(2, "CUT") == msgs
	})
	images := make([]string, 3) // as the disks are now: a polite stop would write snapshots
	for i := range images {
		images[i] = t.TempDir()
		if err := os.CopyFS(images[i], os.DirFS(c.confs[i].DataDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(images[i], "internal.nk"), 0o600); err != nil { // a copy can be read by all
			t.Fatal(err)
		}
	}
	for i := range images {
		c.stop(i)
		c.confs[i].DataDir = images[i]
		flip := filepath.Join(images[i], "jetstream", accountControl, "streams", "CUT", "msgs", "2.blk")
		b, err := os.ReadFile(flip)
		if err != nil {
			t.Fatal(err)
		}
		b[5_000+3_000*i] ^= 1
		if err := os.WriteFile(flip, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.startAll()
	untilTrue(t, "all hold all again", func() bool {
		return c.holds(0, "CUT") == msgs && c.holds(1, "CUT") == msgs && c.holds(2, "CUT") == msgs
	})
	for i, n := range c.nodes {
		s := n.status().Store
		if len(s.Rebuilt) != 1 || !strings.Contains(s.Rebuilt[0], "cut off behind sequence") || len(s.Damaged) != 0 {
			t.Errorf("n%d: %+v", i+1, s)
		}
		if fi, err := os.Stat(filepath.Join(images[i], s.Kept, "jetstream", accountControl, "streams", "CUT", "msgs", "2.blk")); err != nil || fi.Size() < 20_000 {
			t.Errorf("n%d: the damaged block was not kept: %v", i+1, err)
		}
	}
}
