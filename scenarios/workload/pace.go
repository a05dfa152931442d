package workload

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// maxInFlight bounds the operations that one open-loop client has in flight.
const maxInFlight = 64

// pacer says when operations are due: every interval, whatever became of the ones before.
type pacer struct {
	interval time.Duration
	next     time.Time
}

// newPacer starts the i-th of n clients a part of the interval later, so that they do not all move at once.
func newPacer(rate float64, i, n int) *pacer {
	iv := time.Duration(float64(time.Second) / rate)
	return &pacer{interval: iv, next: time.Now().Add(iv * time.Duration(i) / time.Duration(max(1, n)))}
}

// wait returns when the next operation is due; false when ctx ended first.
func (p *pacer) wait(ctx context.Context) bool {
	d := time.Until(p.next)
	p.next = p.next.Add(p.interval)
	return pause(ctx, d)
}

// catchUp gives up the due times that have passed and says how many there were.
func (p *pacer) catchUp() int {
	late := time.Since(p.next)
	if late <= 0 {
		return 0
	}
	n := int(late/p.interval) + 1
	p.next = p.next.Add(time.Duration(n) * p.interval)
	return n
}

// pause waits for d under ctx; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// openLoop starts work(n) at every due time, also while earlier ones are in flight, and returns when all have come back. A due time at which
// maxInFlight are out is skipped, and counted.
func openLoop(ctx context.Context, p *pacer, work func(n int)) (skipped int) {
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; p.wait(ctx); {
		select {
		case slots <- struct{}{}:
		default:
			skipped++
			continue
		}
		k := n
		n++
		wg.Go(func() {
			defer func() { <-slots }()
			work(k)
		})
	}
	return skipped
}

// closedLoop does one operation after the other, at due times or later.
func closedLoop(ctx context.Context, p *pacer, work func(n int)) (skipped int) {
	for n := 0; p.wait(ctx); n++ {
		work(n)
		skipped += p.catchUp()
	}
	return skipped
}

// backoff grows from base to limit; the k-th wait is spread over half its length, so that clients do not return together.
func backoff(rng *rand.Rand, base, limit time.Duration, k int) time.Duration {
	d := min(base<<min(k, 16), limit)
	return d/2 + time.Duration(rng.Int64N(int64(d/2)+1))
}

// until tries f until it succeeds, ctx ends, or within has passed. The last error comes back.
func until(ctx context.Context, within, every time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		var perm *permanentError
		if errors.As(err, &perm) || !pause(ctx, every) {
			return last
		}
	}
}

// permanentError ends until at once.
type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }
func (p *permanentError) Unwrap() error { return p.err }

// rng is a generator of one client's own, from the run's seed.
func (c *client) rng() *rand.Rand { return c.rngFor(c.name) }

func (c *client) rngFor(what string) *rand.Rand {
	return rand.New(rand.NewPCG(c.env.Seed, hash(what)))
}
