package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/unibus/unibus/sut/cluster"
)

// errNoOverride means that the files belong to another user.
var errNoOverride = &Error{Code: CodeUnsupported, Text: "the agent may not touch the daemon's files: it lacks the capability DAC_OVERRIDE"}

// storage is the node's data directory. Everything goes through an os.Root, which follows no link out of it.
type storage struct{ dir string }

// open refuses what cannot be meant: a missing setting, the root directory, a symbolic link.
func (s storage) open() (*os.Root, error) {
	if !filepath.IsAbs(s.dir) || filepath.Clean(s.dir) == "/" {
		return nil, badRequest("the agent has no usable data directory (%q)", s.dir)
	}
	info, err := os.Lstat(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if !info.IsDir() {
		return nil, badRequest("the data directory %s is not a directory", s.dir)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	return root, nil
}

func (s storage) usage() (cluster.Usage, error) {
	root, err := s.open()
	if err != nil {
		return cluster.Usage{}, err
	}
	defer func() { _ = root.Close() }() // read-only
	return measure(root)
}

// measure counts regular files. A running daemon removes files meanwhile: those do not count.
func measure(root *os.Root) (cluster.Usage, error) {
	var u cluster.Usage
	err := fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		u.Files++
		u.Bytes += info.Size()
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("measure data directory: %w", permitted(err))
	}
	return u, nil
}

// wipe removes the contents and returns what was there.
func (s storage) wipe() (cluster.Usage, error) {
	root, err := s.open()
	if err != nil {
		return cluster.Usage{}, err
	}
	defer func() { _ = root.Close() }() // the removals have their own errors
	before, err := measure(root)
	if err != nil {
		return before, err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return before, fmt.Errorf("wipe data directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, root.RemoveAll(e.Name()))
	}
	if err := errors.Join(errs...); err != nil {
		return before, fmt.Errorf("wipe data directory: %w", permitted(err))
	}
	return before, nil
}

// permitted names the capability that a refused access needs.
func permitted(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (%w)", errNoOverride, err)
	}
	return err
}
