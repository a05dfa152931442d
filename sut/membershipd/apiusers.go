package membershipd

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const importChain = 250 // users that are written without waiting for each other

func (a *api) userEndpoints() []endpoint {
	return []endpoint{
		{control.SubjectUsersAdd, needWrite, a.userAdd},
		{control.SubjectUsersImport, needWrite, a.userImport},
		{control.SubjectUsersList, needRead, a.userList},
		{control.SubjectUsersShow, needNothing, a.userShow},
		{control.SubjectUsersDisable, needWrite, a.userDisable},
		{control.SubjectUsersEnable, needWrite, a.userEnable},
		{control.SubjectUsersRotate, needWrite, a.userRotate},
		{control.SubjectUsersSetRole, needWrite, a.userSetRole},
		{control.SubjectRolesPut, needWrite, a.rolePut},
		{control.SubjectRolesList, needRead, a.roleList},
		{control.SubjectRolesShow, needRead, a.roleShow},
		{control.SubjectRolesDelete, needWrite, a.roleDelete},
		{control.SubjectRoomsCreate, needWrite, a.roomCreate},
		{control.SubjectRoomsList, needRead, a.roomList},
		{control.SubjectRoomsShow, needNothing, a.roomShow},
		{control.SubjectRoomsGrant, needNothing, a.roomGrant},
		{control.SubjectRoomsRevoke, needNothing, a.roomRevoke},
	}
}

// refuse turns what is wrong with a request into the answer.
func refuse(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return control.Errorf(control.Invalid, "%v", err)
		}
	}
	return nil
}

func (a *api) userAdd(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.UserAddRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := checkAdd(req); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, "users.add", access.Users, func(caller) (plan, error) { return a.planAdd(req, nil) })
}

func checkAdd(req control.UserAddRequest) error {
	return refuse(access.CheckName("user", req.Name), access.CheckKey(req.Key), access.CheckName("role", req.Role))
}

// batch is what an import is about to write, and the index does not know yet.
type batch struct {
	names, keys map[string]string // skeleton -> name, key -> name
}

func (b *batch) add(req control.UserAddRequest) {
	b.names[access.Skeleton(req.Name)], b.keys[req.Key] = req.Name, req.Name
}

// planAdd decides about one more user; before may be nil.
func (a *api) planAdd(req control.UserAddRequest, before *batch) (plan, error) {
	x := a.plane.index
	if u, ok := x.User(req.Name); ok {
		if u.Key == req.Key {
			return plan{unchanged: true, revision: u.Revision}, nil
		}
		return plan{}, control.Errorf(control.Conflict, "the user %q exists with another key", req.Name)
	}
	if q, ok := x.QuarantinedUser(req.Name); ok {
		return plan{}, control.Errorf(control.Conflict, "the record of the user %q is quarantined: %s", req.Name, q.Why)
	}
	if other, ok := x.Lookalike(req.Name); ok {
		return plan{}, control.Errorf(control.Conflict, "the name %q can be taken for that of the user %q", req.Name, other)
	}
	if err := a.keyIsFree(req.Key, req.Name); err != nil {
		return plan{}, err
	}
	if err := a.roleExists(req.Role); err != nil {
		return plan{}, err
	}
	if before != nil {
		if other := cmp.Or(before.names[access.Skeleton(req.Name)], before.keys[req.Key]); other != "" {
			return plan{}, control.Errorf(control.Conflict, "the request has the name or the key of %q twice", other)
		}
	}
	u := access.User{Schema: access.Schema, Name: req.Name, Key: req.Key, Role: req.Role, Created: time.Now().UTC()}
	return plan{key: u.Name, record: u, adds: true}, nil
}

func (a *api) keyIsFree(key, name string) error {
	if holder, ok := a.plane.index.Holder(key); ok && holder != name {
		return control.Errorf(control.Conflict, "the key belongs to the user %q", holder)
	}
	if a.reserved(key) {
		return control.Errorf(control.Conflict, "the key logs in without a user: it is a static key, or a node's own")
	}
	return nil
}

func (a *api) roleExists(name string) error {
	if _, ok := a.plane.index.Role(name); !ok {
		return control.Errorf(control.NotFound, "there is no role %q", name)
	}
	return nil
}

