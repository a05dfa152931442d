package docker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	"github.com/unibus/unibus/sut/subject"
)

// bound is far above what anything here takes on a loaded machine.
const bound = 2 * time.Minute

// engine is a second client, to see what is there and to break things behind the backend's back.
func engine(t *testing.T) *testcontainers.DockerClient {
	t.Helper()
	cli, err := testcontainers.NewDockerClientWithOpts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// things lists what carries a run's label: containers, networks, volumes.
func things(t *testing.T, run string) []string {
	t.Helper()
	cli := engine(t)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	f := make(client.Filters).Add("label", "io.unibus.run="+run)
	cs, err1 := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
	ns, err2 := cli.NetworkList(ctx, client.NetworkListOptions{Filters: f})
	vs, err3 := cli.VolumeList(ctx, client.VolumeListOptions{Filters: f})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range cs.Items {
		all = append(all, "container "+strings.Join(c.Names, ","))
	}
	for _, n := range ns.Items {
		all = append(all, "network "+n.Name)
	}
	for _, v := range vs.Items {
		all = append(all, "volume "+v.Name)
	}
	slices.Sort(all)
	return all
}

// containerID finds one container of a run.
func containerID(t *testing.T, run, node, role string) string {
	t.Helper()
	f := make(client.Filters).Add("label", "io.unibus.run="+run, "io.unibus.node="+node, "io.unibus.role="+role)
	cs, err := engine(t).ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: f})
	if err != nil || len(cs.Items) != 1 {
		t.Fatalf("%s of %s: %d containers, %v", role, node, len(cs.Items), err)
	}
	return cs.Items[0].ID
}

// startTogether starts all nodes at once, as the scenarios do.
func startTogether(t *testing.T, c cluster.Cluster) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range c.Nodes() {
		wg.Go(func() {
			if err := n.Start(t.Context()); err != nil {
				t.Errorf("start %s: %v", n.ID(), err)
			}
		})
	}
	wg.Wait()
}

