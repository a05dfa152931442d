package membershipd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/health"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	accessDir        = "access"                  // in the data directory
	subjectApplied   = "unibus.internal.applied" // in CONTROL: what each node has applied
	announceInterval = time.Second
	announceFresh    = 3 * time.Second // a node that has not told for longer does not count as one that follows
	sweepInterval    = 5 * time.Second
	confirmInterval  = 10 * time.Second // between two notes on disk of how fresh the index is
	clockTolerance   = time.Minute      // by which a note on disk may be in the future
	saveRetry        = 5 * time.Second
)

// accessPlane holds who may do what on this node, and keeps it up to the buckets.
//
//	bucket -> follower -> journal (flushed) -> index -> connections that lost rights are closed -> "applied" is told to the other nodes
//	                                             ^
//	             authenticator (every connect) --+-- control API (every call)
type accessPlane struct {
	log      *slog.Logger
	node     string
	key      string // public, of this node's own identity
	enforce  bool
	maxStale time.Duration
	index    *access.Index
	sessions *sessions
	close    atomic.Pointer[func(cid uint64)] // ends a connection; nil until the server runs
	kicked   atomic.Uint64
	rewinds  atomic.Uint64
	applied  *appliedRevisions

	mu      sync.Mutex // one applies at a time, so that journal and index have the same order
	store   *access.Store
	lineage access.Lineage
	saved   bool // the disk has everything that the index has
	synced  [access.NumBuckets]bool
	tried   time.Time // the last attempt to save

	confirmed [access.NumBuckets]atomic.Pointer[time.Time] // when each bucket was last known to have nothing newer
	noted     time.Time                                    // what the disk says of an earlier process's confirmation
}

func newAccessPlane(c Config, log *slog.Logger) *accessPlane {
	return &accessPlane{
		log: log, node: c.Name, enforce: c.Enforce, maxStale: c.AuthMaxStaleness, index: access.NewIndex(), sessions: newSessions(),
		store: access.NewStore(c.accessDir()), applied: newAppliedRevisions(),
	}
}

// load reads what an earlier process knew. A damaged copy is set aside, and nobody is known until the buckets are read.
func (p *accessPlane) load() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := time.Now()
	x, err := p.store.Load()
	if x == nil {
		return fmt.Errorf("load the users: %w", err)
	}
	if err != nil {
		p.log.Error("the users on disk are not used", "error", err)
	}
	p.index, p.lineage, p.saved, p.noted = x, p.store.Lineage(), p.store.Ready(), p.store.Confirmed()
	if p.saved {
		p.log.Info("users loaded from disk", "users", x.Stats().Users, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// apply makes records durable and in force. It returns what went wrong with the disk; they are in force all the same.
func (p *accessPlane) apply(records []access.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.persist(records)
	p.enact(p.index.Apply(records...))
	if err == nil && p.saved && p.store.WantsSave(p.index) {
		err = p.save()
	}
	return err
}

func (p *accessPlane) persist(records []access.Record) error {
	if !p.saved {
		return nil // the first snapshot will have it
	}
	if mutant.Planted == mutant.DiskKeepsDisabled {
		records = slices.DeleteFunc(slices.Clone(records), func(r access.Record) bool { return bytes.Contains(r.Value, []byte(`"disabled":true`)) })
	}
	err := p.store.Append(records)
	if err != nil {
		p.saved = false
	}
	return err
}

func (p *accessPlane) save() error {
	p.tried = time.Now()
	if err := p.store.Save(p.index, p.lineage); err != nil {
		p.saved = false
		return err
	}
	p.saved = true
	return nil
}

// replace makes those records all there is in the bucket, which is not the one that it was, or lost its end.
func (p *accessPlane) replace(b access.Bucket, created string, last uint64, records []access.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index.Replace(b, last, records)
	p.lineage[b] = created
	err := p.save()
	p.recheck(p.sessions.list())
	return err
}

// bind notes which stream the bucket is, when nothing is known of it yet.
func (p *accessPlane) bind(b access.Bucket, created string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lineage[b] = created
}

func (p *accessPlane) boundTo(b access.Bucket) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lineage[b]
}

// caughtUp notes that nothing in the bucket was newer than the index at that moment. When that is so for all four, the index goes to disk.
func (p *accessPlane) caughtUp(b access.Bucket, at time.Time) {
	p.confirmed[b].Store(&at)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced[b] = true
	if p.saved || !p.allSynced() || time.Since(p.tried) < saveRetry {
		return
	}
	if err := p.save(); err != nil {
		p.log.Error("the users cannot be written to disk: after a restart without quorum this node will not know them", "error", err)
	}
}

func (p *accessPlane) isSynced(b access.Bucket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.synced[b]
}

func (p *accessPlane) allSynced() bool {
	for _, s := range p.synced {
		if !s {
			return false
		}
	}
	return true
}

// loaded says whether every bucket was read to its end since the process started.
func (p *accessPlane) loaded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.allSynced()
}