// userImport writes many users in a chain: each on the condition that the bucket ends with the one before.
func (a *api) userImport(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.UserImportRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if n := len(req.Users); n == 0 || n > control.MaxImport {
		return nil, control.Errorf(control.Invalid, "%d users: want 1 to %d", n, control.MaxImport)
	}
	release, err := a.enter(ctx, access.Users)
	if err != nil {
		return nil, err
	}
	var resp control.UserImportResponse
	for resp.Done < len(req.Users) && err == nil {
		part := req.Users[resp.Done:min(resp.Done+importChain, len(req.Users))]
		var n int
		n, err = a.importPart(ctx, who, part, &resp)
		resp.Done += n
	}
	release()
	if err != nil {
		var e *control.Error
		if !errors.As(err, &e) {
			e = control.Errorf(control.Unknown, "%v", err)
		}
		if resp.Done == 0 {
			return nil, e
		}
		resp.Error = e
	}
	resp.Applied, resp.Pending = a.waitFollowers(ctx, access.Users, resp.Revision)
	return resp, nil
}

// importPart writes users until one is refused, and returns how many of them, from the first on, are there.
func (a *api) importPart(ctx context.Context, who caller, users []control.UserAddRequest, resp *control.UserImportResponse) (int, error) {
	var before attempt
	for {
		revisions, _ := a.plane.index.Revisions()
		revision := revisions[access.Users]
		now, err := a.still(who)
		if err != nil {
			if _, err := a.notDone(ctx, access.Users, before, err); err != nil {
				return 0, err
			}
			return 0, control.Errorf(control.Unknown, "the caller may not do this any more, and some of it was done before")
		}
		who = now
		msgs, ends, refused := a.planImport(who, users, revision)
		if len(msgs) == 0 {
			if fresh, err := a.upToDate(ctx, access.Users, revision); err != nil || !fresh {
				if err != nil {
					return 0, err
				}
				continue
			}
			resp.Revision = max(resp.Revision, revision)
			return len(ends), refused
		}
		written, stored, last, err := a.js.publishChain(ctx, msgs)
		if last > 0 {
			resp.Revision, resp.Changed, resp.Added = last, true, resp.Added+stored
			a.follow[access.Users].hint(last)
			a.plane.announce(a.js.nc, revisionOf(access.Users, last))
			a.wrote()
			if e := a.plane.waitApplied(ctx, access.Users, last); e != nil && err == nil {
				err = control.Errorf(control.Unavailable, "%v", e)
			}
		}
		switch {
		case err == nil:
			return len(ends), refused
		case certainlyNotSent(err) && written == 0 && sleep(ctx, raceWait):
			continue
		case hasCode(err, codeWrongSequence, codeInProcess) && written == 0:
			before = attempt{m: msgs[0], revision: revision}
			if err := a.afterRace(ctx, access.Users, revision); err != nil {
				return 0, err
			}
			continue
		case hasCode(err, codeWrongSequence, codeInProcess):
			return doneUpTo(ends, written), nil // somebody else came between: the rest is planned anew
		}
		if isFull(err) {
			_, err = a.noRoom(ctx, access.Users, attempt{m: msgs[written], revision: revision + uint64(written)})
			return doneUpTo(ends, written), err // without an error the rest is planned anew
		}
		return doneUpTo(ends, written), a.writeFailed(access.Users, err)
	}
}

// planImport returns the messages to be written, for each user that is not refused the number of messages that it needs to be there, and why the next is refused.
func (a *api) planImport(who caller, users []control.UserAddRequest, revision uint64) (msgs []*nats.Msg, ends []int, refused error) {
	before := &batch{names: map[string]string{}, keys: map[string]string{}}
	for _, req := range users {
		if err := checkAdd(req); err != nil {
			return msgs, ends, err
		}
		p, err := a.planAdd(req, before)
		if err != nil {
			return msgs, ends, err
		}
		if !p.unchanged {
			m, err := a.message(who, "users.import", access.Users, p, revision+uint64(len(msgs)))
			if err != nil {
				return msgs, ends, err
			}
			if err := a.admits(BucketUsers, m); err != nil {
				return msgs, ends, err
			}
			m.Header.Set(headerExpectSeq, "0") // of the name: another's write that comes between may have taken it, and the chain goes on behind it
			msgs = append(msgs, m)
			before.add(req)
		}
		ends = append(ends, len(msgs))
	}
	return msgs, ends, nil
}

