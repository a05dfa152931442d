package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	snapshotFile  = "snapshot"
	journalPrefix = "journal."
	confirmedFile = "confirmed"
	storeDirMode  = 0o700
	storeFileMode = 0o600

	// A journal with so many records, or a quarter of the users if that is more, is folded into a new snapshot.
	compactRecords = 8192
)

// Store keeps the index on disk: a snapshot, and a journal of what was applied since. What Append has returned for is there after a crash.
//
//	snapshot (generation 7) <- journal.7 <- appended records
//	Save: snapshot (generation 8) written aside, renamed; journal.8 begins; journal.7 removed
//
// A Store is used by one goroutine at a time.
type Store struct {
	dir        string
	generation uint64
	lineage    Lineage
	journal    *os.File
	records    int
}

// NewStore keeps the index in that directory, which is made when there is something to write.
func NewStore(dir string) *Store { return &Store{dir: dir} }

// Lineage is that of what was last loaded or saved.
func (s *Store) Lineage() Lineage { return s.lineage }

// Load returns the index that was kept, or an empty one if there is none. With an error nothing was used; the files that are damaged are
// set aside, so that the next Save starts anew.
func (s *Store) Load() (*Index, error) {
	x, err := s.load()
	if errors.Is(err, fs.ErrNotExist) {
		return NewIndex(), nil
	}
	if err == nil {
		return x, nil
	}
	aside := s.dir + ".damaged-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if e := os.Rename(s.dir, aside); e != nil {
		return nil, errors.Join(err, e)
	}
	s.close()
	s.generation, s.lineage = 0, Lineage{}
	return NewIndex(), fmt.Errorf("%w; it is kept in %s", err, aside)
}

func (s *Store) load() (*Index, error) {
	f, err := os.Open(filepath.Join(s.dir, snapshotFile))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	x, h, err := ReadSnapshot(f)
	if err != nil {
		return nil, err
	}
	path := s.journalPath(h.Generation)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	records, good, err := parseJournal(text)
	if err != nil {
		return nil, err
	}
	x.Apply(records...)
	if good < len(text) {
		if err := os.Truncate(path, int64(good)); err != nil {
			return nil, fmt.Errorf("cut off the journal's torn end: %w", err)
		}
	}
	s.generation, s.lineage, s.records = h.Generation, h.Lineage, len(records)
	return x, nil
}

func (s *Store) journalPath(generation uint64) string {
	return filepath.Join(s.dir, journalPrefix+strconv.FormatUint(generation, 10))
}

// Ready says whether Append can be called: something was loaded, or saved.
func (s *Store) Ready() bool { return s.generation > 0 }

// Append makes records durable. Those that the snapshot has, too, do no harm. After an error nothing more can be appended until the next Save.
func (s *Store) Append(records []Record) error {
	if s.generation == 0 {
		return errors.New("append to the journal: there is no snapshot yet")
	}
	if s.journal == nil {
		f, err := os.OpenFile(s.journalPath(s.generation), os.O_CREATE|os.O_WRONLY|os.O_APPEND, storeFileMode)
		if err != nil {
			return fmt.Errorf("open the journal: %w", err)
		}
		if err := syncPath(s.dir); err != nil {
			return errors.Join(fmt.Errorf("open the journal: %w", err), f.Close())
		}
		s.journal = f
	}
	var buf []byte
	for _, r := range records {
		buf = appendJournal(buf, r)
	}
	_, err := s.journal.Write(buf)
	if err == nil {
		err = s.journal.Sync()
	}
	if err != nil {
		s.close()
		s.generation = 0 // nothing may follow what was perhaps half written
		return fmt.Errorf("append to the journal: %w", err)
	}
	s.records += len(records)
	return nil
}

// WantsSave says whether the journal has grown so long that a new snapshot is worth its cost.
func (s *Store) WantsSave(x *Index) bool {
	return s.records > compactRecords && s.records > x.Stats().Users/4
}

// Save writes a new snapshot, with an empty journal.
func (s *Store) Save(x *Index, lineage Lineage) error {
	if err := os.MkdirAll(s.dir, storeDirMode); err != nil {
		return fmt.Errorf("save the index: %w", err)
	}
	next := s.nextGeneration()
	err := replaceFile(filepath.Join(s.dir, snapshotFile), func(f *os.File) error {
		return x.WriteSnapshot(f, Header{Generation: next, Lineage: lineage})
	})
	if err != nil {
		return fmt.Errorf("save the index: %w", err)
	}
	s.close()
	s.generation, s.lineage, s.records = next, lineage, 0
	s.removeOldJournals()
	return nil
}

// nextGeneration is one that no journal has, whatever became of the snapshot that began it.
func (s *Store) nextGeneration() uint64 {
	next := s.generation + 1
	for _, g := range s.journals() {
		next = max(next, g+1)
	}
	return next
}

func (s *Store) journals() []uint64 {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil // there is nothing that a new one could be taken for
	}
	var all []uint64
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), journalPrefix)
		if n, err := strconv.ParseUint(text, 10, 63); ok && err == nil {
			all = append(all, n)
		}
	}
	return all
}

func (s *Store) removeOldJournals() {
	for _, g := range s.journals() {
		if g != s.generation {
			_ = os.Remove(s.journalPath(g)) // it is never read again, wherever it is
		}
	}
}

// Close ends the use of the journal.
func (s *Store) Close() { s.close() }

func (s *Store) close() {
	if s.journal != nil {
		_ = s.journal.Close() // everything that counts is flushed
		s.journal = nil
	}
}

// Confirm notes when the index was last known to be that of the cluster.
func (s *Store) Confirm(at time.Time) error {
	return replaceFile(filepath.Join(s.dir, confirmedFile), func(f *os.File) error {
		_, err := f.WriteString(at.UTC().Format(time.RFC3339Nano) + "\n")
		return err
	})
}

// Confirmed returns that moment, or the zero time if it is not known.
func (s *Store) Confirmed() time.Time {
	b, err := os.ReadFile(filepath.Join(s.dir, confirmedFile))
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}
	}
	return t
}

// replaceFile writes a file completely or not at all.
func replaceFile(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
