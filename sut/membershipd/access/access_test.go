package access_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/unibus/unibus/sut/membershipd/access"
)

// maxPerUser is what a user may cost in memory.
const maxPerUser = 2 << 10

func newKey(t testing.TB) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func record(t testing.TB, b access.Bucket, key string, revision uint64, v any) access.Record {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return access.Record{Bucket: b, Key: key, Revision: revision, Value: body}
}

func userRecord(t testing.TB, revision uint64, name, key, role string) access.Record {
	t.Helper()
	created := time.Date(2026, 1, 1, 0, 0, int(revision%1000), 0, time.UTC)
	return record(t, access.Users, name, revision, access.User{Schema: access.Schema, Name: name, Key: key, Role: role, Created: created})
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "0", "alice", "a-b_c", "user-0001", strings.Repeat("x", access.MaxName)} {
		if err := access.CheckName("user", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "Alice", "a.b", "a b", "*", ">", "a*", "-a", "a-", "_a", "$a", "a\x00", "a\n", "\u0430lice", "al\u200bice", "\uff41", "root", "system", "unibus", "a/b", "a\\b",
		"a\u0301", strings.Repeat("x", access.MaxName+1),
	} {
		if err := access.CheckName("user", bad); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, pair := range [][2]string{{"alice", "a1ice"}, {"bob", "b0b"}, {"a-b", "a_b"}} {
		if access.Skeleton(pair[0]) != access.Skeleton(pair[1]) {
			t.Errorf("%v do not look alike", pair)
		}
	}
}

func TestCheckSubject(t *testing.T) {
	for _, good := range []string{"a", "a.b", "a.*", "a.>", "a.*.c", "A.B-c_d"} {
		if err := access.CheckSubject(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ">", "*", "*.a", "$JS.API.>", "$KV.b.k", "_INBOX.>", "_INBOX_alice.>", "unibus.v1.users.add", "UNIBUS.x", "a..b", ".a", "a.", "a b", "a.>.b", "a.b*", "a\t", "a\x00", "\u00e4.b",
		strings.Repeat("a.", 20) + "a", strings.Repeat("a", access.MaxSubject+1),
	} {
		if err := access.CheckSubject(bad); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := access.CheckSubscription("a.*"); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("a.*: %v", err)
	}
}

// login wants success.
func login(t *testing.T, x *access.Index, key string) access.Login {
	t.Helper()
	l, err := x.Login(key)
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	return l
}

func TestIndexLifeOfAUser(t *testing.T) {
	x := access.NewIndex()
	key, other := newKey(t), newKey(t)
	if _, err := x.Login(key); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("nobody: %v", err)
	}
	effects := x.Apply(userRecord(t, 1, "alice", key, "member"))
	if !reflect.DeepEqual(effects, []access.Effect{{User: "alice"}}) {
		t.Errorf("effects: %v", effects)
	}
	if l := login(t, x, key); l.Name != "alice" || l.Admin || !l.Permissions.MaySubscribe("_INBOX_alice.>") || l.Permissions.MaySubscribe("_INBOX_bob.>") {
		t.Errorf("login: %+v", l)
	}
	u := access.User{Schema: access.Schema, Name: "alice", Key: key, Role: "member", Disabled: true}
	x.Apply(record(t, access.Users, "alice", 2, u))
	if _, err := x.Login(key); !errors.Is(err, access.ErrDisabled) {
		t.Errorf("disabled: %v", err)
	}
	if effects := x.Apply(userRecord(t, 1, "alice", key, "member")); effects != nil { // an older revision
		t.Errorf("effects of the past: %v", effects)
	}
	if _, err := x.Login(key); !errors.Is(err, access.ErrDisabled) {
		t.Errorf("after an old record: %v", err)
	}
	x.Apply(userRecord(t, 3, "alice", other, "nosuch"))
	if _, err := x.Login(key); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("the old key: %v", err)
	}
	if _, err := x.Login(other); !errors.Is(err, access.ErrNoRole) {
		t.Errorf("no role: %v", err)
	}
	x.Apply(record(t, access.Roles, "nosuch", 1, access.Role{Schema: access.Schema, Name: "nosuch", Publish: []string{"a.>"}}))
	if l := login(t, x, other); !l.Permissions.MayPublish("a.b") || l.Permissions.MayPublish("b") {
		t.Errorf("with the role: %+v", l)
	}
	x.Apply(access.Record{Bucket: access.Users, Key: "alice", Revision: 4, Value: []byte("junk")})
	if _, err := x.Login(other); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("quarantined: %v", err)
	}
	if q := x.Quarantined(); len(q) != 1 || q[0].Key != "alice" || q[0].Why == "" {
		t.Errorf("quarantine: %v", q)
	}
}

