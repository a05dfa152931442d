package access

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Built-in roles. They are no records: nobody can change or delete them.
const (
	RoleAdmin   = "admin"   // everything in the users' account, and the control API
	RoleMonitor = "monitor" // looks at streams and consumers, but reads no message; reads the control API
	RoleService = "service" // a member that also answers requests, and can be discovered
	RoleMember  = "member"  // its rooms and nothing else
)

// Subjects of the control API by who may call them. The daemon checks every call again.
const (
	controlAll = "unibus.v1.>"
)

var (
	controlEverybody = atNodes("unibus.v1.cluster.status", "unibus.v1.users.show")
	// A room's owner may call these for the room. Whether it is the owner is for the daemon to check.
	controlOwner  = atNodes("unibus.v1.rooms.grant", "unibus.v1.rooms.revoke")
	controlMember = atNodes("unibus.v1.rooms.show")
	controlReads  = atNodes(
		"unibus.v1.settings.get", "unibus.v1.settings.list", "unibus.v1.users.list", "unibus.v1.roles.list", "unibus.v1.roles.show",
		"unibus.v1.rooms.list", "unibus.v1.rooms.show",
	)
)

// atNodes adds, to each subject that any node answers, those that one node answers.
func atNodes(subjects ...string) (all []string) {
	for _, s := range subjects {
		all = append(all, s, s+".*")
	}
	return all
}

const (
	userInfo      = "$SYS.REQ.USER.INFO" // tells a connection what it may do itself
	serviceAll    = "$SRV.>"
	accountInfo   = "$JS.API.INFO"
	streamNames   = "$JS.API.STREAM.NAMES" // of all streams: clients look a stream up by its subject
	inboxReserved = "_INBOX_"
)

// Permissions are the subjects that one user may publish and subscribe to. Deny wins over allow. The lists of what is allowed are
// never empty: to nats-server an empty list of subscriptions means everything.
type Permissions struct {
	PublishAllow   []string `json:"publish_allow"`
	PublishDeny    []string `json:"publish_deny,omitempty"`
	SubscribeAllow []string `json:"subscribe_allow"`
	SubscribeDeny  []string `json:"subscribe_deny,omitempty"`
	Respond        bool     `json:"respond,omitempty"` // one answer to each request that was received
	Everything     bool     `json:"everything,omitempty"`
}

// Fingerprint is the same for permissions that mean the same to a connection.
func (p Permissions) Fingerprint() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q %q %q %q %t %t", p.PublishAllow, p.PublishDeny, p.SubscribeAllow, p.SubscribeDeny, p.Respond, p.Everything) // a hash takes everything
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// MayPublish says whether a message to that subject, which has no wildcards, is allowed.
func (p Permissions) MayPublish(subject string) bool {
	return p.Everything || covered(p.PublishAllow, subject) && !covered(p.PublishDeny, subject)
}

// MaySubscribe says whether nats-server takes that subscription, which may have wildcards. It looks it up like a message, where '*' also matches the
// token '>'. One that only overlaps with what is denied is taken, and the messages of the denied part are not delivered.
func (p Permissions) MaySubscribe(subject string) bool {
	matches := func(pattern string) bool { return looksUp(pattern, subject) }
	return p.Everything || slices.ContainsFunc(p.SubscribeAllow, matches) && !slices.ContainsFunc(p.SubscribeDeny, matches)
}

// InboxByName and InboxByKey are the prefixes below which a user, and nobody else, reads the replies to its requests. The second is for
// clients that know nothing of their user but the seed.
func InboxByName(name string) string { return inboxReserved + name }

// InboxByKey is described at InboxByName.
func InboxByKey(key string) string { return inboxReserved + key }