// doneUpTo counts the users that are there when so many messages were written.
func doneUpTo(ends []int, written int) int {
	n := 0
	for n < len(ends) && ends[n] <= written {
		n++
	}
	return n
}

// changeUser writes a user's record anew if change, which gets a copy, alters it.
func (a *api) changeUser(ctx context.Context, who caller, what, name string, expect *uint64, change func(*access.User) error) (any, error) {
	if err := refuse(access.CheckName("user", name)); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, what, access.Users, func(caller) (plan, error) {
		stored, ok := a.plane.index.User(name)
		if !ok {
			return plan{}, control.Errorf(control.NotFound, "there is no user %q", name)
		}
		if expect != nil && *expect != stored.Revision {
			return plan{}, control.Errorf(control.Conflict, "the user %q has the revision %d, not %d", name, stored.Revision, *expect)
		}
		next := stored.User
		if err := change(&next); err != nil {
			return plan{}, err
		}
		if next == stored.User {
			return plan{unchanged: true, revision: stored.Revision}, nil
		}
		if isAdmin(stored.User) && !isAdmin(next) && a.plane.index.EnabledAdmins() <= 1 {
			return plan{}, control.Errorf(control.Conflict, "%q is the last user who may administer the cluster", name)
		}
		return plan{key: name, record: next}, nil
	})
}

func isAdmin(u access.User) bool { return u.Role == access.RoleAdmin && !u.Disabled }

func (a *api) userDisable(ctx context.Context, who caller, data []byte) (any, error) {
	return a.setDisabled(ctx, who, "users.disable", data, true)
}

func (a *api) userEnable(ctx context.Context, who caller, data []byte) (any, error) {
	return a.setDisabled(ctx, who, "users.enable", data, false)
}

func (a *api) setDisabled(ctx context.Context, who caller, what string, data []byte, disabled bool) (any, error) {
	var req control.UserRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	return a.changeUser(ctx, who, what, req.Name, req.Expect, func(u *access.User) error {
		u.Disabled = disabled
		return nil
	})
}

func (a *api) userRotate(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.UserRotateRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := refuse(access.CheckKey(req.Key)); err != nil {
		return nil, err
	}
	return a.changeUser(ctx, who, "users.rotate", req.Name, req.Expect, func(u *access.User) error {
		u.Key = req.Key
		return a.keyIsFree(req.Key, req.Name)
	})
}

func (a *api) userSetRole(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.UserSetRoleRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := refuse(access.CheckName("role", req.Role)); err != nil {
		return nil, err
	}
	return a.changeUser(ctx, who, "users.setrole", req.Name, req.Expect, func(u *access.User) error {
		u.Role = req.Role
		return a.roleExists(req.Role)
	})
}

// catchUp makes reads as new as the bucket's leader.
func (a *api) catchUp(ctx context.Context, buckets ...access.Bucket) error {
	for _, b := range buckets {
		if why := a.bucketDown(accessBuckets[b], b.String()); why != "" {
			return control.Errorf(control.Unavailable, "%s", why)
		}
		revisions, _ := a.plane.index.Revisions()
		if _, err := a.upToDate(ctx, b, revisions[b]); err != nil {
			return err
		}
	}
	return nil
}

func page(data []byte) (control.PageRequest, error) {
	var req control.PageRequest
	if err := decode(data, &req); err != nil {
		return req, err
	}
	if req.Limit < 0 || req.Limit > control.MaxListPage {
		return req, control.Errorf(control.Invalid, "the limit is %d: want 0 to %d", req.Limit, control.MaxListPage)
	}
	if req.Limit == 0 {
		req.Limit = control.MaxListPage
	}
	return req, nil
}

