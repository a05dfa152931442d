package membershipd

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	subjectStatistics = "$SYS.SERVER.*.STATSZ"      // each server tells its own, every ten seconds
	askStatistics     = "$SYS.REQ.SERVER.%s.STATSZ" // by the server's id; without a reply subject, the answer is told to all
	resourcesInterval = 250 * time.Millisecond      // between two looks at the routes
	resourcesPatience = 2 * time.Second             // for the embedded server, which is in this process
	resourcesAsked    = 40                          // times for one route: the ten seconds until each server tells it anyway
	statisticsBuffer  = 64                          // messages that are heard between two looks; what does not fit is told again
)

// resources has every node to which a route is new tell its resources at once.
//
// The embedded server forgets what a peer told of its storage when a route to it comes up, and each server tells that every ten seconds. Until then
// the meta leader counts the peer among those that nothing can be placed on: after a node hung, or was cut off, for some seconds, every stream that needs
// it is refused with "no suitable peers for placement, peer offline", while all nodes are there and healthy. (Read and seen in nats-server 2.15.2:
// addRoute replaces the peer's nodeInfo, selectPeerGroup skips those without statistics.)
//
//	a new route to n2 -> n2 is asked, four times a second -> n2 tells all -> n2 can be placed on, here and on every other node
type resources struct {
	sys *nats.Conn // in the account SYS

	mu    sync.Mutex
	peers map[string]peerRoute // by node name
}

// peerRoute is what is known of the routes to one node.
type peerRoute struct {
	newest uint64 // the highest id of a route to it: ids are never used twice
	server string // the embedded server's id
	told   bool   // it told its resources after that route came up
	asked  int    // how often it was asked since
}

func newResources(sys *nats.Conn) *resources {
	return &resources{sys: sys, peers: map[string]peerRoute{}}
}

// run looks at the routes until ctx ends.
func (r *resources) run(ctx context.Context, routes func() []*server.RouteInfo) error {
	told := make(chan *nats.Msg, statisticsBuffer)
	sub, err := r.sys.ChanSubscribe(subjectStatistics, told)
	if err != nil {
		return fmt.Errorf("listen for statistics: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to close
	t := time.NewTicker(resourcesInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-told:
			r.hear(m.Data)
		case <-t.C:
			if r.look(routes()) {
				r.settle(ctx, told)
			}
			for _, id := range r.silent() {
				_ = r.sys.Publish(fmt.Sprintf(askStatistics, id), nil)
			}
		}
	}
}

// settle throws away what was told before a new route was seen: it may be from before that route, and forgotten with it.
func (r *resources) settle(ctx context.Context, told <-chan *nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, resourcesPatience)
	defer cancel()
	_ = r.sys.FlushWithContext(ctx) // afterwards, all that the server had for this connection is in the channel
	for {
		select {
		case <-told:
		default:
			return
		}
	}
}

// look notes the routes that there are and returns whether one is new.
func (r *resources) look(routes []*server.RouteInfo) (fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := map[string]peerRoute{}
	for name, route := range newestRoutes(routes) {
		p, ok := r.peers[name]
		if !ok || p.newest < route.Rid {
			p, fresh = peerRoute{newest: route.Rid, server: route.RemoteID}, true
		}
		now[name] = p
	}
	r.peers = now
	return fresh
}

// silent lists the servers that are to be asked now: they have told nothing since the newest route to them, and were not asked too often. One that still
// has nothing to tell, as a node that stays out, tells it by itself once it has.
func (r *resources) silent() (servers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, p := range r.peers {
		if p.told || p.asked == resourcesAsked || mutant.Planted == mutant.ResourcesNotAsked {
			continue
		}
		p.asked++
		r.peers[name] = p
		servers = append(servers, p.server)
	}
	return servers
}

// hear takes what a server tells of itself. Without JetStream's part it says nothing of where streams can be placed.
func (r *resources) hear(body []byte) {
	var m struct {
		Server struct {
			Name string `json:"name"`
			ID   string `json:"id"`
		} `json:"server"`
		Statistics struct {
			JetStream *struct {
				Config *struct{} `json:"config"`
				Stats  *struct{} `json:"stats"`
			} `json:"jetstream"`
		} `json:"statsz"`
	}
	if json.Unmarshal(body, &m) != nil || m.Statistics.JetStream == nil || m.Statistics.JetStream.Config == nil || m.Statistics.JetStream.Stats == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.peers[m.Server.Name]; ok && p.server == m.Server.ID {
		p.told = true
		r.peers[m.Server.Name] = p
	}
}

// told says whether a node told its resources since that route to it came up, or since a newer one.
func (r *resources) told(node string, route uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[node]
	return p.told && p.newest >= route
}
