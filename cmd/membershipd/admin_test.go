package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

// does runs a command that must succeed, and returns its output.
func does(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, noEnv, &out, &errs); code != exitOK {
		t.Fatalf("membershipd %s ends with %d: %s", strings.Join(args, " "), code, errs.String())
	}
	return out.String()
}

// A new key is a user's, its file is private and complete, and what is printed is the public key and nothing of the seed.
func TestKeyNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.nk")
	printed := strings.TrimSpace(does(t, "key", "new", path))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	kp, err := client.LoadSeed(path)
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil || public != printed {
		t.Errorf("printed %q, the file's key is %q, %v", printed, public, err)
	}
	var shown struct{ NKey string }
	if err := json.Unmarshal([]byte(does(t, "key", "show", path, "--json")), &shown); err != nil || shown.NKey != public {
		t.Errorf("shown: %+v, %v", shown, err)
	}
}

// The first administrators: the same again changes nothing, another key under the same name is refused and the file stays.
func TestSeedFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "first.json")
	key := strings.TrimSpace(does(t, "key", "new", filepath.Join(dir, "a.nk")))
	other := strings.TrimSpace(does(t, "key", "new", filepath.Join(dir, "b.nk")))
	add := func(name, key string) []string {
		return []string{"user", "add", name, "--store", "seed", "--seed-file", file, "--nkey", key, "--role", "admin", "--json"}
	}
	var first, again struct {
		Changed bool `json:"changed"`
		control.UserAddRequest
	}
	for _, into := range []any{&first, &again} {
		if err := json.Unmarshal([]byte(does(t, add("ada", key)...)), into); err != nil {
			t.Fatal(err)
		}
	}
	if !first.Changed || again.Changed || first.Name != "ada" || first.Key != key {
		t.Errorf("first %+v, then %+v", first, again)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), add("ada", other), noEnv, &out, &errs); code != exitFailed {
		t.Errorf("another key for the same name ends with %d", code)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a refused user changed the file: %v", err)
	}
}

// What a role's flags say, and what its JSON says, is the same request.
func TestRolePutRequest(t *testing.T) {
	want := access.Role{
		Name: "trader", Publish: []string{"orders.>"}, Subscribe: []string{"prices.>", "news"}, Deny: []string{"orders.x"}, Respond: true, Control: "read",
		Description: "d", Streams: []access.StreamGrant{{Name: "S", Access: "read"}}, Buckets: []access.BucketGrant{{Name: "B", Access: "write"}},
	}
	parse := func(args ...string) control.RolePutRequest {
		t.Helper()
		var got control.RolePutRequest
		c := &cobra.Command{Args: cobra.ExactArgs(1)}
		f := &roleFlags{}
		addRoleFlags(c, f)
		c.RunE = func(c *cobra.Command, args []string) (err error) {
			got, err = f.request(c, args[0])
			return err
		}
		c.SetArgs(args)
		if err := c.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return got
	}
	flags := parse("trader", "--publish", "orders.>", "--subscribe", "prices.>,news", "--deny", "orders.x", "--respond", "--control", "read",
		"--description", "d", "--stream", "S=read", "--bucket", "B=write", "--expect", "0")
	if !reflect.DeepEqual(flags.Role, want) || flags.Expect == nil || *flags.Expect != 0 {
		t.Errorf("from flags: %+v", flags)
	}
	shown, err := json.Marshal(control.Role{Role: want, Revision: 7, Users: 3}) // as "role show --json" prints it
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "role.json")
	if err := os.WriteFile(file, shown, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := parse("trader", "--file", file); !reflect.DeepEqual(got.Role, want) || got.Expect != nil {
		t.Errorf("from the file: %+v", got)
	}
}

// A change is told with where it is in force; one that was not needed is told as such.
func TestPrintChange(t *testing.T) {
	for want, ch := range map[string]control.Change{
		"x (revision 3), in force on n1, n2; not yet confirmed by n3\n": {Revision: 3, Changed: true, Applied: []string{"n1", "n2"}, Pending: []string{"n3"}},
		"nothing to do: x already (revision 3), in force on n1\n":       {Revision: 3, Applied: []string{"n1"}},
	} {
		var out bytes.Buffer
		c := &cobra.Command{}
		c.SetOut(&out)
		if err := (&target{}).printChange(c, ch, "x"); err != nil || out.String() != want {
			t.Errorf("%q, %v", out.String(), err)
		}
	}
}

// Variables belong to the connection only: one that is meant for "serve" must not become the condition of a write.
func TestConnectionFromEnvironment(t *testing.T) {
	env := map[string]string{"UNIBUS_NKEY_FILE": "k", "UNIBUS_SERVER": "nats://192.0.2.1:4222,nats://192.0.2.2:4222", "UNIBUS_CA": "ca", "UNIBUS_EXPECT": "9", "UNIBUS_STORE": "seed"}
	tgt := &target{}
	c := newUserAdd(tgt, noEnv)
	tgt.flags(c)
	if err := fillFromEnv(tgt.connection, func(k string) string { return env[k] }); err != nil {
		t.Fatal(err)
	}
	if tgt.keyFile != "k" || len(tgt.servers) != 2 || tgt.ca != "ca" || c.Flags().Lookup("store").Value.String() != storeKV {
		t.Errorf("%+v", tgt)
	}
}

// TestStatusWords: what is known is shown, what is not is not shown as something else, and a node that fetched streams again says so.
func TestStatusWords(t *testing.T) {
	behind, same := 3600.0, -1.0
	s := health.Status{
		Node: "n1", Peers: []health.Peer{{Name: "n2", ClockAheadSeconds: &behind}, {Name: "n3", ClockAheadSeconds: &same}, {Name: "n4"}},
		Buckets: []health.Bucket{
			{Name: "half", Leader: "n2", Replicas: 3, WantReplicas: 3, Current: true, Lag: 4, Bytes: 50, MaxBytes: 100},
			{Name: "poor", Leader: "n3", Replicas: 1, WantReplicas: 3, Current: true, Bytes: 1, MaxBytes: 100},
			{Name: "dark"},
		},
		Audit: health.Bucket{Name: "audit"},
	}
	show := func() (rows map[string]string) {
		t.Helper()
		var out bytes.Buffer
		if err := printStatus(&out, s); err != nil {
			t.Fatal(err)
		}
		rows = map[string]string{}
		for line := range strings.Lines(out.String()) {
			if f := strings.Fields(line); len(f) > 0 {
				rows[f[0]] = strings.Join(f[1:], " ")
			}
		}
		return rows
	}
	rows := show()
	for name, want := range map[string]string{
		"n2": "false 0.0 s ago 3600 s behind", "n3": "false 0.0 s ago the same", "n4": "false 0.0 s ago not known",
		"half": "n2 R3 true 4 50 %", "poor": "n3 R1, R3 wanted true 0 1 %", "dark": "none not known false not known not known",
	} {
		if rows[name] != want {
			t.Errorf("%s: %q, want %q", name, rows[name], want)
		}
	}
	if said, ok := rows["store"]; ok {
		t.Errorf("of a store of which there is nothing to say: %q", said)
	}
	s.Store.Rebuilt = []string{"stream BUS/A: x", "stream BUS/B: y"}
	if said := show()["store"]; said != "given up before this start, and fetched again: stream BUS/A: x; stream BUS/B: y" {
		t.Errorf("of a store: %q", said)
	}
}
