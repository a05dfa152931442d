package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

const (
	probeName  = ".unibus-disk-probe" // hidden: no daemon looks at it
	probeBytes = 4096
)

// Probe writes, syncs, closes, and reads a small file in a directory below root, and removes it. What fails is a result; an error means that there was nothing to measure.
func Probe(root *os.Root, under string) (p cluster.DiskProbe, err error) {
	name := path.Join(under, fmt.Sprintf("%s-%d-%d", probeName, os.Getpid(), time.Now().UnixNano()))
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return p, fmt.Errorf("probe the disk: %w", err)
	}
	defer func() {
		if gone := root.Remove(name); err == nil && gone != nil {
			err = fmt.Errorf("probe the disk: %w", gone)
		}
	}()
	content := bytes.Repeat([]byte{0xa5}, probeBytes)
	p.WriteError, p.WriteMS = timed(func() error { _, err := f.Write(content); return err })
	p.SyncError, p.SyncMS = timed(f.Sync)
	_ = f.Close() // an error of writing has been seen by the sync
	// Opened again, so that what it reads is asked of the disk and not of the page cache, where that is how the file system works.
	r, err := root.Open(name)
	if err != nil {
		return p, fmt.Errorf("probe the disk: %w", err)
	}
	defer func() { _ = r.Close() }() // only read
	p.ReadError, p.ReadMS = timed(func() error {
		_, err := io.ReadFull(r, make([]byte, probeBytes))
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil // the write did not get so far
		}
		return err
	})
	return p, nil
}

func timed(f func() error) (failed string, ms float64) {
	began := time.Now()
	err := f()
	return errno(err), float64(time.Since(began).Microseconds()) / 1000
}

// errno names an error as system call manuals do, as far as disks have it.
func errno(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ENOSPC):
		return "ENOSPC"
	case errors.Is(err, syscall.EIO):
		return "EIO"
	case errors.Is(err, syscall.ENOTCONN):
		return "ENOTCONN"
	}
	return err.Error()
}
