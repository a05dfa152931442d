package docker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	"github.com/unibus/unibus/sut/subject"
)

// adminKey is a public key whose seed nobody has: these tests open no client connection.
const adminKey = "UAOEXEGERXGB6EJZF6GVSPIJVDQLNONK7FJGNNVBP67DIVUDSEPC4PFR"

const plainServer = "nats-server@v2.15.2"

func backend(t *testing.T) (*docker.Backend, cluster.Subject) {
	t.Helper()
	ctx := t.Context()
	if err := docker.Available(ctx); err != nil {
		t.Skipf("these tests need a Docker engine: %v", err)
	}
	sub, err := subject.Resolve(ctx, plainServer, subject.Options{GOOS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := subject.Agent(ctx, subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	holder, err := subject.Holder(ctx, subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := docker.New(ctx, docker.Options{Holder: holder, Agent: agent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, sub
}

// TestBackendsAtOnce is for the race detector: what testcontainers keeps once per process is set up once.
func TestBackendsAtOnce(t *testing.T) {
	if err := docker.Available(t.Context()); err != nil {
		t.Skipf("this test needs a Docker engine: %v", err)
	}
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if _, err := docker.Engine(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func newCluster(t *testing.T, d *docker.Backend, sub cluster.Subject, run string) cluster.Cluster {
	t.Helper()
	began := time.Now()
	c, err := d.NewCluster(t.Context(), cluster.Spec{RunID: run, Name: "t", Subject: sub, AdminKey: adminKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pods in %v", time.Since(began))
	t.Cleanup(func() {
		began := time.Now()
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		t.Logf("gone in %v", time.Since(began))
	})
	return c
}

func startAll(t *testing.T, c cluster.Cluster) {
	t.Helper()
	for _, n := range c.Nodes() {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func awaitHealthy(t *testing.T, n cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if code, _, err := observe.Get(ctx, n.Endpoints().Ready); err == nil && code == http.StatusOK {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is not healthy after a minute", n.ID())
		case <-tick.C:
		}
	}
}

func TestLifeOfACluster(t *testing.T) {
	d, sub := backend(t)
	c := newCluster(t, d, sub, "test-life")
	began := time.Now()
	startAll(t, c)
	for _, n := range c.Nodes() {
		awaitHealthy(t, n)
	}
	t.Logf("healthy %v after the first start", time.Since(began))
	n1 := c.Nodes()[0]
	before := mustState(t, n1)
	if !before.Running || before.PID == 0 || before.StartTime == 0 {
		t.Fatalf("a running node says %+v", before)
	}
	if err := n1.Start(t.Context()); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("starting a running node: %v, want ErrRunning", err)
	}

	t.Run("another certificate", func(t *testing.T) { rekey(t, n1) })
	t.Run("pause and continue", func(t *testing.T) {
		if err := n1.Signal(t.Context(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if s := mustState(t, n1); !s.Paused || !s.Running {
			t.Errorf("a paused node says %+v", s)
		}
		if err := n1.Signal(t.Context(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if s := mustState(t, n1); s.Paused || s.StartTime != before.StartTime {
			t.Errorf("a continued node says %+v, it was %+v", s, before)
		}
	})

	t.Run("kill and start again at the same address", func(t *testing.T) {
		was := n1.Endpoints()
		if err := n1.Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n1.WaitExit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := mustState(t, n1); s.Running || s.ExitCode != 137 {
			t.Errorf("a killed node says %+v, want exit code 137", s)
		}
		if err := n1.Signal(t.Context(), syscall.SIGKILL); !errors.Is(err, cluster.ErrNotRunning) {
			t.Errorf("killing a dead node: %v, want ErrNotRunning", err)
		}
		if err := n1.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitHealthy(t, n1)
		if now := n1.Endpoints(); now != was {
			t.Errorf("endpoints changed from %+v to %+v", was, now)
		}
		if s := mustState(t, n1); s.StartTime == before.StartTime {
			t.Error("the new life has the old one's start time")
		}
	})

	t.Run("copy and wipe the store", func(t *testing.T) { copyAndWipe(t, n1) })

	t.Run("isolate, in force and healed", func(t *testing.T) {
		var stages []string
		inj := &faults.Injector{Cluster: c, Report: func(stage string, f faults.Fault, o faults.Observation, took time.Duration) {
			stages = append(stages, stage)
			t.Logf("%s %s %v %s", stage, f.Name(), took, o.Detail)
		}}
		if err := inj.Run(t.Context(), faults.Isolate("n2"), func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(stages, " "); got != "absent decided in-force bystander still-on healing healed" {
			t.Errorf("stages: %s", got)
		}
	})

	t.Run("collect", func(t *testing.T) {
		dir := t.TempDir()
		if err := c.Collect(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "n1", "daemon.log"))
		if err != nil || !strings.Contains(string(b), "Server is ready") {
			t.Errorf("log of n1: %d bytes, %v", len(b), err)
		}
	})
}

func mustState(t *testing.T, n cluster.Node) cluster.State {
	t.Helper()
	s, err := n.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func copyAndWipe(t *testing.T, n cluster.Node) {
	t.Helper()
	st := n.(cluster.Storage)
	if _, err := st.Wipe(t.Context()); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("wiping a running node: %v, want ErrRunning", err)
	}
	if err := n.Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitExit(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := st.CopyStore(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
		t.Errorf("the copied store has no jetstream folder: %v", err)
	}
	was, err := st.Wipe(t.Context())
	if err != nil || was.Files == 0 {
		t.Fatalf("wipe found %+v, %v", was, err)
	}
	if now, err := st.Usage(t.Context()); err != nil || now.Files != 0 {
		t.Errorf("after the wipe: %+v, %v", now, err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t, n)
}

// Daemon and agent of a pod are made at the same time and share a new volume: making many pods at once must not fail.
func TestManyPodsAtOnce(t *testing.T) {
	d, sub := backend(t)
	const clusters = 6
	errs := make(chan error, clusters)
	for i := range clusters {
		go func() {
			c, err := d.NewCluster(t.Context(), cluster.Spec{RunID: "test-many", Name: fmt.Sprintf("c%d", i), Subject: sub, AdminKey: adminKey})
			if err == nil {
				err = c.Close(context.Background())
			}
			errs <- err
		}()
	}
	for range clusters {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
