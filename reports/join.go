package reports

import (
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

// Join verifies every bundle of every part (a folder with the index of a sharded run), and holds the parts against each other: the same plan,
// seed, and binary; every planned scenario exactly once.
func Join(parts []string) (Whole, error) {
	var w Whole
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
	return w, errors.Join(errs...)
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

func (w *Whole) takePart(part string, x Index, at map[string]string) error {
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
		errs = append(errs, w.takeBundle(dir, at))
	}
	return errors.Join(errs...)
}

func (w *Whole) takeBundle(dir string, at map[string]string) error {
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
	case ev.Variant == "" && w.Subject != "" && w.Subject != ev.Subject.Digest:
		return fmt.Errorf("%w: %s speaks of subject %s, another part of %s", ErrParts, dir, ev.Subject.Digest, w.Subject)
	}
	if ev.Variant == "" {
		w.Subject = ev.Subject.Digest
	}
	at[ev.Scenario] = dir
	return nil
}