// TestOneKeyTwice: whatever the order, the record that was created first has the key.
func TestOneKeyTwice(t *testing.T) {
	key := newKey(t)
	first, second := userRecord(t, 1, "first", key, "member"), userRecord(t, 2, "second", key, "admin")
	for _, order := range [][2]access.Record{{first, second}, {second, first}} {
		order[0].Revision, order[1].Revision = 10, 11
		x := access.NewIndex()
		x.Apply(order[:]...)
		if l := login(t, x, key); l.Name != "first" || l.Admin {
			t.Errorf("login: %+v", l)
		}
		if q := x.Quarantined(); len(q) != 1 || q[0].Key != "second" {
			t.Errorf("quarantine: %v", q)
		}
		x.Apply(access.Record{Bucket: access.Users, Key: "first", Revision: 12})
		if l := login(t, x, key); l.Name != "second" {
			t.Errorf("the heir: %+v", l)
		}
	}
}

// subjects are drawn for the model.
var subjects = rapid.Custom(func(t *rapid.T) string {
	tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "*"}), 1, 3).Draw(t, "tokens")
	tokens[0] = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "first")
	s := strings.Join(tokens, ".")
	if rapid.Bool().Draw(t, "tail") {
		s += ".>"
	}
	return s
})

// matches is the definition of a pattern, by recursion.
func matches(pattern, subject []string) bool {
	switch {
	case len(pattern) == 0:
		return len(subject) == 0
	case pattern[0] == ">":
		return len(subject) > 0
	case len(subject) == 0:
		return false
	}
	return (pattern[0] == "*" || pattern[0] == subject[0]) && matches(pattern[1:], subject[1:])
}

// TestPublishIsExactlyWhatIsAllowed compares with the rule: allowed by role or room, and not denied by the role.
func TestPublishIsExactlyWhatIsAllowed(t *testing.T) {
	key := newKey(t)
	rapid.Check(t, func(r *rapid.T) {
		role := access.Role{Schema: access.Schema, Name: "drawn", Publish: rapid.SliceOfN(subjects, 0, 3).Draw(r, "publish"), Deny: rapid.SliceOfN(subjects, 0, 2).Draw(r, "deny")}
		room := access.Room{Schema: access.Schema, Name: "room", Owner: "owner", Subjects: rapid.SliceOfN(subjects.Filter(func(s string) bool { return access.CheckSubscription(s) == nil }), 1, 2).Draw(r, "room")}
		level := rapid.SampledFrom([]string{"", access.LevelMember, access.LevelObserver, access.LevelOwner}).Draw(r, "level")
		x := access.NewIndex()
		x.Apply(userRecord(t, 1, "alice", key, "drawn"), record(t, access.Roles, "drawn", 1, role), record(t, access.Rooms, "room", 1, room),
			record(t, access.Members, "room.alice", 1, access.Member{Schema: access.Schema, Room: "room", User: "alice", Level: level}))
		l, err := x.Login(key)
		if err != nil {
			r.Fatal(err)
		}
		subject := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 4).Draw(r, "subject")
		any := func(patterns []string) bool {
			for _, p := range patterns {
				if matches(strings.Split(p, "."), subject) {
					return true
				}
			}
			return false
		}
		want := any(role.Publish) || (level == access.LevelMember || level == access.LevelOwner) && any(room.Subjects)
		want = want && !any(role.Deny)
		if got := l.Permissions.MayPublish(strings.Join(subject, ".")); got != want {
			r.Fatalf("publish %v: %t", subject, got)
		}
		for _, list := range [][]string{l.Permissions.PublishAllow, l.Permissions.SubscribeAllow} {
			if len(list) == 0 {
				r.Fatal("an empty list means everything to nats-server")
			}
			for _, s := range list {
				if s == ">" || strings.HasPrefix(s, "$KV.>") || s == "$JS.API.>" || s == "_INBOX.>" {
					r.Fatalf("allowed: %s", s)
				}
			}
		}
	})
}

// filled is an index with n users.
func filled(t testing.TB, n int) (*access.Index, []string) {
	t.Helper()
	x := access.NewIndex()
	keys := make([]string, n)
	batch := make([]access.Record, 0, 1024)
	for i := range n {
		keys[i] = newKey(t)
		batch = append(batch, userRecord(t, uint64(i+1), fmt.Sprintf("user-%06d", i), keys[i], "member"))
		if len(batch) == cap(batch) || i == n-1 {
			x.Apply(batch...)
			batch = batch[:0]
		}
	}
	return x, keys
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMemoryPerUser(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 20,000 keys")
	}
	const n = 20_000
	before := heap()
	x, keys := filled(t, n)
	per := float64(heap()-before) / n
	t.Logf("%.0f bytes per user", per)
	if per > maxPerUser {
		t.Errorf("a user costs %.0f bytes, and %d is the limit", per, maxPerUser)
	}
	runtime.KeepAlive(x)
	runtime.KeepAlive(keys)
}

