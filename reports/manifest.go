package reports

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles and maxSmallFile bound what a bundle from elsewhere can make us hold in memory.
const (
	maxFiles     = 20_000
	maxSmallFile = 64 << 20 // evidence.json, proof.json, MANIFEST
)

// judgementFiles are written after the evidence was sealed; everything else in a bundle is evidence.
var judgementFiles = []string{ProofFile, ReportFile, JUnitFile}

// AttestationFile is the signature of a bundle that somebody signed. It is about the manifest, and so not in it.
const AttestationFile = "attestation.sigstore.json"

// manifest is path -> sha256 in hex. The file has the form that `sha256sum -c MANIFEST` reads, sorted by path.
type manifest map[string]string

// text is the manifest's file.
func (m manifest) text() []byte {
	var b bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s  %s\n", m[p], p)
	}
	return b.Bytes()
}

func (m manifest) write(dir string) error {
	return writeFile(filepath.Join(dir, ManifestFile), m.text())
}

// evidence is the part that was sealed before judgement.
func (m manifest) evidence() manifest { return m.without(judgementFiles...) }

func (m manifest) without(paths ...string) manifest {
	rest := maps.Clone(m)
	for _, p := range paths {
		delete(rest, p)
	}
	return rest
}

// digest names the manifest's content.
func (m manifest) digest() string {
	s := sha256.Sum256(m.text())
	return "sha256:" + hex.EncodeToString(s[:])
}

// ManifestDigest is the "sha256:<hex>" of a finished bundle's manifest, which pins every file of the bundle.
func ManifestDigest(dir string) (string, error) {
	m, err := readManifest(dir)
	if err != nil {
		return "", err
	}
	return m.digest(), nil
}

// ErrUnsigned is wrapped by ReadAttestation for a bundle that nobody signed.
var ErrUnsigned = errors.New("the bundle is not signed")

// ReadAttestation reads a bundle's signature; what it says is for package attest to find out.
func ReadAttestation(dir string) ([]byte, error) {
	b, err := readSmall(dir, AttestationFile)
	if errors.Is(err, ErrIncomplete) {
		return nil, fmt.Errorf("%w: %s is missing", ErrUnsigned, AttestationFile)
	}
	return b, err
}

// WriteAttestation puts a signature beside a bundle's manifest, over an earlier one.
func WriteAttestation(dir string, file []byte) error {
	if err := writeFile(filepath.Join(dir, AttestationFile), file); err != nil {
		return fmt.Errorf("write %s: %w", AttestationFile, err)
	}
	return nil
}

// readManifest reads and checks the manifest's form: no path may leave the bundle, nothing is named twice, sorted.
func readManifest(dir string) (manifest, error) {
	b, err := readSmall(dir, ManifestFile)
	if err != nil {
		return nil, err
	}
	return parseManifest(b)
}

func parseManifest(b []byte) (manifest, error) {
	m := manifest{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		sum, p, ok := strings.Cut(sc.Text(), "  ")
		raw, err := hex.DecodeString(sum)
		if !ok || err != nil || len(raw) != sha256.Size || strings.ToLower(sum) != sum {
			return nil, fmt.Errorf("%w: %s: line %d is not a digest and a path", ErrTampered, ManifestFile, n)
		}
		if err := plainPath(p); err != nil {
			return nil, fmt.Errorf("%w: %s: line %d: %w", ErrTampered, ManifestFile, n, err)
		}
		if _, twice := m[p]; twice {
			return nil, fmt.Errorf("%w: %s names %s twice", ErrTampered, ManifestFile, p)
		}
		m[p] = sum
		if len(m) > maxFiles {
			return nil, fmt.Errorf("%w: %s names more than %d files", ErrTampered, ManifestFile, maxFiles)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrTampered, ManifestFile, err)
	}
	if !bytes.Equal(m.text(), b) {
		return nil, fmt.Errorf("%w: %s is not in its canonical form", ErrTampered, ManifestFile)
	}
	return m, nil
}

// plainPath refuses what could leave the bundle, or what sha256sum would escape.
func plainPath(p string) error {
	switch {
	case p == "" || path.Clean(p) != p || path.IsAbs(p) || !filepath.IsLocal(filepath.FromSlash(p)):
		return fmt.Errorf("path %q does not stay in the bundle", p)
	case strings.ContainsAny(p, "\\\n\r\x00"):
		return fmt.Errorf("path %q has a character that manifests cannot hold", p)
	case p == ManifestFile || p == AttestationFile:
		return fmt.Errorf("the manifest cannot name %s", p)
	}
	return nil
}

// listTree lists the files below dir. Links, sockets and devices are refused: a bundle is what it holds.
func listTree(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, full)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case d.IsDir() || (rel == ManifestFile || rel == AttestationFile) && d.Type().IsRegular():
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%w: %s is not a plain file (%s)", ErrTampered, rel, d.Type())
		}
		if files = append(files, rel); len(files) > maxFiles {
			return fmt.Errorf("%w: more than %d files", ErrTampered, maxFiles)
		}
		return nil
	})
	return files, err
}

// hashTree makes the manifest of everything below dir.
func hashTree(dir string) (manifest, error) {
	files, err := listTree(dir)
	if err != nil {
		return nil, fmt.Errorf("list bundle: %w", err)
	}
	m := manifest{}
	for _, p := range files {
		if err := plainPath(p); err != nil {
			return nil, fmt.Errorf("list bundle: %w", err)
		}
		if m[p], err = hashFile(dir, p); err != nil {
			return nil, fmt.Errorf("hash bundle: %w", err)
		}
	}
	return m, nil
}

func hashFile(dir, name string) (sum string, err error) {
	f, err := openIn(dir, name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s := sha256.New()
	if _, err := io.Copy(s, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(s.Sum(nil)), nil
}

// openIn opens a plain file of the bundle; a link is refused, also one that stays inside.
func openIn(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // files opened through it stay open
	st, err := root.Lstat(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a plain file (%s)", ErrTampered, name, st.Mode().Type())
	}
	return root.Open(filepath.FromSlash(name))
}

// readSmall reads a whole file of bounded size.
func readSmall(dir, name string) (b []byte, err error) {
	f, err := openIn(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrIncomplete, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err = io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxSmallFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrTampered, name, maxSmallFile)
	}
	return b, nil
}
