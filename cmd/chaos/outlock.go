package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/unibus/unibus/sut/flock"
)

// outLock is the file in an output folder that a run has locked while it writes there: another one would remove its bundles. The file stays, and is nothing that
// anybody reads; the lock goes with the last process that holds it, however that ended. Runs of a run, such as a soak's rounds, have folders of their own below,
// each with its own lock.
const outLock = ".lock"

// lockOut makes an output folder, if it is not there, and locks it until the file is closed.
func lockOut(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for proofs: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, outLock), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the folder for proofs: %w", err)
	}
	ok, err := flock.Try(f)
	if err == nil && !ok {
		err = fmt.Errorf("another run writes to %s: wait for it, or give another --out", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// locked does something while an output folder is locked.
func locked(dir string, do func() error) error {
	lock, err := lockOut(dir)
	if err != nil {
		return usage(err)
	}
	defer func() { _ = lock.Close() }() // nothing was written
	return do()
}
