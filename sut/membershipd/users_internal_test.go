package membershipd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	quiet    = 300 * time.Millisecond // in which nothing may be heard that is forbidden
	soonest  = 10 * time.Second       // for what should be there at once, on a loaded machine
	allThree = 3
)

// TestUsers is the life of a cluster's users: who gets in, what they may do, and how fast that changes everywhere.
func TestUsers(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin := c.api(c.admin, 0, 1, 2)
	for _, sub := range []struct {
		name string
		run  func(t *testing.T, admin *control.Client)
	}{
		{"add", c.testAdd},
		{"races", c.testRaces},
		{"import", c.testImport},
		{"import against adds", c.testImportAgainstAdds},
		{"disable", c.testDisable},
		{"rotate", c.testRotate},
		{"roles", c.testRoles},
		{"rooms", c.testRooms},
		{"private inboxes", c.testInboxes},
		{"buckets", c.testBuckets},
		{"control", c.testAuthorization},
		{"internal identity", c.testInternal},
		{"audit", c.testAudit},
		{"quarantine", c.testQuarantine},
		{"rewind", c.testRewind},
		{"restart", c.testRestart},
	} {
		if !t.Run(sub.name, func(t *testing.T) { sub.run(t, admin) }) {
			break // what follows would only repeat it
		}
	}
}

// add makes a user that can log in.
func (c *inProcess) add(t *testing.T, admin *control.Client, name, role string) nkeys.KeyPair {
	t.Helper()
	kp, pub := userKey(t)
	ch, err := admin.AddUser(t.Context(), control.UserAddRequest{Name: name, Key: pub, Role: role})
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	c.wantEverywhere(t, access.Users, ch)
	return kp
}

// wantEverywhere holds that a change is in force where the answer says so, and soon on the nodes that a busy machine kept from following in time.
func (c *inProcess) wantEverywhere(t *testing.T, b access.Bucket, ch control.Change) {
	t.Helper()
	if ch.Revision == 0 {
		t.Errorf("no revision: %+v", ch)
	}
	for i, conf := range c.confs {
		if slices.Contains(ch.Applied, conf.Name) == slices.Contains(ch.Pending, conf.Name) {
			t.Errorf("%s is not either in force or to come: %+v", conf.Name, ch)
		}
		if now, _ := c.nodes[i].users.index.Revisions(); slices.Contains(ch.Applied, conf.Name) && now[b] < ch.Revision {
			t.Errorf("%s says that it has revision %d, and has %d: %+v", conf.Name, ch.Revision, now[b], ch)
		}
		ctx, cancel := context.WithTimeout(t.Context(), soonest)
		if err := c.nodes[i].users.waitApplied(ctx, b, ch.Revision); err != nil {
			t.Errorf("%s does not follow: %+v", conf.Name, ch)
		}
		cancel()
	}
}

func public(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func (c *inProcess) testAdd(t *testing.T, admin *control.Client) {
	ctx := t.Context()
	kp, pub := userKey(t)
	_, other := userKey(t)
	for i := range allThree {
		if _, err := c.login(kp, i); err == nil {
			t.Errorf("a key that nobody has gets in at %d", i)
		}
	}
	req := control.UserAddRequest{Name: "alice", Key: pub, Role: access.RoleMember}
	first, err := admin.AddUser(ctx, req)
	if err != nil || !first.Changed {
		t.Fatalf("add: %+v, %v", first, err)
	}
	c.wantEverywhere(t, access.Users, first)
	for i := range allThree { // at once: the answer says that it is so
		if _, err := c.login(kp, i); err != nil {
			t.Errorf("login at %d: %v", i, err)
		}
	}
	again, err := c.api(c.admin, 2).AddUser(ctx, req)
	if err != nil || again.Changed || again.Revision != first.Revision {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	for what, bad := range map[string]struct {
		req  control.UserAddRequest
		code control.Code
	}{
		"the same name, another key": {control.UserAddRequest{Name: "alice", Key: other, Role: "member"}, control.Conflict},
		"another name, the same key": {control.UserAddRequest{Name: "bob", Key: pub, Role: "member"}, control.Conflict},
		"a static key":               {control.UserAddRequest{Name: "bob", Key: public(t, c.admin), Role: "member"}, control.Conflict},
		"a name that looks the same": {control.UserAddRequest{Name: "a1ice", Key: other, Role: "member"}, control.Conflict},
		"no such role":               {control.UserAddRequest{Name: "bob", Key: other, Role: "nosuch"}, control.NotFound},
		"upper case":                 {control.UserAddRequest{Name: "Alice", Key: other, Role: "member"}, control.Invalid},
		"a wildcard":                 {control.UserAddRequest{Name: "*", Key: other, Role: "member"}, control.Invalid},
		"a dot":                      {control.UserAddRequest{Name: "a.b", Key: other, Role: "member"}, control.Invalid},
		"a control character":        {control.UserAddRequest{Name: "bob\x00", Key: other, Role: "member"}, control.Invalid},
		"another alphabet":           {control.UserAddRequest{Name: "b\u043eb", Key: other, Role: "member"}, control.Invalid},
		"too long":                   {control.UserAddRequest{Name: strings.Repeat("x", 64), Key: other, Role: "member"}, control.Invalid},
		"reserved":                   {control.UserAddRequest{Name: "root", Key: other, Role: "member"}, control.Invalid},
		"no key":                     {control.UserAddRequest{Name: "bob", Key: "UX", Role: "member"}, control.Invalid},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := admin.AddUser(ctx, bad.req)
			wantControl(t, err, bad.code)
		})
	}
	u, err := admin.User(ctx, "alice")
	if err != nil || u.Key != pub || u.Role != access.RoleMember || u.Revision != first.Revision || u.Disabled {
		t.Errorf("show: %+v, %v", u, err)
	}
	if _, err := admin.User(ctx, "bob"); err == nil {
		t.Error("what was refused is there")
	}
}

