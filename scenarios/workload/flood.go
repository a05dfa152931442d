package workload

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"

	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the flood.
const (
	crowdParallel  = 32               // handshakes at once: more only wait for each other
	descriptorRest = 2000             // of the harness's own limit, for everything but the crowd
	intruderBound  = 10 * time.Second // for a login to be answered; the server's own bound is 5 s
	intruderSlots  = 3000             // logins in flight
	garbageBytes   = 64
	slowBuffer     = 4096    // bytes of receive buffer of a subscriber that does not read
	slowPayload    = 8 << 10 // bytes
	slowPause      = 10 * time.Millisecond
	goodbye        = 5 * time.Second // for what is buffered in a closed connection to be read
)

// MaxCrowd is how many connections this process can hold beside its other files.
func MaxCrowd() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<20 {
		return 1 << 20
	}
	return max(0, int(l.Cur)-descriptorRest)
}

// Crowd is many idle connections of the harness's user, spread over the nodes. They answer PINGs and do nothing else.
type Crowd struct {
	mu    sync.Mutex
	conns []*rawConn
	lost  atomic.Int64 // ended before Close
	done  atomic.Bool
	wg    sync.WaitGroup
}

// Open adds n connections. It returns the first error when one cannot be made, with those that could be left open.
func (c *Crowd) Open(ctx context.Context, e *Env, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(crowdParallel)
	nodes := e.Cluster.Nodes()
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			conn, err := e.connectRaw(ctx, nodes[i%len(nodes)], "crowd", 0)
			if err != nil {
				return fmt.Errorf("connection %d of the crowd: %w", i+1, err)
			}
			c.add(conn)
			return nil
		})
	}
	return g.Wait()
}

func (c *Crowd) add(conn *rawConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	c.wg.Go(func() {
		_ = conn.pong() // whatever ended it
		if !c.done.Load() {
			c.lost.Add(1)
		}
	})
}

// Count is how many connections were made, and how many of them ended by themselves.
func (c *Crowd) Count() (opened, lost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns), int(c.lost.Load())
}

// Close ends them all.
func (c *Crowd) Close() {
	c.done.Store(true)
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // whatever state it is in
	}
	c.wg.Wait()
}

// Intruders try to log in and must not get in.
type Intruders struct {
	Rate float64 // a second
	// Honest, when true, makes them log in with the harness's own key: the control that shows that an accepted login is noticed.
	Honest bool

	Tried, Refused, Accepted, Unanswered atomic.Int64
}

// intrusions are the ways in which they try, in turn.
var intrusions = []func(in *Intruders, ctx context.Context, e *Env, n cluster.Node) error{
	(*Intruders).stranger, (*Intruders).forger, (*Intruders).nameless, (*Intruders).babbler, (*Intruders).mute,
}

// Run tries until ctx ends, each attempt when it is due: a pause of this machine is made up for. It returns when each attempt has been answered or given up.
func (in *Intruders) Run(ctx context.Context, e *Env) {
	slots := make(chan struct{}, intruderSlots)
	nodes := e.Cluster.Nodes()
	var wg sync.WaitGroup
	defer wg.Wait()
	due := time.NewTimer(0)
	defer due.Stop()
	began := time.Now()
	for i := 0; ; i++ {
		due.Reset(time.Until(began.Add(time.Duration(float64(i) / in.Rate * float64(time.Second)))))
		select {
		case <-ctx.Done():
			return
		case <-due.C:
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			in.try(ctx, e, nodes[i%len(nodes)], i/len(nodes))
			<-slots
		})
	}
}

// try makes one attempt and counts what came of it.
func (in *Intruders) try(ctx context.Context, e *Env, n cluster.Node, i int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), intruderBound)
	defer cancel()
	in.Tried.Add(1)
	way := intrusions[i%len(intrusions)]
	if in.Honest {
		way = (*Intruders).honest
	}
	err := way(in, ctx, e, n)
	switch {
	case err == nil:
		in.Accepted.Add(1)
	case errors.Is(err, errRefused):
		in.Refused.Add(1)
	default:
		in.Unanswered.Add(1)
		e.log().Debug("intruder heard nothing", "node", n.ID(), "err", err)
	}
}

// as connects, says what f makes of the connection and waits for the answer.
func (in *Intruders) as(ctx context.Context, e *Env, n cluster.Node, f func(c *rawConn) (login, error)) error {
	c, h, err := dialRaw(ctx, n, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // refused or not, it is not wanted any more
	if err := c.secure(ctx, e, h); err != nil {
		return err
	}
	l, err := f(c)
	if err != nil {
		return err
	}
	return asRefused(c.login(l))
}

// asRefused takes an error of a connection that the server has closed while this side still wrote for what it is.
func asRefused(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}

// stranger has a key of its own that nobody knows, and signs well.
func (in *Intruders) stranger(ctx context.Context, e *Env, n cluster.Node) error {
	return in.as(ctx, e, n, func(c *rawConn) (login, error) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			return login{}, fmt.Errorf("make a key: %w", err)
		}
		pub, err := pair.PublicKey()
		if err != nil {
			return login{}, fmt.Errorf("make a key: %w", err)
		}
		sig, err := pair.Sign([]byte(c.nonce))
		return login{NKey: pub, Signature: base64.RawURLEncoding.EncodeToString(sig)}, err
	})
}

