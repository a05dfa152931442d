// Package subject makes the binaries that are put under test, and says how one node of them is launched.
//
// A subject is this project's daemon, built from the source tree, or a released nats-server, built from its module by version. Both
// are static binaries in a cache. The fault agent and the holder of a pod's namespaces are built the same way. Standard library only.
package subject

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// Packages that are built. The module's own ones are relative to the source tree.
const (
	module      = "github.com/unibus/unibus"
	natsPackage = "github.com/nats-io/nats-server/v2"

	daemonPackage = "./cmd/membershipd"
	agentPackage  = "./cmd/faultd"
	powerPackage  = "./cmd/powerfs"
	holderPackage = "./docker/holder"
)

// Errors that callers test for.
var (
	ErrUnknown     = errors.New("the subject is neither membershipd nor nats-server@vX.Y.Z")
	ErrVersion     = errors.New("the version is not one of nats-server v2, such as v2.15.2")
	ErrUnavailable = errors.New("that version of nats-server cannot be had")
	ErrNoGo        = errors.New("there is no Go toolchain: 'go' is not on PATH")
	ErrNoSource    = errors.New("the source tree is not found: run this in a clone of the project")
)

// Options of a build. The zero value builds for this host, from the source tree that the working directory or the executable is in.
type Options struct {
	Source string    // root of the source tree; "" means that FindSource looks for it
	Cache  string    // folder for binaries; "" means unibus/subjects in the user's cache directory
	GOOS   string    // operating system to build for; "" means this one. Containers need "linux".
	Log    io.Writer // one line per build; nil for none
}

// natsVersion matches the tags of nats-server's module, pre-releases included.
var natsVersion = regexp.MustCompile(`^v2\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$`)

// Parse reads the form that --sut takes: "membershipd" or "nats-server@v2.15.2".
func Parse(name string) (cluster.Kind, string, error) {
	kind, version, versioned := strings.Cut(name, "@")
	switch {
	case kind == string(cluster.Membershipd) && !versioned:
		return cluster.Membershipd, "", nil
	case kind == string(cluster.NATSServer) && natsVersion.MatchString(version):
		return cluster.NATSServer, version, nil
	case kind == string(cluster.NATSServer):
		return "", "", fmt.Errorf("subject %q: %w", name, ErrVersion)
	default:
		return "", "", fmt.Errorf("subject %q: %w", name, ErrUnknown)
	}
}

// minorOf returns Y of v2.Y.Z.
func minorOf(version string) (int, error) {
	m := natsVersion.FindStringSubmatch(version)
	if m == nil {
		return 0, fmt.Errorf("version %q: %w", version, ErrVersion)
	}
	return strconv.Atoi(m[1])
}

// Resolve builds the subject of that name, or takes it from the cache, and returns it with the digest of its binary.
func Resolve(ctx context.Context, name string, opts Options) (cluster.Subject, error) {
	kind, version, err := Parse(name)
	if err != nil {
		return cluster.Subject{}, err
	}
	b, err := newBuilder(opts)
	if err != nil {
		return cluster.Subject{}, err
	}
	s := cluster.Subject{Kind: kind, Version: version}
	if kind == cluster.Membershipd {
		s.Source = module + strings.TrimPrefix(daemonPackage, ".")
		s.Path, s.Version, err = b.own(ctx, string(kind), daemonPackage)
	} else {
		s.Source = natsPackage + "@" + version
		s.Path, err = b.natsServer(ctx, version)
	}
	if err != nil {
		return cluster.Subject{}, fmt.Errorf("build %s: %w", name, err)
	}
	if s.Digest, err = Digest(s.Path); err != nil {
		return cluster.Subject{}, err
	}
	return s, nil
}

// Agent builds faultd and returns the binary's path.
func Agent(ctx context.Context, opts Options) (string, error) {
	return helper(ctx, "faultd", agentPackage, opts)
}

// PowerFS builds the file system that can lose what was not synced and returns the binary's path. It runs on this host, which is Linux.
func PowerFS(ctx context.Context, opts Options) (string, error) {
	return helper(ctx, "powerfs", powerPackage, opts)
}

// Holder builds the program that owns a pod's namespaces and returns the binary's path.
func Holder(ctx context.Context, opts Options) (string, error) {
	return helper(ctx, "holder", holderPackage, opts)
}

// helper builds for Linux whatever the host is: helpers run in containers only.
func helper(ctx context.Context, name, pkg string, opts Options) (string, error) {
	opts.GOOS = "linux"
	b, err := newBuilder(opts)
	if err != nil {
		return "", err
	}
	path, _, err := b.own(ctx, name, pkg)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}

// Digest returns "sha256:<hex>" of a file.
func Digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest binary: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest binary: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// FindSource returns the root of the source tree that dir is in.
func FindSource(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find source tree: %w", err)
	}
	for {
		if isSource(dir) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", ErrNoSource
		}
		dir = parent
	}
}

func isSource(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "module" {
			return f[1] == module
		}
	}
	return false
}

// source finds the tree of the working directory, or the one that the executable lies in (bin/chaos).
func (o Options) source() (string, error) {
	if o.Source != "" {
		if !isSource(o.Source) {
			return "", fmt.Errorf("%s: %w", o.Source, ErrNoSource)
		}
		return filepath.Abs(o.Source)
	}
	var places []string
	if wd, err := os.Getwd(); err == nil {
		places = append(places, wd)
	}
	if exe, err := os.Executable(); err == nil {
		places = append(places, filepath.Dir(exe))
	}
	for _, p := range places {
		if tree, err := FindSource(p); err == nil {
			return tree, nil
		}
	}
	return "", ErrNoSource
}

func (o Options) goos() string {
	if o.GOOS == "" {
		return runtime.GOOS
	}
	return o.GOOS
}

func (o Options) cache() (string, error) {
	if o.Cache != "" {
		return filepath.Abs(o.Cache)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "unibus", "subjects"), nil
}

// Endpoints returns a node's URLs, for host:port addresses at which the harness reaches it.
func Endpoints(k cluster.Kind, client, http, monitor string) cluster.Endpoints {
	base := "http://" + monitor
	if k == cluster.Membershipd {
		own := "http://" + http
		return cluster.Endpoints{Client: "nats://" + client, Live: own + "/livez", Ready: own + "/healthz", Status: own + "/statusz", Monitor: base}
	}
	return cluster.Endpoints{Client: "nats://" + client, Live: base + "/", Ready: base + "/healthz", Monitor: base}
}

// Secret tells whether a file in a node's directories must not be collected as evidence: passwords, nkey seeds and private keys.
func Secret(name string) bool {
	switch path.Ext(name) {
	case ".pass", ".nk", ".seed", ".key":
		return true
	}
	return path.Base(name) == "nats.conf" // holds the routes' password
}
