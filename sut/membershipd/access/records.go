package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
	"unicode/utf8"
)

// Schema is the version of the records that this build writes. Records of a later version are quarantined: they may say something
// that this build would get wrong.
const Schema = 1

// Levels of a member of a room.
const (
	LevelMember   = "member"   // may publish and subscribe
	LevelObserver = "observer" // may subscribe
	LevelOwner    = "owner"    // a member who may also grant and revoke
)

// User is a record of the bucket of users, under the user's name.
type User struct {
	Schema   int       `json:"schema"`
	Name     string    `json:"name"`
	Key      string    `json:"nkey"` // public
	Role     string    `json:"role"`
	Created  time.Time `json:"created"`
	Disabled bool      `json:"disabled,omitempty"`
}

// Role says what all its users may do. Whatever it does not allow is denied.
type Role struct {
	Schema      int    `json:"schema"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Publish and Subscribe are allowed, Deny is neither, and wins. The first token of each is literal, and the last of Subscribe is not '*'
	// (see CheckSubscription).
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`
	Deny      []string `json:"deny,omitempty"`
	// Respond allows one answer to each request that is received, wherever it asks for it.
	Respond bool `json:"respond,omitempty"`
	// Streams and Buckets open the part of JetStream's API that they need, by name.
	Streams []StreamGrant `json:"streams,omitempty"`
	Buckets []BucketGrant `json:"buckets,omitempty"`
	// Control is ControlNone, ControlRead or ControlWrite.
	Control string `json:"control,omitempty"`
}

// What a role may do with a stream.
const (
	StreamConsume = "consume" // look at it, fetch from consumers that exist, acknowledge
	StreamRead    = "read"    // and read messages directly, create and delete consumers
)

// StreamGrant gives access to one stream. To publish to it, a role needs the stream's subjects.
type StreamGrant struct {
	Name   string `json:"name"`
	Access string `json:"access"`
}

// What a role may do with a key-value bucket.
const (
	BucketRead  = "read"  // get, list, watch
	BucketWrite = "write" // and put, delete, purge. Whoever may write one key can erase the bucket, so there is no finer grant
)

// BucketGrant gives access to one key-value bucket of the users' account.
type BucketGrant struct {
	Name   string `json:"name"`
	Access string `json:"access"`
}

// What a role may do with the control API.
const (
	ControlNone  = ""      // the cluster's status and the user's own record
	ControlRead  = "read"  // everything that changes nothing
	ControlWrite = "write" // everything: the built-in role admin only
)