// forger names a key that is known and cannot sign with it.
func (in *Intruders) forger(ctx context.Context, e *Env, n cluster.Node) error {
	return in.as(ctx, e, n, func(*rawConn) (login, error) {
		sig := make([]byte, 64)
		_, err := rand.Read(sig)
		return login{NKey: e.Identity.Public(), Signature: base64.RawURLEncoding.EncodeToString(sig)}, err
	})
}

// nameless says nothing of who it is.
func (in *Intruders) nameless(ctx context.Context, e *Env, n cluster.Node) error {
	return in.as(ctx, e, n, func(*rawConn) (login, error) { return login{}, nil })
}

// honest is who it says.
func (in *Intruders) honest(ctx context.Context, e *Env, n cluster.Node) error {
	return in.as(ctx, e, n, func(c *rawConn) (login, error) {
		sig, err := e.Identity.sign([]byte(c.nonce))
		return login{NKey: e.Identity.Public(), Signature: base64.RawURLEncoding.EncodeToString(sig)}, err
	})
}

// babbler sends bytes that mean nothing.
func (in *Intruders) babbler(ctx context.Context, _ *Env, n cluster.Node) error {
	c, _, err := dialRaw(ctx, n, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // refused or not, it is not wanted any more
	b := make([]byte, garbageBytes)
	if _, err := rand.Read(b); err != nil {
		return err
	}
	if _, err := c.Write(append(b, "\r\n"...)); err != nil {
		return asRefused(err)
	}
	return asRefused(c.answer())
}

// mute connects and says nothing: the server must not wait for ever.
func (in *Intruders) mute(ctx context.Context, _ *Env, n cluster.Node) error {
	c, _, err := dialRaw(ctx, n, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // refused or not, it is not wanted any more
	return asRefused(c.answer())
}

// SlowSubscribers subscribe to a subject that is published to all the time, and do not read.
type SlowSubscribers struct {
	Count   int
	Reading bool // the control: these read, and must not be cut off
	Subject string

	conns    []*rawConn
	stop     context.CancelFunc
	wg       sync.WaitGroup
	received atomic.Int64
	ended    atomic.Int64
}

// Start subscribes and begins to publish, through a connection of its own.
func (s *SlowSubscribers) Start(ctx context.Context, e *Env) error {
	nodes := e.Cluster.Nodes()
	for i := range s.Count {
		buffer := slowBuffer
		if s.Reading {
			buffer = 0
		}
		c, err := e.connectRaw(ctx, nodes[i%len(nodes)], "slow", buffer)
		if err != nil {
			return fmt.Errorf("slow subscriber %d: %w", i+1, err)
		}
		s.conns = append(s.conns, c)
		if _, err := fmt.Fprintf(c, "SUB %s 1\r\n", s.Subject); err != nil {
			return fmt.Errorf("slow subscriber %d: %w", i+1, err)
		}
		if s.Reading {
			s.wg.Go(func() { s.read(c) })
		}
	}
	pub, err := e.connectRaw(ctx, nodes[0], "flood", 0)
	if err != nil {
		return fmt.Errorf("publisher to slow subscribers: %w", err)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(func() { _ = pub.pong() }) // ends with the connection
	s.wg.Go(func() { s.publish(ctx, pub) })
	return nil
}

// read counts what arrives, and that the connection ended by itself.
func (s *SlowSubscribers) read(c *rawConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.r.Read(buf)
		s.received.Add(int64(n))
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.ended.Add(1)
			}
			return
		}
	}
}

// publish sends to the subscribers until ctx ends.
func (s *SlowSubscribers) publish(ctx context.Context, pub *rawConn) {
	defer func() { _ = pub.Close() }() // it holds nothing
	message := append(fmt.Appendf(nil, "PUB %s %d\r\n", s.Subject, slowPayload), make([]byte, slowPayload)...)
	message = append(message, "\r\n"...)
	t := time.NewTicker(slowPause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if _, err := pub.Write(message); err != nil {
			return
		}
	}
}

// Stop ends the publishing, and returns how many of the subscribers the server has cut off by then, and how many bytes those that read were given.
func (s *SlowSubscribers) Stop() (cut int, received int64) {
	if s.stop != nil {
		s.stop()
	}
	if s.Reading {
		cut, received = int(s.ended.Load()), s.received.Load()
	} else {
		cut = s.cutOff()
	}
	for _, c := range s.conns {
		_ = c.Close() // whatever state it is in
	}
	s.conns = nil
	s.wg.Wait()
	return cut, received
}

// cutOff reads what is buffered in each connection, and looks whether the end comes after it.
func (s *SlowSubscribers) cutOff() int {
	ended := make([]bool, len(s.conns))
	var wg sync.WaitGroup
	for i, c := range s.conns {
		wg.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(goodbye)) // a connection that takes no deadline has ended
			_, err := io.Copy(io.Discard, c.r)
			ended[i] = !errors.Is(err, os.ErrDeadlineExceeded)
		})
	}
	wg.Wait()
	return len(slices.DeleteFunc(ended, func(e bool) bool { return !e }))
}
