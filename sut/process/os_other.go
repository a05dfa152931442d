//go:build !linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// attributes give the daemon a process group of its own. It outlives a harness that was killed; Sweep ends it.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// look is what the system says of a process.
type look struct {
	start   uint64 // seconds since 1970: this tells one life from the next as well
	paused  bool
	stopped bool
	zombie  bool
}

// lookAt asks ps. fs.ErrNotExist means that there is no such process.
func lookAt(pid int) (look, error) {
	out, err := exec.Command("ps", "-o", "state=,lstart=", "-p", strconv.Itoa(pid)).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return look{}, fs.ErrNotExist
	}
	if err != nil {
		return look{}, fmt.Errorf("ask ps: %w", err)
	}
	state, started, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !ok || state == "" {
		return look{}, fs.ErrNotExist
	}
	t, err := time.Parse(time.ANSIC, strings.TrimSpace(started))
	if err != nil {
		return look{}, fmt.Errorf("read start time: %w", err)
	}
	paused := state[0] == 'T'
	return look{start: uint64(t.Unix()), paused: paused, stopped: paused, zombie: state[0] == 'Z'}, nil
}
