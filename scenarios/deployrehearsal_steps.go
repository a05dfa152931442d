package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// prepare is chapters 1 to 4 of the runbook, up to the installation.
func (k *kit) prepare() []Step {
	install := func(more ...string) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "install", append([]string{"--binary", k.first()}, more...)...)
		}
	}
	return []Step{
		k.refused("certificates for a list with placeholders", func(ctx context.Context) (int, error) {
			if err := os.MkdirAll(k.desk, 0o700); err != nil {
				return 0, fmt.Errorf("make the desk: %w", err)
			}
			if err := copyFile(k.dir+"/nodes.env", k.nodes()); err != nil {
				return 0, err
			}
			return k.certs(ctx)
		}),
		k.refused("an installation for a list with placeholders", install("--without-proof", withoutProof, "--yes")),
		k.ran("certificates", func(ctx context.Context) (int, error) {
			if err := k.writeNodes(1); err != nil {
				return 0, err
			}
			exit, err := k.certs(ctx)
			if err == nil && exit == 0 {
				err = k.believe()
			}
			return exit, err
		}),
		k.ran("first admin by seed file", k.firstAdmin),
		k.refused("an installation without a proof", install("--yes")),
		k.ran("dry run of the installation", install("--without-proof", withoutProof)),
		k.traces("nothing installed"),
		k.ran("installation", install("--without-proof", withoutProof, "--yes")),
		k.traces("an installation"),
		k.look("the sandbox of the unit", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			out, err := k.fleet.Run(ctx, id, "systemd-analyze --no-pager security membershipd-cluster.service | tail -n 1")
			if err != nil {
				return err
			}
			m := exposureForm.FindStringSubmatch(out)
			if m == nil {
				return fmt.Errorf("systemd-analyze says %q", out)
			}
			v, err := strconv.ParseFloat(m[1], 64)
			sawFigure(r, "exposure", id, "exposure", v)
			return err
		}),
		k.look("the log of deploys", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			out, err := k.fleet.Run(ctx, id, "tail -n 1 /opt/unibus/deploy.log")
			saw(r, "reason", id, strings.Contains(out, "WITHOUT PROOF: "+withoutProof) && strings.Contains(out, strings.TrimPrefix(r.subject.Digest, "sha256:")), true)
			return err
		}),
	}
}

// traces counts what the kit has put on a host.
func (k *kit) traces(what string) Step {
	return k.look(what, func(ctx context.Context, r *Run, id cluster.NodeID) error {
		out, err := k.fleet.Run(ctx, id, "find /opt /etc/systemd/system /var/lib/unibus -mindepth 1 \\( -path '*unibus*' -o -name '*membershipd*' \\) | wc -l")
		if err != nil {
			return err
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		sawFigure(r, what, id, "files", n)
		return err
	})
}

var exposureForm = regexp.MustCompile(`: ([0-9]+\.[0-9]+) `)

// firstAdmin is chapter 3. The harness's own client is in the static keys, which are for such cases.
func (k *kit) firstAdmin(ctx context.Context) (int, error) {
	public, err := k.newKey(ctx, k.secrets("admin.nk"))
	if err != nil {
		return 0, err
	}
	keys := "# the harness's client\n" + k.r.Env.Identity.Public() + " admin\n"
	if err := os.WriteFile(k.secrets("static.keys"), []byte(keys), 0o600); err != nil {
		return 0, fmt.Errorf("write the static keys: %w", err)
	}
	exit, err := k.run(ctx, k.first(), "user", "add", "root-admin", "--store", "seed", "--seed-file", k.secrets("first-admins.json"), "--role", "admin", "--nkey", public)
	if err != nil || exit != 0 {
		return exit, err
	}
	if _, err := os.Stat(k.secrets("first-admins.json")); errors.Is(err, fs.ErrNotExist) {
		return 1, nil // it said that it had written it
	}
	return 0, nil
}

// firstStart is chapters 5 and 6.
func (k *kit) firstStart() []Step {
	return []Step{
		k.ran("dry run of the start", func(ctx context.Context) (int, error) { return k.deploy(ctx, "start") }),
		k.ran("start of all nodes together", func(ctx context.Context) (int, error) {
			for _, id := range cluster.IDs(k.r.Cluster) {
				k.r.noteStart(id)
			}
			return k.deploy(ctx, "start", "--yes")
		}),
		converge("first start, at R1"),
		k.ran("status", func(ctx context.Context) (int, error) { return k.deploy(ctx, "status") }),
		k.posture(1),
		k.ran("status through a node, as the first admin", func(ctx context.Context) (int, error) {
			defer func() { _ = os.Remove(k.secrets("first-admins.json")) }() // it has done its work; the next deploy takes it off the hosts
			return k.admin(ctx, "n1", "status")
		}),
		k.refused("an installation on hosts that run", func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "install", "--binary", k.first(), "--without-proof", withoutProof, "--yes")
		}),
	}
}

