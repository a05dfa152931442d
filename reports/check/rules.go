package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// This file is the oracle of who may do what: the documented rules, written down a second time and from the documents only. It shares no
// code with the daemon, because an oracle that shares its subject's mistakes sees none of them.

// Targets of changes to the control plane, as they stand in histories. Values are the records below, whole, as they are after the change.
const (
	TargetUsers   = "control/users"
	TargetRoles   = "control/roles"
	TargetRooms   = "control/rooms"
	TargetMembers = "control/members" // Key is "room.user"
)

// Actions that an access operation's Key begins with.
const (
	ActLogin     = "login"     // connect with the user's key
	ActPublish   = "publish"   // and a witness saw it
	ActSubscribe = "subscribe" // and what a witness sent arrived
	ActRequest   = "request"   // core request, answered into the user's own inbox
	ActStore     = "store"     // publish to a stream's subject, acked
	ActKVGet     = "kv-get"    // BUCKET.KEY
	ActKVPut     = "kv-put"    // BUCKET.KEY
	ActRollup    = "rollup"    // put that would erase the rest of BUCKET: Nats-Rollup: all
	ActInfo      = "info"      // look at STREAM
	ActConsume   = "consume"   // create a consumer of STREAM
	ActDivert    = "divert"    // create a consumer that pushes STREAM into another user's inbox
	ActManage    = "manage"    // create, delete or purge a stream
	ActInbox     = "inbox"     // subscribe to the inbox of USER
	ActRead      = "read"      // control API, a call that changes nothing and tells of others
	ActStatus    = "status"    // control API, the cluster's state
	ActWrite     = "write"     // control API, a call that changes something
)

// UserRecord is a user, in a change's Value.
type UserRecord struct {
	Key      string `json:"nkey"`
	Role     string `json:"role"`
	Disabled bool   `json:"disabled,omitempty"`
}

// RoleRecord is a role, in a change's Value.
type RoleRecord struct {
	Publish   []string          `json:"publish,omitempty"`
	Subscribe []string          `json:"subscribe,omitempty"`
	Deny      []string          `json:"deny,omitempty"`
	Streams   map[string]string `json:"streams,omitempty"` // name: "consume" or "read"
	Buckets   map[string]string `json:"buckets,omitempty"` // name: "read" or "write"
	Control   string            `json:"control,omitempty"` // "" or "read"
}

// RoomRecord is a room, in a change's Value.
type RoomRecord struct {
	Subjects []string `json:"subjects"`
}

// MemberRecord is a membership, in a change's Value: "member", "observer", "owner", or "" for one that left.
type MemberRecord struct {
	Level string `json:"level"`
}

// AdminRole is the built-in role that may do everything.
const AdminRole = "admin"

// Wrong rules, for negative controls: a model that has one of them must find the cluster guilty.
const (
	WrongNoDeny    = "no-deny"       // a role's Deny means nothing
	WrongNoRooms   = "no-rooms"      // rooms give nothing
	WrongDisable   = "no-disable"    // a disabled user goes on
	WrongRoleNever = "no-publishing" // roles give no publishing
	WrongNobody    = "nobody"        // no user may come in
)

var wrongRules = map[string]bool{"": true, WrongNoDeny: true, WrongNoRooms: true, WrongDisable: true, WrongRoleNever: true, WrongNobody: true}

// Encode is a record as it stands in a change's Value.
func Encode(record any) string {
	b, err := json.Marshal(record)
	if err != nil {
		panic("check: a record of plain fields does not encode: " + err.Error())
	}
	return string(b)
}

// attempt is what was tried, out of an access operation.
type attempt struct {
	user, key   string
	action, obj string
}

func attemptOf(op *history.Op) (attempt, error) {
	action, obj, _ := strings.Cut(op.Key, " ")
	if !actions[action] {
		return attempt{}, fmt.Errorf("no such action: %q", op.Key)
	}
	return attempt{user: op.Target, key: op.Value, action: action, obj: obj}, nil
}

var actions = map[string]bool{ActLogin: true, ActPublish: true, ActSubscribe: true, ActRequest: true, ActStore: true, ActKVGet: true, ActKVPut: true, ActRollup: true,
	ActInfo: true, ActConsume: true, ActDivert: true, ActManage: true, ActInbox: true, ActRead: true, ActStatus: true, ActWrite: true}

// tri is a set of verdicts: what may lawfully be the answer.
type tri struct{ yes, no bool }

func (t *tri) add(b bool) {
	if b {
		t.yes = true
	} else {
		t.no = true
	}
}

// membership is what one room may be giving the user: its subjects, and a level in it.
type membership struct {
	subjects []string
	level    string
}

// mayUser says whether that record lets the key in at all.
func mayUser(u *UserRecord, key, wrong string) bool {
	return u != nil && u.Key == key && (!u.Disabled || wrong == WrongDisable) && wrong != WrongNobody
}

// mayRole says what the role alone gives, and whether it denies whatever else gives it.
func mayRole(name string, role RoleRecord, a attempt, wrong string) (gives, denies bool) {
	admin := name == AdminRole
	switch a.action {
	case ActLogin, ActStatus:
		return true, false
	case ActInbox:
		return admin || a.obj == a.user, false
	case ActManage, ActDivert, ActWrite:
		return admin, false
	case ActRead:
		return admin || role.Control == "read", false
	case ActInfo:
		return admin || role.Streams[a.obj] != "", false
	case ActConsume:
		return admin || role.Streams[a.obj] == "read", false
	case ActKVGet:
		return admin || role.Buckets[bucketOf(a.obj)] != "", false
	case ActKVPut, ActRollup:
		return admin || role.Buckets[bucketOf(a.obj)] == "write", false
	}
	allow, listens := role.Publish, a.action == ActSubscribe
	if listens {
		allow = role.Subscribe
	}
	gives = admin || anyCovers(allow, a.obj) && (listens || wrong != WrongRoleNever)
	return gives, wrong != WrongNoDeny && !admin && anyCovers(role.Deny, a.obj)
}

// mayRoom says whether a membership gives it.
func mayRoom(m membership, a attempt, wrong string) bool {
	if wrong == WrongNoRooms || !anyCovers(m.subjects, a.obj) {
		return false
	}
	switch a.action {
	case ActPublish, ActRequest, ActStore:
		return m.level == "member" || m.level == "owner"
	case ActSubscribe:
		return m.level != ""
	}
	return false
}

func bucketOf(obj string) string {
	b, _, _ := strings.Cut(obj, ".")
	return b
}

func anyCovers(patterns []string, subject string) bool {
	for _, p := range patterns {
		if Covers(p, subject) {
			return true
		}
	}
	return false
}

// Covers says whether every subject that matches subject, which may have wildcards itself, matches pattern.
func Covers(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, t := range p {
		switch {
		case t == ">":
			return i < len(s)
		case i >= len(s) || s[i] == ">":
			return false
		case t == "*":
		case t != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}
