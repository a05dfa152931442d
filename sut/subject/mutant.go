package subject

import (
	"context"
	"fmt"
	"strings"

	"github.com/unibus/unibus/sut/cluster"
)

// Mutant builds membershipd with one planted bug (package sut/membershipd/internal/mutant), to show that the harness finds it. Its version says so.
func Mutant(ctx context.Context, bug string, opts Options) (cluster.Subject, error) {
	b, err := newBuilder(opts)
	if err != nil {
		return cluster.Subject{}, err
	}
	s := cluster.Subject{Kind: cluster.Membershipd, Source: module + strings.TrimPrefix(daemonPackage, ".") + " with the planted bug " + bug}
	b.tags, b.suffix = "mutant,mutant_"+strings.ReplaceAll(bug, "-", "_"), "+mutant-"+bug
	if s.Path, s.Version, err = b.own(ctx, string(cluster.Membershipd), daemonPackage); err != nil {
		return cluster.Subject{}, fmt.Errorf("build the planted bug %s: %w", bug, err)
	}
	s.Digest, err = Digest(s.Path)
	return s, err
}
