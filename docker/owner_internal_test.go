package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/iotest"
	"time"
)

func TestDeadOnlyWhenCertain(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a process is told from its number's next user by /proc")
	}
	me, err := self()
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	with := func(change map[string]string) map[string]string {
		l := me.labels()
		maps.Copy(l, change)
		return l
	}
	for name, c := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"this process":          {with(nil), false},
		"another life":          {with(map[string]string{labelStart: "1"}), true},
		"ended":                 {with(map[string]string{labelPID: strconv.Itoa(ended.Process.Pid), labelStart: "1"}), true},
		"zombie":                {with(map[string]string{labelPID: strconv.Itoa(zombie(t)), labelStart: "1"}), true},
		"before the last boot":  {with(map[string]string{labelBoot: "00000000-0000-0000-0000-000000000000"}), true},
		"another host":          {with(map[string]string{labelHost: "elsewhere", labelStart: "1"}), false},
		"no number":             {with(map[string]string{labelPID: "x"}), false},
		"somebody else's thing": {map[string]string{"a": "b"}, false},
	} {
		if got := dead(c.labels, me.host); got != c.want {
			t.Errorf("%s: dead is %v, want %v", name, got, c.want)
		}
	}
}

// zombie is a child that has ended and is not reaped before the test's end.
func zombie(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for startTime(cmd.Process.Pid) != "" {
		select {
		case <-ctx.Done():
			t.Fatal("the child process does not end")
		case <-tick.C:
		}
	}
	return cmd.Process.Pid
}

func archiveOf(t *testing.T, names ...string) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o600, Size: 1, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestUntarLeavesSecretsOut(t *testing.T) {
	dir := t.TempDir()
	if err := untar(archiveOf(t, "data/jetstream/1.blk", "data/internal.nk", "data/cluster.pass"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "jetstream", "1.blk")); err != nil {
		t.Error(err)
	}
	for _, secret := range []string{"internal.nk", "cluster.pass"} {
		if _, err := os.Stat(filepath.Join(dir, secret)); err == nil {
			t.Errorf("%s left the node", secret)
		}
	}
}

func TestUntarStaysInItsFolder(t *testing.T) {
	parent := t.TempDir()
	_ = untar(archiveOf(t, "data/../../escaped", "../escaped"), filepath.Join(parent, "dir")) // an error or nothing, but no file outside
	if _, err := os.Stat(filepath.Join(parent, "escaped")); err == nil {
		t.Error("a file was written outside of the folder")
	}
}

func TestUntarNoticesBrokenArchives(t *testing.T) {
	whole := archiveOf(t, "data/a", "data/b").Bytes() // two blocks for each file, two for the end
	for _, size := range []int{0, 512, 700, 1024, 1536, 2048, 2560} {
		if err := untar(bytes.NewReader(whole[:size]), filepath.Join(t.TempDir(), "dir")); err == nil {
			t.Errorf("the first %d of %d bytes were taken for a whole archive", size, len(whole))
		}
	}
	for name, r := range map[string]io.Reader{"plain": bytes.NewReader(whole), "with its end in the last read": iotest.DataErrReader(bytes.NewReader(whole))} {
		if err := untar(r, filepath.Join(t.TempDir(), "dir")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
