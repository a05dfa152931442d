package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// Ports inside a pod.
const (
	portClient  = 4222
	portRoutes  = 6222
	portHTTP    = 8080 // membershipd's own endpoints
	portMonitor = 8222 // nats-server's monitoring
)

const (
	pollEngine  = 20 * time.Millisecond // between looks at a container whose process has just died
	signalBound = 10 * time.Second
	// makeBound is how long one container may take to be created or started. The caller's end does not interrupt it: a request that is
	// given up half-way leaves a container behind that nobody knows of.
	makeBound = time.Minute
	// agreeBound is how long agent and engine may disagree about whether the daemon runs, right after its start or its end.
	agreeBound = 5 * time.Second
	agreePoll  = 5 * time.Millisecond
)

// pod is one node: three containers, a volume, an address.
type pod struct {
	c       *containers
	id      cluster.NodeID
	imgs    podImages
	publish bool
	volume  string
	// furnished: the volume may be there, and is this pod's.
	furnished bool

	holderID, daemonID, agentID string
	addr                        string // on the cluster's network
	endpoints                   cluster.Endpoints
	ctl                         *control
	host.Faulty                 // its Disk is nil unless its power can fail

	starting sync.Mutex // one Start or Wipe at a time

	mu      sync.Mutex
	started time.Time
	lives   int
	killed  bool     // the agent saw the last life end by its SIGKILL
	starved bool     // the agent saw the kernel kill the last life for want of memory
	retired []string // containers of earlier builds, see Replace
}

var (
	_ cluster.Node       = (*pod)(nil)
	_ cluster.Storage    = (*pod)(nil)
	_ cluster.Agented    = (*pod)(nil)
	_ cluster.PowerLoser = (*pod)(nil)
)

func (p *pod) name(role string) string { return p.volume + "-" + role }

// create makes a container that is not running yet.
func (p *pod) create(ctx context.Context, role string, img image, req testcontainers.ContainerRequest) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeBound)
	defer cancel()
	req.Image, req.Name, req.Labels = img.tag, p.name(role), p.c.labels(p.id, role)
	c, err := p.c.b.provider.CreateContainer(ctx, req)
	if err != nil {
		return "", fmt.Errorf("create %s: %w", role, explain(err))
	}
	return c.GetContainerID(), nil
}

func (p *pod) startContainer(ctx context.Context, id, role string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeBound)
	defer cancel()
	if _, err := p.c.b.cli.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start %s: %w", role, explain(err))
	}
	return nil
}

// loopback is where published ports are.
const loopback = "127.0.0.1"

// publishedPorts are those that the harness asks.
var publishedPorts = []int{portClient, portHTTP, portMonitor}

// loopbackPorts lets the engine choose free ports on the loopback interface.
func loopbackPorts() (network.PortMap, error) {
	m := network.PortMap{}
	for _, n := range publishedPorts {
		port, err := network.ParsePort(strconv.Itoa(n) + "/tcp")
		if err != nil {
			return nil, fmt.Errorf("publish ports: %w", err)
		}
		m[port] = []network.PortBinding{{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}}
	}
	return m, nil
}

// hold makes the holder and learns the pod's address.
func (p *pod) hold(ctx context.Context) error {
	bindings, err := loopbackPorts()
	if err != nil {
		return err
	}
	req := testcontainers.ContainerRequest{
		Networks: []string{p.c.network}, NetworkAliases: map[string][]string{p.c.network: {string(p.id)}},
		ConfigModifier: func(c *container.Config) {
			c.Hostname, c.Entrypoint = string(p.id), []string{"/" + filepath.Base(p.c.b.opts.Holder)}
		},
		HostConfigModifier: func(h *container.HostConfig) {
			harden(h)
			h.NetworkMode = container.NetworkMode(p.c.network)
			if p.publish {
				h.PortBindings = bindings
			}
		},
	}
	if p.publish {
		for _, port := range publishedPorts {
			req.ExposedPorts = append(req.ExposedPorts, strconv.Itoa(port)+"/tcp")
		}
	}
	if p.holderID, err = p.create(ctx, "holder", p.imgs.holder, req); err != nil {
		return err
	}
	if err := p.startContainer(ctx, p.holderID, "holder"); err != nil {
		return err
	}
	return p.locate(ctx)
}

