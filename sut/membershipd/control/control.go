// Package control is the control API of a cluster: its subjects, its JSON, its errors, and a client for it.
//
// The API is a NATS micro service. Any node that is up answers; a request is never retried by either side, because
// the answer to a write may be lost while the write is done.
package control

import (
	"fmt"
)

// Subjects of the API, as users in account BUS see them.
const (
	SubjectSettingsPut  = "unibus.v1.settings.put"
	SubjectSettingsGet  = "unibus.v1.settings.get"
	SubjectSettingsList = "unibus.v1.settings.list"
	SubjectScale        = "unibus.v1.cluster.scale"
	SubjectStatus       = "unibus.v1.cluster.status"
)

// At is the subject at which one node, and no other, answers what any node answers at a subject of the API.
func At(subject, node string) string { return subject + "." + node }

// WriteSubjects are those that only administrators may publish to. The two of rooms are for the rooms' owners, too, who are users.
func WriteSubjects() (all []string) {
	for _, s := range []string{
		SubjectSettingsPut, SubjectScale, SubjectUsersAdd, SubjectUsersImport, SubjectUsersDisable, SubjectUsersEnable, SubjectUsersRotate,
		SubjectUsersSetRole, SubjectRolesPut, SubjectRolesDelete, SubjectRoomsCreate, SubjectRoomsGrant, SubjectRoomsRevoke,
	} {
		all = append(all, s, At(s, "*"))
	}
	return all
}

// ReservedPrefix begins the names of settings that have a meaning for the daemon itself.
const ReservedPrefix = "unibus."

// SettingReplicas is the reserved setting that holds the wanted number of replicas of the control plane's buckets.
const SettingReplicas = ReservedPrefix + "replicas"

// Code says what is guaranteed about a request that was refused.
type Code string

// Codes of errors.
const (
	Invalid     Code = "invalid"     // the request makes no sense; not done
	Denied      Code = "denied"      // the caller may not; not done
	NotFound    Code = "not_found"   // there is no such thing
	Conflict    Code = "conflict"    // the expected revision is not the current one; not done
	Unavailable Code = "unavailable" // certainly not done, and the cluster cannot do it now
	Unknown     Code = "unknown"     // it may have been done, or may still be
)

// Error is an answer that is not a success.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// PutRequest asks to write a setting.
type PutRequest struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Expect is the revision that the setting must have now; 0 means that it must not exist, nil that it does not matter.
	Expect *uint64 `json:"expect,omitempty"`
}

// PutResponse says that the setting is on disk on a majority.
type PutResponse struct {
	Revision uint64 `json:"revision"`
}

// GetRequest asks for a setting.
type GetRequest struct {
	Name string `json:"name"`
}

// Setting is a setting as it is now.
type Setting struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Revision uint64 `json:"revision"`
}

// ListResponse holds all settings in order of their names.
type ListResponse struct {
	Settings []Setting `json:"settings"`
}

// ScaleRequest asks for a number of replicas of every control-plane bucket, and answers it.
type ScaleRequest struct {
	Replicas int `json:"replicas"`
}
