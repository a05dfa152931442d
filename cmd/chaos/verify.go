package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/gate"
)

// verifyCmd checks bundles: digests, then the verdicts against the recorded evidence.
func verifyCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify DIR...",
		Short: "Check proof bundles: every digest, and every verdict by judging the recorded history again",
		Long: `Checks each bundle (or each bundle directly below DIR): all files are there, none is extra, every digest is right, the
history decodes, and judging it again gives exactly the verdicts, figures and controls of proof.json.

It says whether a proof is sound, not whether it is good: a sound proof may be of a failure. Use gate for that.

Exit code 0: all sound. 2: at least one is not, or is not there.`,
		Example: "  chaos verify proofs/node-kill\n  chaos verify --json proofs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exitf(exitUsage, "verify: name at least one bundle, or a folder of bundles")
			}
			dirs, err := gate.Expand(args)
			if err != nil {
				return exitf(exitUsage, "verify: %w", err)
			}
			return verifyBundles(cmd.OutOrStdout(), dirs, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func verifyBundles(w io.Writer, dirs []string, asJSON bool) error {
	var reps []reports.VerifyReport
	bad := 0
	for _, dir := range dirs {
		rep, err := reports.Verify(dir)
		if err != nil {
			bad++
		}
		reps = append(reps, rep)
		if !asJSON {
			if err := printVerified(w, rep); err != nil {
				return err
			}
		}
	}
	if asJSON {
		if err := printJSON(w, reps); err != nil {
			return err
		}
	}
	if bad > 0 {
		return exitf(exitUsage, "verify: %d of %d bundles cannot be trusted", bad, len(dirs))
	}
	return nil
}

func printVerified(w io.Writer, rep reports.VerifyReport) error {
	head := fmt.Sprintf("sound  %s: %d files, %d claims judged again over %d operations; it says %s: %s", rep.Dir, rep.Files, rep.Claims, rep.Ops, rep.Status, rep.Why)
	if !rep.OK {
		head = "BAD    " + rep.Dir
	}
	lines := []string{head}
	for _, p := range rep.Problems {
		lines = append(lines, "       "+p)
	}
	for _, n := range rep.Notes {
		lines = append(lines, "       note: "+n)
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, l); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