// locate reads the pod's addresses, which stay as long as the holder lives.
func (p *pod) locate(ctx context.Context) error {
	r, err := p.c.b.cli.ContainerInspect(ctx, p.holderID, client.ContainerInspectOptions{})
	if err != nil {
		return fmt.Errorf("inspect holder: %w", err)
	}
	ns := r.Container.NetworkSettings
	if ns == nil || len(ns.Networks) != 1 {
		return errors.New("inspect holder: it is not on the cluster's network alone")
	}
	for _, n := range ns.Networks { // the key is a name or an id, as the engine likes
		if n == nil || !n.IPAddress.IsValid() {
			return errors.New("inspect holder: it has no address")
		}
		p.addr = n.IPAddress.String()
	}
	at := func(port int) string {
		if p.publish {
			return published(ns.Ports, port)
		}
		return net.JoinHostPort(p.addr, strconv.Itoa(port))
	}
	p.endpoints = subject.Endpoints(p.c.spec.Subject.Kind, at(portClient), at(portHTTP), at(portMonitor))
	if !p.publish {
		p.endpoints.Routes = at(portRoutes)
	}
	return nil
}

// published returns where a port is reached through the host, or an address that refuses.
func published(ports network.PortMap, port int) string {
	for k, bs := range ports {
		if int(k.Num()) == port && len(bs) > 0 {
			return net.JoinHostPort(loopback, bs[0].HostPort)
		}
	}
	return net.JoinHostPort(loopback, "0")
}

// harden takes away what no container here needs.
func harden(h *container.HostConfig) {
	h.CapDrop = []string{"ALL"}
	h.SecurityOpt = []string{"no-new-privileges"}
	h.ReadonlyRootfs = true
}

// mounts puts the volume in place. Only the daemon's image fills it when it is new: two containers that are made at the same time would
// both do it, and one of them would find the other's folders in its way.
func (p *pod) mounts(h *container.HostConfig, fill bool) {
	h.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: p.volume, Target: home,
		VolumeOptions: &mount.VolumeOptions{NoCopy: !fill, Labels: p.c.labels(p.id, "volume")}}}
	p.bindDisk(h)
}

func (p *pod) join(h *container.HostConfig) {
	h.NetworkMode = container.NetworkMode("container:" + p.holderID)
	h.PidMode = container.PidMode("container:" + p.holderID)
}

// furnish makes daemon and agent, side by side, and starts the agent once the volume is filled: to start it makes the folder that a disk of its own is bound
// to, and the engine that fills the volume at that moment fails over it.
func (p *pod) furnish(ctx context.Context) error {
	if err := p.mountDisk(ctx); err != nil {
		return err
	}
	p.furnished = true
	var wg sync.WaitGroup
	var daemonErr, agentErr error
	filled := make(chan struct{})
	wg.Go(func() { daemonErr = p.makeDaemon(ctx, filled) })
	wg.Go(func() { agentErr = p.makeAgent(ctx, filled) })
	wg.Wait()
	return errors.Join(daemonErr, agentErr)
}

// makeDaemon closes filled when the engine has made the container, and with it filled the volume, or when it will not.
func (p *pod) makeDaemon(ctx context.Context, filled chan<- struct{}) (err error) {
	done := sync.OnceFunc(func() { close(filled) })
	defer done()
	certs, err := p.c.Issue(p.id, p.Hosts())
	if err != nil {
		return err
	}
	l, err := subject.Render(subject.Node{ID: p.id, Spec: p.c.spec, Addr: p.listen(), DataDir: dataDir, ConfDir: confDir, Password: p.c.Password, TLS: certs})
	if err != nil {
		return err
	}
	p.daemonID, err = p.create(ctx, "daemon", p.imgs.daemon, testcontainers.ContainerRequest{
		ConfigModifier: func(c *container.Config) {
			c.Entrypoint, c.Cmd, c.Env = []string{"/" + filepath.Base(p.c.spec.Subject.Path)}, l.Args, append(c.Env, l.Env...)
			c.User = fmt.Sprintf("%d:%d", userID, userID)
		},
		HostConfigModifier: func(h *container.HostConfig) {
			harden(h)
			p.join(h)
			p.mounts(h, true)
		},
	})
	done()
	if err != nil {
		return err
	}
	var files []file
	for _, f := range l.Files {
		files = append(files, file{strings.TrimPrefix(f.Path, home+"/"), f.Content, int64(f.Mode.Perm()), userID})
	}
	archive, err := tarOf(files...)
	if err != nil {
		return err
	}
	_, err = p.c.b.cli.CopyToContainer(ctx, p.daemonID, client.CopyToContainerOptions{DestinationPath: home, Content: bytes.NewReader(archive)})
	if err != nil {
		return fmt.Errorf("copy configuration: %w", err)
	}
	return nil
}

