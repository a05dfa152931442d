// Package host runs the file systems of package powerfs, each in a process of its own beside the harness (command powerfs), and talks to it over its
// standard input and output, one JSON object a line.
//
//	harness ── stdin/stdout ──> powerfs ── /dev/fuse ──> mount <── daemon
//
// The process ends with its input, and takes its mount along: nothing outlives a harness that dies. It is not the harness's own process, which
// would wait for itself whenever it looked into a node's data; and never the daemon's.
package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// FSName is the first column of /proc/mounts.
const FSName = "unibus-powerfs"

// Methods of the protocol.
const (
	MethodState  = "state"  // -> cluster.PowerState
	MethodFreeze = "freeze" // operations wait from now on, as on a disk that hangs
	MethodFail   = "fail"   // cluster.PowerLoss -> cluster.Dropped; operations pass again
	MethodThaw   = "thaw"   // operations pass again as if nothing had been

	MethodSetFault   = "set-fault"   // cluster.DiskFault, which ends by itself cluster.DiskLease later
	MethodClearFault = "clear-fault" // the ID of one; idempotent
	MethodRenew      = "renew"       // a new lease for every fault in force
	MethodFaults     = "faults"      // -> []cluster.DiskFaultState
)

// Request is a line to the server.
type Request struct {
	ID     uint64            `json:"id"`
	Method string            `json:"method"`
	Loss   cluster.PowerLoss `json:"loss,omitzero"`
	Fault  cluster.DiskFault `json:"fault,omitzero"`
}

