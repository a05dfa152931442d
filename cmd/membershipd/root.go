package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/unibus/unibus/sut/membershipd"
)

// version is set by the linker for releases.
var version = ""

// buildVersion falls back on what the toolchain has written into the binary.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	v := "devel"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += "+" + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}

// serverVersion is that of the embedded nats-server.
func serverVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/nats-io/nats-server/v2" {
			return m.Version
		}
	}
	return ""
}

func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:   "membershipd",
		Short: "A node of a unibus cluster, and the tool that administers one",
		Long: `membershipd is the daemon of the unibus message bus: nats-server with JetStream and a replicated control plane in one process.
"serve" runs a node; the other commands administer a running cluster through any of its nodes.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return fmt.Errorf("a command is missing: see membershipd --help")
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServe(getenv), newStatus(getenv), newUser(getenv), newRole(getenv), newRoom(getenv), newKey(), newSetting(getenv), newScale(getenv), newVersion())
	return root
}

// fillFromEnv sets every flag that was not given from its variable: --data-dir from UNIBUS_DATA_DIR.
func fillFromEnv(flags *pflag.FlagSet, getenv func(string) string) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := membershipd.EnvPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := getenv(name)
		if f.Changed || value == "" || f.Name == "help" || err != nil {
			return
		}
		if e := flags.Set(f.Name, value); e != nil {
			err = fmt.Errorf("the variable %s: %w", name, e)
		}
	})
	return err
}

func newVersion() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Example: "  membershipd version\n  membershipd version --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{
					"version": buildVersion(), "nats_server": serverVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "membershipd %s (nats-server %s, %s)\n", buildVersion(), serverVersion(), runtime.Version())
			return failed(err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
