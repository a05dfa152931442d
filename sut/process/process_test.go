package process_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/process"
	"github.com/unibus/unibus/sut/subject"
)

const (
	// bound is far above what anything here takes on a loaded machine.
	bound = 2 * time.Minute
	poll  = 50 * time.Millisecond

	natsSubject = "nats-server@v2.15.2"
	messages    = 50
)

func plain(t *testing.T) cluster.Subject {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command on PATH to build nats-server with")
	}
	s, err := subject.Resolve(t.Context(), natsSubject, subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func backend(t *testing.T) (*process.Backend, string) {
	t.Helper()
	dir := t.TempDir()
	b := process.New(process.Options{Dir: dir})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the backend: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return b, dir
}

// identity is a client's key pair.
func identity(t *testing.T) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, pub
}

func newCluster(t *testing.T, b cluster.Backend, s cluster.Subject, adminKey string) cluster.Cluster {
	t.Helper()
	c, err := b.NewCluster(t.Context(), cluster.Spec{RunID: "test", Name: "c", Subject: s, AdminKey: adminKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, c)
		}
		if err := c.Close(context.Background()); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
	return c
}

func showLogs(t *testing.T, c cluster.Cluster) {
	for _, n := range c.Nodes() {
		r, err := n.Logs(context.Background())
		if err != nil {
			t.Logf("%s: %v", n.ID(), err)
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(r, 8<<10))
		_ = r.Close()
		t.Logf("%s:\n%s", n.ID(), b)
	}
}

