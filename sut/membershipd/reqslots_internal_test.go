package membershipd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// held is how many slots are taken, and by how many callers who may not write.
func (s *requestSlots) held() (writers, others, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.writers), len(s.others), len(s.keys)
}

func wantHeld(t *testing.T, s *requestSlots, writers, others, keys int) {
	t.Helper()
	if w, o, k := s.held(); w != writers || o != others || k != keys {
		t.Errorf("%d slots of writers and %d of %d others are taken, want %d, %d and %d", w, o, k, writers, others, keys)
	}
}

func TestRequestSlots(t *testing.T) {
	s := newRequestSlots("n1")
	var leave []func()
	take := func(key, level string, n int) {
		t.Helper()
		for i := range n {
			l, err := s.take(caller{key: key, control: level})
			if err != nil {
				t.Fatalf("%s, number %d: %v", key, i+1, err)
			}
			leave = append(leave, l)
		}
	}
	full := func(key, level string) {
		t.Helper()
		_, err := s.take(caller{key: key, control: level})
		wantControl(t, err, control.Unavailable)
	}
	take("M0", access.ControlNone, slotsPerKey)
	full("M0", access.ControlNone) // one's own fill
	take("R0", access.ControlRead, slotsPerKey)
	full("R0", access.ControlRead)
	for i := 2; i*slotsPerKey < otherSlots; i++ {
		take(fmt.Sprint("M", i), access.ControlNone, slotsPerKey)
	}
	full("M99", access.ControlNone) // everybody's
	wantHeld(t, s, 0, otherSlots, otherSlots/slotsPerKey)
	take("A", access.ControlWrite, writerSlots)
	full("B", access.ControlWrite)
	wantHeld(t, s, writerSlots, otherSlots, otherSlots/slotsPerKey)
	leave[0]()
	full("M99", access.ControlWrite) // a slot of the others is none for writers, and the other way round
	take("M99", access.ControlNone, 1)
	for _, l := range leave[1:] {
		l()
	}
	wantHeld(t, s, 0, 0, 0)
	leave = nil
	take("M0", access.ControlNone, 1)
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	if s.fill(ctx.Done()) {
		t.Error("there was a request under way")
	}
	full("A", access.ControlWrite)
	leave[0]()
}

// TestFlood: a member who sends more than a node works on at once keeps no administrator from being served, and is told itself.
func TestFlood(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin, ctx := c.api(c.admin, 0), t.Context()
	eve := c.add(t, admin, "eve", access.RoleMember)
	nc, err := c.login(eve, 0)
	if err != nil {
		t.Fatal(err)
	}
	slots := c.apiOf(0).slots
	for range otherSlots { // the slots of the others are all taken
		slots.others <- struct{}{}
	}
	if _, err := admin.User(ctx, "eve"); err != nil {
		t.Errorf("an administrator, while the others' slots are taken: %v", err)
	}
	member := c.api(eve, 0)
	_, err = member.User(ctx, "eve")
	wantControl(t, err, control.Unavailable)
	for range otherSlots {
		<-slots.others
	}
	if _, err := member.User(ctx, "eve"); err != nil {
		t.Errorf("a member, when they are free again: %v", err)
	}

	var refused atomic.Int64
	inbox := "_INBOX_" + public(t, eve)
	if _, err := nc.Subscribe(inbox+".>", func(m *nats.Msg) {
		if m.Header.Get("Nats-Service-Error-Code") == string(control.Unavailable) {
			refused.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	var flood sync.WaitGroup
	defer flood.Wait()
	defer stop()
	flood.Go(func() {
		for i := 0; sleep(ctx, 20*time.Millisecond); i++ {
			for range 3 * slotsPerKey {
				_ = nc.PublishRequest(control.At(control.SubjectUsersShow, "n1"), fmt.Sprintf("%s.%d", inbox, i), []byte(`{}`))
			}
		}
	})
	untilTrue(t, "the flood is more than the node works on", func() bool { return refused.Load() > 10*slotsPerKey })
	served := func(what string, ask func() error) {
		t.Helper()
		untilTrue(t, what+" is served", func() bool { // the machine may be so busy that a bucket has no leader for a moment; slots there are
			err := ask()
			if err != nil && strings.Contains(err.Error(), "busy") {
				t.Errorf("%s: %v", what, err)
			}
			return err == nil
		})
	}
	for i := range 20 {
		served("an administrator's write", func() error { _, err := admin.Put(ctx, "motd", fmt.Sprint(i), nil); return err })
		served("an administrator's read", func() error { _, err := admin.User(ctx, "eve"); return err })
		if _, others, keys := slots.held(); others > slotsPerKey || keys > 1 {
			t.Errorf("one member has %d slots, as %d keys", others, keys)
		}
	}
	served("the disabling of who floods", func() error { _, err := admin.DisableUser(ctx, "eve"); return err }) // who is not known takes no slot
	untilTrue(t, "nothing is left of it", func() bool { _, others, keys := slots.held(); return others+keys == 0 })
}
