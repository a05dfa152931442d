package health

import (
	"fmt"
	"strings"
	"time"
)

// Limits of what still counts as recent. A node that lost its quorum must say so within 5 s; these leave room for a loaded machine.
const (
	// SeenLimit is how long ago a peer, or a group's leader, may last have been heard of. Raft heartbeats come every second.
	SeenLimit = 3 * time.Second
	// ProbeLimit is how long ago the last successful compare-and-set write may have been begun. One is tried every second.
	ProbeLimit = 3500 * time.Millisecond
	// DiskLimit is how long ago the last write that was synced in the data directory may have been begun. One is tried every second.
	DiskLimit = 5 * time.Second
	// StaleLimit is how old a judgement may be before it is worth nothing: the evaluator hangs, or the process was stopped.
	StaleLimit = 2 * time.Second
	// GentleLimit is how long the data plane is still offered to load balancers after the last sight of a quorum:
	// long enough for an election (4 to 9 s), which clients ride out on their own.
	GentleLimit = 12 * time.Second
)

// Never is the age of something that has not happened in this process's life.
const Never = time.Duration(-1)

// Facts is everything that a judgement rests on, collected at one moment. Ages are durations, or Never.
type Facts struct {
	Node         string
	ClusterSize  int  // configured: the number of routes
	ShuttingDown bool //
	Gathering    bool // the store is new: the embedded server starts when all nodes are there
	Started      bool // the embedded server runs
	JetStream    bool // JetStream is enabled
	Internal     bool // the control plane's own connection is up
	Meta         Group
	Peers        []PeerFacts
	Buckets      []BucketFacts // the six buckets, then the audit stream
	ProbeAge     time.Duration
	DiskAge      time.Duration // since the last write that was synced in the data directory was begun
	DiskError    string        // of the last attempt that ended; "" for none
	Store        string        // why the store keeps the embedded server from being started; "" for nothing
	WantReplicas int
	Sync         string
	UsersLoaded  bool // users, roles, rooms and members were read to their end since the process started
	Enforce      bool
}

// Group is a Raft group, seen from this node's own member of it.
type Group struct {
	Exists    bool
	Size      int    // members, as the group itself counts
	Leader    string // "" for none known
	IsLeader  bool
	Fresh     bool // its log is empty: the group has never been formed with this node
	Current   bool // what is committed is applied here
	Lag       uint64
	MemberAge map[string]time.Duration // by node name; a follower knows only its leader's
}

// PeerFacts is what this node knows of another, apart from Raft.
type PeerFacts struct {
	Name      string
	Age       time.Duration // of its last heartbeat
	Connected bool
	Told      bool // its resources, since the newest route to it came up
}

// BucketFacts is what this node knows of a bucket (or of the audit stream).
type BucketFacts struct {
	Name      string
	Audit     bool
	Local     bool          // this node holds a replica; Group is its Raft group if Replicas > 1
	Replicas  int           // configured now; 0 if not known
	Group     Group         //
	Leader    string        // told by the leader itself when the bucket is not local
	RemoteAge time.Duration // when the bucket is not local: since its leader last answered
	Bytes     uint64        // that its messages take, in this node's replica or else in its leader's
	MaxBytes  uint64        // 0 if not known
}

// Judgement is the outcome.
type Judgement struct {
	Ready   bool
	Reasons []string
	Quorum  Quorum
	Peers   []Peer
	Buckets []Bucket
	Audit   Bucket
	Posture Posture
}

// Judge decides. It fails closed: what is not known counts against the node.
func Judge(f Facts) Judgement {
	j := Judgement{Quorum: Quorum{Need: f.ClusterSize/2 + 1}}
	j.judgePeers(f)
	j.judgeProcess(f)
	if f.Started && f.JetStream {
		j.judgeMeta(f)
		j.judgeBuckets(f)
		j.judgeProbe(f)
		j.judgeUsers(f)
	}
	j.judgeDisk(f)
	j.judgePosture(f)
	j.Ready = len(j.Reasons) == 0
	return j
}

func (j *Judgement) refuse(format string, args ...any) {
	j.Reasons = append(j.Reasons, fmt.Sprintf(format, args...))
}

// judgePeers counts who takes part. A peer does when there is a route to it and it was heard of lately;
// a meta leader, which hears of every member through Raft, asks for that too: heartbeats may pass where replication does not.
func (j *Judgement) judgePeers(f Facts) {
	if f.Started || f.Gathering {
		j.Quorum.Have = 1
	}
	for _, p := range f.Peers {
		current := p.Connected && fresh(p.Age, SeenLimit)
		if f.Meta.IsLeader {
			current = current && fresh(f.Meta.age(p.Name), SeenLimit)
		}
		if f.Meta.Leader == p.Name {
			current = current && fresh(f.Meta.age(p.Name), SeenLimit)
		}
		if current {
			j.Quorum.Have++
		}
		j.Peers = append(j.Peers, Peer{Name: p.Name, SeenSeconds: seconds(p.Age), Current: current, Connected: p.Connected, Placeable: p.Connected && p.Told})
	}
}

