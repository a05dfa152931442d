package hosts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/unibus/unibus/docker"
)

// The host's system. Its mirror is asked only when the cache does not have it.
const (
	suite   = "bookworm"
	variant = "minbase"
	mirror  = "http://deb.debian.org/debian"
	// keepOutput is how much of a failed program's output goes into an error.
	keepOutput = 600
)

// packages are what a host has beyond the minimum: what the runbook asks for, and sudo for the host whose administrator is not root.
var packages = []string{"systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "procps"}

// finish is done in the new system: keys of hosts are made for each of them, and what was downloaded is not needed again.
const finish = "rm -f /etc/ssh/ssh_host_* && rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* && " +
	"useradd --create-home --shell /bin/bash ops && printf 'ops ALL=(ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/ops && chmod 0440 /etc/sudoers.d/ops && " +
	"systemctl mask systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer console-getty.service getty.target && : >/etc/machine-id"

// recipe identifies everything that the system is made from.
func recipe() string {
	h := sha256.New()
	for _, s := range append([]string{suite, variant, mirror, finish}, packages...) {
		_, _ = fmt.Fprintln(h, s) // a hash takes every write
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// ensureImage returns the image of a host, made from the cached system or from Debian's packages.
func (b *Backend) ensureImage(ctx context.Context) (string, error) {
	tag := "unibus-chaos/host:" + recipe()
	_, err := b.docker.API().ImageInspect(ctx, tag)
	if err == nil {
		return tag, nil
	}
	if !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("look for the image of a host: %w", err)
	}
	path, err := system(ctx)
	if err != nil {
		return "", err
	}
	return tag, b.importImage(ctx, path, tag)
}

func (b *Backend) importImage(ctx context.Context, path, tag string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("import the image of a host: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	r, err := b.docker.API().ImageImport(ctx, client.ImageImportSource{Source: f, SourceName: "-"}, tag, client.ImageImportOptions{
		Changes: []string{"LABEL " + docker.ProjectLabel + "=1", `CMD ["/sbin/init"]`},
	})
	if err != nil {
		return fmt.Errorf("import the image of a host: %w", docker.Explain(err))
	}
	_, err = io.Copy(io.Discard, r) // the engine is done when its answer ends
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("import the image of a host: %w", docker.Explain(err))
	}
	return nil
}

// Cached tells whether a host's system is there already: making it takes minutes and Debian's mirror.
func Cached() bool {
	path, err := cachePath()
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

func cachePath() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(cache, "unibus", "hosts", fmt.Sprintf("debian-%s-%s.tar", suite, recipe())), nil
}

// system is the archive of a host's files, in the user's cache.
func system(ctx context.Context) (string, error) {
	path, err := cachePath()
	if err != nil {
		return "", err
	}
	if Cached() {
		return path, nil
	}
	dir := filepath.Dir(path)
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return "", errors.New("debootstrap is not installed (apt-get install debootstrap), and no system is in the cache " + dir)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("debootstrap needs root, and no system is in the cache " + dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	return path, bootstrap(ctx, dir, path)
}

// bootstrap leaves the whole archive or none.
func bootstrap(ctx context.Context, dir, path string) (err error) {
	work, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("make build directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root, part := filepath.Join(work, "root"), filepath.Join(work, "part")
	for _, args := range [][]string{
		{"debootstrap", "--variant=" + variant, "--include=" + strings.Join(packages, ","), suite, root, mirror},
		{"chroot", root, "/bin/sh", "-ec", finish},
		{"tar", "-C", root, "--numeric-owner", "-cf", part, "."},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make a host's system: %s: %w: %s", args[0], err, tail(string(out)))
		}
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("make a host's system: %w", err)
	}
	return nil
}

func tail(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > keepOutput {
		s = "... " + s[len(s)-keepOutput:]
	}
	return s
}
