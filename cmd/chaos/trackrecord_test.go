package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// TestTrackRunsLongestFirst: workers end together only if the long bugs do not come last; none gets lost on the way.
func TestTrackRunsLongestFirst(t *testing.T) {
	all := scenarios.TrackRecord()
	out := longestFirst(all)
	runs := func(b scenarios.Bug) int {
		n := len(b.Bad) + len(b.Clean)
		if b.Control != nil {
			n += len(b.Bad)
		}
		return n * b.Scenario.Seconds
	}
	seen := map[string]bool{}
	for i, b := range out {
		seen[b.ID] = true
		if i > 0 && runs(b) > runs(out[i-1]) {
			t.Errorf("%s (%d s) comes after %s (%d s)", b.ID, runs(b), out[i-1].ID, runs(out[i-1]))
		}
	}
	if len(seen) != len(all) || len(out) != len(all) {
		t.Errorf("%d bugs of %d", len(seen), len(all))
	}
}

// TestTrackBookOfManyWriters: rows that come at the same time are all in the table, in the order of the list, and so is the file.
func TestTrackBookOfManyWriters(t *testing.T) {
	var words strings.Builder
	book := &trackBook{out: t.TempDir(), w: &words, table: trackTable{Format: trackFormat}}
	var wg sync.WaitGroup
	for _, b := range scenarios.TrackRecord() {
		wg.Go(func() {
			book.say(b.ID)
			if err := book.enter([]trackRow{shownRow(b.ID, b.Bad[0])}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	table, err := readTrack(book.out)
	if err != nil || len(table.Rows) != len(scenarios.TrackRecord()) || len(book.seen) != len(table.Rows) {
		t.Fatalf("%d rows in the file, %d seen: %v", len(table.Rows), len(book.seen), err)
	}
	for i, b := range scenarios.TrackRecord() {
		if table.Rows[i].Bug != b.ID || !strings.Contains(words.String(), b.ID+"\n") {
			t.Errorf("row %d is %s, want %s", i, table.Rows[i].Bug, b.ID)
		}
	}
}

// TestRunsOfOneProcessDiffer: what one run leaves behind is removed by its id, and another run of the same second must not go with it.
func TestRunsOfOneProcessDiffer(t *testing.T) {
	if a, b := newRunID(), newRunID(); a == b {
		t.Errorf("both are %s", a)
	}
}
