package ecosystem_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// operator runs the commands of membershipd that administer a cluster.
type operator struct {
	path    string
	connect []string
}

// operator returns the commands for the admin, asking one node only.
func (b *bus) operator(node int) operator {
	connect := []string{"--server", b.servers(node)[0], "--nkey-file", b.adminFile, "--json"}
	if b.caFile != "" {
		connect = append(connect, "--ca", b.caFile)
	}
	return operator{path: b.Spec().Subject.Path, connect: connect}
}

// run returns what the command has printed on its standard output, and its exit code.
func (o operator) run(t *testing.T, args ...string) ([]byte, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.path, append(args[:len(args):len(args)], o.connect...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return out, exit.ExitCode()
	case err != nil:
		t.Fatalf("membershipd %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return out, 0
}

// change runs a command that writes, and returns what is said of the change.
func (o operator) change(t *testing.T, args ...string) control.Change {
	t.Helper()
	out, code := o.run(t, args...)
	var ch control.Change
	if err := json.Unmarshal(out, &ch); err != nil || code != 0 || ch.Revision == 0 {
		t.Fatalf("membershipd %s ends with %d: %s", strings.Join(args, " "), code, out)
	}
	return ch
}

// fails runs a command that must be refused with that code.
func (o operator) fails(t *testing.T, want control.Code, args ...string) {
	t.Helper()
	out, code := o.run(t, args...)
	var doc struct {
		Error control.Error `json:"error"`
	}
	if err := json.Unmarshal(out, &doc); err != nil || code != 1 || doc.Error.Code != want || doc.Error.Message == "" {
		t.Errorf("membershipd %s ends with %d, want 1 and %s: %s", strings.Join(args, " "), code, want, out)
	}
}

// addUser makes a key, adds its owner through one node, and returns the nats command for him.
func (b *bus) addUser(t *testing.T, node int, name, role string) tool {
	t.Helper()
	seed := filepath.Join(t.TempDir(), name+".nk")
	out, err := exec.CommandContext(t.Context(), b.Spec().Subject.Path, "key", "new", seed).Output()
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(out))
	o := b.operator(node)
	if ch := o.change(t, "user", "add", name, "--nkey", key, "--role", role); !ch.Changed || len(ch.Applied) != size {
		t.Errorf("the new user %s: %+v", name, ch)
	}
	if ch := b.operator((node+1)%size).change(t, "user", "add", name, "--nkey", key, "--role", role); ch.Changed {
		t.Errorf("the user %s once more, on another node: %+v", name, ch)
	}
	return b.nats(t, seed, access.InboxByName(name))
}

// TestUsers: what operators do with membershipd is at once what the nats command may do, on every node.
func TestUsers(t *testing.T) {
	b := converged(t)
	b.prepareTrades(t)
	trader := b.addUser(t, 0, "trader-one", "eco-trader")
	t.Run("narrow role", func(t *testing.T) { b.testNarrow(t, trader) })
	t.Run("monitor", func(t *testing.T) { testMonitor(t, b.addUser(t, 1, "watcher", access.RoleMonitor)) })
	t.Run("room", func(t *testing.T) { b.testRoom(t) })
	t.Run("disabled", func(t *testing.T) { b.testDisabled(t, trader) })
	t.Run("refused changes", func(t *testing.T) { b.testRefusedChanges(t) })
}

// prepareTrades makes a stream, a bucket, and a role for them.
func (b *bus) prepareTrades(t *testing.T) {
	t.Helper()
	admin := b.nats(t, b.adminFile, "")
	admin.does(t, "stream add TRADES --subjects trades.> --replicas 3 --defaults", "TRADES")
	admin.does(t, "kv add LIMITS --replicas 3")
	admin.does(t, "kv put LIMITS gold 100")
	admin.does(t, "kv put LIMITS tin 7")
	b.operator(2).change(t, "role", "put", "eco-trader", "--publish", "trades.>", "--subscribe", "prices.>", "--deny", "trades.audit.>",
		"--stream", "TRADES=read", "--bucket", "LIMITS=read")
}

func (b *bus) testNarrow(t *testing.T, n tool) {
	for i := range b.Nodes() {
		n.at(b, i).does(t, "pub trades.gold 1 --jetstream", "Stored in Stream: TRADES")
	}
	n.does(t, "stream info TRADES", "Messages: 3")
	n.does(t, "consumer add TRADES MINE --pull --ack explicit --deliver all --replicas 3 --defaults", "MINE")
	n.does(t, "consumer next TRADES MINE", "trades.gold", "Acknowledged message")
	n.does(t, "kv get LIMITS gold --raw", "100")
	n.does(t, `request `+control.SubjectUsersShow+` {"name":"trader-one"}`, `"role":"eco-trader"`)
	for _, forbidden := range []string{
		"pub trades.audit.x 1",                     // denied by the role
		"pub orders.1 1",                           // not in the role
		"pub prices.gold 1",                        // may only be read
		"pub $KV.LIMITS.gold 0",                    // the bucket may only be read
		"pub $KV.LIMITS.gold 0 -H Nats-Rollup:all", // which would erase the bucket
		"pub $JS.API.STREAM.PURGE.TRADES {}",       //
		"pub $JS.API.STREAM.DELETE.TRADES {}",      //
		"pub $JS.API.STREAM.CREATE.SPY {}",         // a stream that collects what others send
		"pub " + control.SubjectUsersAdd + " {}",   // the control API's changes
		"pub unibus.internal.x 1",                  //
		"pub $SYS.REQ.SERVER.PING 1",               //
		"sub trades.> --wait 1s",                   // may only be written
		"sub > --wait 1s",                          //
		"sub _INBOX.> --wait 1s",                   // the replies of others
		"sub _INBOX_watcher.> --wait 1s",           //
		"sub $KV.> --wait 1s",                      //
		"sub $SYS.> --wait 1s",                     //
	} {
		n.refused(t, forbidden)
	}
	if r := b.nats(t, b.adminFile, "").run(t, "kv", "get", "LIMITS", "tin", "--raw"); r.code != 0 || !strings.Contains(r.out, "7") {
		t.Errorf("the bucket was changed by somebody who may only read it: %s", r.out)
	}
}

// testMonitor: a role for monitoring can run the checks, and reads no message.
func testMonitor(t *testing.T, n tool) {
	n.does(t, "server check jetstream", "OK JetStream")
	n.does(t, "server check stream --stream TRADES --peer-expect 3", "OK TRADES")
	n.does(t, "stream ls", "TRADES")
	n.does(t, "micro ls", "unibus")
	n.does(t, "request "+control.SubjectUsersList+" {}", `"trader-one"`)
	n.refused(t, "pub $JS.API.STREAM.MSG.GET.TRADES {}")
	n.refused(t, "sub trades.> --wait 1s")
	n.refused(t, "pub trades.gold 1")
}

// testRoom: a member is let in by the room's owner, who is no admin, and out again.
func (b *bus) testRoom(t *testing.T) {
	owner, guest := b.addUser(t, 2, "host-user", access.RoleMember), b.addUser(t, 0, "guest-user", access.RoleMember)
	owner.refused(t, "pub desk.1 x")
	b.operator(1).change(t, "room", "create", "eco-desk", "--owner", "host-user", "--subject", "desk.>")
	owner.does(t, "pub desk.1 x", "Published")
	guest.refused(t, "sub desk.> --wait 1s")
	owner.does(t, `request `+control.SubjectRoomsGrant+` {"room":"eco-desk","user":"guest-user","level":"observer"}`, `"changed":true`)
	guest.refused(t, "pub desk.1 x")
	listener := guest.at(b, 1).background(t, "sub", "desk.2", "--count", "1")
	b.awaitInterest(t, 0, "desk.2")
	owner.at(b, 0).does(t, "pub desk.2 welcome", "Published")
	if out := listener(); !strings.Contains(out, "welcome") {
		t.Errorf("the observer got: %s", out)
	}
	owner.does(t, `request `+control.SubjectRoomsRevoke+` {"room":"eco-desk","user":"guest-user"}`, `"changed":true`)
	guest.refused(t, "sub desk.> --wait 1s")
}

// testDisabled: whoever is disabled is out on every node, and in again when enabled.
func (b *bus) testDisabled(t *testing.T, n tool) {
	if ch := b.operator(0).change(t, "user", "disable", "trader-one"); !ch.Changed || len(ch.Applied) != size {
		t.Errorf("disable: %+v", ch)
	}
	for i := range b.Nodes() {
		n.at(b, i).refused(t, "pub trades.gold 1")
	}
	b.operator(1).change(t, "user", "enable", "trader-one")
	for i := range b.Nodes() {
		n.at(b, i).does(t, "pub trades.gold 1", "Published")
	}
	seed := filepath.Join(t.TempDir(), "second.nk")
	out, err := exec.CommandContext(t.Context(), b.Spec().Subject.Path, "key", "new", seed).Output()
	if err != nil {
		t.Fatal(err)
	}
	b.operator(2).change(t, "user", "rotate", "trader-one", "--nkey", strings.TrimSpace(string(out)))
	n.refused(t, "pub trades.gold 1")
	b.nats(t, seed, access.InboxByName("trader-one")).does(t, "pub trades.gold 1", "Published")
	b.operator(2).change(t, "user", "set-role", "trader-one", access.RoleMember)
	b.nats(t, seed, access.InboxByName("trader-one")).refused(t, "pub trades.gold 1")
}

func (b *bus) testRefusedChanges(t *testing.T) {
	o := b.operator(0)
	public, err := b.admin.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	o.fails(t, control.Conflict, "user", "add", "trader-one", "--nkey", public, "--role", access.RoleMember)
	o.fails(t, control.Invalid, "user", "add", "Trader *", "--nkey", public, "--role", access.RoleMember)
	o.fails(t, control.NotFound, "user", "show", "nobody-here")
	o.fails(t, control.NotFound, "room", "show", "nowhere")
	o.fails(t, control.Invalid, "role", "put", "everything", "--publish", ">")
	o.fails(t, control.Invalid, "role", "put", access.RoleAdmin, "--publish", "a.>")
	out, code := o.run(t, "user", "list")
	var users []control.User
	if err := json.Unmarshal(out, &users); err != nil || code != 0 || len(users) < 4 {
		t.Errorf("membershipd user list ends with %d: %s", code, out)
	}
}
