package main

import (
	"crypto/ed25519"
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
	keys            []string // public: bundles must be signed by one of them
	sign, statement string   // secret key and file of the statement that the gate passed
	asJSON, print   bool
}

// gateCmd decides from proof bundles and a policy.
func gateCmd() *cobra.Command {
	var f gateFlags
	cmd := &cobra.Command{
		Use:   "gate [--policy FILE] [--subject FILE|DIGEST] DIR...",
		Short: "Decide from proof bundles and a policy whether the subject may be deployed",
		Long: `Verifies every bundle (or every bundle directly below DIR, among them all that its index lists) and holds them against the policy.

With --key only bundles that one of the keys signed ('chaos sign') are looked at; any other is a bad proof. With --sign and --statement a gate that
passes writes a signed statement about the subject, which 'chaos admit' checks on hosts that do not have the proofs; a gate that does not pass writes none.

Exit code 0: everything required was shown, and every control fired. 1: a claim failed. 2: a bad proof, a bad policy, or a file
that is not there. 3: inconclusive: something required is missing, did not run, or could not be judged; or a control did not fire.`,
		Example: "  chaos gate proofs\n  chaos gate --policy release.yaml --subject bin/membershipd proofs\n  chaos gate --print-policy\n  chaos gate --key proof.key.pub --sign gate.key --statement gate.json proofs",
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
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "public key that must have signed each bundle; more than once: any of them")
	cmd.Flags().StringVar(&f.sign, "sign", "", "secret key that signs a statement when the gate passes; goes with --statement")
	cmd.Flags().StringVar(&f.statement, "statement", "", "file for that statement")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON document")
	cmd.Flags().BoolVar(&f.print, "print-policy", false, "print the built-in policy and exit")
	return cmd
}

func runGate(w io.Writer, f gateFlags, args []string) error {
	if len(args) == 0 {
		return exitf(exitUsage, "gate: name at least one bundle, or a folder of bundles")
	}
	if (f.sign == "") != (f.statement == "") {
		return exitf(exitUsage, "gate: --sign and --statement go together")
	}
	k, err := f.load()
	if err != nil {
		return exitf(exitUsage, "gate: %w", err)
	}
	dirs, err := gate.Expand(args)
	if err != nil {
		return exitf(exitUsage, "gate: %w", err)
	}
	now := time.Now()
	d := gate.Decide(k.policy, dirs, now, k.trusted...)
	if err := printDecision(w, d, f.asJSON); err != nil {
		return err
	}
	if d.Exit != exitOK {
		return exitf(d.Exit, "gate: %s", d.Outcome)
	}
	if f.sign == "" {
		return nil
	}
	if err := signPassed(d, k.text, k.signer, f.statement, now); err != nil {
		return exitf(exitUsage, "gate: write statement: %w", err)
	}
	return nil
}

// gateInputs is what a gate needs beside the bundles.
type gateInputs struct {
	policy  gate.Policy
	text    []byte // the policy's file
	trusted []ed25519.PublicKey
	signer  ed25519.PrivateKey // nil: no statement
}

func (f gateFlags) load() (in gateInputs, err error) {
	if in.policy, in.text, err = loadPolicy(f); err != nil {
		return in, err
	}
	if in.trusted, err = publicKeys(f.keys); err != nil {
		return in, err
	}
	if f.sign != "" {
		in.signer, err = privateKey(f.sign)
	}
	return in, err
}

func loadPolicy(f gateFlags) (gate.Policy, []byte, error) {
	text := gate.DefaultYAML()
	if f.policy != "" {
		var err error
		if text, err = os.ReadFile(f.policy); err != nil {
			return gate.Policy{}, nil, fmt.Errorf("read policy: %w", err)
		}
	}
	p, err := gate.Parse(text)
	if err != nil {
		return gate.Policy{}, nil, err
	}
	if f.subject != "" {
		digest, err := gate.SubjectDigest(f.subject)
		if err != nil {
			return gate.Policy{}, nil, err
		}
		if p.Subject != "" && p.Subject != digest {
			return gate.Policy{}, nil, fmt.Errorf("%w: it pins subject %s, and --subject is %s", gate.ErrPolicy, p.Subject, digest)
		}
		p.Subject = digest
	}
	return p, text, nil
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