func (j *Judgement) judgeProcess(f Facts) {
	switch {
	case f.ShuttingDown:
		j.refuse("shutting down")
	case f.Gathering:
		j.judgeGathering(f)
	case f.Store != "":
		j.refuse("%s", f.Store)
	case !f.Started:
		j.refuse("starting: the embedded server does not run yet")
	case !f.JetStream:
		j.refuse("JetStream is not enabled")
	case !f.Internal:
		j.refuse("the control plane's own connection to the embedded server is down")
	}
}

func (j *Judgement) judgeGathering(f Facts) {
	what := "waiting for all nodes"
	if j.Quorum.Have < j.Quorum.Need {
		what = j.noQuorum(f)
	}
	j.refuse("%s%s", what, f.firstStart(j.Quorum.Have))
}

func (j *Judgement) noQuorum(f Facts) string {
	return fmt.Sprintf("no quorum: %d of %d nodes (%s), need %d", j.Quorum.Have, f.ClusterSize, f.present(j.Peers), j.Quorum.Need)
}

func (j *Judgement) judgeMeta(f Facts) {
	quorum := j.Quorum.Have >= j.Quorum.Need
	if !quorum {
		j.refuse("%s%s", j.noQuorum(f), f.firstStart(j.Quorum.Have))
	}
	m := f.Meta
	switch {
	case !m.Exists:
		j.refuse("the meta group has not started")
	case m.Leader == "" && quorum:
		j.refuse("no meta leader%s", f.firstStart(j.Quorum.Have))
	case m.Leader == "":
	case !m.IsLeader && !f.connected(m.Leader):
		j.refuse("there is no route to the meta leader %s", m.Leader)
	case !m.IsLeader && !fresh(m.age(m.Leader), SeenLimit):
		j.refuse("the meta leader %s was last heard of %s ago", m.Leader, ago(m.age(m.Leader)))
	case !m.Current:
		j.refuse("this node's copy of the meta group is %d entries behind", m.Lag)
	}
	if m.Exists && m.Size != f.ClusterSize {
		j.refuse("the meta group has %d members, and %d are configured", m.Size, f.ClusterSize)
	}
}

func (j *Judgement) judgeBuckets(f Facts) {
	for _, b := range f.Buckets {
		why := b.problem(f)
		if why != "" {
			j.refuse("%s: %s", b.Name, why)
		}
		row := Bucket{
			Name: b.Name, Leader: b.leader(), Replicas: b.Replicas, WantReplicas: f.WantReplicas,
			Current: why == "" || b.onlyTooFew(f), Lag: b.Group.Lag, Exists: b.Replicas > 0, Local: b.Local,
			Bytes: b.Bytes, MaxBytes: b.MaxBytes,
		}
		if b.Audit {
			j.Audit = row
			continue
		}
		j.Buckets = append(j.Buckets, row)
	}
	if len(f.Buckets) == 0 {
		j.refuse("nothing is known of the control-plane buckets")
	}
}

func (j *Judgement) judgeProbe(f Facts) {
	switch {
	case f.ProbeAge == Never:
		j.refuse("no write has gone through a quorum since this process started")
	case !fresh(f.ProbeAge, ProbeLimit):
		j.refuse("no write has gone through a quorum for %s", ago(f.ProbeAge))
	}
}

func (j *Judgement) judgeDisk(f Facts) {
	switch {
	case f.DiskError != "":
		j.refuse("the data directory does not take writes: %s", f.DiskError)
	case !f.Started:
	case f.DiskAge == Never:
		j.refuse("nothing was synced in the data directory since this process started")
	case !fresh(f.DiskAge, DiskLimit):
		j.refuse("nothing was synced in the data directory for %s", ago(f.DiskAge))
	}
}

func (j *Judgement) judgeUsers(f Facts) {
	if !f.UsersLoaded {
		j.refuse("the users are not loaded yet")
	}
}

