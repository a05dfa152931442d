package membershipd

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// Accounts of a node. Users never see accountControl: they reach it through a service import only.
const (
	accountSystem  = "SYS"
	accountControl = "CONTROL"
	accountBus     = "BUS"
)

// accountsConfig defines the accounts in the embedded server's own configuration language, which is the only way to enable
// JetStream for an account before the server starts. The import shares the caller's identity: the control API needs to know who asks.
//
// What the users' streams may take is limited, over all nodes together and with every replica counted: both accounts share each node's store, and a node whose
// store is full takes no part in any replicated stream (nats-server: followers drop what they are sent, leaders step down), so that users who fill it would
// take the control plane with them.
const accountsConfig = `
accounts {
  SYS: {}
  CONTROL: {
    jetstream: enabled
    exports: [
      {service: "unibus.v1.>", accounts: [BUS]}
      {service: "$SRV.>", accounts: [BUS], response: stream}
    ]
  }
  BUS: {
    jetstream: {max_file: %d}
    imports: [
      {service: {account: CONTROL, subject: "unibus.v1.>"}, share: true}
      {service: {account: CONTROL, subject: "$SRV.>"}}
    ]
  }
}
system_account: SYS
`

// grant is what an authenticated connection gets.
type grant struct {
	account     string
	permissions *server.Permissions // nil for everything in the account
	session     session             // of a user: what the permissions were made of
}

// directory knows who may log in. Each source of identities is one.
type directory interface {
	// lookup is called for a key whose owner has just proved that it has the seed.
	lookup(publicKey string, conn connection) (grant, bool)
}

// connection is what a directory may know of how the client came in.
type connection struct {
	id        uint64 // never used twice by this process
	inProcess bool
	loopback  bool   // from an address of this host alone
	name      string // as the client calls itself: not proved
}

// admitter is a directory whose users can lose their rights at any time. It notes the connection, and is asked once more after that: who was
// disabled in between is either refused by this, or found by the one who disables.
type admitter interface {
	directory
	admit(g grant, conn connection) bool
}

// authenticator replaces the embedded server's own check of clients completely, so it verifies the nonce's signature itself.
// It fails closed: whoever no directory knows is refused.
//
//	CONNECT {nkey, sig(nonce)} -> signature good? -> internal identity -> static keys -> ... -> account and permissions
//	                                   no: refused         none knows the key: refused
type authenticator struct {
	log         *slog.Logger
	directories []directory
	outcome     func(ok bool) // counts those who proved a key
	account     func(name string) (*server.Account, error)
}

// Check implements server.Authentication.
func (a *authenticator) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	opts := c.GetOpts()
	if !provesKey(opts.Nkey, opts.Sig, c.GetNonce()) {
		return false
	}
	conn := connection{id: c.GetID(), inProcess: isInProcess(c), loopback: isLoopback(c), name: opts.Name}
	for _, d := range a.directories {
		g, ok := admitted(d, opts.Nkey, conn)
		if !ok {
			continue
		}
		account, err := a.account(g.account)
		if err != nil {
			a.log.Error("refuse a client: its account is missing", "account", g.account, "error", err)
			return false
		}
		c.RegisterUser(&server.User{Username: opts.Nkey, Account: account, Permissions: g.permissions})
		a.outcome(true)
		return true
	}
	a.outcome(false)
	return false
}

// admitTries is how often what a user may is looked up for one login: it may change while the connection is noted, and that is no reason to refuse
// somebody who is known. A user who changes faster than that is refused, and dials again.
const admitTries = 5

// admitted looks the key up and, where that has to be, notes the connection before its permissions take effect.
func admitted(d directory, publicKey string, conn connection) (grant, bool) {
	noted, notes := d.(admitter)
	for range admitTries {
		g, ok := d.lookup(publicKey, conn)
		if !ok {
			return grant{}, false
		}
		if !notes || noted.admit(g, conn) {
			return g, true
		}
	}
	return grant{}, false
}

// provesKey checks that the client signed this connection's nonce with the seed of that public key.
func provesKey(publicKey, signature string, nonce []byte) bool {
	if len(nonce) == 0 || signature == "" || !nkeys.IsValidPublicUserKey(publicKey) {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		if sig, err = base64.StdEncoding.DecodeString(signature); err != nil {
			return false
		}
	}
	key, err := nkeys.FromPublicKey(publicKey)
	return err == nil && key.Verify(nonce, sig) == nil
}

