package subject

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// PreviousServer is the release of nats-server that upgrades begin with: the last one of the minor version before the embedded one. It writes an older
// format of the store.
const PreviousServer = "v2.14.9"

// ErrNotNewer means that there is no upgrade to that version here.
var ErrNotNewer = errors.New("the version is not of a later minor version")

// Previous builds what an upgrade to the given subject begins with. For nats-server it is the release PreviousServer. For the daemon it is this
// source tree around that release: another binary, whose embedded server and store format are those of the minor version before. It is not an earlier
// commit: that one's flags and certificates need not be those of this tree's launcher. A released binary can be given instead, see ResolveFile.
func Previous(ctx context.Context, of cluster.Subject, opts Options) (cluster.Subject, error) {
	kind := of.Kind
	if kind != cluster.Membershipd {
		if err := newer(of.Version); err != nil {
			return cluster.Subject{}, err
		}
		return Resolve(ctx, string(kind)+"@"+PreviousServer, opts)
	}
	b, err := newBuilder(opts)
	if err != nil {
		return cluster.Subject{}, err
	}
	s := cluster.Subject{Kind: kind, Source: module + strings.TrimPrefix(daemonPackage, ".") + " with " + natsPackage + "@" + PreviousServer}
	if s.Path, s.Version, err = b.older(ctx, string(kind), daemonPackage, PreviousServer); err != nil {
		return cluster.Subject{}, fmt.Errorf("build the previous %s: %w", kind, err)
	}
	s.Digest, err = Digest(s.Path)
	return s, err
}

// newer is ErrNotNewer for a release of nats-server that PreviousServer cannot be upgraded to.
func newer(version string) error {
	is, err := minorOf(version)
	if err != nil {
		return err
	}
	was, err := minorOf(PreviousServer)
	if err != nil {
		return err
	}
	if is <= was {
		return fmt.Errorf("upgrade %s to %s: %w", PreviousServer, version, ErrNotNewer)
	}
	return nil
}

// ResolveFile is a binary that somebody else has built, for example the release that runs in production. The program's name must be the kind's.
func ResolveFile(kind cluster.Kind, path string) (cluster.Subject, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return cluster.Subject{}, fmt.Errorf("find the binary: %w", err)
	}
	if filepath.Base(path) != string(kind) {
		return cluster.Subject{}, fmt.Errorf("%s is not called %s: the fault agent knows the daemon by that name", path, kind)
	}
	digest, err := Digest(path)
	if err != nil {
		return cluster.Subject{}, err
	}
	return cluster.Subject{Kind: kind, Version: "given", Path: path, Digest: digest, Source: path}, nil
}

// older builds a package of this tree against another release of nats-server. The tree's own go.mod stays as it is.
func (b *builder) older(ctx context.Context, name, pkg, server string) (path, version string, err error) {
	tree, err := b.opts.source()
	if err != nil {
		return "", "", err
	}
	if err := b.needGo(); err != nil {
		return "", "", err
	}
	version = treeVersion(ctx, tree) + "+nats-server-" + server
	b.logf("building %s %s", name, version)
	dir, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return "", "", fmt.Errorf("make build directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty by then, or not wanted
	mod := filepath.Join(dir, "previous.mod")
	for from, to := range map[string]string{"go.mod": mod, "go.sum": filepath.Join(dir, "previous.sum")} {
		if err := copyFile(filepath.Join(tree, from), to); err != nil {
			return "", "", err
		}
	}
	edit := b.command(ctx, tree, "mod", "edit", "-require="+natsPackage+"@"+server, mod)
	if output, err := edit.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("go mod edit: %w: %s", err, tail(output))
	}
	out := filepath.Join(dir, name)
	if err := b.build(ctx, tree, out, pkg, "-modfile="+mod, "-mod=mod", "-ldflags=-s -w -X main.version="+version); err != nil {
		return "", "", err
	}
	digest, err := Digest(out)
	if err != nil {
		return "", "", err
	}
	prefix := name + "-previous-" + b.opts.goos() + "-"
	path, err = b.publish(out, prefix+strings.TrimPrefix(digest, "sha256:")[:16])
	if err != nil {
		return "", "", err
	}
	b.prune(prefix, filepath.Dir(path))
	return path, version, nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	return nil
}
