package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

const (
	// signalBound is how long the kernel may take to stop or continue a process. It takes microseconds, but the machine may be loaded.
	signalBound = 10 * time.Second
	// signalPoll is the time between two looks at the process meanwhile.
	signalPoll = time.Millisecond
	// endBound is how long Close waits for a process that was killed.
	endBound = 15 * time.Second

	logName    = "daemon.log"
	secretMode = 0o600
	dirMode    = 0o700
)

// node is one child process, again and again.
type node struct {
	id          cluster.NodeID
	cluster     *processes
	ports       ports
	dir         string // holds data/, conf/ and the log
	host.Faulty        // its Disk is nil unless its power can fail
	args        []string
	env         []string

	mu       sync.Mutex
	last     *life  // nil until the first start
	replaced string // path of the binary that was put in the place of the cluster's own; "" for none
	closed   bool
}

// life is the daemon from one start to its end.
type life struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{} // closed when the process is reaped
	exit    int           // valid once done is closed
}

func (l *life) running() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

func (n *node) dataDir() string { return filepath.Join(n.dir, "data") }
func (n *node) confDir() string { return filepath.Join(n.dir, "conf") }
func (n *node) logPath() string { return filepath.Join(n.dir, logName) }

// prepare writes the node's files.
func (n *node) prepare(routes []string) error {
	n.dir = filepath.Join(n.cluster.home.dir, string(n.id))
	conf := n.confDir()
	for _, d := range []string{n.dataDir(), conf} {
		if err := os.MkdirAll(d, dirMode); err != nil {
			return fmt.Errorf("make directory of %s: %w", n.id, err)
		}
	}
	certs, err := n.cluster.Issue(n.id, n.Hosts())
	if err != nil {
		return err
	}
	l, err := subject.Render(subject.Node{
		ID: n.id, Spec: n.cluster.spec, DataDir: n.dataDir(), ConfDir: conf, Password: n.cluster.Password, TLS: certs,
		Addr: subject.Addresses{
			Client: n.ports.client.Addr, Cluster: n.ports.cluster.Addr, HTTP: n.ports.http.Addr, Monitor: n.ports.monitor.Addr,
			ClientAdvertise: n.ports.client.Addr, ClusterAdvertise: n.ports.cluster.Addr, Routes: routes,
		},
	})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", n.id, err)
	}
	n.args, n.env = l.Args, l.Env
	for _, f := range l.Files {
		if err := os.WriteFile(f.Path, f.Content, f.Mode); err != nil {
			return fmt.Errorf("prepare %s: %w", n.id, err)
		}
	}
	return nil
}

// ID is the node's name.
func (n *node) ID() cluster.NodeID { return n.id }

// Endpoints are on 127.0.0.1.
func (n *node) Endpoints() cluster.Endpoints {
	e := subject.Endpoints(n.cluster.spec.Subject.Kind, n.ports.client.Addr, n.ports.http.Addr, n.ports.monitor.Addr)
	e.Routes = n.ports.cluster.Addr
	return e
}

// State asks the kernel.
func (n *node) State(context.Context) (cluster.State, error) {
	n.mu.Lock()
	l := n.last
	n.mu.Unlock()
	if l == nil {
		return cluster.State{ExitCode: -1}, nil
	}
	if l.running() {
		p, err := lookAt(l.cmd.Process.Pid)
		if err == nil && !p.zombie {
			return cluster.State{Running: true, Paused: p.paused, PID: l.cmd.Process.Pid, StartTime: p.start, Started: l.started}, nil
		}
		if err != nil && !gone(err) && l.running() {
			return cluster.State{}, fmt.Errorf("look at %s: %w", n.id, err)
		}
		<-l.done // it is dead: reaping takes no time
	}
	return cluster.State{Started: l.started, ExitCode: l.exit}, nil
}

