package membershipd

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// TestClientsAreClosedBeforeRoutes: what a node that is about to stop has taken from a client reaches a subscriber at another node, although nobody moved
// the client in time.
func TestClientsAreClosedBeforeRoutes(t *testing.T) {
	const subject, all = "closing", 2000
	c := newInProcess(t, nil)
	c.startAll()
	sub, err := c.login(c.admin, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *nats.Msg, 2*all)
	if _, err := sub.ChanSubscribe(subject, got); err != nil {
		t.Fatal(err)
	}
	if err := sub.Flush(); err != nil {
		t.Fatal(err)
	}
	pub, err := c.login(c.admin, 1)
	if err != nil {
		t.Fatal(err)
	}
	untilTrue(t, "the subscription is known at the other node", func() bool {
		if err := pub.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-got:
			return true
		case <-time.After(settlePoll):
			return false
		}
	})
	for range all {
		if err := pub.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.FlushTimeout(settleWait); err != nil { // the server has taken them
		t.Fatal(err)
	}
	srv := c.nodes[1].running.Load().srv
	closeClients(srv)
	if srv.NumRoutes() == 0 {
		t.Error("its routes are closed")
	}
	untilTrue(t, "the client is closed", pub.IsClosed)
	c.stop(1)
	for n := 0; n < all; {
		select {
		case m := <-got:
			if len(m.Data) > 0 {
				n++
			}
		case <-time.After(settleWait):
			t.Fatalf("%d of %d messages arrived", n, all)
		}
	}
}
