package membershipd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	auditInterval = 2 * time.Second // between two looks when nothing is heard
	auditTimeout  = 2 * time.Second
	// auditPatience is for how long the audit stream's leader may refuse every record of a bucket before another one is asked for. A leader remembers
	// which conditional writes are under way, and refuses others to the same subject; one of which it never hears the end would be refused for ever.
	auditPatience = 10 * time.Second
	// auditRoomWait is between two looks of a change that waits for the trail.
	auditRoomWait = 20 * time.Millisecond
	// headerAudited is in every record: how far the trail of every bucket was when it was appended, as BUCKET=REVISION, separated by spaces.
	headerAudited = "Unibus-Audited"
)

// AuditRecord is one entry of the audit stream.
type AuditRecord struct {
	Who      string    `json:"who"`            // public nkey of the caller
	User     string    `json:"user,omitempty"` // that proved the key; "" for a static key and a node's own
	What     string    `json:"what"`           // "settings.put", "users.disable"
	When     time.Time `json:"when"`           // when the change was stored
	Node     string    `json:"node"`           // that answered the request
	Bucket   string    `json:"bucket"`
	Name     string    `json:"name"`
	Revision uint64    `json:"revision"`
}

// auditor copies who, what and when of every change from the bucket's own stream to the audit stream. The facts are stored with the change itself, so
// a node that dies right after a change leaves no hole: the next one goes on behind the last record. A compare-and-set makes each entry once. And a
// change that would push one out of the bucket's history that is not in the trail yet has to wait for it: see room.
//
// The trail is limited, and its oldest records make room for new ones, to whatever bucket these belong. So each record also tells how far the trail of
// every bucket is: that of a bucket whose last record is gone goes on where it ended, rather than from the beginning.
type auditor struct {
	js      jsAPI
	log     *slog.Logger
	leading func() bool // only the meta leader's node works, to save work; two would not do harm
	ask     func()      // whichever node leads is told that there is something to do
	kicks   chan struct{}
	failing map[string]*streak
	slack   time.Duration // by which the clocks of two streams' leaders may be apart

	mu   sync.Mutex
	done map[string]uint64 // by bucket, a revision up to which everything is in the trail, as far as this node knows
}

// streak is a bucket's failures in a row.
type streak struct {
	since  time.Time
	warned time.Time
	moved  time.Time // when the audit stream was last given another leader for it
}

func newAuditor(js jsAPI, log *slog.Logger, leading func() bool, ask func()) *auditor {
	return &auditor{
		js: js, log: log, leading: leading, ask: ask, kicks: make(chan struct{}, 1), failing: map[string]*streak{}, slack: clockTolerance,
		done: map[string]uint64{},
	}
}

func (a *auditor) kick() {
	select {
	case a.kicks <- struct{}{}:
	default:
	}
}

