package membershipd_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd"
)

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func userSeed(t *testing.T) (seed, public string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	s, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	p, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return string(s), p
}

func TestLoadIdentity(t *testing.T) {
	seed, _ := userSeed(t)
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, content string
		mode          os.FileMode
		want          string // "" for success
	}{
		{"private", seed + "\n", 0o600, ""},
		{"read-only", seed, 0o400, ""},
		{"group may read", seed, 0o640, "can be read by others"},
		{"all may read", seed, 0o604, "can be read by others"},
		{"garbage", "hello", 0o600, "does not hold one"},
		{"empty", "", 0o600, "does not hold one"},
		{"not a user's", string(accountSeed), 0o600, "not a user's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := membershipd.LoadIdentity(write(t, filepath.Join(t.TempDir(), "k.nk"), tc.content, tc.mode))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), seed) {
				t.Error("the error shows the seed")
			}
		})
	}
}

// refusal runs a daemon that must not come up, and returns why.
func refusal(t *testing.T, c membershipd.Config) string {
	t.Helper()
	d, err := membershipd.New(c)
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitLong)
	defer cancel()
	if err := d.Run(ctx); err != nil {
		return err.Error()
	}
	t.Fatal("the daemon came up")
	return ""
}

func TestRefusesToStart(t *testing.T) {
	_, public := userSeed(t)
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, c *membershipd.Config)
		want   string
	}{
		{"no password file", func(_ *testing.T, c *membershipd.Config) { c.ClusterPassFile += ".missing" }, "read the cluster password"},
		{"a password that others can read", func(t *testing.T, c *membershipd.Config) {
			c.ClusterPassFile = write(t, filepath.Join(t.TempDir(), "p"), "x", 0o644)
		}, "can be read by others"},
		{"an empty password", func(t *testing.T, c *membershipd.Config) {
			c.ClusterPassFile = write(t, filepath.Join(t.TempDir(), "p"), " \n", 0o600)
		}, "is empty"},
		{"an identity that others can read", func(t *testing.T, c *membershipd.Config) {
			seed, _ := userSeed(t)
			c.InternalIDFile = write(t, filepath.Join(t.TempDir(), "i.nk"), seed, 0o640)
		}, "can be read by others"},
		{"static keys that are none", func(t *testing.T, c *membershipd.Config) {
			c.StaticKeysFile = write(t, filepath.Join(t.TempDir(), "k"), "# fine\nnonsense\n", 0o644)
		}, ":2 does not begin with a public user nkey"},
		{"static keys with an unknown word", func(t *testing.T, c *membershipd.Config) {
			c.StaticKeysFile = write(t, filepath.Join(t.TempDir(), "k"), public+" root\n", 0o644)
		}, `the only words after a key are "admin" and "system"`},
		{"a static key with two words", func(t *testing.T, c *membershipd.Config) {
			c.StaticKeysFile = write(t, filepath.Join(t.TempDir(), "k"), public+" admin system\n", 0o644)
		}, "only one of them"},
		{"a static key twice", func(t *testing.T, c *membershipd.Config) {
			c.StaticKeysFile = write(t, filepath.Join(t.TempDir(), "k"), public+"\n"+public+" admin\n", 0o644)
		}, "for the second time"},
		{"a store of another node", func(t *testing.T, c *membershipd.Config) {
			write(t, filepath.Join(c.DataDir, "node.json"), `{"name":"n9","cluster":"unibus"}`, 0o600)
		}, `belongs to node "n9"`},
		{"a store of another cluster", func(t *testing.T, c *membershipd.Config) {
			write(t, filepath.Join(c.DataDir, "node.json"), `{"name":"n1","cluster":"other"}`, 0o600)
		}, `of cluster "other"`},
		{"a store without an owner that can be read", func(t *testing.T, c *membershipd.Config) {
			write(t, filepath.Join(c.DataDir, "node.json"), `{`, 0o600)
		}, "whose the data directory is"},
		{"a taken HTTP port", func(t *testing.T, c *membershipd.Config) { c.HTTPListen = takenAddress(t) }, "listen for HTTP"},
		{"a taken client port, which the embedded server only calls fatal", func(t *testing.T, c *membershipd.Config) {
			c.ClientListen = takenAddress(t)
			if err := os.MkdirAll(filepath.Join(c.DataDir, "jetstream", "SYS", "_js_", "_meta_"), 0o700); err != nil { // not the first start
				t.Fatal(err)
			}
		}, "the embedded server failed: Error listening on port"},
		{"a taken route port", func(t *testing.T, c *membershipd.Config) { c.ClusterListen = takenAddress(t) }, "listen for routes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestCluster(t).configs[0]
			tc.change(t, &c)
			if why := refusal(t, c); !strings.Contains(why, tc.want) {
				t.Errorf("got %q, want one that contains %q", why, tc.want)
			}
		})
	}
}

func TestTwoDaemonsOnOneStore(t *testing.T) {
	c := newTestCluster(t)
	n := c.start(t, 0)
	defer n.stop(t)
	c.untilHTTP(t, 0, "livez", 200, "")
	second := c.configs[0]
	second.HTTPListen = freeAddress(t)
	if why := refusal(t, second); !strings.Contains(why, "another daemon runs on") {
		t.Errorf("got %q", why)
	}
}
