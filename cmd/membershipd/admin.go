package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

func newStatus(getenv func(string) string) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "status", Short: "Show the cluster as one node sees it", Args: cobra.NoArgs,
		Long:    "Show the cluster as the node that answers sees it. Exits with 1 when that node is not ready.",
		Example: "  membershipd status --nkey-file admin.nk\n  membershipd status --nkey-file admin.nk --server nats://192.0.2.1:4222,nats://192.0.2.2:4222 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				if t.json {
					err = printJSON(c.OutOrStdout(), s)
				} else {
					err = printStatus(c.OutOrStdout(), s)
				}
				if err == nil && !s.Ready {
					err = fmt.Errorf("node %s is not ready: %s", s.Node, s.Reason)
				}
				return err
			})
		},
	}
	t.flags(c)
	return c
}

func printStatus(out io.Writer, s health.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := []string{
		fmt.Sprintf("node\t%s (%s)", s.Node, s.Version),
		fmt.Sprintf("ready\t%t\t%s", s.Ready, strings.Join(s.Reasons, "; ")),
		fmt.Sprintf("quorum\t%d of %d, need %d", s.Quorum.Have, s.ClusterSize, s.Quorum.Need),
		fmt.Sprintf("meta leader\t%s", cmp.Or(s.MetaLeader, "none")),
		fmt.Sprintf("posture\t%s\t%s", s.Posture.State, s.Posture.Why),
		fmt.Sprintf("sync\t%s", s.Posture.Sync),
		fmt.Sprintf("access\t%s\t%d users, %d roles, %d rooms; %d connections of users; %d records in quarantine",
			yesNo(s.Posture.Enforce, "enforced", "NOT ENFORCED"), s.Access.Users, s.Access.Roles, s.Access.Rooms, s.Access.Sessions, s.Access.Quarantines),
		"clients\t" + tlsLine(s.TLS.Clients),
		"routes\t" + tlsLine(s.TLS.Routes),
	}
	if len(s.Store.Rebuilt) > 0 {
		rows = append(rows, "store\tgiven up before this start, and fetched again: "+strings.Join(s.Store.Rebuilt, "; "))
	}
	rows = append(rows, "", "PEER\tCONNECTED\tSEEN\tCLOCK")
	for _, p := range s.Peers {
		rows = append(rows, fmt.Sprintf("%s\t%t\t%.1f s ago\t%s", p.Name, p.Connected, p.SeenSeconds, clockWord(p.ClockAheadSeconds)))
	}
	rows = append(rows, "", "STREAM\tLEADER\tCONFIGURED\tCURRENT\tLAG\tFULL")
	for _, b := range append(s.Buckets, s.Audit) {
		lag := "not known"
		if b.Current {
			lag = fmt.Sprint(b.Lag)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%t\t%s\t%s", b.Name, cmp.Or(b.Leader, "none"), replicasWord(b), b.Current, lag, fullWord(b)))
	}
	for _, r := range rows {
		if _, err := fmt.Fprintln(w, r); err != nil {
			return err
		}
	}
	return w.Flush()
}

// replicasWord is how a stream is configured, which says nothing of how many of its replicas are alive.
func replicasWord(b health.Bucket) string {
	switch {
	case b.Replicas == 0:
		return "not known"
	case b.Replicas < b.WantReplicas:
		return fmt.Sprintf("R%d, R%d wanted", b.Replicas, b.WantReplicas)
	}
	return fmt.Sprintf("R%d", b.Replicas)
}

// fullWord is how much of what a stream may take it takes.
func fullWord(b health.Bucket) string {
	if b.MaxBytes == 0 {
		return "not known"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(b.Bytes)/float64(b.MaxBytes))
}

// clockWord says how a peer's clock is, by the clock of the node that was asked.
func clockWord(ahead *float64) string {
	switch {
	case ahead == nil:
		return "not known"
	case *ahead > -1.5 && *ahead < 1.5: // it is measured within a second
		return "the same"
	case *ahead > 0:
		return fmt.Sprintf("%.0f s behind", *ahead)
	}
	return fmt.Sprintf("%.0f s ahead", -*ahead)
}

func yesNo(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

// tlsLine is how a listener is encrypted, and what somebody should see to.
func tlsLine(l health.TLSListener) string {
	if !l.Enabled {
		return "PLAIN TEXT"
	}
	line := "TLS\tcertificate until " + l.NotAfter.Format(time.DateOnly)
	if l.ReloadError != "" {
		line += "; files not in force: " + l.ReloadError
	}
	if l.Warning != "" {
		line += "; " + l.Warning
	}
	return line
}

func newSetting(getenv func(string) string) *cobra.Command {
	t := &target{}
	return newGroup("setting", "Read and write cluster-wide settings", "", t, newPut(t, getenv), newGet(t, getenv), newList(t, getenv))
}

func newPut(t *target, getenv func(string) string) *cobra.Command {
	var expect int64
	c := &cobra.Command{
		Use: "put NAME VALUE", Short: "Write a setting", Args: exactly(2),
		Long: `Write a setting. "unknown" in an error means that the write may have been done or may still be: read the setting before you try again.`,
		Example: "  membershipd setting put motd hello --nkey-file admin.nk\n" +
			"  membershipd setting put motd hello --expect 0 --nkey-file admin.nk   # only if there is none yet",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				var want *uint64
				if c.Flags().Changed("expect") {
					rev := uint64(max(expect, 0))
					want = &rev
				}
				rev, err := client.Put(ctx, args[0], args[1], want)
				if err != nil {
					return err
				}
				return t.print(c, control.PutResponse{Revision: rev}, fmt.Sprintf("%s is now at revision %d", args[0], rev))
			})
		},
	}
	c.Flags().Int64Var(&expect, "expect", 0, "write only if the setting has this `revision`; 0 for none")
	c.PreRunE = func(*cobra.Command, []string) error {
		if expect < 0 {
			return fmt.Errorf("--expect %d: a revision is not negative", expect)
		}
		return nil
	}
	return c
}

