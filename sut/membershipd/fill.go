package membershipd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// fillLimit is the percentage of a bucket's bytes beyond which nothing is added to it. JetStream refuses every write to a full bucket, also one that would
// push out as much as it brings; so the rest is kept for what takes rights away, for the fences that reads need, and for the daemon's own records.
const fillLimit = 90

// insteadOf says, by bucket, what to do when nothing more can be added.
var insteadOf = map[string]string{
	BucketUsers:    "give the record of a user who is disabled another key, with users.rotate and users.enable",
	BucketRoles:    "change a role that is there",
	BucketRooms:    "use a room that is there",
	BucketMembers:  "give a role the subjects of the room",
	BucketSettings: "keep what is large elsewhere",
}

// fills counts what this node adds to buckets between two looks at their sizes.
type fills struct {
	mu    sync.Mutex
	added map[string]*added
}

// fillMemory is for how long what was let in counts beside the bucket's own figure, which has it by then.
const fillMemory = time.Second

// added are the bytes that were let in since the last look, and before it since the one before: what was under way then may not be in the figure.
type added struct {
	look        time.Time
	since, late uint64
}

// let counts size in, if the bucket stays within limit with it.
func (f *fills) let(bucket string, look time.Time, bytes, limit uint64, size int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.added == nil {
		f.added = map[string]*added{}
	}
	a := f.added[bucket]
	if a == nil {
		a = &added{}
		f.added[bucket] = a
	}
	if !a.look.Equal(look) {
		late := a.since
		if look.Sub(a.look) > fillMemory {
			late = 0
		}
		a.look, a.since, a.late = look, 0, late
	}
	if bytes+a.late+a.since+uint64(size) > limit {
		return false
	}
	a.since += uint64(size)
	return true
}

// admits refuses a message that would add a record to a bucket which is almost full. It asks nobody: how full the bucket is, this node's own replica says.
func (a *api) admits(bucket string, m *nats.Msg) error {
	s := a.health()
	for _, b := range s.facts.Buckets {
		if b.Name != bucket || b.MaxBytes == 0 || a.fills.let(bucket, s.at, b.Bytes, b.MaxBytes*fillLimit/100, m.Size()) {
			continue
		}
		return control.Errorf(control.Unavailable, "the bucket %s is full to %d %%: %d of %d bytes. Nothing is added beyond %d %%, so that what is there can be changed and taken away; %s",
			bucket, b.Bytes*100/b.MaxBytes, b.Bytes, b.MaxBytes, fillLimit, insteadOf[bucket])
	}
	return nil
}

// isFull says whether JetStream refused a message because the bucket has no room for it: before the message is proposed, or, for one that every replica
// finds too large, when it is applied. Neither stores it. Other failures to store have the same code.
func isFull(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.ErrCode == codeStoreFailed && e.Description == server.ErrMaxBytes.Error()
}

func full(bucket string) error {
	return control.Errorf(control.Unavailable, "the bucket %s is full, and JetStream takes nothing more for it", bucket)
}

// noRoom is what is known of a write of users, roles, rooms or members that was refused because the bucket is full. A leader that has been deposed refuses what the real one
// may take; so what is in its place is looked at before the caller hears that nothing was done. Without an error it was done, and has that revision.
func (a *api) noRoom(ctx context.Context, b access.Bucket, w attempt) (uint64, error) {
	stored, err := a.inPlaceOf(ctx, b, w)
	switch {
	case err != nil:
		return 0, control.Errorf(control.Unknown, "a leader whose bucket is full refused the change, and whether another one took it cannot be seen: %v", err)
	case w.became(stored):
		return stored.seq, nil
	}
	return 0, full(accessBuckets[b])
}

// noRoomForSetting is the same for a setting.
func (a *api) noRoomForSetting(ctx context.Context, name, id string) (uint64, error) {
	stored, err := a.js.last(ctx, bucketStream(BucketSettings), keySubject(BucketSettings, name))
	switch {
	case err != nil:
		return 0, control.Errorf(control.Unknown, "a leader whose bucket is full refused the write, and whether another one took it cannot be seen: %v", err)
	case stored.seq > 0 && stored.header.Get(headerID) == id:
		return stored.seq, nil
	}
	return 0, full(BucketSettings)
}
