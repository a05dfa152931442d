package control

import (
	"context"
)

// AddUser creates a user; see [UserAddRequest].
func (c *Client) AddUser(ctx context.Context, req UserAddRequest) (Change, error) {
	return c.change(ctx, SubjectUsersAdd, req)
}

// ImportUsers creates up to [MaxImport] users in one request.
func (c *Client) ImportUsers(ctx context.Context, users []UserAddRequest) (UserImportResponse, error) {
	var resp UserImportResponse
	err := c.call(ctx, SubjectUsersImport, UserImportRequest{Users: users}, &resp)
	return resp, err
}

// DisableUser takes a user's access away; the record stays.
func (c *Client) DisableUser(ctx context.Context, name string) (Change, error) {
	return c.change(ctx, SubjectUsersDisable, UserRequest{Name: name})
}

// EnableUser gives it back.
func (c *Client) EnableUser(ctx context.Context, name string) (Change, error) {
	return c.change(ctx, SubjectUsersEnable, UserRequest{Name: name})
}

// RotateUser replaces a user's public nkey.
func (c *Client) RotateUser(ctx context.Context, name, key string) (Change, error) {
	return c.change(ctx, SubjectUsersRotate, UserRotateRequest{Name: name, Key: key})
}

// SetUserRole gives a user another role.
func (c *Client) SetUserRole(ctx context.Context, name, role string) (Change, error) {
	return c.change(ctx, SubjectUsersSetRole, UserSetRoleRequest{Name: name, Role: role})
}

// User shows one user.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	var u User
	err := c.call(ctx, SubjectUsersShow, UserRequest{Name: name}, &u)
	return u, err
}

// UsersPage lists one page of users.
func (c *Client) UsersPage(ctx context.Context, page PageRequest) (UserListResponse, error) {
	var resp UserListResponse
	err := c.call(ctx, SubjectUsersList, page, &resp)
	return resp, err
}

// Users lists all users, page by page: each page is of one moment, the list is not.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return pages(func(after string) ([]User, string, error) {
		resp, err := c.UsersPage(ctx, PageRequest{After: after})
		return resp.Users, resp.Next, err
	})
}

// PutRole creates or replaces a role; expect may be nil.
func (c *Client) PutRole(ctx context.Context, req RolePutRequest) (Change, error) {
	return c.change(ctx, SubjectRolesPut, req)
}

// DeleteRole removes a role that no user has.
func (c *Client) DeleteRole(ctx context.Context, name string) (Change, error) {
	return c.change(ctx, SubjectRolesDelete, RoleRequest{Name: name})
}

// Role shows one role.
func (c *Client) Role(ctx context.Context, name string) (Role, error) {
	var r Role
	err := c.call(ctx, SubjectRolesShow, RoleRequest{Name: name}, &r)
	return r, err
}

// Roles lists all roles, the built-in ones first.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	return pages(func(after string) ([]Role, string, error) {
		var resp RoleListResponse
		err := c.call(ctx, SubjectRolesList, PageRequest{After: after}, &resp)
		return resp.Roles, resp.Next, err
	})
}

// CreateRoom creates a room; see [RoomCreateRequest].
func (c *Client) CreateRoom(ctx context.Context, req RoomCreateRequest) (Change, error) {
	return c.change(ctx, SubjectRoomsCreate, req)
}

// Grant gives a user a level in a room.
func (c *Client) Grant(ctx context.Context, room, user, level string) (Change, error) {
	return c.change(ctx, SubjectRoomsGrant, RoomGrantRequest{Room: room, User: user, Level: level})
}

// Revoke takes a user out of a room.
func (c *Client) Revoke(ctx context.Context, room, user string) (Change, error) {
	return c.change(ctx, SubjectRoomsRevoke, RoomRevokeRequest{Room: room, User: user})
}

// Room shows one room with its members.
func (c *Client) Room(ctx context.Context, name string) (Room, error) {
	var r Room
	err := c.call(ctx, SubjectRoomsShow, RoomRequest{Name: name}, &r)
	return r, err
}

// Rooms lists all rooms, without their members.
func (c *Client) Rooms(ctx context.Context) ([]Room, error) {
	return pages(func(after string) ([]Room, string, error) {
		var resp RoomListResponse
		err := c.call(ctx, SubjectRoomsList, PageRequest{After: after}, &resp)
		return resp.Rooms, resp.Next, err
	})
}

func (c *Client) change(ctx context.Context, subject string, req any) (Change, error) {
	var resp Change
	err := c.call(ctx, subject, req, &resp)
	return resp, err
}

// pages collects a list until there is no next page.
func pages[T any](page func(after string) ([]T, string, error)) ([]T, error) {
	var all []T
	for after := ""; ; {
		part, next, err := page(after)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
		if next == "" {
			return all, nil
		}
		after = next
	}
}