// Response is a line from the server, to the request with the same ID. The first one, with ID 0 and unasked for, says that the file system is mounted.
type Response struct {
	ID     uint64          `json:"id"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

const (
	mountBound = 20 * time.Second // for a mount on a loaded machine
	callBound  = 30 * time.Second // for callers that set no bound
	exitBound  = 10 * time.Second
	maxLine    = 64 << 20 // a record names every file and operation
	keepLines  = 16       // answers that wait for their reader
	keepErrors = 2000     // bytes of the server's complaints that go into errors
)

// Options of a file system.
type Options struct {
	Binary  string // of command powerfs
	Dir     string // where it is mounted; must be there, and empty
	Entries cluster.EntryMode
	UID     int // owner of its root directory
	GID     int
	Shared  bool // other users may use it: see Unshared
}

// Disk is a mounted file system.
type Disk struct {
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
	enc   *json.Encoder
	lines chan Response
	errs  *tailBuffer

	calling chan struct{} // holds one token while nobody waits for an answer
	last    uint64        // ID of a request; belongs to whoever has the token
	closing sync.Once
	closed  error
}

// ErrGone means that the server has ended: what it held is lost.
var ErrGone = errors.New("the file system's server is gone")

// Start mounts a new, empty file system. On error nothing is left behind.
func Start(ctx context.Context, o Options) (*Disk, error) {
	d, err := start(o)
	if err != nil {
		return nil, fmt.Errorf("start file system: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, mountBound)
	defer cancel()
	if _, err := d.receive(ctx, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("start file system: %w", err), d.Close())
	}
	return d, nil
}

func start(o Options) (*Disk, error) {
	args := []string{"--dir", o.Dir, "--entries", string(o.Entries), "--uid", strconv.Itoa(o.UID), "--gid", strconv.Itoa(o.GID)}
	if o.Shared {
		args = append(args, "--shared")
	}
	d := &Disk{dir: o.Dir, cmd: exec.Command(o.Binary, args...), lines: make(chan Response, keepLines), errs: &tailBuffer{}, calling: make(chan struct{}, 1)}
	d.calling <- struct{}{}
	d.cmd.Stderr, d.cmd.SysProcAttr = d.errs, attributes()
	in, err := d.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.stdin, d.enc = in, json.NewEncoder(in)
	go d.read(out)
	return d, nil
}

func (d *Disk) read(r io.Reader) {
	defer close(d.lines)
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		var resp Response
		if err := json.Unmarshal(sc.Bytes(), &resp); err != nil {
			resp = Response{Error: "unreadable answer: " + err.Error()}
		}
		d.lines <- resp
	}
}

// receive waits for the answer to a request. Answers to earlier ones, for which nobody waited long enough, are passed over.
func (d *Disk) receive(ctx context.Context, id uint64) (json.RawMessage, error) {
	for {
		select {
		case r, ok := <-d.lines:
			switch {
			case !ok:
				return nil, fmt.Errorf("%w: %s", ErrGone, d.errs)
			case r.ID != id:
				continue
			case r.Error != "":
				return nil, errors.New(r.Error)
			}
			return r.Result, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// call asks one question.
func (d *Disk) call(ctx context.Context, req Request, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	if err := d.ask(ctx, req, result); err != nil {
		return fmt.Errorf("ask the file system for %s: %w", req.Method, err)
	}
	return nil
}

func (d *Disk) ask(ctx context.Context, req Request, result any) error {
	select {
	case <-d.calling:
		defer func() { d.calling <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d.last++
	req.ID = d.last
	if err := d.enc.Encode(req); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	raw, err := d.receive(ctx, req.ID)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// Dir is where the file system is mounted.
func (d *Disk) Dir() string { return d.dir }

// State asks what the file system holds, and what of it is pending.
func (d *Disk) State(ctx context.Context) (s cluster.PowerState, err error) {
	return s, d.call(ctx, Request{Method: MethodState}, &s)
}

// Cut is a power failure. From its first moment on nothing reaches the file system; end must end the daemon, and return when nothing is left of it. Then
// what is pending is dropped. If end fails the power comes back as if nothing had been.
func (d *Disk) Cut(ctx context.Context, loss cluster.PowerLoss, end func(context.Context) error) (dropped cluster.Dropped, err error) {
	if err := d.call(ctx, Request{Method: MethodFreeze}, nil); err != nil {
		return dropped, err
	}
	if err := end(ctx); err != nil {
		return dropped, errors.Join(err, d.call(context.WithoutCancel(ctx), Request{Method: MethodThaw}, nil))
	}
	return dropped, d.call(context.WithoutCancel(ctx), Request{Method: MethodFail, Loss: loss}, &dropped)
}

// Close unmounts and ends the server; idempotent.
func (d *Disk) Close() error {
	d.closing.Do(func() { d.closed = d.end() })
	return d.closed
}

func (d *Disk) end() error {
	_ = d.stdin.Close() // it ends with its input
	late := time.AfterFunc(exitBound, func() { _ = d.cmd.Process.Kill() })
	defer late.Stop()
	for range d.lines { //nolint:revive // answers that nobody waits for
	}
	waited := d.cmd.Wait()
	if err := Detach(d.dir); err != nil {
		return errors.Join(err, waited)
	}
	if waited != nil {
		return fmt.Errorf("end file system: %w: %s", waited, d.errs)
	}
	return nil
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - keepErrors; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}

// dirPrefix begins the names of directories that MakeDir makes.
const dirPrefix = "unibus-powerfs-"

// MakeDir makes an empty directory to mount at, below parent ("" for the system's directory for temporary files).
func MakeDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return "", fmt.Errorf("make mount point: %w", err)
	}
	return dir, nil
}

// orphanAge is the age from which an empty mount point counts as left behind.
const orphanAge = time.Hour

// Sweep takes away mounts that nobody serves any more, wherever they are, and mount points of MakeDir that are not used. It returns how many
// mounts there were.
func Sweep(parent string) (int, error) {
	var errs []error
	n := 0
	for _, dir := range mounts() {
		if !deserted(dir) {
			continue
		}
		if err := Detach(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		n++
		if strings.HasPrefix(filepath.Base(dir), dirPrefix) {
			_ = os.Remove(dir) // another sweep may have been faster
		}
	}
	if parent == "" {
		parent = os.TempDir()
	}
	old, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*"))
	errs = append(errs, err)
	for _, dir := range old {
		if info, err := os.Lstat(dir); err == nil && time.Since(info.ModTime()) > orphanAge {
			_ = os.Remove(dir) // fails where something is mounted, or in it
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("sweep file systems: %w", err)
	}
	return n, nil
}
