package faults

import (
	"context"
	"sync"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

const (
	// renewEvery is four times per lease: three may be lost before the fault heals by itself.
	renewEvery = agent.Lease / 4
	// renewTimeout gives up on a renewal before the next but one is due.
	renewTimeout = agent.Lease / 2
)

// keeper renews the lease of one fault while it is wanted.
type keeper struct {
	mu    sync.Mutex
	began time.Time
	stop  func() // ends the renewals; nil while there are none
}

// nodes renews the leases of these nodes' agents until end.
func (k *keeper) nodes(ctx context.Context, nodes []cluster.Node) error {
	var hosts []host
	for _, n := range nodes {
		h, err := newHost(n)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	k.begin(ctx, hosts)
	return nil
}

// begin renews the leases until end.
func (k *keeper) begin(ctx context.Context, hosts []host) {
	var renewals []func(context.Context) error
	for _, h := range hosts {
		renewals = append(renewals, func(ctx context.Context) error { return h.agent.Call(ctx, agent.MethodRenew, nil, nil) })
	}
	k.renew(ctx, renewals)
}

// renew calls each of them again and again until end, each in a goroutine of its own: one that hangs must not cost the others their lease.
func (k *keeper) renew(ctx context.Context, renewals []func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the fault outlives the call that injects it
	var wg sync.WaitGroup
	for _, r := range renewals {
		wg.Go(func() { again(ctx, r) })
	}
	k.mu.Lock()
	old := k.stop
	k.began = time.Now()
	k.stop = func() { cancel(); wg.Wait() }
	k.mu.Unlock()
	if old != nil {
		old()
	}
}

// end stops the renewals; idempotent.
func (k *keeper) end() {
	k.mu.Lock()
	stop := k.stop
	k.stop = nil
	k.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// since is when the fault was injected last.
func (k *keeper) since() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.began
}

// again ignores errors: a lease that runs out shows in the probes, and that is what counts.
func again(ctx context.Context, renew func(context.Context) error) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			call, cancel := context.WithTimeout(ctx, renewTimeout)
			_ = renew(call)
			cancel()
		}
	}
}
