package membershipd

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func routeTo(name, id string, rid uint64) *server.RouteInfo {
	return &server.RouteInfo{RemoteName: name, RemoteID: id, Rid: rid}
}

func statistics(name, id, jetstream string) []byte {
	return fmt.Appendf(nil, `{"server": {"name": %q, "id": %q}, "statsz": {"jetstream": %s}}`, name, id, jetstream)
}

const fullStatistics = `{"config": {"max_storage": 1}, "stats": {"storage": 0}}`

func TestResourcesAreToldAgainAfterEveryNewRoute(t *testing.T) {
	r := newResources(nil)
	wantSilent := func(step string, want ...string) {
		t.Helper()
		got := r.silent()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: asks %q, want %q", step, got, want)
		}
	}
	wantSilent("without a route")
	if !r.look([]*server.RouteInfo{routeTo("n2", "A", 5), routeTo("n2", "A", 7), routeTo("n3", "B", 6), routeTo("", "C", 9)}) {
		t.Error("the first routes are not new")
	}
	wantSilent("two peers", "A", "B")
	for _, useless := range [][]byte{nil, []byte("{"), statistics("n2", "A", "null"), statistics("n2", "A", `{"config": {}}`), statistics("n2", "A", `{"stats": {}}`),
		statistics("n2", "B", fullStatistics), statistics("n4", "D", fullStatistics)} {
		r.hear(useless)
		wantSilent(fmt.Sprintf("after %s", useless), "A", "B")
	}
	r.hear(statistics("n2", "A", fullStatistics))
	wantSilent("n2 told", "B")
	if !r.told("n2", 5) || !r.told("n2", 7) || r.told("n2", 8) || r.told("n3", 6) || r.told("n4", 0) {
		t.Errorf("told: %+v", r.peers)
	}
	if r.look([]*server.RouteInfo{routeTo("n2", "A", 5), routeTo("n3", "B", 6)}) || !r.told("n2", 5) {
		t.Error("one of the routes to n2 ended, and that counts as a new one")
	}
	if !r.look([]*server.RouteInfo{routeTo("n2", "A", 5), routeTo("n2", "A", 8), routeTo("n3", "B", 6)}) || r.told("n2", 5) {
		t.Error("a new route to n2 is not one")
	}
	wantSilent("a new route", "A", "B")
	r.look([]*server.RouteInfo{routeTo("n3", "B", 6)})
	wantSilent("n2 is gone", "B")
	if !r.look([]*server.RouteInfo{routeTo("n2", "E", 9), routeTo("n3", "B", 6)}) {
		t.Error("a restarted n2 is not new")
	}
	wantSilent("n2 has restarted", "B", "E")
	for range resourcesAsked {
		r.silent()
	}
	wantSilent("asked often enough")
	r.hear(statistics("n2", "E", fullStatistics))
	if !r.told("n2", 9) {
		t.Error("a peer that told late is not heard")
	}
}

// TestResourcesAreAskedFor has a server in which the subjects are free: the peer is the test.
func TestResourcesAreAskedFor(t *testing.T) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, DontListen: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(srv.Shutdown)
	dial := func() *nats.Conn {
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	peer := dial()
	tell := func(id string) {
		if err := peer.Publish("$SYS.SERVER."+id+".STATSZ", statistics("n2", id, fullStatistics)); err != nil {
			t.Fatal(err)
		}
		if err := peer.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan *nats.Msg, 100*resourcesAsked)
	if _, err := peer.ChanSubscribe("$SYS.REQ.SERVER.*.STATSZ", asked); err != nil {
		t.Fatal(err)
	}
	if err := peer.Flush(); err != nil {
		t.Fatal(err)
	}
	r := newResources(dial())
	var rid atomic.Uint64
	rid.Store(1)
	var stale atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.run(ctx, func() []*server.RouteInfo {
			if stale.Swap(false) {
				tell("A") // before the new route, but heard after it was seen
				rid.Add(1)
			}
			return []*server.RouteInfo{routeTo("n2", "A", rid.Load())}
		})
	}()
	next := func() {
		t.Helper()
		select {
		case m := <-asked:
			if m.Subject != "$SYS.REQ.SERVER.A.STATSZ" || m.Reply != "" || len(m.Data) != 0 {
				t.Errorf("asked %s with reply %q: %s", m.Subject, m.Reply, m.Data)
			}
		case <-time.After(settleWait):
			t.Fatal("nobody asks")
		}
	}
	next()
	next()
	tell("A")
	untilTrue(t, "what is told is heard", func() bool { return r.told("n2", 1) })
	stale.Store(true)
	untilTrue(t, "the new route is seen", func() bool { return len(asked) > 0 && rid.Load() == 2 })
	for len(asked) > 0 {
		<-asked
	}
	next()
	if r.told("n2", 2) {
		t.Error("what was told before the new route counts")
	}
	tell("A")
	untilTrue(t, "what is told again is heard", func() bool { return r.told("n2", 2) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
