package process

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

var _ cluster.Editable = (*node)(nil)

// Files implements cluster.Editable.
func (n *node) Files(context.Context) (fs []cluster.FileInfo, err error) {
	err = n.inData("list files", func(r *os.Root) (err error) {
		fs, err = datadir.Files(r)
		return err
	})
	return fs, err
}

// ReadFile implements cluster.Editable.
func (n *node) ReadFile(_ context.Context, path string, offset int64, bytes int) (b []byte, err error) {
	err = n.inData("read file", func(r *os.Root) (err error) {
		b, err = datadir.Read(r, path, offset, bytes)
		return err
	})
	return b, err
}

// Edit implements cluster.Editable. It holds the node's lock: no daemon can be started meanwhile.
func (n *node) Edit(_ context.Context, e cluster.Edit) (done cluster.Edited, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last.running() {
		return done, fmt.Errorf("edit a file of %s: %w", n.id, cluster.ErrRunning)
	}
	err = n.inData("edit a file", func(r *os.Root) (err error) {
		done, err = datadir.Apply(r, e)
		return err
	})
	return done, err
}

func (n *node) inData(what string, f func(*os.Root) error) error {
	root, err := os.OpenRoot(n.dataDir())
	if err == nil {
		err = errors.Join(f(root), root.Close())
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", what, n.id, err)
	}
	return nil
}
