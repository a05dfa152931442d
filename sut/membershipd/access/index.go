package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

// Bucket is one of the four buckets that the index is made of.
type Bucket int

// The buckets.
const (
	Users Bucket = iota
	Roles
	Rooms
	Members
	NumBuckets = 4
)

// String is the word for messages.
func (b Bucket) String() string {
	return [...]string{"users", "roles", "rooms", "members"}[b]
}

// Record is a key's value at a revision. A value without bytes means that the key is deleted.
type Record struct {
	Bucket   Bucket
	Key      string
	Revision uint64
	Value    []byte
}

// FenceKey is no record: what is written there proves that a bucket can be written, and where it ends.
const FenceKey = "_fence"

// Revisions are the last revision of each bucket that was applied.
type Revisions [NumBuckets]uint64

// Effect names whose permissions a record may have changed: one user, or all users with a role, or all members of a room.
type Effect struct {
	User, Role, Room string
}

// Quarantine is a stored record that was not understood. It grants nothing.
type Quarantine struct {
	Bucket   Bucket
	Key      string
	Revision uint64
	Why      string
}

// Reasons why somebody who has proved a key may not log in.
var (
	ErrUnknown     = errors.New("no user has this key")
	ErrDisabled    = errors.New("the user is disabled")
	ErrQuarantined = errors.New("the user's record is quarantined")
	ErrNoRole      = errors.New("the user's role does not exist")
)

// Login is what a user who has proved its key gets.
type Login struct {
	Name        string
	Role        string
	Permissions Permissions
	Fingerprint string
	Admin       bool
	Control     string // what the control API lets the user do
}

// Index answers who may do what, from records that are applied in the order of their revisions. It is safe for concurrent use.
//
// Two users with one key, which the writers prevent, would be decided the same way on every node: the record that was created first has the key.
type Index struct {
	mu         sync.RWMutex
	users      map[string]*user
	keys       map[string]*user  // who logs in with that key
	skeletons  map[string]string // to a name
	roles      map[string]*role
	rooms      map[string]*room
	rights     map[string]map[string]string // user -> room -> level
	members    map[string]map[string]string // room -> user -> level, whether the room is known or not
	owned      map[string]map[string]string // user -> room -> LevelOwner, from the rooms themselves
	roleUsers  map[string]int               // users by role, whether the role is known or not
	quarantine map[Bucket]map[string]Quarantine
	revisions  Revisions
	names      []string // of all users, sorted; nil when it has to be made again
	changed    chan struct{}
}

type user struct {
	User
	revision uint64
}

type role struct {
	Role
	revision    uint64
	permissions Permissions
}

type room struct {
	Room
	revision uint64
}

// NewIndex returns an index that knows the built-in roles only.
func NewIndex() *Index {
	x := &Index{changed: make(chan struct{}), roles: map[string]*role{}}
	for b := range Bucket(NumBuckets) {
		x.clear(b)
	}
	return x
}

// clear forgets a bucket.
func (x *Index) clear(b Bucket) {
	if x.quarantine == nil {
		x.quarantine = map[Bucket]map[string]Quarantine{}
	}
	x.quarantine[b] = map[string]Quarantine{}
	x.revisions[b] = 0
	switch b {
	case Users:
		x.users, x.keys, x.skeletons, x.names = map[string]*user{}, map[string]*user{}, map[string]string{}, nil
		x.roleUsers = map[string]int{}
	case Roles:
		x.roles = map[string]*role{}
		for _, r := range builtins {
			x.roles[r.Name] = &role{Role: r, permissions: rolePermissions(r)}
		}
	case Rooms:
		x.rooms, x.owned = map[string]*room{}, map[string]map[string]string{}
	case Members:
		x.rights, x.members = map[string]map[string]string{}, map[string]map[string]string{}
	}
}

// Apply takes records in the order of their revisions and says whom they may concern. Records that are not newer than what was applied are skipped.
func (x *Index) Apply(records ...Record) []Effect {
	x.mu.Lock()
	defer x.mu.Unlock()
	var effects []Effect
	for _, r := range records {
		if r.Revision <= x.revisions[r.Bucket] {
			continue
		}
		if r.Key != FenceKey {
			effects = append(effects, x.apply(r)...)
		}
		x.revisions[r.Bucket] = r.Revision
	}
	x.wake()
	return effects
}

