package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/scenarios"
)

func shownRow(bug, version string) trackRow {
	return trackRow{Bug: bug, Title: "a title with a | in it", Source: "somewhere", Version: version, Ran: true, Runs: 2, Shown: 1, Seed: 7, Seconds: 30,
		Date: time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC),
		Finding: scenarios.Finding{Showing: scenarios.Reproduced, Claim: "stream-known", Code: "stream-gone", Reason: "It is gone.", Witness: "n1 says so",
			Figures: []check.Figure{{Name: "acked_missing", Value: 3}, {Name: "reset"}}},
		Controls: []trackControl{{Version: "v9.9.9", Finding: scenarios.Finding{Showing: scenarios.Clean}, Seconds: 20}}}
}

func hiddenRow(bug, version string) trackRow {
	return trackRow{Bug: bug, Version: version, Ran: true, Runs: 3, Seed: 7, Finding: scenarios.Finding{Showing: scenarios.NotReproduced, Reason: "All claims hold."}}
}

// TestTrackTableSaysWhatWasSeen: counts, witness and controls stand in the row, and a bug that did not show is written down as that.
func TestTrackTableSaysWhatWasSeen(t *testing.T) {
	out := trackTable{Rows: []trackRow{shownRow("6888", "v2.10.22"), hiddenRow("5644", "v2.10.17")}}.document()
	for _, want := range []string{
		"`chaos track-record --bug 6888 --version v2.10.22 --seed 7`", "**reproduced** (1 of 2 runs)", "stream-known (stream-gone): It is gone.", "acked missing 3 |", "n1 says so",
		"v9.9.9: clean (20 s)", "2024-05-01, seed 7, 30 s", `a title with a \| in it`, "not reproduced (0 of 3 runs): All claims hold.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the document does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "reset 0") {
		t.Error("a count of zero is in the way")
	}
}

// TestTrackTableKeepsWhatWasNotRun: rows of other bugs, and the half of a row that was not run this time, stay.
func TestTrackTableKeepsWhatWasNotRun(t *testing.T) {
	dir := t.TempDir()
	var table trackTable
	table.Format = trackFormat
	table.merge([]trackRow{shownRow("6888", "v2.10.22"), shownRow("4320", "v2.9.20")})
	if err := table.write(dir); err != nil {
		t.Fatal(err)
	}
	again, err := readTrack(dir)
	if err != nil || len(again.Rows) != 2 {
		t.Fatalf("%+v, %v", again, err)
	}
	onlyControl := trackRow{Bug: "6888", Version: "v2.10.22", Controls: []trackControl{{Version: "v9.9.9", Finding: scenarios.Finding{Showing: scenarios.SafeDegraded, Reason: "It waits."}}}}
	again.merge([]trackRow{onlyControl, hiddenRow("4320", "v2.9.20")})
	if len(again.Rows) != 2 || again.Rows[0].Shown != 1 || again.Rows[0].Controls[0].Showing != scenarios.SafeDegraded || len(again.Rows[0].Controls) != 1 {
		t.Errorf("row of 6888: %+v", again.Rows[0])
	}
	if again.Rows[1].Showing != scenarios.NotReproduced || len(again.Rows[1].Controls) != 1 {
		t.Errorf("row of 4320: %+v", again.Rows[1])
	}
	if err := os.WriteFile(filepath.Join(dir, trackJSON), []byte(`{"format":"another"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTrack(dir); err == nil {
		t.Error("a table of another format was read")
	}
}

func TestTrackVerdict(t *testing.T) {
	dirty := shownRow("6888", "v2.10.22")
	dirty.Controls[0].Showing = scenarios.Reproduced
	silent := shownRow("6888", "v2.10.22")
	silent.Controls[0].Showing = scenarios.NotReproduced
	safe := shownRow("6888", "v2.10.22")
	safe.Controls[0].Showing = scenarios.SafeDegraded
	for name, tc := range map[string]struct {
		rows []trackRow
		code int
	}{
		"shown, and clean":             {[]trackRow{shownRow("6888", "v2.10.22")}, exitOK},
		"shown, and safe":              {[]trackRow{safe}, exitOK},
		"not shown":                    {[]trackRow{hiddenRow("6888", "v2.10.22")}, exitInconclusive},
		"a control says nothing":       {[]trackRow{silent}, exitInconclusive},
		"a control is not clean":       {[]trackRow{dirty}, exitFail},
		"that outranks what is hidden": {[]trackRow{hiddenRow("5644", "v2.10.17"), dirty}, exitFail},
	} {
		code := exitOK
		var e *exitError
		if err := trackVerdict(tc.rows); errors.As(err, &e) {
			code = e.code
		}
		if code != tc.code {
			t.Errorf("%s: exit %d, want %d", name, code, tc.code)
		}
	}
}
