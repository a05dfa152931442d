package hosts

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// Where the deploy kit puts things, and the ports of nodes.env's template.
const (
	unit      = "membershipd-cluster.service"
	stateDir  = "/var/lib/unibus"
	dataDir   = stateDir + "/data"
	portHTTP  = "8080"
	portNATS  = "4222"
	portWatch = "8222"

	poll = 200 * time.Millisecond
)

// host is one machine, and a node once the kit has made one of it.
type host struct {
	f  *Fleet
	id cluster.NodeID

	mu        sync.Mutex
	container string
	addr      string
	key       string // public key of its sshd
	machines  int    // how many there were under this name
	started   time.Time
}

var (
	_ cluster.Node    = (*host)(nil)
	_ cluster.Storage = (*host)(nil)
)

func (h *host) containerID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.container
}

func (h *host) address() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr
}

func (h *host) publicKey() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.key
}

// boot makes a machine and switches it on.
func (h *host) boot(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeBound)
	defer cancel()
	h.mu.Lock()
	h.machines++
	number := h.machines
	h.mu.Unlock()
	api := h.f.b.docker.API()
	name := fmt.Sprintf("%s-%s-%d", h.f.name(), h.id, number)
	c, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: name, Config: h.config(), HostConfig: h.hostConfig(),
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{h.f.network: {}}},
	})
	if err != nil {
		return fmt.Errorf("create host: %w", docker.Explain(err))
	}
	h.mu.Lock()
	h.container = c.ID
	h.mu.Unlock()
	key, err := h.giveKeys(ctx, c.ID, number)
	if err != nil {
		return err
	}
	if _, err := api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start host: %w", docker.Explain(err))
	}
	return h.locate(ctx, c.ID, key)
}

func (h *host) config() *container.Config {
	return &container.Config{
		Image: h.f.b.image, Hostname: string(h.id), Env: []string{"container=docker"}, Cmd: []string{"/sbin/init"},
		Labels: h.f.b.docker.Labels(h.f.spec, h.id, "host"),
	}
}

// hostConfig has what systemd needs to be PID 1, and the unit's sandbox to be made: mounts, and a cgroup tree of its own. SYS_PTRACE, which a host's
// root has too, is for PrivateUsers together with ProtectProc: systemd writes another process's uid_map. Not --privileged, which wants capabilities that some hosts keep back.
func (h *host) hostConfig() *container.HostConfig {
	return &container.HostConfig{
		NetworkMode: container.NetworkMode(h.f.network), CgroupnsMode: container.CgroupnsModePrivate,
		CapAdd: []string{"SYS_ADMIN", "SYS_PTRACE"}, SecurityOpt: []string{"seccomp=unconfined", "apparmor=unconfined"},
		Tmpfs:  map[string]string{"/run": "", "/tmp": ""},
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: stateDir, VolumeOptions: &mount.VolumeOptions{Labels: h.f.b.docker.Labels(h.f.spec, h.id, "volume")}}},
	}
}

// giveKeys puts the administrator's public key, and a key for sshd, on a machine that is still off.
func (h *host) giveKeys(ctx context.Context, id string, number int) (string, error) {
	path := filepath.Join(h.f.dir, fmt.Sprintf("sshd-%s-%d", h.id, number))
	if err := keygen(ctx, path); err != nil {
		return "", err
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read a key: %w", err)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		return "", fmt.Errorf("read a key: %w", err)
	}
	admin, err := os.ReadFile(filepath.Join(h.f.dir, "id.pub"))
	if err != nil {
		return "", fmt.Errorf("read a key: %w", err)
	}
	const ops = 1000 // the only user that the image adds
	archive, err := archiveOf(
		entry{"etc/ssh/ssh_host_ed25519_key", secret, 0o600, 0}, entry{"etc/ssh/ssh_host_ed25519_key.pub", public, 0o644, 0},
		entry{"root/.ssh/", nil, 0o700, 0}, entry{"root/.ssh/authorized_keys", admin, 0o600, 0},
		entry{"home/ops/.ssh/", nil, 0o700, ops}, entry{"home/ops/.ssh/authorized_keys", admin, 0o600, ops},
	)
	if err != nil {
		return "", err
	}
	_, err = h.f.b.docker.API().CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: bytes.NewReader(archive)})
	if err != nil {
		return "", fmt.Errorf("give keys to host: %w", err)
	}
	return strings.TrimSpace(string(public)), nil
}

