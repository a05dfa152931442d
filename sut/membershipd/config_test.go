package membershipd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/unibus/unibus/sut/membershipd"
)

func validConfig() membershipd.Config {
	c := membershipd.DefaultConfig()
	c.Name, c.DataDir, c.ClusterPassFile = "n1", "/nowhere", "/nowhere/pass"
	c.Routes = []string{"n1:6222", "n2:6222", "n3:6222"}
	return c
}

// routesOf lists as many nodes.
func routesOf(nodes int) (all []string) {
	for i := range nodes {
		all = append(all, fmt.Sprintf("n%d:6222", i+1))
	}
	return all
}

func TestConfigCheck(t *testing.T) {
	if err := validConfig().Check(); err != nil {
		t.Fatalf("the valid one is refused: %v", err)
	}
	for nodes := 3; nodes <= 7; nodes++ {
		c := validConfig()
		if c.Routes = routesOf(nodes); c.Check() != nil {
			t.Errorf("%d nodes: %v", nodes, c.Check())
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*membershipd.Config)
		want   string
	}{
		{"no name", func(c *membershipd.Config) { c.Name = "" }, "--name is required"},
		{"name with a dot", func(c *membershipd.Config) { c.Name = "n.1" }, "--name"},
		{"name with a space", func(c *membershipd.Config) { c.Name = "n 1" }, "--name"},
		{"no data directory", func(c *membershipd.Config) { c.DataDir = "" }, "--data-dir is required"},
		{"no port", func(c *membershipd.Config) { c.ClientListen = "127.0.0.1" }, "--client-listen"},
		{"port 0 would mean the default", func(c *membershipd.Config) { c.ClusterListen = "127.0.0.1:0" }, "--cluster-listen"},
		{"port too large", func(c *membershipd.Config) { c.HTTPListen = ":70000" }, "--http-listen"},
		{"bad monitor address", func(c *membershipd.Config) { c.MonitorListen = "x" }, "--monitor-listen"},
		{"no routes", func(c *membershipd.Config) { c.Routes = nil }, "at least 3"},
		{"two nodes", func(c *membershipd.Config) { c.Routes = c.Routes[:2] }, "at least 3"},
		{"eight nodes", func(c *membershipd.Config) { c.Routes = routesOf(8) }, "--routes lists 8 nodes"},
		{"a node twice", func(c *membershipd.Config) { c.Routes[2] = c.Routes[0] }, "twice"},
		{"route without port", func(c *membershipd.Config) { c.Routes[2] = "n3" }, "not host:port"},
		{"two replicas", func(c *membershipd.Config) { c.Replicas = 2 }, "want 1, 3 or 5"},
		{"more replicas than nodes", func(c *membershipd.Config) { c.Replicas = 5 }, "more than the 3 nodes"},
		{"no route password", func(c *membershipd.Config) { c.ClusterPassFile = "" }, "--cluster-pass-file is required"},
		{"another store", func(c *membershipd.Config) { c.Store = "etcd" }, "--store"},
		{"bad sync", func(c *membershipd.Config) { c.Sync = "sometimes" }, "--sync"},
		{"negative sync", func(c *membershipd.Config) { c.Sync = "-1s" }, "--sync"},
		{"negative lame duck", func(c *membershipd.Config) { c.LameDuck = -1 }, "--lame-duck"},
		{"store too small", func(c *membershipd.Config) { c.MaxStore = 1 << 20 }, "--max-store"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := validConfig()
			tc.change(&c)
			err := c.Check()
			if !errors.Is(err, membershipd.ErrConfig) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one that contains %q", err, tc.want)
			}
		})
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "17": 17, "4K": 4 << 10, "256M": 256 << 20, "10g": 10 << 30, "1GB": 1 << 30, " 2T ": 2 << 40} {
		if got, err := membershipd.ParseBytes(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "-1", "1.5G", "1X", "99999999999T", "1 G x"} {
		if got, err := membershipd.ParseBytes(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	got := membershipd.ParseRoutes(" n1:1, nats://n2:2 ,,n3:3")
	if strings.Join(got, " ") != "n1:1 n2:2 n3:3" {
		t.Errorf("got %q", got)
	}
}
