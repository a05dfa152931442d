//go:build linux

package agent_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// roleEnv makes the test binary play another program.
const roleEnv = "FAULTS_AGENT_TEST_ROLE"

// busyEnv makes a process that plays a role busy.
const busyEnv = "FAULTS_AGENT_TEST_BUSY"

// daemonEnv is the name of the process that an agent played by the test binary takes for the daemon.
const daemonEnv = "FAULTS_AGENT_TEST_DAEMON"

const (
	roleAgent  = "agent"  // faultd itself
	roleClock  = "clock"  // a process that tells what its clocks say, until it is killed; with busyEnv it takes all of a processor meanwhile
	roleDaemon = "daemon" // a process that waits, and ends on SIGTERM
)

// callBound is far above what a call takes.
const callBound = 20 * time.Second

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleAgent:
		os.Exit(playAgent())
	case roleDaemon:
		os.Exit(playDaemon())
	case roleClock:
		playClock()
	case roleOpener:
		playOpener()
	}
	os.Exit(m.Run())
}

func playAgent() int {
	s := &agent.Server{Version: "test", Daemon: []string{cmp.Or(os.Getenv(daemonEnv), "no-such-daemon")}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) // as faultd does
	defer stop()
	if err := s.Serve(ctx, os.Stdin, os.Stdout); err != nil {
		return 1
	}
	return 0
}

func playDaemon() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	_, _ = os.Stdout.WriteString("up\n") // the handler is in place
	<-ctx.Done()
	return 0
}

// client speaks to an agent as the harness does.
type client struct {
	in io.Writer

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan agent.Response
	strays  chan agent.Response // answers to nobody, such as those to lines that are no requests
}

func newClient(in io.Writer, out io.Reader) *client {
	c := &client{in: in, waiting: map[uint64]chan agent.Response{}, strays: make(chan agent.Response, 100)}
	go c.read(out)
	return c
}

func (c *client) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r agent.Response
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			r = agent.Response{Error: &agent.Error{Text: "not JSON: " + lines.Text()}}
		}
		c.mu.Lock()
		w := c.waiting[r.ID]
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if w == nil {
			w = c.strays
		}
		w <- r
	}
}

func (c *client) send(method string, params any) (<-chan agent.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	line, err := json.Marshal(agent.Request{ID: c.next, Method: method, Params: params})
	if err != nil {
		return nil, err
	}
	w := make(chan agent.Response, 1)
	c.waiting[c.next] = w
	_, err = c.in.Write(append(line, '\n'))
	return w, err
}

func (c *client) call(method string, params, result any) error {
	w, err := c.send(method, params)
	if err != nil {
		return err
	}
	return await(w, result)
}

func await(w <-chan agent.Response, result any) error {
	select {
	case r := <-w:
		if err := r.Err(); err != nil || result == nil {
			return err
		}
		return json.Unmarshal(r.Result, result)
	case <-time.After(callBound):
		return errors.New("no answer")
	}
}

// inProcess serves a stream in this process.
func inProcess(t *testing.T, s *agent.Server) *client {
	t.Helper()
	reqR, reqW := io.Pipe()
	respR, respW := io.Pipe()
	s.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), reqR, respW) }()
	t.Cleanup(func() {
		_ = reqW.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = respW.Close()
	})
	return newClient(reqW, respR)
}

// daemonProcess starts a process that an agent takes for the daemon, under a name that nobody else has.
func daemonProcess(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := t.TempDir() + "/" + name // the kernel takes comm from the name that was executed
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleDaemon)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("the daemon said %q, %v", line, err)
	}
	return cmd
}

func daemonName(suffix string) string { return fmt.Sprintf("d%d%s", os.Getpid(), suffix) }

func TestBadInputIsAnsweredAndSurvived(t *testing.T) {
	c := inProcess(t, &agent.Server{Version: "v", Daemon: []string{daemonName("none")}})
	for _, line := range []string{
		"garbage", "{", `{"id":0}`, `[1,2]`, `{"id":0,"method":"fly"}`, `{"id":0,"method":"signal","params":{"signal":2}}`,
		`{"id":0,"method":"signal","params":{"sig":9}}`, `{"id":0,"method":"partition"}`, `{"id":0,"method":"dial","params":{"address":"nowhere"}}`,
		`{"id":0,"method":"partition","params":{"id":"x","peers":["::1"],"in":true}}`,
		`{"id":0,"method":"partition","params":{"id":"x","peers":["127.0.0.1"],"in":true}}`,
		`{"id":0,"method":"partition","params":{"id":"x","peers":[],"in":true}}`,
		`{"id":0,"method":"partition","params":{"id":"x","peers":["192.0.2.1"]}}`,
		`{"id":0,"method":"partition","params":{"id":"","peers":["192.0.2.1"],"in":true}}`,
		`{"id":0,"method":"usage"}`, `{"id":0,"method":"wipe"}`,
		`{"id":0,"method":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		if _, err := io.WriteString(c.in, line+"\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-c.strays:
			if r.Error == nil || r.Error.Code != agent.CodeBadRequest || r.Error.Text == "" {
				t.Errorf("%.80s: %+v", line, r)
			}
		case <-time.After(callBound):
			t.Fatalf("%.80s: no answer", line)
		}
	}
	var hello agent.HelloResult
	if err := c.call(agent.MethodHello, nil, &hello); err != nil || hello.Version != "v" || hello.PID != os.Getpid() ||
		hello.Kernel == "" || hello.Lease != agent.Lease.Seconds() {
		t.Errorf("hello: %+v, %v", hello, err)
	}
}

func TestDial(t *testing.T) {
	c := inProcess(t, &agent.Server{})
	addr, closed := listenAndReserve(t)
	var up, down agent.DialResult
	if err := c.call(agent.MethodDial, agent.DialParams{Address: addr}, &up); err != nil || !up.Connected || !up.Answered {
		t.Errorf("open port: %+v, %v", up, err)
	}
	if err := c.call(agent.MethodDial, agent.DialParams{Address: closed}, &down); err != nil || down.Connected || !down.Answered || down.Error == "" {
		t.Errorf("closed port: %+v, %v", down, err)
	}
}
