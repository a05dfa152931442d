package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports/gate"
)

// gateFlags are the options of `chaos gate`.
type gateFlags struct {
	policy, subject string
	asJSON, print   bool
}

// gateCmd decides from proof bundles and a policy.
func gateCmd() *cobra.Command {
	var f gateFlags
	cmd := &cobra.Command{
		Use:   "gate [--policy FILE] [--subject FILE|DIGEST] DIR...",
		Short: "Decide from proof bundles and a policy whether the subject may be deployed",
		Long: `Verifies every bundle (or every bundle directly below DIR) and holds them against the policy.

Exit code 0: everything required was shown, and every control fired. 1: a claim failed. 2: a bad proof, a bad policy, or a file
that is not there. 3: inconclusive: something required is missing, did not run, or could not be judged; or a control did not fire.`,
		Example: "  chaos gate proofs\n  chaos gate --policy release.yaml --subject bin/membershipd proofs/*\n  chaos gate --print-policy",
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.print {
				_, err := cmd.OutOrStdout().Write(gate.DefaultYAML())
				return err
			}
			return runGate(cmd.OutOrStdout(), f, args)
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", "", "policy file, YAML or JSON (default: the built-in one)")
	cmd.Flags().StringVar(&f.subject, "subject", "", "the binary that the proofs must speak of, or its sha256:<hex>")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON document")
	cmd.Flags().BoolVar(&f.print, "print-policy", false, "print the built-in policy and exit")
	return cmd
}

func runGate(w io.Writer, f gateFlags, args []string) error {
	if len(args) == 0 {
		return exitf(exitUsage, "gate: name at least one bundle, or a folder of bundles")
	}
	p, err := loadPolicy(f)
	if err != nil {
		return exitf(exitUsage, "gate: %w", err)
	}
	dirs, err := gate.Expand(args)
	if err != nil {
		return exitf(exitUsage, "gate: %w", err)
	}
	d := gate.Decide(p, dirs, time.Now())
	if err := printDecision(w, d, f.asJSON); err != nil {
		return err
	}
	if d.Exit != exitOK {
		return exitf(d.Exit, "gate: %s", d.Outcome)
	}
	return nil
}

func loadPolicy(f gateFlags) (gate.Policy, error) {
	text := gate.DefaultYAML()
	if f.policy != "" {
		var err error
		if text, err = os.ReadFile(f.policy); err != nil {
			return gate.Policy{}, fmt.Errorf("read policy: %w", err)
		}
	}
	p, err := gate.Parse(text)
	if err != nil {
		return gate.Policy{}, err
	}
	if f.subject != "" {
		digest, err := gate.SubjectDigest(f.subject)
		if err != nil {
			return gate.Policy{}, err
		}
		if p.Subject != "" && p.Subject != digest {
			return gate.Policy{}, fmt.Errorf("%w: it pins subject %s, and --subject is %s", gate.ErrPolicy, p.Subject, digest)
		}
		p.Subject = digest
	}
	return p, nil
}

func printDecision(w io.Writer, d gate.Decision, asJSON bool) error {
	if asJSON {
		return printJSON(w, d)
	}
	for _, x := range d.Findings {
		if _, err := fmt.Fprintf(w, "%-13s %s: %s\n", x.Outcome, x.What, x.Reason); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	subject := d.Subject
	if subject == "" {
		subject = "no single subject"
	}
	if _, err := fmt.Fprintf(w, "\ngate %s: policy %q, %d bundles, %s\n", d.Outcome, d.Policy, d.Bundles, subject); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
