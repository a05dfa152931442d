package membershipd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	// How long a write that is done waits for the nodes to follow; those that take longer are named in the answer.
	followersWait = time.Second
	// How long a write that lost a race waits for the winner to arrive in the index before it looks again.
	raceWait = 50 * time.Millisecond
)

// plan is one record to be written. With unchanged set there is nothing to do, and revision is that of the record as it is.
type plan struct {
	key       string
	record    any  // nil deletes
	adds      bool // there is no such record yet
	unchanged bool
	revision  uint64
}

// commit makes one change of users, roles, rooms or members.
//
// A decision (this name is free, this key is nobody's, an administrator is left) is made on the index, which is the whole bucket at one revision. The
// write then demands that the bucket still ends at that revision; if it does not, somebody else was faster, and the decision is made again. So any
// number of nodes decide as if they were one, and a single message is all there is to write: nothing can be half done.
//
// What the caller may is part of the decision: it is looked at anew each time, and decide gets it. A change of users is thereby made with the rights as they
// were right before it, whatever is done to them while it waits; for the other buckets that holds of the rights that are in force on this node.
func (a *api) commit(ctx context.Context, who caller, what string, b access.Bucket, decide func(who caller) (plan, error)) (control.Change, error) {
	release, err := a.enter(ctx, b)
	if err != nil {
		return control.Change{}, err
	}
	p, seq, err := a.settle(ctx, who, what, b, decide)
	if err == nil && !p.unchanged {
		a.follow[b].hint(seq)
		a.plane.announce(a.js.nc, revisionOf(b, seq))
		a.wrote()
		local, cancel := context.WithTimeout(ctx, followersWait)
		_ = a.plane.waitApplied(local, b, seq) // the answer says which nodes have it
		cancel()
	}
	release()
	if err != nil {
		return control.Change{}, err
	}
	applied, pending := a.waitFollowers(ctx, b, seq)
	return control.Change{Revision: seq, Changed: !p.unchanged, Applied: applied, Pending: pending}, nil
}

func revisionOf(b access.Bucket, seq uint64) (r access.Revisions) {
	r[b] = seq
	return r
}

// enter makes this node's writes to a bucket wait for each other, rather than race.
func (a *api) enter(ctx context.Context, b access.Bucket) (release func(), err error) {
	if why := a.bucketDown(accessBuckets[b], b.String()); why != "" {
		return nil, control.Errorf(control.Unavailable, "%s", why)
	}
	select {
	case a.writing[b] <- struct{}{}:
		return func() { <-a.writing[b] }, nil
	case <-ctx.Done():
		return nil, control.Errorf(control.Unavailable, "other changes of %s did not let this one through", b)
	}
}

// settle decides and writes until a decision stands.
func (a *api) settle(ctx context.Context, who caller, what string, b access.Bucket, decide func(who caller) (plan, error)) (plan, uint64, error) {
	var tried plan
	var before attempt
	for {
		revisions, _ := a.plane.index.Revisions() // before the decision: what it does not know makes the write fail
		now, err := a.still(who)
		if err != nil {
			seq, err := a.notDone(ctx, b, before, err)
			return tried, seq, err // without an error it is done
		}
		who = now
		p, err := decide(who)
		if err != nil || p.unchanged {
			fresh, errFresh := a.upToDate(ctx, b, revisions[b])
			switch {
			case errFresh != nil:
				return p, 0, errFresh
			case fresh:
				return p, p.revision, err
			}
			continue
		}
		m, err := a.message(who, what, b, p, revisions[b])
		if err != nil {
			return p, 0, err
		}
		if p.adds && !who.own {
			if err := a.admits(accessBuckets[b], m); err != nil {
				seq, err := a.notDone(ctx, b, before, err)
				return tried, seq, err
			}
		}
		if mutant.Planted == mutant.SuccessBeforeConfirmed {
			return p, revisions[b] + 1, a.js.nc.PublishMsg(m)
		}
		seq, err := a.publishAudited(ctx, b, p.key, revisions[b], m)
		if err == nil {
			return p, seq, nil
		}
		if typed, ok := errors.AsType[*control.Error](err); ok {
			return p, 0, typed
		}
		if certainlyNotSent(err) && sleep(ctx, raceWait) {
			continue // the leader was elected just now, and this node has not heard yet where to send writes
		}
		if isFull(err) {
			seq, err := a.noRoom(ctx, b, attempt{m: m, revision: revisions[b]})
			return p, seq, err
		}
		if !hasCode(err, codeWrongSequence, codeInProcess) {
			return p, 0, a.writeFailed(b, err)
		}
		tried, before = p, attempt{m: m, revision: revisions[b]}
		if err := a.afterRace(ctx, b, revisions[b]); err != nil {
			return p, 0, err
		}
	}
}

// attempt is a write that was refused for the revision that it expects.
type attempt struct {
	m        *nats.Msg
	revision uint64
}

// notDone is what a caller hears whose request, after it waited or lost races, may not be done any more. If it was tried before, the refusal may have come from a
// leader that has been deposed, while the real one took it. It could only become the next revision, so what is there decides for good: this write, which was
// done while it was allowed, or another one. Only while nothing can be read there it is not known.
func (a *api) notDone(ctx context.Context, b access.Bucket, before attempt, why error) (uint64, error) {
	if before.m == nil {
		return 0, why
	}
	stored, err := a.inPlaceOf(ctx, b, before)
	switch {
	case err != nil || stored.seq != before.revision+1:
		return 0, control.Errorf(control.Unknown, "%v; and what became of an attempt before that cannot be seen: it may have been done", why)
	case before.became(stored):
		return stored.seq, nil
	}
	return 0, why
}

