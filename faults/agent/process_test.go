//go:build linux

package agent_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/loopback"
)

// listenAndReserve returns an address that is listened on, and one that nobody will listen on.
func listenAndReserve(t *testing.T) (open, closed string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Release() })
	return l.Addr().String(), p.Addr
}

func signalled(t *testing.T, c *client, sig syscall.Signal) agent.ProcessResult {
	t.Helper()
	var p agent.ProcessResult
	if err := c.call(agent.MethodSignal, agent.SignalParams{Signal: int(sig)}, &p); err != nil {
		t.Fatalf("%v: %v", sig, err)
	}
	return p
}

func process(t *testing.T, c *client) agent.ProcessResult {
	t.Helper()
	var p agent.ProcessResult
	if err := c.call(agent.MethodProcess, nil, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSignalsAreVerified(t *testing.T) {
	name := daemonName("sig")
	c := inProcess(t, &agent.Server{Daemon: []string{"other", name}})
	if p := process(t, c); p.Running {
		t.Fatalf("before the start: %+v", p)
	}
	cmd := daemonProcess(t, name)
	first := process(t, c)
	if !first.Running || first.Paused || first.PID != cmd.Process.Pid || first.StartTime == 0 || first.Comm != name {
		t.Fatalf("running: %+v, want process %d", first, cmd.Process.Pid)
	}
	if p := signalled(t, c, syscall.SIGSTOP); !p.Paused || p.PID != first.PID || p.StartTime != first.StartTime {
		t.Errorf("after SIGSTOP: %+v", p)
	}
	if p := signalled(t, c, syscall.SIGCONT); p.Paused || !p.Running {
		t.Errorf("after SIGCONT: %+v", p)
	}
	if p := signalled(t, c, syscall.SIGKILL); p.Running { // a zombie until this test waits for it
		t.Errorf("after SIGKILL: %+v", p)
	}
	err := c.call(agent.MethodSignal, agent.SignalParams{Signal: int(syscall.SIGKILL)}, nil)
	if !errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("SIGKILL to a dead daemon: %v", err)
	}
}

func TestPausedDaemonCanBeKilled(t *testing.T) {
	name := daemonName("pk")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	daemonProcess(t, name)
	signalled(t, c, syscall.SIGSTOP)
	if p := signalled(t, c, syscall.SIGKILL); p.Running {
		t.Errorf("after SIGKILL: %+v", p)
	}
}

func TestTermIsOnlySent(t *testing.T) {
	name := daemonName("term")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	cmd := daemonProcess(t, name)
	if p := signalled(t, c, syscall.SIGTERM); p.PID != cmd.Process.Pid {
		t.Errorf("SIGTERM: %+v", p)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon did not end cleanly: %v", err)
	}
}

func TestLivesAreToldApart(t *testing.T) {
	name := daemonName("life")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	a := daemonProcess(t, name)
	first := process(t, c)
	signalled(t, c, syscall.SIGKILL)
	_ = a.Wait() // killed: the error says so
	daemonProcess(t, name)
	if second := process(t, c); !second.Running || second.PID == first.PID && second.StartTime == first.StartTime {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

func TestTwoDaemonsAreAnError(t *testing.T) {
	name := daemonName("two")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	daemonProcess(t, name)
	daemonProcess(t, name)
	if err := c.call(agent.MethodSignal, agent.SignalParams{Signal: int(syscall.SIGKILL)}, nil); err == nil || errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("signal with two daemons: %v", err)
	}
}

func TestAgentIsNeverTheDaemon(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := inProcess(t, &agent.Server{Daemon: []string{filepath.Base(self)}})
	var p agent.ProcessResult
	if err := c.call(agent.MethodProcess, nil, &p); err == nil && p.PID == os.Getpid() {
		t.Errorf("the agent found itself: %+v", p)
	}
}

// filled makes a data directory with three files, an empty folder and links that lead out of it.
func filled(t *testing.T) (dir, outside string) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "data"), filepath.Join(base, "outside")
	for _, d := range []string{filepath.Join(dir, "jetstream", "a"), filepath.Join(dir, "empty"), outside} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{dir + "/x", dir + "/jetstream/y", dir + "/jetstream/a/z", outside + "/precious"} {
		if err := os.WriteFile(f, []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []string{dir + "/link", dir + "/jetstream/link"} {
		if err := os.Symlink(outside, l); err != nil {
			t.Fatal(err)
		}
	}
	return dir, outside
}

func TestWipe(t *testing.T) {
	name := daemonName("wipe")
	dir, outside := filled(t)
	c := inProcess(t, &agent.Server{Daemon: []string{name}, DataDir: dir})
	want := cluster.Usage{Files: 3, Bytes: 15}
	var u cluster.Usage
	if err := c.call(agent.MethodUsage, nil, &u); err != nil || u != want {
		t.Errorf("usage: %+v, %v", u, err)
	}
	daemonProcess(t, name)
	if err := c.call(agent.MethodWipe, nil, nil); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("wipe while the daemon runs: %v", err)
	}
	signalled(t, c, syscall.SIGSTOP) // a paused daemon runs too
	if err := c.call(agent.MethodWipe, nil, nil); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("wipe while the daemon is paused: %v", err)
	}
	signalled(t, c, syscall.SIGKILL)
	if err := c.call(agent.MethodWipe, nil, &u); err != nil || u != want {
		t.Errorf("wipe: %+v, %v", u, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(outside + "/precious"); err != nil {
		t.Errorf("the wipe followed a link: %v", err)
	}
	if err := c.call(agent.MethodUsage, nil, &u); err != nil || u != (cluster.Usage{}) {
		t.Errorf("usage after the wipe: %+v, %v", u, err)
	}
}

func TestUnusableDataDirectoryIsRefused(t *testing.T) {
	dir, _ := filled(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", "/", "relative", link, dir + "/x", dir + "/missing", "//"} {
		c := inProcess(t, &agent.Server{Daemon: []string{daemonName("none")}, DataDir: d})
		for _, m := range []string{agent.MethodUsage, agent.MethodWipe} {
			if err := c.call(m, nil, nil); err == nil {
				t.Errorf("%s of %q: no error", m, d)
			}
		}
	}
	if _, err := os.Stat(dir + "/x"); err != nil {
		t.Error(err)
	}
}

// A heal that was sent after a partition, or a SIGCONT after a SIGSTOP, must not overtake it.
func TestSignalsKeepTheirOrder(t *testing.T) {
	name := daemonName("ord")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	daemonProcess(t, name)
	for range 20 {
		stop, err := c.send(agent.MethodSignal, agent.SignalParams{Signal: int(syscall.SIGSTOP)})
		if err != nil {
			t.Fatal(err)
		}
		cont, err := c.send(agent.MethodSignal, agent.SignalParams{Signal: int(syscall.SIGCONT)})
		if err != nil {
			t.Fatal(err)
		}
		var p agent.ProcessResult
		if err := errors.Join(await(stop, nil), await(cont, &p)); err != nil || p.Paused {
			t.Fatalf("after SIGSTOP and SIGCONT: %+v, %v", p, err)
		}
	}
}

func eventually(t testing.TB, within time.Duration, what string, f func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// kernelClock asks the kernel itself, which nobody has told another time.
func kernelClock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// playClock tells, every 20 ms, the nanoseconds since 1970 and of the kernel's monotonic clock, while other threads ask for the time as well.
func playClock() {
	for range 4 {
		go func() {
			for range time.Tick(100 * time.Microsecond) {
				_ = time.Now()
			}
		}()
	}
	if os.Getenv(busyEnv) != "" {
		go func() {
			for { //nolint:staticcheck // all that it can get
			}
		}()
	}
	began, base := time.Now(), kernelClock(unix.CLOCK_MONOTONIC)
	for range time.Tick(20 * time.Millisecond) {
		now := time.Now() // both clocks
		_, _ = fmt.Fprintln(os.Stdout, now.UnixNano(), (base + now.Sub(began)).Nanoseconds())
	}
}
