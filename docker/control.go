package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"

	"github.com/unibus/unibus/faults/agent"
)

// Settings of the control stream.
const (
	renewEvery  = 500 * time.Millisecond // several times within a lease
	callTimeout = 20 * time.Second       // for callers that set no bound
	maxAnswer   = 1 << 20
)

// errAgentGone means that the agent's output has ended: it was killed, or it ended itself.
var errAgentGone = errors.New("the fault agent is gone")

// control is the client's end of an agent's control stream: JSON lines over the attached standard input and output.
type control struct {
	conn net.Conn

	writing sync.Mutex

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan answer
	gone    chan struct{} // closed when nothing will be answered any more
	stop    chan struct{} // closed by close
	once    sync.Once
}

type answer struct {
	result json.RawMessage
	err    error
}

func newControl(conn net.Conn, r *bufio.Reader) *control {
	c := &control{conn: conn, waiting: map[uint64]chan answer{}, gone: make(chan struct{}), stop: make(chan struct{})}
	lines, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, io.Discard, r) // the agent's log is its standard error, which the engine keeps
		w.CloseWithError(err)
	}()
	go c.read(lines)
	return c
}

func (c *control) read(r io.Reader) {
	defer close(c.gone)
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxAnswer)
	for sc.Scan() {
		var resp struct {
			ID     uint64          `json:"id"`
			Error  *agent.Error    `json:"error"`
			Result json.RawMessage `json:"result"`
		}
		if json.Unmarshal(sc.Bytes(), &resp) != nil {
			continue // not an answer; a call that waits for it runs into its bound
		}
		a := answer{result: resp.Result}
		if resp.Error != nil {
			a.err = resp.Error
		}
		c.mu.Lock()
		ch := c.waiting[resp.ID]
		delete(c.waiting, resp.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- a
		}
	}
}

// Call implements cluster.Agent.
func (c *control) Call(ctx context.Context, method string, params, result any) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	ch := make(chan answer, 1)
	c.mu.Lock()
	c.nextID++
	id := c.nextID
	c.waiting[id] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, agent.Request{ID: id, Method: method, Params: params}); err != nil {
		return fmt.Errorf("ask the agent for %s: %w", method, err)
	}
	select {
	case a := <-ch:
		if a.err != nil {
			return fmt.Errorf("ask the agent for %s: %w", method, a.err)
		}
		if result == nil || len(a.result) == 0 {
			return nil
		}
		if err := json.Unmarshal(a.result, result); err != nil {
			return fmt.Errorf("read the agent's answer to %s: %w", method, err)
		}
		return nil
	case <-c.gone:
		return fmt.Errorf("ask the agent for %s: %w", method, errAgentGone)
	case <-ctx.Done():
		return fmt.Errorf("ask the agent for %s: %w", method, ctx.Err())
	}
}

// send writes one line. A frozen agent reads nothing: once the pipe to it is full, only the deadline ends a write. What was written of the
// line by then spoils the stream, so that it is closed.
func (c *control) send(ctx context.Context, r agent.Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	select {
	case <-c.gone:
		return errAgentGone
	default:
	}
	if until, has := ctx.Deadline(); has {
		if err := c.conn.SetWriteDeadline(until); err != nil {
			return err
		}
	}
	n, err := c.conn.Write(append(b, '\n'))
	if err != nil && n > 0 {
		_ = c.conn.Close() // the reader sees it and ends every call
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded // the connection's deadline is the caller's, and may be noticed a moment before it
	}
	return err
}

// renew keeps the leases of the faults in force until the stream ends: a harness that is frozen does not, and its faults expire.
func (c *control) renew(ctx context.Context) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-c.stop:
			return
		case <-t.C:
			ctx, cancel := context.WithTimeout(ctx, agent.Lease)
			_ = c.Call(ctx, agent.MethodRenew, nil, nil) // what comes of it is seen by the probes
			cancel()
		}
	}
}

// close ends the stream: the agent heals everything and exits.
func (c *control) close() {
	c.once.Do(func() {
		close(c.stop)
		_ = c.conn.Close() // nothing is to be flushed
	})
}
