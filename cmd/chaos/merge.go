package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
)

// mergeCmd joins the parts of a sharded run.
func mergeCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "merge --out DIR PART...",
		Short: "Join the parts of a run with --shard into one folder of proofs, checked",
		Long: `Checks every bundle of every part as 'chaos verify' does, copies them into DIR (new or empty), and draws one index. It refuses parts that do not
make up one whole run: a scenario that is missing or there twice, parts of different plans, seeds or systems under test, and bundles that another run,
another build of the harness or another sync policy made, such as one of an earlier run that was left in a part's folder.

It does not judge: 'chaos gate DIR' does. Exit code 0: joined. 2: refused.`,
		Example: "  chaos run --seed 7 --shard 1/3 --out part-1      on one machine each\n  chaos merge --out proofs part-1 part-2 part-3\n  chaos gate proofs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || out == "" {
				return exitf(exitUsage, "merge: name --out DIR and the parts")
			}
			if err := merge(cmd.OutOrStdout(), out, args); err != nil {
				return exitf(exitUsage, "merge: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "folder for the whole run; it must be new or empty")
	return cmd
}

// setsSync tells whether a scenario sets the sync policy itself.
func setsSync(scenario string) bool {
	return slices.ContainsFunc(scenarios.All(), func(s scenarios.Scenario) bool { return s.Name == scenario && s.Sync != "" })
}

func merge(w io.Writer, out string, parts []string) error {
	whole, err := reports.Join(parts, setsSync)
	if err != nil {
		return err
	}
	found, err := os.ReadDir(out)
	if err == nil && slices.ContainsFunc(found, func(e os.DirEntry) bool { return e.Name() != outLock }) {
		return fmt.Errorf("%s is not empty", out)
	}
	lock, err := lockOut(out)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // nothing was written
	for _, dir := range whole.Bundles {
		if err := os.CopyFS(filepath.Join(out, filepath.Base(dir)), os.DirFS(dir)); err != nil {
			return errors.Join(fmt.Errorf("copy %s: %w", dir, err), os.RemoveAll(out))
		}
	}
	if err := reports.WriteIndex(out, whole.Info); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s: %d bundles of %d parts, %s; %s\n", out, len(whole.Bundles), len(parts), whole.Subject, filepath.Join(out, reports.IndexHTML))
	return err
}
