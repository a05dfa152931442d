package membershipd

import (
	"sort"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	metaGroup   = "_meta_" // the embedded server's name for its meta group
	stateLeader = "LEADER"
	// currentGrace is how long a replica that was current may be behind before it counts as not current: under load the last
	// entries are always on their way.
	currentGrace = 1500 * time.Millisecond
)

// observer reads what the embedded server knows of itself, in process. It is used by one goroutine.
type observer struct {
	name     string
	srv      *server.Server
	assets   []asset
	remote   *remoteInfos
	beats    *heartbeats
	told     func(node string, route uint64) bool // since that route
	lastGood map[string]time.Time                 // by group: when this node's copy was last current
	clock    func() time.Time
}

func newObserver(name string, srv *server.Server, remote *remoteInfos, beats *heartbeats, told func(node string, route uint64) bool) *observer {
	return &observer{name: name, srv: srv, assets: assets(), remote: remote, beats: beats, told: told, lastGood: map[string]time.Time{}, clock: time.Now}
}

// observe fills in what comes from the embedded server.
func (o *observer) observe(f *health.Facts) {
	f.JetStream = o.srv.JetStreamEnabled()
	f.Meta = o.meta()
	f.Peers = o.peers(f.Meta)
	f.Buckets = o.buckets()
}

func (o *observer) meta() health.Group {
	groups := o.srv.Raftz(&server.RaftzOptions{GroupFilter: metaGroup})
	if groups == nil {
		return health.Group{}
	}
	for _, byName := range *groups {
		if g, ok := byName[metaGroup]; ok {
			out := o.group(g)
			out.Current = o.graced(metaGroup, o.srv.JetStreamIsCurrent())
			return out
		}
	}
	return health.Group{}
}

func (o *observer) group(g server.RaftzGroup) health.Group {
	out := health.Group{
		Exists: true, Size: g.Size, IsLeader: g.State == stateLeader,
		Fresh:     g.PIndex == 0 && !g.EverHadLeader,
		MemberAge: map[string]time.Duration{},
	}
	if out.IsLeader {
		out.Leader = o.name
	}
	for id, p := range g.Peers {
		if p.Name == "" {
			continue
		}
		age := health.Never
		if d, err := time.ParseDuration(p.LastSeen); err == nil {
			age = max(d, 0)
		}
		out.MemberAge[p.Name] = age
		if id == g.Leader {
			out.Leader = p.Name
		}
		if out.IsLeader && p.LastReplicatedIndex < g.Committed {
			out.Lag = max(out.Lag, g.Committed-p.LastReplicatedIndex)
		}
	}
	if !out.IsLeader && g.Applied < g.Committed {
		out.Lag = g.Committed - g.Applied
	}
	return out
}

// graced says whether a copy is current, or was a moment ago.
func (o *observer) graced(key string, current bool) bool {
	now := o.clock()
	if current {
		o.lastGood[key] = now
		return true
	}
	t, ok := o.lastGood[key]
	return ok && now.Sub(t) <= currentGrace
}

// peers joins what heartbeats, routes and the meta group tell of other nodes.
func (o *observer) peers(meta health.Group) []health.PeerFacts {
	routes := newestRoutes(routesOf(o.srv))
	names := map[string]bool{}
	for n := range meta.MemberAge {
		names[n] = true
	}
	for n := range routes {
		names[n] = true
	}
	ages := o.beats.ages()
	for n := range ages {
		names[n] = true
	}
	delete(names, o.name)
	var out []health.PeerFacts
	for n := range names {
		age, ok := ages[n]
		if !ok {
			age = health.Never
		}
		route, connected := routes[n]
		out = append(out, health.PeerFacts{Name: n, Age: age, Connected: connected, Told: connected && o.told(n, route.Rid)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// newestRoutes has, by node name, the newest of the routes to each node. A node that stays out has one, too, by which it asks; that is not the node.
func newestRoutes(routes []*server.RouteInfo) map[string]*server.RouteInfo {
	newest := map[string]*server.RouteInfo{}
	for _, r := range routes {
		if n := newest[r.RemoteName]; nameForm.MatchString(r.RemoteName) && (n == nil || r.Rid > n.Rid) {
			newest[r.RemoteName] = r
		}
	}
	return newest
}

// routesOf lists the routes that a server has; none while it starts or ends.
func routesOf(srv *server.Server) []*server.RouteInfo {
	rz, err := srv.Routez(nil)
	if err != nil {
		return nil
	}
	return rz.Routes
}

func (o *observer) buckets() []health.BucketFacts {
	local := o.localStreams()
	groups := o.streamGroups()
	var out []health.BucketFacts
	for _, a := range o.assets {
		f := health.BucketFacts{Name: a.label, Audit: a.audit, RemoteAge: health.Never}
		if s, ok := local[a.stream]; ok {
			o.fillLocal(&f, a, s, groups)
		} else {
			o.remote.fill(&f, a.stream)
		}
		out = append(out, f)
	}
	o.remote.want(missing(o.assets, local))
	return out
}

func missing(all []asset, local map[string]server.StreamDetail) []string {
	var names []string
	for _, a := range all {
		if _, ok := local[a.stream]; !ok {
			names = append(names, a.stream)
		}
	}
	return names
}

func (o *observer) fillLocal(f *health.BucketFacts, a asset, s server.StreamDetail, groups map[string]server.RaftzGroup) {
	f.Local, f.Bytes = true, s.State.Bytes
	if s.Config != nil {
		f.Replicas = s.Config.Replicas
		f.MaxBytes = uint64(max(s.Config.MaxBytes, 0))
	}
	if f.Replicas == 1 {
		f.Leader = o.name
		return
	}
	g, ok := groups[s.RaftGroup]
	if !ok {
		return
	}
	f.Group = o.group(g)
	f.Group.Current = o.graced(a.stream, o.srv.JetStreamIsStreamCurrent(accountControl, a.stream))
}

func (o *observer) localStreams() map[string]server.StreamDetail {
	out := map[string]server.StreamDetail{}
	d, err := o.srv.JszAccount(&server.JSzOptions{Account: accountControl, Streams: true, Config: true, RaftGroups: true})
	if err != nil {
		return out // nothing is local then, and the judgement says so
	}
	for _, s := range d.Streams {
		out[s.Name] = s
	}
	return out
}

func (o *observer) streamGroups() map[string]server.RaftzGroup {
	groups := o.srv.Raftz(&server.RaftzOptions{AccountFilter: accountControl})
	if groups == nil {
		return nil
	}
	return (*groups)[accountControl]
}