func TestSnapshotRoundTrip(t *testing.T) {
	x, keys := filled(t, 300)
	x.Apply(record(t, access.Roles, "r", 4, access.Role{Schema: access.Schema, Name: "r", Publish: []string{"a"}}),
		record(t, access.Rooms, "room", 5, access.Room{Schema: access.Schema, Name: "room", Owner: "user-000001", Subjects: []string{"r.>"}}),
		record(t, access.Members, "room.user-000002", 6, access.Member{Schema: access.Schema, Room: "room", User: "user-000002", Level: "member"}),
		access.Record{Bucket: access.Users, Key: "user-000003", Revision: 900, Value: []byte("junk\n")})
	var buf bytes.Buffer
	if err := x.WriteSnapshot(&buf, access.Header{Generation: 3, Lineage: access.Lineage{"a", "b", "c", "d"}}); err != nil {
		t.Fatal(err)
	}
	whole := buf.String()
	y, h, err := access.ReadSnapshot(strings.NewReader(whole))
	if err != nil || h.Generation != 3 || h.Lineage[3] != "d" || h.Revisions != (access.Revisions{900, 4, 5, 6}) {
		t.Fatalf("read: %+v, %v", h, err)
	}
	for _, k := range keys {
		a, errA := x.Login(k)
		name, level, err := x.Caller(k)
		if name != a.Name || level != a.Control || (err == nil) != (errA == nil) {
			t.Errorf("%s: a caller %q with %q, %v; a login %q with %q, %v", k, name, level, err, a.Name, a.Control, errA)
		}
		b, errB := y.Login(k)
		if !reflect.DeepEqual(a, b) || (errA == nil) != (errB == nil) {
			t.Fatalf("%s: %+v %v, %+v %v", k, a, errA, b, errB)
		}
	}
	if !reflect.DeepEqual(x.Stats(), y.Stats()) || !reflect.DeepEqual(x.Quarantined(), y.Quarantined()) {
		t.Errorf("%+v %v, %+v %v", x.Stats(), x.Quarantined(), y.Stats(), y.Quarantined())
	}
	for _, at := range []int{0, 10, len(whole) / 3, len(whole) / 2, len(whole) - 5} { // any byte
		bad := []byte(whole)
		bad[at] ^= 1
		if _, _, err := access.ReadSnapshot(bytes.NewReader(bad)); err == nil {
			t.Errorf("byte %d is damaged, and nobody notices", at)
		}
		if _, _, err := access.ReadSnapshot(strings.NewReader(whole[:at])); err == nil {
			t.Errorf("it ends at %d, and nobody notices", at)
		}
	}
}

func TestStoreSurvives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "access")
	s := access.NewStore(dir)
	x, err := s.Load()
	if err != nil || s.Ready() {
		t.Fatalf("load nothing: %v", err)
	}
	key, late := newKey(t), newKey(t)
	x.Apply(userRecord(t, 1, "alice", key, "member"))
	if err := s.Save(x, access.Lineage{"l"}); err != nil {
		t.Fatal(err)
	}
	u := access.User{Schema: access.Schema, Name: "alice", Key: key, Role: "member", Disabled: true}
	if err := s.Append([]access.Record{record(t, access.Users, "alice", 2, u), userRecord(t, 3, "late", late, "member")}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	reload := func() (*access.Index, *access.Store, error) {
		again := access.NewStore(dir)
		y, err := again.Load()
		return y, again, err
	}
	y, again, err := reload()
	if err != nil || again.Lineage()[0] != "l" {
		t.Fatalf("load: %v", err)
	}
	if _, err := y.Login(key); !errors.Is(err, access.ErrDisabled) {
		t.Errorf("the journal is not in force: %v", err)
	}
	login(t, y, late)
	journal := filepath.Join(dir, "journal.1")
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, text[:len(text)-7], 0o600); err != nil { // torn: the last record was never confirmed
		t.Fatal(err)
	}
	if y, _, err = reload(); err != nil {
		t.Fatalf("load with a torn end: %v", err)
	}
	if _, err := y.Login(late); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("a torn record counts: %v", err)
	}
	text[20] ^= 1 // in the first record: who was disabled by it must not come back
	if err := os.WriteFile(journal, text, 0o600); err != nil {
		t.Fatal(err)
	}
	y, again, err = reload()
	if !errors.Is(err, access.ErrDamaged) || again.Ready() {
		t.Errorf("a damaged journal is used: %v", err)
	}
	if _, err := y.Login(key); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("from a damaged journal: %v", err)
	}
}

