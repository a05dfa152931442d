//go:build linux

package agent_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// roleOpener is a process that opens a file and closes it again, all the time, and says how that went.
const roleOpener = "opener"

func playOpener() {
	for range time.Tick(10 * time.Millisecond) {
		f, err := os.Open(os.DevNull)
		if err != nil {
			_, _ = os.Stdout.WriteString("refused\n")
			continue
		}
		_ = f.Close()
		_, _ = os.Stdout.WriteString("opened\n")
	}
}

// groupsDir is where the control groups of the machine under the test are.
const groupsDir = "/sys/fs/cgroup"

// opener runs it.
type opener struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func openFiles(t *testing.T, name string) *opener {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleOpener)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	o := &opener{cmd: cmd, lines: bufio.NewScanner(out)}
	o.says(t, "opened")
	return o
}

// says waits until the process says that word three times in a row.
func (o *opener) says(t *testing.T, word string) {
	t.Helper()
	eventually(t, callBound, "the process says "+word, func() bool {
		for range 3 {
			if !o.lines.Scan() {
				t.Fatalf("the process is gone: %v", o.lines.Err())
			}
			if o.lines.Text() != word {
				return false
			}
		}
		return true
	})
}

// keepRenewed is a harness that is alive, until the test ends.
func keepRenewed(t *testing.T, c *client) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(agent.Lease / 8)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = c.call(agent.MethodRenew, nil, nil) // the test renews, too, and looks at what comes of it
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

func readCount(t *testing.T, c *client, what cluster.CountKind) (r agent.CountResult) {
	t.Helper()
	if err := c.call(agent.MethodCountRead, agent.CountParams{What: what}, &r); err != nil {
		var e *agent.Error
		if errors.As(err, &e) && e.Code == agent.CodeUnsupported {
			t.Skip(e.Text)
		}
		t.Fatal(err)
	}
	return r
}

// The process can open nothing more, its next life neither, and all is as before once the limit is lifted.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	name := daemonName("fds")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	p := openFiles(t, name)
	before := readCount(t, c, cluster.Descriptors)
	if before.Exhausted || before.Free == 0 || before.Used == 0 {
		t.Fatalf("before: %+v", before)
	}
	exhaust := agent.CountParams{What: cluster.Descriptors, Exhaust: true}
	var r agent.CountResult
	if err := c.call(agent.MethodCount, exhaust, &r); err != nil {
		t.Fatal(err)
	}
	if !r.Exhausted || r.Limit >= before.Limit {
		t.Errorf("right after: %+v", r)
	}
	keepRenewed(t, c)
	p.says(t, "refused")
	eventually(t, callBound, "nothing is free", func() bool { return readCount(t, c, cluster.Descriptors).Free == 0 })
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if r := readCount(t, c, cluster.Descriptors); !r.Ended || r.Exhausted || r.Used != 0 {
		t.Errorf("of no process: %+v", r)
	}
	next := openFiles(t, name)
	next.says(t, "refused")
	exhaust.Exhaust = false
	if err := c.call(agent.MethodCount, exhaust, &r); err != nil || r.Limit != before.Limit || r.Exhausted {
		t.Errorf("after it was lifted: %+v, %v", r, err)
	}
	next.says(t, "opened")
}

// The agent lifts a limit that nobody renews, and at the end of its stream.
func TestOutOfDescriptorsHealsByItself(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*client) error
	}{
		{"end of the harness", func(c *client) error { return c.in.(io.Closer).Close() }},
		{"freeze of the harness", func(*client) error { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			name := daemonName("h" + tc.name[:2])
			watch := inProcess(t, &agent.Server{Daemon: []string{name}})
			p := openFiles(t, name)
			before := readCount(t, watch, cluster.Descriptors)
			c := inProcess(t, &agent.Server{Daemon: []string{name}})
			if err := c.call(agent.MethodCount, agent.CountParams{What: cluster.Descriptors, Exhaust: true}, nil); err != nil {
				t.Fatal(err)
			}
			p.says(t, "refused")
			if err := tc.do(c); err != nil {
				t.Fatal(err)
			}
			took := eventually(t, healedWithin+slack, "the limit is gone", func() bool { return readCount(t, watch, cluster.Descriptors).Limit == before.Limit })
			p.says(t, "opened")
			t.Logf("gone after %v", took.Round(time.Millisecond))
		})
	}
}

// The control group takes no more threads, and as many as before once the limit is lifted.
func TestOutOfThreads(t *testing.T) {
	t.Parallel()
	name := daemonName("thr")
	c := inProcess(t, &agent.Server{Daemon: []string{name}, Cgroups: groupsDir})
	p := openFiles(t, name)
	group := confined(t, "pids", name, p.cmd)
	before := readCount(t, c, cluster.Threads)
	if before.Exhausted || before.Free == 0 || before.Used == 0 {
		t.Fatalf("before: %+v", before)
	}
	exhaust := agent.CountParams{What: cluster.Threads, Exhaust: true}
	var r agent.CountResult
	if err := c.call(agent.MethodCount, exhaust, &r); err != nil {
		t.Fatal(err)
	}
	if !r.Exhausted || r.Free != 0 || r.Limit != before.Used {
		t.Errorf("right after: %+v, before %+v", r, before)
	}
	keepRenewed(t, c)
	// A shell in the group wants a process of its own.
	sh := exec.Command("/bin/sh", "-c", "echo $$ > "+group+"/cgroup.procs; /bin/true || echo refused")
	if out, _ := sh.CombinedOutput(); readCount(t, c, cluster.Threads).Refused == 0 {
		t.Errorf("the kernel refused nothing: %s", out)
	}
	exhaust.Exhaust = false
	if err := c.call(agent.MethodCount, exhaust, &r); err != nil || r.Limit != before.Limit || r.Exhausted {
		t.Errorf("after it was lifted: %+v, %v", r, err)
	}
}

// confined moves a process into a control group that is made for it.
func confined(t *testing.T, controller, name string, cmd *exec.Cmd) (dir string) {
	t.Helper()
	dir = filepath.Join(groupsDir, controller)
	if _, err := os.Stat(filepath.Join(groupsDir, "cgroup.controllers")); err == nil {
		dir = groupsDir
	}
	dir = filepath.Join(dir, fmt.Sprintf("unibus-test-%s-%d", name, cmd.Process.Pid))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Skipf("a control group cannot be made here: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, callBound, "the control group can be removed", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Skipf("a process cannot be put into a control group here: %v", err)
	}
	return dir
}

func TestCountsAreRefused(t *testing.T) {
	name := daemonName("cnx")
	c := inProcess(t, &agent.Server{Daemon: []string{name}})
	var e *agent.Error
	if err := c.call(agent.MethodCount, agent.CountParams{What: "hats", Exhaust: true}, nil); !errors.As(err, &e) || e.Code != agent.CodeBadRequest {
		t.Errorf("of something else: %v", err)
	}
	for _, what := range []cluster.CountKind{cluster.Descriptors, cluster.Threads} {
		if err := c.call(agent.MethodCount, agent.CountParams{What: what, Exhaust: true}, nil); !errors.As(err, &e) || e.Code != agent.CodeNotRunning {
			t.Errorf("%s without a daemon: %v", what, err)
		}
	}
	daemonProcess(t, name)
	if err := c.call(agent.MethodCount, agent.CountParams{What: cluster.Threads, Exhaust: true}, nil); !errors.As(err, &e) || e.Code != agent.CodeUnsupported {
		t.Errorf("threads without control groups: %v", err)
	}
}
