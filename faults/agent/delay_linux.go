package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

const (
	// queueLength is how many packets the kernel keeps for the agent; beyond that they are lost, as in a full router.
	queueLength = 16384
	// queueBase is the number of the first queue; each delay has one of its own.
	queueBase = 7000
	// queueSpan is how many numbers there are before they come round again.
	queueSpan = 10_000
	// queueQuiet is how long nothing may come out of the kernel's queue before it counts as empty.
	queueQuiet = 5 * time.Millisecond
	// queueClose bounds the wait for that.
	queueClose = 200 * time.Millisecond
)

// delayer holds packets back that nftables hands over. They leave in the order in which they came: a path that is slow does not reorder.
//
//	nft rule: peer in set -> NFQUEUE(bypass) -> kernel queue -> take (due = now + delay +- jitter) -> held -> release -> accept
//
// Without the agent the rule passes packets on (bypass), and its set elements expire: neither its death nor its freeze leaves a black hole.
type delayer struct {
	queue  *nfqueue.Nfqueue
	cancel context.CancelFunc
	held   chan heldPacket
	flush  chan struct{} // closed: what is held leaves at once
	done   chan struct{} // closed when the last one has left

	delay, jitter time.Duration
	rng           *rand.Rand // only used by take
	last          time.Time  // due time of the packet before; only used by take
	taken         atomic.Uint64
}

type heldPacket struct {
	id  uint32
	due time.Time
}

// newDelayer binds a queue; no packet comes before a rule sends some there.
func newDelayer(number uint16, p PartitionParams) (*delayer, error) {
	q, err := nfqueue.Open(&nfqueue.Config{
		NfQueue: number, MaxQueueLen: queueLength, Copymode: nfqueue.NfQnlCopyMeta, Flags: nfqueue.NfQaCfgFlagGSO, WriteTimeout: time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("open packet queue: %w", explainQueue(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &delayer{
		queue: q, cancel: cancel, held: make(chan heldPacket, queueLength), flush: make(chan struct{}), done: make(chan struct{}),
		delay: milliseconds(p.DelayMS), jitter: milliseconds(p.JitterMS), rng: rand.New(rand.NewPCG(p.Seed, 0)), //nolint:gosec // repeatable on purpose
	}
	if err := q.RegisterWithErrorFunc(ctx, d.take, func(error) int { return 0 }); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("bind packet queue: %w", explainQueue(err)), q.Close())
	}
	go d.release(ctx)
	return d, nil
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func explainQueue(err error) error {
	return &Error{Code: CodeUnsupported, Text: fmt.Sprintf("this kernel or the agent's capabilities have no NFQUEUE (nfnetlink_queue, NET_ADMIN): %v", err)}
}

// take gives a packet its due time.
func (d *delayer) take(a nfqueue.Attribute) int {
	if a.PacketID == nil {
		return 0
	}
	d.taken.Add(1)
	wait := d.delay
	if d.jitter > 0 {
		wait += time.Duration(d.rng.Int64N(2*int64(d.jitter)+1)) - d.jitter
	}
	due := time.Now().Add(wait)
	if due.Before(d.last) {
		due = d.last
	}
	d.last = due
	d.held <- heldPacket{*a.PacketID, due}
	return 0
}

// release lets packets go when they are due, until the queue is closed.
func (d *delayer) release(ctx context.Context) {
	defer close(d.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		var p heldPacket
		select {
		case p = <-d.held:
		case <-ctx.Done():
			return
		}
		if wait := time.Until(p.due); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-d.flush:
			}
		}
		_ = d.queue.SetVerdict(p.id, nfqueue.NfAccept) // a failure means that the kernel does not have it any more
	}
}

// close lets everything go that is held, at once, and gives the queue back. The rule that feeds it must be gone.
func (d *delayer) close() error {
	close(d.flush)
	d.drain()
	d.cancel()
	<-d.done
	return d.queue.Close()
}

// drain waits until nothing comes any more and nothing is held.
func (d *delayer) drain() {
	end := time.NewTimer(queueClose)
	defer end.Stop()
	for {
		before := d.taken.Load()
		quiet := time.NewTimer(queueQuiet)
		select {
		case <-quiet.C:
			if d.taken.Load() == before && len(d.held) == 0 {
				return
			}
		case <-end.C:
			quiet.Stop()
			return
		}
	}
}

// toQueue is the xtables target NFQUEUE in its second revision (struct xt_NFQ_info_v2: number, how many, bypass): nf_tables' own
// queue expression is a module that many kernels do not have.
func toQueue(number uint16) expr.Any {
	info := xt.Unknown([]byte{byte(number), byte(number >> 8), 1, 0, 1, 0})
	return &expr.Target{Name: "NFQUEUE", Rev: 2, Info: &info}
}
