package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/history"
)

func TestPayload(t *testing.T) {
	for _, size := range []int{0, 5, 6, 7, 8, 9, 128, 4096} {
		p := payload("pub-0.1", size)
		if got := idOf(p); got != "pub-0.1" {
			t.Errorf("size %d: id %q", size, got)
		}
		if size >= len("pub-0.1") && len(p) != size {
			t.Errorf("size %d: %d bytes", size, len(p))
		}
	}
}

func TestPayloadDamaged(t *testing.T) {
	p := payload("pub-0.1", 64)
	p[40] ^= 1
	if got := idOf(p); !strings.HasPrefix(got, "damaged:") {
		t.Errorf("a flipped bit went unseen: %q", got)
	}
	if got := idOf(p[:0]); got != "" {
		t.Errorf("empty payload has id %q", got)
	}
}

func TestStreamItemHeaderDisagrees(t *testing.T) {
	m := &message{Subject: "orders.p0", Hdrs: []byte("NATS/1.0\r\nNats-Msg-Id: a\r\n\r\n"), Data: payload("a", 32)}
	if got := streamItem(m); got.Value != "a" || got.Key != "orders.p0" {
		t.Errorf("got %+v", got)
	}
	m.Data = payload("b", 32)
	if got := streamItem(m); !strings.HasPrefix(got.Value, "damaged:") {
		t.Errorf("got %+v", got)
	}
}

func TestValuesAreUniqueAndRepeatable(t *testing.T) {
	a := &client{name: "pub-0", env: &Env{Seed: 7}}
	b := &client{name: "pub-1", env: &Env{Seed: 7}}
	c := &client{name: "pub-0", env: &Env{Seed: 8}}
	seen := map[string]bool{}
	for n := range 100 {
		for _, x := range []*client{a, b, c} {
			v := x.value(n)
			if seen[v] {
				t.Fatalf("%s twice", v)
			}
			seen[v] = true
		}
	}
	if a.value(3) != (&client{name: "pub-0", env: &Env{Seed: 7}}).value(3) {
		t.Error("the same seed gave another value")
	}
}

func TestLabels(t *testing.T) {
	e := &Env{}
	if a, b, c := e.label("pub"), e.label("pub"), e.label("kv"); a != "pub" || b != "pub2" || c != "kv" {
		t.Errorf("got %q %q %q", a, b, c)
	}
}

func TestIdentityKeepsItsSeed(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := id.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, _ = fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d", id, id, id, id, id, id, &id)
	_, _ = fmt.Fprintf(&out, "%+v", struct{ I Identity }{id})
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("made", "identity", id, "in", struct{ I Identity }{id})
	}
	b, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	if strings.Contains(out.String(), string(seed)) {
		t.Error("the seed was shown")
	}
	if !strings.Contains(out.String(), id.Public()) || !strings.HasPrefix(id.Public(), "U") {
		t.Errorf("the public key was not: %s", out.String())
	}
	if _, err := (Identity{}).sign(nil); err == nil {
		t.Error("an identity without a key signed")
	}
}

// Due times that pass while everything is busy are counted as skipped, and no more than the bound is ever in flight.
func TestOpenLoopBound(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	release := make(chan struct{})
	var inFlight, most atomic.Int64
	done := make(chan int)
	go func() {
		done <- openLoop(ctx, newPacer(5000, 0, 1), func(int) {
			if n := inFlight.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			inFlight.Add(-1)
		})
	}()
	for inFlight.Load() < maxInFlight && pause(ctx, time.Millisecond) {
	}
	pause(ctx, 20*time.Millisecond) // for due times to pass while everything is busy
	cancel()
	close(release)
	if skipped := <-done; skipped == 0 {
		t.Error("due times passed while all slots were busy, and none was counted as skipped")
	}
	if most.Load() > maxInFlight {
		t.Errorf("%d were in flight", most.Load())
	}
}

func TestPacerCatchUp(t *testing.T) {
	p := &pacer{interval: 10 * time.Millisecond, next: time.Now().Add(-35 * time.Millisecond)}
	if n := p.catchUp(); n < 4 {
		t.Errorf("gave up %d due times, at least 4 have passed", n)
	}
	if n := (&pacer{interval: time.Hour, next: time.Now().Add(time.Hour)}).catchUp(); n != 0 {
		t.Errorf("gave up %d due times that are to come", n)
	}
}

func TestMixPicksShares(t *testing.T) {
	c := &client{name: "kv-0", env: &Env{Seed: 1}}
	rng := c.rng()
	got := map[history.Kind]int{}
	for range 10000 {
		got[Mix{Put: 1, Create: 1, Update: 2, Get: 4, Direct: 2}.pick(rng)]++
	}
	for kind, want := range map[history.Kind]int{
		history.Put: 1000, history.Create: 1000, history.Update: 2000, history.Get: 4000, history.Direct: 2000,
	} {
		if n := got[kind]; n < want*8/10 || n > want*12/10 {
			t.Errorf("%s: %d of 10000, want about %d", kind, n, want)
		}
	}
}

// An update follows a read of the same key, with the revision that was read; a key that does not exist is not updated.
func TestRegisterPlan(t *testing.T) {
	c := &client{name: "kv-0", env: &Env{Seed: 1}}
	r := &register{target: "b", prefix: "k", keys: 1, mix: Mix{Update: 1}}
	m := &memory{rng: c.rng(), seen: map[string]uint64{}}
	op := r.plan(m)
	if op.Kind != history.Get || op.Key != "k0" {
		t.Fatalf("planned %+v without a revision", op)
	}
	m.learn(op, history.OK) // it does not exist
	if op = r.plan(m); op.Kind != history.Get {
		t.Fatalf("planned %+v on a key that does not exist", op)
	}
	op.Seq = 9
	m.learn(op, history.OK)
	if op = r.plan(m); op.Kind != history.Update || op.Prev != 9 {
		t.Fatalf("planned %+v after reading revision 9", op)
	}
	m.learn(op, history.Failed)
	if op = r.plan(m); op.Kind != history.Get {
		t.Errorf("planned %+v after a conflict", op)
	}
}

func TestEnvStats(t *testing.T) {
	rec, err := history.NewRecorder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{Recorder: rec}
	for _, o := range []history.Outcome{history.OK, history.OK, history.Failed, history.Unknown} {
		e.count(o)
	}
	if ops, ok, failed, unknown := e.Stats(); ops != 4 || ok != 2 || failed != 1 || unknown != 1 {
		t.Errorf("got %d %d %d %d", ops, ok, failed, unknown)
	}
}
