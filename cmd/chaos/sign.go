package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/attest"
	"github.com/unibus/unibus/reports/gate"
	"github.com/unibus/unibus/sut/secret"
)

// publicSuffix ends the name of the public half of a key pair.
const publicSuffix = ".pub"

// keygenCmd makes a key pair for signing.
func keygenCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make an ed25519 key pair for signing proofs: FILE is the secret one, FILE.pub the one to hand out",
		Long: `Writes FILE (PKCS #8, mode 0600) and FILE.pub (PKIX). Nothing is overwritten.

Exit code 0: made. 2: a file is there already, or cannot be written.`,
		Example: "  chaos keygen proof.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return exitf(exitUsage, "keygen: name one file")
			}
			private, public, err := attest.NewKey()
			if err != nil {
				return exitf(exitUsage, "keygen: %w", err)
			}
			if err := writeNew(args[0]+publicSuffix, public, 0o644); err != nil {
				return exitf(exitUsage, "keygen: %w", err)
			}
			if err := writeNew(args[0], private, 0o600); err != nil {
				return exitf(exitUsage, "keygen: %w", errors.Join(err, os.Remove(args[0]+publicSuffix)))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is the secret key; hand out %s\n", args[0], args[0]+publicSuffix)
			return err
		},
	}
}

func writeNew(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// signCmd signs bundles.
func signCmd() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "sign --key FILE DIR...",
		Short: "Sign proof bundles, after checking them: others can then tell who vouches for them",
		Long: `Verifies each bundle (or each bundle directly below DIR) as 'chaos verify' does, and writes ` + reports.AttestationFile + ` into it: an in-toto
test result about the binary under test and the bundle's MANIFEST, which pins every file, in a Sigstore bundle. A failed proof can be signed as well: the
signature says who vouches for the bundle, not that it is good news.

Check it with 'chaos verify --key FILE.pub DIR', or without this program:
  cosign verify-blob-attestation --key FILE.pub --insecure-ignore-tlog --type https://in-toto.io/attestation/test-result/v0.1 \
    --bundle DIR/` + reports.AttestationFile + ` DIR/MANIFEST

Exit code 0: all signed. 2: a bundle cannot be trusted, or the key cannot be used.`,
		Example: "  chaos keygen proof.key\n  chaos sign --key proof.key proofs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || key == "" {
				return exitf(exitUsage, "sign: name --key FILE and at least one bundle, or a folder of bundles")
			}
			k, err := privateKey(key)
			if err != nil {
				return exitf(exitUsage, "sign: %w", err)
			}
			dirs, err := gate.Expand(args)
			if err != nil {
				return exitf(exitUsage, "sign: %w", err)
			}
			return signBundles(cmd.OutOrStdout(), dirs, k)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file of the secret key (chaos keygen); others must not be able to read it")
	return cmd
}

func signBundles(w io.Writer, dirs []string, k ed25519.PrivateKey) error {
	bad := 0
	for _, dir := range dirs {
		line, err := signBundle(dir, k)
		if err != nil {
			bad++
			line = fmt.Sprintf("NOT SIGNED  %s: %s", dir, oneLine(err.Error()))
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if bad > 0 {
		return exitf(exitUsage, "sign: %d of %d bundles cannot be trusted", bad, len(dirs))
	}
	return nil
}

func signBundle(dir string, k ed25519.PrivateKey) (string, error) {
	rep, err := reports.Verify(dir)
	if err != nil {
		return "", err
	}
	manifest, err := reports.ManifestDigest(dir)
	if err != nil {
		return "", err
	}
	s, err := attest.Bundle(*rep.Proof, manifest)
	if err != nil {
		return "", err
	}
	file, err := attest.Sign(s, k)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("signed  %s: %s, MANIFEST %s", dir, rep.Status, manifest), reports.WriteAttestation(dir, file)
}

// privateKey reads a signing key. Errors name the file and never its content.
func privateKey(path string) (ed25519.PrivateKey, error) {
	b, err := secret.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	k, err := attest.ParsePrivate(b)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return k, nil
}

// publicKeys reads the keys whose signatures count.
func publicKeys(paths []string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		k, err := attest.ParsePublic(b)
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", path, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// signPassed writes the statement that a gate passed.
func signPassed(d gate.Decision, policy []byte, key ed25519.PrivateKey, to string, now time.Time) error {
	if d.Subject == "" {
		return errors.New("the proofs speak of no single binary")
	}
	policyDigest := gate.Digest(policy)
	var inputs []attest.Resource
	for _, dir := range d.Counted {
		m, err := reports.ManifestDigest(dir)
		if err != nil {
			return err
		}
		inputs = append(inputs, attest.Resource{Name: filepath.Base(dir), Digest: attest.SHA256(m)})
	}
	s, err := attest.Gate(attest.Resource{Name: d.SubjectKind, Digest: attest.SHA256(d.Subject)},
		attest.Resource{URI: "urn:unibus:policy:" + d.Policy, Digest: attest.SHA256(policyDigest)}, inputs, now)
	if err != nil {
		return err
	}
	file, err := attest.Sign(s, key)
	if err != nil {
		return err
	}
	return os.WriteFile(to, file, 0o644)
}

// admitCmd checks a gate's statement.
func admitCmd() *cobra.Command {
	var (
		keys    []string
		subject string
		maxAge  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "admit --key FILE.pub --subject FILE|DIGEST STATEMENT",
		Short: "Tell whether a signed gate statement lets a binary pass, without its proofs",
		Long: `Checks a statement that 'chaos gate --sign' wrote: signed by one of the keys, about that very binary, passed, and young enough. For hosts that
install what a gate elsewhere let pass; the proofs themselves are not needed.

Exit code 0: it may be installed. 1: the statement is genuine and does not admit it. 2: no trusted key signed it, or it cannot be read.`,
		Example: "  chaos gate --sign proof.key --statement gate.json --subject bin/membershipd proofs\n  chaos admit --key proof.key.pub --subject bin/membershipd gate.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || len(keys) == 0 || subject == "" {
				return exitf(exitUsage, "admit: name --key, --subject and one statement")
			}
			return admit(cmd.OutOrStdout(), args[0], subject, keys, maxAge)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key whose signature counts; may be given more than once")
	cmd.Flags().StringVar(&subject, "subject", "", "the binary that is to be installed, or its sha256:<hex>")
	cmd.Flags().DurationVar(&maxAge, "max-age", 7*24*time.Hour, "how old the statement may be; 0 for any age")
	return cmd
}

func admit(w io.Writer, path, subject string, keyPaths []string, maxAge time.Duration) error {
	keys, err := publicKeys(keyPaths)
	if err != nil {
		return exitf(exitUsage, "admit: %w", err)
	}
	digest, err := gate.SubjectDigest(subject)
	if err != nil {
		return exitf(exitUsage, "admit: %w", err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return exitf(exitUsage, "admit: %w", err)
	}
	sum, err := attest.Admitted(file, digest, maxAge, time.Now(), keys...)
	switch {
	case errors.Is(err, attest.ErrNotAdmitted):
		return exitf(exitFail, "admit: %w", err)
	case err != nil:
		return exitf(exitUsage, "admit: %w", err)
	}
	_, err = fmt.Fprintf(w, "admitted: %s passed %s with %d bundles at %s\n", digest, sum.Policy.URI, len(sum.Inputs), sum.Time.UTC().Format(time.RFC3339))
	return err
}
