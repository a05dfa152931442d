package subject

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// clusterUser is the name that routes log in with; membershipd uses the same.
const clusterUser = "unibus"

// Settings of plain nats-server that membershipd has too: the same values, so that the control differs in nothing else.
const (
	writeDeadline = "4s"
	clientPing    = "20s"
	routePing     = "1s"
	maxPings      = 2
	authSeconds   = 5

	// The first minor versions of v2 that know a setting.
	minorSync          = 10
	minorRouteDeadline = 12
)

// Addresses of one node: what it binds, and what others are told.
type Addresses struct {
	Client, Cluster, HTTP, Monitor    string   // host:port to listen on; HTTP only for membershipd
	ClientAdvertise, ClusterAdvertise string   // host:port; "" for none
	Routes                            []string // host:port of the cluster ports of all nodes, this one included
}

// Node is everything that a node's start depends on.
type Node struct {
	ID       cluster.NodeID
	Spec     cluster.Spec
	Addr     Addresses
	DataDir  string // as the daemon sees it: the volume
	ConfDir  string // as the daemon sees it: where Files are put
	Password string // of routes; see NewPassword
}

// File has to be put in place, readable for the daemon's user alone, before the daemon is started.
type File struct {
	Path    string
	Mode    fs.FileMode
	Content []byte
	Secret  bool // must not be collected
}

// Launch is how a node is started. Args are without the program's own name. Nothing in Args and Env is secret.
type Launch struct {
	Args  []string
	Env   []string
	Files []File
}

// NewPassword makes the routes' password for one cluster.
func NewPassword() (string, error) {
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make the cluster's password: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// Render says how to start a node.
func Render(n Node) (Launch, error) {
	if n.ID == "" || n.DataDir == "" || n.ConfDir == "" || n.Password == "" || n.Spec.AdminKey == "" || len(n.Addr.Routes) == 0 {
		return Launch{}, errors.New("render node: a required setting is empty")
	}
	switch n.Spec.Subject.Kind {
	case cluster.Membershipd:
		return n.membershipd(), nil
	case cluster.NATSServer:
		return n.natsServer()
	}
	return Launch{}, fmt.Errorf("render node: %w: %q", ErrUnknown, n.Spec.Subject.Kind)
}

func (n Node) sync() string {
	if n.Spec.Sync == "" {
		return "always"
	}
	return n.Spec.Sync
}

// membershipd is told everything by flags; its secrets are files.
func (n Node) membershipd() Launch {
	replicas := n.Spec.Replicas
	if replicas == 0 {
		replicas = 3
	}
	pass, keys := path.Join(n.ConfDir, "cluster.pass"), path.Join(n.ConfDir, "static.keys")
	args := []string{
		"serve", "--name", string(n.ID), "--cluster-name", "unibus", "--data-dir", n.DataDir,
		"--client-listen", n.Addr.Client, "--cluster-listen", n.Addr.Cluster, "--http-listen", n.Addr.HTTP, "--monitor-listen", n.Addr.Monitor,
		"--routes", strings.Join(n.Addr.Routes, ","), "--store", "kv", "--replicas", fmt.Sprint(replicas), "--sync", n.sync(),
		"--cluster-pass-file", pass, "--internal-id-file", path.Join(n.DataDir, "internal.nk"), "--static-keys-file", keys, "--log-format", "text",
	}
	if n.Addr.ClientAdvertise != "" {
		args = append(args, "--client-advertise", n.Addr.ClientAdvertise)
	}
	if n.Addr.ClusterAdvertise != "" {
		args = append(args, "--cluster-advertise", n.Addr.ClusterAdvertise)
	}
	return Launch{Args: args, Files: []File{
		{Path: pass, Mode: 0o600, Content: []byte(n.Password + "\n"), Secret: true},
		{Path: keys, Mode: 0o600, Content: []byte("# the harness's clients\n" + n.Spec.AdminKey + " admin\n")},
	}}
}

// natsServer is a released server with the settings that are comparable to the daemon's: the same accounts for clients, the same sync policy,
// the same patience with clients and routes.
func (n Node) natsServer() (Launch, error) {
	version := n.Spec.Subject.Version
	minor, err := minorOf(version)
	if err != nil {
		return Launch{}, fmt.Errorf("render node: %w", err)
	}
	if minor < minorSync {
		return Launch{}, fmt.Errorf("render node: nats-server %s cannot be told when to sync; that came with v2.%d", version, minorSync)
	}
	conf := path.Join(n.ConfDir, "nats.conf")
	var b strings.Builder
	p := func(format string, a ...any) { _, _ = fmt.Fprintf(&b, format+"\n", a...) } // a Builder takes every write
	p("server_name: %q", n.ID)
	p("listen: %q", n.Addr.Client)
	p("http: %q", n.Addr.Monitor)
	if n.Addr.ClientAdvertise != "" {
		p("client_advertise: %q", n.Addr.ClientAdvertise)
	}
	p("write_deadline: %q\nping_interval: %q\nping_max: %d", writeDeadline, clientPing, maxPings)
	p("authorization { timeout: %d }", authSeconds)
	p("lame_duck_duration: \"30s\"") // SIGTERM does not use it; it is the least that the server accepts
	p("jetstream {\n  store_dir: %q\n  max_mem: 256MB\n  max_file: 10GB\n  sync_interval: %s\n}", n.DataDir, n.sync())
	p("accounts {\n  SYS {}\n  BUS { jetstream: enabled, users: [ { nkey: %s } ] }\n}", n.Spec.AdminKey)
	p("system_account: SYS")
	p("cluster {\n  name: unibus\n  listen: %q", n.Addr.Cluster)
	if n.Addr.ClusterAdvertise != "" {
		p("  cluster_advertise: %q", n.Addr.ClusterAdvertise)
	}
	p("  authorization { user: %s, password: %q, timeout: %d }", clusterUser, n.Password, authSeconds)
	p("  ping_interval: %q\n  ping_max: %d", routePing, maxPings)
	if minor >= minorRouteDeadline {
		p("  write_deadline: %q", writeDeadline)
	}
	p("  routes: [")
	for _, r := range n.Addr.Routes {
		p("    \"nats-route://%s:%s@%s\"", clusterUser, n.Password, r)
	}
	p("  ]\n}")
	return Launch{Args: []string{"-c", conf}, Files: []File{{Path: conf, Mode: 0o600, Content: []byte(b.String()), Secret: true}}}, nil
}
