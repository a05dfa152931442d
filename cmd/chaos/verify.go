package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/attest"
	"github.com/unibus/unibus/reports/gate"
)

// verifyCmd checks bundles: digests, then the verdicts against the recorded evidence.
func verifyCmd() *cobra.Command {
	var asJSON bool
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify DIR...",
		Short: "Check proof bundles: every digest, and every verdict by judging the recorded history again",
		Long: `Checks each bundle (or each bundle directly below DIR, among them all that its index lists): all files are there, none is extra, every digest is right, the
history decodes, and judging it again gives exactly the verdicts, figures and controls of proof.json.

With --key each bundle must also be signed ('chaos sign') by one of the keys.

It says whether a proof is sound, not whether it is good: a sound proof may be of a failure. Use gate for that.

Exit code 0: all sound. 2: at least one is not, or is not there.`,
		Example: "  chaos verify proofs/node-kill\n  chaos verify --json proofs\n  chaos verify --key proof.key.pub proofs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exitf(exitUsage, "verify: name at least one bundle, or a folder of bundles")
			}
			dirs, err := gate.Expand(args)
			if err != nil {
				return exitf(exitUsage, "verify: %w", err)
			}
			trusted, err := publicKeys(keys)
			if err != nil {
				return exitf(exitUsage, "verify: %w", err)
			}
			return verifyBundles(cmd.OutOrStdout(), dirs, trusted, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key that must have signed each bundle; more than once: any of them")
	return cmd
}

func verifyBundles(w io.Writer, dirs []string, trusted []ed25519.PublicKey, asJSON bool) error {
	var reps []reports.VerifyReport
	bad := 0
	for _, dir := range dirs {
		rep, err := reports.Verify(dir)
		if err == nil && len(trusted) > 0 {
			if err = attest.SignedBundle(dir, *rep.Proof, trusted...); err != nil {
				rep.OK, rep.Problems = false, []string{err.Error()}
			}
		}
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
	if own := thisHarness(); !rep.OK && rep.Harness.Digest != "" && rep.Harness.Digest != own.Digest {
		lines = append(lines, fmt.Sprintf("       it was made by chaos %s (%s), and this is %s (%s): another version may judge and draw otherwise, so verify it with the one that made it",
			rep.Harness.Version, short(rep.Harness.Digest), own.Version, short(own.Digest)))
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
