package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/reports"
)

// Bounds of the tests that end a run in ways it did not ask for. They are far above what is seen; a wait ends when its condition holds.
const (
	badLuckStart = 8 * time.Minute // building what a run needs, on a cold cache and a busy machine
	badLuckEnd   = 60 * time.Second
	badLuckGone  = 2 * time.Minute // the engine vanishes: everything that talks to it has to notice by itself
	badLuckPoll  = 50 * time.Millisecond
	podThings    = 9 + 1 + 3 // containers, a network and volumes of a cluster of three
	sweptTries   = 3
)

// eventually polls until the condition holds.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(badLuckPoll)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}

// text is an output that is read while it grows.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// child is a run of the command with a cluster in containers.
type child struct {
	t      *testing.T
	e      *engine
	cmd    *exec.Cmd
	out    text
	err    text
	proofs string
	tmp    string
	ended  chan struct{}
}

// aRun starts a run of a scenario that takes long enough, and ends and removes whatever is left of it when the test is over.
func aRun(t *testing.T, e *engine, env ...string) *child {
	t.Helper()
	c := &child{t: t, e: e, proofs: t.TempDir(), tmp: t.TempDir(), ended: make(chan struct{})}
	c.cmd = exec.Command(binary(t), "run", "--scenario", "noop-faults", "--seed", "7", "--backend", "docker", "--out", c.proofs)
	c.cmd.Env = append(append(os.Environ(), "TMPDIR="+c.tmp), env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is read from its state
		close(c.ended)
	}()
	t.Cleanup(c.cleanUp)
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// cleanUp leaves nothing, whatever the test found.
func (c *child) cleanUp() {
	c.killAll()
	says := ""
	if c.e.things(c.t, c.pid()).count() > 0 {
		for _, id := range c.runIDs() {
			s := execute(c.t, ".", binary(c.t), nil, "sweep", "--run", id)
			if s.code != exitOK {
				c.t.Errorf("remove what run %s left: exit %d, %q", id, s.code, s.err)
			}
			says += s.out
		}
	}
	if left := c.e.things(c.t, c.pid()); left.count() > 0 {
		c.t.Errorf("still there after the test: %+v; the sweep said %q", left, says)
	}
	if c.t.Failed() {
		log, err := os.ReadFile(filepath.Join(c.proofs, "ginkgo.log"))
		c.t.Logf("standard output:\n%s\nstandard error:\n%s\nthe suite's log (%v):\n%s", c.out.String(), c.err.String(), err, log)
	}
}

var runID = regexp.MustCompile(`r\d{8}t\d{6}-\d+`)

// runIDs reads the run's id off the names of its volumes.
func (c *child) runIDs() (ids []string) {
	seen := map[string]bool{}
	for _, v := range c.e.things(c.t, c.pid()).volumes {
		if id := runID.FindString(v); id != "" && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// inContainers waits until the whole cluster is there.
func (c *child) inContainers() {
	c.t.Helper()
	eventually(c.t, badLuckStart, "a cluster in containers", func() bool {
		select {
		case <-c.ended:
			c.t.Fatalf("the run ended too early: %v", c.cmd.ProcessState)
		default:
		}
		return c.e.things(c.t, c.pid()).count() == podThings
	})
}

// atWork waits until the cluster has converged and the scenario does what it is about.
func (c *child) atWork() {
	c.t.Helper()
	c.inContainers()
	eventually(c.t, badLuckStart, "the scenario's first fault", func() bool { return strings.Contains(c.out.String(), "no-op of") })
}

// end waits until the command has ended.
func (c *child) end(within time.Duration) {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(within):
		c.t.Fatalf("the command has not ended after %v", within)
	}
}

// descendants lists the processes below one, itself excluded, from what the kernel says now.
func descendants(t *testing.T, root int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		s := string(b)
		f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil && f[0] != "Z" {
			children[parent] = append(children[parent], pid)
		}
	}
	for todo := children[root]; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		pids = append(pids, pid)
	}
	return pids
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
}

// killAll ends the command and everything that it started, with SIGKILL: as a machine does that runs out of memory.
func (c *child) killAll() {
	c.t.Helper()
	all := append([]int{c.pid()}, descendants(c.t, c.pid())...)
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	c.end(badLuckEnd)
	eventually(c.t, badLuckEnd, "the end of all processes", func() bool {
		for _, pid := range all {
			if alive(pid) {
				return false
			}
		}
		return true
	})
}

