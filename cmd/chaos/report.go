package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
)

// reportCmd draws a bundle's report again.
func reportCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "report DIR",
		Short: "Draw report.html of a proof bundle again and print where it is",
		Long: `Draws report.html again from the bundle's own evidence, with this version's looks. The bundle must be sound; no verdict changes.

Exit code 0: drawn. 2: the bundle cannot be trusted, or is not there.`,
		Example: "  chaos report proofs/node-kill",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return exitf(exitUsage, "report: name one bundle")
			}
			if st, err := os.Stat(args[0]); err != nil || !st.IsDir() {
				return exitf(exitUsage, "report: %s is not a folder", args[0])
			}
			at, err := reports.Rerender(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), at)
			return err
		},
	}
}
