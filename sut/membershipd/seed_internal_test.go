package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

func seedText(t testing.TB, f SeedFile) string {
	t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAddToSeedFileIsIdempotent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.json")
	_, alice := userKey(t)
	_, bob := userKey(t)
	for _, c := range []struct {
		name, key, role string
		changed         bool
		err             string
	}{
		{"alice", alice, access.RoleAdmin, true, ""},
		{"alice", alice, access.RoleAdmin, false, ""},
		{"alice", bob, access.RoleAdmin, false, "with another key"},
		{"bob", alice, access.RoleAdmin, false, "with another key"},
		{"bob", bob, "nobody-knows", false, "is not built in"},
		{"bob", bob, access.RoleAdmin, true, ""},
	} {
		before, _ := os.ReadFile(path)
		changed, err := AddToSeedFile(path, c.name, c.key, c.role)
		if changed != c.changed || (err == nil) != (c.err == "") || err != nil && (!errors.Is(err, ErrSeed) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s as %s: %v %v, want %v %q", c.name, c.role, changed, err, c.changed, c.err)
		}
		if after, _ := os.ReadFile(path); !c.changed && string(after) != string(before) {
			t.Errorf("%s as %s: the file changed", c.name, c.role)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", fi, err)
	}
}

// TestLoadSeed: what is refused before anything of the node runs.
func TestLoadSeed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "seed.json")
	_, alice := userKey(t)
	if _, err := AddToSeedFile(path, "alice", alice, access.RoleAdmin); err != nil {
		t.Fatal(err)
	}
	f, err := readSeedFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := seedText(t, f)
	other := f
	other.Users = append(other.Users[:0:0], f.Users...)
	other.Users[0].Name = "mallory"
	newer := f
	newer.Schema++
	empty := f
	empty.Users = nil
	marker := func(state, digest string) string {
		b, err := json.Marshal(seedState{State: state, Digest: digest, Node: "n1", When: time.Unix(1, 0)})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct {
		name, content, marker string
		mode                  os.FileMode
		imports               bool
		err                   string // part of it; "" for none
	}{
		{"new cluster", good, "", 0o600, true, ""},
		{"imported before", good, marker(seedDone, f.digest()), 0o600, false, ""},
		{"another file after the cluster has formed", seedText(t, other), marker(seedDone, f.digest()), 0o600, false, "refused"},
		{"users came before any file", good, marker(seedRefused, ""), 0o600, false, "refused"},
		{"a marker that says nothing", good, "{", 0o600, true, ""},
		{"others can read it", good, "", 0o644, false, "read the seed file"},
		{"others can write it", good, "", 0o622, false, "read the seed file"},
		{"no JSON", "alice", "", 0o600, false, "not the JSON"},
		{"more behind it", good + "{}", "", 0o600, false, "not the JSON"},
		{"another schema", seedText(t, newer), "", 0o600, false, "its schema is"},
		{"nobody", seedText(t, empty), "", 0o600, false, "0 users"},
		{"no administrator", strings.ReplaceAll(good, `"admin"`, `"member"`), "", 0o600, false, "nobody in it"},
		{"no key", strings.ReplaceAll(good, alice, "UABC"), "", 0o600, false, "nkey"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := t.TempDir()
			file := filepath.Join(data, "seed-file")
			putFile(t, file, c.content, 0o600)
			if err := os.Chmod(file, c.mode); err != nil { // whatever the umask is
				t.Fatal(err)
			}
			if c.marker != "" {
				putFile(t, filepath.Join(data, seedMarker), c.marker, 0o600)
			}
			conf := Config{DataDir: data, SeedFile: file}
			got, err := loadSeed(conf, conf.logger())
			if (got != nil) != c.imports || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v %v, want %v %q", got, err, c.imports, c.err)
			}
		})
	}
	gone := Config{DataDir: t.TempDir(), SeedFile: filepath.Join(dir, "not-there")}
	if _, err := loadSeed(gone, gone.logger()); err == nil {
		t.Error("a file that is not there, and never was imported, is accepted")
	}
	putFile(t, filepath.Join(gone.DataDir, seedMarker), marker(seedDone, f.digest()), 0o600)
	if got, err := loadSeed(gone, gone.logger()); got != nil || err != nil {
		t.Errorf("the file was taken away after the import, as it should be: %v %v", got, err)
	}
}

