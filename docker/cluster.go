package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// closeTimeout bounds the removal of a cluster, which goes on when the caller's context has ended.
const closeTimeout = 45 * time.Second

// defaultSize is the number of nodes when a spec does not say.
const defaultSize = 3

// containers is a cluster of pods on a network of its own.
type containers struct {
	*subject.Credentials
	b       *Backend
	spec    cluster.Spec
	network string // id: the engine takes a name twice; "" once it is removed
	pods    []*pod
	nodes   []cluster.Node

	closing sync.Mutex
}

var _ cluster.Cluster = (*containers)(nil)

// NewCluster implements cluster.Backend.
func (b *Backend) NewCluster(ctx context.Context, spec cluster.Spec) (cluster.Cluster, error) {
	if spec.RunID == "" || spec.Name == "" || spec.Subject.Path == "" || spec.AdminKey == "" {
		return nil, errors.New("make cluster: the spec needs a run, a name, a subject and an admin key")
	}
	if b.opts.Holder == "" || b.opts.Agent == "" {
		return nil, errors.New("make cluster: the backend was made without the binaries of holder and agent")
	}
	if spec.Size == 0 {
		spec.Size = defaultSize
	}
	imgs, err := b.podImages(ctx, spec.Subject.Path)
	if err != nil {
		return nil, err
	}
	c, err := b.make(ctx, spec, imgs)
	if errors.Is(err, errUnreachable) {
		b.mu.Lock()
		b.publish = true // decided for good: this engine's container addresses are not ours
		b.mu.Unlock()
		c, err = b.make(ctx, spec, imgs)
	}
	if err != nil {
		return nil, fmt.Errorf("make cluster %s: %w", spec.Name, err)
	}
	return c, nil
}

// podImages are the images of a pod's three containers.
type podImages struct{ holder, daemon, agent image }

func (b *Backend) podImages(ctx context.Context, daemon string) (i podImages, err error) {
	if i.holder, err = b.image(ctx, b.opts.Holder); err != nil {
		return i, err
	}
	if i.agent, err = b.image(ctx, b.opts.Agent); err != nil {
		return i, err
	}
	i.daemon, err = b.image(ctx, daemon)
	return i, err
}

func (b *Backend) make(ctx context.Context, spec cluster.Spec, imgs podImages) (*containers, error) {
	b.mu.Lock()
	publish := b.publish
	b.mu.Unlock()
	creds, err := subject.NewCredentials(spec)
	if err != nil {
		return nil, err
	}
	c := &containers{Credentials: creds, b: b, spec: spec}
	if err := c.build(ctx, imgs, publish); err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

func (c *containers) build(ctx context.Context, imgs podImages, publish bool) error {
	name := fmt.Sprintf("unibus-%s-%s", c.spec.RunID, c.spec.Name)
	if err := c.makeNetwork(ctx, name); err != nil {
		return err
	}
	for i := range c.spec.Size {
		p := &pod{c: c, id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), imgs: imgs, publish: publish}
		p.volume = fmt.Sprintf("%s-%s", name, p.id)
		c.pods = append(c.pods, p)
		c.nodes = append(c.nodes, p)
	}
	if err := one(c.each(func(p *pod) error { return p.hold(ctx) })); err != nil {
		return err
	}
	if !publish && !reachable(ctx, c.pods[0].addr) {
		return errUnreachable
	}
	return one(c.each(func(p *pod) error { return p.furnish(ctx) }))
}

func (c *containers) makeNetwork(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeBound)
	defer cancel()
	//nolint:staticcheck // its successor connects to the engine once more for each network, and chooses the name itself
	n, err := c.b.provider.CreateNetwork(ctx, testcontainers.NetworkRequest{Name: name, Labels: c.labels("", "network"), Driver: "bridge"})
	if err != nil {
		return fmt.Errorf("create network: %w", explain(err))
	}
	made, ok := n.(*testcontainers.DockerNetwork)
	if !ok {
		return fmt.Errorf("create network: unexpected kind %T", n)
	}
	c.network = made.ID
	return nil
}

// errUnreachable means that container addresses do not answer from here.
var errUnreachable = errors.New("container addresses cannot be reached from here")

// labels of one thing of this cluster.
func (c *containers) labels(node cluster.NodeID, role string) map[string]string {
	m := maps.Clone(c.b.owner.labels())
	m[labelRun], m[labelCluster], m[labelRole] = c.spec.RunID, c.spec.Name, role
	if node != "" {
		m[labelNode] = string(node)
	}
	return m
}

// each does f on all pods at once and joins the errors.
func (c *containers) each(f func(*pod) error) error {
	errs := make([]error, len(c.pods))
	var wg sync.WaitGroup
	for i, p := range c.pods {
		wg.Go(func() {
			if err := f(p); err != nil {
				errs[i] = fmt.Errorf("%s: %w", p.id, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Spec implements cluster.Cluster.
func (c *containers) Spec() cluster.Spec { return c.spec }

// Nodes implements cluster.Cluster.
func (c *containers) Nodes() []cluster.Node { return c.nodes }

// Close implements cluster.Cluster.
func (c *containers) Close(ctx context.Context) error {
	c.closing.Lock()
	defer c.closing.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	errs := []error{c.each(func(p *pod) error { return p.remove(ctx) })}
	if c.network != "" {
		if _, err := c.b.cli.NetworkRemove(ctx, c.network, client.NetworkRemoveOptions{}); gone(err) {
			c.network = ""
		} else {
			errs = append(errs, fmt.Errorf("remove network: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Collect implements cluster.Cluster.
func (c *containers) Collect(ctx context.Context, dir string) error {
	return c.each(func(p *pod) error {
		d := filepath.Join(dir, string(p.id))
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("collect logs: %w", err)
		}
		return errors.Join(p.saveLog(ctx, filepath.Join(d, "daemon.log"), p.Logs), p.saveLog(ctx, filepath.Join(d, "agent.log"), p.agentLogs))
	})
}
