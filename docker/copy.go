package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/moby/client"

	"github.com/unibus/unibus/sut/subject"
)

// CopyStore implements cluster.Storage: the engine reads a stopped container's volume too.
func (p *pod) CopyStore(ctx context.Context, dir string) error {
	r, err := p.c.b.cli.CopyFromContainer(ctx, p.daemon(), client.CopyFromContainerOptions{SourcePath: dataDir})
	if err != nil {
		return fmt.Errorf("copy store of %s: %w", p.id, err)
	}
	err = untar(r.Content, dir)
	if err := errors.Join(err, r.Content.Close()); err != nil {
		return fmt.Errorf("copy store of %s: %w", p.id, err)
	}
	return nil
}

// untar writes regular files below dir, without the archive's first path element. Names that lead out of dir are refused.
func untar(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // only a handle
	src := &ending{r: r}
	t := tar.NewReader(src)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) && src.ended {
			return errors.New("the archive ends in the middle")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, rel, ok := strings.Cut(path.Clean(h.Name), "/")
		if !ok || h.Typeflag != tar.TypeReg || subject.Secret(rel) {
			continue
		}
		if err := writeFile(root, filepath.FromSlash(rel), t); err != nil {
			return err
		}
	}
}

// ending notices that a reader is asked for more than there is. An archive that is whole says itself where it ends; one that is not looks
// whole to the tar package when it breaks off between two files, and files that are missing here would count as lost by the node.
type ending struct {
	r     io.Reader
	ended bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next read says it again
	}
	e.ended = e.ended || n == 0 && errors.Is(err, io.EOF)
	return n, err
}

func writeFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
