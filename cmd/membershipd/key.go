package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/client"
)

// seedMode is that of files with a seed: nobody but the owner.
const seedMode = 0o600

func newKey() *cobra.Command {
	asJSON := false
	c := newGroup("key", "Make and show nkeys", `Make and show nkeys. The seed, which is the secret, stays in its file; the public key is what "user add" takes. Nothing is sent anywhere.`,
		nil, newKeyNew(&asJSON), newKeyShow(&asJSON))
	c.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newKeyNew(asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use: "new FILE", Short: "Make a key: write the seed to a new file, print the public key", Args: exactly(1),
		Long:    "Make a key: write the seed to a new file of mode 0600, and print the public key. A file that exists is never replaced.",
		Example: "  membershipd key new alice.nk",
		RunE: func(c *cobra.Command, args []string) error {
			kp, err := nkeys.CreateUser()
			if err != nil {
				return failed(fmt.Errorf("make the key: %w", err))
			}
			if err := writeSeed(args[0], kp); err != nil {
				return failed(err)
			}
			return printPublic(c, args[0], kp, *asJSON)
		},
	}
}

func newKeyShow(asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Print the public key of a seed file", Args: exactly(1),
		Example: "  membershipd key show alice.nk",
		RunE: func(c *cobra.Command, args []string) error {
			kp, err := client.LoadSeed(args[0])
			if err != nil {
				return failed(err)
			}
			return printPublic(c, args[0], kp, *asJSON)
		},
	}
}

// writeSeed leaves a complete file or none, and replaces nothing: a seed that is lost cannot be had again.
func writeSeed(path string, kp nkeys.KeyPair) error {
	seed, err := kp.Seed()
	if err != nil {
		return fmt.Errorf("make the key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, seedMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and a seed is never replaced: choose another file", path)
	}
	if err != nil {
		return fmt.Errorf("write the seed: %w", err)
	}
	_, err = f.Write(append(seed, '\n'))
	if err = errors.Join(err, f.Chmod(seedMode), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the seed: %w", err), os.Remove(path))
	}
	return nil
}

func printPublic(c *cobra.Command, path string, kp nkeys.KeyPair, asJSON bool) error {
	public, err := kp.PublicKey()
	if err != nil {
		return failed(fmt.Errorf("read the public key: %w", err))
	}
	if !asJSON {
		_, err = fmt.Fprintln(c.OutOrStdout(), public)
		return failed(err)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return failed(err)
	}
	return failed(json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{"nkey": public, "seed_file": absolute}))
}