// cut takes the page out of a list that is sorted by name.
func cut[T any](all []T, name func(T) string, req control.PageRequest) (part []T, next string) {
	part = []T{}
	for _, v := range all {
		if n := name(v); n <= req.After || !strings.HasPrefix(n, req.Prefix) {
			continue
		}
		if len(part) == req.Limit {
			return part, name(part[len(part)-1])
		}
		part = append(part, v)
	}
	return part, ""
}

func (a *api) userList(ctx context.Context, _ caller, data []byte) (any, error) {
	req, err := page(data)
	if err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Users); err != nil {
		return nil, err
	}
	stored, next := a.plane.index.UserPage(req.After, req.Prefix, req.Limit)
	resp := control.UserListResponse{Users: []control.User{}, Next: next, Total: a.plane.index.Stats().Users}
	for _, u := range stored {
		resp.Users = append(resp.Users, control.User{User: u.User, Revision: u.Revision})
	}
	return resp, nil
}

// userShow is for everybody, about themselves.
func (a *api) userShow(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.UserRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	name := cmp.Or(req.Name, who.name)
	if name != who.name && !who.may(needRead) {
		return nil, control.Errorf(control.Denied, "this key may see its own user only")
	}
	if err := refuse(access.CheckName("user", name)); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Users, access.Rooms, access.Members); err != nil {
		return nil, err
	}
	if q, ok := a.plane.index.QuarantinedUser(name); ok {
		return control.User{User: access.User{Name: name}, Revision: q.Revision, Quarantined: q.Why}, nil
	}
	u, ok := a.plane.index.User(name)
	if !ok {
		return nil, control.Errorf(control.NotFound, "there is no user %q", name)
	}
	out := control.User{User: u.User, Revision: u.Revision, Rooms: u.Rooms}
	if holder, ok := a.plane.index.Holder(u.Key); ok && holder != name {
		out.Quarantined = "its key belongs to " + holder
	}
	return out, nil
}

func (a *api) rolePut(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RolePutRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	r := req.Role
	r.Schema = access.Schema
	if err := refuse(r.Check()); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, "roles.put", access.Roles, func(caller) (plan, error) {
		old, exists := a.plane.index.Role(r.Name)
		if req.Expect != nil && *req.Expect != old.Revision {
			return plan{}, control.Errorf(control.Conflict, "the role %q has the revision %d, not %d", r.Name, old.Revision, *req.Expect)
		}
		if exists && reflect.DeepEqual(old.Role, r) {
			return plan{unchanged: true, revision: old.Revision}, nil
		}
		return plan{key: r.Name, record: r, adds: !exists}, nil
	})
}

func roleOf(r access.StoredRole) control.Role {
	return control.Role{Role: r.Role, Revision: r.Revision, Builtin: r.Builtin, Users: r.Users}
}

func (a *api) roleList(ctx context.Context, _ caller, data []byte) (any, error) {
	req, err := page(data)
	if err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Roles); err != nil {
		return nil, err
	}
	var all []control.Role
	for _, r := range a.plane.index.RoleList() {
		all = append(all, roleOf(r))
	}
	part, next := cut(all, func(r control.Role) string { return r.Name }, req)
	return control.RoleListResponse{Roles: part, Next: next}, nil
}

func (a *api) roleShow(ctx context.Context, _ caller, data []byte) (any, error) {
	var req control.RoleRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Roles); err != nil {
		return nil, err
	}
	r, ok := a.plane.index.Role(req.Name)
	if !ok {
		return nil, control.Errorf(control.NotFound, "there is no role %q", req.Name)
	}
	return roleOf(r), nil
}

// roleDelete refuses to take a role from its users. One that is given to a user at this very moment is gone for that user, who can do nothing then.
func (a *api) roleDelete(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RoleRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Users); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, "roles.delete", access.Roles, func(caller) (plan, error) {
		r, ok := a.plane.index.Role(req.Name)
		switch {
		case !ok:
			return plan{}, control.Errorf(control.NotFound, "there is no role %q", req.Name)
		case r.Builtin:
			return plan{}, control.Errorf(control.Invalid, "the role %q is built in", req.Name)
		case r.Users > 0:
			return plan{}, control.Errorf(control.Conflict, "%d users have the role %q", r.Users, req.Name)
		}
		return plan{key: req.Name}, nil
	})
}