// entry is a file of an archive, or a folder when its name ends so.
type entry struct {
	name    string
	content []byte
	mode    int64
	owner   int
}

func archiveOf(entries ...entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		head := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Uid: e.owner, Gid: e.owner, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if strings.HasSuffix(e.name, "/") {
			head.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(head); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return b.Bytes(), nil
}

func (h *host) locate(ctx context.Context, id, key string) error {
	r, err := h.f.b.docker.API().ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return fmt.Errorf("inspect host: %w", err)
	}
	var addr netip.Addr
	if s := r.Container.NetworkSettings; s != nil {
		for _, n := range s.Networks {
			if n != nil {
				addr = n.IPAddress
			}
		}
	}
	if !addr.IsValid() {
		return fmt.Errorf("the host ended at once: systemd cannot be PID 1 of a container here (exit code %d)", r.Container.State.ExitCode)
	}
	if !docker.Reachable(ctx, addr.String()) {
		return errors.New("containers' addresses cannot be reached from here")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addr, h.key = addr.String(), key
	return nil
}

// awaitUp waits until systemd says that everything has started.
func (h *host) awaitUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the host was not up within %v", bootTimeout))
	defer cancel()
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		out, err := h.run(ctx, "systemctl is-system-running --wait || true")
		if state := strings.TrimSpace(out); err == nil && (state == "running" || state == "degraded") {
			return nil
		}
		r, ierr := h.f.b.docker.API().ContainerInspect(ctx, h.containerID(), client.ContainerInspectOptions{})
		if ierr == nil && r.Container.State != nil && !r.Container.State.Running {
			return fmt.Errorf("the host has ended: systemd cannot be PID 1 of a container here (exit code %d)", r.Container.State.ExitCode)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s %w", context.Cause(ctx), strings.TrimSpace(out), err)
		case <-t.C:
		}
	}
}

// command speaks to the host as its root.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	base := []string{"-F", h.f.SSHConfig(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5", "root@" + h.address()}
	return exec.CommandContext(ctx, "ssh", append(base, args...)...)
}

func (h *host) run(ctx context.Context, script string) (string, error) {
	cmd := h.command(ctx, "bash -s")
	cmd.Stdin = strings.NewReader(script)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run on %s: %w: %s", h.id, err, tail(errs.String()))
	}
	return out.String(), nil
}

// swap boots another machine under the name and pulls the plug of the first one, which it returns. They are on at the same time for a moment, so
// that their addresses differ.
func (h *host) swap(ctx context.Context) (old string, err error) {
	old = h.containerID()
	if err := h.boot(ctx); err != nil {
		return old, err
	}
	if _, err := h.f.b.docker.API().ContainerKill(ctx, old, client.ContainerKillOptions{Signal: "KILL"}); err != nil && !docker.Gone(err) {
		return old, fmt.Errorf("pull the plug: %w", err)
	}
	return old, nil
}

func (h *host) remove(ctx context.Context) error {
	if err := h.f.b.removeContainer(ctx, h.containerID()); err != nil {
		return err
	}
	h.mu.Lock()
	h.container = ""
	h.mu.Unlock()
	return nil
}

// ID implements cluster.Node.
func (h *host) ID() cluster.NodeID { return h.id }

// Endpoints implements cluster.Node. They change when the machine is replaced.
func (h *host) Endpoints() cluster.Endpoints {
	a := h.address()
	return subject.Endpoints(cluster.Membershipd, a+":"+portNATS, a+":"+portHTTP, a+":"+portWatch)
}

// State implements cluster.Node.
func (h *host) State(ctx context.Context) (cluster.State, error) {
	out, err := h.run(ctx, "systemctl show -p MainPID -p ExecMainStatus --value "+unit+
		`; pid=$(systemctl show -p MainPID --value `+unit+`); test "$pid" = 0 || sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f1,20`)
	if err != nil {
		return cluster.State{}, err
	}
	h.mu.Lock()
	s := cluster.State{Started: h.started, ExitCode: -1}
	h.mu.Unlock()
	f := strings.Fields(out)
	if len(f) < 2 {
		return s, fmt.Errorf("read the state of %s: systemd says %q", h.id, out)
	}
	if s.PID, err = strconv.Atoi(f[0]); err != nil {
		return s, fmt.Errorf("read the state of %s: %w", h.id, err)
	}
	if s.PID == 0 {
		s.ExitCode, err = strconv.Atoi(f[1])
		return s, err
	}
	if len(f) == 4 {
		s.Running, s.Paused = f[2] != "Z", f[2] == "T"
		s.StartTime, err = strconv.ParseUint(f[3], 10, 64)
	}
	return s, err
}

