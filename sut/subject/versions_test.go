package subject_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// TestReleasesAcceptTheirConfiguration asks real servers, one of each minor version whose settings differ, to check the file. Versions that
// cannot be had here are skipped.
func TestReleasesAcceptTheirConfiguration(t *testing.T) {
	needGo(t)
	for _, version := range []string{"v2.9.25", "v2.10.22", "v2.12.1", ownVersion(t)} {
		t.Run(version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), buildBound)
			defer cancel()
			s, err := subject.Resolve(ctx, "nats-server@"+version, subject.Options{})
			if errors.Is(err, subject.ErrUnavailable) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			n := testNode(t, cluster.NATSServer)
			n.Spec.Subject, n.ConfDir, n.DataDir = s, t.TempDir(), t.TempDir()
			l, err := subject.Render(n)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range l.Files {
				if err := os.WriteFile(filepath.Clean(f.Path), f.Content, f.Mode); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.CommandContext(ctx, s.Path, append(l.Args, "-t")...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