func start(t *testing.T, ns ...cluster.Node) {
	t.Helper()
	for _, n := range ns {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits for a condition and fails with what it last said.
func until(t *testing.T, what string, ok func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func healthy(t *testing.T, ns ...cluster.Node) {
	t.Helper()
	for _, n := range ns {
		until(t, string(n.ID())+" healthy", func(ctx context.Context) error {
			code, body, err := observe.Get(ctx, n.Endpoints().Ready)
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("status %d: %s", code, body)
			}
			return err
		})
	}
}

func believed(c cluster.Cluster) func() (*x509.CertPool, error) {
	return func() (*x509.CertPool, error) { return pki.Pool(c.(cluster.Secured).Trust().Believed) }
}

// rekey gives a node that runs a certificate for clients from another authority. The new one is in force when a client that believes nobody else
// gets in. told signals the daemon; the other way is that it notices.
func rekey(t *testing.T, n cluster.Node, kp nkeys.KeyPair, told bool) {
	ca, err := pki.NewAuthority(pki.AuthorityRequest{Name: "another"})
	if err != nil {
		t.Fatal(err)
	}
	k := n.(cluster.Rekeyed)
	leaf, err := ca.Issue(pki.Request{Name: string(n.ID()), Hosts: k.Hosts(), Usage: pki.Server})
	if err != nil {
		t.Fatal(err)
	}
	before := state(t, n)
	if err := k.PutSecrets(t.Context(), map[string][]byte{cluster.FileClientCert: leaf.Cert, cluster.FileClientKey: leaf.Key}); err != nil {
		t.Fatal(err)
	}
	if told {
		signal(t, n, syscall.SIGHUP)
	}
	until(t, "a client that believes only the new authority", func(ctx context.Context) error {
		nc, err := client.Connect(ctx, client.Options{Servers: []string{n.Endpoints().Client}, Key: kp, RootCAs: ca.Pool()})
		if err == nil {
			nc.Close()
		}
		return err
	})
	if now := state(t, n); now.StartTime != before.StartTime {
		t.Errorf("the daemon was started again: %+v, before %+v", now, before)
	}
	if err := k.PutSecrets(t.Context(), map[string][]byte{"../data/x": nil}); err == nil {
		t.Error("a file of another name was written")
	}
}

func connect(t *testing.T, c cluster.Cluster, kp nkeys.KeyPair) jetstream.JetStream {
	t.Helper()
	var urls []string
	for _, n := range c.Nodes() {
		urls = append(urls, n.Endpoints().Client)
	}
	nc, err := client.Connect(t.Context(), client.Options{Servers: urls, Key: kp, Authorities: believed(c)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc.Conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// fill makes an R3 stream with messages in it.
func fill(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	until(t, "make a stream", func(ctx context.Context) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3})
		return err
	})
	for i := range messages {
		id := fmt.Sprint(i)
		until(t, "publish "+id, func(ctx context.Context) error {
			_, err := js.Publish(ctx, "s", []byte(id), jetstream.WithMsgID(id))
			return err
		})
	}
}

// holds waits until that node itself says that it has all messages.
func holds(t *testing.T, n cluster.Node) {
	t.Helper()
	until(t, string(n.ID())+" holds the stream", func(ctx context.Context) error {
		v := observe.Node(ctx, n)
		s := v.Stream("BUS/S")
		if v.Err != nil || s == nil || s.Msgs != messages {
			return fmt.Errorf("%+v, %w", s, errors.Join(v.Err))
		}
		return nil
	})
}

func state(t *testing.T, n cluster.Node) cluster.State {
	t.Helper()
	s, err := n.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signal(t *testing.T, n cluster.Node, sig syscall.Signal) {
	t.Helper()
	if err := n.Signal(t.Context(), sig); err != nil {
		t.Fatal(err)
	}
}

func waitExit(t *testing.T, n cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := n.WaitExit(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestClusterOfProcesses(t *testing.T) {
	b, _ := backend(t)
	kp, pub := identity(t)
	began := time.Now()
	c := newCluster(t, b, plain(t), pub)
	for _, n := range c.Nodes() {
		if s := state(t, n); s.Running || s.ExitCode != -1 {
			t.Errorf("before its start %s is %+v", n.ID(), s)
		}
	}
	start(t, c.Nodes()...)
	healthy(t, c.Nodes()...)
	t.Logf("three nodes are healthy after %v", time.Since(began).Round(time.Millisecond))
	fill(t, connect(t, c, kp))
	n2 := cluster.Find(c, "n2")
	t.Run("kill and restart", func(t *testing.T) { killAndRestart(t, n2) })
	t.Run("pause", func(t *testing.T) { pause(t, n2) })
	t.Run("another certificate", func(t *testing.T) { rekey(t, n2, kp, true) })
	t.Run("terminate, copy, wipe", func(t *testing.T) { wipe(t, n2) })
	t.Run("collect", func(t *testing.T) { collect(t, c) })
	began = time.Now()
	if err := errors.Join(c.Close(t.Context()), c.Close(t.Context())); err != nil {
		t.Errorf("close twice: %v", err)
	}
	t.Logf("closed in %v", time.Since(began).Round(time.Millisecond))
	if err := n2.Start(t.Context()); err == nil {
		t.Error("a node of a closed cluster could be started")
	}
}

func killAndRestart(t *testing.T, n cluster.Node) {
	before, urls := state(t, n), n.Endpoints()
	if !before.Running || before.Paused || before.PID == 0 || before.StartTime == 0 {
		t.Fatalf("running node: %+v", before)
	}
	if err := n.Start(t.Context()); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("second start: %v, want %v", err, cluster.ErrRunning)
	}
	signal(t, n, syscall.SIGKILL)
	if s := state(t, n); s.Running || s.ExitCode != 128+int(syscall.SIGKILL) {
		t.Errorf("killed node: %+v", s)
	}
	if err := n.Signal(t.Context(), syscall.SIGKILL); !errors.Is(err, cluster.ErrNotRunning) {
		t.Errorf("second kill: %v, want %v", err, cluster.ErrNotRunning)
	}
	waitExit(t, n)
	start(t, n)
	healthy(t, n)
	holds(t, n)
	after := state(t, n)
	if after.PID == before.PID && after.StartTime == before.StartTime || n.Endpoints() != urls {
		t.Errorf("restart: %+v at %+v after %+v at %+v", after, n.Endpoints(), before, urls)
	}
}

func pause(t *testing.T, n cluster.Node) {
	before := state(t, n)
	signal(t, n, syscall.SIGSTOP)
	paused := state(t, n)
	if !paused.Running || !paused.Paused || paused.StartTime != before.StartTime {
		t.Errorf("paused node: %+v", paused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := observe.Get(ctx, n.Endpoints().Ready); err == nil {
		t.Error("a paused node answered")
	}
	signal(t, n, syscall.SIGCONT)
	if s := state(t, n); s.Paused || s.StartTime != before.StartTime {
		t.Errorf("continued node: %+v", s)
	}
	healthy(t, n)
}

func wipe(t *testing.T, n cluster.Node) {
	st := n.(cluster.Storage)
	if _, err := st.Wipe(t.Context()); !errors.Is(err, cluster.ErrRunning) {
		t.Errorf("wipe of a running node: %v, want %v", err, cluster.ErrRunning)
	}
	signal(t, n, syscall.SIGTERM)
	waitExit(t, n)
	if s := state(t, n); s.Running || s.ExitCode == 128+int(syscall.SIGKILL) {
		t.Errorf("terminated node: %+v", s)
	}
	before, err := st.Usage(t.Context())
	if err != nil || before.Files == 0 || before.Bytes == 0 {
		t.Fatalf("usage %+v, %v", before, err)
	}
	dir := t.TempDir()
	if err := st.CopyStore(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if files, bytes := count(t, dir); files != before.Files || bytes != before.Bytes {
		t.Errorf("copied %d files, %d bytes of %+v", files, bytes, before)
	}
	wiped, err := st.Wipe(t.Context())
	if err != nil || wiped != before {
		t.Errorf("wipe: %+v, %v; want %+v", wiped, err, before)
	}
	if now, err := st.Usage(t.Context()); err != nil || now != (cluster.Usage{}) {
		t.Errorf("after the wipe: %+v, %v", now, err)
	}
	start(t, n)
	healthy(t, n)
	holds(t, n) // its peers give it everything back
}

func collect(t *testing.T, c cluster.Cluster) {
	dir := t.TempDir()
	if err := c.Collect(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		b, err := os.ReadFile(filepath.Join(dir, string(n.ID()), "daemon.log"))
		if err != nil || !strings.Contains(string(b), "Server is ready") {
			t.Errorf("log of %s: %d bytes, %v", n.ID(), len(b), err)
		}
	}
}

func count(t *testing.T, dir string) (files int, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			files, bytes = files+1, bytes+info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, bytes
}

func TestTakenPortIsOneClearError(t *testing.T) {
	b, _ := backend(t)
	_, pub := identity(t)
	c := newCluster(t, b, plain(t), pub)
	n := c.Nodes()[0]
	u, err := url.Parse(n.Endpoints().Client)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", u.Host)
	if err != nil {
		t.Fatalf("the reservation keeps the daemon itself out: %v", err)
	}
	if err := n.Start(t.Context()); !errors.Is(err, process.ErrPortTaken) || !strings.Contains(err.Error(), u.Host) {
		t.Errorf("got %v, want %v with the address", err, process.ErrPortTaken)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, n)
}

func TestClustersHaveDifferentPorts(t *testing.T) {
	b, _ := backend(t)
	_, pub := identity(t)
	s := plain(t)
	seen := map[string]bool{}
	for range 5 {
		for _, n := range newCluster(t, b, s, pub).Nodes() {
			e := n.Endpoints()
			for _, u := range []string{e.Client, e.Monitor} {
				if seen[u] {
					t.Errorf("%s was given out twice", u)
				}
				seen[u] = true
			}
		}
	}
}

func TestRefusedSpecsLeaveNothing(t *testing.T) {
	b, _ := backend(t) // its cleanup looks for what is left
	notThere := cluster.Subject{Kind: cluster.NATSServer, Version: "v2.15.2", Path: filepath.Join(t.TempDir(), "missing")}
	notProgram := notThere
	notProgram.Path = filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(notProgram.Path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, pub := identity(t)
	for name, spec := range map[string]cluster.Spec{
		"no run":      {Name: "c", Subject: notThere, AdminKey: pub},
		"no binary":   {RunID: "r", Name: "c", Subject: notThere, AdminKey: pub},
		"no program":  {RunID: "r", Name: "c", Subject: notProgram, AdminKey: pub},
		"no admin":    {RunID: "r", Name: "c", Subject: cluster.Subject{Kind: cluster.NATSServer, Version: "v2.15.2", Path: "/proc/self/exe"}},
		"no such one": {RunID: "r", Name: "c", Subject: cluster.Subject{Kind: "redis", Path: "/proc/self/exe"}, AdminKey: pub},
	} {
		if _, err := b.NewCluster(t.Context(), spec); err == nil {
			t.Errorf("%s: a cluster was made", name)
		}
	}
}

func TestCapabilities(t *testing.T) {
	b, _ := backend(t)
	caps := b.Capabilities()
	if b.Name() != "process" || caps.Missing(cluster.CapNetwork) == "" || caps.Missing(cluster.CapLifecycle) != "" || caps.Missing(cluster.CapStorage) != "" {
		t.Errorf("%s: %v", b.Name(), caps)
	}
}

// harness is what the child process of TestSweep says of itself.
type harness struct {
	PIDs []int `json:"pids"`
}

const harnessEnv = "UNIBUS_TEST_HARNESS_DIR"

// TestHarnessToKill is the child process of TestSweep: it starts a cluster and waits to be killed.
func TestHarnessToKill(t *testing.T) {
	dir := os.Getenv(harnessEnv)
	if dir == "" {
		t.Skip("TestSweep runs this as a child process")
	}
	b := process.New(process.Options{Dir: dir})
	_, pub := identity(t)
	c, err := b.NewCluster(t.Context(), cluster.Spec{RunID: "test", Name: "dead", Subject: plain(t), AdminKey: pub})
	if err != nil {
		t.Fatal(err)
	}
	start(t, c.Nodes()...)
	var h harness
	for _, n := range c.Nodes() {
		h.PIDs = append(h.PIDs, state(t, n).PID)
	}
	if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills this process, or dies itself
}

func TestSweep(t *testing.T) {
	b, dir := backend(t)
	_, pub := identity(t)
	living := newCluster(t, b, plain(t), pub)
	start(t, living.Nodes()[0])
	h := killedHarness(t, dir)
	if homes := homesIn(t, dir); len(homes) != 2 {
		t.Fatalf("before the sweep: %v", homes)
	}
	for _, pid := range h.PIDs { // the kernel has killed them with their harness
		until(t, "end of a daemon", func(context.Context) error {
			if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
	}
	rep, err := process.Sweep(t.Context(), dir)
	if err != nil || rep.Directories != 1 {
		t.Errorf("sweep: %+v, %v", rep, err)
	}
	if homes := homesIn(t, dir); len(homes) != 1 {
		t.Errorf("after the sweep: %v", homes)
	}
	if s := state(t, living.Nodes()[0]); !s.Running {
		t.Errorf("a living harness's node is %+v", s)
	}
	if rep, err := process.Sweep(t.Context(), dir); err != nil || rep != (process.Report{}) {
		t.Errorf("second sweep: %+v, %v", rep, err)
	}
}

// killedHarness starts a harness with a cluster and ends it with SIGKILL.
func killedHarness(t *testing.T, dir string) harness {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHarnessToKill$")
	cmd.Env = append(os.Environ(), harnessEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var h harness
	decodeErr := json.NewDecoder(out).Decode(&h)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if decodeErr != nil || len(h.PIDs) != 3 {
		t.Fatalf("the child process said %+v, %v", h, decodeErr)
	}
	return h
}

func homesIn(t *testing.T, dir string) []string {
	t.Helper()
	homes, err := filepath.Glob(filepath.Join(dir, "unibus-process-*"))
	if err != nil {
		t.Fatal(err)
	}
	return homes
}

// zombie: the daemon's new parent may not have reaped it yet.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

func TestMembershipdAsProcesses(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command on PATH to build membershipd with")
	}
	s, err := subject.Resolve(t.Context(), "membershipd", subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := backend(t)
	kp, pub := identity(t)
	began := time.Now()
	c := newCluster(t, b, s, pub)
	start(t, c.Nodes()...)
	healthy(t, c.Nodes()...)
	t.Logf("three nodes are ready after %v", time.Since(began).Round(time.Millisecond))
	n := c.Nodes()[0]
	rekey(t, n, kp, false)
	signal(t, n, syscall.SIGTERM)
	waitExit(t, n)
	if s := state(t, n); s.Running || s.ExitCode != 0 {
		t.Errorf("after SIGTERM: %+v, want exit code 0", s)
	}
	dir := t.TempDir()
	if err := n.(cluster.Storage).CopyStore(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if files, _ := count(t, dir); files == 0 {
		t.Error("the copied store is empty")
	}
	if seeds, err := filepath.Glob(filepath.Join(dir, "*.nk")); err != nil || len(seeds) > 0 {
		t.Errorf("secrets were copied: %v, %v", seeds, err)
	}
}
