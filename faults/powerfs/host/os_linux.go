package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

const (
	device   = "/dev/fuse"
	fuseConf = "/etc/fuse.conf"
	root     = 0
)

// Unavailable says why this machine cannot mount such file systems, or "".
func Unavailable() string {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Sprintf("FUSE cannot be used here: %v", err)
	}
	_ = f.Close() // only opened
	if os.Geteuid() != root && fusermount() == "" {
		return "FUSE cannot be used here: mounting needs root, or fusermount3, which is not installed"
	}
	return ""
}

// Unshared says why other users, such as a container's, cannot use this user's mounts, or "".
func Unshared() string {
	if os.Geteuid() == root {
		return ""
	}
	b, err := os.ReadFile(fuseConf)
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.TrimSpace(line) == "user_allow_other" {
				return ""
			}
		}
	}
	return "other users may not use this user's mounts: that needs root, or user_allow_other in " + fuseConf
}

// fusermount is the helper that may mount and unmount for its user, or "".
func fusermount() string {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Detach takes a mount out of the directory tree, also while files are open there; none is no error.
func Detach(dir string) error {
	if !mounted(dir) {
		return nil
	}
	if os.Geteuid() == root {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	if out, err := exec.Command(fusermount(), "-u", "-z", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return nil
}

func mounted(dir string) bool {
	for _, m := range mounts() {
		if m == dir {
			return true
		}
	}
	return false
}

// mounts lists where file systems of this kind are mounted, whether they are alive or not.
func mounts() []string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == FSName {
			out = append(out, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[1]))
		}
	}
	return out
}

// deserted tells whether nobody serves a mount any more.
func deserted(dir string) bool {
	var s syscall.Statfs_t
	return errors.Is(syscall.Statfs(dir, &s), syscall.ENOTCONN)
}

// attributes give the server a process group of its own, so that the terminal's Ctrl-C does not reach it: it ends with its input.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
