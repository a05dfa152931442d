package subject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// keepBuilds is how long a build of this tree that nobody asked for again stays in the cache.
	keepBuilds = 7 * 24 * time.Hour
	// keepOutput is how much of a failed build's output goes into the error.
	keepOutput = 600
	// develVersion is the version of a tree that git knows nothing about.
	develVersion = "devel"
)

// unavailable are what the go command says when a version is not there or may not be fetched.
var unavailable = []string{
	"unknown revision", "404 Not Found", "410 Gone", "403 Forbidden", "not available", "module lookup disabled", "no matching versions",
	"dial tcp", "cannot find module", "invalid version",
}

// builder runs the go command.
type builder struct {
	opts  Options
	gocmd string
	cache string
	// tags and suffix belong to a build of this tree that is not what it releases: build tags, and what its version says of them.
	tags, suffix string
}

func newBuilder(opts Options) (*builder, error) {
	cache, err := opts.cache()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	return &builder{opts: opts, cache: cache}, nil
}

// own builds a package of this tree. The go command decides what is stale; the result is stored under its digest, so that a binary in use
// never changes under its user.
func (b *builder) own(ctx context.Context, name, pkg string) (path, version string, err error) {
	tree, err := b.opts.source()
	if err != nil {
		return "", "", err
	}
	if err := b.needGo(); err != nil {
		return "", "", err
	}
	version = treeVersion(ctx, tree) + b.suffix
	b.logf("building %s %s", name, version)
	dir, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return "", "", fmt.Errorf("make build directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty by then, or not wanted
	out := filepath.Join(dir, name)
	flags := []string{"-ldflags=-s -w -X main.version=" + version}
	if b.tags != "" {
		flags = append(flags, "-tags="+b.tags)
	}
	if err := b.build(ctx, tree, out, pkg, flags...); err != nil {
		return "", "", err
	}
	digest, err := Digest(out)
	if err != nil {
		return "", "", err
	}
	path, err = b.publish(out, fmt.Sprintf("%s-%s-%s", name, b.opts.goos(), strings.TrimPrefix(digest, "sha256:")[:16]))
	if err != nil {
		return "", "", err
	}
	b.prune(name+"-"+b.opts.goos()+"-", filepath.Dir(path))
	return path, version, nil
}

// natsServer builds a release once; it never changes after that.
func (b *builder) natsServer(ctx context.Context, version string) (string, error) {
	const name = "nats-server"
	entry := fmt.Sprintf("%s-%s-%s-%s", name, version, b.opts.goos(), runtime.GOARCH)
	path := filepath.Join(b.cache, entry, name)
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		return path, nil
	}
	if err := b.needGo(); err != nil {
		return "", err
	}
	b.logf("building %s %s", name, version)
	dir, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return "", fmt.Errorf("make build directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // holds nothing that is needed again
	out := filepath.Join(dir, name)
	if tree := b.treeWith(ctx, version); tree != "" {
		err = b.build(ctx, tree, out, natsPackage)
	} else {
		err = b.buildElsewhere(ctx, dir, out, version)
	}
	if err != nil {
		return "", err
	}
	return b.publish(out, entry)
}

// treeWith returns the source tree if its own go.mod asks for that version of nats-server: then everything is here already.
func (b *builder) treeWith(ctx context.Context, version string) string {
	tree, err := b.opts.source()
	if err != nil {
		return ""
	}
	out, err := b.command(ctx, tree, "list", "-m", "-f", "{{.Version}}", natsPackage).Output()
	if err != nil || strings.TrimSpace(string(out)) != version {
		return ""
	}
	return tree
}

// buildElsewhere builds in a throw-away module, so that an old version gets its own dependencies and not this project's.
func (b *builder) buildElsewhere(ctx context.Context, dir, out, version string) error {
	mod := fmt.Sprintf("module unibus.invalid/subject\n\ngo 1.21\n\nrequire %s %s\n", natsPackage, version)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return fmt.Errorf("write throw-away module: %w", err)
	}
	return b.build(ctx, dir, out, natsPackage, "-mod=mod", "-ldflags=-s -w")
}

// build makes one static binary.
func (b *builder) build(ctx context.Context, dir, out, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...)
	output, err := b.command(ctx, dir, append(args, pkg)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, sign := range unavailable {
		if strings.HasPrefix(pkg, natsPackage) && bytes.Contains(output, []byte(sign)) {
			return fmt.Errorf("%w: %s", ErrUnavailable, lastLine(output))
		}
	}
	return fmt.Errorf("go build %s: %w: %s", pkg, err, tail(output))
}

// command has an environment of its own: flags and workspaces of the caller must not change what is tested.
func (b *builder) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.gocmd, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "GOOS="+b.opts.goos(), "GOARCH="+runtime.GOARCH)
	return cmd
}

func (b *builder) needGo() error {
	if b.gocmd != "" {
		return nil
	}
	path, err := exec.LookPath("go")
	if err != nil {
		return ErrNoGo
	}
	b.gocmd = path
	return nil
}

// publish moves a finished binary to its place in the cache in one step: others see all of it or nothing.
func (b *builder) publish(built, entry string) (string, error) {
	dir := filepath.Join(b.cache, entry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("store binary: %w", err)
	}
	path := filepath.Join(dir, filepath.Base(built))
	if err := os.Rename(built, path); err != nil {
		return "", fmt.Errorf("store binary: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // only tells prune that somebody wants it
	return path, nil
}

// prune removes old builds of this tree. What it cannot remove is tried again next time.
func (b *builder) prune(prefix, keep string) {
	entries, err := os.ReadDir(b.cache)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(b.cache, e.Name())
		info, err := e.Info()
		if err != nil || dir == keep || !strings.HasPrefix(e.Name(), prefix) || time.Since(info.ModTime()) < keepBuilds {
			continue
		}
		_ = os.RemoveAll(dir)
	}
}

// treeVersion describes the tree's commit; a tree without git is as good as any other.
func treeVersion(ctx context.Context, tree string) string {
	cmd := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--tags", "--abbrev=12")
	cmd.Dir = tree
	out, err := cmd.Output()
	if v := strings.TrimSpace(string(out)); err == nil && v != "" && !strings.ContainsAny(v, " '\"") {
		return v
	}
	return develVersion
}

func (b *builder) logf(format string, args ...any) {
	if b.opts.Log != nil {
		_, _ = fmt.Fprintf(b.opts.Log, format+"\n", args...) // progress only
	}
}

func tail(output []byte) string {
	s := strings.TrimSpace(string(output))
	if len(s) > keepOutput {
		s = "... " + s[len(s)-keepOutput:]
	}
	if s == "" {
		return errors.New("no output").Error()
	}
	return s
}

func lastLine(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
