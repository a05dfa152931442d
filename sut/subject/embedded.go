package subject

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Embedded is the version of nats-server that the source tree's daemon embeds, as its go.mod has it.
func Embedded(tree string) (string, error) {
	b, err := os.ReadFile(filepath.Join(tree, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("find the embedded nats-server: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && f[0] == natsPackage {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("find the embedded nats-server: %s is not in go.mod", natsPackage)
}
