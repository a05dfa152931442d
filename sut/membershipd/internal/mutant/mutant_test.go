package mutant_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

// TestReleaseHasNone: nothing is planted in this build, and the bytes of a release binary hold nothing of what a planted bug says, while those of a build with one do.
func TestReleaseHasNone(t *testing.T) {
	if mutant.Planted != mutant.None {
		t.Fatalf("this build has the planted bug %q", mutant.Planted)
	}
	if testing.Short() {
		t.Skip("builds the daemon twice")
	}
	words := []byte("there is a planted bug in this build")
	for _, tags := range []string{"", "mutant,mutant_lame_duck_drops"} {
		bin := filepath.Join(t.TempDir(), "membershipd")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", bin, "../../../../cmd/membershipd").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		planted := tags != ""
		if bytes.Contains(b, words) != planted || bytes.Contains(b, []byte("unibus.draining")) != planted {
			t.Errorf("built with tags %q: the words of a planted bug are there: %v", tags, !planted)
		}
	}
}
