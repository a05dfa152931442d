package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// seeded is what --json prints of a user that was written into a seed file.
type seeded struct {
	SeedFile string `json:"seed_file"`
	Changed  bool   `json:"changed"`
	control.UserAddRequest
}

// addToSeed writes a first user into the file that a cluster imports when it first forms. Nothing is asked and nobody logs in.
func (t *target) addToSeed(c *cobra.Command, path string, req control.UserAddRequest) error {
	if path == "" {
		return fmt.Errorf("--seed-file is required with --store %s: the file that \"membershipd serve --seed-file\" is given on every node", storeSeed)
	}
	changed, err := membershipd.AddToSeedFile(path, req.Name, req.Key, req.Role)
	if err != nil {
		return failed(err)
	}
	line := fmt.Sprintf("user %s is in %s: give the same file to \"membershipd serve --seed-file\" on every node", req.Name, path)
	if !changed {
		line = fmt.Sprintf("nothing to do: user %s is in %s already", req.Name, path)
	}
	return t.print(c, seeded{SeedFile: path, Changed: changed, UserAddRequest: req}, line)
}