// TestWithoutEnforce: a user whose role grants nothing may do everything in account BUS, and still nothing outside of it.
func TestWithoutEnforce(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster")
	}
	for _, enforce := range []bool{true, false} {
		c := newInProcess(t, func(m *Config) { m.Enforce = enforce })
		c.startAll()
		key, pub := userKey(t)
		ctx, cancel := context.WithTimeout(context.Background(), settleWait)
		if _, err := c.api(c.admin, 0).AddUser(ctx, control.UserAddRequest{Name: "alice", Key: pub, Role: access.RoleMember}); err != nil {
			t.Fatal(err)
		}
		cancel()
		nc, err := c.login(key, 0)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := nc.SubscribeSync("anything.at.all")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish("anything.at.all", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		wait := settleWait
		if enforce {
			wait = quiet // nothing is to come
		}
		_, err = sub.NextMsg(wait)
		if (err == nil) == enforce {
			t.Errorf("enforce is %v, and a message of a user without rights arrives: %v", enforce, err == nil)
		}
		if c.nodes[0].status().Posture.Enforce != enforce {
			t.Errorf("enforce is %v, and the posture says %v", enforce, !enforce)
		}
		if _, err := nc.Request("$JS.API.STREAM.NAMES", nil, 2*time.Second); enforce && err == nil {
			t.Error("JetStream's API answers a user without rights")
		}
		m, err := nc.Request("$JS.API.STREAM.INFO.KV_"+BucketUsers, nil, 2*time.Second)
		if err == nil && !strings.Contains(string(m.Data), `"error"`) {
			t.Errorf("enforce is %v, and the control plane's bucket is in reach: %s", enforce, m.Data)
		}
		for i := range c.nodes {
			c.stop(i)
		}
	}
}

func FuzzSeedFile(f *testing.F) {
	_, alice := userKey(f)
	f.Add([]byte(`{"schema":1,"users":[{"name":"alice","nkey":"` + alice + `","role":"admin"}]}`))
	f.Add([]byte(`{"schema":1,"users":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSeedFile(b)
		if err != nil {
			return
		}
		again, err := parseSeedFile([]byte(seedText(t, s)))
		if err != nil || again.digest() != s.digest() {
			t.Errorf("it is accepted, and what it says is not the same the second time: %v", err)
		}
	})
}

func FuzzStaticKeys(f *testing.F) {
	_, alice := userKey(f)
	_, bob := userKey(f)
	f.Add([]byte("# keys\n" + alice + " admin\n" + bob + "\n"))
	f.Add([]byte(alice + " system # tools\n"))
	f.Add([]byte(alice + " admin system\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseStaticKeys("keys", b)
		if err != nil {
			return
		}
		for k, v := range keys {
			if !strings.Contains(string(b), k) {
				t.Errorf("the key %s is not in the file", k)
			}
			if v.admin && v.system {
				t.Errorf("%s is both", k)
			}
		}
	})
}

// FuzzReplicaAnswers: whatever other nodes say, nothing is moved but directories inside of the store.
func FuzzReplicaAnswers(f *testing.F) {
	f.Add([]byte(`[{"node":"n3","ready":true,"words":{"BUS/ORDERS":{"group":"S-1","stream":"BUS/ORDERS","leader":true,"size":3,"covered":2}}}]`))
	f.Add([]byte(`[{"node":"n1","ready":true},{"node":"n3","ready":true}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var said []replicaAnswer
		if json.Unmarshal(b, &said) != nil {
			return
		}
		found := []damage{{Target: "BUS/ORDERS", Dir: "jetstream/BUS/streams/ORDERS", Replicas: 3}, {Group: true, Target: "S-1", Dir: "jetstream/SYS/_js_/S-1"}}
		dirs, wait := rebuildable(found, said, "n2", 3)
		if (len(dirs) == 0) == (wait == "") {
			t.Errorf("%v and %q", dirs, wait)
		}
		for _, dir := range dirs {
			if !filepath.IsLocal(dir) || !strings.HasPrefix(dir, "jetstream/") || strings.Count(dir, "/") != 3 {
				t.Errorf("it would move %q", dir)
			}
		}
	})
}