// Room is a record of the bucket of rooms: subjects that its members share.
type Room struct {
	Schema      int       `json:"schema"`
	Name        string    `json:"name"`
	Owner       string    `json:"owner"`
	Subjects    []string  `json:"subjects"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
}

// Member is a record of the bucket of members, under "room.user". A member that left keeps its record, with no level.
type Member struct {
	Schema int    `json:"schema"`
	Room   string `json:"room"`
	User   string `json:"user"`
	Level  string `json:"level"` // "" for one that left
}

// ParseUser reads a record that was stored under that key.
func ParseUser(key string, value []byte) (User, error) {
	var u User
	if err := parse(value, &u); err != nil {
		return User{}, err
	}
	if u.Name != key {
		return User{}, invalid("the record under %q names the user %q", key, u.Name)
	}
	return u, u.Check()
}

// Check says what is wrong with the record.
func (u User) Check() error {
	return firstError(checkSchema(u.Schema), CheckName("user", u.Name), CheckKey(u.Key), CheckName("role", u.Role))
}

// ParseRole reads a record that was stored under that key.
func ParseRole(key string, value []byte) (Role, error) {
	var r Role
	if err := parse(value, &r); err != nil {
		return Role{}, err
	}
	if r.Name != key {
		return Role{}, invalid("the record under %q names the role %q", key, r.Name)
	}
	return r, r.Check()
}

// Check says what is wrong with the record.
func (r Role) Check() error {
	if err := firstError(checkSchema(r.Schema), CheckName("role", r.Name), checkText(r.Description)); err != nil {
		return err
	}
	if _, taken := builtin(r.Name); taken {
		return invalid("the role %q is built in", r.Name)
	}
	if r.Control != ControlNone && r.Control != ControlRead {
		return invalid("control is %q: want %q or %q; only the built-in role %q may write", r.Control, ControlNone, ControlRead, RoleAdmin)
	}
	if err := firstError(checkSubjects(r.Publish), checkSubscriptions(r.Subscribe), checkSubjects(r.Deny)); err != nil {
		return err
	}
	return firstError(r.checkStreams(), r.checkBuckets())
}

func (r Role) checkStreams() error {
	if len(r.Streams) > MaxSubjects {
		return invalid("%d streams, and %d is the limit", len(r.Streams), MaxSubjects)
	}
	for _, g := range r.Streams {
		if err := CheckStream(g.Name); err != nil {
			return err
		}
		if g.Access != StreamConsume && g.Access != StreamRead {
			return invalid("the access to stream %q is %q: want %q or %q", g.Name, g.Access, StreamConsume, StreamRead)
		}
	}
	return nil
}

func (r Role) checkBuckets() error {
	if len(r.Buckets) > MaxSubjects {
		return invalid("%d buckets, and %d is the limit", len(r.Buckets), MaxSubjects)
	}
	for _, g := range r.Buckets {
		if err := CheckStream(g.Name); err != nil {
			return err
		}
		if g.Access != BucketRead && g.Access != BucketWrite {
			return invalid("the access to bucket %q is %q: want %q or %q", g.Name, g.Access, BucketRead, BucketWrite)
		}
	}
	return nil
}

// ParseRoom reads a record that was stored under that key.
func ParseRoom(key string, value []byte) (Room, error) {
	var r Room
	if err := parse(value, &r); err != nil {
		return Room{}, err
	}
	if r.Name != key {
		return Room{}, invalid("the record under %q names the room %q", key, r.Name)
	}
	return r, r.Check()
}

// Check says what is wrong with the record.
func (r Room) Check() error {
	if err := firstError(checkSchema(r.Schema), CheckName("room", r.Name), CheckName("user", r.Owner), checkText(r.Description)); err != nil {
		return err
	}
	if len(r.Subjects) == 0 {
		return invalid("the room %q has no subjects", r.Name)
	}
	return checkSubscriptions(r.Subjects)
}

// MemberKey is the key of a member's record.
func MemberKey(room, user string) string { return room + "." + user }

// ParseMember reads a record that was stored under that key.
func ParseMember(key string, value []byte) (Member, error) {
	var m Member
	if err := parse(value, &m); err != nil {
		return Member{}, err
	}
	if MemberKey(m.Room, m.User) != key {
		return Member{}, invalid("the record under %q names the member %q of %q", key, m.User, m.Room)
	}
	return m, m.Check()
}

// Check says what is wrong with the record.
func (m Member) Check() error {
	if err := firstError(checkSchema(m.Schema), CheckName("room", m.Room), CheckName("user", m.User)); err != nil {
		return err
	}
	if m.Level != "" {
		return CheckLevel(m.Level)
	}
	return nil
}

// CheckLevel wants one of the levels of a member.
func CheckLevel(level string) error {
	if level != LevelMember && level != LevelObserver && level != LevelOwner {
		return invalid("the level is %q: want %q, %q or %q", level, LevelMember, LevelObserver, LevelOwner)
	}
	return nil
}

// parse is strict: an unknown field may be one that takes rights away.
func parse(value []byte, into any) error {
	if len(value) > MaxRecord {
		return invalid("the record has %d bytes, and %d is the limit", len(value), MaxRecord)
	}
	err := Decode(value, into)
	if errors.Is(err, ErrBehind) {
		return invalid("the record goes on after its end")
	}
	if err != nil {
		return invalid("the record is not the JSON of its kind: %v", err)
	}
	return nil
}

// ErrBehind means that the JSON is followed by something.
var ErrBehind = errors.New("something is behind it")

// Decode reads the JSON of a record or a request, which is all of value. Errors: a field that into does not have, ErrBehind, or what encoding/json says.
func Decode(value []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrBehind
	}
	return nil
}

func checkSchema(schema int) error {
	if schema != Schema {
		return invalid("the record's schema is %d, and this build knows %d", schema, Schema)
	}
	return nil
}

func checkText(s string) error {
	if len(s) > MaxDescription || !utf8.ValidString(s) {
		return invalid("the description is longer than %d bytes, or not UTF-8", MaxDescription)
	}
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			return invalid("the description has a control character")
		}
	}
	return nil
}

func checkSubjects(list []string) error {
	if len(list) > MaxSubjects {
		return invalid("%d subjects, and %d is the limit", len(list), MaxSubjects)
	}
	for _, s := range list {
		if err := CheckSubject(s); err != nil {
			return err
		}
	}
	return nil
}

func checkSubscriptions(list []string) error {
	if err := checkSubjects(list); err != nil {
		return err
	}
	for _, s := range list {
		if err := CheckSubscription(s); err != nil {
			return err
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
