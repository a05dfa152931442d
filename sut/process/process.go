// Package process is a cluster of child processes on 127.0.0.1, for machines without a container engine. It can do everything to a node's
// process and to its data directory, but nothing to the traffic between nodes.
//
// Nothing outlives the harness: on Linux the kernel kills the daemons with the thread that started them, and Sweep removes directories
// (and on other systems processes) whose harness is dead.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// Name is the backend's name in reports and on the command line.
const Name = "process"

// defaultSize is how many nodes a cluster has when the Spec does not say.
const defaultSize = 3

// Missing says what this backend cannot do, and why.
func Missing() cluster.Capabilities {
	m := cluster.Capabilities{
		cluster.CapNetwork:   "child processes share this host's network: traffic between them cannot be cut, and there is no agent beside them",
		cluster.CapClock:     "child processes have no agent beside them that could move their clocks",
		cluster.CapResources: "child processes share this host's processors: their share is not limited",
		cluster.CapCounts:    "child processes have no agent beside them that could limit their descriptors and threads",
		cluster.CapMemory:    "child processes have no control group of their own: their memory cannot be limited",
	}
	if why := host.Unavailable(); why != "" {
		m[cluster.CapPowerFail], m[cluster.CapDiskFaults] = why, why
	}
	return m
}

// Options of a Backend. The zero value is usable.
type Options struct {
	Dir string // where clusters keep their files; "" means the system's directory for temporary files
	// PowerFS is the binary of cmd/powerfs; "" leaves clusters whose power can fail out (cluster.CapPowerFail).
	PowerFS string
}

// Backend makes clusters of child processes.
type Backend struct {
	opts    Options
	starter *starter

	mu       sync.Mutex
	clusters map[*processes]bool
	closed   bool
}

var (
	_ cluster.Backend = (*Backend)(nil)
	_ cluster.Cluster = (*processes)(nil)
	_ cluster.Node    = (*node)(nil)
	_ cluster.Storage = (*node)(nil)
	_ cluster.Rekeyed = (*node)(nil)
	_ cluster.Secured = (*processes)(nil)
)

// New makes a backend. Close it: it holds a thread.
func New(opts Options) *Backend {
	if opts.Dir == "" {
		opts.Dir = os.TempDir()
	}
	return &Backend{opts: opts, starter: newStarter(), clusters: map[*processes]bool{}}
}

// Name is "process".
func (b *Backend) Name() string { return Name }

// Capabilities is [Missing], and what the binaries are not there for.
func (b *Backend) Capabilities() cluster.Capabilities {
	m := Missing()
	if b.opts.PowerFS == "" && m[cluster.CapPowerFail] == "" {
		m[cluster.CapPowerFail], m[cluster.CapDiskFaults] = noBinary, noBinary
	}
	return m
}

// Close closes what is left of the clusters. The backend makes no more of them.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	var left []*processes
	for c := range b.clusters {
		left = append(left, c)
	}
	b.mu.Unlock()
	var errs []error
	for _, c := range left {
		errs = append(errs, c.Close(context.Background()))
	}
	b.starter.stop()
	return errors.Join(errs...)
}

// NewCluster makes directories and reserves ports. No daemon runs yet.
func (b *Backend) NewCluster(ctx context.Context, spec cluster.Spec) (cluster.Cluster, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if spec.Size == 0 {
		spec.Size = defaultSize
	}
	if err := checkSpec(spec); err != nil {
		return nil, fmt.Errorf("make cluster: %w", err)
	}
	home, err := newHome(b.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("make cluster %s: %w", spec.Name, err)
	}
	c := &processes{spec: spec, backend: b, home: home}
	if err := errors.Join(c.prepare(), c.mountDisks(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("make cluster %s: %w", spec.Name, err), c.Close(ctx))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(errors.New("make cluster: the backend is closed"), c.release())
	}
	b.clusters[c] = true
	return c, nil
}

func checkSpec(s cluster.Spec) error {
	switch {
	case s.RunID == "" || s.Name == "":
		return errors.New("a cluster needs a run id and a name")
	case s.Size < 1:
		return fmt.Errorf("a cluster of %d nodes is none", s.Size)
	case s.Subject.Path == "":
		return errors.New("the subject has no binary")
	}
	return checkProgram(s.Subject.Path)
}

// checkProgram tells whether a path is one that can be started.
func checkProgram(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at the subject's binary: %w", err)
	}
	if info.Mode()&0o111 == 0 || !info.Mode().IsRegular() {
		return fmt.Errorf("the subject's binary %s is not a program", path)
	}
	return nil
}

// processes is a cluster.
type processes struct {
	*subject.Credentials
	spec    cluster.Spec
	backend *Backend
	home    *home
	nodes   []*node

	mu       sync.Mutex
	released bool
}

// prepare needs all ports before it can write the first node's routes.
func (c *processes) prepare() error {
	creds, err := subject.NewCredentials(c.spec)
	if err != nil {
		return err
	}
	c.Credentials = creds
	var routes []string
	for i := range c.spec.Size {
		n := &node{id: cluster.NodeID("n" + strconv.Itoa(i+1)), cluster: c}
		c.nodes = append(c.nodes, n)
		if n.ports, err = reserve(); err != nil {
			return err
		}
		routes = append(routes, n.ports.cluster.Addr)
	}
	for _, n := range c.nodes {
		if err := n.prepare(routes); err != nil {
			return err
		}
	}
	return nil
}

// Spec is what the cluster was made from, with its size.
func (c *processes) Spec() cluster.Spec { return c.spec }

// Nodes are n1, n2, ...
func (c *processes) Nodes() []cluster.Node {
	var ns []cluster.Node
	for _, n := range c.nodes {
		ns = append(ns, n)
	}
	return ns
}

// Collect copies the logs: dir/<node>/daemon.log. Stores are copied one by one, with CopyStore.
func (c *processes) Collect(ctx context.Context, dir string) error {
	var errs []error
	for _, n := range c.nodes {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("collect: %w", err))...)
		}
		if err := n.collect(filepath.Join(dir, string(n.id))); err != nil {
			errs = append(errs, fmt.Errorf("collect %s: %w", n.id, err))
		}
	}
	return errors.Join(errs...)
}

// Close kills the daemons and removes their directories, whatever became of ctx: killing takes no time that would be worth a bound.
func (c *processes) Close(_ context.Context) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = n.end() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err) // its files stay for as long as it may write to them
	}
	c.backend.mu.Lock()
	delete(c.backend.clusters, c)
	c.backend.mu.Unlock()
	return c.release()
}

// release gives back ports and directories, once.
func (c *processes) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return nil
	}
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.ports.release(), n.removeDisk())
	}
	errs = append(errs, c.home.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cluster %s: %w", c.spec.Name, err)
	}
	c.released = true
	return nil
}

// gone tells whether an error only says that something is not there.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
