// Package datadir reads and damages single files of a node's data directory, for backends and for the fault agent beside a node.
// Every access goes through an os.Root, which follows no link out of the directory. Standard library only.
package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/unibus/unibus/sut/cluster"
)

// MaxChunk bounds what is read or written in one call, in bytes.
const MaxChunk = 32 << 10

// shown is how many bytes around an edit are kept for the record.
const shown = 32

// Errors that callers test for.
var (
	ErrBadEdit  = errors.New("the edit makes no sense")
	ErrNoChange = errors.New("the edit would change nothing")
)

// Files lists the regular files below root, by path. What a running daemon removes meanwhile is passed over.
func Files(root *os.Root) ([]cluster.FileInfo, error) {
	var out []cluster.FileInfo
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			out = append(out, cluster.FileInfo{Path: path, Size: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	return out, nil
}

// Read returns up to n bytes of a file from offset on: fewer where it ends, none behind its end.
func Read(root *os.Root, path string, offset int64, n int) ([]byte, error) {
	if n < 1 || n > MaxChunk || offset < 0 {
		return nil, fmt.Errorf("read %s: %w: %d bytes from %d on", path, ErrBadEdit, n, offset)
	}
	f, err := root.Open(filepath.FromSlash(path))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	return readAt(f, path, offset, n)
}

func readAt(f *os.File, path string, offset int64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := f.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b[:got], nil
}

// Apply makes one edit and reports the bytes at its place before and after. One that would change nothing is refused with ErrNoChange:
// a damage that is none must not be taken for one.
func Apply(root *os.Root, e cluster.Edit) (cluster.Edited, error) {
	out := cluster.Edited{Path: e.Path, Kind: e.Kind, Offset: e.Offset, SizeAfter: -1}
	name := filepath.FromSlash(e.Path)
	info, err := root.Lstat(name)
	if err != nil {
		return out, fmt.Errorf("edit %s: %w", e.Path, err)
	}
	if !info.Mode().IsRegular() || e.Offset < 0 || e.Kind != cluster.EditRemove && e.Offset > info.Size() {
		return out, fmt.Errorf("edit %s (%d bytes) at %d: %w", e.Path, info.Size(), e.Offset, ErrBadEdit)
	}
	out.SizeBefore = info.Size()
	if out.Before, err = Read(root, e.Path, e.Offset, max(shown, min(len(e.Data), MaxChunk))); err != nil {
		return out, err
	}
	if err := change(root, name, e, out); err != nil {
		return out, fmt.Errorf("edit %s: %w", e.Path, err)
	}
	if e.Kind == cluster.EditRemove {
		return out, nil
	}
	if info, err = root.Lstat(name); err != nil {
		return out, fmt.Errorf("look at %s after the edit: %w", e.Path, err)
	}
	out.SizeAfter = info.Size()
	out.After, err = Read(root, e.Path, e.Offset, len(out.Before)+1)
	out.After = out.After[:min(len(out.After), len(out.Before))]
	return out, err
}

// change does it.
func change(root *os.Root, name string, e cluster.Edit, was cluster.Edited) error {
	if e.Kind == cluster.EditRemove {
		return root.Remove(name)
	}
	switch {
	case e.Kind == cluster.EditWrite && (len(e.Data) == 0 || len(e.Data) > MaxChunk):
		return fmt.Errorf("%w: %d bytes to write", ErrBadEdit, len(e.Data))
	case e.Kind == cluster.EditWrite && bytes.Equal(e.Data, was.Before[:min(len(e.Data), len(was.Before))]),
		e.Kind == cluster.EditTruncate && e.Offset == was.SizeBefore:
		return ErrNoChange
	}
	f, err := root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	switch e.Kind {
	case cluster.EditWrite:
		_, err = f.WriteAt(e.Data, e.Offset)
	case cluster.EditTruncate:
		err = f.Truncate(e.Offset)
	default:
		err = fmt.Errorf("%w: kind %q", ErrBadEdit, e.Kind)
	}
	return errors.Join(err, f.Close())
}
