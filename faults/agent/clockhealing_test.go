//go:build linux && amd64

package agent_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// skewed is how far ahead the daemon's clock is, in seconds.
const skewed = 3600

// skewingAgent is an agent in a process of its own, beside a daemon whose clock it has moved ahead.
func skewingAgent(t *testing.T, suffix string) (*proc, *told) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := daemonName(suffix)
	p := &proc{cmd: exec.Command(self), log: &lockedBuffer{}}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+roleAgent, daemonEnv+"="+name)
	p.cmd.Stderr = p.log
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	p.client, p.stdin = newClient(in, out), in
	daemon := tellTime(t, name)
	if err := p.call(agent.MethodClock, agent.ClockParams{OffsetSeconds: skewed}, nil); err != nil {
		var e *agent.Error
		if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
			t.Skip(e.Text)
		}
		t.Fatal(err)
	}
	daemon.until(t, skewed)
	return p, daemon
}

// TestClockHealsByItself is TestEveryNetworkFaultHealsByItself for the clock: what moves it is in the daemon's own memory, and no end of those who put it
// there leaves it wrong. As long as somebody renews it is not healed.
func TestClockHealsByItself(t *testing.T) {
	signal := func(s syscall.Signal) func(*proc) error {
		return func(a *proc) error { return a.cmd.Process.Signal(s) }
	}
	for _, tc := range []struct {
		name, suffix string
		do           func(*proc) error
	}{
		{"SIGKILL of faultd", "ck", signal(syscall.SIGKILL)},
		{"freeze of faultd", "cf", signal(syscall.SIGSTOP)},
		{"SIGTERM of faultd, as docker stop sends it", "ct", signal(syscall.SIGTERM)},
		{"end of the harness", "ce", func(a *proc) error { return a.stdin.Close() }},
		{"freeze of the harness", "ch", func(*proc) error { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a, daemon := skewingAgent(t, tc.suffix)
			for began := time.Now(); time.Since(began) < agent.Lease+time.Second; { // kept for longer than one lease
				if err := a.call(agent.MethodRenew, nil, nil); err != nil {
					t.Fatal(err)
				}
				daemon.until(t, skewed)
			}
			began := time.Now()
			if err := tc.do(a); err != nil {
				t.Fatal(err)
			}
			daemon.until(t, 0)
			took := time.Since(began)
			if took > healedWithin+slack {
				t.Errorf("the clock was right again only after %v", took)
			}
			t.Logf("the clock was right again %v after the %s", took.Round(time.Millisecond), tc.name)
		})
	}
}

// TestFrozenAgentBringsNoClockBack: what was sent to an agent while it was frozen for longer than a lease comes too late.
func TestFrozenAgentBringsNoClockBack(t *testing.T) {
	t.Parallel()
	a, daemon := skewingAgent(t, "cz")
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	queued, err := a.send(agent.MethodRenew, nil)
	if err != nil {
		t.Fatal(err)
	}
	daemon.until(t, 0)
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := await(queued, nil); err != nil {
		t.Fatal(err)
	}
	staysRight(t, a.client, daemon)
}
