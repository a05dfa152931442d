//go:build !linux

package host

import (
	"fmt"
	"runtime"
	"syscall"
)

// Unavailable says why this machine cannot mount such file systems, or "".
func Unavailable() string {
	return fmt.Sprintf("the file system that loses what was not synced needs FUSE on Linux, not %s", runtime.GOOS)
}

// Unshared says why other users cannot use this user's mounts, or "".
func Unshared() string { return Unavailable() }

// Detach takes a mount out of the directory tree: there is none.
func Detach(string) error { return nil }

func mounts() []string { return nil }

func deserted(string) bool { return false }

func attributes() *syscall.SysProcAttr { return nil }
