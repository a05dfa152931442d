//go:build linux && amd64

package agent_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// busy starts a daemon that never stops working, in a control group of its own.
func busy(t *testing.T, name string) *told {
	t.Helper()
	p := tellTime(t, name, busyEnv+"=1")
	p.confine(t, name)
	go func() { // a process whose pipe is full is not busy
		for p.lines.Scan() {
		}
	}()
	return p
}

// confine moves the process into a control group that is made for it.
func (p *told) confine(t *testing.T, name string) {
	t.Helper()
	confined(t, "cpu", name, p.cmd)
}

func readCPU(t *testing.T, c *client) (r agent.CPUResult) {
	t.Helper()
	if err := c.call(agent.MethodCPURead, nil, &r); err != nil {
		var e *agent.Error
		if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
			t.Skip(e.Text)
		}
		t.Fatal(err)
	}
	return r
}

// A limit is in the kernel and the daemon runs into it; lifting it leaves nothing; and the daemon's next life has it from the next renewal on.
func TestShareOfTheProcessor(t *testing.T) {
	t.Parallel()
	const share = 0.05
	name := daemonName("cpu")
	c := inProcess(t, &agent.Server{Daemon: []string{name}, Cgroups: groupsDir})
	p := busy(t, name)
	if r := readCPU(t, c); r.Limit != 0 {
		t.Fatalf("before: %+v", r)
	}
	var r agent.CPUResult
	if err := c.call(agent.MethodCPU, agent.CPUParams{Processors: share}, &r); err != nil {
		t.Fatal(err)
	}
	if r.Limit != share || r.Remaining <= 0 {
		t.Errorf("right after: %+v", r)
	}
	keepRenewed(t, c)
	before := r.Throttled
	eventually(t, callBound, "the daemon is stopped for it", func() bool { return readCPU(t, c).Throttled > before })
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if r := readCPU(t, c); r.Limit != 0 {
		t.Errorf("of no process: %+v", r)
	}
	if err := c.call(agent.MethodRenew, nil, nil); err != nil {
		t.Fatalf("renew while the daemon is down: %v", err)
	}
	busy(t, name)
	if err := c.call(agent.MethodRenew, nil, nil); err != nil {
		t.Fatal(err)
	}
	if r := readCPU(t, c); r.Limit != share {
		t.Errorf("in the next life: %+v", r)
	}
	if err := c.call(agent.MethodCPU, agent.CPUParams{}, &r); err != nil || r.Limit != 0 {
		t.Errorf("after it was lifted: %+v, %v", r, err)
	}
}

// The agent lifts a limit that nobody renews, and at the end of its stream.
func TestShareOfTheProcessorHealsByItself(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*client) error
	}{
		{"end of the harness", func(c *client) error { return c.in.(io.Closer).Close() }},
		{"freeze of the harness", func(*client) error { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			name := daemonName("c" + tc.name[:2])
			watch := inProcess(t, &agent.Server{Daemon: []string{name}, Cgroups: groupsDir})
			busy(t, name)
			readCPU(t, watch)
			c := inProcess(t, &agent.Server{Daemon: []string{name}, Cgroups: groupsDir})
			if err := c.call(agent.MethodCPU, agent.CPUParams{Processors: 0.5}, nil); err != nil {
				t.Fatal(err)
			}
			if r := readCPU(t, watch); r.Limit != 0.5 {
				t.Fatalf("it is not in force: %+v", r)
			}
			if err := tc.do(c); err != nil {
				t.Fatal(err)
			}
			took := eventually(t, healedWithin+slack, "the limit is gone", func() bool { return readCPU(t, watch).Limit == 0 })
			t.Logf("gone after %v", took.Round(time.Millisecond))
		})
	}
}

func TestShareOfTheProcessorIsRefused(t *testing.T) {
	name := daemonName("cpx")
	c := inProcess(t, &agent.Server{Daemon: []string{name}, Cgroups: groupsDir})
	none := inProcess(t, &agent.Server{Daemon: []string{name}})
	var e *agent.Error
	for _, n := range []float64{-1, 0.001, 1e9} {
		if err := c.call(agent.MethodCPU, agent.CPUParams{Processors: n}, nil); !errors.As(err, &e) || e.Code != agent.CodeBadRequest {
			t.Errorf("%v: %v", n, err)
		}
	}
	if err := c.call(agent.MethodCPU, agent.CPUParams{Processors: 1}, nil); !errors.As(err, &e) || e.Code != agent.CodeNotRunning {
		t.Errorf("without a daemon: %v", err)
	}
	daemonProcess(t, name) // in the control group of the test, as the agent is
	if err := c.call(agent.MethodCPU, agent.CPUParams{Processors: 1}, nil); !errors.As(err, &e) || e.Code != agent.CodeUnsupported {
		t.Errorf("in the agent's own group: %v", err)
	}
	if err := none.call(agent.MethodCPU, agent.CPUParams{Processors: 1}, nil); !errors.As(err, &e) || e.Code != agent.CodeUnsupported {
		t.Errorf("without control groups: %v", err)
	}
}
