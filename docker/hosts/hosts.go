// Package hosts runs clusters on whole machines: Debian with systemd as PID 1, sshd and sudo, in containers. What is on trial there is not only the
// daemon but how it is installed: nothing is put on a host but by the deploy kit, over ssh.
//
//	debootstrap ──> rootfs.tar (cached) ──> image ──> container = host ──ssh── deploy-cluster.sh
package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/sut/cluster"
)

// Name is the backend's name in reports.
const Name = "docker/hosts"

// Bounds of making hosts.
const (
	bootTimeout  = 90 * time.Second // until systemd says that the system is up
	makeBound    = time.Minute      // one container; the caller's end does not interrupt it
	closeTimeout = 45 * time.Second
)

// ErrNoHosts is wrapped when hosts cannot be had on this machine.
var ErrNoHosts = errors.New("hosts with systemd cannot be had here")

// Backend makes hosts on the engine of package docker.
type Backend struct {
	docker *docker.Backend
	image  string
}

var _ cluster.Backend = (*Backend)(nil)

// New connects, makes the image if it is not there, and boots one host to see whether systemd runs here. Every error wraps ErrNoHosts and says why.
func New(ctx context.Context) (*Backend, error) {
	b, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoHosts, err)
	}
	if err := b.probe(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoHosts, errors.Join(err, b.Close()))
	}
	return b, nil
}

func open(ctx context.Context) (*Backend, error) {
	for _, p := range []string{"ssh", "ssh-keygen", "bash", "tar"} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, fmt.Errorf("the program %s is not on PATH", p)
		}
	}
	d, err := docker.New(ctx, docker.Options{})
	if err != nil {
		return nil, err
	}
	b := &Backend{docker: d}
	if b.image, err = b.ensureImage(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return b, nil
}

// probe boots one host and removes it.
func (b *Backend) probe(ctx context.Context) error {
	c, err := b.NewCluster(ctx, cluster.Spec{RunID: fmt.Sprintf("probe-%d", os.Getpid()), Name: strings.ToLower(fmt.Sprintf("h%d", time.Now().UnixNano())), Size: 1})
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// Name implements cluster.Backend.
func (b *Backend) Name() string { return Name }

// Capabilities implements cluster.Backend.
func (b *Backend) Capabilities() cluster.Capabilities {
	return cluster.Capabilities{cluster.CapNetwork: "there is no fault agent on a host that the deploy kit has installed"}
}

// Close implements cluster.Backend.
func (b *Backend) Close() error { return b.docker.Close() }
