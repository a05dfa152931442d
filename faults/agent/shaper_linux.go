package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// queueQuiet is how long nothing may come out of the kernel's queue before it counts as empty.
	queueQuiet = 5 * time.Millisecond
	// queueClose bounds the wait for that.
	queueClose = 200 * time.Millisecond
	// maxBacklog is how far behind a limited rate may be, before packets are lost as in a full router. It bounds the delay, too.
	maxBacklog = 400 * time.Millisecond
	// takeAtOnce is how many packets are taken before those that are due are let go.
	takeAtOnce = 256
	// copyMark marks the copies of packets, which are not to be copied again.
	copyMark = 0x756e6931
	// lengthCopied is how much of a packet is read to learn its length: the IP header.
	lengthCopied = 20
	wholePacket  = 0xffff
)

// shaper does to packets what a bad link does. Packets that nftables hands over go through it in one thread:
//
//	nft rule: peer in set -> NFQUEUE(bypass) -> kernel's queue -> take -> held, until due -> release -> accept
//	                                                              |                            |
//	                                                              +-> lost                     +-> a copy, by a marked raw socket
//
// What a packet suffers is drawn from a seeded generator per direction, with as many numbers for each packet as for any other. Packets leave in the
// order in which they came, unless reordering is what was asked for.
//
// Without the agent the rule passes packets on (bypass), and its set elements expire: neither its death nor its freeze leaves a black hole.
type shaper struct {
	queue *queue
	raw   int // for copies; -1 when there are none
	wake  int // eventfd: read when the shaper shall end
	p     Impairment
	done  chan struct{}
	once  sync.Once

	// Only used by the thread.
	flows [2]flow // out, in
	held  heldQueue
	order uint64

	closing atomic.Bool
	stats   shaperStats
}

// flow is one direction.
type flow struct {
	rng  *rand.Rand
	last time.Time // due time of the latest packet: those after it wait for it
	free time.Time // when the limited link has sent everything
}

// shaperStats counts packets.
type shaperStats struct {
	taken, late, duplicated, corrupted, reordered, overrun atomic.Uint64
	lost                                                   [2]atomic.Uint64 // by direction, those of overrun included
}

// heldPacket waits for its time.
type heldPacket struct {
	id    uint32
	order uint64
	due   time.Time
	data  []byte // what the packet is now; nil when it is as it came
	copy  []byte // what is sent once more; nil for nothing
}

// newShaper binds a queue; no packet comes before a rule sends some there.
func newShaper(number uint16, p Impairment) (*shaper, error) {
	s := &shaper{p: p, raw: -1, done: make(chan struct{})}
	for i := range s.flows {
		s.flows[i].rng = rand.New(rand.NewPCG(p.Seed, uint64(i))) //nolint:gosec // repeatable on purpose
	}
	var err error
	if s.queue, err = openQueue(number, p.copied()); err != nil {
		return nil, err
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("make event: %w", err), s.queue.close())
	}
	if p.Duplicate > 0 {
		if s.raw, err = rawSocket(); err != nil {
			return nil, errors.Join(err, unix.Close(s.wake), s.queue.close())
		}
	}
	go s.run()
	return s, nil
}

// copied is how much of each packet has to be read. Where packets are changed or copied, or their length counts, large ones have to come in pieces: as
// they would be on a wire, with their checksums filled in.
func (p Impairment) copied() int {
	switch {
	case p.Duplicate > 0 || p.Corrupt > 0:
		return wholePacket
	case p.RateKbit > 0:
		return lengthCopied
	default:
		return 0
	}
}

