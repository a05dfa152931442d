package control

import (
	"github.com/unibus/unibus/sut/membershipd/access"
)

// Subjects of users, roles and rooms.
const (
	SubjectUsersAdd     = "unibus.v1.users.add"
	SubjectUsersImport  = "unibus.v1.users.import"
	SubjectUsersList    = "unibus.v1.users.list"
	SubjectUsersShow    = "unibus.v1.users.show"
	SubjectUsersDisable = "unibus.v1.users.disable"
	SubjectUsersEnable  = "unibus.v1.users.enable"
	SubjectUsersRotate  = "unibus.v1.users.rotate"
	SubjectUsersSetRole = "unibus.v1.users.setrole"
	SubjectRolesPut     = "unibus.v1.roles.put"
	SubjectRolesList    = "unibus.v1.roles.list"
	SubjectRolesShow    = "unibus.v1.roles.show"
	SubjectRolesDelete  = "unibus.v1.roles.delete"
	SubjectRoomsCreate  = "unibus.v1.rooms.create"
	SubjectRoomsList    = "unibus.v1.rooms.list"
	SubjectRoomsShow    = "unibus.v1.rooms.show"
	SubjectRoomsGrant   = "unibus.v1.rooms.grant"
	SubjectRoomsRevoke  = "unibus.v1.rooms.revoke"
)

// Limits of requests.
const (
	MaxListPage = 1000 // records in one answer
	MaxImport   = 1000 // users in one request
)

// Change is the answer to every write of users, roles and rooms. When it arrives, the change is on disk on a majority and in force on
// every node in Applied. Nodes that could not be reached, or did not follow in time, are in Pending: they follow when they can.
type Change struct {
	Revision uint64   `json:"revision"` // of the record, as it is now
	Changed  bool     `json:"changed"`  // false when everything was so already
	Applied  []string `json:"applied"`
	Pending  []string `json:"pending,omitempty"`
}

// User is a user as it is now.
type User struct {
	access.User
	Revision uint64 `json:"revision"`
	// Quarantined says why the record, although it is stored, grants nothing.
	Quarantined string `json:"quarantined,omitempty"`
	// Rooms are filled in by a show only: the user's level in each.
	Rooms map[string]string `json:"rooms,omitempty"`
}

// UserAddRequest asks for a user. The same name and key again succeeds and changes nothing, whatever the role.
type UserAddRequest struct {
	Name string `json:"name"`
	Key  string `json:"nkey"` // public
	Role string `json:"role"`
}

// UserImportRequest asks for many users, with the meaning of as many requests for one, in this order. The first that is refused ends it.
type UserImportRequest struct {
	Users []UserAddRequest `json:"users"`
}

// UserImportResponse tells how many of the users, from the first on, are there now, and how many of those were not before. Error is why the next one is not.
type UserImportResponse struct {
	Change
	Done  int    `json:"done"`
	Added int    `json:"added"`
	Error *Error `json:"error,omitempty"`
}

// UserRequest names a user.
type UserRequest struct {
	Name string `json:"name"`
	// Expect is the revision that the record must have now; nil means that it does not matter.
	Expect *uint64 `json:"expect,omitempty"`
}

// UserRotateRequest gives a user another key; the old one is good for nothing from then on.
type UserRotateRequest struct {
	Name   string  `json:"name"`
	Key    string  `json:"nkey"`
	Expect *uint64 `json:"expect,omitempty"`
}

// UserSetRoleRequest gives a user another role.
type UserSetRoleRequest struct {
	Name   string  `json:"name"`
	Role   string  `json:"role"`
	Expect *uint64 `json:"expect,omitempty"`
}

// PageRequest asks for a page of a list that is sorted by name.
type PageRequest struct {
	After  string `json:"after,omitempty"`  // names behind this one
	Prefix string `json:"prefix,omitempty"` // names that begin so
	Limit  int    `json:"limit,omitempty"`  // 0 means MaxListPage
}

// UserListResponse is a page of users. Next is the After of the next page, "" for none.
type UserListResponse struct {
	Users []User `json:"users"`
	Next  string `json:"next,omitempty"`
	Total int    `json:"total"` // users that there are
}

// Role is a role as it is now.
type Role struct {
	access.Role
	Revision uint64 `json:"revision"`
	Builtin  bool   `json:"builtin,omitempty"`
	Users    int    `json:"users"` // that have it
}

// RolePutRequest creates or replaces a role. Its schema may be left out.
type RolePutRequest struct {
	access.Role
	// Expect is the revision that the record must have now, 0 for none; nil means that it does not matter.
	Expect *uint64 `json:"expect,omitempty"`
}

// RoleRequest names a role.
type RoleRequest struct {
	Name string `json:"name"`
}

// RoleListResponse is a page of roles; the built-in ones are on the first.
type RoleListResponse struct {
	Roles []Role `json:"roles"`
	Next  string `json:"next,omitempty"`
}

// Room is a room as it is now. Members are filled in by a show only: the level of each user.
type Room struct {
	access.Room
	Revision uint64            `json:"revision"`
	Members  map[string]string `json:"members,omitempty"`
}

// RoomCreateRequest asks for a room. The same again succeeds and changes nothing; the same name with other subjects or another owner is a conflict.
type RoomCreateRequest struct {
	Name        string   `json:"name"`
	Owner       string   `json:"owner"`
	Subjects    []string `json:"subjects"`
	Description string   `json:"description,omitempty"`
}

// RoomRequest names a room.
type RoomRequest struct {
	Name string `json:"name"`
}

// RoomGrantRequest gives a user a level in a room: access.LevelMember, LevelObserver or LevelOwner.
type RoomGrantRequest struct {
	Room  string `json:"room"`
	User  string `json:"user"`
	Level string `json:"level"`
}

// RoomRevokeRequest takes a user out of a room.
type RoomRevokeRequest struct {
	Room string `json:"room"`
	User string `json:"user"`
}

// RoomListResponse is a page of rooms.
type RoomListResponse struct {
	Rooms []Room `json:"rooms"`
	Next  string `json:"next,omitempty"`
}