// posture looks at what the nodes say of themselves, and holds it against the runbook.
func (k *kit) posture(replicas int) Step {
	return k.look("the posture", func(ctx context.Context, r *Run, id cluster.NodeID) error {
		var s struct {
			Quorum struct {
				Have, Need int
			} `json:"quorum"`
			Posture struct {
				Enforce  bool   `json:"enforce"`
				TLS      bool   `json:"tls"`
				Sync     string `json:"sync"`
				Replicas int    `json:"replicas"`
			} `json:"posture"`
		}
		err := askJSON(ctx, r.node(id).Endpoints().Status, &s)
		say := func(have, need int, enforce, tls bool, sync string, replicas int) string {
			return fmt.Sprintf("quorum %d, need %d; enforce %t; tls %t; sync %s; R%d", have, need, enforce, tls, sync, replicas)
		}
		saw(r, "posture", id, say(s.Quorum.Have, s.Quorum.Need, s.Posture.Enforce, s.Posture.TLS, s.Posture.Sync, s.Posture.Replicas), say(3, 2, true, true, "always", replicas))
		return err
	})
}

// users is chapter 7.
func (k *kit) users() []Step {
	var public, other string
	add := func(through cluster.NodeID, key *string) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			return k.admin(ctx, through, "user", "add", "alice", "--role", "member", "--nkey", *key)
		}
	}
	return []Step{
		k.ran("keys for users", func(ctx context.Context) (exit int, err error) {
			if public, err = k.newKey(ctx, k.path("alice.nk")); err != nil {
				return 0, err
			}
			other, err = k.newKey(ctx, k.path("other.nk"))
			return 0, err
		}),
		k.ran("user add on n1", add("n1", &public)),
		k.ran("the same again on n2", add("n2", &public)),
		k.refused("the same name with another key", add("n3", &other)),
		k.ran("user show on n2", func(ctx context.Context) (int, error) { return k.admin(ctx, "n2", "user", "show", "alice") }),
		k.look("the user's login", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			node, serial, err := k.login(ctx, k.path("alice.nk"), k.secrets("client-trust.crt"), id)
			k.atStart[id] = serial
			saw(r, "login", id, node, id)
			return err
		}),
	}
}

// scaleUp is chapter 8, under load from here on.
func (k *kit) scaleUp(p *Plan) []Step {
	return []Step{
		loadUp(basicLoad(p, streamLoad())...), moreOps(100, opsWithin),
		k.ran("scale to R3", func(ctx context.Context) (int, error) {
			exit, err := k.admin(ctx, "n1", "scale", "--replicas", "3")
			if err == nil && exit == 0 {
				k.r.counts["scaled"]++
				err = k.writeNodes(3)
			}
			return exit, err
		}),
		converge("scaled to R3 in place"), k.posture(3),
		k.ran("status at R3", func(ctx context.Context) (int, error) { return k.deploy(ctx, "status") }),
	}
}