func TestUpAndDown(t *testing.T) {
	d, plain := backend(t)
	own, err := subject.Resolve(t.Context(), "membershipd", subject.Options{GOOS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []cluster.Subject{plain, own} {
		t.Run(sub.String(), func(t *testing.T) { upAndDown(t, d, sub) })
	}
	if n := len(d.Images()); n != 4 {
		t.Errorf("%d images, want those of holder, agent and two daemons: %v", n, d.Images())
	}
}

func upAndDown(t *testing.T, d *docker.Backend, sub cluster.Subject) {
	began := time.Now()
	c, err := d.NewCluster(t.Context(), cluster.Spec{RunID: "test-time", Name: "t", Subject: sub, AdminKey: adminKey})
	if err != nil {
		t.Fatal(err)
	}
	pods := time.Since(began)
	startTogether(t, c)
	started := time.Since(began)
	for _, n := range c.Nodes() {
		awaitHealthy(t, n)
	}
	healthy := time.Since(began)
	began = time.Now()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("pods %v, started %v, healthy %v; gone in %v", pods, started, healthy, time.Since(began))
	if left := things(t, "test-time"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestEveryStateIsTrueRightAfterTheAct starts and kills without waiting in between.
func TestEveryStateIsTrueRightAfterTheAct(t *testing.T) {
	d, sub := backend(t)
	n := newCluster(t, d, sub, "test-state").Nodes()[0]
	if s := mustState(t, n); s.Running || s.ExitCode != -1 {
		t.Errorf("before the first start: %+v", s)
	}
	for range 3 {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := mustState(t, n); !s.Running || s.PID == 0 || s.StartTime == 0 {
			t.Errorf("right after the start: %+v", s)
		}
		if err := n.Start(t.Context()); !errors.Is(err, cluster.ErrRunning) {
			t.Errorf("second start: %v, want %v", err, cluster.ErrRunning)
		}
		began := time.Now()
		if err := n.Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		signalled := time.Since(began)
		if s := mustState(t, n); s.Running || s.ExitCode != 137 {
			t.Errorf("right after the kill: %+v", s)
		}
		seen := time.Since(began)
		if err := n.WaitExit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := mustState(t, n); s.Running || s.ExitCode != 137 {
			t.Errorf("once the engine knows: %+v", s)
		}
		t.Logf("killed in %v, seen after %v, the engine knows after %v", signalled, seen, time.Since(began))
	}
}

func TestAgentThatDies(t *testing.T) {
	d, sub := backend(t)
	const run = "test-agent"
	c := newCluster(t, d, sub, run)
	n := c.Nodes()[1]
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := n.(cluster.Agented).Agent()
	var hello agent.HelloResult
	if err := a.Call(t.Context(), agent.MethodHello, nil, &hello); err != nil || hello.PID <= 1 || hello.Kernel == "" {
		t.Errorf("hello: %+v, %v", hello, err)
	}
	var refused *agent.Error
	if err := a.Call(t.Context(), "no-such-method", nil, nil); !errors.As(err, &refused) || refused.Code != agent.CodeBadRequest {
		t.Errorf("unknown method: %v, want %s", err, agent.CodeBadRequest)
	}
	if _, err := engine(t).ContainerKill(t.Context(), containerID(t, run, "n2", "agent"), client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	began := time.Now()
	err := a.Call(ctx, agent.MethodHello, nil, nil)
	for err == nil && ctx.Err() == nil { // until the engine has closed the stream
		err = a.Call(ctx, agent.MethodHello, nil, nil)
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "agent is gone") {
		t.Errorf("a call to a dead agent: %v after %v", err, time.Since(began))
	}
	if err := n.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Errorf("a signal without the agent: %v", err)
	}
	if err := n.WaitExit(ctx); err != nil {
		t.Error(err)
	}
	if err := n.Signal(t.Context(), syscall.SIGKILL); !errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("a second kill: %v, want %v", err, cluster.ErrNotRunning)
	}
}

// TestFrozenAgentBlocksNobody fills the pipe to an agent that does not read.
func TestFrozenAgentBlocksNobody(t *testing.T) {
	d, sub := backend(t)
	const run = "test-frozen"
	c := newCluster(t, d, sub, run)
	if _, err := engine(t).ContainerKill(t.Context(), containerID(t, run, "n1", "agent"), client.ContainerKillOptions{Signal: "SIGSTOP"}); err != nil {
		t.Fatal(err)
	}
	a := c.Nodes()[0].(cluster.Agented).Agent()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if err := a.Call(ctx, agent.MethodDial, agent.DialParams{Address: strings.Repeat("x", 16<<10)}, nil); err == nil {
				t.Error("a frozen agent answered")
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > bound/4 {
		t.Errorf("the calls came back after %v; their bound was a second", took)
	}
}

func TestPublishedPorts(t *testing.T) {
	_, sub := backend(t)
	bin := binaries(t)
	d, err := docker.New(t.Context(), docker.Options{Holder: bin.holder, Agent: bin.agent, Publish: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	c := newCluster(t, d, sub, "test-publish")
	startTogether(t, c)
	for _, n := range c.Nodes() {
		if e := n.Endpoints(); !strings.HasPrefix(e.Client, "nats://127.0.0.1:") || !strings.HasPrefix(e.Monitor, "http://127.0.0.1:") {
			t.Errorf("endpoints of %s: %+v", n.ID(), e)
		}
		awaitHealthy(t, n)
	}
	was := c.Nodes()[2].Endpoints()
	if err := c.Nodes()[2].Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes()[2].WaitExit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes()[2].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t, c.Nodes()[2])
	if now := c.Nodes()[2].Endpoints(); now != was {
		t.Errorf("endpoints changed from %+v to %+v", was, now)
	}
}

type built struct{ holder, agent string }

func binaries(t *testing.T) built {
	t.Helper()
	agent, err1 := subject.Agent(t.Context(), subject.Options{})
	holder, err2 := subject.Holder(t.Context(), subject.Options{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return built{holder: holder, agent: agent}
}

// TestInterruptedClusterLeavesNothing cancels at different moments of the making.
func TestInterruptedClusterLeavesNothing(t *testing.T) {
	d, sub := backend(t)
	for i, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1100 * time.Millisecond} {
		run := fmt.Sprintf("test-cancel-%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		c, err := d.NewCluster(ctx, cluster.Spec{RunID: run, Name: "t", Subject: sub, AdminKey: adminKey})
		cancel()
		if err == nil { // it was fast
			if err := c.Close(ctx); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", after, err)
		}
		if left := things(t, run); len(left) > 0 {
			t.Errorf("after %v left behind: %v", after, left)
		}
	}
}

func TestSecondClusterOfTheSameName(t *testing.T) {
	d, sub := backend(t)
	c := newCluster(t, d, sub, "test-twice")
	_, err := d.NewCluster(t.Context(), cluster.Spec{RunID: "test-twice", Name: "t", Subject: sub, AdminKey: adminKey})
	if !errors.Is(err, docker.ErrNameTaken) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one sentence with %v", err, docker.ErrNameTaken)
	}
	startTogether(t, c) // the first one is whole
	for _, n := range c.Nodes() {
		awaitHealthy(t, n)
	}
}

// TestSecretsStayInTheNode runs the real daemon, which makes an identity of its own.
func TestSecretsStayInTheNode(t *testing.T) {
	d, _ := backend(t)
	sub, err := subject.Resolve(t.Context(), "membershipd", subject.Options{GOOS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, d, sub, "test-secrets")
	startTogether(t, c)
	n := c.Nodes()[0]
	awaitLive(t, n)
	dir := t.TempDir()
	if err := errors.Join(n.(cluster.Storage).CopyStore(t.Context(), filepath.Join(dir, "store")), c.Collect(t.Context(), filepath.Join(dir, "logs"))); err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err == nil && (subject.Secret(path) || len(b) == 59 && strings.HasPrefix(string(b), "SU")) {
			t.Errorf("%s was collected", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}

func awaitLive(t *testing.T, n cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if code, _, err := observe.Get(ctx, n.Endpoints().Live); err == nil && code == http.StatusOK {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is not alive", n.ID())
		case <-tick.C:
		}
	}
}

func TestNoEngineIsOneSentence(t *testing.T) {
	if os.Getenv(noEngineEnv) != "" {
		err := docker.Available(t.Context())
		if !errors.Is(err, docker.ErrNoEngine) || strings.Contains(strings.TrimSpace(err.Error()), "\n") {
			t.Errorf("got %v, want one sentence with %v", err, docker.ErrNoEngine)
		}
		return
	}
	// The place of the engine is looked up once per process.
	runAgain(t, "^TestNoEngineIsOneSentence$", noEngineEnv+"=1", "DOCKER_HOST=tcp://192.0.2.1:2375", "HOME="+t.TempDir())
	runAgain(t, "^TestNoEngineIsOneSentence$", noEngineEnv+"=1", "DOCKER_HOST=unix:///nonexistent/docker.sock", "HOME="+t.TempDir())
}