func (a *api) roomCreate(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RoomCreateRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	r := access.Room{Schema: access.Schema, Name: req.Name, Owner: req.Owner, Subjects: req.Subjects, Description: req.Description, Created: time.Now().UTC()}
	if err := refuse(r.Check()); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Users); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, "rooms.create", access.Rooms, func(caller) (plan, error) {
		if old, ok := a.plane.index.Room(r.Name); ok {
			if old.Owner == r.Owner && slices.Equal(old.Subjects, r.Subjects) {
				return plan{unchanged: true, revision: old.Revision}, nil
			}
			return plan{}, control.Errorf(control.Conflict, "the room %q exists with another owner or other subjects", r.Name)
		}
		if err := a.userExists(r.Owner); err != nil {
			return plan{}, err
		}
		return plan{key: r.Name, record: r, adds: true}, nil
	})
}

func (a *api) userExists(name string) error {
	if _, ok := a.plane.index.User(name); !ok {
		return control.Errorf(control.NotFound, "there is no user %q", name)
	}
	return nil
}

func (a *api) roomList(ctx context.Context, _ caller, data []byte) (any, error) {
	req, err := page(data)
	if err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Rooms); err != nil {
		return nil, err
	}
	var all []control.Room
	for _, r := range a.plane.index.RoomList() {
		all = append(all, control.Room{Room: r.Room, Revision: r.Revision})
	}
	part, next := cut(all, func(r control.Room) string { return r.Name }, req)
	return control.RoomListResponse{Rooms: part, Next: next}, nil
}

// roomShow is for those who may read everything, and for the members.
func (a *api) roomShow(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RoomRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Rooms, access.Members); err != nil {
		return nil, err
	}
	if !who.may(needRead) && (who.name == "" || a.plane.index.Level(req.Name, who.name) == "") {
		return nil, control.Errorf(control.Denied, "this key may see its own rooms only")
	}
	r, ok := a.plane.index.Room(req.Name)
	if !ok {
		return nil, control.Errorf(control.NotFound, "there is no room %q", req.Name)
	}
	return control.Room{Room: r.Room, Revision: r.Revision, Members: r.Members}, nil
}

// mayGrant is for administrators and the room's owners.
func (a *api) mayGrant(who caller, room string) error {
	if who.may(needWrite) || who.name != "" && a.plane.index.Level(room, who.name) == access.LevelOwner {
		return nil
	}
	return control.Errorf(control.Denied, "only an administrator or an owner of the room %q may do that", room)
}

func (a *api) roomGrant(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RoomGrantRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := refuse(access.CheckLevel(req.Level)); err != nil {
		return nil, err
	}
	return a.setLevel(ctx, who, "rooms.grant", req.Room, req.User, req.Level)
}

func (a *api) roomRevoke(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.RoomRevokeRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	return a.setLevel(ctx, who, "rooms.revoke", req.Room, req.User, "")
}

func (a *api) setLevel(ctx context.Context, who caller, what, room, user, level string) (any, error) {
	if err := refuse(access.CheckName("room", room), access.CheckName("user", user)); err != nil {
		return nil, err
	}
	if err := a.catchUp(ctx, access.Users, access.Rooms); err != nil {
		return nil, err
	}
	return a.commit(ctx, who, what, access.Members, func(who caller) (plan, error) {
		if err := a.mayGrant(who, room); err != nil {
			return plan{}, err
		}
		r, ok := a.plane.index.Room(room)
		if !ok {
			return plan{}, control.Errorf(control.NotFound, "there is no room %q", room)
		}
		if err := a.userExists(user); err != nil {
			return plan{}, err
		}
		if r.Owner == user && level != access.LevelOwner {
			return plan{}, control.Errorf(control.Conflict, "%q owns the room %q", user, room)
		}
		if r.Members[user] == level {
			revisions, _ := a.plane.index.Revisions()
			return plan{unchanged: true, revision: revisions[access.Members]}, nil
		}
		m := access.Member{Schema: access.Schema, Room: room, User: user, Level: level}
		return plan{key: access.MemberKey(room, user), record: m, adds: level != "" && r.Members[user] == ""}, nil
	})
}