// upgrade is chapter 9.
func (k *kit) upgrade() []Step {
	return []Step{
		k.ran("second build", k.build),
		k.ran("dry run of the upgrade", func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "upgrade", "--binary", k.second, "--without-proof", withoutProof)
		}),
		mark("upgrade"),
		k.ran("rolling upgrade", func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "upgrade", "--binary", k.second, "--without-proof", withoutProof, "--yes")
		}),
		mark("upgraded"), settled("after the rolling upgrade"), k.versions(func(*Run) string { return secondVersion }), moreOps(100, opsWithin),
	}
}

// versions looks at what each node says that it runs.
func (k *kit) versions(wanted func(*Run) string) Step {
	return k.look("the version", func(ctx context.Context, r *Run, id cluster.NodeID) error {
		var s struct {
			Version string `json:"version"`
		}
		err := askJSON(ctx, r.node(id).Endpoints().Status, &s)
		saw(r, "version", id, s.Version, wanted(r))
		return err
	})
}

// settled is converge after a script that has started daemons and waited for them: the time that counts is what is left to do when it ends.
func settled(name string) Step {
	return Step{convergePrefix + name, func(ctx context.Context, r *Run) error {
		r.setLastStart()
		return r.converge(ctx, name)
	}}
}

// certificates is chapter 10: new certificates, then new authorities of both kinds.
func (k *kit) certificates() []Step {
	generate := func(what string, args ...string) Step {
		return k.ran(what, func(ctx context.Context) (int, error) {
			exit, err := k.certs(ctx, args...)
			if err == nil && exit == 0 {
				err = k.believe() // clients are given what to trust before the nodes change
			}
			return exit, err
		})
	}
	push := func(what string) Step {
		return k.ran(what, func(ctx context.Context) (int, error) { return k.deploy(ctx, "certs", "--yes") })
	}
	steps := []Step{
		generate("dates of certificates", "--check", "--warn", "60"),
		k.ran("what clients trusted before", func(context.Context) (int, error) {
			return 0, copyFile(k.secrets("client-trust.crt"), k.path("client-trust-before.crt"))
		}),
		mark("certs"), generate("new certificates", "--rotate"), push("new certificates on the hosts"),
		k.look("the certificates", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			_, serial, err := k.login(ctx, k.path("alice.nk"), k.secrets("client-trust.crt"), id)
			saw(r, "certificate", id, serial != k.atStart[id], true)
			return err
		}),
	}
	for _, action := range []string{"new-ca", "switch-ca", "drop-old-ca"} {
		steps = append(steps, generate(action+" of routes", "--"+action, "route"), generate(action+" of clients", "--"+action, "client"), push(action+" on the hosts"))
	}
	return append(steps, mark("certs-done"),
		k.look("the authorities", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			if _, _, err := k.login(ctx, k.path("alice.nk"), k.secrets("client-trust.crt"), id); err != nil {
				return err
			}
			_, _, err := k.login(ctx, k.path("alice.nk"), k.path("client-trust-before.crt"), id)
			saw(r, "certificate", id, err != nil && strings.Contains(err.Error(), "certificate"), true)
			return nil
		}),
		settled("after the change of authorities"), moreOps(100, opsWithin))
}

// deadHost is chapter 11.
func (k *kit) deadHost() []Step {
	return []Step{
		mark("dead"),
		{"pull the plug of n2, and set up another machine", func(ctx context.Context, r *Run) error {
			before := k.fleet.Address("n2")
			if err := k.fleet.ReplaceHost(ctx, "n2"); err != nil {
				return err
			}
			saw(r, "new host", "n2", k.fleet.Address("n2") != before, true)
			return k.writeNodes(3)
		}},
		k.ran("certificates for the new address", func(ctx context.Context) (int, error) { return k.certs(ctx, "--rotate", "n2") }),
		k.ran("installation on the new host", func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "install", "--binary", k.second, "--without-proof", withoutProof, "--yes", "n2")
		}),
		k.ran("start of the new host", func(ctx context.Context) (int, error) {
			k.r.noteStart("n2")
			return k.deploy(ctx, "start", "--yes", "n2")
		}),
		settled("the new host has caught up"),
		k.ran("the others learn the new address", func(ctx context.Context) (int, error) { return k.deploy(ctx, "config", "--yes") }),
		moreOps(60, opsWithin), mark("replaced"), settled("with the new host"),
	}
}