// isInProcess is true for connections that come from this very process: they are pipes, which nobody can dial.
func isInProcess(c server.ClientAuthentication) bool {
	addr := c.RemoteAddress()
	return addr != nil && addr.Network() == "pipe"
}

// internalDirectory knows the node's own identity, which is good for nothing over the network.
type internalDirectory struct {
	publicKey string
}

// isLoopback is true for connections that only this host's own processes can open.
func isLoopback(c server.ClientAuthentication) bool {
	addr, ok := c.RemoteAddress().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// Names that connections with the node's own identity give themselves; they choose the account.
const (
	internalName = "membershipd"
	systemName   = "membershipd-system"
	localName    = "membershipd-cli" // the administrator of this host, who can read the identity
)

func (d internalDirectory) lookup(publicKey string, conn connection) (grant, bool) {
	if publicKey != d.publicKey {
		return grant{}, false
	}
	if conn.loopback && conn.name == localName {
		return grant{account: accountBus, permissions: serverPermissions(access.ControlPermissions(publicKey))}, true
	}
	if !conn.inProcess {
		return grant{}, false
	}
	switch conn.name {
	case internalName:
		return grant{account: accountControl}, true
	case systemName:
		return grant{account: accountSystem}, true
	}
	return grant{}, false
}

// staticDirectory knows the keys of --static-keys-file. It does not depend on any bucket.
type staticDirectory map[string]staticKey

func (d staticDirectory) lookup(publicKey string, _ connection) (grant, bool) {
	key, ok := d[publicKey]
	if !ok {
		return grant{}, false
	}
	if key.system {
		return grant{account: accountSystem, permissions: serverPermissions(access.SystemPermissions(publicKey))}, true
	}
	return grant{account: accountBus, permissions: unenforced(key.admin)}, true
}

// userDirectory knows the users of the buckets.
type userDirectory struct {
	plane *accessPlane
	log   *slog.Logger
}

// lookup implements directory.
func (d userDirectory) lookup(publicKey string, _ connection) (grant, bool) {
	login, err := d.plane.login(publicKey)
	if err != nil {
		if !errors.Is(err, access.ErrUnknown) {
			d.log.Debug("refuse a user", "error", err)
		}
		return grant{}, false
	}
	g := grant{account: accountBus, permissions: serverPermissions(login.Permissions), session: d.plane.sessionOf(publicKey, login)}
	if !d.plane.enforce {
		g.permissions = unenforced(login.Admin)
	}
	return g, true
}

// admit implements admitter.
func (d userDirectory) admit(g grant, conn connection) bool {
	d.plane.sessions.add(conn.id, g.session)
	now, err := d.plane.login(g.session.key)
	if err != nil || d.plane.sessionOf(g.session.key, now) != g.session {
		d.plane.sessions.remove(conn.id)
		return false
	}
	return true
}

// unenforced is everything in the account, except for what only administrators may call.
func unenforced(admin bool) *server.Permissions {
	if admin {
		return nil
	}
	return &server.Permissions{Publish: &server.SubjectPermission{Deny: control.WriteSubjects()}}
}

// serverPermissions translates. To the embedded server an empty list of what is allowed means everything, so that there always is one that is not empty.
func serverPermissions(p access.Permissions) *server.Permissions {
	if p.Everything {
		return nil
	}
	out := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: p.PublishAllow, Deny: p.PublishDeny},
		Subscribe: &server.SubjectPermission{Allow: p.SubscribeAllow, Deny: p.SubscribeDeny},
	}
	if len(p.PublishAllow) == 0 {
		out.Publish = &server.SubjectPermission{Deny: []string{">"}}
	}
	if len(p.SubscribeAllow) == 0 {
		out.Subscribe = &server.SubjectPermission{Deny: []string{">"}}
	}
	if p.Respond {
		out.Response = &server.ResponsePermission{MaxMsgs: respondMax, Expires: respondWithin}
	}
	return out
}

// How often, and how long after a request, a user who answers requests may do so. Discovery and streamed answers take more than one.
const (
	respondMax    = 64
	respondWithin = 2 * time.Minute
)
