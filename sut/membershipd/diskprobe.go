package membershipd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	diskProbeFile     = "disk-probe" // in the data directory
	diskProbeBytes    = 4096
	diskProbeInterval = time.Second
	// diskPatience is how many intervals one attempt may take before the disk is taken for one that hangs. It is far more than a slow disk needs. Intervals
	// are counted, not seconds: those in which the process was stopped say nothing about the disk.
	diskPatience = 30
)

var errSync = errors.New("sync")

// diskProber writes and syncs a small file in the data directory, again and again. The embedded server does not always say that its disk fails: an fsync
// that fails or hangs leaves a node that looks well, and acks what only the others have.
type diskProber struct {
	path     string
	log      *slog.Logger
	interval time.Duration
	good     atomic.Pointer[time.Time] // when the last one that succeeded was begun
	failed   atomic.Pointer[error]     // of the last one that ended; nil if it succeeded
	waited   atomic.Int64              // intervals that the one which is under way has taken
}

func newDiskProber(dir string, log *slog.Logger) *diskProber {
	return &diskProber{path: filepath.Join(dir, diskProbeFile), log: log, interval: diskProbeInterval}
}

// run goes on until ctx ends. It does not wait then for a disk that hangs.
func (p *diskProber) run(ctx context.Context) {
	t := time.NewTicker(p.interval)
	defer t.Stop()
	for {
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.attempt()
		}()
		if !p.outlast(ctx, done) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// outlast waits for an attempt, and counts for how long. It returns false when ctx ended first.
func (p *diskProber) outlast(ctx context.Context, done <-chan struct{}) bool {
	t := time.NewTicker(p.interval)
	defer t.Stop()
	defer p.waited.Store(0)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-done:
			return true
		case <-t.C:
			p.waited.Add(1)
		}
	}
}

func (p *diskProber) attempt() {
	began := time.Now()
	err := writeSynced(p.path)
	before := p.failed.Load()
	if err != nil {
		p.failed.Store(&err)
		if before == nil {
			p.log.Error("the data directory does not take writes", "error", err)
		}
		return
	}
	p.failed.Store(nil)
	p.good.Store(&began)
	if before != nil {
		p.log.Info("the data directory takes writes again")
	}
}

// writeSynced gives its space back first, so that it needs some: overwriting works on a full disk.
func writeSynced(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, secretMode)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(make([]byte, diskProbeBytes)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	return nil
}

// wait stays until the first success: a server that is started on a disk that takes no writes breaks more than one that is not there. It returns false
// when ctx ended first.
func (p *diskProber) wait(ctx context.Context) bool {
	t := time.NewTicker(diskProbeInterval / 20)
	defer t.Stop()
	for p.good.Load() == nil {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return true
}

// lost is the error of the last attempt, if that was one to sync, or that the one which is under way does not end.
func (p *diskProber) lost() error {
	if n := p.waited.Load(); n >= diskPatience {
		return fmt.Errorf("%w: it hangs, nothing was synced for %s", ErrDiskLost, time.Duration(n)*p.interval)
	}
	if err := p.failed.Load(); err != nil && errors.Is(*err, errSync) {
		return fmt.Errorf("%w: %w", ErrDiskLost, *err)
	}
	return nil
}

// facts are what the judgement needs: how old the last success is, and the error of the last attempt.
func (p *diskProber) facts() (age time.Duration, failed string) {
	age = health.Never
	if t := p.good.Load(); t != nil {
		age = time.Since(*t)
	}
	if err := p.failed.Load(); err != nil {
		failed = (*err).Error()
	}
	return age, failed
}