// backup is chapter 12: a backup, a change, and back again; first of all nodes, then of one.
func (k *kit) backup() []Step {
	return slices.Concat([]Step{{"count what there is", k.countMessages}}, k.thereAndBack("all nodes", "late"), k.thereAndBack("n3 alone", "later", "--node", "n3"), []Step{
		k.ran("back to the first build", func(ctx context.Context) (int, error) {
			return k.deploy(ctx, "upgrade", "--binary", k.first(), "--without-proof", withoutProof, "--yes")
		}),
		settled("after the way back"), k.versions(func(r *Run) string { return r.subject.Version }),
		k.ran("status at the end", func(ctx context.Context) (int, error) { return k.deploy(ctx, "status") }),
	})
}

// thereAndBack backs up, adds a user, and restores: the user is gone, and everything from before is there.
func (k *kit) thereAndBack(of, user string, more ...string) []Step {
	saved := func() string { return k.path("backup-" + user) }
	backup := func(more ...string) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			return k.saveOrRestore(ctx, "backup", append([]string{"--out", saved()}, more...)...)
		}
	}
	restore := func(more ...string) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			return k.saveOrRestore(ctx, "restore", append([]string{"--from", saved()}, more...)...)
		}
	}
	return []Step{
		k.ran("dry run of the backup of "+of, backup(more...)),
		k.ran("backup of "+of, backup(append(more[:len(more):len(more)], "--yes")...)),
		settled("after the backup of " + of),
		k.ran("a user who comes after the backup of "+of, func(ctx context.Context) (int, error) {
			public, err := k.newKey(ctx, k.path(user+".nk"))
			if err != nil {
				return 0, err
			}
			return k.admin(ctx, "n3", "user", "add", user, "--role", "member", "--nkey", public)
		}),
		k.look("the user before the restore", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			node, _, err := k.login(ctx, k.path(user+".nk"), k.secrets("client-trust.crt"), id)
			saw(r, "login", id, node, id)
			return err
		}),
		k.ran("dry run of the restore of "+of, restore()),
		k.ran("restore of "+of, restore("--yes")),
		settled("after the restore of " + of),
		k.look("what was restored", func(ctx context.Context, r *Run, id cluster.NodeID) error {
			v := observe.Node(ctx, r.node(id))
			s := v.Stream(ordersCopies)
			if s == nil {
				return errors.Join(errors.New("the orders stream is not there"), v.Err)
			}
			_, _, early := k.login(ctx, k.path("alice.nk"), k.secrets("client-trust.crt"), id)
			_, _, late := k.login(ctx, k.path(user+".nk"), k.secrets("client-trust.crt"), id)
			saw(r, "restored", id, fmt.Sprintf("%d messages; alice %t; %s %t", s.Msgs, early == nil, user, late == nil), fmt.Sprintf("%d messages; alice true; %s false", k.msgs, user))
			return nil
		}),
	}
}

// countMessages asks n1 how many messages the orders stream has.
func (k *kit) countMessages(ctx context.Context, r *Run) error {
	return r.until(ctx, 10*time.Second, "answer of n1", func(ctx context.Context) bool {
		if code, _, err := observe.Get(ctx, r.node("n1").Endpoints().Ready); err != nil || code != http.StatusOK {
			return false
		}
		v := observe.Node(ctx, r.node("n1"))
		s := v.Stream(ordersCopies)
		if s == nil {
			return false
		}
		k.msgs = s.Msgs
		return true
	})
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	return nil
}
