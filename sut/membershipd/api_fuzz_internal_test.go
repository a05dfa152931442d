package membershipd

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// FuzzRequests sends an administrator's requests to a cluster. Whatever is in them, each is answered with one of the documented codes, what is refused
// writes nothing, and what is written can be read again by the nodes that have to decide about it.
func FuzzRequests(f *testing.F) {
	c := newInProcess(f, nil)
	c.startAll()
	nc, err := c.login(c.admin, 0, nats.ReconnectWait(time.Second))
	if err != nil {
		f.Fatal(err)
	}
	endpoints := (&api{}).endpoints()
	at := func(subject string) uint8 {
		return uint8(slices.IndexFunc(endpoints, func(e endpoint) bool { return e.subject == subject }))
	}
	_, key := userKey(f)
	for _, seed := range []struct {
		subject string
		request any
	}{
		{control.SubjectSettingsPut, control.PutRequest{Name: "limits.a", Value: "17"}},
		{control.SubjectSettingsPut, control.PutRequest{Name: control.SettingReplicas, Value: "1"}},
		{control.SubjectScale, control.ScaleRequest{Replicas: 3}},
		{control.SubjectStatus, struct{}{}},
		{control.SubjectUsersAdd, control.UserAddRequest{Name: "alice", Key: key, Role: access.RoleMember}},
		{control.SubjectUsersAdd, control.UserAddRequest{Name: "al*ce\n", Key: key, Role: "all.>"}},
		{control.SubjectUsersImport, control.UserImportRequest{Users: []control.UserAddRequest{{Name: "bob", Key: key, Role: access.RoleMember}, {Name: "b0b"}}}},
		{control.SubjectUsersList, control.PageRequest{Limit: 3}},
		{control.SubjectUsersDisable, control.UserRequest{Name: "alice"}},
		{control.SubjectRolesPut, control.RolePutRequest{Role: access.Role{Name: "reader", Subscribe: []string{"a.>", "a.*.b"}}}},
		{control.SubjectRolesDelete, control.RoleRequest{Name: access.RoleAdmin}},
		{control.SubjectRoomsCreate, control.RoomCreateRequest{Name: "hall", Owner: "alice", Subjects: []string{"hall.>"}}},
		{control.SubjectRoomsGrant, control.RoomGrantRequest{Room: "hall", User: "alice", Level: access.LevelOwner}},
		{control.SubjectRoomsRevoke, control.RoomRevokeRequest{Room: "hall", User: "alice"}},
	} {
		b, err := json.Marshal(seed.request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(at(seed.subject), b)
	}
	f.Add(at(control.SubjectUsersList), []byte(nil))
	f.Add(at(control.SubjectUsersAdd), []byte(`{"name":"eve","nkey":"`+key+`","role":"member","admin":true}`))
	f.Add(at(control.SubjectUsersAdd), []byte(`{"name":"eve","nkey":"`+key+`","role":"member"}{}`))

	codes := []control.Code{"", control.Invalid, control.Denied, control.NotFound, control.Conflict, control.Unavailable}
	index := c.nodes[0].users.index
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		e := endpoints[int(n)%len(endpoints)]
		before, _ := index.Revisions()
		ctx, cancel := context.WithTimeout(context.Background(), settleWait)
		defer cancel()
		m, err := nc.RequestWithContext(ctx, e.subject, body)
		if err != nil {
			t.Fatalf("%s: %v", e.subject, err)
		}
		code := control.Code(m.Header.Get(micro.ErrorCodeHeader))
		if !slices.Contains(codes, code) {
			t.Errorf("%s: the code is %q: %s", e.subject, code, m.Header.Get(micro.ErrorHeader))
		}
		if code == "" && !json.Valid(m.Data) {
			t.Errorf("%s: the answer is not JSON: %q", e.subject, m.Data)
		}
		if code != "" && m.Header.Get(micro.ErrorHeader) == "" {
			t.Errorf("%s: refused, and no word why", e.subject)
		}
		if after, _ := index.Revisions(); code != "" && after != before {
			t.Errorf("%s: refused as %s, and something was written: %v, then %v", e.subject, code, before, after)
		}
		if q := index.Quarantined(); len(q) > 0 {
			t.Errorf("%s: the nodes do not understand what was written: %+v", e.subject, q)
		}
	})
}
