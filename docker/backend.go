// Package docker runs clusters in containers, through testcontainers-go. A node is a pod of three:
//
//	holder   owns the network and PID namespaces, the alias and the published ports; static, does nothing
//	daemon   the system under test; joins both namespaces; can die and be started again with the same address and volume
//	faultd   the fault agent; joins both; its attached standard input is the control stream
//
// A sidecar that joined the daemon's own namespace would lose it at the first restart, and the fault with it.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"

	"github.com/unibus/unibus/sut/cluster"
)

// Name is the backend's name in reports and on the command line.
const Name = "docker"

// Bounds of talking to the engine.
const (
	connectTimeout = 3 * time.Second
	answerTimeout  = 15 * time.Second // on a machine with more to do than it can, an engine takes seconds
	reachTimeout   = 2 * time.Second
)

// Options of a Backend.
type Options struct {
	Holder string // static binary of docker/holder
	Agent  string // static binary of cmd/faultd
	// PowerFS is the binary of cmd/powerfs, for this host; "" leaves clusters whose power can fail out (cluster.CapPowerFail).
	PowerFS string
	// Publish makes the nodes' ports reachable through the host's loopback; where container addresses cannot be reached it is done anyway.
	Publish bool
}

// Backend makes clusters on the engine that the environment names (DOCKER_HOST, or the default socket).
type Backend struct {
	opts     Options
	provider *testcontainers.DockerProvider
	cli      *testcontainers.DockerClient
	owner    owner

	mu      sync.Mutex
	images  map[string]image // by path of the binary
	publish bool
}

var _ cluster.Backend = (*Backend)(nil)

// quiet stops testcontainers from starting its reaper, which is an image that cannot be had offline (what it does is done by labels here, see Sweep),
// and from writing to the log. It does so once: the log is one for the process, and several backends may be made at the same time.
var quiet = sync.OnceValue(func() error {
	if err := os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"); err != nil {
		return fmt.Errorf("set up testcontainers: %w", err)
	}
	tclog.SetDefault(log.New(io.Discard, "", 0))
	return nil
})

func newProvider() (*testcontainers.DockerProvider, error) {
	if err := quiet(); err != nil {
		return nil, err
	}
	p, err := testcontainers.NewDockerProvider(testcontainers.WithLogger(log.New(io.Discard, "", 0)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoEngine, err)
	}
	return p, nil
}

// Available says whether an engine answers: ErrNoEngine where none takes a connection, ErrSilentEngine where one does and then says nothing for
// fifteen seconds.
func Available(ctx context.Context) error {
	_, err := Engine(ctx)
	return err
}

// Engine is the engine's name and version, for reports.
func Engine(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	type answer struct {
		s   string
		err error
	}
	ch := make(chan answer, 1) // testcontainers looks for the engine without a context
	go func() {
		s, err := engine(ctx)
		ch <- answer{s, err}
	}()
	select {
	case a := <-ch:
		return a.s, a.err
	case <-ctx.Done():
		return "", fmt.Errorf("%w within %v", unanswered(ctx), answerTimeout)
	}
}

func engine(ctx context.Context) (string, error) {
	if err := named(ctx); err != nil {
		return "", err
	}
	p, err := newProvider()
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }() // only asked a question
	v, err := p.Client().ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", fmt.Errorf("%w: %w", unanswered(ctx), err)
	}
	return fmt.Sprintf("Docker Engine %s, API %s", v.Version, v.APIVersion), nil
}

// named asks the engine that DOCKER_HOST names, if it does: testcontainers would take another one when that does not answer, and clusters
// would run where nobody wanted them. The address has connectTimeout to take a connection, which does not need the engine to be quick.
func named(ctx context.Context) error {
	host := os.Getenv(client.EnvOverrideHost)
	if host == "" {
		return nil
	}
	cli, err := client.New(client.FromEnv)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrNoEngine, host, err)
	}
	defer func() { _ = cli.Close() }() // only asked a question
	dialling, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := cli.Dialer()(dialling)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrNoEngine, host, err)
	}
	_ = conn.Close() // nothing was sent
	if _, err := cli.Ping(ctx, client.PingOptions{}); err != nil {
		return fmt.Errorf("%w at %s: %w", unanswered(ctx), host, err)
	}
	return nil
}

// unanswered is the error of a question that failed: an engine that had no more time is another case than one that is not there.
func unanswered(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrSilentEngine
	}
	return ErrNoEngine
}

// New connects to the engine.
func New(ctx context.Context, opts Options) (*Backend, error) {
	if err := Available(ctx); err != nil {
		return nil, err
	}
	p, err := newProvider()
	if err != nil {
		return nil, err
	}
	cli, ok := p.Client().(*testcontainers.DockerClient)
	if !ok {
		return nil, fmt.Errorf("connect to the engine: unexpected client %T", p.Client())
	}
	o, err := self()
	if err != nil {
		return nil, err
	}
	return &Backend{opts: opts, provider: p, cli: cli, owner: o, images: map[string]image{}, publish: opts.Publish || runtime.GOOS != "linux"}, nil
}

// Name implements cluster.Backend.
func (b *Backend) Name() string { return Name }

// Capabilities implements cluster.Backend.
func (b *Backend) Capabilities() cluster.Capabilities {
	m := Missing()
	if b.opts.PowerFS == "" && m[cluster.CapPowerFail] == "" {
		m[cluster.CapPowerFail], m[cluster.CapDiskFaults] = noBinary, noBinary
	}
	return m
}

// Close implements cluster.Backend.
func (b *Backend) Close() error {
	if err := b.cli.Close(); err != nil {
		return fmt.Errorf("disconnect from the engine: %w", err)
	}
	return nil
}

// Images gives the ids of the images that were used, by name, for reports.
func (b *Backend) Images() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := map[string]string{}
	for _, i := range b.images {
		m[i.tag] = i.id
	}
	return m
}

// reachable tells whether a container's own address answers from here: a refused connection is an answer.
func reachable(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(addr, "1"))
	if err == nil {
		_ = c.Close() // somebody listens there: as good an answer
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
