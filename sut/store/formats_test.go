package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/store"
)

// A fill makes a stream and puts something into it. It returns the stream's name.
type fill struct {
	name string
	fill func(t *testing.T, s *server) string
	// blocks is how many block files there must be at the least, to be sure that the case is what it says.
	blocks int
	// since is the first release that has the feature; "" for all.
	since string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bg(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
	t.Cleanup(cancel)
	return ctx
}

func one(subject string) func(int) string { return func(int) string { return subject } }

// smallBlocks is a limit that makes nats-server choose blocks of 32,000 bytes.
const smallBlocks = 127_000

var fills = []fill{
	{"empty", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "EMPTY", Subjects: []string{"EMPTY"}})
		return "EMPTY"
	}, 0, ""},
	{"plain", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "PLAIN", Subjects: []string{"PLAIN.>"}})
		s.publish(500, func(i int) string { return fmt.Sprintf("PLAIN.%d", i%7) }, 100)
		return "PLAIN"
	}, 1, ""},
	{"headers", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "HEADERS", Subjects: []string{"HEADERS"}})
		s.publishEach(50, func(i int) *nats.Msg {
			m := &nats.Msg{Subject: "HEADERS", Header: nats.Header{"Nats-Msg-Id": {fmt.Sprint(i)}, "X": {"a", "b"}}}
			if i%2 == 0 {
				m.Data = payload(i, 40)
			}
			return m
		})
		return "HEADERS"
	}, 1, ""},
	{"kv history 5", func(t *testing.T, s *server) string {
		kvFill(t, s, jetstream.KeyValueConfig{Bucket: "B", History: 5})
		return "KV_B"
	}, 1, ""},
	{"kv history 1 in small blocks", func(t *testing.T, s *server) string {
		kvFill(t, s, jetstream.KeyValueConfig{Bucket: "S", History: 1, MaxBytes: smallBlocks})
		kv, err := s.js.KeyValue(bg(t), "S")
		must(t, err)
		for i := range 1500 {
			_, err := kv.Put(bg(t), fmt.Sprintf("k%d", i%400), payload(i, 200))
			must(t, err)
		}
		return "KV_S"
	}, 2, ""},
	{"max msgs", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "MM", Subjects: []string{"MM"}, MaxMsgs: 100, MaxBytes: smallBlocks})
		s.publish(3000, one("MM"), 300)
		return "MM"
	}, 1, ""},
	{"max bytes", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "MB", Subjects: []string{"MB"}, MaxBytes: 120_000})
		s.publish(2000, one("MB"), 300)
		return "MB"
	}, 2, ""},
	{"discard new", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "DN", Subjects: []string{"DN"}, MaxMsgs: 100, Discard: jetstream.DiscardNew})
		s.publish(100, one("DN"), 30)
		return "DN"
	}, 1, ""},
	{"deletes in the middle", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "DEL", Subjects: []string{"DEL"}, MaxBytes: smallBlocks})
		s.publish(1500, one("DEL"), 40)
		for seq := uint64(10); seq < 1400; seq += 17 {
			must(t, st.DeleteMsg(bg(t), seq))
		}
		for seq := uint64(708); seq < 724; seq++ { // no multiple of 17 above 10
			must(t, st.SecureDeleteMsg(bg(t), seq))
		}
		return "DEL"
	}, 3, ""},
	{"deletes at both ends", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "ENDS", Subjects: []string{"ENDS"}})
		s.publish(50, one("ENDS"), 50)
		for _, seq := range []uint64{1, 2, 3, 5, 50, 49, 47} {
			must(t, st.DeleteMsg(bg(t), seq))
		}
		return "ENDS"
	}, 1, ""},
	{"a whole block deleted", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "HOLE", Subjects: []string{"HOLE"}, MaxBytes: smallBlocks})
		s.publish(1500, one("HOLE"), 40)
		for seq := uint64(400); seq < 1100; seq++ {
			must(t, st.DeleteMsg(bg(t), seq))
		}
		return "HOLE"
	}, 2, ""},
	{"all deleted one by one", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "GONE", Subjects: []string{"GONE"}})
		s.publish(20, one("GONE"), 50)
		for seq := uint64(20); seq > 0; seq-- {
			must(t, st.DeleteMsg(bg(t), seq))
		}
		return "GONE"
	}, 1, ""},
	{"purge", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "PURGE", Subjects: []string{"PURGE"}})
		s.publish(200, one("PURGE"), 50)
		must(t, st.Purge(bg(t)))
		return "PURGE"
	}, 1, ""},
	{"purge and go on", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "PURGE2", Subjects: []string{"PURGE2"}})
		s.publish(200, one("PURGE2"), 50)
		must(t, st.Purge(bg(t)))
		s.publish(7, one("PURGE2"), 50)
		return "PURGE2"
	}, 1, ""},
	{"purge by subject", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "PSUB", Subjects: []string{"PSUB.>"}, MaxBytes: smallBlocks})
		s.publish(1500, func(i int) string { return fmt.Sprintf("PSUB.%d", i%3) }, 40)
		must(t, st.Purge(bg(t), jetstream.WithPurgeSubject("PSUB.1")))
		return "PSUB"
	}, 2, ""},
	{"purge up to a sequence", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "PSEQ", Subjects: []string{"PSEQ.>"}, MaxBytes: smallBlocks})
		s.publish(1500, func(i int) string { return fmt.Sprintf("PSEQ.%d", i%3) }, 40)
		must(t, st.Purge(bg(t), jetstream.WithPurgeSequence(777)))
		return "PSEQ"
	}, 2, ""},
	{"s2 compression", func(t *testing.T, s *server) string {
		st := s.create(jetstream.StreamConfig{Name: "S2", Subjects: []string{"S2"}, MaxBytes: smallBlocks, Compression: jetstream.S2Compression})
		s.publish(1500, one("S2"), 40)
		for seq := uint64(10); seq < 1400; seq += 31 {
			must(t, st.DeleteMsg(bg(t), seq))
		}
		awaitCompressed(t, s, "S2")
		return "S2"
	}, 3, "2.10"},
	{"work queue", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "WQ", Subjects: []string{"WQ"}, Retention: jetstream.WorkQueuePolicy})
		s.publish(100, one("WQ"), 50)
		c, err := s.js.CreateOrUpdateConsumer(bg(t), "WQ", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
		must(t, err)
		b, err := c.Fetch(40)
		must(t, err)
		for m := range b.Messages() {
			must(t, m.DoubleAck(bg(t)))
		}
		must(t, b.Error())
		return "WQ"
	}, 1, ""},
	{"max age", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "AGE", Subjects: []string{"AGE"}, MaxAge: time.Second, Duplicates: 500 * time.Millisecond})
		s.publish(30, one("AGE"), 50)
		s.wait("expiry", func() error {
			if n := s.state("AGE").Msgs; n > 0 {
				return fmt.Errorf("%d messages left", n)
			}
			return nil
		})
		return "AGE"
	}, 1, ""},
	{"first sequence", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "FIRST", Subjects: []string{"FIRST"}, FirstSeq: 1000})
		s.publish(3, one("FIRST"), 50)
		return "FIRST"
	}, 1, "2.11"},
	{"first sequence, empty", func(t *testing.T, s *server) string {
		s.create(jetstream.StreamConfig{Name: "FIRST0", Subjects: []string{"FIRST0"}, FirstSeq: 1000})
		return "FIRST0"
	}, 1, "2.11"},
}

