package membershipd

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

// readyFacts is the least that is judged ready.
func readyFacts() health.Facts {
	seen := map[string]time.Duration{"n2": 0, "n3": 0}
	g := health.Group{Exists: true, Size: 3, Leader: "n1", IsLeader: true, Current: true, MemberAge: seen}
	return health.Facts{
		Node: "n1", ClusterSize: 3, Started: true, JetStream: true, Internal: true, WantReplicas: 3, Meta: g, UsersLoaded: true,
		Peers:   []health.PeerFacts{{Name: "n2", Connected: true}, {Name: "n3", Connected: true}},
		Buckets: []health.BucketFacts{{Name: "b", Local: true, Replicas: 3, Group: g}},
	}
}

// An evaluator that hangs in the embedded server's locks leaves an old judgement behind, which must not be taken for a new one.
func TestStaleJudgementIsNotReady(t *testing.T) {
	e := newEvaluator(slog.New(slog.DiscardHandler), readyFacts, func(_, _ *snapshot) {})
	if v := e.view(); v.Ready || len(v.Reasons) == 0 {
		t.Errorf("ready before anything was judged: %+v", v)
	}
	e.evaluate()
	if v := e.view(); !v.Ready {
		t.Fatalf("not ready: %v", v.Reasons)
	}
	old := *e.latest.Load()
	old.at = old.at.Add(-health.StaleLimit - time.Second)
	e.latest.Store(&old)
	if v := e.view(); v.Ready || !strings.HasPrefix(v.Reasons[0], "stale: ") {
		t.Errorf("an old judgement counts: %+v", v)
	}
	if ok, why := e.gentle(); !ok {
		t.Errorf("the gentle endpoint does not ride it out: %s", why)
	}
	old.at = old.at.Add(-health.GentleLimit)
	e.latest.Store(&old)
	if ok, _ := e.gentle(); ok {
		t.Error("the gentle endpoint rides out everything")
	}
}

func TestEvaluatorHangs(t *testing.T) {
	release := make(chan struct{})
	calls := 0
	e := newEvaluator(slog.New(slog.DiscardHandler), func() health.Facts {
		if calls++; calls > 1 {
			<-release
		}
		return readyFacts()
	}, func(_, _ *snapshot) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { e.run(ctx); close(done) }()
	defer func() { cancel(); close(release); <-done }()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for wasReady := false; ; {
		v := e.view()
		if wasReady && !v.Ready {
			return
		}
		wasReady = wasReady || v.Ready
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("a hanging evaluator is still ready")
		}
	}
}

func TestWantedNeverShrinks(t *testing.T) {
	var w wanted
	for _, tc := range []struct {
		n    int
		news bool
		want int
	}{{1, true, 1}, {3, true, 3}, {1, false, 3}, {3, false, 3}, {5, true, 5}} {
		if news := w.raise(tc.n); news != tc.news || w.get() != tc.want {
			t.Errorf("raise(%d) = %t and then %d, want %t and %d", tc.n, news, w.get(), tc.news, tc.want)
		}
	}
}

// Only a meta leader that is current and hears from a majority may say that a bucket does not exist.
func TestLeads(t *testing.T) {
	if !leads(readyFacts()) {
		t.Fatal("a good leader does not lead")
	}
	for name, change := range map[string]func(*health.Facts){
		"follower":       func(f *health.Facts) { f.Meta.IsLeader = false },
		"not current":    func(f *health.Facts) { f.Meta.Current = false },
		"wrong size":     func(f *health.Facts) { f.Meta.Size = 2 },
		"left alone":     func(f *health.Facts) { f.Peers = nil },
		"peers silent":   func(f *health.Facts) { f.Meta.MemberAge = nil },
		"not started":    func(f *health.Facts) { f.Started = false },
		"no JetStream":   func(f *health.Facts) { f.JetStream = false },
		"nothing at all": func(f *health.Facts) { *f = health.Facts{} },
	} {
		f := readyFacts()
		change(&f)
		if leads(f) {
			t.Errorf("%s: leads", name)
		}
	}
}

func TestBackoff(t *testing.T) {
	for n := 1; n < 100; n++ {
		if d := backoff(n); d < bootstrapMin/2 || d > bootstrapMax+bootstrapMax/4 {
			t.Errorf("after %d failures: %s", n, d)
		}
	}
}
