package membershipd

import (
	"encoding/base64"
	"log/slog"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

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
    jetstream: enabled
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
}

// directory knows who may log in. Each source of identities is one.
type directory interface {
	// lookup is called for a key whose owner has just proved that it has the seed.
	lookup(publicKey string, conn connection) (grant, bool)
}

// connection is what a directory may know of how the client came in.
type connection struct {
	inProcess bool
	name      string // as the client calls itself: not proved
}

// authenticator replaces the embedded server's own check of clients completely, so it verifies the nonce's signature itself.
// It fails closed: whoever no directory knows is refused.
//
//	CONNECT {nkey, sig(nonce)} -> signature good? -> internal identity -> static keys -> ... -> account and permissions
//	                                   no: refused         none knows the key: refused
type authenticator struct {
	log         *slog.Logger
	directories []directory
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
	conn := connection{inProcess: isInProcess(c), name: opts.Name}
	for _, d := range a.directories {
		g, ok := d.lookup(opts.Nkey, conn)
		if !ok {
			continue
		}
		account, err := a.account(g.account)
		if err != nil {
			a.log.Error("refuse a client: its account is missing", "account", g.account, "error", err)
			return false
		}
		c.RegisterUser(&server.User{Username: opts.Nkey, Account: account, Permissions: g.permissions})
		return true
	}
	return false
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

// Names that the node's own connections give themselves; they choose the account.
const (
	internalName = "membershipd"
	systemName   = "membershipd-system"
)

func (d internalDirectory) lookup(publicKey string, conn connection) (grant, bool) {
	if publicKey != d.publicKey || !conn.inProcess {
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
	g := grant{account: accountBus}
	if !key.admin {
		g.permissions = &server.Permissions{Publish: &server.SubjectPermission{Deny: control.WriteSubjects()}}
	}
	return g, true
}

// mayWrite says whether that key may call the control API's writes.
func (d staticDirectory) mayWrite(publicKey string) bool { return d[publicKey].admin }
