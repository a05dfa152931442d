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

	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/faults/agent"
)

// told is a process that tells its clocks.
type told struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	right time.Duration // what its clock said when its monotonic one said zero, before anything was done to it
	first time.Duration // what its monotonic clock said first
}

func tellTime(t *testing.T, name string, env ...string) *told {
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
	cmd.Env = append(append(os.Environ(), roleEnv+"="+roleClock), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &told{cmd: cmd, lines: bufio.NewScanner(out)}
	p.right, p.first = p.next(t)
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

// fresh is the next that is of a moment after the call: on a busy machine, what was said before is still in the pipe.
func (p *told) fresh(t *testing.T) (ahead, monotonic time.Duration) {
	t.Helper()
	called := kernelClock(unix.CLOCK_MONOTONIC)
	for {
		if ahead, monotonic = p.next(t); monotonic >= called {
			return ahead, monotonic
		}
	}
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
		_, before := p.fresh(t)
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
	if err := c.call(agent.MethodRenew, nil, nil); err != nil { // too late
		t.Fatal(err)
	}
	staysRight(t, c, p)
}

// staysRight fails the test when a clock whose lease has run out is wrong again, or the agent says so.
func staysRight(t *testing.T, c *client, p *told) {
	t.Helper()
	_, began := p.fresh(t)
	for {
		ahead, now := p.next(t)
		if ahead.Abs() > time.Second {
			t.Fatalf("a late renewal brought the fault back: the clock is %v ahead", ahead)
		}
		if now-began > time.Second {
			break
		}
	}
	var r agent.ClockResult
	if err := c.call(agent.MethodClockRead, nil, &r); err != nil || r != (agent.ClockResult{}) {
		t.Errorf("after a late renewal: %+v, %v", r, err)
	}
}

// The next life of the daemon has the wrong clock too, without anybody's word, but not one that begins when the lease is over.
func TestClockFollowsTheDaemon(t *testing.T) {
	t.Parallel()
	name := daemonName("clf")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := tellTime(t, name)
	mustClock(t, c, agent.ClockParams{OffsetSeconds: 1000})
	p.until(t, 1000)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if err := c.call(agent.MethodRenew, nil, nil); err != nil {
		t.Fatalf("renew while the daemon is down: %v", err)
	}
	next := tellTime(t, name)
	next.right = byOurs() // what it says first may be wrong already
	next.until(t, 1000)
	_ = next.cmd.Process.Kill()
	_ = next.cmd.Wait()
	<-time.After(agent.Lease + time.Second)
	last := tellTime(t, name)
	last.right = byOurs()
	for {
		ahead, now := last.next(t)
		if ahead.Abs() > time.Second {
			t.Fatalf("nobody renews, and the clock is %v ahead", ahead)
		}
		if now-last.first > time.Second {
			break
		}
	}
}

// byOurs is what the clock says when the monotonic one says zero, by the kernel, which is right.
func byOurs() time.Duration {
	return kernelClock(unix.CLOCK_REALTIME) - kernelClock(unix.CLOCK_MONOTONIC)
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
	_, began := p.fresh(t)
	turns, last, before, since := 0, 0, 0, began // last and before are 0 where they are not known
	seen := time.Duration(0)                     // without the times of which nothing was told
	for now := began; seen <= 10*period; {
		ahead, at := p.next(t)
		if at-now > period/2 { // the process did not run: there may have been a turn that it has not told
			last, before, since = 0, 0, at
		} else {
			seen += at - now
		}
		now = at
		switch q := int((ahead + 14*time.Second + time.Second/2) / time.Second); {
		case q != 7 && q != 14 && q != 21:
			t.Fatalf("the clock is %v ahead", ahead)
		case q == last && now-since > 2*period:
			t.Fatalf("the clock is %v ahead for more than %v", ahead, now-since)
		case q == last:
		case last != 0 && (last == 14) == (q == 14) || before != 0 && q != 14 && q == before:
			t.Fatalf("turn %d: from %d and %d to %d", turns, before, last, q)
		default:
			turns, last, before, since = turns+1, q, last, now
		}
		if now-began > 100*period {
			t.Fatalf("of a hundred periods the process has told %v", seen)
		}
	}
	if turns < 9 {
		t.Errorf("%d turns in ten periods", turns)
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
		a0, m0 := p.fresh(t)
		for a, m := a0, m0; m-m0 < 1500*time.Millisecond; a, m = p.next(t) {
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
			_, at := p.fresh(t)
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
