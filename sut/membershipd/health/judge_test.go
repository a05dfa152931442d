package health_test

import (
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const second = time.Second

var bucketNames = []string{"users", "roles", "rooms", "members", "nodes", "settings"}

func group(leader string, ages map[string]time.Duration) health.Group {
	return health.Group{Exists: true, Size: 3, Leader: leader, IsLeader: leader == "n1", Current: true, MemberAge: ages}
}

// good is a node n1 of three which follows n2 and may call itself ready.
func good() health.Facts {
	f := health.Facts{
		Node: "n1", ClusterSize: 3, Started: true, JetStream: true, Internal: true, WantReplicas: 3, Sync: "always", ProbeAge: second, DiskAge: second, UsersLoaded: true,
		Meta: group("n2", map[string]time.Duration{"n2": second / 2, "n3": health.Never}),
		Peers: []health.PeerFacts{
			{Name: "n2", Age: second / 4, Connected: true, Told: true}, {Name: "n3", Age: second / 4, Connected: true, Told: true},
		},
	}
	for _, n := range bucketNames {
		f.Buckets = append(f.Buckets, health.BucketFacts{
			Name: n, Local: true, Replicas: 3, RemoteAge: health.Never,
			Group: group("n2", map[string]time.Duration{"n2": second / 2, "n3": health.Never}),
		})
	}
	f.Buckets = append(f.Buckets, f.Buckets[0])
	f.Buckets[6].Name, f.Buckets[6].Audit = "audit", true
	return f
}

// leading makes n1 the leader of everything, with those ages of the two others.
func leading(n2, n3 time.Duration) health.Facts {
	f := good()
	ages := map[string]time.Duration{"n2": n2, "n3": n3}
	f.Meta = group("n1", ages)
	for i := range f.Buckets {
		f.Buckets[i].Group = group("n1", ages)
	}
	return f
}

func with(f health.Facts, change func(*health.Facts)) health.Facts {
	change(&f)
	return f
}

func lone(f *health.Facts) {
	for i := range f.Peers {
		f.Peers[i].Connected = false
	}
}

func fresh(f *health.Facts) {
	f.Meta = health.Group{Exists: true, Size: 3, Fresh: true, Current: true}
	f.Buckets = nil
	for _, n := range bucketNames {
		f.Buckets = append(f.Buckets, health.BucketFacts{Name: n, RemoteAge: health.Never})
	}
	f.ProbeAge = health.Never
}

func atR1(remote time.Duration) func(*health.Facts) {
	return func(f *health.Facts) {
		f.WantReplicas = 1
		for i := range f.Buckets {
			f.Buckets[i] = health.BucketFacts{Name: f.Buckets[i].Name, Audit: f.Buckets[i].Audit, Replicas: 1, Leader: "n2", RemoteAge: remote}
		}
		f.Buckets[0].Local, f.Buckets[0].Leader, f.Buckets[0].RemoteAge = true, "n1", health.Never
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		facts   health.Facts
		ready   bool
		reasons []string // each must be found in one of the reasons
		have    int
		posture string
	}{
		{name: "a follower with everything", facts: good(), ready: true, have: 3, posture: "OK"},
		{name: "a leader with everything", facts: leading(second, second), ready: true, have: 3, posture: "OK"},
		{name: "a peer that has not told its resources", ready: true, have: 3, posture: "DEGRADED",
			facts: with(good(), func(f *health.Facts) { f.Peers[1].Told = false })},
		{name: "two survivors, seen by the leader", ready: true, have: 2, posture: "DEGRADED",
			facts: with(leading(second, 60*second), func(f *health.Facts) { f.Peers[1] = health.PeerFacts{Name: "n3", Age: 60 * second} })},
		{name: "two survivors, seen by the follower", ready: true, have: 2, posture: "DEGRADED",
			facts: with(good(), func(f *health.Facts) { f.Peers[1] = health.PeerFacts{Name: "n3", Age: health.Never} })},

		{name: "a leader left alone still leads, by its own account", have: 1, facts: with(leading(second, second), lone),
			reasons: []string{"no quorum: 1 of 3 nodes (n1), need 2", "leader without quorum: 1 of 3 replicas"}},
		{name: "a leader whose followers are stopped: routes are up, nobody answers", have: 1, facts: leading(4*second, 5*second),
			reasons: []string{"no quorum", "users: leader without quorum"}},
		{name: "a leader whose followers send heartbeats but do not replicate", have: 1, facts: leading(health.Never, 8*second), reasons: []string{"no quorum"}},
		{name: "a follower left alone", have: 1, reasons: []string{"no quorum", "no route to the meta leader n2"}, facts: with(good(), lone)},
		{name: "a follower whose leader hangs", have: 2, reasons: []string{"the meta leader n2 was last heard of 4s ago"},
			facts: with(good(), func(f *health.Facts) { f.Meta.MemberAge = map[string]time.Duration{"n2": 4 * second} })},
		{name: "a follower whose leader has just died", have: 2, reasons: []string{"no route to the meta leader n2", "users: there is no route to its leader n2"},
			facts: with(good(), func(f *health.Facts) { f.Peers[0].Connected = false })},
		{name: "an election", have: 3, reasons: []string{"no meta leader"},
			facts: with(good(), func(f *health.Facts) { f.Meta.Leader = "" })},
		{name: "the meta group is behind", have: 3, reasons: []string{"copy of the meta group is 7 entries behind"},
			facts: with(good(), func(f *health.Facts) { f.Meta.Current, f.Meta.Lag = false, 7 })},
		{name: "a meta group with a member too many", have: 3, reasons: []string{"the meta group has 4 members, and 3 are configured"},
			facts: with(good(), func(f *health.Facts) { f.Meta.Size = 4 })},
		{name: "a meta group that was bootstrapped too small", have: 3, reasons: []string{"the meta group has 2 members"},
			facts: with(good(), func(f *health.Facts) { f.Meta.Size = 2 })},
		{name: "no meta group", have: 3, reasons: []string{"the meta group has not started"},
			facts: with(good(), func(f *health.Facts) { f.Meta = health.Group{} })},

		{name: "a fresh node alone", have: 1, reasons: []string{"no quorum", "the first start of a cluster needs all 3 nodes (1 here)", "users: not seen yet"},
			facts: with(with(good(), fresh), lone)},
		{name: "two fresh nodes", have: 2, reasons: []string{"no meta leader", "the first start of a cluster needs all 3 nodes (2 here)"},
			facts: with(with(good(), fresh), func(f *health.Facts) { f.Peers = f.Peers[:1] })},
		{name: "waiting alone for the first start", have: 1, reasons: []string{"no quorum: 1 of 3 nodes (n1), need 2", "the first start"},
			facts: health.Facts{Node: "n1", ClusterSize: 3, Gathering: true, WantReplicas: 3, ProbeAge: health.Never}},
		{name: "two waiting for the first start", have: 2, reasons: []string{"the first start of a cluster needs all 3 nodes (2 here)"},
			facts: health.Facts{Node: "n1", ClusterSize: 3, Gathering: true, ProbeAge: health.Never, Peers: []health.PeerFacts{{Name: "n2", Connected: true}}}},

		{name: "a bucket without a leader", have: 3, reasons: []string{"rooms: no leader"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2].Group.Leader = "" })},
		{name: "a bucket whose leader hangs", have: 3, reasons: []string{"rooms: its leader n2 was last heard of 5s ago"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2].Group.MemberAge = map[string]time.Duration{"n2": 5 * second} })},
		{name: "a replica that catches up", have: 3, reasons: []string{"rooms: this node's replica is not current (12 entries behind)"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2].Group.Current, f.Buckets[2].Group.Lag = false, 12 })},
		{name: "a group of the wrong size", have: 3, reasons: []string{"rooms: its group has 2 members, and 3 are configured"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2].Group.Size = 2 })},
		{name: "a replica that did not start", have: 3, reasons: []string{"rooms: this node's replica has not started"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2].Group = health.Group{} })},
		{name: "a bucket that is not there", have: 3, reasons: []string{"rooms: not seen yet"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[2] = health.BucketFacts{Name: "rooms", RemoteAge: health.Never} })},
		{name: "the audit stream is not there", have: 3, reasons: []string{"audit: not seen yet"},
			facts: with(good(), func(f *health.Facts) {
				f.Buckets[6] = health.BucketFacts{Name: "audit", Audit: true, RemoteAge: health.Never}
			})},
		{name: "nothing is known of any bucket", have: 3, reasons: []string{"nothing is known"},
			facts: with(good(), func(f *health.Facts) { f.Buckets = nil })},
		{name: "R1 where R3 is wanted", have: 3, posture: "DEGRADED", reasons: []string{"users: has 1 of 3 replicas"},
			facts: with(good(), func(f *health.Facts) { f.Buckets[0] = health.BucketFacts{Name: "users", Local: true, Replicas: 1} })},
		{name: "R1, and the holder answers", ready: true, have: 3, posture: "DEGRADED", facts: with(good(), atR1(second))},
		{name: "R1, and the holder is down", have: 3, reasons: []string{"roles: its leader has not answered for 9s"}, facts: with(good(), atR1(9*second))},

		{name: "no write yet", have: 3, reasons: []string{"no write has gone through a quorum since this process started"},
			facts: with(good(), func(f *health.Facts) { f.ProbeAge = health.Never })},
		{name: "everything looks well, and writes do not go through", have: 3, reasons: []string{"no write has gone through a quorum for 4s"},
			facts: with(good(), func(f *health.Facts) { f.ProbeAge = 4 * second })},
		{name: "the disk is full", have: 3, reasons: []string{"the data directory does not take writes: no space left"},
			facts: with(good(), func(f *health.Facts) { f.DiskError = "no space left" })},
		{name: "the disk hangs", have: 3, reasons: []string{"nothing was synced in the data directory for 6s"},
			facts: with(good(), func(f *health.Facts) { f.DiskAge = 6 * second })},
		{name: "JetStream is disabled", have: 3, reasons: []string{"JetStream is not enabled"},
			facts: with(good(), func(f *health.Facts) { f.JetStream = false })},
		{name: "the internal connection is down", have: 3, reasons: []string{"own connection"},
			facts: with(good(), func(f *health.Facts) { f.Internal = false })},
		{name: "shutting down", have: 3, reasons: []string{"shutting down"},
			facts: with(good(), func(f *health.Facts) { f.ShuttingDown = true })},
		{name: "starting", have: 0, reasons: []string{"starting"}, facts: health.Facts{Node: "n1", ClusterSize: 3}},
		{name: "nothing at all", have: 0, reasons: []string{"starting"}, facts: health.Facts{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := health.Judge(tc.facts)
			if j.Ready != tc.ready {
				t.Errorf("ready = %t, want %t; reasons %q", j.Ready, tc.ready, j.Reasons)
			}
			for _, want := range tc.reasons {
				if !strings.Contains(strings.Join(j.Reasons, "\n"), want) {
					t.Errorf("no reason contains %q: %q", want, j.Reasons)
				}
			}
			if len(tc.reasons) > 0 && !strings.Contains(j.Reasons[0], tc.reasons[0]) {
				t.Errorf("the first reason is %q, want one that contains %q", j.Reasons[0], tc.reasons[0])
			}
			if j.Quorum.Have != tc.have {
				t.Errorf("quorum.have = %d, want %d", j.Quorum.Have, tc.have)
			}
			if tc.posture != "" && j.Posture.State != tc.posture {
				t.Errorf("posture = %s (%s), want %s", j.Posture.State, j.Posture.Why, tc.posture)
			}
		})
	}
}

// Every single fact that is needed is really needed: take one away from a ready node, and it is not ready any more.
func TestJudgeFailsClosed(t *testing.T) {
	for name, take := range map[string]func(*health.Facts){
		"started":   func(f *health.Facts) { f.Started = false },
		"jetstream": func(f *health.Facts) { f.JetStream = false },
		"internal":  func(f *health.Facts) { f.Internal = false },
		"meta":      func(f *health.Facts) { f.Meta = health.Group{} },
		"peers":     func(f *health.Facts) { f.Peers = nil },
		"buckets":   func(f *health.Facts) { f.Buckets = nil },
		"ages":      func(f *health.Facts) { f.Meta.MemberAge = nil },
		"bucket ages": func(f *health.Facts) {
			f.Buckets[3].Group.MemberAge = nil
		},
		"probe": func(f *health.Facts) { f.ProbeAge = health.Never },
		"disk":  func(f *health.Facts) { f.DiskAge = health.Never },
		"size":  func(f *health.Facts) { f.ClusterSize = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			if j := health.Judge(with(good(), take)); j.Ready {
				t.Error("ready without it")
			}
		})
	}
}
