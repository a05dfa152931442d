package subject_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// buildBound is far above what a build takes on a loaded machine.
const buildBound = 5 * time.Minute

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name    string
		kind    cluster.Kind
		version string
		err     error
	}{
		{"membershipd", cluster.Membershipd, "", nil},
		{"nats-server@v2.15.2", cluster.NATSServer, "v2.15.2", nil},
		{"nats-server@v2.11.0-preview.2", cluster.NATSServer, "v2.11.0-preview.2", nil},
		{"", "", "", subject.ErrUnknown},
		{"redis@v1.0.0", "", "", subject.ErrUnknown},
		{"membershipd@v1.0.0", "", "", subject.ErrUnknown},
		{"nats-server", "", "", subject.ErrVersion},
		{"nats-server@", "", "", subject.ErrVersion},
		{"nats-server@2.15.2", "", "", subject.ErrVersion},
		{"nats-server@v1.4.1", "", "", subject.ErrVersion},
		{"nats-server@v2.15", "", "", subject.ErrVersion},
		{"nats-server@latest", "", "", subject.ErrVersion},
		{"nats-server@v2.15.2 -o /x", "", "", subject.ErrVersion},
		{"nats-server@v2.15.2/../..", "", "", subject.ErrVersion},
	} {
		kind, version, err := subject.Parse(c.name)
		if kind != c.kind || version != c.version || !errors.Is(err, c.err) {
			t.Errorf("%q: got %q %q %v, want %q %q %v", c.name, kind, version, err, c.kind, c.version, c.err)
		}
	}
}

func TestFindSource(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root, err := subject.FindSource(wd)
	if err != nil || filepath.Join(root, "sut", "subject") != wd {
		t.Errorf("from %s: %q, %v", wd, root, err)
	}
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "go.mod"), []byte("module example.com/other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if root, err := subject.FindSource(elsewhere); !errors.Is(err, subject.ErrNoSource) {
		t.Errorf("from another module: %q, %v; want %v", root, err, subject.ErrNoSource)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Run("no source tree", func(t *testing.T) {
		_, err := subject.Resolve(t.Context(), "membershipd", subject.Options{Source: t.TempDir(), Cache: t.TempDir()})
		if !errors.Is(err, subject.ErrNoSource) {
			t.Errorf("got %v, want %v", err, subject.ErrNoSource)
		}
	})
	t.Run("no go command", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		for _, name := range []string{"membershipd", "nats-server@v2.15.2"} {
			if _, err := subject.Resolve(t.Context(), name, subject.Options{Cache: t.TempDir()}); !errors.Is(err, subject.ErrNoGo) {
				t.Errorf("%s: got %v, want %v", name, err, subject.ErrNoGo)
			}
		}
	})
	t.Run("unavailable version", func(t *testing.T) {
		needGo(t)
		t.Setenv("GOPROXY", "off")
		_, err := subject.Resolve(t.Context(), "nats-server@v2.0.999", subject.Options{Cache: t.TempDir()})
		if !errors.Is(err, subject.ErrUnavailable) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("got %v, want one line with %v", err, subject.ErrUnavailable)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		needGo(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := subject.Resolve(ctx, "nats-server@v2.0.998", subject.Options{Cache: t.TempDir()}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

func TestNATSServerIsBuiltOnceFromThisModule(t *testing.T) {
	needGo(t)
	t.Setenv("GOPROXY", "off") // this module's own version needs no network
	ctx, cancel := context.WithTimeout(t.Context(), buildBound)
	defer cancel()
	name := "nats-server@" + ownVersion(t)
	opts := subject.Options{Cache: t.TempDir()}
	first, err := subject.Resolve(ctx, name, opts)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, first.Path, "--version").Output()
	if want := "nats-server: " + first.Version; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("the binary says %q, %v; want %q", out, err, want)
	}
	if d, err := subject.Digest(first.Path); err != nil || d != first.Digest || !strings.HasPrefix(d, "sha256:") {
		t.Errorf("digest %q of the file, %v; the subject says %q", d, err, first.Digest)
	}
	if first.String() != name || filepath.Base(first.Path) != "nats-server" {
		t.Errorf("got %s at %s, want %s", first, first.Path, name)
	}
	t.Setenv("PATH", t.TempDir()) // a second time needs no go command
	second, err := subject.Resolve(ctx, name, opts)
	if err != nil || second != first {
		t.Errorf("from the cache: %+v, %v; want %+v", second, err, first)
	}
}

func TestHelpersAreStaticAndKeptByContent(t *testing.T) {
	needGo(t)
	ctx, cancel := context.WithTimeout(t.Context(), buildBound)
	defer cancel()
	opts := subject.Options{Cache: t.TempDir()}
	first, err := subject.Holder(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	second, err := subject.Holder(ctx, opts)
	if err != nil || second != first {
		t.Errorf("built again: %q, %v; want %q", second, err, first)
	}
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	if string(b[:4]) != "\x7fELF" || strings.Contains(string(b), "ld-linux") {
		t.Errorf("%s is no static binary for Linux", first)
	}
	entries, err := os.ReadDir(opts.Cache)
	if err != nil || len(entries) != 1 {
		t.Errorf("the cache holds %v, %v; want one entry", entries, err)
	}
}

func needGo(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command on PATH")
	}
}

// ownVersion is the nats-server that this module asks for.
func ownVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output()
	if err != nil {
		t.Fatalf("ask for the version in go.mod (%s): %v", runtime.Version(), err)
	}
	return strings.TrimSpace(string(out))
}