// Start starts the daemon. A port that somebody else has taken meanwhile is an error here, and not a riddle in the daemon's log.
func (n *node) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return fmt.Errorf("start %s: the cluster is closed", n.id)
	case n.last.running():
		return fmt.Errorf("start %s: %w", n.id, cluster.ErrRunning)
	}
	if err := n.ports.free(); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	l, err := n.start()
	if err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	n.last = l
	return nil
}

func (n *node) start() (*life, error) {
	log, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, secretMode)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	cmd := exec.Command(n.program(), n.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	cmd.Env = append([]string{"HOME=" + n.dir, "PATH=/usr/bin:/bin", "TMPDIR=" + n.dir}, n.env...)
	cmd.SysProcAttr = attributes()
	l := &life{cmd: cmd, started: time.Now(), done: make(chan struct{})}
	if err := n.cluster.backend.starter.start(cmd); err != nil {
		return nil, err
	}
	if err := n.cluster.home.note(n.id, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill() // it was just started
		_ = cmd.Wait()
		return nil, err
	}
	go l.reap()
	return l, nil
}

func (l *life) reap() {
	_ = l.cmd.Wait() // how it ended is in ProcessState
	l.exit = l.cmd.ProcessState.ExitCode()
	if ws, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		l.exit = 128 + int(ws.Signal())
	}
	close(l.done)
}

// Signal returns when the kernel has carried it out; SIGTERM and SIGHUP are only sent.
func (n *node) Signal(ctx context.Context, sig syscall.Signal) error {
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGCONT, syscall.SIGHUP:
	default:
		return fmt.Errorf("signal %s: %v is none of SIGKILL, SIGTERM, SIGSTOP, SIGCONT, SIGHUP", n.id, sig)
	}
	n.mu.Lock()
	l := n.last
	n.mu.Unlock()
	if !l.running() {
		return fmt.Errorf("signal %s: %w", n.id, cluster.ErrNotRunning)
	}
	if err := l.cmd.Process.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
			err = cluster.ErrNotRunning
		}
		return fmt.Errorf("signal %s: %w", n.id, err)
	}
	if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, signalBound)
	defer cancel()
	if err := l.await(ctx, sig); err != nil {
		return fmt.Errorf("wait until %v has taken effect on %s: %w", sig, n.id, err)
	}
	return nil
}

func (l *life) await(ctx context.Context, sig syscall.Signal) error {
	t := time.NewTicker(signalPoll)
	defer t.Stop()
	for {
		if sig != syscall.SIGKILL {
			p, err := lookAt(l.cmd.Process.Pid)
			if err == nil && p.stopped == (sig == syscall.SIGSTOP) && p.paused == p.stopped {
				return nil
			}
		}
		select {
		case <-l.done:
			if sig == syscall.SIGKILL {
				return nil
			}
			return cluster.ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// WaitExit returns when the process is reaped.
func (n *node) WaitExit(ctx context.Context) error {
	n.mu.Lock()
	l := n.last
	n.mu.Unlock()
	if l == nil {
		return nil
	}
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until %s has ended: %w", n.id, ctx.Err())
	}
}

// end kills the daemon for good and waits for its end, for as long as endBound: a process in an uninterruptible call outlives SIGKILL.
func (n *node) end() error {
	n.mu.Lock()
	n.closed = true
	l := n.last
	n.mu.Unlock()
	if l == nil {
		return nil
	}
	_ = l.cmd.Process.Kill() // an error means that it is dead already
	t := time.NewTimer(endBound)
	defer t.Stop()
	select {
	case <-l.done:
		return nil
	case <-t.C:
		return fmt.Errorf("%s has not ended %v after SIGKILL", n.id, endBound)
	}
}

// Logs is the log file as it is now.
func (n *node) Logs(context.Context) (io.ReadCloser, error) {
	f, err := os.Open(n.logPath())
	if gone(err) {
		return io.NopCloser(eof{}), nil // never started
	}
	if err != nil {
		return nil, fmt.Errorf("read log of %s: %w", n.id, err)
	}
	return f, nil
}

// eof is an empty log.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