func (j *Judgement) judgePosture(f Facts) {
	var why []string
	if missing := f.ClusterSize - j.Quorum.Have; missing > 0 {
		why = append(why, fmt.Sprintf("%d of %d nodes missing", missing, f.ClusterSize))
	}
	if f.Started && f.JetStream {
		for _, p := range j.Peers {
			if p.Connected && !p.Placeable {
				why = append(why, fmt.Sprintf("new streams cannot be placed on %s: it has not told its resources yet", p.Name))
			}
		}
	}
	least, behind := f.WantReplicas, 0
	for _, b := range append(append([]Bucket(nil), j.Buckets...), j.Audit) {
		least = min(least, b.Replicas)
		if !b.Current || b.Lag > 0 {
			behind++
		}
	}
	if least < min(3, f.ClusterSize) {
		why = append(why, fmt.Sprintf("R%d: each bucket depends on single nodes", least))
	}
	if behind > 0 && least > 0 {
		why = append(why, fmt.Sprintf("%d streams with replicas that are behind", behind))
	}
	j.Posture = Posture{State: PostureOK, Why: strings.Join(why, "; "), Sync: f.Sync, Replicas: f.WantReplicas, Enforce: f.Enforce, ACL: f.Enforce}
	if len(why) > 0 {
		j.Posture.State = PostureDegraded
	}
}

// problem says why the bucket cannot be served through this node, or "".
func (b BucketFacts) problem(f Facts) string {
	if why := b.outage(f); why != "" {
		return why
	}
	if b.Replicas < f.WantReplicas {
		return fmt.Sprintf("has %d of %d replicas", b.Replicas, f.WantReplicas)
	}
	return ""
}

// onlyTooFew is true when the bucket works but has fewer replicas than wanted.
func (b BucketFacts) onlyTooFew(f Facts) bool {
	return b.outage(f) == "" && b.Replicas < f.WantReplicas
}

func (b BucketFacts) outage(f Facts) string {
	switch {
	case b.Replicas == 0:
		return "not seen yet"
	case !b.Local && !f.connected(b.Leader):
		return fmt.Sprintf("there is no route to its leader %s", b.Leader)
	case !b.Local && !fresh(b.RemoteAge, SeenLimit):
		return fmt.Sprintf("its leader has not answered for %s", ago(b.RemoteAge))
	case !b.Local, b.Replicas == 1:
		return ""
	}
	g := b.Group
	switch {
	case !g.Exists:
		return "this node's replica has not started"
	case g.Leader == "":
		return "no leader"
	case g.IsLeader && 1+g.seen(f) < b.Replicas/2+1:
		return fmt.Sprintf("leader without quorum: %d of %d replicas", 1+g.seen(f), b.Replicas)
	case !g.IsLeader && !f.connected(g.Leader):
		return fmt.Sprintf("there is no route to its leader %s", g.Leader)
	case !g.IsLeader && !fresh(g.age(g.Leader), SeenLimit):
		return fmt.Sprintf("its leader %s was last heard of %s ago", g.Leader, ago(g.age(g.Leader)))
	case g.Size != b.Replicas:
		return fmt.Sprintf("its group has %d members, and %d are configured", g.Size, b.Replicas)
	case !g.Current:
		return fmt.Sprintf("this node's replica is not current (%d entries behind)", g.Lag)
	}
	return ""
}

func (b BucketFacts) leader() string {
	if b.Local && b.Replicas > 1 {
		return b.Group.Leader
	}
	return b.Leader
}

func (g Group) age(name string) time.Duration {
	if a, ok := g.MemberAge[name]; ok {
		return a
	}
	return Never
}

// connected says whether there is a route to that node.
func (f Facts) connected(name string) bool {
	for _, p := range f.Peers {
		if p.Name == name {
			return p.Connected
		}
	}
	return false
}

// seen counts the other members that were heard of lately, and to which there still is a route.
func (g Group) seen(f Facts) int {
	n := 0
	for name, a := range g.MemberAge {
		if fresh(a, SeenLimit) && f.connected(name) {
			n++
		}
	}
	return n
}

// present names the nodes that take part.
func (f Facts) present(peers []Peer) string {
	names := []string{f.Node}
	for _, p := range peers {
		if p.Current {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ", ")
}

// firstStart explains the one start that a majority is not enough for.
func (f Facts) firstStart(have int) string {
	if !f.Gathering && !f.Meta.Fresh || have >= f.ClusterSize {
		return ""
	}
	return fmt.Sprintf("; this node's store is new, and the first start of a cluster needs all %d nodes (%d here)", f.ClusterSize, have)
}

func fresh(age, limit time.Duration) bool { return age >= 0 && age <= limit }

func ago(age time.Duration) string {
	if age < 0 {
		return "ever"
	}
	return age.Round(100 * time.Millisecond).String()
}

func seconds(age time.Duration) float64 {
	if age < 0 {
		return -1
	}
	return age.Seconds()
}
