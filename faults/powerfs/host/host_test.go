//go:build linux

package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

var binary string

func TestMain(m *testing.M) {
	if os.Getenv(writerEnv) != "" {
		os.Exit(writer(os.Getenv(writerEnv)))
	}
	os.Exit(run(m))
}

// run builds the command that serves the mounts: the tests use it as the harness does.
func run(m *testing.M) int {
	if host.Unavailable() != "" {
		return m.Run() // each test says so
	}
	dir, err := os.MkdirTemp("", "powerfs-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "powerfs")
	build := exec.Command("go", "build", "-o", binary, "../../../cmd/powerfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

func mount(t *testing.T, entries cluster.EntryMode) *host.Disk {
	t.Helper()
	if why := host.Unavailable(); why != "" {
		t.Skip(why)
	}
	d, err := host.Start(t.Context(), host.Options{Binary: binary, Dir: t.TempDir(), Entries: entries, UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// noDaemon is the end of a daemon that there is none of.
func noDaemon(context.Context) error { return nil }

func cut(t *testing.T, d *host.Disk, keep int) cluster.Dropped {
	t.Helper()
	rec, err := d.Cut(t.Context(), cluster.PowerLoss{Seed: 11, KeepPercent: keep}, noDaemon)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// tree reads a directory: contents and permissions by path.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d links ", info.Sys().(*syscall.Stat_t).Nlink) + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what += " -> " + to
		}
		out[rel] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// errnos makes the errors of two file systems comparable.
func errnos(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return fmt.Sprint(err)
}

// operation is a random one; it draws the same from equal generators.
func operation(rng *rand.Rand, root string) (string, error) {
	names := []string{"a", "b", "c", "d/a", "d/b", "d/e/a", "d", "d/e", "f"}
	p := filepath.Join(root, names[rng.IntN(len(names))])
	q := filepath.Join(root, names[rng.IntN(len(names))])
	length, off, fill, size := rng.IntN(20000), rng.Int64N(30000), byte(rng.IntN(256)), rng.Int64N(40000)
	switch op := rng.IntN(9); op {
	case 0:
		return "mkdir", os.Mkdir(p, 0o750)
	case 1:
		return "remove", os.Remove(p)
	case 2:
		return "rename", os.Rename(p, q)
	case 3:
		return "link", os.Link(p, q)
	case 4:
		return "symlink", os.Symlink("somewhere", p)
	case 5:
		return "truncate", os.Truncate(p, size)
	case 6:
		return "append", onFile(p, os.O_APPEND|os.O_CREATE|os.O_WRONLY, func(f *os.File) error {
			_, err := f.Write(bytes.Repeat([]byte{fill}, length))
			return err
		})
	case 7:
		return "chmod", os.Chmod(p, fs.FileMode(0o600|rng.IntN(0o100)))
	default:
		return "write", onFile(p, os.O_CREATE|os.O_RDWR, func(f *os.File) error {
			_, err := f.WriteAt(bytes.Repeat([]byte{fill}, length), off)
			return err
		})
	}
}

func onFile(p string, flags int, do func(*os.File) error) error {
	f, err := os.OpenFile(p, flags, 0o640)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// syncAll makes everything durable, the way a careful program does.
func syncAll(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return onFile(p, os.O_RDONLY, (*os.File).Sync)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The kernel's own file system is the judge of what operations do, and of what is there after everything was synced and the power failed.
func TestAgainstKernel(t *testing.T) {
	d := mount(t, cluster.EntriesStrict)
	kernel := t.TempDir()
	mine, theirs := rand.New(rand.NewPCG(5, 6)), rand.New(rand.NewPCG(5, 6))
	for round := range 4 {
		done := map[string]int{}
		for i := range 400 {
			what, got := operation(mine, d.Dir())
			_, want := operation(theirs, kernel)
			if errnos(got) != errnos(want) {
				t.Fatalf("round %d, operation %d, %s: %v, the kernel says %v", round, i, what, got, want)
			}
			if got == nil {
				done[what]++
			}
		}
		if len(done) < 8 {
			t.Errorf("only %v were done", done)
		}
		want := tree(t, kernel)
		compare(t, "seen", tree(t, d.Dir()), want)
		syncAll(t, d.Dir())
		if rec := cut(t, d, 0); rec.DroppedPages+rec.DroppedEntries+rec.LostFiles > 0 {
			t.Errorf("everything was synced, and this was lost: %+v", rec)
		}
		compare(t, "after the power failure", tree(t, d.Dir()), want)
	}
}

func compare(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for p := range want {
		if got[p] != want[p] {
			t.Fatalf("%s: %s is %.60q, the kernel has %.60q", what, p, got[p], want[p])
		}
	}
	t.Fatalf("%s: there is %v, the kernel has %v", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
}

// A database is the second opinion: one that syncs loses nothing, one that does not loses something.
func TestDatabase(t *testing.T) {
	const commits = 40
	for _, careless := range []bool{false, true} {
		t.Run(fmt.Sprintf("without fsync %v", careless), func(t *testing.T) {
			d := mount(t, cluster.EntriesJournaled)
			file := filepath.Join(d.Dir(), "db")
			fill(t, file, 0, 10, false)
			fill(t, file, 10, commits, careless)
			rec := cut(t, d, 40)
			left, err := rows(file)
			t.Logf("%d of %d rows are left (%v); %d of %d pages were dropped", left, commits, err, rec.DroppedPages, rec.PendingPages)
			if !careless && (err != nil || left != commits) {
				t.Errorf("a database that syncs has lost %d of %d commits: %v", commits-left, commits, err)
			}
			if careless && err == nil && left == commits {
				t.Error("a database that does not sync has lost nothing")
			}
		})
	}
}

func fill(t *testing.T, file string, from, to int, careless bool) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{NoSync: careless, NoGrowSync: careless, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("rows"))
			if err != nil {
				return err
			}
			return b.Put(fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte{byte(i)}, 3000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// rows counts what the database gives back; a damaged one may crash its reader.
func rows(file string) (n int, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("the database is damaged: %v", x)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		for e := range tx.Check() {
			return e
		}
		b := tx.Bucket([]byte("rows"))
		if b == nil {
			return nil
		}
		return b.ForEach(func(_, v []byte) error {
			if len(v) == 3000 {
				n++
			}
			return nil
		})
	})
	return n, err
}

// writerEnv makes this test binary a process that appends to a file for ever and says so after each fsync.
const writerEnv = "UNIBUS_TEST_WRITER"

func writer(file string) int {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	for {
		if _, err := f.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
			return 2
		}
		if err := f.Sync(); err != nil {
			return 3
		}
		if _, err := os.Stdout.WriteString(".\n"); err != nil {
			return 4
		}
	}
}

// From the first moment of a power failure nothing reaches the disk, and a process in the middle of a write can be killed all the same: what it was told
// is durable is durable.
func TestProcessUnderPowerFailure(t *testing.T) {
	d := mount(t, cluster.EntriesJournaled)
	file := filepath.Join(d.Dir(), "log")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+file)
	var said bytes.Buffer
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun := make([]byte, 200) // a hundred syncs
	if _, err := io.ReadFull(out, begun); err != nil {
		t.Fatal(err)
	}
	rec, err := d.Cut(t.Context(), cluster.PowerLoss{Seed: 3}, func(context.Context) error {
		if err := cmd.Process.Kill(); err != nil {
			return err
		}
		_, _ = io.Copy(&said, out) // ends with the process
		_ = cmd.Wait()             // killed
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	synced := 100 + strings.Count(said.String(), ".")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Errorf("the process ended by itself: %v", cmd.ProcessState)
	}
	t.Logf("%d syncs answered, %d bytes left, %d dropped", synced, info.Size(), rec.DroppedBytes)
	if info.Size() < int64(100*synced) || info.Size() > int64(100*(synced+1)) {
		t.Errorf("%d bytes are left of %d synced appends of 100", info.Size(), synced)
	}
}

// If the daemon cannot be ended, the power has not failed.
func TestCutThatCannotEndTheDaemon(t *testing.T) {
	d := mount(t, cluster.EntriesStrict)
	if err := os.WriteFile(filepath.Join(d.Dir(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	undead := errors.New("undead")
	if _, err := d.Cut(t.Context(), cluster.PowerLoss{}, func(context.Context) error { return undead }); !errors.Is(err, undead) {
		t.Fatalf("cut: %v", err)
	}
	s, err := d.State(t.Context())
	if err != nil || s.Cuts != 0 || s.PendingEntries != 1 || s.PendingBytes != 1 {
		t.Errorf("state %+v, %v", s, err)
	}
	if b, err := os.ReadFile(filepath.Join(d.Dir(), "f")); err != nil || string(b) != "x" {
		t.Errorf("read %q, %v", b, err)
	}
}

// A server that is killed leaves a mount that answers nothing, for the sweep.
func TestSweep(t *testing.T) {
	if why := host.Unavailable(); why != "" {
		t.Skip(why)
	}
	parent := t.TempDir()
	dir, err := host.MakeDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--dir", dir)
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
	t.Cleanup(func() { _ = host.Detach(dir) })
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil { // it is mounted
		t.Fatal(err)
	}
	if n, err := host.Sweep(parent); err != nil || n != 0 {
		t.Errorf("swept %d living mounts, %v", n, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }() // not before: a server whose input ends unmounts
	_, _ = cmd.Process.Wait()         // killed
	late := time.After(30 * time.Second)
	for { // the server dies with the process that watches it, a moment later
		_, err := os.ReadDir(dir)
		if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, fs.ErrNotExist) { // or somebody else's sweep was faster
			break
		}
		select {
		case <-late:
			t.Fatalf("a mount without a server: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, err := host.Sweep(parent); err != nil { // somebody else's sweep may have been faster
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mount point is still there: %v", err)
	}
}

// The server ends with its input: nothing outlives a harness that dies.
func TestServerEndsWithItsInput(t *testing.T) {
	d := mount(t, cluster.EntriesStrict)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if es, err := os.ReadDir(d.Dir()); err != nil || len(es) > 0 {
		t.Errorf("the directory is still a mount: %v, %v", es, err)
	}
	if _, err := d.State(t.Context()); !errors.Is(err, host.ErrGone) {
		t.Errorf("state of a closed file system: %v", err)
	}
}

func TestStartFailures(t *testing.T) {
	if why := host.Unavailable(); why != "" {
		t.Skip(why)
	}
	for what, o := range map[string]host.Options{
		"no directory": {Binary: binary, Dir: filepath.Join(t.TempDir(), "none")},
		"no binary":    {Binary: filepath.Join(t.TempDir(), "none"), Dir: t.TempDir()},
		"a bad mode":   {Binary: binary, Dir: t.TempDir(), Entries: "lossless"},
	} {
		if d, err := host.Start(t.Context(), o); err == nil {
			_ = d.Close()
			t.Errorf("%s: it has started", what)
		}
	}
}

// Each kind of fault, seen through the kernel, and gone when it is cleared.
func TestFaultsThroughTheKernel(t *testing.T) {
	d := mount(t, cluster.EntriesJournaled)
	n := host.Faulty{Disk: d}
	root, err := os.OpenRoot(d.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	well := cluster.DiskProbe{}
	for _, c := range []struct {
		fault cluster.DiskFault
		want  cluster.DiskProbe // errors, and the least times
	}{
		{cluster.DiskFault{Kind: cluster.DiskFull}, cluster.DiskProbe{WriteError: "ENOSPC"}},
		{cluster.DiskFault{Kind: cluster.DiskSyncError}, cluster.DiskProbe{SyncError: "EIO"}},
		{cluster.DiskFault{Kind: cluster.DiskWriteError}, cluster.DiskProbe{WriteError: "EIO"}},
		{cluster.DiskFault{Kind: cluster.DiskReadError}, cluster.DiskProbe{ReadError: "EIO"}},
		{cluster.DiskFault{Kind: cluster.DiskSlowSync, DelayMS: 900}, cluster.DiskProbe{SyncMS: 900}},
		{cluster.DiskFault{Kind: cluster.DiskSlowRead, DelayMS: 900}, cluster.DiskProbe{ReadMS: 900}},
		{cluster.DiskFault{Kind: cluster.DiskLyingSync}, well},
	} {
		c.fault.ID = "f"
		if err := n.SetDiskFault(t.Context(), c.fault); err != nil {
			t.Fatal(err)
		}
		got, err := datadir.Probe(root, "")
		if err != nil {
			t.Fatalf("%s: %v", c.fault.Kind, err)
		}
		if got.WriteError != c.want.WriteError || got.SyncError != c.want.SyncError || got.ReadError != c.want.ReadError || got.SyncMS < c.want.SyncMS || got.ReadMS < c.want.ReadMS {
			t.Errorf("%s: measured %+v, want %+v", c.fault.Kind, got, c.want)
		}
		if fs, err := n.DiskFaults(t.Context()); err != nil || len(fs) != 1 || fs[0].Hit == 0 {
			t.Errorf("%s: in force %+v, %v", c.fault.Kind, fs, err)
		}
		for range 2 {
			if err := n.ClearDiskFault(t.Context(), "f"); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := datadir.Probe(root, ""); err != nil || got.WriteError+got.SyncError+got.ReadError != "" || got.SyncMS > 800 || got.ReadMS > 800 {
			t.Errorf("after %s: %+v, %v", c.fault.Kind, got, err)
		}
	}
	if err := n.SetDiskFault(t.Context(), cluster.DiskFault{ID: "f", Kind: "melted"}); err == nil {
		t.Error("a fault that there is none of is accepted")
	}
	if err := (host.Faulty{}).RenewDiskFaults(t.Context()); !errors.Is(err, host.ErrNoDisk) {
		t.Errorf("faults of an ordinary disk: %v", err)
	}
}

// A server that is frozen is let go on before those who use the file system wait for longer than a lease; nothing is lost.
func TestFrozenServerIsContinued(t *testing.T) {
	dir := t.TempDir()
	if why := host.Unavailable(); why != "" {
		t.Skip(why)
	}
	d, err := host.Start(t.Context(), host.Options{Binary: binary, Dir: dir, UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	server := serverOf(t, dir)
	began := time.Now()
	if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const late = 20 * time.Second
	longest := time.Duration(0)
	for longest < time.Second/2 && time.Since(began) < late { // a signal is only on its way when kill returns
		write := time.Now()
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			t.Errorf("write: %v", err)
		}
		longest = time.Since(write)
	}
	if took := time.Since(began); took < time.Second || took > late {
		t.Errorf("it stood still for %v, %v after it was frozen", longest, took)
	}
	pidfd, err := unix.PidfdOpen(server, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until it is gone the kernel may still hand it a request, and answers EIO itself when the dying server cannot take it.
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 60_000)
	}
	if n != 1 || err != nil {
		t.Fatalf("the end of the killed server: %d, %v", n, err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "f")); !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("a file whose server was killed: %v", err)
	}
}

// serverOf finds the process that serves a mount: the one that was told to, and not the one that watches it.
func serverOf(t *testing.T, dir string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		b, err := os.ReadFile(l)
		if err != nil || !bytes.Contains(b, []byte("--serve\x00")) || !bytes.Contains(b, []byte(dir+"\x00")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(l, "/proc/%d/cmdline", &pid); err == nil {
			return pid
		}
	}
	t.Fatal("no process serves the mount")
	return 0
}
