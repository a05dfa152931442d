package subject

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
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
	tlsSeconds    = 5

	// The first minor versions of v2 that know a setting.
	minorSync          = 10
	minorOldest        = 9 // the first that this project has tried; it cannot be told when to sync
	minorRoutePing     = 10
	minorRouteDeadline = 12
	minorTLSVersion    = 11
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
	DataDir  string        // as the daemon sees it: the volume
	ConfDir  string        // as the daemon sees it: where Files are put
	Password string        // of routes; see NewPassword
	TLS      *Certificates // nil if and only if Spec.PlainText
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
	if n.Spec.PlainText != (n.TLS == nil) {
		return Launch{}, errors.New("render node: it has certificates and is to be plain text, or the other way round")
	}
	switch n.Spec.Subject.Kind {
	case cluster.Membershipd:
		if len(n.Spec.Users) > 0 {
			return Launch{}, errors.New("render node: users of membershipd are in its buckets, not in its configuration")
		}
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

// SyncPosture is the sync policy that a node of the spec really has, for evidence: releases before v2.10 cannot be told one.
func SyncPosture(spec cluster.Spec) string {
	minor, err := minorOf(spec.Subject.Version)
	if spec.Subject.Kind == cluster.NATSServer && err == nil && minor < minorSync {
		return fmt.Sprintf("the release's own interval: it cannot be set before v2.%d", minorSync)
	}
	return Node{Spec: spec}.sync()
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
	static := "# the harness's clients\n" + n.Spec.AdminKey + " admin\n"
	if n.Spec.SystemKey != "" {
		static += n.Spec.SystemKey + " system\n"
	}
	files := []File{
		{Path: pass, Mode: 0o600, Content: []byte(n.Password + "\n"), Secret: true},
		{Path: keys, Mode: 0o600, Content: []byte(static)},
	}
	if len(n.Spec.SeedFile) > 0 {
		seed := path.Join(n.ConfDir, "seed-admins.json")
		args = append(args, "--seed-file", seed)
		files = append(files, File{Path: seed, Mode: 0o600, Content: n.Spec.SeedFile})
	}
	if n.TLS != nil {
		args = append(args, "--tls-cert", n.conf(cluster.FileClientCert), "--tls-key", n.conf(cluster.FileClientKey), "--tls-ca", n.conf(cluster.FileClientCA),
			"--cluster-tls-cert", n.conf(cluster.FileRouteCert), "--cluster-tls-key", n.conf(cluster.FileRouteKey), "--cluster-tls-ca", n.conf(cluster.FileRouteCA))
		files = append(files, n.TLS.files(n.ConfDir)...)
	}
	return Launch{Args: args, Files: files}
}

func (n Node) conf(name string) string { return path.Join(n.ConfDir, name) }

// natsServer is a released server with the settings that are comparable to the daemon's: the same accounts for clients, the same sync policy,
// the same patience with clients and routes.
func (n Node) natsServer() (Launch, error) {
	version := n.Spec.Subject.Version
	minor, err := minorOf(version)
	if err != nil {
		return Launch{}, fmt.Errorf("render node: %w", err)
	}
	if minor < minorOldest {
		return Launch{}, fmt.Errorf("render node: nats-server %s is older than v2.%d", version, minorOldest)
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
	p("jetstream {\n  store_dir: %q\n  max_mem: 256MB\n  max_file: 10GB", n.DataDir)
	if minor >= minorSync {
		p("  sync_interval: %s", n.sync())
	}
	p("}")
	system := ""
	if n.Spec.SystemKey != "" {
		system = fmt.Sprintf(" users: [ { nkey: %s } ] ", n.Spec.SystemKey)
	}
	p("accounts {\n  SYS {%s}\n  BUS {\n    jetstream: enabled\n    users: [\n      { nkey: %s }", system, n.Spec.AdminKey)
	for _, u := range n.Spec.Users {
		p("      { nkey: %s, permissions: %s }", u.Key, permissions(u))
	}
	p("    ]\n  }\n}")
	p("system_account: SYS")
	if n.TLS != nil {
		n.tlsBlock(p, minor, "", cluster.FileClientCert, cluster.FileClientKey, cluster.FileClientCA)
	}
	p("cluster {\n  name: unibus\n  listen: %q", n.Addr.Cluster)
	if n.Addr.ClusterAdvertise != "" {
		p("  cluster_advertise: %q", n.Addr.ClusterAdvertise)
	}
	p("  authorization { user: %s, password: %q, timeout: %d }", clusterUser, n.Password, authSeconds)
	if minor >= minorRoutePing {
		p("  ping_interval: %q\n  ping_max: %d", routePing, maxPings)
	}
	if minor >= minorRouteDeadline {
		p("  write_deadline: %q", writeDeadline)
	}
	if n.TLS != nil {
		n.tlsBlock(p, minor, "  ", cluster.FileRouteCert, cluster.FileRouteKey, cluster.FileRouteCA) // here the server always verifies both sides
	}
	p("  routes: [")
	for _, r := range n.Addr.Routes {
		p("    \"nats-route://%s:%s@%s\"", clusterUser, n.Password, r)
	}
	p("  ]\n}")
	files := []File{{Path: conf, Mode: 0o600, Content: []byte(b.String()), Secret: true}}
	if n.TLS != nil {
		files = append(files, n.TLS.files(n.ConfDir)...)
	}
	return Launch{Args: []string{"-c", conf}, Files: files}, nil
}

// What membershipd gives to users who answer requests.
const (
	respondMax    = 64
	respondWithin = "2m"
)

// permissions are a user's in the server's configuration language, of which JSON is a part.
func permissions(u cluster.User) string {
	type subjects struct {
		Allow []string `json:"allow,omitempty"`
		Deny  []string `json:"deny,omitempty"`
	}
	all := map[string]any{"publish": subjects{u.PublishAllow, u.PublishDeny}, "subscribe": subjects{u.SubscribeAllow, u.SubscribeDeny}}
	if u.Respond {
		all["allow_responses"] = map[string]any{"max": respondMax, "expires": respondWithin}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // '>' is a wildcard
	_ = e.Encode(all)      // strings and numbers always encode
	return strings.TrimSpace(b.String())
}

// tlsBlock encrypts one listener. Versions that cannot be told the least version of TLS agree on 1.3 by themselves.
func (n Node) tlsBlock(p func(format string, a ...any), minor int, indent, cert, key, ca string) {
	p("%stls {\n%s  cert_file: %q\n%s  key_file: %q\n%s  ca_file: %q\n%s  timeout: %d", indent, indent, n.conf(cert), indent, n.conf(key), indent, n.conf(ca), indent, tlsSeconds)
	if minor >= minorTLSVersion {
		p("%s  min_version: \"1.3\"", indent)
	}
	p("%s}", indent)
}