// testRaces: many clients on all nodes want the same names and the same keys for different ones. One of each wins, everywhere the same.
func (c *inProcess) testRaces(t *testing.T, admin *control.Client) {
	const each = 6
	_, shared := userKey(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := map[string][]string{}
	try := func(what string, client *control.Client, req control.UserAddRequest) {
		ch, err := client.AddUser(t.Context(), req)
		mu.Lock()
		defer mu.Unlock()
		var e *control.Error
		switch {
		case err == nil && ch.Changed:
			winners[what] = append(winners[what], req.Name+" "+req.Key)
		case err == nil:
			t.Errorf("%s: added before: %+v", what, req)
		case !errors.As(err, &e) || e.Code != control.Conflict:
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range allThree {
		client := c.api(c.admin, i)
		for j := range each {
			_, own := userKey(t)
			wg.Go(func() { try("one name", client, control.UserAddRequest{Name: "race", Key: own, Role: "member"}) })
			wg.Go(func() {
				try("one key", client, control.UserAddRequest{Name: fmt.Sprintf("racer-%d-%d", i+2, j+2), Key: shared, Role: "member"})
			})
		}
	}
	wg.Wait()
	if len(winners["one name"]) != 1 || len(winners["one key"]) != 1 {
		t.Fatalf("winners: %v", winners)
	}
	users, err := admin.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range users {
		if strings.HasPrefix(u.Name, "rac") {
			got = append(got, u.Name+" "+u.Key)
		}
	}
	want := slices.Concat(winners["one name"], winners["one key"])
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are %v, and %v won", got, want)
	}
}

func (c *inProcess) testImport(t *testing.T, admin *control.Client) {
	const n = 600
	var users []control.UserAddRequest
	for i := range n {
		_, pub := userKey(t)
		users = append(users, control.UserAddRequest{Name: fmt.Sprintf("import-%04d", i), Key: pub, Role: "member"})
	}
	half, err := admin.ImportUsers(t.Context(), users[:n/2])
	if err != nil || half.Done == 0 || half.Added != half.Done || !half.Changed {
		t.Fatalf("the first half: %+v, %v", half, err)
	}
	steps := 0
	all, err := admin.ImportAll(t.Context(), users, control.ImportOptions{Progress: func(int) { steps++ }}) // half of them are there already
	if err != nil || all.Decided != n || all.Added != n-half.Done || all.Refused != 0 || steps == 0 {
		t.Fatalf("all: %+v after %d steps, %v", all, steps, err)
	}
	c.wantEverywhere(t, access.Users, all.Change)
	resp, err := c.api(c.admin, 1).ImportUsers(t.Context(), users[:100])
	if err != nil || resp.Done != 100 || resp.Changed || resp.Added != 0 {
		t.Errorf("the same again: %+v, %v", resp, err)
	}
	bad := slices.Clone(users[:4])
	bad[2].Key = users[5].Key
	if resp, err = admin.ImportUsers(t.Context(), bad); err != nil || resp.Done != 2 || resp.Error == nil || resp.Error.Code != control.Conflict {
		t.Errorf("with a conflict in the middle: %+v, %v", resp, err)
	}
	all, err = admin.ImportAll(t.Context(), bad, control.ImportOptions{})
	wantControl(t, err, control.Conflict)
	if all.Decided != 2 {
		t.Errorf("stopped at a conflict: %+v", all)
	}
	var refused []int
	all, err = admin.ImportAll(t.Context(), bad, control.ImportOptions{Refused: func(i int, _ *control.Error) { refused = append(refused, i) }})
	if err != nil || all.Decided != 4 || all.Refused != 1 || !slices.Equal(refused, []int{2}) {
		t.Errorf("past a conflict: %+v, refused %v, %v", all, refused, err)
	}
	page, err := admin.UsersPage(t.Context(), control.PageRequest{Prefix: "import-", Limit: 500})
	if err != nil || len(page.Users) != 500 || page.Next != "import-0499" {
		t.Errorf("page: %d users, next %q, %v", len(page.Users), page.Next, err)
	}
	page, err = admin.UsersPage(t.Context(), control.PageRequest{Prefix: "import-", Limit: 500, After: page.Next})
	if err != nil || len(page.Users) != 100 || page.Next != "" || page.Users[0].Name != "import-0500" {
		t.Errorf("second page: %d users, next %q, %v", len(page.Users), page.Next, err)
	}
}

// testImportAgainstAdds: what is imported is there, although another node adds users meanwhile, and so is what that node adds.
func (c *inProcess) testImportAgainstAdds(t *testing.T, admin *control.Client) {
	const n = 500
	var users []control.UserAddRequest
	for i := range n {
		_, pub := userKey(t)
		users = append(users, control.UserAddRequest{Name: fmt.Sprintf("crowd-%04d", i), Key: pub, Role: "member"})
	}
	other := c.api(c.admin, 1)
	imported := make(chan error, 1)
	go func() {
		all, err := admin.ImportAll(t.Context(), users, control.ImportOptions{})
		if err == nil && (all.Decided != n || all.Added > n) {
			err = fmt.Errorf("imported: %+v", all)
		}
		imported <- err
	}()
	var added []string
	for i := 0; ; i++ {
		name := fmt.Sprintf("lone-%04d", i)
		_, pub := userKey(t)
		if _, err := other.AddUser(t.Context(), control.UserAddRequest{Name: name, Key: pub, Role: "member"}); err == nil {
			added = append(added, name)
		}
		select {
		case err := <-imported:
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range users {
				if got, err := admin.User(t.Context(), u.Name); err != nil || got.Key != u.Key {
					t.Errorf("%s was imported: %+v, %v", u.Name, got, err)
				}
			}
			for _, name := range added {
				if _, err := admin.User(t.Context(), name); err != nil {
					t.Errorf("%s was added: %v", name, err)
				}
			}
			if len(added) == 0 {
				t.Error("nothing was added meanwhile")
			}
			return
		default:
		}
	}
}

// closed waits until the connection is ended from the other side.
func closed(t *testing.T, nc *nats.Conn) {
	t.Helper()
	untilTrue(t, "the connection is closed", nc.IsClosed)
}

func (c *inProcess) everywhere(t *testing.T, kp nkeys.KeyPair) []*nats.Conn {
	t.Helper()
	var all []*nats.Conn
	for i := range allThree {
		nc, err := c.login(kp, i)
		if err != nil {
			t.Fatalf("login at %d: %v", i, err)
		}
		all = append(all, nc)
	}
	return all
}

func (c *inProcess) testDisable(t *testing.T, admin *control.Client) {
	kp := c.add(t, admin, "carol", "member")
	bystander := c.everywhere(t, c.add(t, admin, "dave", "member"))
	conns := c.everywhere(t, kp)
	ch, err := admin.DisableUser(t.Context(), "carol")
	if err != nil {
		t.Fatal(err)
	}
	c.wantEverywhere(t, access.Users, ch)
	for i := range allThree { // at once, everywhere
		if _, err := c.login(kp, i); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("a disabled user at %d: %v", i, err)
		}
		closed(t, conns[i])
		if !bystander[i].IsConnected() {
			t.Errorf("somebody else's connection at %d is closed", i)
		}
	}
	if again, err := admin.DisableUser(t.Context(), "carol"); err != nil || again.Changed || again.Revision != ch.Revision {
		t.Errorf("disable again: %+v, %v", again, err)
	}
	if u, err := admin.User(t.Context(), "carol"); err != nil || !u.Disabled {
		t.Errorf("the record is gone: %+v, %v", u, err)
	}
	if _, err := admin.EnableUser(t.Context(), "carol"); err != nil {
		t.Fatal(err)
	}
	c.everywhere(t, kp)
	_, err = admin.DisableUser(t.Context(), "nosuch")
	wantControl(t, err, control.NotFound)
}

func (c *inProcess) testRotate(t *testing.T, admin *control.Client) {
	old := c.add(t, admin, "erin", "member")
	conns := c.everywhere(t, old)
	next, pub := userKey(t)
	ch, err := admin.RotateUser(t.Context(), "erin", pub)
	if err != nil {
		t.Fatal(err)
	}
	c.wantEverywhere(t, access.Users, ch)
	for i := range allThree {
		if _, err := c.login(old, i); err == nil {
			t.Errorf("the old key gets in at %d", i)
		}
		closed(t, conns[i])
	}
	c.everywhere(t, next)
	dave, err := admin.User(t.Context(), "dave")
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RotateUser(t.Context(), "erin", dave.Key)
	wantControl(t, err, control.Conflict)
}

// allowed says whether the server takes a message to that subject: a publisher that is not allowed to is told.
func allowed(t *testing.T, nc *nats.Conn, subject string, h nats.Header) bool {
	t.Helper()
	if err := nc.PublishMsg(&nats.Msg{Subject: subject, Header: h, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	return refusals(t, nc, subject)
}

func refusals(t *testing.T, nc *nats.Conn, subject string) bool {
	t.Helper()
	if err := nc.FlushTimeout(soonest); err != nil {
		t.Fatal(err)
	}
	err := nc.LastError()
	return err == nil || !strings.Contains(err.Error(), `"`+subject+`"`)
}

func maySubscribe(t *testing.T, nc *nats.Conn, subject string) bool {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // may have been refused
	return refusals(t, nc, subject)
}

func (c *inProcess) testRoles(t *testing.T, admin *control.Client) {
	role := access.Role{Name: "trader", Publish: []string{"orders.*"}, Subscribe: []string{"prices.eu.>", "prices.*.spot", "news.>"}, Deny: []string{"orders.secret", "news.internal"}}
	ch, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: role})
	if err != nil || !ch.Changed {
		t.Fatalf("put: %+v, %v", ch, err)
	}
	if again, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: role}); err != nil || again.Changed {
		t.Errorf("put again: %+v, %v", again, err)
	}
	kp := c.add(t, admin, "frank", "trader")
	conns := c.everywhere(t, kp)
	for subject, want := range map[string]bool{
		"orders.new": true, "orders.secret": false, "orders.a.b": false, "prices.x": false, "$JS.API.INFO": false, "$KV.x.y": false, "unibus.v1.users.add": false,
		"unibus.v1.users.add.n2": false, "unibus.v1.cluster.status.n2": true, "unibus.v1.settings.get.n2": false, "unibus.v1.users.show.n2": true,
		"_INBOX_alice.x": false, "$SYS.REQ.SERVER.PING": false, "$JS.API.STREAM.CREATE.X": false, "unibus.v1.cluster.status": true,
	} {
		if got := allowed(t, conns[0], subject, nil); got != want {
			t.Errorf("publish %s: %t", subject, got)
		}
	}
	for subject, want := range map[string]bool{
		"prices.eu.x": true, "prices.eu.*": true, "prices.eu.>": true, "prices.>": false, "prices.*": false, "prices.*.spot": true, "prices.us.spot": true, "prices.us.>": false,
		"prices.*.>": false, "news.>": true, "news.a.b": true, "news.internal": false, ">": false, "*": false, "orders.new": false, "_INBOX.>": false,
		"_INBOX_frank.>": true, "_INBOX_" + public(t, kp) + ".x": true, "_INBOX_alice.>": false, "*.>": false, "$SYS.>": false, "unibus.>": false, "$JS.EVENT.>": false,
	} {
		if got := maySubscribe(t, conns[0], subject); got != want {
			t.Errorf("subscribe %s: %t", subject, got)
		}
	}
	role.Publish = []string{"bids.*"}
	if ch, err = admin.PutRole(t.Context(), control.RolePutRequest{Role: role, Expect: &ch.Revision}); err != nil {
		t.Fatal(err)
	}
	c.wantEverywhere(t, access.Roles, ch)
	for _, nc := range conns {
		closed(t, nc)
	}
	nc := c.everywhere(t, kp)[1]
	if allowed(t, nc, "orders.new", nil) || !allowed(t, nc, "bids.new", nil) {
		t.Error("the new role is not in force")
	}
	_, err = admin.DeleteRole(t.Context(), "trader")
	wantControl(t, err, control.Conflict)
	if _, err := admin.SetUserRole(t.Context(), "frank", "member"); err != nil {
		t.Fatal(err)
	}
	if ch, err = admin.DeleteRole(t.Context(), "trader"); err != nil || !ch.Changed {
		t.Errorf("delete: %+v, %v", ch, err)
	}
	_, err = admin.Role(t.Context(), "trader")
	wantControl(t, err, control.NotFound)
	for _, bad := range []access.Role{
		{Name: "admin"}, {Name: "x", Publish: []string{">"}}, {Name: "x", Subscribe: []string{"*.x"}}, {Name: "x", Publish: []string{"$KV.>"}},
		{Name: "x", Publish: []string{"$JS.API.>"}}, {Name: "x", Subscribe: []string{"_INBOX.>"}}, {Name: "x", Publish: []string{"unibus.v1.>"}}, {Name: "x", Control: "write"},
		{Name: "x", Buckets: []access.BucketGrant{{Name: "*", Access: "read"}}}, {Name: "x", Streams: []access.StreamGrant{{Name: ">", Access: "read"}}},
		{Name: "x", Subscribe: []string{"a b"}}, {Name: "x", Subscribe: []string{"a..b"}}, {Name: "x", Subscribe: []string{"a.>.b"}},
		{Name: "x", Subscribe: []string{"a.*"}},
	} {
		_, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: bad})
		wantControl(t, err, control.Invalid)
	}
}

