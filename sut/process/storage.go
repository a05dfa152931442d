package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// Usage counts what is in the data directory.
func (n *node) Usage(ctx context.Context) (cluster.Usage, error) {
	var u cluster.Usage
	err := n.eachFile(ctx, func(_ string, info fs.FileInfo) error {
		u.Files++
		u.Bytes += info.Size()
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("measure data of %s: %w", n.id, err)
	}
	return u, nil
}

// Wipe holds the node's lock: no daemon can be started on half a directory.
func (n *node) Wipe(ctx context.Context) (cluster.Usage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last.running() {
		return cluster.Usage{}, fmt.Errorf("wipe %s: %w", n.id, cluster.ErrRunning)
	}
	before, err := n.Usage(ctx)
	if err != nil {
		return before, err
	}
	entries, err := os.ReadDir(n.dataDir())
	if err != nil {
		return before, fmt.Errorf("wipe %s: %w", n.id, err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(n.dataDir(), e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return before, fmt.Errorf("wipe %s: %w", n.id, err)
	}
	return before, nil
}

// CopyStore leaves secrets out.
func (n *node) CopyStore(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("copy store of %s: %w", n.id, err)
	}
	err := n.eachFile(ctx, func(rel string, _ fs.FileInfo) error {
		if subject.Secret(rel) {
			return nil
		}
		return copyFile(filepath.Join(n.dataDir(), rel), filepath.Join(dir, rel))
	})
	if err != nil {
		return fmt.Errorf("copy store of %s: %w", n.id, err)
	}
	return nil
}

// eachFile visits regular files. A running daemon removes files meanwhile: those are passed over.
func (n *node) eachFile(ctx context.Context, visit func(rel string, info fs.FileInfo) error) error {
	root := n.dataDir()
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if gone(err) && path != root {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := visit(rel, info); !gone(err) {
			return err
		}
		return nil
	})
}

func (n *node) collect(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := copyFile(n.logPath(), filepath.Join(dir, logName)); !gone(err) {
		return err
	}
	return os.WriteFile(filepath.Join(dir, logName), nil, 0o644) // never started: an empty log says so
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
