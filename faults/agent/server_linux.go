package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/sut/cluster"
)

const (
	// laneDepth is how many requests may wait in one lane before the next one is refused.
	laneDepth = 64
	// maxConcurrent bounds the calls that run outside the lanes.
	maxConcurrent = 64
	// defaultDial bounds a connection attempt that names no bound, and maxDial every one.
	defaultDial = time.Second
	maxDial     = 30 * time.Second
)

// Server answers one control stream.
type Server struct {
	Version string
	Daemon  []string     // names of the programs that may be the node's daemon
	DataDir string       // the node's data directory; "" means that usage and wipe are refused
	Cgroups string       // where the host's control groups are mounted; "" means that limits on processor and memory are refused
	Log     *slog.Logger // required
}

// Serve answers requests until the stream ends or ctx does, then heals everything. It returns nil at the end of the stream.
//
//	            +-> network lane (one by one) --+
//	in -> read -+-> process lane (one by one) --+-> write -> out
//	            +-> everything else, at once ---+
//
// The lanes keep the order of requests: a heal that was sent after a partition must not overtake it. What is still in them when the
// stream ends is cut off: a harness whose pipe is full must not keep its faults in force.
func (s *Server) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &session{
		Server: s, ctx: ctx, out: out, free: make(chan struct{}, maxConcurrent),
		net: newNetwork(), proc: processes{proc: "/proc", names: s.Daemon}, data: storage{dir: s.DataDir},
	}
	r.clock, r.cpu, r.memory = &clock{proc: r.proc}, &cpu{proc: r.proc, root: s.Cgroups}, memory{root: s.Cgroups, proc: r.proc}
	r.counts = newCounts(r.proc, s.Cgroups)
	for what, overdue := range map[string]func() error{"the processor": r.cpu.overdue, "descriptors and threads": r.counts.overdue} {
		go lapse(ctx, overdue, func(err error) { s.Log.Warn("see to the limit on "+what, "error", err) })
	}
	networkLane, processLane := r.lane(), r.lane()
	ended := make(chan error, 1)
	go func() { ended <- r.read(in, networkLane, processLane) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if herr := errors.Join(r.net.close(), r.clock.close(), r.cpu.close(), r.counts.close()); herr != nil {
		return errors.Join(err, fmt.Errorf("heal at the end: %w", herr))
	}
	s.Log.Info("healed everything: the control stream is over")
	return err
}

// session is one control stream being served.
type session struct {
	*Server
	ctx   context.Context // ends with the stream
	net   *network
	proc  processes
	sinks sinks

	clock  *clock
	cpu    *cpu
	memory memory
	counts *counts
	data   storage
	free   chan struct{} // one token per call outside the lanes

	mu  sync.Mutex
	out io.Writer
}

// lane runs calls one by one.
func (r *session) lane() chan<- call {
	c := make(chan call, laneDepth)
	go func() {
		for {
			select {
			case <-r.ctx.Done():
				return
			case next := <-c:
				r.answer(next)
			}
		}
	}()
	return c
}

func (r *session) read(in io.Reader, networkLane, processLane chan<- call) error {
	lines := newLineReader(in)
	for {
		line, err := readLine(lines)
		switch {
		case errors.Is(err, errLineTooLong):
			r.write(0, nil, badRequest("%v", err))
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read request: %w", err)
		case len(line) == 0:
			continue
		}
		c, err := decodeCall(line)
		if err != nil {
			r.write(c.ID, nil, err)
			continue
		}
		r.dispatch(c, networkLane, processLane)
	}
}

func (r *session) dispatch(c call, networkLane, processLane chan<- call) {
	switch c.Method {
	case MethodPartition, MethodHeal, MethodRenew, MethodCounters, MethodClock, MethodCPU, MethodCount:
		r.enqueue(c, networkLane)
	case MethodSignal, MethodWipe, MethodEdit:
		r.enqueue(c, processLane)
	default:
		r.atOnce(c)
	}
}

// enqueue never blocks: the reader must go on to see the end of the stream.
func (r *session) enqueue(c call, lane chan<- call) {
	select {
	case lane <- c:
	default:
		r.refuse(c)
	}
}

func (r *session) atOnce(c call) {
	select {
	case r.free <- struct{}{}:
		go func() {
			defer func() { <-r.free }()
			r.answer(c)
		}()
	default:
		r.refuse(c)
	}
}

func (r *session) refuse(c call) {
	r.write(c.ID, nil, fmt.Errorf("too many requests wait: %s was not begun", c.Method))
}

func (r *session) answer(c call) {
	res, err := r.do(c)
	r.write(c.ID, res, err)
}

