package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxSinks bounds the sinks that are open at a time, and sinkLife how long one stays open when nobody drains it.
	maxSinks = 64
	sinkLife = 30 * time.Second
	// sinkBuffer has room for the longest spray.
	sinkBuffer = 16 << 20
	// maxDrain bounds a wait.
	maxDrain = 20 * time.Second
	// headersOfUDP are those of IPv4 and UDP, in bytes.
	headersOfUDP = 28
)

// A numbered datagram: checksum of what follows, number, time of sending on the machine's monotonic clock, filling.
const (
	datagramNumber = 4
	datagramSent   = 8
	datagramFill   = 16
	datagramLeast  = 32
	datagramMost   = 1400
)

// sinks are the open ones of an agent.
type sinks struct {
	mu   sync.Mutex
	open map[string]*sink
}

// sink counts what comes in.
type sink struct {
	conn *net.UDPConn
	more chan struct{} // has room for one word: something has come

	mu          sync.Mutex
	seen        map[uint32]bool
	highest     uint32
	res         DrainResult
	total       int
	ways        []time.Duration
	first, last int64 // on the monotonic clock
}

// make opens a sink; a known id is an error.
func (s *sinks) make(p SinkParams) (SinkResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*sink{}
	}
	if p.ID == "" || len(p.ID) > maxID || s.open[p.ID] != nil || len(s.open) >= maxSinks {
		return SinkResult{}, badRequest("a sink needs a new id of 1 to %d bytes, and %d are the most (%q, %d are open)", maxID, maxSinks, p.ID, len(s.open))
	}
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return SinkResult{}, fmt.Errorf("open sink: %w", err)
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // without it a long spray shows as loss, which a probe tells apart by trying without the fault
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer)
		})
	}
	k := &sink{conn: conn, more: make(chan struct{}, 1), seen: map[uint32]bool{}}
	s.open[p.ID] = k
	go func() {
		_ = conn.SetReadDeadline(time.Now().Add(sinkLife))
		k.read()
		s.forget(p.ID, k)
	}()
	return SinkResult{Port: conn.LocalAddr().(*net.UDPAddr).Port}, nil
}

func (s *sinks) forget(id string, k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] == k {
		delete(s.open, id)
	}
	_ = k.conn.Close() // nothing is to be flushed
}

func (k *sink) read() {
	b := make([]byte, datagramMost+1)
	for {
		n, err := k.conn.Read(b)
		if err != nil {
			return
		}
		k.take(b[:n], monotonic())
		select {
		case k.more <- struct{}{}:
		default:
		}
	}
}

func (k *sink) take(b []byte, now int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.total++; k.total == 1 {
		k.first = now
	} else {
		k.res.Bytes += len(b) + headersOfUDP
	}
	k.last = now
	if len(b) < datagramLeast || crc32.ChecksumIEEE(b[datagramNumber:]) != binary.BigEndian.Uint32(b) {
		k.res.Corrupted++
		return
	}
	number := binary.BigEndian.Uint32(b[datagramNumber:])
	switch {
	case k.seen[number]:
		k.res.Duplicated++
		return
	case number < k.highest:
		k.res.Reordered++
	}
	k.seen[number], k.highest = true, max(k.highest, number)
	k.res.Received++
	k.ways = append(k.ways, time.Duration(now-int64(binary.BigEndian.Uint64(b[datagramSent:])))) //nolint:gosec // a time
}

// drain waits for datagrams and closes the sink.
func (s *sinks) drain(ctx context.Context, p DrainParams) (DrainResult, error) {
	s.mu.Lock()
	k := s.open[p.ID]
	s.mu.Unlock()
	if k == nil || p.QuietMS < 0 || p.BoundMS < 0 {
		return DrainResult{}, badRequest("there is no sink %q, or its times are negative (%v ms, %v ms)", p.ID, p.QuietMS, p.BoundMS)
	}
	k.await(ctx, p)
	s.forget(p.ID, k)
	return k.result(), nil
}

