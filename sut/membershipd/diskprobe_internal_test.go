package membershipd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

func TestDiskProbe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	p := newDiskProber(dir, slog.New(slog.DiscardHandler))
	if age, failed := p.facts(); age != health.Never || failed != "" {
		t.Errorf("before the first attempt: %v, %q", age, failed)
	}
	p.attempt()
	if age, failed := p.facts(); age != health.Never || !strings.Contains(failed, fs.ErrNotExist.Error()) && !strings.Contains(failed, "no such file") {
		t.Errorf("without a directory: %v, %q", age, failed)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.attempt()
	if age, failed := p.facts(); age < 0 || failed != "" {
		t.Errorf("with a directory: %v, %q", age, failed)
	}
	if info, err := os.Stat(p.path); err != nil || info.Size() != diskProbeBytes || info.Mode().Perm() != secretMode {
		t.Errorf("it wrote %v, %v", info, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.attempt()
	if age, failed := p.facts(); age < 0 || failed == "" {
		t.Errorf("after it was lost: %v, %q", age, failed)
	}
}

// A failed sync ends the daemon, a failed write does not; neither lets it start.
func TestDiskProbeDecides(t *testing.T) {
	for _, c := range []struct {
		err   error
		fatal bool
	}{{fmt.Errorf("write: %w", syscall.ENOSPC), false}, {fmt.Errorf("%w: %w", errSync, syscall.EIO), true}} {
		p := newDiskProber(t.TempDir(), slog.New(slog.DiscardHandler))
		p.failed.Store(&c.err)
		if err := p.lost(); errors.Is(err, ErrDiskLost) != c.fatal {
			t.Errorf("%v: %v", c.err, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		if p.wait(ctx) {
			t.Errorf("%v: it starts", c.err)
		}
		cancel()
		p.attempt()
		if err := p.lost(); err != nil || !p.wait(t.Context()) {
			t.Errorf("after a success: %v", err)
		}
	}
}

// The embedded server ends a Raft group and runs on; the daemon must not.
func TestEndedRaftGroupIsFatal(t *testing.T) {
	fatal := make(chan error, 1)
	l := &serverLog{log: slog.New(slog.DiscardHandler), fatal: fatal}
	l.Errorf("RAFT [%s - %s] Some other error", "n1", "g")
	if len(fatal) != 0 {
		t.Error("any error ends it")
	}
	l.Errorf("RAFT [%s - %s] Critical write error: %v", "n1", "g", syscall.EIO)
	l.Errorf("RAFT [%s - %s] Critical write error: %v", "n1", "h", syscall.EIO)
	select {
	case err := <-fatal:
		if !errors.Is(err, errServer) {
			t.Errorf("it ends with %v", err)
		}
	default:
		t.Error("it runs on")
	}
}

// A disk that hangs must not keep the daemon from ending, and the age of the last success grows.
func TestDiskProbeThatHangs(t *testing.T) {
	p := newDiskProber(t.TempDir(), slog.New(slog.DiscardHandler))
	if err := syscall.Mkfifo(p.path, 0o600); err != nil { // opening it waits for a reader
		t.Fatal(err)
	}
	p.interval = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.run(ctx)
	}()
	untilTrue(t, "the disk is given up", func() bool { return p.lost() != nil })
	if err := p.lost(); !errors.Is(err, ErrDiskLost) {
		t.Errorf("of a disk that hangs: %v", err)
	}
	if age, failed := p.facts(); age != health.Never || failed != "" {
		t.Errorf("of a disk that hangs: %v, %q", age, failed)
	}
	cancel()
	<-ended
	r, err := os.Open(p.path) // lets it go
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
