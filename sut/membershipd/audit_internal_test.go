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