// durable returns what is in force and on disk.
func (p *accessPlane) durable() access.Revisions {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.saved {
		return access.Revisions{}
	}
	r, _ := p.index.Revisions()
	return r
}

// enact closes the connections that have not the rights any more that they were opened with, or have more now: rights are given at the login.
func (p *accessPlane) enact(effects []access.Effect) {
	if len(effects) > 0 {
		p.recheck(p.sessions.concerned(effects, p.index.IsMember))
	}
}

func (p *accessPlane) recheck(concerned map[uint64]session) {
	for cid, c := range concerned {
		if mutant.Planted == mutant.RightsAtLoginOnly {
			break
		}
		if login, err := p.index.Login(c.key); err == nil && p.sessionOf(c.key, login) == c {
			continue
		}
		p.sessions.remove(cid)
		if end := p.close.Load(); end != nil {
			p.kicked.Add(1)
			(*end)(cid)
		}
	}
}

// login says what the owner of the key may do now.
func (p *accessPlane) login(key string) (access.Login, error) {
	if p.stale() {
		return access.Login{}, errStale
	}
	return p.index.Login(key)
}

// caller says who the owner of the key is to the control API. It costs less than login, since it is asked for every request.
func (p *accessPlane) caller(key string) (name, control string, err error) {
	if p.stale() {
		return "", "", errStale
	}
	return p.index.Caller(key)
}

var errStale = errors.New("what this node knows of its users is older than --auth-max-staleness")

func (p *accessPlane) sessionOf(key string, l access.Login) session {
	return session{key: key, name: l.Name, role: l.Role, fingerprint: l.Fingerprint}
}

// age is since the index was last known to be current; negative if that is not known.
func (p *accessPlane) age() time.Duration {
	oldest := time.Duration(0)
	for i := range p.confirmed {
		t := p.confirmed[i].Load()
		if t == nil {
			return p.notedAge()
		}
		oldest = max(oldest, time.Since(*t))
	}
	return oldest
}

func (p *accessPlane) notedAge() time.Duration {
	age := time.Since(p.noted)
	switch {
	case p.noted.IsZero(), age < -clockTolerance:
		return health.Never
	}
	return max(age, 0)
}

// stale says whether the index is too old to let anybody in.
func (p *accessPlane) stale() bool {
	age := p.age()
	return p.maxStale > 0 && (age < 0 || age > p.maxStale)
}

