package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// maxRoleFile bounds what is read from a file, in bytes; the cluster takes less.
const maxRoleFile = 1 << 20

func newRole(getenv func(string) string) *cobra.Command {
	t := &target{}
	return newGroup("role", "Define what users may do", `Define what users may do. A role lists subjects; whatever it does not allow is denied. A change is in force for all its users at once: their live
connections are closed, and they come back with the new permissions. The roles admin, member, monitor and service are built in.`, t,
		newRolePut(t, getenv), newRoleList(t, getenv), newRoleShow(t, getenv), newRoleDelete(t, getenv))
}

// roleFlags are the parts of a role that come as flags.
type roleFlags struct {
	file             string
	role             access.Role
	streams, buckets []string
	expect           int64
}

func newRolePut(t *target, getenv func(string) string) *cobra.Command {
	var f roleFlags
	c := &cobra.Command{
		Use: "put NAME", Short: "Create a role, or replace it as a whole", Args: exactly(1),
		Long: `Create a role, or replace it as a whole, from flags or from a JSON file as "role show --json" prints it. The first token of every subject is literal.
Whoever may write one key of a bucket can erase the bucket, so access to buckets is per bucket.`,
		Example: "  membershipd role put trader --publish 'orders.>' --subscribe 'prices.>' --deny orders.admin --bucket limits=read --stream ORDERS=consume --nkey-file admin.nk\n" +
			"  membershipd role put trader --file trader.json --expect 7 --nkey-file admin.nk   # only if it has revision 7",
		RunE: func(c *cobra.Command, args []string) error {
			req, err := f.request(c, args[0])
			if err != nil {
				return err
			}
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.PutRole(ctx, req)
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "role "+args[0]+" is stored")
			})
		},
	}
	addRoleFlags(c, &f)
	return c
}

func addRoleFlags(c *cobra.Command, f *roleFlags) {
	fl := c.Flags()
	fl.StringVar(&f.file, "file", "", "`file` with the role as JSON, instead of the flags below; - for the standard input")
	fl.StringSliceVar(&f.role.Publish, "publish", nil, "`subjects` that may be published to")
	fl.StringSliceVar(&f.role.Subscribe, "subscribe", nil, "`subjects` that may be subscribed to")
	fl.StringSliceVar(&f.role.Deny, "deny", nil, "`subjects` that are neither, whatever else allows them")
	fl.BoolVar(&f.role.Respond, "respond", false, "may answer requests that it receives")
	fl.StringSliceVar(&f.streams, "stream", nil, "`STREAM=consume` to fetch from consumers that exist, STREAM=read to read it in any way")
	fl.StringSliceVar(&f.buckets, "bucket", nil, "`BUCKET=read`, or BUCKET=write")
	fl.StringVar(&f.role.Control, "control", "", "`read` to see users, roles, rooms and settings")
	fl.StringVar(&f.role.Description, "description", "", "`text` for people")
	fl.Int64Var(&f.expect, "expect", 0, "write only if the role has this `revision`; 0 for none")
}

// request reads the file or the flags; both together would leave open which wins.
func (f *roleFlags) request(c *cobra.Command, name string) (control.RolePutRequest, error) {
	var req control.RolePutRequest
	if f.expect < 0 {
		return req, fmt.Errorf("--expect %d: a revision is not negative", f.expect)
	}
	if c.Flags().Changed("expect") {
		rev := uint64(f.expect)
		req.Expect = &rev
	}
	var err error
	if f.file == "" {
		req.Role, err = f.fromFlags()
	} else {
		for _, flag := range []string{"publish", "subscribe", "deny", "respond", "stream", "bucket", "control", "description"} {
			if c.Flags().Changed(flag) {
				return req, fmt.Errorf("--%s and --file exclude each other", flag)
			}
		}
		req.Role, err = readRole(f.file, c.InOrStdin())
	}
	if err != nil {
		return req, err
	}
	if req.Name != "" && req.Name != name {
		return req, fmt.Errorf("the file is about the role %q and the command about %q", req.Name, name)
	}
	req.Name = name
	return req, nil
}

