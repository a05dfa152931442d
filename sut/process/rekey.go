package process

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/unibus/unibus/sut/pki"
	"github.com/unibus/unibus/sut/subject"
)

// Hosts are where the node is reached, and its name.
func (n *node) Hosts() []string { return []string{string(n.id), "localhost", "127.0.0.1"} }

// PutSecrets replaces one file after the other, each as a whole.
func (n *node) PutSecrets(ctx context.Context, files map[string][]byte) error {
	for name := range files {
		if !slices.Contains(subject.SecretNames(), name) {
			return fmt.Errorf("replace certificates of %s: %q is not the name of one", n.id, name)
		}
	}
	for _, name := range subject.SecretNames() {
		content, ok := files[name]
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("replace certificates of %s: %w", n.id, err)
		}
		if err := pki.WriteFile(filepath.Join(n.confDir(), name), content); err != nil {
			return fmt.Errorf("replace certificates of %s: %w", n.id, err)
		}
	}
	return nil
}