// inPlaceOf reads what is where a write would be if it was done, or else behind that.
func (a *api) inPlaceOf(ctx context.Context, b access.Bucket, w attempt) (storedMsg, error) {
	bucket := accessBuckets[b]
	return a.js.next(ctx, bucketStream(bucket), w.revision+1, keySubject(bucket, ">"))
}

func (w attempt) became(m storedMsg) bool {
	for _, h := range []string{headerWho, headerWhat, headerNode} {
		if w.m.Header.Get(h) != m.header.Get(h) {
			return false
		}
	}
	return m.seq == w.revision+1 && w.m.Subject == m.subject && bytes.Equal(w.m.Data, m.data)
}

// publishAudited writes a message that expects the bucket to end with that revision, once it pushes nothing out of the key's history that is not in the audit
// trail. Between that look and the write nothing else can have been written, or the write fails.
func (a *api) publishAudited(ctx context.Context, b access.Bucket, key string, revision uint64, m *nats.Msg) (uint64, error) {
	bucket := accessBuckets[b]
	if a.trail.audited(bucket) < revision {
		if err := a.trail.room(ctx, bucket, key, historyOf(bucket)); err != nil {
			if _, typed := errors.AsType[*control.Error](err); typed || certainlyNotSent(err) {
				return 0, err
			}
			return 0, unreadableBucket(b, err)
		}
	}
	return a.js.publish(ctx, m.Subject, m.Header, m.Data, nil)
}

// upToDate says whether the index had everything that the bucket's leader has, so that a decision to write nothing stands. If not, it waits for the rest.
func (a *api) upToDate(ctx context.Context, b access.Bucket, revision uint64) (bool, error) {
	info, err := a.js.streamInfo(ctx, bucketStream(accessBuckets[b]))
	for certainlyNotSent(err) && sleep(ctx, raceWait) {
		info, err = a.js.streamInfo(ctx, bucketStream(accessBuckets[b]))
	}
	if err != nil {
		return false, unreadableBucket(b, err)
	}
	if info.State.LastSeq <= revision {
		return true, nil
	}
	a.follow[b].hint(info.State.LastSeq)
	if err := a.plane.waitApplied(ctx, b, info.State.LastSeq); err != nil {
		return false, control.Errorf(control.Unavailable, "%v", err)
	}
	return false, nil
}

// unreadableBucket is the refusal of a request that had no effect.
func unreadableBucket(b access.Bucket, err error) error {
	if certainlyNotSent(err) || errors.Is(err, context.DeadlineExceeded) {
		return control.Errorf(control.Unavailable, "the %s have no leader", b)
	}
	return control.Errorf(control.Unavailable, "the %s cannot be read: %v", b, err)
}

// message is the write of a plan on the condition that the bucket ends at that revision.
func (a *api) message(who caller, what string, b access.Bucket, p plan, revision uint64) (*nats.Msg, error) {
	h := who.headers(what, a.node)
	var body []byte
	if p.record == nil {
		h.Set("KV-Operation", "DEL")
	} else {
		var err error
		if body, err = json.Marshal(p.record); err != nil {
			return nil, control.Errorf(control.Invalid, "encode the record: %v", err)
		}
		if len(body) > access.MaxRecord {
			return nil, control.Errorf(control.Invalid, "the record would have %d bytes, and %d is the limit", len(body), access.MaxRecord)
		}
	}
	return newMsg(keySubject(accessBuckets[b], p.key), h, body, &expectation{seq: revision, whole: true}), nil
}

func (a *api) writeFailed(b access.Bucket, err error) error {
	switch {
	case certainlyNotSent(err):
		return control.Errorf(control.Unavailable, "the %s have no leader", b)
	case errors.Is(err, context.DeadlineExceeded):
		return control.Errorf(control.Unknown, "no majority confirmed the change within %s; it may still take effect. The same request again is safe", apiTimeout)
	}
	return control.Errorf(control.Unknown, "the change was not confirmed: %v", err)
}

// afterRace waits until the index has moved on, or a moment.
func (a *api) afterRace(ctx context.Context, b access.Bucket, revision uint64) error {
	a.follow[b].hint(revision + 1)
	wait, cancel := context.WithTimeout(ctx, raceWait)
	defer cancel()
	_ = a.plane.waitApplied(wait, b, revision+1)
	if !sleep(ctx, rand.N(busyWait)) {
		return control.Errorf(control.Unavailable, "other changes of %s did not let this one through", b)
	}
	return nil
}

// waitFollowers waits until the nodes that are there have applied a revision, and says which have.
func (a *api) waitFollowers(ctx context.Context, b access.Bucket, revision uint64) (applied, pending []string) {
	ctx, cancel := context.WithTimeout(ctx, followersWait)
	defer cancel()
	peers := map[string]bool{}
	for _, p := range a.health().Peers {
		peers[p.Name] = p.Current
	}
	for {
		done, rest, wait, changed := a.plane.applied.behind(peers, b, revision)
		_, mine := a.plane.index.Revisions()
		self := a.plane.durable()[b] >= revision
		if self && !wait || ctx.Err() != nil {
			return a.sorted(done, rest, self)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-mine:
		}
	}
}

func (a *api) sorted(applied, pending []string, self bool) ([]string, []string) {
	if self {
		applied = append(applied, a.node)
	} else {
		pending = append(pending, a.node)
	}
	slices.Sort(applied)
	slices.Sort(pending)
	return applied, pending
}
