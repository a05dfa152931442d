package unibus_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/unibus/unibus/"

// pkg is what 'go list' says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Standard,Imports,Deps,GoFiles"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		ps = append(ps, p)
	}
}

// onlyImporters names, for each costly or dangerous dependency, the folders that may import it directly, and why nobody else may.
var onlyImporters = []struct {
	dep     string
	folders []string
	why     string
}{
	{"github.com/nats-io/nats-server/", []string{"sut/membershipd", "cmd/membershipd"}, "the system under test is production code; the harness must see it as a black box"},
	{"github.com/testcontainers/", []string{"docker"}, "one place knows containers; scenarios run on processes too"},
	{"github.com/moby/", []string{"docker"}, "one place knows containers; scenarios run on processes too"},
	{"github.com/onsi/ginkgo/", []string{"scenarios/suite"}, "scenarios are values that any runner can run"},
	{"github.com/onsi/gomega", []string{"scenarios/suite"}, "checkers judge, not assertions"},
	{"github.com/anishathalye/porcupine", []string{"reports/check"}, "one place searches for linearizations"},
	{"github.com/nats-io/nats.go", []string{"sut/membershipd", "cmd/membershipd", "sut/client", "scenarios/workload"}, "recording clients are the only clients: an unrecorded operation is missing evidence; sut/client is what they, and users, are made of"},
	{"github.com/prometheus/prometheus/", []string{}, "its query engine tests the alert rules; nothing that ships evaluates metrics"},
	{"github.com/google/nftables", []string{"faults/agent"}, "only the agent touches the kernel's tables"},
	{"github.com/hanwen/go-fuse/", []string{"faults/powerfs/fusemount"}, "the model of a disk is tested without a kernel; one package binds it to FUSE"},
	{"testing", []string{}, "product code is not test code"},
}

func TestOnlyTheseFoldersImport(t *testing.T) {
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module)
		for _, rule := range onlyImporters {
			for _, imp := range p.Imports {
				if imp != strings.TrimSuffix(rule.dep, "/") && !strings.HasPrefix(imp, rule.dep) || rule.dep == "testing" && imp != "testing" {
					continue
				}
				if !within(rel, rule.folders) {
					t.Errorf("%s imports %s: %s", rel, imp, rule.why)
				}
			}
		}
	}
}

// forbidden lists, for each folder, what nothing in it may depend on, however far away.
var forbidden = []struct {
	folder string
	deps   []string
	why    string
}{
	{"reports", []string{"github.com/nats-io/", "github.com/moby/", "github.com/testcontainers/", "testing", module + "scenarios", module + "docker", module + "faults", module + "sut"},
		"an auditor judges a bundle with this tree and the reader of block files alone"},
	{"sut/store", []string{"github.com/nats-io/", module + "scenarios", module + "docker", module + "faults", module + "reports", module + "sut", "testing"},
		"the daemon's audit and the harness's judgement read the same files, and neither knows of the other"},
	{"sut/membershipd", []string{module + "scenarios", module + "docker", module + "faults", module + "reports", module + "sut/cluster", "github.com/testcontainers/"},
		"production code knows nothing of its harness"},
	{"faults", []string{module + "scenarios", module + "docker", module + "reports", "github.com/nats-io/"}, "faults act on the interfaces of sut/cluster"},
	{"sut/cluster", []string{"github.com/"}, "the contract is the standard library and nothing else"},
	{"sut/observe", []string{"github.com/nats-io/"}, "nodes are asked over HTTP, one by one"},
	{"reports/history", []string{"github.com/"}, "the record can be read by anybody"},
}

func TestForbiddenDependencies(t *testing.T) {
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module)
		for _, rule := range forbidden {
			if !within(rel, []string{rule.folder}) {
				continue
			}
			for _, d := range p.Deps {
				for _, bad := range rule.deps {
					if d == bad || bad != "testing" && strings.HasPrefix(d, bad) && !within(strings.TrimPrefix(d, module), []string{rule.folder, "sut/cluster", "sut/store"}) {
						t.Errorf("%s depends on %s: %s", rel, d, rule.why)
					}
				}
			}
		}
	}
}

func within(rel string, folders []string) bool {
	for _, f := range folders {
		if rel == f || strings.HasPrefix(rel, f+"/") {
			return true
		}
	}
	return false
}

func TestEveryPackageHasOneDocComment(t *testing.T) {
	for _, p := range list(t, "./...") {
		docs := 0
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil && !strings.HasPrefix(file.Doc.Text(), "go:build") {
				docs++
			}
		}
		if docs != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s has %d package doc comments, want one", p.ImportPath, docs)
		}
	}
}

// TestNothingBuiltIsCommitted looks at what git tracks: a binary there is downloaded by everybody for ever.
func TestNothingBuiltIsCommitted(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Skipf("not a git checkout: %v", err)
	}
	names := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	if len(names) < 100 {
		t.Fatalf("git ls-files names %d files", len(names))
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b[:min(len(b), 8000)]), "\x00") || len(b) > 256<<10 {
			t.Errorf("%s (%d bytes) is not source: generate it, or add it to .gitignore", name, len(b))
		}
	}
}