func (p *pod) listen() subject.Addresses {
	on := func(port int) string { return "0.0.0.0:" + strconv.Itoa(port) }
	a := subject.Addresses{Client: on(portClient), Cluster: on(portRoutes), HTTP: on(portHTTP), Monitor: on(portMonitor)}
	a.ClientAdvertise = p.endpoints.Client[len("nats://"):]
	// By name, as in the routes: a node that is told an address wants the certificate there to be for the name that it knows best.
	a.ClusterAdvertise = net.JoinHostPort(string(p.id), strconv.Itoa(portRoutes))
	for _, o := range p.c.pods {
		a.Routes = append(a.Routes, net.JoinHostPort(string(o.id), strconv.Itoa(portRoutes)))
	}
	return a
}

// makeAgent starts faultd, once filled is closed, with the capabilities that its faults need: NET_ADMIN for partitions, NET_RAW for copies of packets, KILL to signal another user's process,
// DAC_OVERRIDE to wipe another user's files, SYS_PTRACE to move its clock, SETUID and SETGID to limit its descriptors as its own user.
func (p *pod) makeAgent(ctx context.Context, filled <-chan struct{}) (err error) {
	p.agentID, err = p.create(ctx, "agent", p.imgs.agent, testcontainers.ContainerRequest{
		ConfigModifier: func(c *container.Config) {
			c.Entrypoint = []string{"/" + filepath.Base(p.c.b.opts.Agent)}
			c.Cmd = []string{"--daemon", filepath.Base(p.c.spec.Subject.Path), "--data-dir", dataDir, "--cgroups", groupsDir}
			c.OpenStdin, c.StdinOnce, c.AttachStdin, c.AttachStdout, c.AttachStderr = true, true, true, true, true
		},
		HostConfigModifier: func(h *container.HostConfig) {
			harden(h)
			h.CapAdd = []string{"NET_ADMIN", "NET_RAW", "KILL", "DAC_OVERRIDE", "SYS_PTRACE", "SETUID", "SETGID"}
			p.join(h)
			p.mounts(h, false)
			bindGroups(h)
		},
	})
	if err != nil {
		return err
	}
	// Attached before it starts, or its input would end at once.
	at, err := p.c.b.cli.ContainerAttach(ctx, p.agentID, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return fmt.Errorf("attach to the agent: %w", err)
	}
	p.ctl = newControl(at.Conn, at.Reader)
	<-filled
	if err := p.startContainer(ctx, p.agentID, "agent"); err != nil {
		return err
	}
	var hello agent.HelloResult
	if err := p.ctl.Call(ctx, agent.MethodHello, nil, &hello); err != nil {
		return fmt.Errorf("greet the agent: %w", err)
	}
	go p.ctl.renew(context.WithoutCancel(ctx))
	return nil
}

