package secret_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/unibus/unibus/sut/secret"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte, mode fs.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", []byte(" word \n"), 0o600)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{good, link, file("read-only", []byte("word"), 0o400)} {
		if b, err := secret.Read(path); err != nil || string(b) != "word" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666} {
		if b, err := secret.Read(file("exposed", []byte("word"), mode)); !errors.Is(err, secret.ErrExposed) || b != nil {
			t.Errorf("mode %04o: %q, %v; want %v", mode, b, err, secret.ErrExposed)
		}
	}
	for name, path := range map[string]string{"a directory": dir, "a large file": file("large", bytes.Repeat([]byte("x"), 1<<20+1), 0o600)} {
		if b, err := secret.Read(path); err == nil || b != nil {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if _, err := secret.Read(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