func builtin(name string) (Role, bool) {
	i := slices.IndexFunc(builtins, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return builtins[i], true
}

// Builtins lists the built-in roles as they are shown. What makes them special is in rolePermissions.
func Builtins() []Role { return slices.Clone(builtins) }

var builtins = []Role{
	{Schema: Schema, Name: RoleAdmin, Control: ControlWrite, Respond: true, Description: "everything in the users' account, and the control API"},
	{Schema: Schema, Name: RoleMember, Description: "its rooms and nothing else"},
	{Schema: Schema, Name: RoleMonitor, Control: ControlRead, Description: "looks at streams, consumers and services, but reads no message; reads the control API"},
	{Schema: Schema, Name: RoleService, Respond: true, Description: "its rooms; answers requests and can be discovered"},
}

// rolePermissions is what a role gives to each of its users.
func rolePermissions(r Role) Permissions {
	p := Permissions{
		PublishAllow:   slices.Concat(r.Publish, controlEverybody, []string{userInfo}),
		SubscribeAllow: slices.Clone(r.Subscribe),
		PublishDeny:    slices.Clone(r.Deny),
		SubscribeDeny:  slices.Clone(r.Deny),
		Respond:        r.Respond,
	}
	if r.Control == ControlRead {
		p.PublishAllow = append(p.PublishAllow, controlReads...)
	}
	if len(r.Streams)+len(r.Buckets) > 0 {
		p.PublishAllow = append(p.PublishAllow, accountInfo, streamNames)
	}
	for _, g := range r.Streams {
		p.PublishAllow = append(p.PublishAllow, streamSubjects(g.Name, g.Access == StreamRead)...)
	}
	for _, g := range r.Buckets {
		p.PublishAllow = append(p.PublishAllow, streamSubjects("KV_"+g.Name, true)...)
		if g.Access == BucketWrite {
			p.PublishAllow = append(p.PublishAllow, "$KV."+g.Name+".>")
		}
	}
	switch r.Name {
	case RoleAdmin:
		p.Everything = true
		p.PublishAllow, p.SubscribeAllow = []string{">"}, []string{">"}
	case RoleMonitor:
		p.PublishAllow = append(p.PublishAllow, accountInfo, streamNames, "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
			"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*", serviceAll)
	case RoleService:
		p.SubscribeAllow = append(p.SubscribeAllow, serviceAll)
		p.PublishAllow = append(p.PublishAllow, serviceAll)
	}
	return p
}

// streamSubjects is the part of JetStream's API for one stream. Nothing in it can create or change a stream: who can do that can make one
// that collects everybody's messages.
func streamSubjects(stream string, read bool) []string {
	all := []string{
		"$JS.API.STREAM.INFO." + stream, "$JS.API.CONSUMER.INFO." + stream + ".*", "$JS.API.CONSUMER.NAMES." + stream,
		"$JS.API.CONSUMER.LIST." + stream, "$JS.API.CONSUMER.MSG.NEXT." + stream + ".*", "$JS.ACK." + stream + ".>", "$JS.FC." + stream + ".>",
	}
	if !read {
		return all
	}
	return append(all, "$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>", "$JS.API.STREAM.MSG.GET."+stream,
		"$JS.API.CONSUMER.CREATE."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.DURABLE.CREATE."+stream+".*",
		"$JS.API.CONSUMER.DELETE."+stream+".*")
}

// membership is a user's level in a room.
type membership struct {
	room  Room
	level string
}

// userPermissions joins what the role, the rooms and being that user give.
func userPermissions(u User, role Permissions, rooms []membership) Permissions {
	if role.Everything {
		return role
	}
	own := []string{InboxByName(u.Name) + ".>", InboxByKey(u.Key) + ".>"}
	p := Permissions{
		PublishAllow:   slices.Concat(role.PublishAllow, own),
		SubscribeAllow: slices.Concat(role.SubscribeAllow, own),
		PublishDeny:    role.PublishDeny,
		SubscribeDeny:  role.SubscribeDeny,
		Respond:        role.Respond,
	}
	owner := false
	for _, m := range rooms {
		p.SubscribeAllow = append(p.SubscribeAllow, m.room.Subjects...)
		if m.level != LevelObserver {
			p.PublishAllow = append(p.PublishAllow, m.room.Subjects...)
		}
		owner = owner || m.level == LevelOwner
	}
	if len(rooms) > 0 {
		p.PublishAllow = append(p.PublishAllow, controlMember...)
	}
	if owner {
		p.PublishAllow = append(p.PublishAllow, controlOwner...)
	}
	for _, list := range []*[]string{&p.PublishAllow, &p.SubscribeAllow} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return p
}

// covered says whether one of the patterns matches everything that the subject, which may have wildcards, matches.
func covered(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return Covers(p, subject) })
}

// looksUp is nats-server's match of a subject, whose wildcards are tokens like any other.
func looksUp(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, t := range p {
		if t == ">" {
			return len(s) > i
		}
		if i >= len(s) || t != "*" && t != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// Covers says whether the pattern matches every subject that the other pattern matches.
func Covers(pattern, subject string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		s, restS, moreS := strings.Cut(subject, ".")
		switch {
		case p == ">":
			return true
		case s == ">" || p != "*" && p != s:
			return false
		case !moreP || !moreS:
			return moreP == moreS
		}
		pattern, subject = restP, restS
	}
}

// ControlPermissions are those of a node's own identity when it administers the cluster from the node's own host.
func ControlPermissions(key string) Permissions {
	return Permissions{PublishAllow: []string{controlAll, userInfo}, SubscribeAllow: []string{InboxByKey(key) + ".>"}}
}

// SystemPermissions are those of an operator in the account SYS: what the tools of NATS ask servers for, their events, and the two commands that
// take the lead of the metadata from a node or forget a dead one. The nodes' own traffic (votes, replication, assignments) runs in the same account: it
// can be neither read nor forged, nor can accounts be purged or streams be moved past the control API. What is published to _INBOX could be a forged
// answer, so that only the operator's own prefix is open.
func SystemPermissions(key string) Permissions {
	return Permissions{
		PublishAllow:   []string{"$SYS.REQ.SERVER.>", "$SYS.REQ.ACCOUNT.>", userInfo, "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE", InboxByKey(key) + ".>"},
		PublishDeny:    []string{"$SYS.REQ.ACCOUNT.*.CLAIMS.>", "$SYS.REQ.SERVER.*.RELOAD"},
		SubscribeAllow: []string{"_INBOX.>", InboxByKey(key) + ".>", "$SYS.ACCOUNT.>", "$SYS.SERVER.>", "$JS.EVENT.>"},
	}
}
