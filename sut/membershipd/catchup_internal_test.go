package membershipd

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
)

func TestLaggingReplicas(t *testing.T) {
	stream := func(leader string, p server.PeerInfo) []*server.AccountDetail {
		return []*server.AccountDetail{{Name: "BUS", Streams: []server.StreamDetail{{
			Name: "ORDERS", Cluster: &server.ClusterInfo{Leader: leader, Replicas: []*server.PeerInfo{&p}}}}}}
	}
	route := []*server.RouteInfo{{RemoteName: "n2"}}
	for name, c := range map[string]struct {
		accounts []*server.AccountDetail
		routes   []*server.RouteInfo
		want     int
	}{
		"behind, connected, heard of":         {stream("n1", server.PeerInfo{Name: "n2", Active: time.Second}), route, 1},
		"current":                             {stream("n1", server.PeerInfo{Name: "n2", Current: true}), route, 0},
		"offline":                             {stream("n1", server.PeerInfo{Name: "n2", Offline: true}), route, 0},
		"silent":                              {stream("n1", server.PeerInfo{Name: "n2", Active: time.Minute}), route, 0},
		"no route: cut off, whatever is said": {stream("n1", server.PeerInfo{Name: "n2"}), nil, 0},
		"somebody else leads":                 {stream("n3", server.PeerInfo{Name: "n2"}), route, 0},
		"R1":                                  {[]*server.AccountDetail{{Name: "BUS", Streams: []server.StreamDetail{{Name: "S"}}}}, route, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lagging("n1", c.accounts, c.routes); len(got) != c.want {
				t.Errorf("lagging: %v, want %d", got, c.want)
			}
		})
	}
}

func TestStuckAfterPatienceAndThenRests(t *testing.T) {
	c := newCatchup(nil, slog.New(slog.DiscardHandler), prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}))
	l := laggard{"BUS", "ORDERS", "n2"}
	var at []int
	for look := 1; look <= 2*(catchupPatience+catchupRest); look++ {
		if len(c.stuck([]laggard{l})) > 0 {
			at = append(at, look)
		}
	}
	want := []int{catchupPatience, catchupPatience + catchupRest, catchupPatience + 2*catchupRest}
	if len(at) != len(want) || at[0] != want[0] || at[1] != want[1] || at[2] != want[2] {
		t.Errorf("helped at looks %v, want %v", at, want)
	}
	c.stuck(nil) // it caught up: the count begins anew
	if got := c.stuck([]laggard{l}); len(got) != 0 {
		t.Errorf("helped at the first look after it had caught up: %v", got)
	}
}
