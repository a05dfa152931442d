package subject_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

const adminKey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

func testNode(kind cluster.Kind) subject.Node {
	return subject.Node{
		ID: "n2", DataDir: "/d", ConfDir: "/c", Password: "pass-of-the-routes",
		Spec: cluster.Spec{Subject: cluster.Subject{Kind: kind, Version: "v2.15.2"}, AdminKey: adminKey},
		Addr: subject.Addresses{
			Client: "192.0.2.2:4222", Cluster: "192.0.2.2:6222", HTTP: "192.0.2.2:8080", Monitor: "192.0.2.2:8222",
			ClientAdvertise: "n2:4222", ClusterAdvertise: "n2:6222", Routes: []string{"n1:6222", "n2:6222", "n3:6222"},
		},
	}
}

// value returns what follows a flag.
func value(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func TestRenderMembershipd(t *testing.T) {
	n := testNode(cluster.Membershipd)
	l, err := subject.Render(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Args) == 0 || l.Args[0] != "serve" {
		t.Fatalf("arguments %q do not begin with serve", l.Args)
	}
	for flag, want := range map[string]string{
		"--name": "n2", "--data-dir": "/d", "--client-listen": "192.0.2.2:4222", "--client-advertise": "n2:4222", "--cluster-listen": "192.0.2.2:6222",
		"--cluster-advertise": "n2:6222", "--http-listen": "192.0.2.2:8080", "--monitor-listen": "192.0.2.2:8222", "--routes": "n1:6222,n2:6222,n3:6222",
		"--store": "kv", "--replicas": "3", "--sync": "always",
	} {
		if got := value(l.Args, flag); got != want {
			t.Errorf("%s is %q, want %q", flag, got, want)
		}
	}
	if got := content(t, l, value(l.Args, "--cluster-pass-file")); strings.TrimSpace(got) != n.Password {
		t.Errorf("the password file holds %q", got)
	}
	if got := content(t, l, value(l.Args, "--static-keys-file")); !strings.Contains(got, adminKey+" admin\n") {
		t.Errorf("the keys file holds %q", got)
	}
	if id := value(l.Args, "--internal-id-file"); id == "" || !subject.Secret(id) {
		t.Errorf("the internal identity's file %q is not known as a secret", id)
	}
	n.Spec.Replicas, n.Spec.Sync = 1, "2m0s"
	if l, err = subject.Render(n); err != nil || value(l.Args, "--replicas") != "1" || value(l.Args, "--sync") != "2m0s" {
		t.Errorf("R1 with an interval: %q, %v", l.Args, err)
	}
}

func TestRenderNATSServer(t *testing.T) {
	n := testNode(cluster.NATSServer)
	l, err := subject.Render(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Files) != 1 {
		t.Fatalf("%d files, want the configuration alone", len(l.Files))
	}
	conf := string(l.Files[0].Content)
	for _, want := range []string{
		`server_name: "n2"`, `listen: "192.0.2.2:4222"`, `http: "192.0.2.2:8222"`, "sync_interval: always", `store_dir: "/d"`, "system_account: SYS", adminKey,
		`@n1:6222"`, `@n2:6222"`, `@n3:6222"`, "BUS { jetstream: enabled",
	} {
		if !strings.Contains(conf, want) {
			t.Errorf("the configuration has no %s:\n%s", want, conf)
		}
	}
	if !slices.Contains(l.Args, l.Files[0].Path) || !subject.Secret(l.Files[0].Path) {
		t.Errorf("arguments %q, file %s", l.Args, l.Files[0].Path)
	}
}

func TestRenderNATSServerByVersion(t *testing.T) {
	for version, want := range map[string]struct{ refused, routeDeadline bool }{
		"v2.9.25": {refused: true}, "v2.10.22": {}, "v2.11.10": {}, "v2.12.1": {routeDeadline: true}, "v2.15.2": {routeDeadline: true},
		"": {refused: true}, "v3.0.0": {refused: true},
	} {
		n := testNode(cluster.NATSServer)
		n.Spec.Subject.Version = version
		l, err := subject.Render(n)
		if want.refused != (err != nil) {
			t.Errorf("%q: %v", version, err)
		}
		if err == nil && strings.Count(string(l.Files[0].Content), "write_deadline") > 1 != want.routeDeadline {
			t.Errorf("%q: the configuration is\n%s", version, l.Files[0].Content)
		}
	}
}

func TestRenderKeepsSecretsInFiles(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.Membershipd, cluster.NATSServer} {
		n := testNode(kind)
		l, err := subject.Render(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slices.Concat(l.Args, l.Env) {
			if strings.Contains(s, n.Password) {
				t.Errorf("%s: %q shows the password", kind, s)
			}
		}
		for _, f := range l.Files {
			holds := strings.Contains(string(f.Content), n.Password)
			if f.Mode != 0o600 || holds != f.Secret || holds != subject.Secret(f.Path) {
				t.Errorf("%s: %s has mode %v, secret %v, password in it %v", kind, f.Path, f.Mode, f.Secret, holds)
			}
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*subject.Node){
		"no id":        func(n *subject.Node) { n.ID = "" },
		"no data":      func(n *subject.Node) { n.DataDir = "" },
		"no password":  func(n *subject.Node) { n.Password = "" },
		"no routes":    func(n *subject.Node) { n.Addr.Routes = nil },
		"unknown kind": func(n *subject.Node) { n.Spec.Subject.Kind = "redis" },
	} {
		n := testNode(cluster.NATSServer)
		spoil(&n)
		if l, err := subject.Render(n); err == nil {
			t.Errorf("%s: rendered %+v", name, l)
		}
	}
}

func TestPasswordsDiffer(t *testing.T) {
	a, err1 := subject.NewPassword()
	b, err2 := subject.NewPassword()
	if err1 != nil || err2 != nil || a == b || len(a) < 32 {
		t.Errorf("%q %v, %q %v", a, err1, b, err2)
	}
}

func TestEndpoints(t *testing.T) {
	got := subject.Endpoints(cluster.Membershipd, "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3")
	want := cluster.Endpoints{
		Client: "nats://192.0.2.1:1", Live: "http://192.0.2.1:2/livez", Ready: "http://192.0.2.1:2/healthz", Status: "http://192.0.2.1:2/statusz", Monitor: "http://192.0.2.1:3",
	}
	if got != want {
		t.Errorf("membershipd: %+v", got)
	}
	got = subject.Endpoints(cluster.NATSServer, "192.0.2.1:1", "", "192.0.2.1:3")
	want = cluster.Endpoints{Client: "nats://192.0.2.1:1", Live: "http://192.0.2.1:3/", Ready: "http://192.0.2.1:3/healthz", Monitor: "http://192.0.2.1:3"}
	if got != want {
		t.Errorf("nats-server: %+v", got)
	}
}

func content(t *testing.T, l subject.Launch, path string) string {
	t.Helper()
	for _, f := range l.Files {
		if f.Path == path {
			return string(f.Content)
		}
	}
	t.Fatalf("there is no file %q", path)
	return ""
}
