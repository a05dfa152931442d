package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/unibus/unibus/scenarios"
)

// The files of the track record.
const (
	trackMarkdown = "track-record.md"
	trackJSON     = "track-record.json"
	trackFormat   = "unibus-track-record/1"
)

// trackTable is the track record as it stands in its file.
type trackTable struct {
	Format string     `json:"format"`
	Rows   []trackRow `json:"rows"`
}

// trackRow is one bug on one release that has it.
type trackRow struct {
	Bug     string `json:"bug"`
	Title   string `json:"title"`
	Source  string `json:"source"`
	Version string `json:"version"`
	Note    string `json:"note,omitempty"`
	Ran     bool   `json:"ran"`   // false: only controls were run
	Runs    int    `json:"runs"`  // on this release
	Shown   int    `json:"shown"` // in how many of them
	scenarios.Finding

	Seed     uint64         `json:"seed"` // of the run that is told here
	Date     time.Time      `json:"date"`
	Seconds  float64        `json:"seconds"`
	Controls []trackControl `json:"controls,omitempty"`
}

// trackControl is the same scenario on a release that must be clean.
type trackControl struct {
	Version string `json:"version"`
	scenarios.Finding

	Seed    uint64    `json:"seed"`
	Date    time.Time `json:"date"`
	Seconds float64   `json:"seconds"`
}

// command is what a reader types to see it again.
func (r trackRow) command() string {
	return fmt.Sprintf("chaos track-record --bug %s --version %s --seed %d", r.Bug, r.Version, r.Seed)
}

// readTrack reads the table that is there; a missing one is empty.
func readTrack(dir string) (trackTable, error) {
	t := trackTable{Format: trackFormat}
	b, err := os.ReadFile(filepath.Join(dir, trackJSON))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err == nil && t.Format != trackFormat {
		err = fmt.Errorf("its format is %q, not %q", t.Format, trackFormat)
	}
	if err != nil {
		return t, fmt.Errorf("read the earlier table: %w", err)
	}
	return t, nil
}

// merge puts new rows in the place of those of the same bug and release. Where only one half was run this time, the other half stays.
func (t *trackTable) merge(rows []trackRow) {
	for _, r := range rows {
		i := slices.IndexFunc(t.Rows, func(o trackRow) bool { return o.Bug == r.Bug && o.Version == r.Version })
		switch {
		case i < 0:
			t.Rows = append(t.Rows, r)
			continue
		case !r.Ran:
			was := t.Rows[i]
			was.Controls = mergeControls(was.Controls, r.Controls)
			t.Rows[i] = was
			continue
		}
		r.Controls = mergeControls(t.Rows[i].Controls, r.Controls)
		t.Rows[i] = r
	}
	sortRows(t.Rows)
}

// sortRows puts rows in the order of the list of bugs.
func sortRows(rows []trackRow) {
	order := map[string]int{}
	for i, b := range scenarios.TrackRecord() {
		order[b.ID] = i
	}
	slices.SortStableFunc(rows, func(a, b trackRow) int { return order[a.Bug] - order[b.Bug] })
}

func mergeControls(old, now []trackControl) []trackControl {
	out := slices.Clone(old)
	for _, c := range now {
		if i := slices.IndexFunc(out, func(o trackControl) bool { return o.Version == c.Version }); i >= 0 {
			out[i] = c
		} else {
			out = append(out, c)
		}
	}
	return out
}

// write puts both files in place, each in one step.
func (t trackTable) write(dir string) error {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the table: %w", err)
	}
	return errors.Join(replaceFile(filepath.Join(dir, trackJSON), append(b, '\n')), replaceFile(filepath.Join(dir, trackMarkdown), []byte(t.document())))
}

func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

func (t trackTable) document() string {
	var b strings.Builder
	b.WriteString("# Track record\n\nPublished bugs of nats-server, caught again by this harness: three nodes, R3. Written by `chaos track-record` from what it saw.\n\n")
	b.WriteString(t.markdown())
	return b.String()
}

// markdown is the table alone.
func (t trackTable) markdown() string {
	var b strings.Builder
	b.WriteString("| bug | release | command | verdict | claim | counts | witness | controls | last run |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range t.Rows {
		fmt.Fprintf(&b, "| %s: %s (%s) | %s | `%s` | %s | %s | %s | %s | %s | %s |\n", cell1(r.Bug), cell1(r.Title), cell1(r.Source), r.Version, r.command(), cell1(r.verdict()), cell1(r.claim()),
			cell1(figureWords(r.Figures)), cell1(r.Witness), cell1(controlWords(r.Controls)), lastRun(r.Date, r.Seed, r.Seconds))
	}
	return b.String()
}

// verdict says how often the bug showed, or that it did not and what was seen instead.
func (r trackRow) verdict() string {
	switch {
	case !r.Ran:
		return "not run"
	case r.Showing == scenarios.Reproduced:
		return fmt.Sprintf("**%s** (%d of %d runs)%s", r.Showing, r.Shown, r.Runs, noted(r.Note))
	}
	return fmt.Sprintf("not reproduced (0 of %d runs): %s%s", r.Runs, r.Reason, noted(r.Note))
}

func noted(note string) string {
	if note == "" {
		return ""
	}
	return "; " + note
}

func (r trackRow) claim() string {
	if r.Code == "" {
		return "-"
	}
	return fmt.Sprintf("%s (%s): %s", r.Claim, r.Code, r.Reason)
}

func controlWords(cs []trackControl) string {
	var ws []string
	for _, c := range cs {
		w := fmt.Sprintf("%s: %s (%.0f s)", c.Version, c.Showing, c.Seconds)
		if c.Showing != scenarios.Clean {
			w += ": " + c.Reason
		}
		ws = append(ws, w)
	}
	if len(ws) == 0 {
		return "none"
	}
	return strings.Join(ws, "; ")
}

func lastRun(at time.Time, seed uint64, seconds float64) string {
	if at.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s, seed %d, %.0f s", at.UTC().Format(time.DateOnly), seed, seconds)
}

// cell1 keeps a text within one cell.
func cell1(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s)
}