// nothingLeft holds that the engine, and the folder for temporary files, have nothing of the run.
func (c *child) nothingLeft() {
	c.t.Helper()
	if left := c.e.things(c.t, c.pid()); left.count() > 0 {
		c.t.Errorf("left behind: %+v", left)
	}
	c.noFolders()
}

func (c *child) noFolders() {
	c.t.Helper()
	if left, err := os.ReadDir(c.tmp); err != nil || len(left) > 0 {
		c.t.Errorf("the folder for temporary files holds %v (%v)", left, err)
	}
}

// evidenceKept holds that the bundle is complete, sound, and says why it shows nothing.
func (c *child) evidenceKept(why string) {
	c.t.Helper()
	rep, err := reports.Verify(filepath.Join(c.proofs, "noop-faults"))
	if err != nil {
		c.t.Errorf("the evidence of the run: %v: %v", err, rep.Problems)
		return
	}
	if rep.Status != reports.StatusInconclusive || !strings.Contains(rep.Why, why) {
		c.t.Errorf("the proof says %s: %s; want inconclusive, with %q", rep.Status, rep.Why, why)
	}
	if files, err := filepath.Glob(filepath.Join(c.proofs, "noop-faults", "logs", "*", "daemon.log")); err != nil || len(files) != 3 && why != engineGone {
		c.t.Errorf("logs of the daemons: %v (%v), want 3", files, err)
	}
}

// refused holds how the command itself ended.
func (c *child) refused(says string) {
	c.t.Helper()
	s := said{c.cmd.ProcessState.ExitCode(), c.out.String(), c.err.String()}
	if s.code != exitInconclusive || !strings.Contains(s.err, says) {
		c.t.Errorf("exit %d, want %d with %q: %q", s.code, exitInconclusive, says, s.err)
	}
	oneSentence(c.t, s)
}

func TestInterrupt(t *testing.T) {
	c := aRun(t, anEngine(t))
	c.atWork()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	c.end(badLuckEnd)
	c.refused("interrupted; the clusters are removed, the evidence so far is kept")
	c.nothingLeft()
	c.evidenceKept("interrupted")
}

// TestCommandKilled: the suite's processes outlive the command, notice, and clean up.
func TestCommandKilled(t *testing.T) {
	c := aRun(t, anEngine(t))
	c.atWork()
	suite := descendants(t, c.pid())
	t.Cleanup(func() {
		for _, pid := range suite {
			if alive(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL) // its parent is gone: killAll does not find it
			}
		}
	})
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.end(badLuckEnd)
	eventually(t, badLuckEnd, "the end of the suite's processes", func() bool {
		for _, pid := range suite {
			if alive(pid) {
				return false
			}
		}
		return true
	})
	if left := c.e.things(t, c.pid()); left.count() > 0 {
		t.Errorf("left behind: %+v", left)
	}
	c.evidenceKept("the command that started this run is gone")
	if s := execute(t, ".", binary(t), append(os.Environ(), "TMPDIR="+c.tmp), "sweep"); s.code != exitOK {
		t.Errorf("sweep: exit %d, %q", s.code, s.err)
	}
	c.noFolders()
}

// leftovers makes a run that was killed with everything that belongs to it. Another harness on this machine may sweep it away at once.
func leftovers(t *testing.T, e *engine) *child {
	t.Helper()
	for range sweptTries {
		c := aRun(t, e)
		c.inContainers()
		c.killAll()
		switch left := e.things(t, c.pid()); left.count() {
		case podThings:
			return c
		case 0:
			t.Log("somebody else's sweep was faster")
		default:
			t.Logf("half of it is left: %+v", left)
		}
	}
	t.Skip("somebody else's sweeps are always faster: this machine runs other harnesses")
	return nil
}

func TestEverythingKilled(t *testing.T) {
	e := anEngine(t)
	living := e.livingVolume(t)
	c := leftovers(t, e)
	sweep := execute(t, ".", binary(t), append(os.Environ(), "TMPDIR="+c.tmp), "sweep")
	if sweep.code != exitOK || !regexp.MustCompile(`removed \d+ containers, \d+ networks, \d+ volumes, 0 images, 1 folders`).MatchString(sweep.out) {
		t.Errorf("sweep: exit %d, %q, %q", sweep.code, sweep.out, sweep.err)
	}
	c.nothingLeft()
	if !e.hasVolume(t, living) {
		t.Error("the sweep removed what a living process owns")
	}
}

