//go:build linux

// Command powerfs serves one file system that can lose what was not synced, and misbehave, to the harness that started it. It unmounts and ends when its
// standard input ends.
//
// It is two processes: one serves, and one watches it. A server that is frozen would freeze whoever uses the file system.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/faults/powerfs/fusemount"
	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/sut/cluster"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() {
	// A terminal's interrupt is the harness's business: this process ends with its input.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// settings are the command line.
type settings struct {
	dir, entries string
	uid, gid     uint
	shared       bool
	serve        bool
}

func parse(args []string, stderr io.Writer) (s settings, err error) {
	fs := flag.NewFlagSet("powerfs", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&s.dir, "dir", "", "empty `directory` to mount at")
	fs.StringVar(&s.entries, "entries", "", "what makes directory entries durable: `strict` (fsync of the directory) or journaled (any fsync); default strict")
	fs.UintVar(&s.uid, "uid", 0, "`owner` of the root directory")
	fs.UintVar(&s.gid, "gid", 0, "`group` of the root directory")
	fs.BoolVar(&s.shared, "shared", false, "other users may use it")
	fs.BoolVar(&s.serve, "serve", false, "do it in this process, which nobody watches")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	switch {
	case s.dir == "" || fs.NArg() > 0:
		return s, errors.New("it takes --dir and no arguments")
	case s.entries != "" && s.entries != string(powerfs.Strict) && s.entries != string(powerfs.Journaled):
		return s, fmt.Errorf("--entries %q is neither strict nor journaled", s.entries)
	}
	return s, nil
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "powerfs: %v\n", err)
		return exitUsage
	}
	if !s.serve {
		return watch(args, stdin, stdout, stderr)
	}
	if err := serve(s, stdin, stdout, stderr); err != nil {
		_, _ = fmt.Fprintf(stderr, "powerfs: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// rootPerm are the permissions of the root directory.
const rootPerm = 0o700

// maxRequest bounds a line of the protocol.
const maxRequest = 1 << 16

func serve(s settings, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	fs := powerfs.New(cluster.EntryMode(s.entries), powerfs.Owner{UID: uint32(s.uid), GID: uint32(s.gid)}, rootPerm)
	m, err := fusemount.New(fs, s.dir, fusemount.Options{Shared: s.shared, Log: stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	out := json.NewEncoder(stdout)
	if err := out.Encode(host.Response{}); err != nil {
		return fmt.Errorf("say that it is mounted: %w", err)
	}
	in := bufio.NewScanner(stdin)
	in.Buffer(nil, maxRequest)
	for in.Scan() {
		if err := out.Encode(answer(m, in.Bytes())); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return in.Err()
}

func answer(m *fusemount.Mount, line []byte) host.Response {
	var req host.Request
	if err := json.Unmarshal(line, &req); err != nil {
		return host.Response{Error: "unreadable request: " + err.Error()}
	}
	result, err := do(m, req)
	if err != nil {
		return host.Response{ID: req.ID, Error: err.Error()}
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return host.Response{ID: req.ID, Error: err.Error()}
	}
	return host.Response{ID: req.ID, Result: raw}
}

func do(m *fusemount.Mount, req host.Request) (result any, err error) {
	switch req.Method {
	case host.MethodState:
		result = m.Usage()
	case host.MethodFreeze:
		m.Freeze()
	case host.MethodThaw:
		m.Thaw()
	case host.MethodFail:
		result = m.PowerFail(req.Loss)
	case host.MethodSetFault:
		err = m.SetFault(req.Fault)
	case host.MethodClearFault:
		m.ClearFault(req.Fault.ID)
	case host.MethodRenew:
		m.RenewFaults()
	case host.MethodFaults:
		result = m.Faults()
	default:
		err = fmt.Errorf("there is no method %q", req.Method)
	}
	return result, err
}