func (c *inProcess) testRooms(t *testing.T, admin *control.Client) {
	owner, member, observer := c.add(t, admin, "olga", "member"), c.add(t, admin, "mike", "member"), c.add(t, admin, "oscar", "member")
	if _, err := admin.CreateRoom(t.Context(), control.RoomCreateRequest{Name: "ops", Owner: "olga", Subjects: []string{"chat.ops.>"}}); err != nil {
		t.Fatal(err)
	}
	boss := c.api(owner, 1)
	before := c.everywhere(t, member)
	ch, err := boss.Grant(t.Context(), "ops", "mike", access.LevelMember)
	if err != nil {
		t.Fatal(err)
	}
	c.wantEverywhere(t, access.Members, ch)
	for _, nc := range before { // rights are given at the login
		closed(t, nc)
	}
	if _, err := boss.Grant(t.Context(), "ops", "oscar", access.LevelObserver); err != nil {
		t.Fatal(err)
	}
	_, err = c.api(member, 0).Grant(t.Context(), "ops", "oscar", access.LevelMember)
	wantControl(t, err, control.Denied)
	_, err = boss.Revoke(t.Context(), "ops", "olga")
	wantControl(t, err, control.Conflict)
	m, o := c.everywhere(t, member)[0], c.everywhere(t, observer)[1]
	if !allowed(t, m, "chat.ops.x", nil) || allowed(t, o, "chat.ops.x", nil) || !maySubscribe(t, o, "chat.ops.>") || maySubscribe(t, o, "chat.>") {
		t.Error("the levels are not in force")
	}
	room, err := c.api(observer, 2).Room(t.Context(), "ops")
	if err != nil || room.Members["mike"] != access.LevelMember || room.Members["olga"] != access.LevelOwner || len(room.Members) != 3 {
		t.Errorf("show: %+v, %v", room, err)
	}
	if _, err := boss.Revoke(t.Context(), "ops", "mike"); err != nil {
		t.Fatal(err)
	}
	closed(t, m)
	if again := c.everywhere(t, member)[2]; allowed(t, again, "chat.ops.x", nil) {
		t.Error("who was revoked still publishes")
	}
	_, err = admin.CreateRoom(t.Context(), control.RoomCreateRequest{Name: "ops", Owner: "mike", Subjects: []string{"chat.ops.>"}})
	wantControl(t, err, control.Conflict)
	_, err = admin.CreateRoom(t.Context(), control.RoomCreateRequest{Name: "all-of-it", Owner: "mike", Subjects: []string{">"}})
	wantControl(t, err, control.Invalid)
}

