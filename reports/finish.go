package reports

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/unibus/unibus/reports/history"
)

// Finish writes proof.json, report.html and junit.xml beside the sealed evidence, then the final manifest. The digests of the
// evidence stay those that were sealed: a file that changed meanwhile is found by Verify, not blessed here.
func Finish(dir string, p Proof) error {
	if err := finish(dir, p); err != nil {
		return fmt.Errorf("finish bundle: %w", err)
	}
	return nil
}

func finish(dir string, p Proof) error {
	_, h, m, err := load(dir)
	if err != nil {
		return err
	}
	m = m.evidence()
	if p.EvidenceDigest != m.digest() {
		return fmt.Errorf("%w: the proof is of another bundle", ErrDisagree)
	}
	if p, err = canonical(p); err != nil {
		return err
	}
	files, err := judgement(p, h)
	if err != nil {
		return err
	}
	for _, name := range judgementFiles {
		if err := writeFile(filepath.Join(dir, name), files[name]); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if m[name], err = hashFile(dir, name); err != nil {
			return fmt.Errorf("hash %s: %w", name, err)
		}
	}
	return m.write(dir)
}

// judgement is the content of each file that follows from a proof.
func judgement(p Proof, h *history.History) (map[string][]byte, error) {
	proof, err1 := encodeJSON(p)
	html, err2 := reportHTML(p, h)
	junit, err3 := junitXML(p)
	return map[string][]byte{ProofFile: proof, ReportFile: html, JUnitFile: junit}, errors.Join(err1, err2, err3)
}

// Rerender draws report.html of a finished bundle again, and says where it is. The bundle must verify first: its report apart,
// which may come from another version of the harness. No verdict changes.
func Rerender(dir string) (string, error) {
	at := filepath.Join(dir, ReportFile)
	if err := rerender(dir, at); err != nil {
		return "", fmt.Errorf("draw report: %w", err)
	}
	return at, nil
}

func rerender(dir, at string) error {
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	if err := required(m); err != nil {
		return err
	}
	rest := m.without(ReportFile)
	if err := compareFiles(dir, rest, ReportFile); err != nil {
		return err
	}
	said, err := ReadProof(dir)
	if err != nil {
		return err
	}
	found, h, err := judge(dir)
	if err != nil {
		return err
	}
	if err := compareProofs(said, found); err != nil {
		return err
	}
	html, err := reportHTML(found, h)
	if err != nil {
		return err
	}
	// A report that is a link or a folder goes: writing must not follow it.
	if st, err := os.Lstat(at); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a plain file", ErrTampered, ReportFile)
	}
	if err := writeFile(at, html); err != nil {
		return err
	}
	if rest[ReportFile], err = hashFile(dir, ReportFile); err != nil {
		return err
	}
	return rest.write(dir)
}
