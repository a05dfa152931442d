package ecosystem_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// TestSystemOperator: with a key of the account SYS the nats command's tools for servers work unchanged; the nodes' own traffic stays out of reach, and so
// does everything of the users.
func TestSystemOperator(t *testing.T) {
	b := converged(t)
	n := b.nats(t, b.sysFile, "")
	all := make([]string, 0, size)
	for _, node := range b.Nodes() {
		all = append(all, string(node.ID()))
	}
	for _, args := range []string{"server list", "server list --json", "server report jetstream", "server report connections", "server ping"} {
		n.does(t, args, all...)
	}
	n.does(t, "server report accounts", "CONTROL")
	n.does(t, "server info n1", "Server information for n1", "JetStream")
	n.does(t, "server request jetstream --all", `"meta_cluster"`)
	n.does(t, "server request variables --name n2 1", `"server_name":"n2"`)
	n.does(t, "server request connections --name n3 1 --subscriptions", `"connections"`)
	n.does(t, "server check server --name n1", "OK n1")
	n.does(t, fmt.Sprintf("server check meta --expect %d --lag-critical 100 --seen-critical 10s", size), "OK")
	b.nats(t, b.sysFile, access.InboxByKey(b.sysKey)).does(t, "server check connection", "OK Connection") // it sends itself a message
	n.does(t, "server account info BUS", "BUS")
	for _, forbidden := range []string{
		"pub $SYS.REQ.CLAIMS.DELETE x",
		"pub $NRG.V.S-R3F-x x",                     // votes of the nodes
		"sub $NRG.> --wait 1s",                     //
		"sub > --wait 1s",                          //
		"sub $SYS.> --wait 1s",                     //
		"pub $JSC.SYNC.x x",                        // replication
		"pub $SYS.JSC.STREAM.ASSIGNMENT.RESULT x",  // assignments
		"pub $JS.API.ACCOUNT.PURGE.CONTROL {}",     // all of the control plane
		"pub $JS.API.ACCOUNT.STREAM.MOVE.BUS.X {}", //
		"pub $SYS.REQ.SERVER.n1.RELOAD {}",         //
		"pub _INBOX.x.y 1",                         // an answer to somebody else's question
		"pub orders.1 x",                           //
	} {
		n.refused(t, forbidden)
	}
	if r := n.run(t, "request", control.SubjectUsersList, "{}", "--timeout", "2s"); r.code == 0 && strings.Contains(r.out, `"users"`) {
		t.Errorf("the operator of SYS lists the users: %s", r.out)
	}
}

// TestNobodyElseReachesSystem: neither an administrator of the cluster nor a user of any role sees servers or their events.
func TestNobodyElseReachesSystem(t *testing.T) {
	b := converged(t)
	for name, n := range map[string]tool{
		"static admin": b.nats(t, b.adminFile, ""),
		"admin user":   b.addUser(t, 0, "sys-admin", access.RoleAdmin),
		"monitor":      b.addUser(t, 1, "sys-monitor", access.RoleMonitor),
		"member":       b.addUser(t, 2, "sys-member", access.RoleMember),
	} {
		t.Run(name, func(t *testing.T) {
			r := n.run(t, "server", "request", "variables", "--all", "--timeout", "2s")
			if strings.Contains(r.out, `"server_name"`) {
				t.Errorf("it asks servers: %s", r.out)
			}
			r = n.run(t, "request", "$SYS.REQ.SERVER.PING.JSZ", "{}", "--timeout", "2s", "--raw")
			if json.Valid([]byte(strings.TrimSpace(r.out))) {
				t.Errorf("a server answers: %s", r.out)
			}
		})
	}
}
