package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/moby/moby/client"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/sut/cluster"
)

// defaultSize is the number of hosts when a spec does not say.
const defaultSize = 3

// Fleet is a cluster of hosts on a network of their own. Nothing is installed on them.
type Fleet struct {
	b       *Backend
	spec    cluster.Spec
	dir     string // the administrator's: keys, known hosts; removed at the end
	network string // id
	hosts   []*host
	nodes   []cluster.Node

	mu    sync.Mutex
	trust cluster.Trust
	dead  []string // containers of hosts that were replaced

	closing sync.Mutex
}

var (
	_ cluster.Cluster = (*Fleet)(nil)
	_ cluster.Secured = (*Fleet)(nil)
)

// NewCluster implements cluster.Backend: it boots the hosts.
func (b *Backend) NewCluster(ctx context.Context, spec cluster.Spec) (cluster.Cluster, error) {
	if spec.RunID == "" || spec.Name == "" {
		return nil, errors.New("make hosts: the spec needs a run and a name")
	}
	if spec.Size == 0 {
		spec.Size = defaultSize
	}
	f := &Fleet{b: b, spec: spec}
	if err := f.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make hosts: %w", err), f.Close(ctx))
	}
	return f, nil
}

func (f *Fleet) build(ctx context.Context) (err error) {
	if f.dir, err = os.MkdirTemp("", "unibus-hosts-"); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := f.makeKey(ctx); err != nil {
		return err
	}
	if err := f.makeNetwork(ctx); err != nil {
		return err
	}
	for i := range f.spec.Size {
		h := &host{f: f, id: cluster.NodeID(fmt.Sprintf("n%d", i+1))}
		f.hosts, f.nodes = append(f.hosts, h), append(f.nodes, h)
	}
	if err := f.each(func(h *host) error { return h.boot(ctx) }); err != nil {
		return err
	}
	if err := f.writeKnownHosts(); err != nil {
		return err
	}
	return f.each(func(h *host) error { return h.awaitUp(ctx) })
}

// makeKey makes the administrator's key, for this run alone.
func (f *Fleet) makeKey(ctx context.Context) error {
	if err := keygen(ctx, filepath.Join(f.dir, "id")); err != nil {
		return err
	}
	config := fmt.Sprintf("Host *\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n",
		filepath.Join(f.dir, "id"), f.knownHosts())
	if err := os.WriteFile(f.SSHConfig(), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write ssh's configuration: %w", err)
	}
	return nil
}

func keygen(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "unibus", "-f", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a key: %w: %s", err, tail(string(out)))
	}
	return nil
}

// SSHConfig is what ssh -F takes to reach the hosts.
func (f *Fleet) SSHConfig() string { return filepath.Join(f.dir, "ssh_config") }

// Desk is a folder for what the administrator writes; it is removed with the hosts.
func (f *Fleet) Desk() string { return filepath.Join(f.dir, "desk") }

func (f *Fleet) knownHosts() string { return filepath.Join(f.dir, "known_hosts") }

// writeKnownHosts says which key is whose: those that the hosts were given, not those that they show.
func (f *Fleet) writeKnownHosts() error {
	var b bytes.Buffer
	for _, h := range f.hosts {
		if addr := h.address(); addr != "" {
			_, _ = fmt.Fprintf(&b, "%s %s\n", addr, h.publicKey()) // a Buffer takes every write
		}
	}
	if err := os.WriteFile(f.knownHosts(), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write known hosts: %w", err)
	}
	return nil
}

func (f *Fleet) name() string { return fmt.Sprintf("unibus-%s-%s", f.spec.RunID, f.spec.Name) }

func (f *Fleet) makeNetwork(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeBound)
	defer cancel()
	n, err := f.b.docker.API().NetworkCreate(ctx, f.name(), client.NetworkCreateOptions{Driver: "bridge", Labels: f.b.docker.Labels(f.spec, "", "network")})
	if err != nil {
		return fmt.Errorf("create network: %w", docker.Explain(err))
	}
	f.network = n.ID
	return nil
}

// each does something on all hosts at once.
func (f *Fleet) each(do func(*host) error) error {
	errs := make([]error, len(f.hosts))
	var wg sync.WaitGroup
	for i, h := range f.hosts {
		wg.Go(func() {
			if err := do(h); err != nil {
				errs[i] = fmt.Errorf("%s: %w", h.id, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *Fleet) find(id cluster.NodeID) (*host, error) {
	for _, h := range f.hosts {
		if h.id == id {
			return h, nil
		}
	}
	return nil, fmt.Errorf("there is no host %s", id)
}

// Address is where a host is reached.
func (f *Fleet) Address(id cluster.NodeID) string {
	h, err := f.find(id)
	if err != nil {
		return ""
	}
	return h.address()
}

// Run runs a script as root on a host and returns what it printed. It is how the harness looks; what the runbook does is done by its scripts.
func (f *Fleet) Run(ctx context.Context, id cluster.NodeID, script string) (string, error) {
	h, err := f.find(id)
	if err != nil {
		return "", err
	}
	return h.run(ctx, script)
}

// ReplaceHost boots another machine, with another address and nothing on it, and pulls the plug of the one that had the name.
func (f *Fleet) ReplaceHost(ctx context.Context, id cluster.NodeID) error {
	h, err := f.find(id)
	if err != nil {
		return err
	}
	old, err := h.swap(ctx)
	f.mu.Lock()
	f.dead = append(f.dead, old)
	f.mu.Unlock()
	if err != nil {
		return fmt.Errorf("replace host %s: %w", id, err)
	}
	if err := f.writeKnownHosts(); err != nil {
		return err
	}
	return h.awaitUp(ctx)
}

// Kill pulls the plug of a host.
func (f *Fleet) Kill(ctx context.Context, id cluster.NodeID) error {
	h, err := f.find(id)
	if err != nil {
		return err
	}
	if _, err := f.b.docker.API().ContainerKill(ctx, h.containerID(), client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		return fmt.Errorf("pull the plug of %s: %w", id, err)
	}
	return nil
}

// Trust implements cluster.Secured.
func (f *Fleet) Trust() cluster.Trust {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trust
}

// SetTrust implements cluster.Secured.
func (f *Fleet) SetTrust(t cluster.Trust) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trust = t
}

// Spec implements cluster.Cluster.
func (f *Fleet) Spec() cluster.Spec { return f.spec }

// Nodes implements cluster.Cluster.
func (f *Fleet) Nodes() []cluster.Node { return f.nodes }

// Collect implements cluster.Cluster: the journal of the unit.
func (f *Fleet) Collect(ctx context.Context, dir string) error {
	return f.each(func(h *host) error { return h.collect(ctx, filepath.Join(dir, string(h.id))) })
}

// Close implements cluster.Cluster.
func (f *Fleet) Close(ctx context.Context) error {
	f.closing.Lock()
	defer f.closing.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	errs := []error{f.each(func(h *host) error { return h.remove(ctx) })}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.dead {
		errs = append(errs, f.b.removeContainer(ctx, id))
	}
	f.dead = nil
	if f.network != "" {
		if _, err := f.b.docker.API().NetworkRemove(ctx, f.network, client.NetworkRemoveOptions{}); docker.Gone(err) {
			f.network = ""
		} else {
			errs = append(errs, fmt.Errorf("remove network: %w", err))
		}
	}
	if f.dir != "" {
		errs = append(errs, os.RemoveAll(f.dir))
	}
	return errors.Join(errs...)
}

func (b *Backend) removeContainer(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	_, err := b.docker.API().ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if docker.Gone(err) {
		return nil
	}
	return fmt.Errorf("remove host: %w", err)
}
