package reports

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// ErrParts is wrapped by Join: the parts do not make up one whole run.
var ErrParts = errors.New("the parts do not make up one run")

// Whole is a run that was done in parts, on several machines.
type Whole struct {
	Info    RunInfo
	Bundles []string // folders, in the order of their names
	Subject string   // digest that all bundles about the subject itself speak of
}

// leftOver is what to do about a bundle that is not of the run that it lies with.
const leftOver = "it was left over from another run, or is of a part that was run differently: remove it, run that part again into an empty folder, and merge once more"

// nothing is what is printed for a word that a bundle does not say.
const nothing = "(none)"

// joining is a Whole that is being put together.
type joining struct {
	Whole

	ownSync func(scenario string) bool
	harness seenFirst // digest of the harness
	sync    seenFirst // sync policy of the subject
}

// seenFirst is what all bundles must say, and the one that said it first.
type seenFirst struct{ value, dir string }

// differs notes the first value, and tells whether a later one is another.
func (f *seenFirst) differs(value, dir string) bool {
	if f.dir == "" {
		f.value, f.dir = value, dir
	}
	return value != f.value
}

// Join verifies every bundle of every part (a folder with the index of a sharded run), and holds the parts against each other: the same plan, seed, harness,
// binary and sync policy; every planned scenario exactly once. ownSync tells which scenarios set the sync policy themselves, whatever the run's is.
func Join(parts []string, ownSync func(scenario string) bool) (Whole, error) {
	w := joining{ownSync: ownSync}
	at := map[string]string{} // scenario -> folder
	var errs []error
	for i, part := range parts {
		x, err := loadIndex(part)
		if err != nil {
			return Whole{}, err
		}
		if i == 0 {
			w.Info = x.Info
		}
		errs = append(errs, w.takePart(part, x, at))
	}
	for _, name := range w.Info.Planned {
		if at[name] == "" {
			errs = append(errs, fmt.Errorf("%w: %s is in none of them", ErrParts, name))
		}
	}
	w.Bundles = slices.SortedFunc(maps.Values(at), func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	w.Info.Shard = ""
	return w.Whole, errors.Join(errs...)
}

func loadIndex(part string) (Index, error) {
	b, err := readSmall(part, IndexJSON)
	if err != nil {
		return Index{}, fmt.Errorf("part %s: %w", part, err)
	}
	var x Index
	if err := strictJSON(b, &x); err != nil {
		return Index{}, fmt.Errorf("part %s: %w", part, err)
	}
	if len(x.Info.Planned) == 0 {
		return Index{}, fmt.Errorf("part %s: %w: its index does not say what was planned", part, ErrParts)
	}
	return x, nil
}

func (w *joining) takePart(part string, x Index, at map[string]string) error {
	switch {
	case !slices.Equal(x.Info.Planned, w.Info.Planned):
		return fmt.Errorf("%w: %s is part of another plan", ErrParts, part)
	case x.Info.Seed != w.Info.Seed:
		return fmt.Errorf("%w: %s has seed %d, the first part has %d", ErrParts, part, x.Info.Seed, w.Info.Seed)
	}
	w.Info.Seconds = max(w.Info.Seconds, x.Info.Seconds) // they ran side by side
	dirs, err := Bundles(part)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, w.takeBundle(dir, x.Info.ID, at))
	}
	return errors.Join(errs...)
}

// takeBundle takes a bundle of the part that the run with that id made.
func (w *joining) takeBundle(dir, run string, at map[string]string) error {
	rep, err := Verify(dir)
	if err != nil {
		return err
	}
	ev := rep.Proof.Evidence
	switch before := at[ev.Scenario]; {
	case filepath.Base(dir) != ev.Scenario:
		return fmt.Errorf("%w: %s holds the proof of %s", ErrParts, dir, ev.Scenario)
	case before != "":
		return fmt.Errorf("%w: %s is there twice, in %s and in %s", ErrParts, ev.Scenario, before, dir)
	case !slices.Contains(w.Info.Planned, ev.Scenario):
		return fmt.Errorf("%w: %s was not planned", ErrParts, dir)
	}
	at[ev.Scenario] = dir // also one that is refused below: it is there
	if err := w.sameRun(dir, run, ev); err != nil {
		return err
	}
	if ev.Variant == "" {
		w.Subject = ev.Subject.Digest
	}
	return nil
}

// sameRun refuses what another run has made, of which there may be bundles in the same folder.
func (w *joining) sameRun(dir, run string, ev Evidence) error {
	switch {
	case ev.Seed != w.Info.Seed:
		return fmt.Errorf("%w: %s has seed %d, the run has %d; %s", ErrParts, dir, ev.Seed, w.Info.Seed, leftOver)
	case ev.Run != "" && run != "" && ev.Run != run:
		return fmt.Errorf("%w: %s is of run %s, the index beside it of %s; %s", ErrParts, dir, ev.Run, run, leftOver)
	case w.harness.differs(ev.Harness.Digest, dir):
		return fmt.Errorf("%w: %s was made by harness %s, %s by %s; %s", ErrParts, dir, cmp.Or(ev.Harness.Digest, nothing), w.harness.dir, cmp.Or(w.harness.value, nothing), leftOver)
	case ev.Variant == "" && w.Subject != "" && w.Subject != ev.Subject.Digest:
		return fmt.Errorf("%w: %s speaks of subject %s, another part of %s; %s", ErrParts, dir, ev.Subject.Digest, w.Subject, leftOver)
	case ev.Variant == "" && !w.ownSync(ev.Scenario) && w.sync.differs(ev.Subject.Sync, dir):
		return fmt.Errorf("%w: in %s the subject ran with sync %s, in %s with %s; %s", ErrParts, dir, cmp.Or(ev.Subject.Sync, nothing), w.sync.dir, cmp.Or(w.sync.value, nothing), leftOver)
	}
	return nil
}
