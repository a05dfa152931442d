package membershipd

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
)

// Settings of the catch-up watch.
const (
	catchupInterval = time.Second
	catchupActive   = 3 * time.Second // a replica that was heard of so lately is there
	catchupPatience = 3               // looks in a row before it counts as stuck: a healthy catch-up of a small lag takes less
	catchupRest     = 8               // looks after a snapshot before the next one for the same replica
)

// catchup helps replicas that are there, connected, and do not catch up.
//
// A leader that was cut off while clients still reached it comes back with a tail of entries that never got a majority. nats-server from 2.14.5 on at the latest
// (seen up to 2.15.2) drops that tail one entry per catch-up attempt, and makes an attempt every two seconds: a node that had 300 such entries
// stayed behind for three minutes, on data that clients had been told is replicated three times. A snapshot taken by the stream's leader makes the next
// catch-up begin with it, which replaces the tail at once. It is what the leader does by itself every few minutes, and refuses by itself where it is unsafe.
// Raft groups of consumers have no such call; they wait for their own snapshots.
type catchup struct {
	srv    *server.Server
	log    *slog.Logger
	helped prometheus.Counter
	looks  map[laggard]int // looks in a row at which it lagged; below zero while it rests after a snapshot
}

// laggard is one replica of one stream.
type laggard struct{ account, stream, peer string }

func newCatchup(srv *server.Server, log *slog.Logger, helped prometheus.Counter) *catchup {
	return &catchup{srv: srv, log: log, helped: helped, looks: map[laggard]int{}}
}

func (c *catchup) run(ctx context.Context) {
	t := time.NewTicker(catchupInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.help()
		}
	}
}

func (c *catchup) help() {
	j, err := c.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return // JetStream is starting or ending: others say so
	}
	for _, l := range c.stuck(lagging(c.srv.Name(), j.AccountDetails, routesOf(c.srv))) {
		err := c.srv.JetStreamSnapshotStream(l.account, l.stream)
		c.log.Warn("a replica is there and does not catch up: a snapshot of the stream was taken for it", "account", l.account, "stream", l.stream, "replica", l.peer, "error", err)
		if err == nil {
			c.helped.Inc()
		}
	}
}

// lagging lists the replicas of streams that this node leads which are behind although they are connected and were heard of just now. A new leader
// reports peers that it never heard of as just heard of, so that the route decides.
func lagging(self string, accounts []*server.AccountDetail, routes []*server.RouteInfo) []laggard {
	linked := func(name string) bool {
		return slices.ContainsFunc(routes, func(r *server.RouteInfo) bool { return r.RemoteName == name })
	}
	var ls []laggard
	for _, a := range accounts {
		for _, s := range a.Streams {
			if s.Cluster == nil || s.Cluster.Leader != self {
				continue
			}
			for _, p := range s.Cluster.Replicas {
				if !p.Current && !p.Offline && p.Active <= catchupActive && linked(p.Name) {
					ls = append(ls, laggard{a.Name, s.Name, p.Name})
				}
			}
		}
	}
	return ls
}

// stuck counts one look and returns those that have lagged for long enough.
func (c *catchup) stuck(now []laggard) []laggard {
	looks := map[laggard]int{}
	var out []laggard
	for _, l := range now {
		n := c.looks[l] + 1
		if n >= catchupPatience {
			out = append(out, l)
			n = catchupPatience - catchupRest
		}
		looks[l] = n
	}
	c.looks = looks
	return out
}
