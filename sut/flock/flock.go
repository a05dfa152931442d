// Package flock locks files between processes. The kernel gives a lock back when its holder ends, however that happens.
package flock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Try takes the exclusive lock of an open file, and does not wait: ok is false where somebody else has it. The lock lasts until the file is closed.
func Try(f *os.File) (ok bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, nil
	}
	return false, fmt.Errorf("lock %s: %w", f.Name(), err)
}
