package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStoreExitCodes(t *testing.T) {
	stream := func(t *testing.T) string {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "jetstream", "BUS", "streams", "S", "msgs"), 0o700); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		name string
		dir  func(t *testing.T) string
		want int
	}{
		{"nothing there", func(t *testing.T) string { return t.TempDir() }, exitUsage},
		{"no streams", func(t *testing.T) string {
			dir := filepath.Join(t.TempDir(), "jetstream")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		}, exitInconclusive},
		{"unreadable stream", stream, exitInconclusive},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := storeCmd()
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			cmd.SilenceUsage = true
			cmd.SetArgs([]string{c.dir(t)})
			var e *exitError
			if err := cmd.ExecuteContext(t.Context()); !errors.As(err, &e) || e.code != c.want {
				t.Errorf("got %v, want exit code %d\n%s", err, c.want, out.String())
			}
		})
	}
}
