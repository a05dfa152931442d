package reports_test

import (
	"os"
	"testing"

	"github.com/unibus/unibus/reports"
)

// TestDrawSample keeps what it draws where SAMPLE_REPORT names a folder, for people who work on the looks.
func TestDrawSample(t *testing.T) {
	dir := os.Getenv("SAMPLE_REPORT")
	if dir == "" {
		dir = t.TempDir() + "/sample"
	}
	sealIn(t, dir, sampleHistory(7), sampleEvidence("node-kill", goodClaims()...))
	p := finish(t, dir)
	if p.Status != reports.StatusPass && os.Getenv("SAMPLE_REPORT") == "" {
		t.Errorf("status %s: %s", p.Status, p.Why)
	}
	t.Log("\n" + reports.Table([]reports.Proof{p}, reports.Claims))
	if rep, err := reports.Verify(dir); err != nil {
		t.Errorf("%v %v", err, rep.Problems)
	}
}
