package reports

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/klauspost/compress/zstd"

	"github.com/unibus/unibus/reports/history"
)

// Names of the files of a bundle. Snapshots are JSON below snapshots/, the nodes' logs are below logs/.
const (
	HistoryFile  = "history.jsonl.zst"
	EventsFile   = "events.jsonl"
	EvidenceFile = "evidence.json"
	ManifestFile = "MANIFEST"
	ProofFile    = "proof.json"
	ReportFile   = "report.html"
	JUnitFile    = "junit.xml"

	snapshotDir = "snapshots"
	logDir      = "logs"
)

// ErrNotEmpty is wrapped by Create: a bundle is never written over another one.
var ErrNotEmpty = errors.New("the folder holds something already")

// snapshotName keeps snapshot names portable, and inside their folder.
var snapshotName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,120}$`)

// Bundle is the folder of one run of one scenario while it is written.
//
//	Create -> record, snapshots, logs -> Seal -> Judge -> Finish -> Verify (by anybody, any time)
//
// Seal ends the evidence: nothing below it changes afterwards, whatever the verdict.
type Bundle struct {
	dir    string
	file   *os.File
	zw     *zstd.Encoder
	rec    *history.Recorder
	sealed bool
	closed bool
}

// Create makes dir, which must be new or empty, and opens the record in it.
func Create(dir string) (*Bundle, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create bundle: %w", err)
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("create bundle: %w", err)
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("create bundle: %w: %s", ErrNotEmpty, dir)
	}
	for _, d := range []string{snapshotDir, logDir} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("create bundle: %w", err)
		}
	}
	b := &Bundle{dir: dir}
	if err := b.openRecord(); err != nil {
		return nil, fmt.Errorf("create bundle: %w", err)
	}
	return b, nil
}

func (b *Bundle) openRecord() error {
	f, err := os.OpenFile(filepath.Join(b.dir, HistoryFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	// One core and the fast level: compression must not take time from the cluster under test.
	zw, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	rec, err := history.NewRecorder(zw)
	if err != nil {
		return errors.Join(err, zw.Close(), f.Close())
	}
	b.file, b.zw, b.rec = f, zw, rec
	return nil
}

// Dir is the bundle's folder.
func (b *Bundle) Dir() string { return b.dir }

// Recorder writes the bundle's record.
func (b *Bundle) Recorder() *history.Recorder { return b.rec }

// LogDir is the folder for the nodes' logs. Everything in it at the time of Seal belongs to the bundle.
func (b *Bundle) LogDir() string { return filepath.Join(b.dir, logDir) }

// SaveSnapshot writes v as snapshots/NAME.json.
func (b *Bundle) SaveSnapshot(name string, v any) error {
	if b.sealed {
		return errors.New("save snapshot: the bundle is sealed")
	}
	if !snapshotName.MatchString(name) {
		return fmt.Errorf("save snapshot: %q is not a plain file name", name)
	}
	if err := writeJSON(filepath.Join(b.dir, snapshotDir, name+".json"), v); err != nil {
		return fmt.Errorf("save snapshot %s: %w", name, err)
	}
	return nil
}

// Seal ends the evidence: it closes the record, reads it back, and writes events.jsonl, evidence.json and the manifest. A record
// that could not be written or read back becomes one of the evidence's errors, and is returned too: what there is, is kept.
func (b *Bundle) Seal(ev Evidence) error {
	if b.sealed {
		return errors.New("seal bundle: it is sealed already")
	}
	b.sealed = true
	trouble := b.closeRecord()
	if trouble == nil {
		trouble = b.deriveEvents(&ev)
	}
	if trouble != nil {
		ev.Errors = append(ev.Errors, "The record is damaged: "+trouble.Error())
	}
	ev.Format = EvidenceFormat
	if err := writeJSON(filepath.Join(b.dir, EvidenceFile), ev); err != nil {
		return fmt.Errorf("seal bundle: %w", errors.Join(err, trouble))
	}
	m, err := hashTree(b.dir)
	if err == nil {
		err = m.write(b.dir)
	}
	if err = errors.Join(err, trouble); err != nil {
		return fmt.Errorf("seal bundle: %w", err)
	}
	return nil
}

// closeRecord closes all three layers whatever goes wrong in one of them.
func (b *Bundle) closeRecord() error {
	if b.closed {
		return nil
	}
	b.closed = true
	err := errors.Join(b.rec.Close(), b.zw.Close(), b.file.Sync(), b.file.Close())
	if err != nil {
		return fmt.Errorf("close the record: %w", err)
	}
	return nil
}

// deriveEvents writes events.jsonl from the record as it is on disk. A scenario that did not run has neither.
func (b *Bundle) deriveEvents(ev *Evidence) error {
	h, _, err := readHistory(b.dir, maxHistoryBytes)
	if err != nil {
		return err
	}
	if ev.NotRun != "" && isEmpty(h) {
		return os.Remove(filepath.Join(b.dir, HistoryFile))
	}
	return writeFile(filepath.Join(b.dir, EventsFile), eventLines(h))
}

func isEmpty(h *history.History) bool {
	return len(h.Ops)+len(h.Items)+len(h.Drains)+len(h.Deliveries)+len(h.Health)+len(h.Replicas)+len(h.Conns)+len(h.Events) == 0
}

// Abort closes the record of a bundle that will not be sealed. The folder stays as it is.
func (b *Bundle) Abort() error {
	if b.sealed {
		return nil
	}
	b.sealed = true
	return b.closeRecord()
}

// writeJSON writes v for people to read, in one step: a reader sees the old file or the new one.
func writeJSON(path string, v any) error {
	buf, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return writeFile(path, buf)
}

// encodeJSON is the one form in which bundles hold JSON.
func encodeJSON(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return append(b, '\n'), nil
}

func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".writing-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
