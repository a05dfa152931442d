// Package secret reads the files that hold secrets: nkey seeds, passwords, private keys. Standard library only.
package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxSize bounds what is read from one file, in bytes: a seed, a password or a key is far smaller.
const maxSize = 1 << 20

// ErrExposed is wrapped when others than its owner may read, write or execute a file.
var ErrExposed = errors.New("can be read by others")

// Read returns what is in a file, without the white space around it. It refuses a file that others may use, and anything but a regular file
// (symbolic links to one are followed, as systemd's credentials and mounted secrets need that).
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s %w (mode %04o): make it 0600", path, ErrExposed, perm)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	return bytes.TrimSpace(b), nil
}
