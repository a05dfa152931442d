package flock_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/unibus/unibus/sut/flock"
)

// TestTry: one has the lock, another gets it when the first has closed its file, and what is no open file is an error.
func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	first, second := open(), open()
	if ok, err := flock.Try(first); !ok || err != nil {
		t.Fatalf("the first: %v, %v", ok, err)
	}
	if ok, err := flock.Try(second); ok || err != nil {
		t.Fatalf("the second, meanwhile: %v, %v", ok, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if ok, err := flock.Try(second); !ok || err != nil {
		t.Errorf("the second, afterwards: %v, %v", ok, err)
	}
	if ok, err := flock.Try(first); ok || err == nil {
		t.Errorf("a closed file: %v, %v", ok, err)
	}
}