// testInboxes: a service answers requests, and nobody but who asked reads the answer.
func (c *inProcess) testInboxes(t *testing.T, admin *control.Client) {
	if _, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: access.Role{Name: "asker", Publish: []string{"svc.>"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: access.Role{Name: "answerer", Subscribe: []string{"svc.>"}, Respond: true}}); err != nil {
		t.Fatal(err)
	}
	asker, err := c.login(c.add(t, admin, "asker-a", "asker"), 0)
	if err != nil {
		t.Fatal(err)
	}
	service, err := c.login(c.add(t, admin, "service-s", "answerer"), 1)
	if err != nil {
		t.Fatal(err)
	}
	spy, err := c.login(c.add(t, admin, "spy-s", "asker"), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Subscribe("svc.echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := service.FlushTimeout(soonest); err != nil {
		t.Fatal(err)
	}
	var heard []*nats.Subscription
	for _, subject := range []string{"_INBOX_asker-a.>", asker.NewInbox() + ".>", ">", "_INBOX.>", "*.*", "_INBOX_asker-a.*"} {
		sub, err := spy.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, sub)
	}
	untilTrue(t, "the service answers", func() bool {
		m, err := asker.Request("svc.echo", []byte("secret"), time.Second)
		return err == nil && string(m.Data) == "secret"
	})
	if allowed(t, service, "_INBOX_spy-s.x", nil) {
		t.Error("the service may publish to an inbox that it was not asked for")
	}
	for _, sub := range heard {
		if m, err := sub.NextMsg(quiet); err == nil {
			t.Errorf("the spy heard %q on %s by %s", m.Data, m.Subject, sub.Subject)
		}
	}
}