// remove takes the pod away; idempotent.
func (p *pod) remove(ctx context.Context) error {
	if p.ctl != nil {
		p.ctl.close()
	}
	rm := func(id *string, role string) error {
		if *id == "" {
			return nil
		}
		_, err := p.c.b.cli.ContainerRemove(ctx, *id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if gone(err) {
			*id = ""
			return nil
		}
		return fmt.Errorf("remove %s: %w", role, err)
	}
	// The engine removes a container that shares the namespaces of another only while that one is still known.
	var wg sync.WaitGroup
	var daemonErr, agentErr error
	wg.Go(func() { daemonErr = rm(&p.daemonID, "daemon") })
	wg.Go(func() { agentErr = rm(&p.agentID, "agent") })
	wg.Wait()
	errs := []error{daemonErr, agentErr, p.removeRetired(rm), rm(&p.holderID, "holder"), p.removeDisk()}
	if !p.furnished {
		return errors.Join(errs...)
	}
	if _, err := p.c.b.cli.VolumeRemove(ctx, p.volume, client.VolumeRemoveOptions{Force: true}); gone(err) {
		p.furnished = false
	} else {
		errs = append(errs, fmt.Errorf("remove volume: %w", err))
	}
	return errors.Join(errs...)
}

// gone tells whether a removal did it, or found nothing to remove, or another removal at work.
func gone(err error) bool {
	return err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress")
}

// ID implements cluster.Node.
func (p *pod) ID() cluster.NodeID { return p.id }

// Endpoints implements cluster.Node.
func (p *pod) Endpoints() cluster.Endpoints { return p.endpoints }

// Agent implements cluster.Agented.
func (p *pod) Agent() cluster.Agent { return p.ctl }

// PeerAddr implements cluster.Agented.
func (p *pod) PeerAddr() string { return p.addr }

// process asks the agent, who sits in the same PID namespace.
func (p *pod) process(ctx context.Context) (agent.ProcessResult, error) {
	var r agent.ProcessResult
	err := p.ctl.Call(ctx, agent.MethodProcess, nil, &r)
	return r, err
}

func (p *pod) engineState(ctx context.Context) (*container.State, error) {
	r, err := p.c.b.cli.ContainerInspect(ctx, p.daemon(), client.ContainerInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("inspect daemon: %w", err)
	}
	if r.Container.State == nil {
		return nil, errors.New("inspect daemon: the engine gives no state")
	}
	return r.Container.State, nil
}

// State implements cluster.Node. Right after a start the process may still be the engine's own, which becomes the daemon, and right after
// an end the engine has not noticed yet and knows no exit code: it is asked again until both say the same.
func (p *pod) State(ctx context.Context) (cluster.State, error) {
	agree, cancel := context.WithTimeout(ctx, agreeBound)
	defer cancel()
	t := time.NewTicker(agreePoll)
	defer t.Stop()
	for {
		s, settled, err := p.look(ctx)
		if err != nil || settled {
			return s, err
		}
		select {
		case <-agree.Done():
			return s, ctx.Err()
		case <-t.C:
		}
	}
}

// look asks the agent, and for a daemon that does not run the engine.
func (p *pod) look(ctx context.Context) (s cluster.State, settled bool, err error) {
	pr, err := p.process(ctx)
	if err != nil {
		return s, false, err
	}
	p.mu.Lock()
	s = cluster.State{Running: pr.Running, Paused: pr.Paused, PID: pr.PID, StartTime: pr.StartTime, Started: p.started, ExitCode: -1}
	lives, killed, starved := p.lives, p.killed || p.starved, p.starved
	p.mu.Unlock()
	if pr.Running || lives == 0 {
		return s, true, nil
	}
	st, err := p.engineState(ctx)
	switch {
	case err != nil:
		return s, false, err
	case !st.Running:
		s.ExitCode, s.OOMKilled = st.ExitCode, st.OOMKilled || starved
		return s, true, nil
	case killed: // seen from inside, tens of milliseconds before the engine knows the same
		s.ExitCode, s.OOMKilled = 128+int(syscall.SIGKILL), starved
		return s, true, nil
	default:
		return s, false, nil
	}
}

// Start implements cluster.Node.
func (p *pod) Start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	pr, err := p.process(ctx)
	if err != nil {
		return err
	}
	if pr.Running {
		return cluster.ErrRunning
	}
	if err := p.awaitAgreement(ctx); err != nil { // starting a container that the engine believes to run does nothing, and says nothing
		return err
	}
	if err := p.startContainer(ctx, p.daemon(), "daemon"); err != nil {
		return err
	}
	p.mu.Lock()
	p.started = time.Now()
	p.lives++
	p.killed, p.starved = false, false
	p.mu.Unlock()
	return nil
}

