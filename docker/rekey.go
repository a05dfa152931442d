package docker

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/moby/moby/client"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// Compile-time checks of what pods and clusters of them can do about certificates.
var (
	_ cluster.Rekeyed = (*pod)(nil)
	_ cluster.Secured = (*containers)(nil)
)

// Hosts implements cluster.Rekeyed: the name and address for the other nodes, and where ports are published for the harness.
func (p *pod) Hosts() []string {
	return []string{string(p.id), "localhost", loopback, p.addr}
}

// PutSecrets implements cluster.Rekeyed: the engine unpacks one archive into the volume.
func (p *pod) PutSecrets(ctx context.Context, files map[string][]byte) error {
	var all []file
	for name, content := range files {
		if !slices.Contains(subject.SecretNames(), name) {
			return fmt.Errorf("replace certificates of %s: %q is not the name of one", p.id, name)
		}
		all = append(all, file{path.Join(path.Base(confDir), name), content, 0o600, userID})
	}
	archive, err := tarOf(all...)
	if err != nil {
		return fmt.Errorf("replace certificates of %s: %w", p.id, err)
	}
	_, err = p.c.b.cli.CopyToContainer(ctx, p.daemon(), client.CopyToContainerOptions{DestinationPath: home, Content: bytes.NewReader(archive)})
	if err != nil {
		return fmt.Errorf("replace certificates of %s: %w", p.id, err)
	}
	return nil
}