// testBuckets: a role reads one bucket and writes another; nobody without the right to write erases anything.
func (c *inProcess) testBuckets(t *testing.T, admin *control.Client) {
	owner, err := c.login(c.admin, 0)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(owner)
	if err != nil {
		t.Fatal(err)
	}
	c.ready(0, 1, 2)
	for _, b := range []string{"prices", "notes", "private"} {
		kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: b, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []string{"a", "b"} {
			if _, err := kv.Put(t.Context(), k, []byte(b)); err != nil {
				t.Fatal(err)
			}
		}
	}
	role := access.Role{Name: "reader", Buckets: []access.BucketGrant{{Name: "prices", Access: access.BucketRead}, {Name: "notes", Access: access.BucketWrite}}}
	if _, err := admin.PutRole(t.Context(), control.RolePutRequest{Role: role}); err != nil {
		t.Fatal(err)
	}
	nc, err := c.login(c.add(t, admin, "rita", "reader"), 1)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	prices, err := mine.KeyValue(t.Context(), "prices")
	if err != nil {
		t.Fatalf("bind to the readable bucket: %v", err)
	}
	if e, err := prices.Get(t.Context(), "a"); err != nil || string(e.Value()) != "prices" {
		t.Errorf("get: %v, %v", e, err)
	}
	if keys, err := prices.Keys(t.Context()); err != nil || len(keys) != 2 {
		t.Errorf("keys: %v, %v", keys, err)
	}
	notes, err := mine.KeyValue(t.Context(), "notes")
	if err != nil {
		t.Fatalf("bind to the writable bucket: %v", err)
	}
	if _, err := notes.Put(t.Context(), "c", []byte("mine")); err != nil {
		t.Errorf("put: %v", err)
	}
	for _, subject := range []string{
		"$KV.prices.a", "$KV.private.a", "$JS.API.STREAM.PURGE.KV_prices", "$JS.API.STREAM.DELETE.KV_prices", "$JS.API.STREAM.UPDATE.KV_prices", "$JS.API.STREAM.CREATE.KV_prices",
		"$JS.API.STREAM.MSG.DELETE.KV_prices", "$JS.API.DIRECT.GET.KV_private.$KV.private.a", "$JS.API.STREAM.MSG.GET.KV_private", "$JS.API.CONSUMER.CREATE.KV_private", "$JS.API.STREAM.SNAPSHOT.KV_prices",
		"$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.BUS", "$JS.API.STREAM.RESTORE.KV_prices", "$JS.API.STREAM.LIST",
	} {
		if allowed(t, nc, subject, nats.Header{"Nats-Rollup": {"all"}}) {
			t.Errorf("a reader may publish to %s", subject)
		}
	}
	for _, b := range []string{"prices", "private"} {
		kv, err := js.KeyValue(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if keys, err := kv.Keys(t.Context()); err != nil || len(keys) != 2 {
			t.Errorf("%s has %v, %v", b, keys, err)
		}
	}
}

// testAuthorization: what the control API itself refuses, whatever the connection may publish.
func (c *inProcess) testAuthorization(t *testing.T, admin *control.Client) {
	boss := c.api(c.add(t, admin, "admin-a", access.RoleAdmin), 0)
	if _, err := boss.AddUser(t.Context(), control.UserAddRequest{Name: "by-admin", Key: public(t, c.add(t, admin, "tmp-x", "member")), Role: "member"}); err == nil {
		t.Error("a key twice")
	}
	c.add(t, boss, "by-boss", "member")
	_, err := boss.DisableUser(t.Context(), "admin-a")
	wantControl(t, err, control.Conflict) // the last one
	member := c.api(c.add(t, admin, "member-m", "member"), 1)
	_, err = member.DisableUser(t.Context(), "admin-a")
	wantControl(t, err, control.Denied)
	_, err = member.User(t.Context(), "alice")
	wantControl(t, err, control.Denied)
	if u, err := member.User(t.Context(), "member-m"); err != nil || u.Name != "member-m" {
		t.Errorf("one's own record: %+v, %v", u, err)
	}
	if s, err := member.Status(t.Context()); err != nil || !s.Posture.Enforce || s.Access.Users == 0 {
		t.Errorf("status: %+v, %v", s.Access, err)
	}
	_, err = member.Users(t.Context())
	wantControl(t, err, control.Denied)
	monitor := c.api(c.add(t, admin, "monitor-m", access.RoleMonitor), 2)
	if users, err := monitor.Users(t.Context()); err != nil || len(users) < 600 {
		t.Errorf("a monitor lists %d users, %v", len(users), err)
	}
	_, err = monitor.DisableUser(t.Context(), "admin-a")
	wantControl(t, err, control.Denied)
	if _, err := monitor.List(t.Context()); err != nil {
		t.Errorf("a monitor reads the settings: %v", err)
	}
}

// testInternal: who can read the node's own identity can administer it from its host, and nothing else.
func (c *inProcess) testInternal(t *testing.T, _ *control.Client) {
	kp, err := LoadIdentity(filepath.Join(c.confs[0].DataDir, "internal.nk"))
	if err != nil {
		t.Fatal(err)
	}
	local := c.api(kp, 0)
	if _, err := local.User(t.Context(), "alice"); err != nil {
		t.Errorf("show: %v", err)
	}
	_, pub := userKey(t)
	if _, err := local.AddUser(t.Context(), control.UserAddRequest{Name: "by-host", Key: pub, Role: "member"}); err != nil {
		t.Errorf("add: %v", err)
	}
	nc, err := c.login(kp, 0, nats.Name("membershipd-cli"))
	if err != nil {
		t.Fatal(err)
	}
	if allowed(t, nc, "orders.new", nil) || allowed(t, nc, "$JS.API.INFO", nil) || maySubscribe(t, nc, ">") {
		t.Error("the internal identity may do more than administer")
	}
	if _, err := c.login(kp, 1, nats.Name("membershipd-cli")); err == nil {
		t.Error("the internal identity of one node gets in at another")
	}
	if _, err := c.login(kp, 0); err == nil {
		t.Error("the internal identity gets in under no name")
	}
}

func (c *inProcess) testAudit(t *testing.T, admin *control.Client) {
	if _, err := admin.DisableUser(t.Context(), "by-boss"); err != nil {
		t.Fatal(err)
	}
	js := jsAPI{nc: c.nodes[0].running.Load().nc}
	by := public(t, c.admin)
	for bucket, want := range map[string][2]string{
		BucketUsers: {"users.disable", by}, BucketRoles: {"roles.put", by}, BucketRooms: {"rooms.create", by}, BucketMembers: {"rooms.revoke", `"user":"olga"`},
	} {
		untilTrue(t, want[0]+" is in the audit trail", func() bool {
			m, err := js.last(t.Context(), AuditStream, auditSubject(bucket))
			return err == nil && strings.Contains(string(m.data), `"`+want[0]+`"`) && strings.Contains(string(m.data), want[1])
		})
	}
}

// plant writes a record that no API would.
func (c *inProcess) plant(t *testing.T, bucket, key, value string) {
	t.Helper()
	js := jsAPI{nc: c.nodes[0].running.Load().nc}
	ctx, cancel := context.WithTimeout(t.Context(), soonest)
	defer cancel()
	seq, err := js.publish(ctx, keySubject(bucket, key), nil, []byte(value), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := access.Bucket(slices.Index(accessBuckets[:], bucket))
	for _, d := range c.nodes {
		untilTrue(t, "the record is applied", func() bool { r, _ := d.users.index.Revisions(); return r[b] >= seq })
	}
}

func (c *inProcess) testQuarantine(t *testing.T, admin *control.Client) {
	kp := c.add(t, admin, "quentin", "member")
	conns := c.everywhere(t, kp)
	for _, junk := range []string{"\x00\xff\n{", `{"schema":2}`, `{"schema":1,"name":"other"}`, strings.Repeat("x", 60<<10), "null", "[]"} {
		c.plant(t, BucketUsers, "quentin", junk)
	}
	c.plant(t, BucketUsers, "No.Such", "junk")
	c.plant(t, BucketRoles, "admin", `{"schema":1,"name":"admin","publish":["x"]}`)
	c.plant(t, BucketMembers, "a.b.c", "{}")
	for i := range allThree {
		closed(t, conns[i])
		if _, err := c.login(kp, i); err == nil {
			t.Errorf("a quarantined user gets in at %d", i)
		}
		s := c.nodes[i].status()
		if s.Access.Quarantines != 4 || len(s.Access.Quarantined) != 4 || !s.Ready {
			t.Errorf("node %d: %+v, ready %t %v", i, s.Access.Quarantined, s.Ready, s.Reasons)
		}
	}
	if u, err := admin.User(t.Context(), "quentin"); err != nil || u.Quarantined == "" {
		t.Errorf("show: %+v, %v", u, err)
	}
	_, pub := userKey(t)
	_, err := admin.AddUser(t.Context(), control.UserAddRequest{Name: "quentin", Key: pub, Role: "member"})
	wantControl(t, err, control.Conflict)
	if role, err := admin.Role(t.Context(), "admin"); err != nil || !role.Builtin {
		t.Errorf("the built-in role: %+v, %v", role, err)
	}
}

// testRewind: a node believes that it has seen more than there is. It proves that with a write, and reads everything again.
func (c *inProcess) testRewind(t *testing.T, admin *control.Client) {
	kp := c.add(t, admin, "rachel", "member")
	plane := c.nodes[2].users
	revisions, _ := plane.index.Revisions()
	ghost, pub := userKey(t)
	plane.apply([]access.Record{{Bucket: access.Users, Key: "ghost", Revision: revisions[access.Users] + 1000,
		Value: []byte(fmt.Sprintf(`{"schema":1,"name":"ghost","nkey":%q,"role":"member","created":"2026-01-01T00:00:00Z"}`, pub))}})
	nc, err := c.login(ghost, 2)
	if err != nil {
		t.Fatalf("the test's own user: %v", err)
	}
	closed(t, nc)
	if _, err := c.login(ghost, 2); err == nil {
		t.Error("who is in no bucket gets in")
	}
	c.everywhere(t, kp)
	if s := c.nodes[2].status(); s.Access.Rewinds != 1 || c.nodes[0].status().Access.Rewinds != 0 {
		t.Errorf("rewinds: %d", s.Access.Rewinds)
	}
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.DisableUser(t.Context(), "rachel")))
}