func (r *session) do(c call) (any, error) {
	switch c.Method {
	case MethodHello:
		return r.hello()
	case MethodRenew:
		res, err := r.net.renew()
		return res, errors.Join(err, r.clock.renew(), r.cpu.renew(), r.counts.renew())
	case MethodClock:
		return with(c.Params, r.clock.set)
	case MethodClockRead:
		return r.clock.read(), nil
	case MethodCPU:
		return with(c.Params, r.cpu.set)
	case MethodCPURead:
		return r.cpu.read()
	case MethodCount:
		return with(c.Params, r.counts.set)
	case MethodCountRead:
		return with(c.Params, r.counts.read)
	case MethodExhaust:
		return with(c.Params, func(p ExhaustParams) (ExhaustResult, error) { return r.memory.exhaust(r.ctx, p) })
	case MethodProcess:
		return r.proc.find()
	case MethodSignal:
		return r.signal(c.Params)
	case MethodUsage:
		return r.data.usage()
	case MethodWipe:
		return r.wipe()
	case MethodFiles:
		return r.data.files()
	case MethodRead:
		return with(c.Params, r.data.read)
	case MethodEdit:
		return with(c.Params, r.edit)
	case MethodDiskProbe:
		return with(c.Params, r.data.probe)
	case MethodPartition:
		return with(c.Params, r.net.partition)
	case MethodHeal:
		return with(c.Params, func(p HealParams) (any, error) { return nil, r.net.heal(p.ID) })
	case MethodCounters:
		return with(c.Params, func(p CountersParams) (PartitionResult, error) { return r.net.counters(p.ID) })
	case MethodSink:
		return with(c.Params, r.sinks.make)
	case MethodSpray:
		return with(c.Params, spray)
	case MethodDrain:
		return with(c.Params, func(p DrainParams) (DrainResult, error) { return r.sinks.drain(r.ctx, p) })
	case MethodResolve:
		return with(c.Params, func(p ResolveParams) (ResolveResult, error) { return resolve(r.ctx, p) })
	case MethodDial:
		return with(c.Params, func(p DialParams) (DialResult, error) { return dial(r.ctx, p) })
	default:
		return nil, badRequest("there is no method %q", c.Method)
	}
}

// with decodes the parameters for a method.
func with[P, R any](raw json.RawMessage, f func(P) (R, error)) (any, error) {
	p, err := decodeParams[P](raw)
	if err != nil {
		return nil, err
	}
	return f(p)
}

func (r *session) hello() (HelloResult, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return HelloResult{}, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return HelloResult{Version: r.Version, PID: os.Getpid(), Kernel: unix.ByteSliceToString(u.Release[:]), Lease: Lease.Seconds()}, nil
}

func (r *session) signal(raw json.RawMessage) (any, error) {
	return with(raw, func(p SignalParams) (ProcessResult, error) {
		sig, err := p.signal()
		if err != nil {
			return ProcessResult{}, err
		}
		return r.proc.signal(r.ctx, sig)
	})
}

// wipe is refused while the daemon runs, and fails when it was started meanwhile: then nobody knows what it saw.
func (r *session) wipe() (cluster.Usage, error) {
	if err := r.refuseRunning(); err != nil {
		return cluster.Usage{}, err
	}
	u, err := r.data.wipe()
	if err != nil {
		return u, err
	}
	return u, r.refuseRunning()
}

func (r *session) refuseRunning() error {
	p, err := r.proc.find()
	if err == nil && p.Running {
		err = &Error{Code: CodeRunning, Text: fmt.Sprintf("the daemon runs (process %d): its data directory is not wiped", p.PID)}
	}
	return err
}

// write sends one answer. A failure means that nobody listens any more; the end of the input says so too, and ends the session.
func (r *session) write(id uint64, result any, err error) {
	resp := Response{ID: id}
	if err != nil {
		resp.Error = &Error{Code: codeOf(err), Text: err.Error()}
		r.Log.Warn("request failed", "id", id, "error", err)
	} else if resp.Result, err = json.Marshal(result); err != nil {
		resp.Error = &Error{Code: CodeFailed, Text: err.Error()}
	}
	line, err := json.Marshal(resp)
	if err != nil {
		r.Log.Error("encode answer", "id", id, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := bufio.NewWriterSize(r.out, len(line)+1) // one write per answer: lines of two answers never mix
	_, _ = w.Write(append(line, '\n'))           // the buffer holds it all: errors show in Flush
	if err := w.Flush(); err != nil {
		r.Log.Warn("write answer", "id", id, "error", err)
	}
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeFailed
}
