package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// Stores that "user add" can write to.
const (
	storeKV   = membershipd.StoreKV
	storeSeed = "seed"
)

// newGroup is a command that only holds others; t is nil when they do not talk to a cluster.
func newGroup(use, short, long string, t *target, subs ...*cobra.Command) *cobra.Command {
	var names []string
	for _, s := range subs {
		names = append(names, s.Name())
	}
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("one of %s is missing: see membershipd %s --help", strings.Join(names, ", "), use)
		},
	}
	if t != nil {
		t.flags(c)
	}
	c.AddCommand(subs...)
	return c
}

func newUser(getenv func(string) string) *cobra.Command {
	t := &target{}
	return newGroup("user", "Add, show and change users", `Add, show and change users. A user is a name, a public nkey and a role; the seed of the key never leaves its owner.
Any node takes any command. When a change is answered it is on disk on a majority of the nodes, and the answer says on which nodes it is in force.
Who may: a user with the role "admin", a key with "admin" in the static keys file, or the first admin of a seed file. Every change is audited.`, t,
		newUserAdd(t, getenv), newUserImport(t, getenv), newUserList(t, getenv), newUserShow(t, getenv),
		newUserChange(t, getenv, "disable", "Take a user's access away; the record stays", "is disabled", (*control.Client).DisableUser),
		newUserChange(t, getenv, "enable", "Give a disabled user access again", "is enabled", (*control.Client).EnableUser),
		newUserRotate(t, getenv), newUserSetRole(t, getenv))
}

func newUserAdd(t *target, getenv func(string) string) *cobra.Command {
	var req control.UserAddRequest
	var store, seedFile string
	c := &cobra.Command{
		Use: "add NAME --nkey PUBLIC-KEY --role ROLE", Short: "Add a user", Args: exactly(1),
		Long: `Add a user. The same name and key again succeeds and changes nothing; the same name with another key is refused (use "user rotate").
With --store kv the cluster is asked, through any node, and needs a quorum. With --store seed nothing is asked: the user is written into a file that
"membershipd serve --seed-file" imports once, when the cluster first forms. That is how the first admin gets in; the role is then admin.`,
		Example: "  membershipd key new alice.nk                                    # prints the public key\n" +
			"  membershipd user add root-admin --store seed --seed-file first-admins.json --nkey UABC... --role admin\n" +
			"  membershipd user add alice --nkey UABC... --role member --nkey-file admin.nk --ca ca.crt --server tls://192.0.2.1:4222,tls://192.0.2.2:4222",
		RunE: func(c *cobra.Command, args []string) error {
			req.Name = args[0]
			if req.Key == "" || req.Role == "" {
				return fmt.Errorf("--nkey and --role are required: the public key of the user (membershipd key new makes one) and what it may do")
			}
			switch store {
			case storeKV:
				if seedFile != "" {
					return fmt.Errorf("--seed-file is for --store seed only")
				}
				return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
					ch, err := client.AddUser(ctx, req)
					if err != nil {
						return err
					}
					return t.printChange(c, ch, "user "+req.Name+" is added")
				})
			case storeSeed:
				return t.addToSeed(c, seedFile, req)
			}
			return fmt.Errorf("--store %q: want %s or %s", store, storeKV, storeSeed)
		},
	}
	c.Flags().StringVar(&req.Key, "nkey", "", "the user's public `key` (U...)")
	c.Flags().StringVar(&req.Role, "role", "", "the user's `role`: admin, member, monitor, service, or one of \"role list\"")
	c.Flags().StringVar(&store, "store", storeKV, "kv asks the running cluster; seed writes a file for a cluster's first start")
	c.Flags().StringVar(&seedFile, "seed-file", "", "`file` that --store seed adds the user to")
	return c
}

func newUserList(t *target, getenv func(string) string) *cobra.Command {
	var prefix string
	c := &cobra.Command{
		Use: "list", Short: "List all users", Args: cobra.NoArgs,
		Example: "  membershipd user list --nkey-file admin.nk\n  membershipd user list --prefix svc- --json --nkey-file admin.nk",
		RunE: func(c *cobra.Command, _ []string) error {
			return t.callFor(c, getenv, listTimeout, func(ctx context.Context, client *control.Client) error {
				users, err := listUsers(ctx, client, prefix)
				if err != nil {
					return err
				}
				var rows []string
				for _, u := range users {
					rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", u.Name, u.Role, userState(u), u.Created.Format(time.DateTime), u.Key))
				}
				return t.printTable(c, users, "NAME\tROLE\tSTATE\tCREATED\tNKEY", rows)
			})
		},
	}
	c.Flags().StringVar(&prefix, "prefix", "", "only `names` that begin so")
	return c
}

func listUsers(ctx context.Context, client *control.Client, prefix string) ([]control.User, error) {
	all := []control.User{}
	for page := (control.PageRequest{Prefix: prefix}); ; {
		resp, err := client.UsersPage(ctx, page)
		if err != nil {
			return nil, err
		}
		all = append(all, resp.Users...)
		if resp.Next == "" {
			return all, nil
		}
		page.After = resp.Next
	}
}

func userState(u control.User) string {
	switch {
	case u.Quarantined != "":
		return "quarantined"
	case u.Disabled:
		return "disabled"
	}
	return "enabled"
}

func newUserShow(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a user and its rooms", Args: exactly(1),
		Example: "  membershipd user show alice --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				u, err := client.User(ctx, args[0])
				if err != nil {
					return err
				}
				rows := []string{
					"name\t" + u.Name, "nkey\t" + u.Key, "role\t" + u.Role, "state\t" + userState(u),
					"created\t" + u.Created.Format(time.DateTime), fmt.Sprintf("revision\t%d", u.Revision),
				}
				if u.Quarantined != "" {
					rows = append(rows, "quarantined\t"+u.Quarantined)
				}
				return t.printTable(c, u, "", append(rows, levels("room", u.Rooms)...))
			})
		},
	}
}

// levels are rows of a room's members, or of a user's rooms.
func levels(word string, all map[string]string) []string {
	var rows []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, fmt.Sprintf("%s\t%s (%s)", word, name, all[name]))
	}
	return rows
}

func newUserChange(t *target, getenv func(string) string, verb, short, done string,
	do func(*control.Client, context.Context, string) (control.Change, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: exactly(1),
		Example: "  membershipd user " + verb + " alice --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := do(client, ctx, args[0])
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "user "+args[0]+" "+done)
			})
		},
	}
}

func newUserRotate(t *target, getenv func(string) string) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "rotate NAME --nkey PUBLIC-KEY", Short: "Give a user another key; the old one is good for nothing from then on", Args: exactly(1),
		Example: "  membershipd key new alice-2.nk\n  membershipd user rotate alice --nkey UDEF... --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			if key == "" {
				return fmt.Errorf("--nkey is required: the new public key")
			}
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.RotateUser(ctx, args[0], key)
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "user "+args[0]+" has the new key")
			})
		},
	}
	c.Flags().StringVar(&key, "nkey", "", "the new public `key` (U...)")
	return c
}

func newUserSetRole(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "set-role NAME ROLE", Short: "Give a user another role", Args: exactly(2),
		Example: "  membershipd user set-role alice service --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.SetUserRole(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "user "+args[0]+" has the role "+args[1])
			})
		},
	}
}