// awaitAgreement returns when the engine, too, says that the daemon does not run. One that has just been started is about to.
func (p *pod) awaitAgreement(ctx context.Context) error {
	s, err := p.State(ctx)
	if err == nil && s.Running {
		return cluster.ErrRunning
	}
	if err != nil {
		return err
	}
	return p.WaitExit(ctx)
}

// Signal implements cluster.Node.
func (p *pod) Signal(ctx context.Context, sig syscall.Signal) error {
	pr, err := p.process(ctx)
	if err == nil && !pr.Running {
		return cluster.ErrNotRunning
	}
	if err == nil {
		return p.agentSignal(ctx, sig)
	}
	return p.engineSignal(ctx, sig) // the agent is gone: the engine is slower, and has the same effect
}

// agentSignal returns when the agent has seen the effect.
func (p *pod) agentSignal(ctx context.Context, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, signalBound)
	defer cancel()
	p.mu.Lock()
	life := p.lives
	p.mu.Unlock()
	if err := p.ctl.Call(ctx, agent.MethodSignal, agent.SignalParams{Signal: int(sig)}, nil); err != nil {
		return err
	}
	if sig == syscall.SIGKILL {
		p.mu.Lock()
		p.killed = p.lives == life // not when it was started again meanwhile
		p.mu.Unlock()
	}
	return nil
}

func (p *pod) engineSignal(ctx context.Context, sig syscall.Signal) error {
	st, err := p.engineState(ctx)
	if err != nil {
		return err
	}
	if !st.Running {
		return cluster.ErrNotRunning
	}
	if _, err := p.c.b.cli.ContainerKill(ctx, p.daemon(), client.ContainerKillOptions{Signal: strconv.Itoa(int(sig))}); err != nil {
		return fmt.Errorf("signal daemon: %w", err)
	}
	if sig == syscall.SIGKILL {
		return p.WaitExit(ctx)
	}
	return nil
}

// WaitExit implements cluster.Node.
func (p *pod) WaitExit(ctx context.Context) error {
	t := time.NewTicker(pollEngine)
	defer t.Stop()
	for {
		st, err := p.engineState(ctx)
		if err != nil {
			return err
		}
		if !st.Running {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to end: %w", p.id, ctx.Err())
		case <-t.C:
		}
	}
}

// Logs implements cluster.Node.
func (p *pod) Logs(ctx context.Context) (io.ReadCloser, error) { return p.daemonLogs(ctx) }

// logs leaves the agent's standard output out: that is the control stream.
func (p *pod) logs(ctx context.Context, id string) (io.ReadCloser, error) {
	raw, err := p.c.b.cli.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: id != p.agentID, ShowStderr: true})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	r, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, w, raw)
		w.CloseWithError(errors.Join(err, raw.Close()))
	}()
	return r, nil
}

func (p *pod) saveLog(ctx context.Context, path string, open func(context.Context) (io.ReadCloser, error)) error {
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read-only
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save log: %w", err)
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("save log: %w", err)
	}
	return nil
}

// agentLogs is what the fault agent has written; nothing if there is none yet.
func (p *pod) agentLogs(ctx context.Context) (io.ReadCloser, error) {
	if p.agentID == "" {
		return &logChain{}, nil
	}
	return p.logs(ctx, p.agentID)
}

// Usage implements cluster.Storage.
func (p *pod) Usage(ctx context.Context) (u cluster.Usage, err error) {
	return u, p.ctl.Call(ctx, agent.MethodUsage, nil, &u)
}

// Wipe implements cluster.Storage.
func (p *pod) Wipe(ctx context.Context) (u cluster.Usage, err error) {
	p.starting.Lock()
	defer p.starting.Unlock()
	pr, err := p.process(ctx)
	if err != nil {
		return u, err
	}
	if pr.Running {
		return u, cluster.ErrRunning
	}
	err = p.ctl.Call(ctx, agent.MethodWipe, nil, &u)
	return u, err
}