// Replace makes these records everything there is in a bucket, whose last revision is that one. It is for a bucket that is not the one it was.
func (x *Index) Replace(b Bucket, last uint64, records []Record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clear(b)
	for _, r := range records {
		if r.Key != FenceKey {
			x.apply(r)
		}
	}
	x.revisions[b] = last
	x.wake()
}

// wake tells those who wait for a revision.
func (x *Index) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

func (x *Index) apply(r Record) []Effect {
	delete(x.quarantine[r.Bucket], r.Key)
	var effects []Effect
	var err error
	switch r.Bucket {
	case Users:
		effects, err = x.applyUser(r)
	case Roles:
		effects, err = x.applyRole(r)
	case Rooms:
		effects, err = x.applyRoom(r)
	case Members:
		effects, err = x.applyMember(r)
	}
	if err != nil {
		x.quarantine[r.Bucket][r.Key] = Quarantine{Bucket: r.Bucket, Key: r.Key, Revision: r.Revision, Why: err.Error()}
	}
	return effects
}

// applyUser forgets what was known of the user first: a record that cannot be understood must not leave an older one in force.
func (x *Index) applyUser(r Record) ([]Effect, error) {
	effects := []Effect{{User: r.Key}}
	if old, ok := x.users[r.Key]; ok {
		x.dropUser(old)
		effects = append(effects, x.heir(old)...)
	}
	if len(r.Value) == 0 {
		return effects, nil
	}
	parsed, err := ParseUser(r.Key, r.Value)
	if err != nil {
		return effects, err
	}
	u := &user{User: parsed, revision: r.Revision}
	if known, ok := x.roles[u.Role]; ok {
		u.Role = known.Name // share the bytes
	}
	x.users[u.Name], x.skeletons[Skeleton(u.Name)], x.names = u, u.Name, nil
	x.roleUsers[u.Role]++
	holder, taken := x.keys[u.Key]
	if !taken || first(u, holder) {
		x.keys[u.Key] = u
	}
	if taken {
		effects = append(effects, Effect{User: holder.Name})
	}
	return effects, nil
}

// first says which of two users has the key that both name.
func first(a, b *user) bool {
	if !a.Created.Equal(b.Created) {
		return a.Created.Before(b.Created)
	}
	return a.Name < b.Name
}

func (x *Index) dropUser(u *user) {
	delete(x.users, u.Name)
	delete(x.skeletons, Skeleton(u.Name))
	x.names = nil
	if x.roleUsers[u.Role]--; x.roleUsers[u.Role] <= 0 {
		delete(x.roleUsers, u.Role)
	}
	if x.keys[u.Key] == u {
		delete(x.keys, u.Key)
	}
}

// heir finds who has a key now that its holder is gone; there is one only where writers went wrong.
func (x *Index) heir(gone *user) []Effect {
	if x.keys[gone.Key] != nil || len(x.users) == len(x.keys) {
		return nil
	}
	for _, u := range x.users {
		if u.Key == gone.Key && (x.keys[u.Key] == nil || first(u, x.keys[u.Key])) {
			x.keys[u.Key] = u
		}
	}
	if u := x.keys[gone.Key]; u != nil {
		return []Effect{{User: u.Name}}
	}
	return nil
}

func (x *Index) applyRole(r Record) ([]Effect, error) {
	effects := []Effect{{Role: r.Key}}
	if _, taken := builtin(r.Key); taken {
		return nil, invalid("the role %q is built in", r.Key)
	}
	delete(x.roles, r.Key)
	if len(r.Value) == 0 {
		return effects, nil
	}
	parsed, err := ParseRole(r.Key, r.Value)
	if err != nil {
		return effects, err
	}
	x.roles[parsed.Name] = &role{Role: parsed, revision: r.Revision, permissions: rolePermissions(parsed)}
	return effects, nil
}

func (x *Index) applyRoom(r Record) ([]Effect, error) {
	effects := []Effect{{Room: r.Key}}
	if old, ok := x.rooms[r.Key]; ok {
		effects = append(effects, Effect{User: old.Owner})
		setOrDelete(x.owned, old.Owner, old.Name, "")
		delete(x.rooms, r.Key)
	}
	if len(r.Value) == 0 {
		return effects, nil
	}
	parsed, err := ParseRoom(r.Key, r.Value)
	if err != nil {
		return effects, err
	}
	x.rooms[parsed.Name] = &room{Room: parsed, revision: r.Revision}
	setOrDelete(x.owned, parsed.Owner, parsed.Name, LevelOwner)
	return append(effects, Effect{User: parsed.Owner}), nil
}