func newGet(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Read a setting", Args: exactly(1),
		Example: "  membershipd setting get motd --nkey-file admin.nk",
		RunE: func(c *cobra.Command, args []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				s, err := client.Get(ctx, args[0])
				if err != nil {
					return err
				}
				return t.print(c, s, s.Value)
			})
		},
	}
}

func newList(t *target, getenv func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Read all settings", Args: cobra.NoArgs,
		Example: "  membershipd setting list --nkey-file admin.nk --json",
		RunE: func(c *cobra.Command, _ []string) error {
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				all, err := client.List(ctx)
				if err != nil {
					return err
				}
				var lines []string
				for _, s := range all {
					lines = append(lines, fmt.Sprintf("%s = %s (revision %d)", s.Name, s.Value, s.Revision))
				}
				return t.print(c, control.ListResponse{Settings: all}, strings.Join(lines, "\n"))
			})
		},
	}
}

func newScale(getenv func(string) string) *cobra.Command {
	var t target
	var replicas int
	c := &cobra.Command{
		Use: "scale --replicas N", Short: "Scale the control plane's buckets up, in place", Args: cobra.NoArgs,
		Long: `Record how many replicas every control-plane bucket should have. The cluster then scales them up in place, with their data;
"membershipd status" shows when they are current. Nothing is ever scaled down.`,
		Example: "  membershipd scale --replicas 3 --nkey-file admin.nk",
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("replicas") {
				return fmt.Errorf("--replicas is required")
			}
			return t.call(c, getenv, func(ctx context.Context, client *control.Client) error {
				n, err := client.Scale(ctx, replicas)
				if err != nil {
					return err
				}
				return t.print(c, control.ScaleRequest{Replicas: n}, fmt.Sprintf("%d replicas are wanted", n))
			})
		},
	}
	t.flags(c)
	c.Flags().IntVar(&replicas, "replicas", 0, "wanted number of replicas: 1, 3 or 5")
	return c
}
