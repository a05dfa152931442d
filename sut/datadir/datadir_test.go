package datadir_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

// dir is a data directory with one file of 100 bytes, 0 to 99.
func dir(t *testing.T) *os.Root {
	t.Helper()
	path := t.TempDir()
	content := make([]byte, 100)
	for i := range content {
		content[i] = byte(i)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(path, "a", "b"), 0o755), os.WriteFile(filepath.Join(path, "a", "b", "1.blk"), content, 0o600),
		os.Symlink("/etc/hostname", filepath.Join(path, "link"))); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

const file = "a/b/1.blk"

func TestFilesAreThoseThatAreRegular(t *testing.T) {
	found, err := datadir.Files(dir(t))
	if err != nil || len(found) != 1 || found[0].Path != file || found[0].Size != 100 || found[0].Modified.IsZero() {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestRead(t *testing.T) {
	root := dir(t)
	for _, tc := range []struct {
		offset int64
		n      int
		want   []byte
	}{{0, 3, []byte{0, 1, 2}}, {98, 10, []byte{98, 99}}, {100, 10, nil}, {500, 1, nil}} {
		if got, err := datadir.Read(root, file, tc.offset, tc.n); err != nil || !bytes.Equal(got, tc.want) {
			t.Errorf("%d bytes at %d: %v, %v", tc.n, tc.offset, got, err)
		}
	}
	for _, bad := range []struct {
		offset int64
		n      int
	}{{-1, 1}, {0, 0}, {0, datadir.MaxChunk + 1}} {
		if _, err := datadir.Read(root, file, bad.offset, bad.n); !errors.Is(err, datadir.ErrBadEdit) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := datadir.Read(root, "../outside", 0, 1); err == nil {
		t.Error("it reads outside of the directory")
	}
}

// TestApplySaysWhatItDid: the record has offset and bytes before and after, and the file is as the record says.
func TestApplySaysWhatItDid(t *testing.T) {
	for _, tc := range []struct {
		edit        cluster.Edit
		after       []byte
		sizeAfter   int64
		beforeFirst byte
	}{
		{cluster.Edit{Path: file, Kind: cluster.EditWrite, Offset: 10, Data: []byte{0xff}}, []byte{0xff, 11}, 100, 10},
		{cluster.Edit{Path: file, Kind: cluster.EditWrite, Offset: 99, Data: []byte{1, 2, 3}}, []byte{1}, 102, 99},
		{cluster.Edit{Path: file, Kind: cluster.EditTruncate, Offset: 40}, nil, 40, 40},
		{cluster.Edit{Path: file, Kind: cluster.EditRemove}, nil, -1, 0},
	} {
		root := dir(t)
		done, err := datadir.Apply(root, tc.edit)
		if err != nil || done.SizeBefore != 100 || done.SizeAfter != tc.sizeAfter || done.Before[0] != tc.beforeFirst || !bytes.HasPrefix(done.After, tc.after) {
			t.Errorf("%+v: %+v, %v", tc.edit, done, err)
		}
		info, err := root.Stat(file)
		if tc.sizeAfter < 0 && !errors.Is(err, fs.ErrNotExist) || tc.sizeAfter >= 0 && (err != nil || info.Size() != tc.sizeAfter) {
			t.Errorf("%+v: the file is %v, %v", tc.edit, info, err)
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	root := dir(t)
	for name, tc := range map[string]struct {
		edit cluster.Edit
		want error
	}{
		"the same bytes":    {cluster.Edit{Path: file, Kind: cluster.EditWrite, Offset: 10, Data: []byte{10, 11}}, datadir.ErrNoChange},
		"the same size":     {cluster.Edit{Path: file, Kind: cluster.EditTruncate, Offset: 100}, datadir.ErrNoChange},
		"behind the end":    {cluster.Edit{Path: file, Kind: cluster.EditTruncate, Offset: 101}, datadir.ErrBadEdit},
		"before the start":  {cluster.Edit{Path: file, Kind: cluster.EditWrite, Offset: -1, Data: []byte{1}}, datadir.ErrBadEdit},
		"nothing to write":  {cluster.Edit{Path: file, Kind: cluster.EditWrite, Offset: 1}, datadir.ErrBadEdit},
		"too much to write": {cluster.Edit{Path: file, Kind: cluster.EditWrite, Data: make([]byte, datadir.MaxChunk+1)}, datadir.ErrBadEdit},
		"an unknown kind":   {cluster.Edit{Path: file, Kind: "melt", Offset: 1}, datadir.ErrBadEdit},
		"a directory":       {cluster.Edit{Path: "a/b", Kind: cluster.EditRemove}, datadir.ErrBadEdit},
		"a link":            {cluster.Edit{Path: "link", Kind: cluster.EditTruncate}, datadir.ErrBadEdit},
		"no such file":      {cluster.Edit{Path: "a/b/2.blk", Kind: cluster.EditRemove}, fs.ErrNotExist},
	} {
		if _, err := datadir.Apply(root, tc.edit); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, err := datadir.Apply(root, cluster.Edit{Path: "../x", Kind: cluster.EditRemove}); err == nil {
		t.Error("it damages files outside of the directory")
	}
	if b, err := datadir.Read(root, file, 0, 100); err != nil || len(b) != 100 || b[10] != 10 {
		t.Errorf("a refused edit changed the file: %v, %v", b, err)
	}
}