func (f *roleFlags) fromFlags() (access.Role, error) {
	r := f.role
	for _, s := range f.streams {
		name, what, ok := strings.Cut(s, "=")
		if !ok {
			return r, fmt.Errorf("--stream %q: want STREAM=%s or STREAM=%s", s, access.StreamConsume, access.StreamRead)
		}
		r.Streams = append(r.Streams, access.StreamGrant{Name: name, Access: what})
	}
	for _, s := range f.buckets {
		name, what, ok := strings.Cut(s, "=")
		if !ok {
			return r, fmt.Errorf("--bucket %q: want BUCKET=%s or BUCKET=%s", s, access.BucketRead, access.BucketWrite)
		}
		r.Buckets = append(r.Buckets, access.BucketGrant{Name: name, Access: what})
	}
	return r, nil
}

// readRole takes what "role show --json" prints; what the cluster itself says about a role is left out.
func readRole(path string, stdin io.Reader) (access.Role, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return access.Role{}, failed(err)
		}
		defer file.Close() //nolint:errcheck // only read
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxRoleFile))
	if err != nil {
		return access.Role{}, failed(fmt.Errorf("read the role: %w", err))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var r control.Role
	if err := d.Decode(&r); err != nil {
		return access.Role{}, fmt.Errorf("--file %s is not the JSON of a role: %w", path, err)
	}
	return r.Role, nil
}

func newRoleList(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all roles, the built-in ones first", Args: cobra.NoArgs,
		Example: "  membershipd role list --nkey-file admin.nk",
		RunE: func(c *cobra.Command, _ []string) error {
			return t.callFor(c, getenv, listTimeout, func(ctx context.Context, client *control.Client) error {
				roles, err := client.Roles(ctx)
				if err != nil {
					return err
				}
				var rows []string
				for _, r := range roles {
					rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%s", r.Name, r.Users, r.Revision, r.Description))
				}
				return t.printTable(c, notNil(roles), "NAME\tUSERS\tREVISION\tDESCRIPTION", rows)
			})
		},
	}
}

func newRoleShow(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a role", Args: exactly(1),
		Example: "  membershipd role show trader --nkey-file admin.nk\n  membershipd role show trader --json --nkey-file admin.nk > trader.json",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				r, err := client.Role(ctx, args[0])
				if err != nil {
					return err
				}
				return t.printTable(c, r, "", roleRows(r))
			})
		},
	}
}

func roleRows(r control.Role) []string {
	rows := []string{"name\t" + r.Name, fmt.Sprintf("users\t%d", r.Users), fmt.Sprintf("revision\t%d", r.Revision)}
	if r.Builtin {
		rows = append(rows, "built in\tyes")
	}
	if r.Description != "" {
		rows = append(rows, "description\t"+r.Description)
	}
	for _, list := range []struct {
		word     string
		subjects []string
	}{{"publish", r.Publish}, {"subscribe", r.Subscribe}, {"deny", r.Deny}} {
		for _, s := range list.subjects {
			rows = append(rows, list.word+"\t"+s)
		}
	}
	for _, g := range r.Streams {
		rows = append(rows, "stream\t"+g.Name+" ("+g.Access+")")
	}
	for _, g := range r.Buckets {
		rows = append(rows, "bucket\t"+g.Name+" ("+g.Access+")")
	}
	if r.Respond {
		rows = append(rows, "respond\tyes")
	}
	if r.Control != access.ControlNone {
		rows = append(rows, "control\t"+r.Control)
	}
	return rows
}

func newRoleDelete(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a role that no user has", Args: exactly(1),
		Example: "  membershipd role delete trader --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.DeleteRole(ctx, args[0])
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "role "+args[0]+" is deleted")
			})
		},
	}
}

// notNil makes an empty list [] in JSON rather than null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