// TestNextRunSaysWhatItRemoved goes on with the next run until that says so, and is itself killed then.
func TestNextRunSaysWhatItRemoved(t *testing.T) {
	e := anEngine(t)
	dead := leftovers(t, e)
	next := aRun(t, e)
	eventually(t, badLuckStart, "the next run to have looked for leftovers", func() bool { return strings.Contains(next.out.String(), "seed 7") })
	next.killAll()
	if left := e.things(t, dead.pid()); left.count() > 0 {
		t.Errorf("after the start of the next run: %+v", left)
	}
	if !regexp.MustCompile(`removed what a dead run had left: \d+ containers, \d+ networks, \d+ volumes`).MatchString(next.out.String()) {
		t.Errorf("the next run says %q", next.out.String())
	}
}

// livingVolume makes a volume that this very process owns.
func (e *engine) livingVolume(t *testing.T) string {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	name := fmt.Sprintf("unibus-test-alive-%d", os.Getpid())
	start := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[19]
	e.call(t, http.MethodPost, "/volumes/create", map[string]any{"Name": name, "Labels": map[string]string{
		"io.unibus.chaos": "1", runOf: "test-alive", "io.unibus.owner.pid": strconv.Itoa(os.Getpid()), "io.unibus.owner.start": start,
		"io.unibus.owner.boot": strings.TrimSpace(string(boot)), "io.unibus.owner.host": host,
	}}, nil)
	t.Cleanup(func() { e.call(t, http.MethodDelete, "/volumes/"+name+"?force=1", nil, nil) })
	return name
}

func (e *engine) hasVolume(t *testing.T, name string) bool {
	t.Helper()
	var v struct{ Name string }
	e.call(t, http.MethodGet, "/volumes/"+name, nil, &v)
	return v.Name == name
}

// engineGone is in the reason of a proof whose engine vanished.
const engineGone = "harness itself failed"

// relay passes the engine's socket on until it is cut.
type relay struct {
	e *engine
	l net.Listener

	mu    sync.Mutex
	conns []io.Closer
	cut   bool
}

func newRelay(t *testing.T, e *engine) (*relay, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay-") // a test's own folder may be too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{e: e, l: l}
	t.Cleanup(func() { r.close(); _ = os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go r.pass(c)
		}
	}()
	return r, "unix://" + path
}

func (r *relay) pass(c net.Conn) {
	up, err := r.e.dial(context.Background())
	if err != nil {
		_ = c.Close()
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, c, up)
	cut := r.cut
	r.mu.Unlock()
	if cut {
		r.close()
	}
	var wg sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{c: up, up: c} {
		wg.Go(func() {
			_, _ = io.Copy(to, from) // ends with either side
			if h, ok := to.(interface{ CloseWrite() error }); ok {
				_ = h.CloseWrite() // the engine's streams are closed one way at a time
			}
		})
	}
	wg.Wait()
	_, _ = c.Close(), up.Close()
}

// close cuts every connection, and lets no more in.
func (r *relay) close() {
	_ = r.l.Close() // may be closed
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
	for _, c := range r.conns {
		_ = c.Close() // may be closed
	}
}

func TestEngineGoneInMidRun(t *testing.T) {
	e := anEngine(t)
	r, host := newRelay(t, e)
	c := aRun(t, e, "DOCKER_HOST="+host)
	c.atWork()
	r.close()
	began := time.Now()
	c.end(badLuckGone)
	t.Logf("ended %v after the engine: %s", time.Since(began).Round(time.Second), c.err.String())
	c.refused("run 'chaos sweep'")
	c.evidenceKept(engineGone)
	c.noFolders()
	if left := e.things(t, c.pid()); left.count() == 0 {
		t.Error("nothing was left behind: the engine was not gone")
	}
}

// TestSweepSilentEngine: an engine that takes connections and says nothing may have containers of ours, and a sweep that cannot ask has not swept.
func TestSweepSilentEngine(t *testing.T) {
	dir, err := os.MkdirTemp("", "silent-") // a test's own folder may be too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), os.RemoveAll(dir) }) // the kernel takes connections whether anybody accepts them or not
	s := execute(t, ".", binary(t), append(os.Environ(), "DOCKER_HOST=unix://"+l.Addr().String(), "TMPDIR="+t.TempDir()), "sweep")
	if s.code != exitUsage || s.out != "" || !strings.Contains(s.err, docker.ErrSilentEngine.Error()) {
		t.Errorf("exit %d, %q, %q; want %d and %q", s.code, s.out, s.err, exitUsage, docker.ErrSilentEngine)
	}
	oneSentence(t, s)
}
