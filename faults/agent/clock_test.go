//go:build linux && amd64

package agent_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// told is a process that tells its clocks.
type told struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	right time.Duration // what its clock said when its monotonic one said zero, before anything was done to it
}

func tellTime(t *testing.T, name string) *told {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := t.TempDir() + "/" + name
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleClock)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &told{cmd: cmd, lines: bufio.NewScanner(out)}
	p.right, _ = p.next(t)
	return p
}

// next returns by how much the process' clock is ahead, by its own monotonic clock, and that one.
func (p *told) next(t *testing.T) (ahead, monotonic time.Duration) {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatalf("the process is gone: %v", p.lines.Err())
	}
	var fields [2]time.Duration
	for i, f := range strings.Fields(p.lines.Text()) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		fields[i] = time.Duration(n)
	}
	return fields[0] - fields[1] - p.right, fields[1]
}

// until reads on until the clock is ahead by about want.
func (p *told) until(t *testing.T, want int64) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		ahead, _ := p.next(t)
		if (ahead - time.Duration(want)*time.Second).Abs() < time.Second {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the clock is %v ahead, want %d s", ahead, want)
		}
	}
}

// A running static Go program believes another time at once, in both directions; its monotonic clock goes on as before; and it is right
// again after healing, and when nobody renews the lease.
func TestClockOfARunningProcess(t *testing.T) {
	t.Parallel()
	name := daemonName("clk")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := tellTime(t, name)
	for _, offset := range []int64{3600, -3600, 86400} {
		var r agent.ClockResult
		if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: offset}, &r); err != nil {
			var e *agent.Error
			if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
				t.Skip(e.Text)
			}
			t.Fatal(err)
		}
		if !r.Applied || r.OffsetSeconds != offset {
			t.Errorf("%+v", r)
		}
		_, before := p.next(t)
		p.until(t, offset)
		if _, after := p.next(t); after < before || after-before > 10*time.Second {
			t.Errorf("the monotonic clock went from %v to %v", before, after)
		}
	}
	if err := c.call(agent.MethodClock, agent.ClockParams{}, nil); err != nil {
		t.Fatal(err)
	}
	p.until(t, 0)
	if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: 500}, nil); err != nil {
		t.Fatal(err)
	}
	p.until(t, 500)
	p.until(t, 0) // nobody renews
	var r agent.ClockResult
	if err := c.call(agent.MethodClockRead, nil, &r); err != nil || r.Applied {
		t.Errorf("after the lease: %+v, %v", r, err)
	}
}

// The next life of the daemon has the wrong clock too, from the next renewal on.
func TestClockFollowsTheDaemon(t *testing.T) {
	t.Parallel()
	name := daemonName("clf")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := tellTime(t, name)
	if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: 1000}, nil); err != nil {
		var e *agent.Error
		if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
			t.Skip(e.Text)
		}
		t.Fatal(err)
	}
	p.until(t, 1000)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if err := c.call(agent.MethodRenew, nil, nil); err != nil {
		t.Fatalf("renew while the daemon is down: %v", err)
	}
	next := tellTime(t, name)
	if err := c.call(agent.MethodRenew, nil, nil); err != nil {
		t.Fatal(err)
	}
	next.until(t, 1000)
}

