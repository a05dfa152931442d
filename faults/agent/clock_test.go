//go:build linux && amd64

package agent_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// told is a process that tells its clocks.
type told struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
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
	p := &told{cmd, bufio.NewScanner(out)}
	p.next(t)
	return p
}

// next returns by how many seconds the process' clock is ahead, and its monotonic clock.
func (p *told) next(t *testing.T) (ahead, monotonic int64) {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatalf("the process is gone: %v", p.lines.Err())
	}
	var fields [2]int64
	for i, f := range strings.Fields(p.lines.Text()) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		fields[i] = n
	}
	return fields[0] - time.Now().Unix(), fields[1]
}

// until reads on until the clock is ahead by about want.
func (p *told) until(t *testing.T, want int64) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		ahead, _ := p.next(t)
		if ahead >= want-2 && ahead <= want+2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the clock is %d s ahead, want %d", ahead, want)
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
		if _, after := p.next(t); after < before || after-before > 10_000 {
			t.Errorf("the monotonic clock went from %d to %d ms", before, after)
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

func TestClockBounds(t *testing.T) {
	c := inProcess(t, &agent.Server{Daemon: []string{daemonName("none")}})
	for _, offset := range []int64{1 << 40, -1 << 40} {
		var e *agent.Error
		if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: offset}, nil); !errors.As(err, &e) || e.Code != agent.CodeBadRequest {
			t.Errorf("%d: %v", offset, err)
		}
	}
	var e *agent.Error
	if err := c.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: 5}, nil); !errors.As(err, &e) || e.Code != agent.CodeNotRunning {
		t.Errorf("without a daemon: %v", err)
	}
}