// rawSocket is for packets that are complete, and marked.
func rawSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EPERM) {
		return -1, &Error{Code: CodeUnsupported, Text: "the agent lacks the capability NET_RAW, which copies of packets need"}
	}
	if err != nil {
		return -1, fmt.Errorf("open raw socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, copyMark); err != nil {
		return -1, errors.Join(fmt.Errorf("mark raw socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// run takes and releases packets until close.
func (s *shaper) run() {
	runtime.LockOSThread()
	defer close(s.done)
	fds := []unix.PollFd{{Fd: int32(s.queue.fd), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for !s.closing.Load() {
		s.release(time.Now())
		s.wait(fds)
		s.takeSome()
	}
	s.drain(fds[:1])
}

// wait ends when there is a packet, or one is due, or the shaper is to end.
func (s *shaper) wait(fds []unix.PollFd) {
	var until *unix.Timespec
	if due, some := s.held.first(); some {
		t := unix.NsecToTimespec(max(0, time.Until(due).Nanoseconds()))
		until = &t
	}
	_, _ = unix.Ppoll(fds, until, nil) // interrupted or not, the caller looks at everything
}

// takeSome reads what there is, and tells how many packets that were.
func (s *shaper) takeSome() int {
	for n := range takeAtOnce {
		p, ok := s.queue.read()
		if !ok {
			s.queue.flush()
			return n
		}
		s.take(p, time.Now())
	}
	s.queue.flush()
	return takeAtOnce
}

// take decides what a packet suffers.
func (s *shaper) take(p packet, now time.Time) {
	s.stats.taken.Add(1)
	if s.closing.Load() {
		s.queue.verdict(p.id, verdictAccept, nil)
		return
	}
	direction := 0
	if p.hook == hookIn {
		direction = 1
	}
	f := &s.flows[direction]
	lose, twice, spoil, ahead := f.chance(s.p.Loss), f.chance(s.p.Duplicate), f.chance(s.p.Corrupt), f.chance(s.p.Reorder)
	due := s.due(f, now, ahead)
	rated, full := s.rated(f, due, p.length)
	at := f.position(s.p.Corrupt)
	if lose || full {
		if full && !lose {
			s.stats.overrun.Add(1)
		}
		s.stats.lost[direction].Add(1)
		s.queue.verdict(p.id, verdictDrop, nil)
		return
	}
	h := heldPacket{id: p.id, order: s.order, due: rated}
	s.order++
	if spoil {
		h.data = spoiled(p.payload, at)
		s.stats.corrupted.Add(1)
	}
	if twice && direction == 0 {
		h.copy = append([]byte(nil), p.payload...)
		s.stats.duplicated.Add(1)
	}
	late := h.due.After(now)
	if late {
		s.stats.late.Add(1)
	}
	if late || s.held.len() > 0 {
		s.held.push(h)
		return
	}
	s.let(h) // nothing is before it, and it is due
}

// chance is true for so many in a thousand.
func (f *flow) chance(permille int) bool { return permille > 0 && f.rng.IntN(permilleWhole) < permille }

// position is a random one for a packet's spoiled bit.
func (f *flow) position(corrupt int) uint64 {
	if corrupt == 0 {
		return 0
	}
	return f.rng.Uint64()
}

// due is when a packet leaves, but for a limited rate. One that goes ahead is not delayed.
func (s *shaper) due(f *flow, now time.Time, ahead bool) time.Time {
	wait := milliseconds(s.p.DelayMS)
	if jitter := milliseconds(s.p.JitterMS); jitter > 0 {
		wait += time.Duration(f.rng.Int64N(2*int64(jitter)+1)) - jitter
	}
	if ahead {
		if f.last.After(now) {
			s.stats.reordered.Add(1)
		}
		return now
	}
	due := now.Add(wait)
	if due.Before(f.last) {
		due = f.last
	}
	f.last = due
	return due
}

// rated is when a link of a limited rate has sent the packet, and whether there is no room for it.
func (s *shaper) rated(f *flow, due time.Time, length int) (time.Time, bool) {
	if s.p.RateKbit == 0 {
		return due, false
	}
	start := due
	if f.free.After(start) {
		start = f.free
	}
	if start.Sub(due) > maxBacklog {
		return due, true
	}
	f.free = start.Add(time.Duration(length) * 8 * time.Second / time.Duration(s.p.RateKbit*1000))
	return f.free, false
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// spoiled is a packet with one bit the other way round, behind its IP header: checksums notice any single bit.
func spoiled(payload []byte, at uint64) []byte {
	out := append([]byte(nil), payload...)
	header := 0
	if len(out) > 0 {
		header = int(out[0]&0x0f) * 4
	}
	if body := len(out) - header; body > 0 {
		bit := at % uint64(8*body)
		out[header+int(bit/8)] ^= 1 << (bit % 8) //nolint:gosec // within the packet
	}
	return out
}

// read adds what the shaper knows.
func (s *shaper) read(r *PartitionResult) {
	r.Via = viaQueue
	r.DroppedOut, r.DroppedIn = s.stats.lost[0].Load(), s.stats.lost[1].Load()
	r.Delayed, r.Duplicated, r.Corrupted = s.stats.late.Load(), s.stats.duplicated.Load(), s.stats.corrupted.Load()
	r.Reordered, r.Overrun = s.stats.reordered.Load(), s.stats.overrun.Load()
	r.Overflow = queueLosses(s.queue.number)
}

// release lets packets go that are due.
func (s *shaper) release(now time.Time) {
	for {
		due, some := s.held.first()
		if !some || due.After(now) {
			break
		}
		s.let(s.held.pop())
	}
	s.queue.flush()
}

// let lets one packet go, and its copy after it.
func (s *shaper) let(h heldPacket) {
	s.queue.verdict(h.id, verdictAccept, h.data)
	if h.copy == nil {
		return
	}
	s.queue.flush()
	to := unix.SockaddrInet4{}
	copy(to.Addr[:], h.copy[offsetDestination:])
	_ = unix.Sendto(s.raw, h.copy, 0, &to) // a copy that the kernel has no room for is none: the receiver's count shows it
}

// close lets everything go that is held, at once, and gives the queue back. The rule that feeds it must be gone.
func (s *shaper) close() (err error) {
	s.once.Do(func() {
		s.closing.Store(true)
		_, err = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-s.done
		err = errors.Join(err, unix.Close(s.wake), s.queue.close())
		if s.raw >= 0 {
			err = errors.Join(err, unix.Close(s.raw))
		}
	})
	return err
}

// drain passes everything on until nothing comes any more.
func (s *shaper) drain(fds []unix.PollFd) {
	for s.held.len() > 0 {
		s.let(s.held.pop())
	}
	s.queue.flush()
	for end := time.Now().Add(queueClose); time.Now().Before(end); {
		t := unix.NsecToTimespec(queueQuiet.Nanoseconds())
		n, err := unix.Ppoll(fds, &t, nil)
		if s.takeSome() == 0 && n == 0 && err == nil {
			return
		}
	}
}

// heldQueue is a heap of packets by due time, and by order where that is the same.
type heldQueue struct{ p []heldPacket }

func (q *heldQueue) len() int { return len(q.p) }

func (q *heldQueue) first() (time.Time, bool) {
	if len(q.p) == 0 {
		return time.Time{}, false
	}
	return q.p[0].due, true
}

func (q *heldQueue) less(i, j int) bool {
	if c := q.p[i].due.Compare(q.p[j].due); c != 0 {
		return c < 0
	}
	return q.p[i].order < q.p[j].order
}

func (q *heldQueue) push(h heldPacket) {
	q.p = append(q.p, h)
	for i := len(q.p) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.less(i, parent) {
			return
		}
		q.p[i], q.p[parent] = q.p[parent], q.p[i]
		i = parent
	}
}

func (q *heldQueue) pop() heldPacket {
	top, last := q.p[0], len(q.p)-1
	q.p[0], q.p[last] = q.p[last], heldPacket{}
	q.p = q.p[:last]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < last && q.less(child, least) {
				least = child
			}
		}
		if least == i {
			return top
		}
		q.p[i], q.p[least] = q.p[least], q.p[i]
		i = least
	}
}
