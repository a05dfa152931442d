package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// apiOf is a node's own side of the control API.
func (c *inProcess) apiOf(i int) *api { return c.nodes[i].seed.Load().api }

// identified is what a node knows of who asks, when the request arrives.
func identified(t *testing.T, a *api, key string, n need) caller {
	t.Helper()
	who, err := a.still(caller{key: key, need: n})
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// TestRightsAreThoseOfTheMoment: requests that wait on a node while their caller loses its rights are denied, and nothing of them is done.
func TestRightsAreThoseOfTheMoment(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin, ctx := c.api(c.admin, 0), t.Context()
	eve, ann := public(t, c.add(t, admin, "eve", access.RoleAdmin)), public(t, c.add(t, admin, "ann", access.RoleAdmin))
	owner := public(t, c.add(t, admin, "olga", access.RoleMember))
	c.add(t, admin, "other", access.RoleAdmin)
	for _, room := range []string{"desk", "floor"} {
		if _, err := admin.CreateRoom(ctx, control.RoomCreateRequest{Name: room, Owner: "olga", Subjects: []string{room + ".>"}}); err != nil {
			t.Fatal(err)
		}
	}
	_, pub := userKey(t)
	_, pub2 := userKey(t)
	a := c.apiOf(1)
	waiting := map[string]struct {
		key    string
		need   need
		handle handler
		req    any
	}{
		"users.add":        {eve, needWrite, a.userAdd, control.UserAddRequest{Name: "backdoor", Key: pub, Role: access.RoleAdmin}},
		"users.import":     {eve, needWrite, a.userImport, control.UserImportRequest{Users: []control.UserAddRequest{{Name: "side-door", Key: pub2, Role: access.RoleAdmin}}}},
		"users.setrole":    {eve, needWrite, a.userSetRole, control.UserSetRoleRequest{Name: "olga", Role: access.RoleAdmin}},
		"roles.put":        {eve, needWrite, a.rolePut, control.RolePutRequest{Role: access.Role{Name: "reader", Subscribe: []string{"a.>"}}}},
		"rooms.create":     {eve, needWrite, a.roomCreate, control.RoomCreateRequest{Name: "den", Owner: "eve", Subjects: []string{"den.>"}}},
		"settings.put":     {eve, needWrite, a.put, control.PutRequest{Name: "motd", Value: "hello"}},
		"cluster.scale":    {eve, needWrite, a.scale, control.ScaleRequest{Replicas: 3}},
		"admin's grant":    {ann, needNothing, a.roomGrant, control.RoomGrantRequest{Room: "desk", User: "ann", Level: access.LevelOwner}},
		"an owner's grant": {owner, needNothing, a.roomGrant, control.RoomGrantRequest{Room: "floor", User: "eve", Level: access.LevelOwner}},
	}
	for b := range a.writing { // other changes are under way
		a.writing[b] <- struct{}{}
	}
	var leave []func()
	for range writesPerKey {
		for _, name := range []string{"motd", control.SettingReplicas} {
			l, ok := a.keys.enter(ctx, name)
			if !ok {
				t.Fatal("the key is not free")
			}
			leave = append(leave, l)
		}
	}
	type answer struct {
		what string
		err  error
	}
	answers := make(chan answer, len(waiting))
	for what, w := range waiting {
		who := identified(t, a, w.key, w.need)
		body, err := json.Marshal(w.req)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
			defer cancel()
			_, err := w.handle(ctx, who, body)
			answers <- answer{what, err}
		}()
	}
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.DisableUser(ctx, "eve")))
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.SetUserRole(ctx, "ann", access.RoleMember)))
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.DisableUser(ctx, "olga")))
	before, _ := c.nodes[0].users.index.Revisions()
	for b := range a.writing {
		<-a.writing[b]
	}
	for _, l := range leave {
		l()
	}
	for range waiting {
		got := <-answers
		t.Run(got.what, func(t *testing.T) { wantControl(t, got.err, control.Denied) })
	}
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.EnableUser(ctx, "olga"))) // whoever follows this has everything before it
	after, _ := c.nodes[0].users.index.Revisions()
	if before[access.Users]++; after != before {
		t.Errorf("requests were denied, and something was written: the buckets ended at %v, and end at %v", before, after)
	}
	_, err := admin.Get(ctx, "motd")
	wantControl(t, err, control.NotFound)
}

// TestDeniedAfterAnAttempt: a caller who lost its rights after a write of it was refused hears that it was denied only where that write certainly was not done.
func TestDeniedAfterAnAttempt(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin, ctx := c.api(c.admin, 0), t.Context()
	c.add(t, admin, "eve", access.RoleMember)
	a := c.apiOf(1)
	ch := mustChange(t)(admin.DisableUser(ctx, "eve"))
	stored, err := a.js.next(ctx, bucketStream(BucketUsers), ch.Revision, keySubject(BucketUsers, ">"))
	if err != nil || stored.seq != ch.Revision {
		t.Fatalf("%+v, %v", stored, err)
	}
	why := control.Errorf(control.Denied, "not any more")
	with := func(node string) *nats.Msg {
		h := nats.Header{headerWho: stored.header[headerWho], headerWhat: stored.header[headerWhat], headerNode: {node}}
		return newMsg(stored.subject, h, stored.data, &expectation{seq: ch.Revision - 1, whole: true})
	}
	for what, tc := range map[string]struct {
		before attempt
		seq    uint64
		code   control.Code
	}{
		"nothing was tried":           {attempt{}, 0, control.Denied},
		"it was done":                 {attempt{with(stored.header.Get(headerNode)), ch.Revision - 1}, ch.Revision, ""},
		"another write took its turn": {attempt{with("n9"), ch.Revision - 1}, 0, control.Denied},
		"nothing has come yet":        {attempt{with("n1"), ch.Revision}, 0, control.Unknown},
	} {
		t.Run(what, func(t *testing.T) {
			seq, err := a.notDone(ctx, access.Users, tc.before, why)
			var e *control.Error
			if errors.As(err, &e) != (tc.code != "") || e != nil && e.Code != tc.code || seq != tc.seq {
				t.Errorf("%d, %v, want %d and the code %q", seq, err, tc.seq, tc.code)
			}
		})
	}
	ctx, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	_, err = a.notDone(ctx, access.Users, attempt{with("n1"), ch.Revision - 1}, why)
	wantControl(t, err, control.Unknown) // it cannot be read
}
