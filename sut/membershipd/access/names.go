// Package access decides who may do what on the bus: the records of users, roles, rooms and members, the permissions that follow from
// them, an index that answers for a hundred thousand users, and its copy on disk.
//
// It knows nothing of NATS connections or streams: records come in as bytes with a revision, permissions go out as lists of subjects.
// Whatever it cannot understand grants nothing.
package access

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// Limits of what a record may hold.
const (
	MaxName        = 63       // bytes of a user's, role's or room's name
	MaxSubject     = 255      // bytes of a subject
	MaxSubjects    = 256      // subjects in one list
	MaxDescription = 512      // bytes
	MaxRecord      = 32 << 10 // bytes of a stored record
	MaxSubjectDeep = 16       // tokens of a subject
)

// ErrInvalid is wrapped by every error about something that is no name, no key, no subject or no record.
var ErrInvalid = errors.New("not valid")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Names are lower-case ASCII, so that neither case nor another alphabet makes two names that look alike. They have no dots, spaces or
// wildcards, because they become tokens of subjects and keys of buckets.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$`)

// reservedNames mean something already, or look as if they did.
var reservedNames = []string{"anonymous", "everyone", "internal", "nobody", "root", "sys", "system", "unibus", "membershipd", "key", "all", "none", "null"}

// CheckName says what is wrong with the name of a user, a role or a room; what is the word for the message.
func CheckName(what, name string) error {
	switch {
	case name == "":
		return invalid("the name of a %s is missing", what)
	case len(name) > MaxName:
		return invalid("the name of the %s has %d bytes, and %d is the limit", what, len(name), MaxName)
	case !nameForm.MatchString(name):
		return invalid("the name of the %s is %q: want lower-case letters a-z, digits, and '-' or '_' between them", what, name)
	case slices.Contains(reservedNames, name):
		return invalid("the name %q is reserved", name)
	}
	return nil
}

// Skeleton is the same for two names that people may take for each other: 0 and o, 1 and l, '-' and '_'.
func Skeleton(name string) string {
	return skeletonOf.Replace(name)
}

var skeletonOf = strings.NewReplacer("0", "o", "1", "l", "_", "-")

// CheckKey wants a public user nkey.
func CheckKey(key string) error {
	if !nkeys.IsValidPublicUserKey(key) {
		if strings.HasPrefix(key, "S") {
			return invalid("this is no public user nkey (U...) but a seed, or the beginning of one: it is its owner's secret") // and not to be repeated
		}
		if len(key) > 64 {
			key = key[:64] + "..."
		}
		return invalid("%q is not a public user nkey (U...)", key)
	}
	return nil
}

// CheckSubject wants a subject that may be given to users. Its first token is literal and not reserved: with a wildcard there, a
// subject would reach JetStream's API, other users' inboxes and the control API.
func CheckSubject(subject string) error {
	if subject == "" || len(subject) > MaxSubject {
		return invalid("a subject has 1 to %d bytes, and this one has %d", MaxSubject, len(subject))
	}
	for i := range len(subject) {
		if c := subject[i]; c <= ' ' || c > '~' {
			return invalid("the subject %q has a byte that is a space, a control character or not ASCII", subject)
		}
	}
	tokens := strings.Split(subject, ".")
	if len(tokens) > MaxSubjectDeep {
		return invalid("the subject %q has %d tokens, and %d is the limit", subject, len(tokens), MaxSubjectDeep)
	}
	for i, t := range tokens {
		switch {
		case t == "":
			return invalid("the subject %q has an empty token", subject)
		case t == ">" && i != len(tokens)-1:
			return invalid("the subject %q has '>' before its end", subject)
		case t != "*" && t != ">" && strings.ContainsAny(t, "*>"):
			return invalid("the subject %q has a wildcard inside a token", subject)
		}
	}
	first := tokens[0]
	switch {
	case first == "*" || first == ">":
		return invalid("the subject %q begins with a wildcard: its first token must be literal", subject)
	case first[0] == '$' || first[0] == '_' || strings.EqualFold(first, "unibus"):
		return invalid("the subject %q begins with the reserved token %q", subject, first)
	}
	return nil
}

// CheckSubscription refuses a subject whose last token is '*', which may be published to but not subscribed to: nats-server (2.15.2, client.go,
// canSubscribeInternal) looks a subscription up like a message, where '*' also matches the token '>'. So who may subscribe to "a.*" may subscribe to
// "a.>", and reads everything below.
func CheckSubscription(subject string) error {
	if subject == "*" || strings.HasSuffix(subject, ".*") {
		return invalid("the subject %q ends with '*', and nats-server lets whom may subscribe to that subscribe to %q: ask for that, or for more literal subjects",
			subject, strings.TrimSuffix(subject, "*")+">")
	}
	return nil
}

// CheckStream wants the name of a stream or bucket, without wildcards.
func CheckStream(name string) error {
	if !streamForm.MatchString(name) {
		return invalid("%q is not the name of a stream or bucket: want letters, digits, '-' and '_', at most %d", name, MaxName)
	}
	return nil
}

var streamForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