// mustClock asks for a wrong clock, and leaves the test out where there can be none.
func mustClock(t *testing.T, c *client, p agent.ClockParams) {
	t.Helper()
	err := c.call(agent.MethodClock, p, nil)
	var e *agent.Error
	if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
		t.Skip(e.Text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A strobe goes through its four quarters, in their order, and is at none of them for longer than it lasts.
func TestClockStrobes(t *testing.T) {
	t.Parallel()
	name := daemonName("cls")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := tellTime(t, name)
	const period = 200 * time.Millisecond
	mustClock(t, c, agent.ClockParams{SwingMS: 7000, PeriodMS: period.Milliseconds()})
	_, began := p.next(t)
	var turns []int
	since := began
	for {
		ahead, now := p.next(t)
		q := int((ahead + 14*time.Second + time.Second/2) / time.Second) // 7, 14 or 21
		if n := len(turns); n == 0 || turns[n-1] != q {
			turns, since = append(turns, q), now
		}
		if now-since > 2*period {
			t.Fatalf("the clock is %v ahead for more than %v", ahead, now-since)
		}
		if now-began > 10*period {
			break
		}
	}
	if len(turns) < 9 {
		t.Errorf("%d turns in ten periods: %v", len(turns), turns)
	}
	for i, q := range turns {
		if q != 7 && q != 14 && q != 21 || i > 1 && (turns[i-1] == 14) == (q == 14) || i > 1 && q != 14 && q == turns[i-2] {
			t.Fatalf("turn %d of %v", i, turns)
		}
	}
	mustClock(t, c, agent.ClockParams{})
	for began := since; ; {
		ahead, now := p.next(t)
		if ahead.Abs() < time.Second/10 && now-began < period {
			continue
		} else if ahead.Abs() > time.Second/10 {
			began = now
		} else if now-began > 5*period {
			break
		}
	}
}

// A clock that drifts is wrong by what the model says, fast or slow; an offset comes on top.
func TestClockDrifts(t *testing.T) {
	t.Parallel()
	name := daemonName("cld")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := tellTime(t, name)
	for _, want := range []agent.ClockParams{{DriftPPM: 500_000}, {DriftPPM: -250_000}, {DriftPPM: 100_000, OffsetSeconds: 100}} {
		mustClock(t, c, want)
		_, asked := p.next(t)
		a0, m0 := p.next(t)
		for a, m := a0, m0; m-asked < 1500*time.Millisecond; a, m = p.next(t) {
			if model := a0 + want.Ahead(m-m0) - want.Ahead(0); (a - model).Abs() > 20*time.Millisecond {
				t.Fatalf("%+v: %v later the clock is %v ahead, want %v", want, m-m0, a, model)
			}
		}
		if off := a0 - want.Ahead(0); off.Abs() > 2*time.Second {
			t.Errorf("%+v: at its begin the clock was %v ahead", want, a0)
		}
	}
}

// With the agent killed, or frozen, a clock of any shape is right again after the lease, and stays so.
func TestClockHealsWithoutAnAgent(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			daemon := daemonName("c" + name[:1])
			a, c := agentProcess(t, daemon)
			p := tellTime(t, daemon)
			mustClock(t, c, agent.ClockParams{OffsetSeconds: 1000, DriftPPM: 100_000, SwingMS: 7000, PeriodMS: 100})
			for {
				if ahead, _ := p.next(t); ahead > 900*time.Second {
					break
				}
			}
			if err := a.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_, at := p.next(t)
			last := at
			for {
				ahead, now := p.next(t)
				if ahead.Abs() > 20*time.Millisecond {
					last = now
				}
				if now-at > 2*agent.Lease {
					break
				}
			}
			if last-at > agent.Lease {
				t.Errorf("wrong until %v after the agent's end, want %v", last-at, agent.Lease)
			}
		})
	}
}

// agentProcess is an agent in a process of its own.
func agentProcess(t *testing.T, daemon string) (*exec.Cmd, *client) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleAgent, daemonEnv+"="+daemon)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, newClient(in, out)
}

func TestClockBounds(t *testing.T) {
	c := inProcess(t, &agent.Server{Daemon: []string{daemonName("none")}})
	for _, p := range []agent.ClockParams{
		{OffsetSeconds: 1 << 40}, {OffsetSeconds: -1 << 40}, {DriftPPM: 1_000_001}, {DriftPPM: -1_000_001}, {SwingMS: 5}, {PeriodMS: 5}, {SwingMS: -1, PeriodMS: 5},
	} {
		var e *agent.Error
		if err := c.call(agent.MethodClock, p, nil); !errors.As(err, &e) || e.Code != agent.CodeBadRequest {
			t.Errorf("%+v: %v", p, err)
		}
	}
	var e *agent.Error
	if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: 5}, nil); !errors.As(err, &e) || e.Code != agent.CodeNotRunning {
		t.Errorf("without a daemon: %v", err)
	}
}
