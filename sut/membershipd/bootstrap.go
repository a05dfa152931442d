package membershipd

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	bootstrapMin     = 50 * time.Millisecond  // between two looks while something is missing
	bootstrapMax     = 2 * time.Second        // after many failures
	bootstrapSteady  = time.Second            // when there is nothing to do
	bootstrapTimeout = 5 * time.Second        // of one creation or update
	bootstrapAsk     = 700 * time.Millisecond // of one look at a stream: nobody answers during an election
	wantInterval     = 2 * time.Second        // between two looks at the cluster-wide setting

	// subjectWant tells the other nodes, in CONTROL, that the wanted number of replicas has changed. It is only a hint.
	subjectWant = "unibus.internal.replicas"
)

// wanted is the number of replicas that every bucket should have: the larger of the flag and the cluster-wide setting. It never shrinks.
type wanted struct {
	n atomic.Int64
}

func (w *wanted) get() int { return int(w.n.Load()) }

// raise returns whether that was news.
func (w *wanted) raise(n int) bool {
	for {
		old := w.n.Load()
		if int64(n) <= old {
			return false
		}
		if w.n.CompareAndSwap(old, int64(n)) {
			return true
		}
	}
}

// bootstrap makes the control plane's streams and scales them up. It is a loop and not a step: whatever is missing is tried again for ever.
//
//	look (locally) -> all there with enough replicas?  -> look again later
//	                  else, on the meta leader only:
//	                    the leader says "not found"    -> create at R
//	                    fewer replicas than wanted     -> update the replicas, nothing else, and look until they are current
//	                    anything else (not known)      -> leave it, try again
//
// It never scales down, and never creates what it merely cannot see.
type bootstrap struct {
	js     jsAPI
	log    *slog.Logger
	facts  func() (health.Facts, bool) // the latest facts, false while there are none
	want   *wanted
	kicks  chan struct{}
	size   int // of the cluster
	onWant func()
}

func (b *bootstrap) kick() {
	select {
	case b.kicks <- struct{}{}:
	default:
	}
}

func (b *bootstrap) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		wait := bootstrapSteady
		todo, err := b.step(ctx)
		if mutant.Planted == mutant.BootstrapGivesUp && (todo || err != nil) {
			return
		}
		switch {
		case err != nil:
			failures++
			wait = backoff(failures)
			b.log.Debug("bootstrap: try again", "error", err, "in", wait)
		case todo:
			failures, wait = 0, bootstrapMin
		default:
			failures = 0
		}
		b.pause(ctx, wait)
	}
}

// backoff doubles from bootstrapMin to bootstrapMax, with a jitter of a quarter.
func backoff(failures int) time.Duration {
	d := min(bootstrapMin<<min(failures-1, 10), bootstrapMax)
	return d - d/8 + rand.N(d/4+1)
}

func (b *bootstrap) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-b.kicks:
	case <-t.C:
	}
}

// step looks once. todo is true while something is missing that this node or another has to do.
func (b *bootstrap) step(ctx context.Context) (todo bool, err error) {
	f, ok := b.facts()
	if !ok {
		return true, nil
	}
	needy := b.needy(f)
	if len(needy) == 0 {
		return false, nil
	}
	if !leads(f) {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	errs := make([]error, len(needy))
	var wg sync.WaitGroup
	for i, a := range needy {
		wg.Go(func() { errs[i] = b.ensure(ctx, a) })
	}
	wg.Wait()
	return true, errors.Join(errs...)
}

// leads says whether this node may decide what exists: it leads the meta group, has applied all of it, and hears from a majority.
func leads(f health.Facts) bool {
	if !f.Started || !f.JetStream || !f.Meta.IsLeader || !f.Meta.Current || f.Meta.Size != f.ClusterSize {
		return false
	}
	return health.Judge(f).Quorum.Have >= f.ClusterSize/2+1
}

// needy lists what is missing or has too few replicas, as far as this node can see.
func (b *bootstrap) needy(f health.Facts) []asset {
	replicas := map[string]int{}
	for _, s := range f.Buckets {
		replicas[s.Name] = s.Replicas
	}
	var out []asset
	for _, a := range assets() {
		if replicas[a.label] < b.want.get() || mutant.Planted == mutant.BootstrapRecreates {
			out = append(out, a)
		}
	}
	return out
}

func (b *bootstrap) ensure(ctx context.Context, a asset) error {
	want := b.want.get()
	info, err := b.look(ctx, a.stream)
	if mutant.Planted == mutant.BootstrapRecreates && err != nil && !hasCode(err, codeStreamNotFound) {
		err = errors.Join(b.js.call(ctx, "$JS.API.STREAM.DELETE."+a.stream, struct{}{}, &struct{}{}), &apiError{ErrCode: codeStreamNotFound})
	}
	if hasCode(err, codeStreamNotFound) {
		if err := b.js.createStream(ctx, a.config(want)); err != nil {
			return err
		}
		b.log.Info("created", "stream", a.stream, "replicas", want)
		return nil
	}
	if err != nil || info.Config.Replicas >= want {
		return err
	}
	cfg := info.Config // everything else stays as it is
	cfg.Replicas = want
	if err := b.js.updateStream(ctx, cfg); err != nil {
		return err
	}
	b.log.Info("scaled up in place", "stream", a.stream, "from", info.Config.Replicas, "to", want)
	return nil
}

func (b *bootstrap) look(ctx context.Context, stream string) (jetstream.StreamInfo, error) {
	patience := bootstrapAsk
	if mutant.Planted == mutant.BootstrapRecreates {
		patience = bootstrapMin
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.js.streamInfo(ctx, stream)
}

// followSetting keeps the wanted number of replicas up to the cluster-wide setting.
func (b *bootstrap) followSetting(ctx context.Context, nc *nats.Conn) error {
	sub, err := nc.Subscribe(subjectWant, func(m *nats.Msg) { b.raise(string(m.Data)) })
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to close
	t := time.NewTicker(wantInterval)
	defer t.Stop()
	for {
		b.readSetting(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (b *bootstrap) readSetting(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, wantInterval)
	defer cancel()
	m, err := b.js.last(ctx, bucketStream(BucketSettings), keySubject(BucketSettings, control.SettingReplicas))
	if err != nil || m.seq == 0 {
		return // not there, or not readable now: what is known stands, for it only grows
	}
	b.raise(string(m.data))
}

func (b *bootstrap) raise(text string) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > b.size {
		b.log.Warn("ignore the setting: it is not a possible number of replicas", "name", control.SettingReplicas, "value", text)
		return
	}
	if b.want.raise(n) {
		b.log.Info("more replicas are wanted", "replicas", n)
		b.onWant()
		b.kick()
	}
}
