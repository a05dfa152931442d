package hosts_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/docker/hosts"
	"github.com/unibus/unibus/sut/cluster"
)

// open skips where hosts cannot be had: the reason is what the scenario would give for NOT RUN.
func open(t *testing.T) *hosts.Backend {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	if !hosts.Cached() {
		t.Skip("the system of a host is not in the cache; the scenario deploy-rehearsal makes it")
	}
	b, err := hosts.New(t.Context())
	if errors.Is(err, hosts.ErrNoHosts) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestHostsAreMachinesWithSystemdAndSSH(t *testing.T) {
	b := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, err := b.NewCluster(ctx, cluster.Spec{RunID: "hoststest", Name: strings.ToLower(time.Now().Format("t150405.000000")[0:7]), Size: 2})
	if err != nil {
		t.Fatal(err)
	}
	f, ok := c.(*hosts.Fleet)
	if !ok {
		t.Fatalf("the cluster is a %T", c)
	}
	defer func() {
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	for _, id := range cluster.IDs(c) {
		out, err := f.Run(ctx, id, "ps -p 1 -o comm=; hostname; sudo -u ops sudo -n id -u")
		if want := "systemd\n" + string(id) + "\n0\n"; err != nil || out != want {
			t.Errorf("%s says %q (%v), want %q", id, out, err, want)
		}
	}
	if _, err := f.Run(ctx, "n1", "exit 7"); err == nil {
		t.Error("a script that fails is no error")
	}
	replaceHost(ctx, t, f)
}

// replaceHost wants another machine under the same name: another address, nothing left of the first one, and still known to ssh.
func replaceHost(ctx context.Context, t *testing.T, f *hosts.Fleet) {
	t.Helper()
	if _, err := f.Run(ctx, "n2", "touch /root/mine /var/lib/unibus/mine"); err != nil {
		t.Fatal(err)
	}
	before := f.Address("n2")
	if err := f.ReplaceHost(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	out, err := f.Run(ctx, "n2", "hostname; ls /root /var/lib/unibus")
	if err != nil || !strings.HasPrefix(out, "n2\n") || strings.Contains(out, "mine") {
		t.Errorf("the new machine says %q (%v)", out, err)
	}
	if f.Address("n2") == before {
		t.Errorf("the new machine has the old one's address %s", before)
	}
}
