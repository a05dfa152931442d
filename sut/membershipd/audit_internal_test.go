package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/control"
)

// oneServer is a nats-server with the settings bucket and, if wanted, the audit stream, both without replicas.
func oneServer(t *testing.T, trail bool) jsAPI {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(settleWait) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js := jsAPI{nc: nc}
	for _, a := range assets() {
		if a.label == BucketSettings || a.audit && trail {
			if err := js.createStream(t.Context(), a.config(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return js
}

func testAuditor(js jsAPI, log *slog.Logger, ask func()) *auditor {
	return newAuditor(js, log, func() bool { return true }, ask)
}

// revise writes a setting anew, as the API does behind room.
func revise(t *testing.T, a *auditor, key string, i int) {
	t.Helper()
	h := nats.Header{headerWhat: {"settings.put"}}
	if _, err := a.js.publish(t.Context(), keySubject(BucketSettings, key), h, fmt.Append(nil, i), nil); err != nil {
		t.Fatal(err)
	}
}

// trailOf is the revisions in the trail of the settings.
func trailOf(t *testing.T, js jsAPI) (all []AuditRecord) {
	t.Helper()
	for seq := uint64(1); ; {
		m, err := js.next(t.Context(), AuditStream, seq, auditSubject(BucketSettings))
		if err != nil {
			t.Fatal(err)
		}
		if m.seq == 0 {
			return all
		}
		var r AuditRecord
		if err := json.Unmarshal(m.data, &r); err != nil {
			t.Fatal(err)
		}
		all, seq = append(all, r), m.seq+1
	}
}

// TestRoomKeepsTheTrailWhole: a setting is changed far more often than its history is long while the auditor works only now and then. Another
// node's auditor, which has not heard of any of its work, decides about the changes.
func TestRoomKeepsTheTrailWhole(t *testing.T) {
	js := oneServer(t, true)
	works := testAuditor(js, slog.New(slog.DiscardHandler), nil)
	asked := 0
	node := testAuditor(js, slog.New(slog.DiscardHandler), func() {
		asked++
		if err := works.catchUp(t.Context(), BucketSettings); err != nil {
			t.Error(err)
		}
	})
	history := historyOf(BucketSettings)
	changes := 5*history + 3
	for i := range changes {
		if err := node.room(t.Context(), BucketSettings, "hot", history); err != nil {
			t.Fatal(err)
		}
		revise(t, node, "hot", i)
	}
	if err := works.catchUp(t.Context(), BucketSettings); err != nil {
		t.Fatal(err)
	}
	all := trailOf(t, js)
	if len(all) != changes {
		t.Errorf("%d records of %d changes", len(all), changes)
	}
	for i, r := range all {
		if r.Revision != uint64(i+1) {
			t.Fatalf("record %d has revision %d", i, r.Revision)
		}
	}
	if want := changes/history - 1; asked < want || asked > want+2 {
		t.Errorf("the auditor was asked %d times for %d changes: want about once per %d", asked, changes, history)
	}
}

// smallTrail is a nats-server with the buckets of settings and users, and a trail that holds some dozen records.
func smallTrail(t *testing.T) jsAPI {
	t.Helper()
	js := oneServer(t, false)
	for _, a := range assets() {
		if a.label == BucketUsers {
			if err := js.createStream(t.Context(), a.config(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	trail := auditConfig(1)
	trail.MaxBytes = 16 << 10
	if err := js.createStream(t.Context(), trail); err != nil {
		t.Fatal(err)
	}
	return js
}

// made is how many records the trail ever had; here nobody but auditors makes some.
func made(t *testing.T, js jsAPI) int {
	t.Helper()
	info, err := js.streamInfo(t.Context(), AuditStream)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.LastSeq)
}

// pushOut makes changes of users until no record of a setting is left in the trail, each of them audited at once. It returns how many.
func pushOut(t *testing.T, a *auditor) (changes int) {
	t.Helper()
	for ; ; changes++ {
		m, err := a.js.last(t.Context(), AuditStream, auditSubject(BucketSettings))
		if err != nil {
			t.Fatal(err)
		}
		if m.seq == 0 {
			return changes
		}
		h := nats.Header{headerWhat: {"users.add"}}
		if _, err := a.js.publish(t.Context(), keySubject(BucketUsers, fmt.Sprintf("user%d-%d", m.seq, changes)), h, []byte("{}"), nil); err != nil {
			t.Fatal(err)
		}
		works(t, a, BucketUsers)
	}
}

func works(t *testing.T, a *auditor, buckets ...string) {
	t.Helper()
	for _, b := range buckets {
		if err := a.catchUp(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPushedOutIsNotRepeated: a quiet bucket's records are pushed out of the trail by those of a busy one, again and again. Nothing is recorded twice, by
// whichever node, and what comes then is.
func TestPushedOutIsNotRepeated(t *testing.T) {
	js := smallTrail(t)
	a, want := testAuditor(js, slog.New(slog.DiscardHandler), nil), 0
	another := func() *auditor { return testAuditor(js, slog.New(slog.DiscardHandler), nil) }
	for round := range 3 {
		for i := range 5 {
			revise(t, a, fmt.Sprint("key", i), round)
			want++
		}
		works(t, a, BucketSettings)
		want += pushOut(t, another()) // which has not heard of the settings
		works(t, another(), BucketSettings)
		if got := made(t, js); got != want {
			t.Fatalf("round %d: %d records of %d changes", round, got, want)
		}
		a = another() // a process that starts knows nothing but the trail, and works for the busy bucket first
		if _, err := js.publish(t.Context(), keySubject(BucketUsers, fmt.Sprint("late", round)), nil, []byte("{}"), nil); err != nil {
			t.Fatal(err)
		}
		want++
		works(t, a, BucketUsers, BucketSettings)
		works(t, another(), BucketSettings, BucketUsers)
		if got := made(t, js); got != want {
			t.Fatalf("round %d, another auditor: %d records of %d changes", round, got, want)
		}
	}
	revise(t, a, "key0", 9)
	late := another()
	works(t, late, BucketSettings)
	works(t, a, BucketSettings)
	if all := trailOf(t, js); len(all) != 1 || all[0].Name != "key0" || all[0].Revision != 16 {
		t.Errorf("a change since: %+v", all)
	}
	if got := made(t, js); got != want+1 {
		t.Errorf("%d records of %d changes", got, want+1)
	}
}

// TestTwoAuditors: they work at the same time on a trail from which a bucket was pushed out, and make each record once.
func TestTwoAuditors(t *testing.T) {
	js := smallTrail(t)
	a := testAuditor(js, slog.New(slog.DiscardHandler), nil)
	revise(t, a, "key", 0)
	works(t, a, BucketSettings)
	want := 1 + pushOut(t, a)
	for i := range 10 {
		revise(t, a, fmt.Sprint("new", i), 0)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			b := testAuditor(js, slog.New(slog.DiscardHandler), nil)
			for deadline := time.Now().Add(settleWait); time.Now().Before(deadline); {
				if b.catchUp(t.Context(), BucketSettings) == nil && b.audited(BucketSettings) == 11 {
					return
				}
			}
			t.Error("it does not come to the end")
		})
	}
	both.Wait()
	if got := made(t, js); got != want+10 {
		t.Errorf("%d records of %d changes", got, want+10)
	}
}

// TestTrailOfAnEarlierVersion: no record tells how far the trail of a bucket was that was pushed out. What is older than the trail is taken for recorded,
// which every node finds out by itself, so that no change of such a bucket has to wait.
func TestTrailOfAnEarlierVersion(t *testing.T) {
	js := smallTrail(t)
	a := testAuditor(js, slog.New(slog.DiscardHandler), func() {})
	history := historyOf(BucketSettings)
	for i := range history {
		revise(t, a, "full", i)
	}
	works(t, a, BucketSettings)
	pushOut(t, a)
	for marked := true; marked; { // an earlier version made all records that are left
		m, err := js.last(t.Context(), AuditStream, auditSubject(BucketUsers))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.publish(t.Context(), auditSubject(BucketUsers), nil, m.data, nil); err != nil {
			t.Fatal(err)
		}
		first, err := js.next(t.Context(), AuditStream, 1, auditSubjects)
		if err != nil {
			t.Fatal(err)
		}
		marked = first.header.Get(headerAudited) != ""
	}
	before := made(t, js)
	node, fresh := testAuditor(js, slog.New(slog.DiscardHandler), func() {}), testAuditor(js, slog.New(slog.DiscardHandler), nil)
	node.slack, fresh.slack = 0, 0
	ctx, cancel := context.WithTimeout(t.Context(), soonest)
	defer cancel()
	if err := node.room(ctx, BucketSettings, "full", history); err != nil {
		t.Errorf("a change on a node that does not audit: %v", err)
	}
	revise(t, node, "full", history)
	works(t, fresh, BucketSettings, BucketUsers)
	if all := trailOf(t, js); len(all) != 1 || all[0].Revision != uint64(history)+1 || made(t, js) != before+1 {
		t.Errorf("of one change: %d records, of these in the trail: %+v", made(t, js)-before, all)
	}
}

// TestRoomInEveryCluster: a setting can be written in a cluster of any size that is not refused.
func TestRoomInEveryCluster(t *testing.T) {
	js := oneServer(t, true)
	a := testAuditor(js, slog.New(slog.DiscardHandler), func() {})
	for size := minClusterSize; size <= maxClusterSize; size++ {
		ctx, cancel := context.WithTimeout(t.Context(), soonest)
		if err := a.room(ctx, BucketSettings, "new", historyOf(BucketSettings)-size*writesPerKey); err != nil {
			t.Errorf("%d nodes: %v", size, err)
		}
		cancel()
	}
	if historyOf(BucketSettings)-(maxClusterSize+1)*writesPerKey > 0 {
		t.Error("larger clusters are refused for nothing")
	}
}

// TestNoRoomWithoutTrail: a key is refused more changes than its history holds, other keys are not, and all is well again when there is a trail.
func TestNoRoomWithoutTrail(t *testing.T) {
	js := oneServer(t, false)
	a := testAuditor(js, slog.New(slog.DiscardHandler), func() {})
	history := historyOf(BucketSettings)
	for i := range history {
		if err := a.room(t.Context(), BucketSettings, "hot", history); err != nil {
			t.Fatal(err)
		}
		revise(t, a, "hot", i)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*auditRoomWait)
	defer cancel()
	err := a.room(short, BucketSettings, "hot", history)
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.Unavailable || !strings.Contains(e.Message, "audit trail is behind") {
		t.Errorf("more changes than the history holds: %v", err)
	}
	if err := a.room(t.Context(), BucketSettings, "cold", history); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := js.createStream(t.Context(), auditConfig(1)); err != nil {
		t.Fatal(err)
	}
	if err := a.catchUp(t.Context(), BucketSettings); err != nil {
		t.Fatal(err)
	}
	if err := a.room(t.Context(), BucketSettings, "hot", history); err != nil {
		t.Errorf("with a trail: %v", err)
	}
	if got := len(trailOf(t, js)); got != history {
		t.Errorf("%d records of %d changes", got, history)
	}
}

// TestUnstick: failures are said once they have lasted, and only refusals of records cost the audit stream's leader its place.
func TestUnstick(t *testing.T) {
	refused := &apiError{ErrCode: codeInProcess, Description: "in process"}
	other := &apiError{ErrCode: codeNoMessage, Description: "something else"}
	long := time.Now().Add(-2 * auditPatience)
	for _, c := range []struct {
		name         string
		since        time.Time // zero: this is the first failure
		err          error
		warns, moves bool
	}{
		{name: "the first failure", err: refused},
		{name: "refused, not for long", since: time.Now(), err: refused},
		{name: "refused for long", since: long, err: refused, warns: true, moves: true},
		{name: "fails otherwise for long", since: long, err: other, warns: true},
		{name: "well again", since: long},
	} {
		t.Run(c.name, func(t *testing.T) {
			js := oneServer(t, false)
			moved := make(chan struct{}, 1)
			if _, err := js.nc.Subscribe("$JS.API.STREAM.LEADER.STEPDOWN."+AuditStream, func(*nats.Msg) { moved <- struct{}{} }); err != nil {
				t.Fatal(err)
			}
			var log lockedBuffer
			a := testAuditor(js, slog.New(slog.NewTextHandler(&log, nil)), nil)
			if !c.since.IsZero() {
				a.failing[BucketUsers] = &streak{since: c.since, warned: c.since, moved: c.since}
			}
			a.unstick(t.Context(), BucketUsers, c.err)
			if err := js.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(log.tail(), "not in the trail yet"); got != c.warns {
				t.Errorf("warned: %t\n%s", got, log.tail())
			}
			if got := len(moved) > 0; got != c.moves {
				t.Errorf("the leader was asked to step down: %t", got)
			}
			if known := a.failing[BucketUsers] != nil; known != (c.err != nil) {
				t.Errorf("the failure is remembered: %t", known)
			}
		})
	}
}

func TestKeySlots(t *testing.T) {
	var k keySlots
	var leaves []func()
	for range writesPerKey {
		leave, ok := k.enter(t.Context(), "a")
		if !ok {
			t.Fatal("a free slot was refused")
		}
		leaves = append(leaves, leave)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := k.enter(ended, "a"); ok {
		t.Error("more writers than slots")
	}
	if leave, ok := k.enter(t.Context(), "b"); !ok {
		t.Error("another key had to wait")
	} else {
		leave()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if leave, ok := k.enter(t.Context(), "a"); ok {
			leave()
		} else {
			t.Error("the one who waited was not let in")
		}
	})
	for _, leave := range leaves {
		leave()
	}
	wg.Wait()
	if len(k.keys) != 0 {
		t.Errorf("%d keys are remembered", len(k.keys))
	}
}
