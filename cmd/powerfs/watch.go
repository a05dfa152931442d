//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	lookEvery = 250 * time.Millisecond
	// frozenFor is how long the server may stand still: below the lease of a disk fault.
	frozenFor = 3 * time.Second
)

// watch runs the server as a child, on the same standard input and output, and ends as it does. A child that was stopped by a signal is continued, and
// killed if that does not help: an error is better for those who use the file system than a wait without an end. It dies with this process.
func watch(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	runtime.LockOSThread() // the child dies with the thread that started it
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "powerfs: find this program: %v\n", err)
		return exitFailed
	}
	cmd := exec.Command(self, append([]string{"--serve"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		_, _ = fmt.Fprintf(stderr, "powerfs: start the server: %v\n", err)
		return exitFailed
	}
	ended := make(chan struct{})
	go func() {
		g := guard{pid: cmd.Process.Pid, signal: cmd.Process.Signal, say: func(s string) { _, _ = fmt.Fprintln(stderr, "powerfs: "+s) }}
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		for {
			select {
			case <-ended:
				return
			case <-t.C:
				g.look()
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	return exitCode(err)
}

func exitCode(err error) int {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ended) && ended.ExitCode() > 0:
		return ended.ExitCode()
	default:
		return exitFailed
	}
}

// guard looks after a process that must not stand still.
type guard struct {
	pid    int
	signal func(os.Signal) error
	say    func(string)

	still     int // looks in a row at which it was stopped
	continued bool
}

func (g *guard) look() {
	if !stopped(g.pid) {
		g.still, g.continued = 0, false
		return
	}
	g.still++
	if time.Duration(g.still)*lookEvery < frozenFor {
		return
	}
	g.still = 0
	sig := syscall.SIGCONT
	if g.continued {
		sig = syscall.SIGKILL
	}
	g.continued = true
	g.say(fmt.Sprintf("the server stands still: %v", sig))
	_ = g.signal(sig) // it may have ended
}

// stopped tells whether a signal has stopped a process.
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(b, []byte(") ")) // the name before it may hold anything, and is this program's
	return ok && len(rest) > 0 && rest[0] == 'T'
}
