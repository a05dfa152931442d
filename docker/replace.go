package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/unibus/unibus/sut/cluster"
)

var _ cluster.Replaceable = (*pod)(nil)

// Replace implements cluster.Replaceable: a new container of the other build's image takes the place of the stopped one, with everything else as
// it was. The old one is kept for its log until the pod is removed.
func (p *pod) Replace(ctx context.Context, s cluster.Subject) error {
	have := p.c.spec.Subject
	if s.Kind != have.Kind || filepath.Base(s.Path) != filepath.Base(have.Path) { // the agent knows the daemon by its program's name
		return fmt.Errorf("replace the program of %s with %s: %w", p.id, s.Kind, cluster.ErrOtherKind)
	}
	img, err := p.c.b.image(ctx, s.Path)
	if err != nil {
		return err
	}
	p.starting.Lock()
	defer p.starting.Unlock()
	if err := p.awaitAgreement(ctx); err != nil {
		return fmt.Errorf("replace the program of %s: %w", p.id, err)
	}
	next, err := p.remake(ctx, img)
	if err != nil {
		return fmt.Errorf("replace the program of %s: %w", p.id, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = append(p.retired, p.daemonID)
	p.daemonID = next
	return nil
}

// remake makes a container like the daemon's from another image.
func (p *pod) remake(ctx context.Context, img image) (string, error) {
	r, err := p.c.b.cli.ContainerInspect(ctx, p.daemon(), client.ContainerInspectOptions{})
	if err != nil {
		return "", fmt.Errorf("inspect daemon: %w", err)
	}
	was := r.Container
	if was.Config == nil || was.HostConfig == nil {
		return "", errors.New("inspect daemon: the engine gives no configuration")
	}
	return p.create(ctx, fmt.Sprintf("daemon-%d", len(p.retired)+2), img, testcontainers.ContainerRequest{
		ConfigModifier: func(c *container.Config) {
			c.Entrypoint, c.Cmd, c.Env, c.User = was.Config.Entrypoint, was.Config.Cmd, was.Config.Env, was.Config.User
		},
		HostConfigModifier: func(h *container.HostConfig) { *h = *was.HostConfig },
	})
}

// daemon is the container of the present build.
func (p *pod) daemon() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.daemonID
}

// builds are the containers of the daemon from the first build to the present one.
func (p *pod) builds() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := append([]string(nil), p.retired...)
	if p.daemonID != "" {
		ids = append(ids, p.daemonID)
	}
	return ids
}

// daemonLogs is what all builds have written.
func (p *pod) daemonLogs(ctx context.Context) (io.ReadCloser, error) {
	all := &logChain{}
	for _, id := range p.builds() {
		one, err := p.logs(ctx, id)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all.parts = append(all.parts, one)
	}
	return all, nil
}

// logChain reads one log after the other.
type logChain struct {
	parts []io.ReadCloser
	at    int
}

// Read implements io.Reader.
func (l *logChain) Read(b []byte) (int, error) {
	for l.at < len(l.parts) {
		n, err := l.parts[l.at].Read(b)
		if errors.Is(err, io.EOF) {
			l.at++
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (l *logChain) Close() error {
	var errs []error
	for _, p := range l.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// removeRetired takes the containers of earlier builds away, with the pod's way to do it.
func (p *pod) removeRetired(rm func(id *string, role string) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	var left []string
	for _, id := range p.retired {
		if err := rm(&id, "earlier daemon"); err != nil {
			errs, left = append(errs, err), append(left, id)
		}
	}
	p.retired = left
	return errors.Join(errs...)
}