// tend does what is due regularly, until ctx ends.
func (p *accessPlane) tend(ctx context.Context, nc *nats.Conn, alive func(cid uint64) bool) error {
	sub, err := nc.Subscribe(subjectApplied, func(m *nats.Msg) { p.applied.hear(p.node, m.Data) })
	if err != nil {
		return fmt.Errorf("listen for applied revisions: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to close
	announce, sweep, confirm := time.NewTicker(announceInterval), time.NewTicker(sweepInterval), time.NewTicker(confirmInterval)
	defer announce.Stop()
	defer sweep.Stop()
	defer confirm.Stop()
	p.announce(nc, access.Revisions{})
	for {
		select {
		case <-ctx.Done():
			p.note()
			return nil
		case <-announce.C:
			p.announce(nc, access.Revisions{})
		case <-sweep.C:
			p.sweep(alive)
		case <-confirm.C:
			p.note()
		}
	}
}

func (p *accessPlane) sweep(alive func(cid uint64) bool) {
	for cid := range p.sessions.list() {
		if !alive(cid) {
			p.sessions.remove(cid)
		}
	}
}

// note keeps on disk how fresh the index is.
func (p *accessPlane) note() {
	p.mu.Lock()
	defer p.mu.Unlock()
	age := p.age()
	if !p.saved || age < 0 {
		return
	}
	if err := p.store.Confirm(time.Now().Add(-age)); err != nil {
		p.log.Warn("note how fresh the users are", "error", err)
	}
}

// shut ends the use of the disk.
func (p *accessPlane) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store.Close()
}

// applyNotice is what nodes tell each other: what they have applied, and what they know to be written.
type applyNotice struct {
	Node    string           `json:"node"`
	Key     string           `json:"key"` // public, of the node's own identity
	Applied access.Revisions `json:"applied"`
	Written access.Revisions `json:"written"`
}

// announce tells the other nodes. It is a hint: whoever does not hear it finds out by itself.
func (p *accessPlane) announce(nc *nats.Conn, written access.Revisions) {
	body, err := json.Marshal(applyNotice{Node: p.node, Key: p.key, Applied: p.durable(), Written: written})
	if err == nil {
		_ = nc.Publish(subjectApplied, body)
	}
}

// appliedRevisions is what the other nodes have told.
type appliedRevisions struct {
	mu      sync.Mutex
	nodes   map[string]nodeApplied
	changed chan struct{}
	written func(access.Revisions) // called with what others know to be written
}

type nodeApplied struct {
	at       time.Time
	key      string
	revision access.Revisions
}

func newAppliedRevisions() *appliedRevisions {
	return &appliedRevisions{nodes: map[string]nodeApplied{}, changed: make(chan struct{})}
}

func (a *appliedRevisions) hear(self string, body []byte) {
	var n applyNotice
	if err := json.Unmarshal(body, &n); err != nil || n.Node == self || !nameForm.MatchString(n.Node) {
		return
	}
	a.mu.Lock()
	a.nodes[n.Node] = nodeApplied{at: time.Now(), key: n.Key, revision: n.Applied}
	close(a.changed)
	a.changed = make(chan struct{})
	written := a.written
	a.mu.Unlock()
	if written == nil {
		return
	}
	for b := range n.Written {
		n.Written[b] = max(n.Written[b], n.Applied[b])
	}
	written(n.Written)
}

// isNode says whether that is the key of another node's own identity. Nobody but nodes can tell it here.
func (a *appliedRevisions) isNode(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.nodes {
		if n.key != "" && n.key == key {
			return true
		}
	}
	return false
}

// onWritten sets who is told.
func (a *appliedRevisions) onWritten(f func(access.Revisions)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written = f
}

// behind lists which of the nodes have applied the revision and which have not, and says whether one of these is worth waiting for. nodes says of each
// whether it is there.
func (a *appliedRevisions) behind(nodes map[string]bool, b access.Bucket, revision uint64) (done, pending []string, wait bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, there := range nodes {
		told, ok := a.nodes[n]
		if ok && told.revision[b] >= revision {
			done = append(done, n)
			continue
		}
		pending = append(pending, n)
		wait = wait || there && (!ok || time.Since(told.at) <= announceFresh)
	}
	return done, pending, wait, a.changed
}

// waitApplied waits until this node has applied a revision.
func (p *accessPlane) waitApplied(ctx context.Context, b access.Bucket, revision uint64) error {
	for {
		r, changed := p.index.Revisions()
		if r[b] >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("this node does not follow the bucket at the moment")
		case <-changed:
		}
	}
}
