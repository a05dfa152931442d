package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd/control"
)

func newRoom(getenv func(string) string) *cobra.Command {
	t := &target{}
	return newGroup("room", "Share subjects among users", `Share subjects among users, whatever their roles: members publish and subscribe, observers subscribe, owners also grant and revoke.
A room's owner may call grant, revoke and show for it; everything else is for admins.`, t,
		newRoomCreate(t, getenv), newRoomList(t, getenv), newRoomShow(t, getenv), newRoomGrant(t, getenv), newRoomRevoke(t, getenv))
}

func newRoomCreate(t *target, getenv func(string) string) *cobra.Command {
	var req control.RoomCreateRequest
	c := &cobra.Command{
		Use: "create NAME --owner USER --subject SUBJECT", Short: "Create a room", Args: exactly(1),
		Long:    "Create a room. The same again succeeds and changes nothing; the same name with another owner or other subjects is refused.",
		Example: "  membershipd room create desk --owner alice --subject 'desk.>' --description 'the trading desk' --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			req.Name = args[0]
			if req.Owner == "" || len(req.Subjects) == 0 {
				return fmt.Errorf("--owner and --subject are required")
			}
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.CreateRoom(ctx, req)
				if err != nil {
					return err
				}
				return t.printChange(c, ch, "room "+req.Name+" is created")
			})
		},
	}
	c.Flags().StringVar(&req.Owner, "owner", "", "the `user` who owns it")
	c.Flags().StringSliceVar(&req.Subjects, "subject", nil, "`subjects` that its members share; the first token of each is literal")
	c.Flags().StringVar(&req.Description, "description", "", "`text` for people")
	return c
}

func newRoomList(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all rooms", Args: cobra.NoArgs,
		Example: "  membershipd room list --nkey-file admin.nk",
		RunE: func(c *cobra.Command, _ []string) error {
			return t.callFor(c, getenv, listTimeout, func(ctx context.Context, client *control.Client) error {
				rooms, err := client.Rooms(ctx)
				if err != nil {
					return err
				}
				var rows []string
				for _, r := range rooms {
					rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", r.Name, r.Owner, strings.Join(r.Subjects, " "), r.Description))
				}
				return t.printTable(c, notNil(rooms), "NAME\tOWNER\tSUBJECTS\tDESCRIPTION", rows)
			})
		},
	}
}

func newRoomShow(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a room and its members", Args: exactly(1),
		Example: "  membershipd room show desk --nkey-file alice.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				r, err := client.Room(ctx, args[0])
				if err != nil {
					return err
				}
				rows := []string{
					"name\t" + r.Name, "owner\t" + r.Owner, "subjects\t" + strings.Join(r.Subjects, " "), "description\t" + r.Description,
					"created\t" + r.Created.Format(time.DateTime), fmt.Sprintf("revision\t%d", r.Revision),
				}
				return t.printTable(c, r, "", append(rows, levels("member", r.Members)...))
			})
		},
	}
}

func newRoomGrant(t *target, getenv func(string) string) *cobra.Command {
	var level string
	c := &cobra.Command{
		Use: "grant ROOM USER --level LEVEL", Short: "Let a user into a room, or change its level", Args: exactly(2),
		Example: "  membershipd room grant desk bob --level observer --nkey-file alice.nk",
		RunE: func(c *cobra.Command, args []string) error {
			if level == "" {
				return fmt.Errorf("--level is required: member, observer or owner")
			}
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.Grant(ctx, args[0], args[1], level)
				if err != nil {
					return err
				}
				return t.printChange(c, ch, fmt.Sprintf("user %s has the level %s in room %s", args[1], level, args[0]))
			})
		},
	}
	c.Flags().StringVar(&level, "level", "", "`member`, observer or owner")
	return c
}

func newRoomRevoke(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ROOM USER", Short: "Take a user out of a room", Args: exactly(2),
		Example: "  membershipd room revoke desk bob --nkey-file alice.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				ch, err := client.Revoke(ctx, args[0], args[1])
				if err != nil {
					return err
				}
				return t.printChange(c, ch, fmt.Sprintf("user %s is not in room %s", args[1], args[0]))
			})
		},
	}
}