func FuzzParseUser(f *testing.F) {
	f.Add("alice", []byte(`{"schema":1,"name":"alice","nkey":"UAAA","role":"member","created":"2026-01-01T00:00:00Z"}`))
	f.Add("a", []byte(`{"schema":1,"name":"a","disabled":true}{}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if u, err := access.ParseUser(key, value); err == nil && (u.Name != key || access.CheckName("user", u.Name) != nil || access.CheckKey(u.Key) != nil) {
			t.Errorf("accepted: %+v", u)
		}
		x := access.NewIndex()
		x.Apply(access.Record{Bucket: access.Users, Key: key, Revision: 1, Value: value})
		if s := x.Stats(); len(value) > 0 && s.Users+s.Quarantined != 1 && key != access.FenceKey {
			t.Errorf("neither a user nor quarantined: %+v", s)
		}
	})
}

func FuzzParseRole(f *testing.F) {
	f.Add("r", []byte(`{"schema":1,"name":"r","publish":["a.>"],"deny":["a.b"],"streams":[{"name":"S","access":"read"}],"buckets":[{"name":"B","access":"write"}]}`))
	f.Add("admin", []byte(`{"schema":1,"name":"admin"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := access.ParseRole(key, value)
		if err != nil {
			return
		}
		for _, s := range append(append(r.Publish, r.Subscribe...), r.Deny...) {
			if strings.HasPrefix(s, "$") || strings.HasPrefix(s, "_") || strings.HasPrefix(s, "*") || strings.HasPrefix(s, ">") {
				t.Errorf("accepted: %q", s)
			}
		}
		if r.Control == access.ControlWrite || r.Name == access.RoleAdmin {
			t.Errorf("accepted: %+v", r)
		}
	})
}

func FuzzParseRoomAndMember(f *testing.F) {
	f.Add("room", []byte(`{"schema":1,"name":"room","owner":"alice","subjects":["chat.>"],"created":"2026-01-01T00:00:00Z"}`))
	f.Add("room.alice", []byte(`{"schema":1,"room":"room","user":"alice","level":"owner"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		if r, err := access.ParseRoom(key, value); err == nil && (len(r.Subjects) == 0 || r.Check() != nil) {
			t.Errorf("accepted: %+v", r)
		}
		if m, err := access.ParseMember(key, value); err == nil && access.MemberKey(m.Room, m.User) != key {
			t.Errorf("accepted: %+v", m)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	x, _ := filled(f, 2)
	var buf bytes.Buffer
	if err := x.WriteSnapshot(&buf, access.Header{Generation: 1}); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte("{\"schema\":1}\nsha256 x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if y, _, err := access.ReadSnapshot(bytes.NewReader(text)); (y == nil) != (err != nil) {
			t.Errorf("an index and an error: %v", err)
		}
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte("00000000 users 1 \"a\" \"b\"\n"), "key", []byte("v\n"))
	f.Fuzz(func(t *testing.T, text []byte, key string, value []byte) {
		_, _, _ = access.ParseJournal(text) // it must not crash
		line := access.AppendJournal(nil, access.Record{Bucket: access.Rooms, Key: key, Revision: 7, Value: value})
		got, good, err := access.ParseJournal(append(line, text...))
		if err == nil && (len(got) == 0 || got[0].Key != key || !bytes.Equal(got[0].Value, value) || good < len(line)) {
			t.Errorf("%q %q became %+v", key, value, got)
		}
	})
}

func BenchmarkLogin(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("users=%d", n), func(b *testing.B) {
			x, keys := filled(b, n)
			b.ResetTimer()
			for i := range b.N {
				if _, err := x.Login(keys[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMemory100k(b *testing.B) {
	const n = 100_000
	for range b.N {
		before := heap()
		x, keys := filled(b, n)
		b.ReportMetric(float64(heap()-before)/n, "B/user")
		runtime.KeepAlive(x)
		runtime.KeepAlive(keys)
	}
}

func BenchmarkLoad100k(b *testing.B) {
	x, _ := filled(b, 100_000)
	var buf bytes.Buffer
	if err := x.WriteSnapshot(&buf, access.Header{Generation: 1}); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, _, err := access.ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(buf.Len()))
}