func (a *auditor) run(ctx context.Context) {
	t := time.NewTicker(auditInterval)
	defer t.Stop()
	for {
		if a.leading() {
			for _, bucket := range auditedBuckets {
				if err := a.catchUp(ctx, bucket); ctx.Err() == nil {
					a.unstick(ctx, bucket, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-a.kicks:
		case <-t.C:
		}
	}
}

// unstick sees to it that a bucket whose records are refused again and again gets on: the audit stream gets another leader, which starts without the
// memory of the present one. Nothing is lost by that, and a record is made once all the same. Whatever else stands in the way for so long is said.
func (a *auditor) unstick(ctx context.Context, bucket string, err error) {
	if err == nil {
		delete(a.failing, bucket)
		return
	}
	now := time.Now()
	f := a.failing[bucket]
	if f == nil {
		f = &streak{since: now, warned: now, moved: now}
		a.failing[bucket] = f
	}
	if now.Sub(f.warned) < auditPatience {
		a.log.Debug("audit: try again", "bucket", bucket, "error", err)
		return
	}
	f.warned = now
	a.log.Warn("audit: changes are not in the trail yet", "bucket", bucket, "for", now.Sub(f.since).Round(time.Second), "error", err)
	if !hasCode(err, codeWrongSequence, codeInProcess) || now.Sub(f.moved) < auditPatience {
		return
	}
	f.moved = now // the next one has its patience, too
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	moved := a.js.stepDown(ctx, AuditStream)
	a.log.Warn("audit: records are refused again and again: the audit stream's leader was asked to step down", "bucket", bucket, "refused", err, "error", moved)
}

// audited is a revision up to which all changes of a bucket are in the trail; the real one may be higher.
func (a *auditor) audited(bucket string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done[bucket]
}

func (a *auditor) setAudited(bucket string, revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[bucket] = max(a.done[bucket], revision)
}

// room waits until fewer than limit changes of a key are missing in the trail, so that the next one pushes none of them out of the bucket's history
// before it was read. Usually that takes one look at the bucket. While there is no trail, a key that has had so many changes is refused more of them:
// an [*control.Error], as opposed to the error of a read that failed. Either way nothing was written.
func (a *auditor) room(ctx context.Context, bucket, key string, limit int) error {
	behind := control.Errorf(control.Unavailable, "the audit trail is behind: %d changes of %q are not in it yet, and more would push them out of the bucket's history", limit, key)
	for asked := false; ; {
		known := a.audited(bucket)
		missing, err := a.missing(ctx, bucket, key, known, limit)
		switch {
		case asked && ctx.Err() != nil: // a read that the end of the time cut short
			return behind
		case err != nil || missing < limit:
			return err
		}
		if _, err := a.last(ctx, bucket); err == nil && a.audited(bucket) > known {
			continue // it was this node that had not heard
		}
		if !asked {
			asked = true
			a.ask()
		}
		if !sleep(ctx, auditRoomWait) {
			return behind
		}
	}
}

// missing counts the revisions of a key behind that one, up to limit.
func (a *auditor) missing(ctx context.Context, bucket, key string, after uint64, limit int) (int, error) {
	for n := 0; n < limit; n++ {
		m, err := a.js.next(ctx, bucketStream(bucket), after+1, keySubject(bucket, key))
		if err != nil || m.seq == 0 {
			return n, err
		}
		after = m.seq
	}
	return limit, nil
}

// catchUp copies what is behind the last record, as much as there is time for.
func (a *auditor) catchUp(ctx context.Context, bucket string) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	last, err := a.last(ctx, bucket)
	if err != nil {
		return err
	}
	revision := last.revision
	expect := last.seq
	for carried := false; ; {
		m, err := a.js.next(ctx, bucketStream(bucket), revision+1, keySubject(bucket, ">"))
		if err != nil || m.seq == 0 {
			return err
		}
		r := recordOf(bucket, m)
		if r.Name != access.FenceKey {
			if !carried {
				if err := a.carry(ctx); err != nil {
					return err
				}
				carried = true
			}
			if expect, err = a.append(ctx, r, expect); err != nil {
				return fmt.Errorf("append a record: %w", err)
			}
		}
		revision = r.Revision
		a.setAudited(bucket, revision)
	}
}

// recorded is where the trail of a bucket ends.
type recorded struct {
	seq      uint64 // in the audit stream, 0 without a record
	revision uint64 // of the change in the bucket
}

func (a *auditor) last(ctx context.Context, bucket string) (recorded, error) {
	m, err := a.js.last(ctx, AuditStream, auditSubject(bucket))
	if err != nil {
		return recorded{}, fmt.Errorf("read the last record: %w", err)
	}
	if m.seq == 0 {
		revision, err := a.pushedOut(ctx, bucket)
		return recorded{revision: revision}, err
	}
	revision, err := a.learn(bucket, m)
	return recorded{seq: m.seq, revision: revision}, err
}

// learn takes from a bucket's record how far the trail is.
func (a *auditor) learn(bucket string, m storedMsg) (uint64, error) {
	var r AuditRecord
	if err := json.Unmarshal(m.data, &r); err != nil {
		return 0, fmt.Errorf("decode the last record: %w", err)
	}
	a.setAudited(bucket, r.Revision)
	for mark := range strings.FieldsSeq(m.header.Get(headerAudited)) {
		name, text, _ := strings.Cut(mark, "=")
		if n, err := strconv.ParseUint(text, 10, 64); err == nil && slices.Contains(auditedBuckets, name) {
			a.setAudited(name, n)
		}
	}
	return r.Revision, nil
}

// carry learns what the last records of all buckets tell, so that the next one can tell it again.
func (a *auditor) carry(ctx context.Context) error {
	for _, bucket := range auditedBuckets {
		m, err := a.js.last(ctx, AuditStream, auditSubject(bucket))
		if err != nil {
			return fmt.Errorf("read the last record: %w", err)
		}
		if m.seq == 0 {
			continue
		}
		if _, err := a.learn(bucket, m); err != nil {
			return err
		}
	}
	return nil
}

// pushedOut is where the trail of a bucket ended that has no record in it: 0 if it never had one.
func (a *auditor) pushedOut(ctx context.Context, bucket string) (uint64, error) {
	info, err := a.js.streamInfo(ctx, AuditStream)
	if err != nil {
		return 0, fmt.Errorf("look at the trail: %w", err)
	}
	if info.State.FirstSeq <= 1 {
		return 0, nil
	}
	if err := a.carry(ctx); err != nil {
		return 0, err
	}
	if known := a.audited(bucket); known > 0 {
		return known, nil
	}
	revision, err := a.before(ctx, bucket, info.State.FirstTime.Add(-a.slack))
	if err == nil {
		a.setAudited(bucket, revision)
	}
	return revision, err
}

// before is the bucket's last revision that is older than that. It is for trails of which no record tells how far they are, as earlier versions made
// them. A change since the trail's first record was recorded since then, too, or not at all; one from before that is taken for recorded and pushed out.
func (a *auditor) before(ctx context.Context, bucket string, when time.Time) (uint64, error) {
	info, err := a.js.streamInfo(ctx, bucketStream(bucket))
	if err != nil {
		return 0, fmt.Errorf("look at the bucket: %w", err)
	}
	older, end := uint64(0), info.State.LastSeq
	for older < end {
		middle := older + (end-older+1)/2
		m, err := a.js.next(ctx, bucketStream(bucket), middle, keySubject(bucket, ">"))
		switch {
		case err != nil:
			return 0, fmt.Errorf("look for changes from before the trail: %w", err)
		case m.seq > 0 && m.when.Before(when):
			older = m.seq
		default:
			end = middle - 1
		}
	}
	return older, nil
}

func recordOf(bucket string, m storedMsg) AuditRecord {
	return AuditRecord{
		Who: m.header.Get(headerWho), User: m.header.Get(headerUser), What: m.header.Get(headerWhat), Node: m.header.Get(headerNode), When: m.when.UTC(),
		Bucket: bucket, Name: strings.TrimPrefix(m.subject, keySubject(bucket, "")), Revision: m.seq,
	}
}

func (a *auditor) append(ctx context.Context, r AuditRecord, expect uint64) (uint64, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	return a.js.publish(ctx, auditSubject(r.Bucket), nats.Header{headerAudited: {a.marks()}}, body, &expectation{seq: expect})
}

// marks is the value of headerAudited.
func (a *auditor) marks() string {
	var all []string
	for _, bucket := range auditedBuckets {
		if revision := a.audited(bucket); revision > 0 {
			all = append(all, bucket+"="+strconv.FormatUint(revision, 10))
		}
	}
	return strings.Join(all, " ")
}