func (x *Index) applyMember(r Record) ([]Effect, error) {
	roomName, userName, _ := strings.Cut(r.Key, ".")
	effects := []Effect{{User: userName}}
	x.setLevel(roomName, userName, "")
	if len(r.Value) == 0 {
		return effects, nil
	}
	m, err := ParseMember(r.Key, r.Value)
	if err != nil {
		return effects, err
	}
	x.setLevel(m.Room, m.User, m.Level)
	if mutant.Planted == mutant.RoomRevokeOpen && m.Level == "" {
		return nil, nil
	}
	return effects, nil
}

func (x *Index) setLevel(room, user, level string) {
	setOrDelete(x.rights, user, room, level)
	setOrDelete(x.members, room, user, level)
}

// setOrDelete sets m[a][b], or deletes it and what becomes empty.
func setOrDelete(m map[string]map[string]string, a, b, level string) {
	switch {
	case level == "":
		delete(m[a], b)
		if len(m[a]) == 0 {
			delete(m, a)
		}
	case m[a] == nil:
		m[a] = map[string]string{b: level}
	default:
		m[a][b] = level
	}
}

// Login says what the owner of that key may do. The caller has checked that it is the owner.
func (x *Index) Login(key string) (Login, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	u, r, err := x.enabled(key)
	if err != nil {
		return Login{}, err
	}
	p := userPermissions(u.User, r.permissions, x.memberships(u.Name))
	return Login{Name: u.Name, Role: u.Role, Permissions: p, Fingerprint: p.Fingerprint(), Admin: u.Role == RoleAdmin, Control: r.Control}, nil
}

// Caller returns the name of the key's owner, and what it may do with the control API: of [Index.Login] what takes no work.
func (x *Index) Caller(key string) (name, control string, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	u, r, err := x.enabled(key)
	if err != nil {
		return "", "", err
	}
	return u.Name, r.Control, nil
}

// enabled is the user with that key, who may log in, and its role.
func (x *Index) enabled(key string) (*user, *role, error) {
	u, ok := x.keys[key]
	if !ok {
		return nil, nil, ErrUnknown
	}
	if u.Disabled {
		return nil, nil, fmt.Errorf("%s: %w", u.Name, ErrDisabled)
	}
	r, ok := x.roles[u.Role]
	if !ok {
		return nil, nil, fmt.Errorf("%s: %w: %q", u.Name, ErrNoRole, u.Role)
	}
	return u, r, nil
}

// memberships are the user's rooms in order of their names.
func (x *Index) memberships(name string) []membership {
	rights := x.levels(name)
	if len(rights) == 0 {
		return nil
	}
	var all []membership
	for _, n := range slices.Sorted(maps.Keys(rights)) {
		if r, ok := x.rooms[n]; ok {
			all = append(all, membership{room: r.Room, level: rights[n]})
		}
	}
	return all
}

// levels are the user's levels by room: what was granted, and what the user owns.
func (x *Index) levels(name string) map[string]string {
	if len(x.owned[name]) == 0 {
		return x.rights[name]
	}
	all := maps.Clone(x.owned[name])
	for room, level := range x.rights[name] {
		if all[room] == "" {
			all[room] = level
		}
	}
	return all
}

// Revisions returns what was applied, and a channel that is closed when more is.
func (x *Index) Revisions() (Revisions, <-chan struct{}) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.revisions, x.changed
}

// Stats are counts for people and for monitoring.
type Stats struct {
	Users, Disabled, Roles, Rooms, Members, Quarantined int
}

// Stats counts.
func (x *Index) Stats() Stats {
	x.mu.RLock()
	defer x.mu.RUnlock()
	s := Stats{Users: len(x.users), Roles: len(x.roles), Rooms: len(x.rooms)}
	for _, rooms := range x.rights {
		s.Members += len(rooms)
	}
	for _, q := range x.quarantine {
		s.Quarantined += len(q)
	}
	return s
}

// Quarantined lists what was not understood, and users who lost their key to another.
func (x *Index) Quarantined() []Quarantine {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []Quarantine
	for b := range Bucket(NumBuckets) {
		for _, k := range slices.Sorted(maps.Keys(x.quarantine[b])) {
			all = append(all, x.quarantine[b][k])
		}
	}
	if len(x.users) != len(x.keys) {
		for _, u := range x.users {
			if holder := x.keys[u.Key]; holder != u {
				all = append(all, Quarantine{Bucket: Users, Key: u.Name, Revision: u.revision, Why: "its key belongs to " + holder.Name})
			}
		}
	}
	return all
}

