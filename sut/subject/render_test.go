package subject_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/subject"
)

const adminKey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

// certificates are of one node, made once: what they are good for is not tested here.
var certificates = sync.OnceValues(func() (*subject.Certificates, error) {
	c, err := subject.NewCredentials(cluster.Spec{Name: "t"})
	if err != nil {
		return nil, err
	}
	return c.Issue("n2", []string{"n2", "192.0.2.2"})
})

func testNode(t *testing.T, kind cluster.Kind) subject.Node {
	t.Helper()
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	return subject.Node{
		TLS: certs,
		ID:  "n2", DataDir: "/d", ConfDir: "/c", Password: "pass-of-the-routes",
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
	n := testNode(t, cluster.Membershipd)
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
	n := testNode(t, cluster.NATSServer)
	l, err := subject.Render(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Files) != 7 {
		t.Fatalf("%d files, want the configuration and six for TLS", len(l.Files))
	}
	conf := string(l.Files[0].Content)
	for _, want := range []string{
		`server_name: "n2"`, `listen: "192.0.2.2:4222"`, `http: "192.0.2.2:8222"`, "sync_interval: always", `store_dir: "/d"`, "system_account: SYS", adminKey,
		`cert_file: "/c/tls.crt"`, `key_file: "/c/cluster.key"`, `ca_file: "/c/cluster-ca.crt"`, `min_version: "1.3"`, `@n1:6222"`, `@n2:6222"`, `@n3:6222"`, "BUS {\n    jetstream: enabled\n",
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
	for version, want := range map[string]struct{ refused, routeDeadline, noSync bool }{
		"v2.8.4": {refused: true}, "v2.9.25": {noSync: true}, "v2.10.22": {}, "v2.11.10": {}, "v2.12.1": {routeDeadline: true}, "v2.15.2": {routeDeadline: true},
		"": {refused: true}, "v3.0.0": {refused: true},
	} {
		n := testNode(t, cluster.NATSServer)
		n.Spec.Subject.Version = version
		l, err := subject.Render(n)
		if want.refused != (err != nil) {
			t.Errorf("%q: %v", version, err)
		}
		if err == nil && strings.Count(string(l.Files[0].Content), "write_deadline") > 1 != want.routeDeadline {
			t.Errorf("%q: the configuration is\n%s", version, l.Files[0].Content)
		}
		if err == nil && strings.Contains(string(l.Files[0].Content), "sync_interval") == want.noSync {
			t.Errorf("%q: the configuration is\n%s", version, l.Files[0].Content)
		}
		if said := subject.SyncPosture(n.Spec); err == nil && (said != "always") != want.noSync {
			t.Errorf("%q: the sync policy is said to be %q", version, said)
		}
	}
}

func TestRenderKeepsSecretsInFiles(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.Membershipd, cluster.NATSServer} {
		n := testNode(t, kind)
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
			holds := strings.Contains(string(f.Content), n.Password) || strings.Contains(string(f.Content), "PRIVATE KEY")
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
		"no TLS":       func(n *subject.Node) { n.TLS = nil },
		"unwanted TLS": func(n *subject.Node) { n.Spec.PlainText = true },
		"unknown kind": func(n *subject.Node) { n.Spec.Subject.Kind = "redis" },
	} {
		n := testNode(t, cluster.NATSServer)
		spoil(&n)
		if l, err := subject.Render(n); err == nil {
			t.Errorf("%s: rendered %+v", name, l)
		}
	}
}

func TestRenderPlainText(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.Membershipd, cluster.NATSServer} {
		n := testNode(t, kind)
		n.TLS, n.Spec.PlainText = nil, true
		l, err := subject.Render(n)
		if err != nil {
			t.Fatal(err)
		}
		if all := fmt.Sprintf("%q %s", l.Args, l.Files[0].Content); strings.Contains(all, "tls") {
			t.Errorf("%s: %s", kind, all)
		}
	}
}

func TestCredentials(t *testing.T) {
	plain, err := subject.NewCredentials(cluster.Spec{Name: "t", PlainText: true})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := plain.Issue("n1", []string{"n1"}); c != nil || err != nil || plain.Trust().Believed != nil || plain.Password == "" {
		t.Errorf("in plain text: %+v, %v", c, err)
	}
	a, err := subject.NewCredentials(cluster.Spec{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	was := a.Trust()
	if string(was.Client.Cert) == string(was.Route.Cert) || string(was.Believed) != string(was.Client.Cert) {
		t.Error("clients and routes have the same authority, or clients believe another")
	}
	if _, err := pki.ParseAuthority(was.Route.Cert, was.Route.Key); err != nil {
		t.Error(err)
	}
	now := was
	now.Believed = was.Route.Cert
	a.SetTrust(now)
	if string(a.Trust().Believed) != string(was.Route.Cert) {
		t.Error("what clients believe has not changed")
	}
	for _, name := range subject.SecretNames() {
		if subject.Secret(name) != strings.HasSuffix(name, ".key") {
			t.Errorf("%s is secret: %v", name, subject.Secret(name))
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

// Users go into a configuration with their permissions, and only into that of plain nats-server.
func TestRenderUsers(t *testing.T) {
	n := testNode(t, cluster.NATSServer)
	n.Spec.Users = []cluster.User{{Key: "UBENCH", PublishAllow: []string{"a.>"}, SubscribeDeny: []string{"b"}, Respond: true}}
	l, err := subject.Render(n)
	if err != nil {
		t.Fatal(err)
	}
	want := `{ nkey: UBENCH, permissions: {"allow_responses":{"expires":"2m","max":64},"publish":{"allow":["a.>"]},"subscribe":{"deny":["b"]}} }`
	if conf := string(l.Files[0].Content); !strings.Contains(conf, want) {
		t.Errorf("the configuration lacks %s:\n%s", want, conf)
	}
	n.Spec.Subject.Kind = cluster.Membershipd
	if _, err := subject.Render(n); err == nil {
		t.Error("membershipd takes users from a configuration")
	}
}
