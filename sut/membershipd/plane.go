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
	waitingRecords   = 1 << 17 // that wait for the journal; with more, a snapshot is written instead
)

// accessPlane holds who may do what on this node, and keeps it up to the buckets.
//
//	bucket -> follower -> index -> connections that lost rights are closed
//	                        |  ^
//	                        |  +-- authenticator (every connect), control API (every call)
//	                        +----> journal (flushed) -> "applied" is told to the other nodes
//
// Only one goroutine, keep, waits for the disk. On a disk that hangs a change is in force and is never told as applied.
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

	mu      sync.Mutex // one applies at a time, so that journal and index have the same order; it is never held over the disk's work
	lineage access.Lineage
	synced  [access.NumBuckets]bool
	waiting []access.Record  // in force, and not in the journal yet
	saved   bool             // the disk has everything that the index has, but for what waits
	ondisk  access.Revisions // what it has, while saved
	saving  bool             // a snapshot is being written
	due     bool             // one is to be written
	renewed uint64           // times that something happened which only a snapshot that is begun later can tell
	tried   time.Time        // the last attempt to save

	store     *access.Store // used by load, then by keep
	unwritten chan struct{} // there is something for keep to do

	confirmed [access.NumBuckets]atomic.Pointer[time.Time] // when each bucket was last known to have nothing newer
	noted     time.Time                                    // what the disk says of an earlier process's confirmation
}

func newAccessPlane(c Config, log *slog.Logger) *accessPlane {
	return &accessPlane{
		log: log, node: c.Name, enforce: c.Enforce, maxStale: c.AuthMaxStaleness, index: access.NewIndex(), sessions: newSessions(),
		store: access.NewStore(c.accessDir()), unwritten: make(chan struct{}, 1), applied: newAppliedRevisions(),
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
		p.ondisk, _ = x.Revisions()
		p.log.Info("users loaded from disk", "users", x.Stats().Users, "took", time.Since(start).Round(time.Millisecond))
	}
	return nil
}

// apply puts records in force. keep brings them to the disk.
func (p *accessPlane) apply(records []access.Record) {
	if len(records) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enact(p.index.Apply(records...))
	if !p.saved && !p.saving {
		return // the first snapshot will have them
	}
	p.waiting = append(p.waiting, records...)
	if len(p.waiting) > waitingRecords {
		p.renew()
	}
	p.signal()
}

// replace makes those records all there is in the bucket, which is not the one that it was, or lost its end.
func (p *accessPlane) replace(b access.Bucket, created string, last uint64, records []access.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index.Replace(b, last, records)
	p.lineage[b] = created
	p.recheck(p.sessions.list())
	p.renew()
	p.signal()
}

// renew makes a snapshot what is next written: the journal cannot tell what happened.
func (p *accessPlane) renew() {
	p.saved, p.due, p.waiting = false, true, nil
	p.renewed++
}

func (p *accessPlane) signal() {
	select {
	case p.unwritten <- struct{}{}:
	default:
	}
}

// keep brings to the disk what is in force, and tells the other nodes, until ctx ends. Nothing else waits for it.
func (p *accessPlane) keep(ctx context.Context, nc *nats.Conn) {
	confirm := time.NewTicker(confirmInterval)
	defer confirm.Stop()
	defer p.store.Close()
	for {
		select {
		case <-ctx.Done():
			p.note()
			return
		case <-confirm.C:
			p.note()
		case <-p.unwritten:
			p.write()
			p.applied.wake()
			p.announce(nc, access.Revisions{})
		}
	}
}

// write brings the disk up to the index: by the journal, or by a snapshot.
func (p *accessPlane) write() {
	p.mu.Lock()
	records, renewed, due, saved := p.waiting, p.renewed, p.due, p.saved
	p.waiting = nil
	p.mu.Unlock()
	switch {
	case due:
		p.save()
	case saved && len(records) > 0:
		p.persist(records, renewed)
	}
}

func (p *accessPlane) persist(records []access.Record, renewed uint64) {
	kept := records
	if mutant.Planted == mutant.DiskKeepsDisabled {
		kept = slices.DeleteFunc(slices.Clone(records), func(r access.Record) bool { return bytes.Contains(r.Value, []byte(`"disabled":true`)) })
	}
	err := p.store.Append(kept)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.saved, p.waiting = false, nil
		p.log.Error("a change of users is in force, but not on this node's disk", "error", err)
	case p.renewed == renewed:
		for _, r := range records {
			p.ondisk[r.Bucket] = max(p.ondisk[r.Bucket], r.Revision)
		}
		if p.store.WantsSave(p.index) {
			p.due = true
			p.signal()
		}
	}
}

// save writes a snapshot. What is applied meanwhile waits for its journal, whether it is in the snapshot or not.
func (p *accessPlane) save() {
	p.mu.Lock()
	p.due, p.saving, p.waiting, p.tried = false, true, nil, time.Now()
	revisions, _ := p.index.Revisions()
	lineage, renewed := p.lineage, p.renewed
	p.mu.Unlock()
	err := p.store.Save(p.index, lineage)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saving, p.saved = false, err == nil && p.renewed == renewed
	if p.saved {
		p.ondisk = revisions
	} else {
		p.waiting = nil // the next one will have it
	}
	if err != nil {
		p.log.Error("the users cannot be written to disk: after a restart without quorum this node will not know them", "error", err)
	}
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
	if p.saved || p.saving || !p.allSynced() || time.Since(p.tried) < saveRetry {
		return
	}
	p.due = true
	p.signal()
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
	return p.ondisk
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
	announce, sweep := time.NewTicker(announceInterval), time.NewTicker(sweepInterval)
	defer announce.Stop()
	defer sweep.Stop()
	p.announce(nc, access.Revisions{})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-announce.C:
			p.announce(nc, access.Revisions{})
		case <-sweep.C:
			p.sweep(alive)
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

// note keeps on disk how fresh the index is, once the disk has what the index had at that moment.
func (p *accessPlane) note() {
	age, now := p.age(), time.Now()
	p.write()
	p.mu.Lock()
	saved := p.saved
	p.mu.Unlock()
	if !saved || age < 0 {
		return
	}
	if err := p.store.Confirm(now.Add(-age)); err != nil {
		p.log.Warn("note how fresh the users are", "error", err)
	}
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
	written := a.written
	a.mu.Unlock()
	a.wake()
	if written == nil {
		return
	}
	for b := range n.Written {
		n.Written[b] = max(n.Written[b], n.Applied[b])
	}
	written(n.Written)
}

// wake makes those who wait for a revision look again.
func (a *appliedRevisions) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
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
