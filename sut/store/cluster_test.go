package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/replicas"
	"github.com/unibus/unibus/sut/loopback"
	"github.com/unibus/unibus/sut/store"
)

// freePorts reserves ports of 127.0.0.1 for this test.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		p, err := loopback.Reserve()
		must(t, err)
		t.Cleanup(func() { must(t, p.Release()) })
		out = append(out, p.Addr)
	}
	return out
}

// cluster starts three servers that know each other.
func cluster(t *testing.T) []*server {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster")
	}
	routes := freePorts(t, 3)
	var out []*server
	for i := range 3 {
		s := &server{t: t, dir: filepath.Join(t.TempDir(), "data")}
		s.configure(fmt.Sprintf(`server_name: n%d
listen: 127.0.0.1:-1
http: 127.0.0.1:-1
jetstream { store_dir: %q, max_file_store: 1GB, sync_interval: always }
cluster { name: c, listen: %q, routes: ["nats://%s"] }
`, i+1, s.dir, routes[i], strings.Join(routes, `","nats://`)))
		s.launch()
		out = append(out, s)
	}
	for _, s := range out {
		s.connect()
		s.healthy()
	}
	return out
}

func (s *server) healthy() {
	s.t.Helper()
	s.wait("health", func() error {
		resp, err := http.Get(s.ports.Monitoring[0] + "/healthz")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("health %d", resp.StatusCode)
		}
		return nil
	})
}

// agree waits until all servers say the same of their own copy.
func agree(t *testing.T, all []*server, stream string, msgs uint64) streamState {
	t.Helper()
	var st streamState
	all[0].wait("agreement", func() error {
		for i, s := range all {
			x, err := s.jsz(stream)
			if err != nil {
				return err
			}
			if i == 0 {
				st = x
			}
			if x != st || x.Msgs != msgs {
				return fmt.Errorf("n%d has %+v, n1 %+v, want %d messages", i+1, x, st, msgs)
			}
		}
		return nil
	})
	return st
}

// TestReplicasAgree fills an R3 stream and an R3 bucket in a cluster, has one node wiped and caught up, and reads what each of
// the three has: the digests, which cover the timestamps, are the same although the block files are not.
func TestReplicasAgree(t *testing.T) {
	all := cluster(t)
	s := all[0]
	s.wait("stream", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := s.js.CreateStream(ctx, jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}, Replicas: 3, MaxBytes: smallBlocks})
		return err
	})
	s.wait("leader", func() error { // the first publish must not meet an election
		st, err := s.js.Stream(bg(t), "R")
		if err != nil {
			return err
		}
		if c := st.CachedInfo().Cluster; c == nil || c.Leader == "" || len(c.Replicas) != 2 {
			return errors.New("no leader")
		}
		return nil
	})
	s.publish(600, func(i int) string { return fmt.Sprintf("r.%d", i%5) }, 40)
	kvFill(t, s, jetstream.KeyValueConfig{Bucket: "B", History: 5, Replicas: 3})
	st, err := s.js.Stream(bg(t), "R")
	must(t, err)
	for seq := uint64(5); seq < 600; seq += 50 {
		must(t, st.DeleteMsg(bg(t), seq))
	}
	kvState := all[1].leaderState(t, "KV_B")
	want := agree(t, all, "R", 588)
	agree(t, all, "KV_B", kvState.State.Msgs)

	victim := all[2]
	victim.stop(syscall.SIGKILL)
	must(t, os.RemoveAll(victim.dir))
	s.wait("a leader that lives", func() error { // the victim may have been it
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // nobody answers while there is no leader
		defer cancel()
		info, err := st.Info(ctx)
		if err == nil && (info.Cluster.Leader == "" || info.Cluster.Leader == "n3") {
			err = fmt.Errorf("the leader is %q", info.Cluster.Leader)
		}
		return err
	})
	s.publish(10, func(int) string { return "r.new" }, 40)
	victim.launch()
	victim.connect()
	victim.healthy()
	want.Msgs += 10
	agree(t, all, "R", want.Msgs)
	kv := agree(t, all, "KV_B", kvState.State.Msgs)

	at := time.Now()
	var states [2]streamState
	var digests [2]string
	for i, n := range all {
		n.stop(syscall.SIGTERM)
		rs, err := replicas.ReadAt(context.Background(), n.dir, fmt.Sprintf("n%d", i+1), at)
		must(t, err)
		if len(rs) != 2 {
			t.Fatalf("n%d: got %+v", i+1, rs)
		}
		for j, r := range rs { // KV_B, R
			got := streamState{Msgs: r.Msgs, Bytes: r.Bytes, First: r.First, Last: r.Last, NumDeleted: r.Deleted}
			if i == 0 {
				digests[j], states[j] = r.Digest, got
			}
			if r.Err != "" || r.Damaged > 0 || r.Replicas != 3 || got != states[j] || r.Digest != digests[j] {
				t.Errorf("got %+v, n1 has %+v %s", r, states[j], digests[j])
			}
		}
		groups, err := store.RaftGroups(n.dir)
		must(t, err)
		if len(groups) != 3 {
			t.Errorf("n%d: %d raft groups, want those of two streams and the meta group", i+1, len(groups))
		}
		for _, g := range groups {
			if c, err := g.Read(context.Background()); err != nil || c.Corrupt() > 0 {
				t.Errorf("raft group %s: %v %+v", g.Target(), err, c.Damaged)
			}
		}
	}
	if states[0] != kv || states[1].Msgs != want.Msgs || digests[0] == digests[1] {
		t.Errorf("copies %+v, servers %+v %+v", states, kv, want)
	}
}

func (s *server) leaderState(t *testing.T, stream string) *jetstream.StreamInfo {
	t.Helper()
	st, err := s.js.Stream(bg(t), stream)
	must(t, err)
	return st.CachedInfo()
}
