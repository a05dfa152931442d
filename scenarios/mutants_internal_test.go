package scenarios

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMutantsAreThere: each planted bug has its file, each file is a bug that is listed, and each is looked for in a scenario that there is.
func TestMutantsAreThere(t *testing.T) {
	const dir = "../sut/membershipd/internal/mutant"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".go"); name != "mutant" && name != "clean" && name != "mutant_test" {
			files = append(files, strings.ReplaceAll(name, "_", "-"))
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if want := "//go:build mutant && mutant_" + name + "\n"; !strings.HasPrefix(string(b), want) {
				t.Errorf("%s does not begin with %q", e.Name(), want)
			}
		}
	}
	var listed []string
	for _, m := range Mutants() {
		listed = append(listed, m.Name)
		if !slices.ContainsFunc(All(), func(s Scenario) bool { return s.Name == m.Scenario }) || len(m.Signs) == 0 || m.Mistake == "" {
			t.Errorf("%s: scenario %q, %d signs, %q", m.Name, m.Scenario, len(m.Signs), m.Mistake)
		}
	}
	slices.Sort(listed)
	slices.Sort(files)
	if !slices.Equal(listed, files) {
		t.Errorf("listed are %v, planted are %v", listed, files)
	}
	if len(listed) < 12 {
		t.Errorf("%d bugs are planted, at least 12 are wanted", len(listed))
	}
}

func TestSelectMutants(t *testing.T) {
	all := Mutants()
	if got, err := SelectMutants(all, " "); err != nil || len(got) != len(all) {
		t.Errorf("all: %d, %v", len(got), err)
	}
	if got, err := SelectMutants(all, "cas-ignored, healthz-cached"); err != nil || len(got) != 2 || got[1].Name != "healthz-cached" {
		t.Errorf("two: %v, %v", got, err)
	}
	if _, err := SelectMutants(all, "cas-ignored,zz"); err == nil || !strings.Contains(err.Error(), `"zz"`) {
		t.Errorf("an unknown one: %v", err)
	}
}