// StoredUser is a user with the revision of its record.
type StoredUser struct {
	User
	Revision uint64
	Rooms    map[string]string // level by room
}

// User returns a user's record.
func (x *Index) User(name string) (StoredUser, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	u, ok := x.users[name]
	if !ok {
		return StoredUser{}, false
	}
	return StoredUser{User: u.User, Revision: u.revision, Rooms: maps.Clone(x.levels(name))}, true
}

// QuarantinedUser says why a user's record is quarantined, if it is.
func (x *Index) QuarantinedUser(name string) (Quarantine, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	q, ok := x.quarantine[Users][name]
	return q, ok
}

// Holder returns the name of the user who logs in with that key.
func (x *Index) Holder(key string) (string, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	u, ok := x.keys[key]
	if !ok {
		return "", false
	}
	return u.Name, true
}

// Lookalike returns another user whose name can be taken for that one.
func (x *Index) Lookalike(name string) (string, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	other, ok := x.skeletons[Skeleton(name)]
	return other, ok && other != name
}

// EnabledAdmins counts the users who may change users.
func (x *Index) EnabledAdmins() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := 0
	if x.roleUsers[RoleAdmin] == 0 {
		return 0
	}
	for _, u := range x.users {
		if u.Role == RoleAdmin && !u.Disabled && x.keys[u.Key] == u {
			n++
		}
	}
	return n
}

// UserPage lists users behind a name, of those that begin with the prefix. next is "" when there are no more.
func (x *Index) UserPage(after, prefix string, limit int) (page []StoredUser, next string) {
	x.mu.Lock() // the sorted names may have to be made
	defer x.mu.Unlock()
	if x.names == nil {
		x.names = slices.Sorted(maps.Keys(x.users))
	}
	from := max(after, prefix)
	i := sort.Search(len(x.names), func(i int) bool { return x.names[i] > from || after < prefix && x.names[i] == prefix })
	for ; i < len(x.names) && strings.HasPrefix(x.names[i], prefix); i++ {
		if len(page) == limit {
			return page, page[limit-1].Name
		}
		u := x.users[x.names[i]]
		page = append(page, StoredUser{User: u.User, Revision: u.revision})
	}
	return page, ""
}

// StoredRole is a role with the revision of its record, which is 0 for the built-in ones.
type StoredRole struct {
	Role
	Revision uint64
	Users    int
	Builtin  bool
}

// Role returns a role.
func (x *Index) Role(name string) (StoredRole, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.roles[name]
	if !ok {
		return StoredRole{}, false
	}
	return x.storedRole(r), true
}

func (x *Index) storedRole(r *role) StoredRole {
	_, isBuiltin := builtin(r.Name)
	return StoredRole{Role: r.Role, Revision: r.revision, Users: x.roleUsers[r.Name], Builtin: isBuiltin}
}

// RoleList lists all roles by name.
func (x *Index) RoleList() []StoredRole {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []StoredRole
	for _, n := range slices.Sorted(maps.Keys(x.roles)) {
		all = append(all, x.storedRole(x.roles[n]))
	}
	return all
}

// StoredRoom is a room with the revision of its record.
type StoredRoom struct {
	Room
	Revision uint64
	Members  map[string]string // level by user
}

// Room returns a room with its members.
func (x *Index) Room(name string) (StoredRoom, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.rooms[name]
	if !ok {
		return StoredRoom{}, false
	}
	members := map[string]string{r.Owner: LevelOwner}
	for user, level := range x.members[name] {
		if user != r.Owner {
			members[user] = level
		}
	}
	return StoredRoom{Room: r.Room, Revision: r.revision, Members: members}, true
}

// RoomList lists all rooms by name, without their members.
func (x *Index) RoomList() []StoredRoom {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []StoredRoom
	for _, n := range slices.Sorted(maps.Keys(x.rooms)) {
		all = append(all, StoredRoom{Room: x.rooms[n].Room, Revision: x.rooms[n].revision})
	}
	return all
}

// Level is the user's level in a room, "" for none.
func (x *Index) Level(roomName, userName string) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if level := x.owned[userName][roomName]; level != "" {
		return level
	}
	return x.rights[userName][roomName]
}

// IsMember says whether the effect of a change of that room concerns the user.
func (x *Index) IsMember(roomName, userName string) bool { return x.Level(roomName, userName) != "" }