func kvFill(t *testing.T, s *server, cfg jetstream.KeyValueConfig) {
	t.Helper()
	cfg.Storage = jetstream.FileStorage
	kv, err := s.js.CreateKeyValue(bg(t), cfg)
	must(t, err)
	for i := range 400 {
		_, err := kv.Put(bg(t), fmt.Sprintf("k%d", i%23), payload(i, 20+i%50))
		must(t, err)
	}
	for i := range 5 {
		must(t, kv.Delete(bg(t), fmt.Sprintf("k%d", i)))
		must(t, kv.Purge(bg(t), fmt.Sprintf("k%d", 10+i)))
	}
	_, err = kv.Put(bg(t), "k2", []byte("again"))
	must(t, err)
}

// awaitCompressed waits until the server has compressed every block but the last, which it does beside its other work.
func awaitCompressed(t *testing.T, s *server, stream string) {
	t.Helper()
	s.wait("compression", func() error {
		blocks := blockPaths(t, streamDir(s.dir, stream))
		for _, p := range blocks[:len(blocks)-1] {
			b, err := os.ReadFile(p)
			must(t, err)
			if !bytes.HasPrefix(b, []byte("cmp\x01")) {
				return fmt.Errorf("%s is not compressed", p)
			}
		}
		return nil
	})
}

func streamDir(root, stream string) string {
	return filepath.Join(root, "jetstream", "$G", "streams", stream)
}