// Start implements cluster.Node.
func (h *host) Start(ctx context.Context) error {
	s, err := h.State(ctx)
	if err != nil {
		return err
	}
	if s.Running {
		return cluster.ErrRunning
	}
	h.mu.Lock()
	h.started = time.Now()
	h.mu.Unlock()
	_, err = h.run(ctx, "systemctl start "+unit)
	return err
}

// Signal implements cluster.Node. systemd starts a daemon again that ends by itself, so that the ends that the harness wants are ordered from it.
func (h *host) Signal(ctx context.Context, sig syscall.Signal) error {
	s, err := h.State(ctx)
	if err != nil {
		return err
	}
	if !s.Running {
		return cluster.ErrNotRunning
	}
	script := fmt.Sprintf("systemctl kill --signal=%d %s", int(sig), unit)
	switch sig {
	case syscall.SIGTERM:
		script = "systemctl stop --no-block " + unit
	case syscall.SIGKILL:
		script += "\nsystemctl stop " + unit
	}
	_, err = h.run(ctx, script)
	return err
}

// WaitExit implements cluster.Node.
func (h *host) WaitExit(ctx context.Context) error {
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		s, err := h.State(ctx)
		if err == nil && s.PID == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-t.C:
		}
	}
}

// Logs implements cluster.Node.
func (h *host) Logs(ctx context.Context) (io.ReadCloser, error) {
	out, err := h.run(ctx, "journalctl --no-pager -o short-iso-precise -u "+unit)
	return io.NopCloser(strings.NewReader(out)), err
}

func (h *host) collect(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("collect logs: %w", err)
	}
	var errs []error
	for name, script := range map[string]string{
		"daemon.log": "journalctl --no-pager -o short-iso-precise -u " + unit,
		"deploy.log": "cat /opt/unibus/deploy.log 2>/dev/null || true",
	} {
		out, err := h.run(ctx, script)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, name), []byte(out), 0o644))
	}
	return errors.Join(errs...)
}

// Usage implements cluster.Storage.
func (h *host) Usage(ctx context.Context) (cluster.Usage, error) {
	out, err := h.run(ctx, "find "+dataDir+` -type f -printf '%s\n' 2>/dev/null | awk '{n++; b+=$1} END {print n+0, b+0}'`)
	if err != nil {
		return cluster.Usage{}, err
	}
	var u cluster.Usage
	if _, err := fmt.Sscan(out, &u.Files, &u.Bytes); err != nil {
		return u, fmt.Errorf("measure the store of %s: %w", h.id, err)
	}
	return u, nil
}

// Wipe implements cluster.Storage.
func (h *host) Wipe(ctx context.Context) (cluster.Usage, error) {
	s, err := h.State(ctx)
	if err != nil {
		return cluster.Usage{}, err
	}
	if s.Running {
		return cluster.Usage{}, cluster.ErrRunning
	}
	u, err := h.Usage(ctx)
	if err != nil {
		return u, err
	}
	_, err = h.run(ctx, "find "+dataDir+" -mindepth 1 -delete")
	return u, err
}

// CopyStore implements cluster.Storage. The internal identity is not in that folder.
func (h *host) CopyStore(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("copy store of %s: %w", h.id, err)
	}
	send, receive := h.command(ctx, "tar -C "+dataDir+" -cf - ."), exec.CommandContext(ctx, "tar", "--no-same-owner", "--no-same-permissions", "-xf", "-", "-C", dir)
	pipe, err := send.StdoutPipe()
	if err != nil {
		return fmt.Errorf("copy store of %s: %w", h.id, err)
	}
	var errs bytes.Buffer
	send.Stderr, receive.Stderr, receive.Stdin = &errs, &errs, pipe
	if err := send.Start(); err != nil {
		return fmt.Errorf("copy store of %s: %w", h.id, err)
	}
	err = receive.Run()
	if err := errors.Join(err, send.Wait()); err != nil {
		return fmt.Errorf("copy store of %s: %w: %s", h.id, err, tail(errs.String()))
	}
	return nil
}