func mustChange(t *testing.T) func(control.Change, error) control.Change {
	t.Helper()
	return func(ch control.Change, err error) control.Change {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
}

// testRestart: a node that starts without quorum knows whom it knew, and whom it was told to refuse.
func (c *inProcess) testRestart(t *testing.T, admin *control.Client) {
	good, bad := c.add(t, admin, "good", "member"), c.add(t, admin, "bad", "member")
	c.wantEverywhere(t, access.Users, mustChange(t)(admin.DisableUser(t.Context(), "bad")))
	for i := range allThree {
		c.stop(i)
	}
	c.start(1)
	untilTrue(t, "a node without quorum lets a user in", func() bool { _, err := c.login(good, 1); return err == nil })
	if _, err := c.login(bad, 1); err == nil {
		t.Error("a node without quorum lets a disabled user in")
	}
	if s := c.nodes[1].status(); s.Ready || s.Access.Loaded || s.Access.Users == 0 {
		t.Errorf("status: ready %t, %+v", s.Ready, s.Access)
	}
	start := time.Now()
	_, err := c.api(good, 1).User(t.Context(), "good")
	wantControl(t, err, control.Unavailable)
	_, err = c.api(c.admin, 1).DisableUser(t.Context(), "good")
	wantControl(t, err, control.Unavailable)
	if took := time.Since(start); took > 2*soonest {
		t.Errorf("it took %s to be refused", took)
	}
	c.stop(1)
	c.confs[1].AuthMaxStaleness = time.Nanosecond
	c.start(1)
	untilTrue(t, "the server runs", func() bool { _, err := c.login(c.admin, 1); return err == nil })
	if _, err := c.login(good, 1); err == nil {
		t.Error("a node that knows nothing recent lets a user in")
	}
	c.stop(1)
	c.confs[1].AuthMaxStaleness = time.Hour
	if err := os.WriteFile(filepath.Join(c.confs[0].accessDir(), snapshotName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range allThree {
		c.start(i)
	}
	c.ready(0, 1, 2)
	c.everywhere(t, good)
}

const snapshotName = "snapshot"