func blockPaths(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for i := 1; i < 1000; i++ {
		p := filepath.Join(dir, "msgs", fmt.Sprintf("%d.blk", i))
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func findStream(t *testing.T, root, name string) store.Stream {
	t.Helper()
	all, err := store.Streams(root)
	must(t, err)
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no stream %s among %d", name, len(all))
	return store.Stream{}
}

func readCopy(t *testing.T, root, name string) store.Copy {
	t.Helper()
	c, err := findStream(t, root, name).Read(context.Background())
	must(t, err)
	return c
}

func stateOf(c store.Copy) streamState {
	return streamState{Msgs: c.Msgs, Bytes: c.Bytes, First: c.First, Last: c.Last, NumDeleted: c.Deleted}
}

func copyMessages(t *testing.T, c store.Copy) []message {
	t.Helper()
	var out []message
	must(t, c.Messages(func(m store.Message) bool {
		out = append(out, message{m.Seq, m.Time, m.Subject, parseHeader(t, m.Header), string(m.Payload)})
		return true
	}))
	return out
}

func parseHeader(t *testing.T, b []byte) nats.Header {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	_, rest, _ := bytes.Cut(b, []byte("\r\n"))
	h := nats.Header{}
	for line := range strings.SplitSeq(strings.TrimSpace(string(rest)), "\r\n") {
		k, v, _ := strings.Cut(line, ":")
		h.Add(k, strings.TrimSpace(v))
	}
	return h
}

func sameMessages(t *testing.T, got, want []message) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("the copy has %d messages, the server %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if len(w.header) == 0 {
			w.header = nil
		}
		if !reflect.DeepEqual(g, w) {
			t.Fatalf("message %d:\ncopy   %+v\nserver %+v", i, g, w)
		}
	}
}

// A stop is how the server ends, and what happens to its files then.
type stop struct {
	name      string
	signal    syscall.Signal
	dropIndex bool
}

var stops = []stop{
	{"clean stop", syscall.SIGTERM, false},
	{"SIGKILL", syscall.SIGKILL, false},
	{"clean stop without index.db", syscall.SIGTERM, true},
}

// TestAgainstServer compares every kind of stream with what the server says of it: before it stopped, and after it started again.
func TestAgainstServer(t *testing.T) {
	for _, how := range stops {
		t.Run(how.name, func(t *testing.T) { againstServer(t, how) })
	}
}

// supported leaves out what the release does not have, or loses when it starts again (2.10 purges a stream with a first sequence).
func supported(s *server) []fill {
	var out []fill
	for _, f := range fills {
		old := strings.HasPrefix(s.nc.ConnectedServerVersion(), "2.9.") || f.since == "2.11" && strings.HasPrefix(s.nc.ConnectedServerVersion(), "2.10.")
		if f.since == "" || !old {
			out = append(out, f)
		}
	}
	return out
}

func againstServer(t *testing.T, how stop) {
	s := newServer(t, "")
	fills := supported(s)
	names := make([]string, len(fills))
	before := make([]streamState, len(fills))
	for i, f := range fills {
		names[i] = f.fill(t, s)
		before[i] = s.state(names[i])
	}
	s.stop(how.signal)
	if how.dropIndex {
		for _, n := range names {
			if err := os.Remove(filepath.Join(streamDir(s.dir, n), "msgs", "index.db")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	frozen := t.TempDir() // the server will change its files when it starts
	must(t, os.CopyFS(frozen, os.DirFS(s.dir)))
	s.start()
	for i, f := range fills {
		t.Run(f.name, func(t *testing.T) {
			if n := len(blockPaths(t, streamDir(frozen, names[i]))); n < f.blocks {
				t.Fatalf("%d blocks, want at least %d", n, f.blocks)
			}
			c := readCopy(t, frozen, names[i])
			if got, want := stateOf(c), s.state(names[i]); got != want {
				t.Errorf("copy %+v\nserver after its start %+v", got, want)
			}
			if before[i].Last == 0 {
				before[i].First = c.First // 2.9 says 0 before its first start and 1 after it
			}
			if got := stateOf(c); how == stops[0] && got != before[i] {
				t.Errorf("copy %+v\nserver before it stopped %+v", got, before[i])
			}
			if len(c.Damaged) > 0 {
				t.Errorf("damage: %+v", c.Damaged)
			}
			sameMessages(t, copyMessages(t, c), s.messages(names[i]))
		})
	}
}
