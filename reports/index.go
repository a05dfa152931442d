package reports

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Files of an index, and their format.
const (
	IndexJSON   = "index.json"
	IndexHTML   = "index.html"
	IndexFormat = "unibus-index/1"
)

// RunInfo is what the harness knows of a whole run over several scenarios.
type RunInfo struct {
	ID      string    `json:"run"`
	Command string    `json:"command"`
	Seed    uint64    `json:"seed"`
	Backend string    `json:"backend"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	LeftOut []string  `json:"left_out,omitempty"` // what this machine cannot do, one sentence each
	Shard   string    `json:"shard,omitempty"`    // "2/4" for a part of a run
	Planned []string  `json:"planned,omitempty"`  // scenarios of the whole run, sorted
}

// IndexEntry is one bundle of an index. It is for people: a gate verifies the bundles themselves.
type IndexEntry struct {
	Dir     string  `json:"dir"` // below the index
	Status  Status  `json:"status"`
	Why     string  `json:"why"`
	Title   string  `json:"title"`
	Family  string  `json:"family,omitempty"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"`
	Ops     int     `json:"ops"`
	Command string  `json:"command,omitempty"`
	Digest  string  `json:"evidence_digest,omitempty"`
	Proof   *Proof  `json:"-"`
}

// Index is index.json.
type Index struct {
	Format  string       `json:"format"`
	Info    RunInfo      `json:"run"`
	Summary string       `json:"summary"`
	Bundles []IndexEntry `json:"bundles"`
}

// WriteIndex writes index.json and index.html over all bundles below out. A bundle without a readable proof is listed as Inconclusive.
func WriteIndex(out string, info RunInfo) error {
	x, err := readIndex(out, info)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	page, err := indexHTML(x)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	err = errors.Join(writeJSON(filepath.Join(out, IndexJSON), x), writeFile(filepath.Join(out, IndexHTML), page))
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

func readIndex(out string, info RunInfo) (Index, error) {
	dirs, err := Bundles(out)
	if err != nil {
		return Index{}, err
	}
	x := Index{Format: IndexFormat, Info: info, Bundles: []IndexEntry{}}
	var ps []Proof
	for _, d := range dirs {
		e := entry(d)
		x.Bundles = append(x.Bundles, e)
		ps = append(ps, Proof{Status: e.Status})
	}
	x.Summary = Summary(ps)
	return x, nil
}

func entry(dir string) IndexEntry {
	e := IndexEntry{Dir: filepath.Base(dir), Title: filepath.Base(dir), Status: StatusInconclusive}
	p, err := ReadProof(dir)
	if err != nil {
		e.Why = "No proof can be read here: " + err.Error()
		return e
	}
	ev := p.Evidence
	e.Proof, e.Status, e.Why, e.Title, e.Family = &p, p.Status, p.Why, title(ev), ev.Family
	e.Seed, e.Seconds, e.Ops, e.Command, e.Digest = ev.Seed, ev.Seconds, p.Ops, ev.Command, p.EvidenceDigest
	return e
}

// Bundles lists the folders directly below out that are bundles, in order.
func Bundles(out string) ([]string, error) {
	ds, err := os.ReadDir(out)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var dirs []string
	for _, d := range ds {
		if full := filepath.Join(out, d.Name()); d.IsDir() && IsBundle(full) {
			dirs = append(dirs, full)
		}
	}
	return dirs, nil
}

// Listed names the bundles in out's index; without an index there are none.
func Listed(out string) ([]string, error) {
	b, err := readSmall(out, IndexJSON)
	if errors.Is(err, ErrIncomplete) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	var x Index
	if err := strictJSON(b, &x); err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	var names []string
	for _, e := range x.Bundles {
		if e.Dir != filepath.Base(e.Dir) || e.Dir == "." || e.Dir == ".." {
			return nil, fmt.Errorf("read index: %q is not a folder beside it", e.Dir)
		}
		names = append(names, e.Dir)
	}
	return names, nil
}