func (k *sink) await(ctx context.Context, p DrainParams) {
	bound := time.NewTimer(min(milliseconds(p.BoundMS), maxDrain))
	defer bound.Stop()
	quiet := time.NewTimer(milliseconds(p.QuietMS))
	defer quiet.Stop()
	for k.count() < p.Want {
		select {
		case <-k.more:
			quiet.Reset(milliseconds(p.QuietMS))
		case <-quiet.C:
			if !k.pending() {
				return
			}
			quiet.Reset(milliseconds(p.QuietMS)) // on a busy machine the reader is late, not the datagrams
		case <-bound.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pending tells whether something has come that nobody has read yet.
func (k *sink) pending() bool {
	raw, err := k.conn.SyscallConn()
	if err != nil {
		return false
	}
	waiting := 0
	_ = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return waiting > 0
}

func (k *sink) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.res.Received
}

func (k *sink) result() DrainResult {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.res
	if n := len(k.ways); n > 0 {
		slices.Sort(k.ways)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		r.LeastMS, r.MedianMS, r.MostMS = ms(k.ways[0]), ms(k.ways[n/2]), ms(k.ways[n-1])
	}
	r.FirstMS, r.LastMS = float64(k.first)/1e6, float64(k.last)/1e6
	return r
}

// monotonic is the machine's clock that nothing moves; containers of one machine share it.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails only for clocks that do not exist
	return t.Nano()
}

// spray sends numbered datagrams.
func spray(p SprayParams) (SprayResult, error) {
	host, port, err := net.SplitHostPort(p.Address)
	if err != nil || p.Count < 1 || p.Count > maxSpray || p.Bytes < datagramLeast || p.Bytes > datagramMost {
		return SprayResult{}, badRequest("a spray needs an address host:port, a count of 1 to %d and %d to %d bytes (%q, %d, %d)",
			maxSpray, datagramLeast, datagramMost, p.Address, p.Count, p.Bytes)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { // damage shall arrive
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }), err)
	}}
	conn, err := d.Dial("udp4", net.JoinHostPort(host, port))
	if err != nil {
		return SprayResult{}, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is read
	var res SprayResult
	b := make([]byte, p.Bytes)
	for i := datagramFill; i < len(b); i++ {
		b[i] = byte(i)
	}
	for i := range p.Count {
		binary.BigEndian.PutUint32(b[datagramNumber:], uint32(i))             //nolint:gosec // at most maxSpray
		binary.BigEndian.PutUint64(b[datagramSent:], uint64(monotonic()))     //nolint:gosec // not negative
		binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[datagramNumber:])) // over number, time and filling
		if _, err := conn.Write(b); err == nil || errors.Is(err, syscall.EPERM) {
			res.Sent++
		}
	}
	return res, nil
}

// resolve asks the name server that the node's own programs ask. A failed question is a result, not an error.
func resolve(ctx context.Context, p ResolveParams) (ResolveResult, error) {
	if p.Name == "" || p.TimeoutMS < 0 {
		return ResolveResult{}, badRequest("resolve needs a name and a timeout that is not negative (%q, %d ms)", p.Name, p.TimeoutMS)
	}
	bound := time.Duration(p.TimeoutMS) * time.Millisecond
	if bound == 0 {
		bound = defaultDial
	}
	ctx, cancel := context.WithTimeout(ctx, min(bound, maxDial))
	defer cancel()
	start := time.Now()
	r := net.Resolver{PreferGo: true}
	found, err := r.LookupNetIP(ctx, "ip4", p.Name)
	res := ResolveResult{TookMS: float64(time.Since(start).Microseconds()) / 1000}
	for _, a := range found {
		res.Addresses = append(res.Addresses, a.Unmap().String())
	}
	if err != nil {
		res.Error = err.Error()
	}
	return res, nil
}

// dial makes one TCP connection attempt. A failed one is a result, not an error.
func dial(ctx context.Context, p DialParams) (DialResult, error) {
	if _, _, err := net.SplitHostPort(p.Address); err != nil || p.TimeoutMS < 0 {
		return DialResult{}, badRequest("dial needs an address host:port and a timeout that is not negative (%q, %d ms)", p.Address, p.TimeoutMS)
	}
	bound := time.Duration(p.TimeoutMS) * time.Millisecond
	if bound == 0 {
		bound = defaultDial
	}
	d := net.Dialer{Timeout: min(bound, maxDial)}
	start := time.Now()
	conn, err := d.DialContext(ctx, "tcp", p.Address)
	res := DialResult{Connected: err == nil, TookMS: float64(time.Since(start).Microseconds()) / 1000}
	res.Reset = errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
	res.Answered = res.Connected || res.Reset
	if res.Connected {
		_ = conn.Close() // the handshake was all that was wanted
	} else {
		res.Error = err.Error()
	}
	return res, nil
}
