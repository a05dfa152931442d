package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
)

// expect runs a command line and holds its exit code and words against what is wanted.
func expect(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	s := inProcess(t, args...)
	if s.code != code || !strings.Contains(s.out+s.err, says) {
		t.Fatalf("%s: exit %d, want %d with %q: %s%s", strings.Join(args, " "), s.code, code, says, s.out, s.err)
	}
}

// TestSignedProofs goes the whole way: a key, a signed bundle, a gate that wants it signed, a statement, a host that admits the binary.
func TestSignedProofs(t *testing.T) {
	tmp := t.TempDir()
	proofs := filepath.Join(tmp, "proofs")
	dir := filepath.Join(proofs, "one")
	writeBundle(t, dir, false)
	key, other, statement := filepath.Join(tmp, "proof.key"), filepath.Join(tmp, "other.key"), filepath.Join(tmp, "gate.json")
	policy := write(t, "format: unibus-policy/1\nname: tiny\nrequire: [{scenario: one, claims: all}]\n", tmp, "tiny.yaml")
	subject := "sha256:" + strings.Repeat("a", 64)

	expect(t, exitOK, "hand out", "keygen", key)
	expect(t, exitOK, "hand out", "keygen", other)
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the secret key: %v, %v", st, err)
	}
	expect(t, exitOK, "signed", "sign", "--key", key, proofs)
	expect(t, exitOK, "sound", "verify", dir) // a signature does not disturb who asks for none
	expect(t, exitOK, "sound", "verify", "--key", other+publicSuffix, "--key", key+publicSuffix, dir)
	expect(t, exitUsage, "no trusted key", "verify", "--key", other+publicSuffix, dir)

	gate := []string{"gate", "--policy", policy, "--key", key + publicSuffix, "--sign", key, "--statement", statement}
	expect(t, exitOK, "gate pass", append(gate, proofs)...)
	expect(t, exitOK, "admitted", "admit", "--key", key+publicSuffix, "--subject", subject, statement)
	expect(t, exitFail, "another binary", "admit", "--key", key+publicSuffix, "--subject", "sha256:"+strings.Repeat("b", 64), statement)
	expect(t, exitUsage, "no trusted key", "admit", "--key", other+publicSuffix, "--subject", subject, statement)
	expect(t, exitFail, "old", "admit", "--key", key+publicSuffix, "--subject", subject, "--max-age", "1ns", statement)
	// A bundle's own signature is no gate's statement, though the same key made it.
	expect(t, exitUsage, "not a gate's", "admit", "--key", key+publicSuffix, "--subject", subject, filepath.Join(dir, reports.AttestationFile))
}

// TestSignatureIsOfThisBundle: a signature that was made for one bundle does not serve another, and a gate that fails writes no statement.
func TestSignatureIsOfThisBundle(t *testing.T) {
	tmp := t.TempDir()
	good, bad := filepath.Join(tmp, "good", "one"), filepath.Join(tmp, "bad", "one")
	writeBundle(t, good, false)
	writeBundle(t, bad, true)
	key, statement := filepath.Join(tmp, "proof.key"), filepath.Join(tmp, "gate.json")
	policy := write(t, "format: unibus-policy/1\nname: tiny\nrequire: [{scenario: one, claims: all}]\n", tmp, "tiny.yaml")
	expect(t, exitOK, "hand out", "keygen", key)
	expect(t, exitOK, "signed", "sign", "--key", key, good)
	expect(t, exitOK, "fail", "sign", "--key", key, bad) // a failed proof can be vouched for
	expect(t, exitFail, "gate fail", "gate", "--policy", policy, "--key", key+publicSuffix, "--sign", key, "--statement", statement, bad)
	if _, err := os.Stat(statement); !os.IsNotExist(err) {
		t.Errorf("a gate that failed left a statement: %v", err)
	}
	file, err := reports.ReadAttestation(good)
	if err == nil {
		err = reports.WriteAttestation(bad, file)
	}
	if err != nil {
		t.Fatal(err)
	}
	expect(t, exitUsage, "another bundle", "verify", "--key", key+publicSuffix, bad)
	expect(t, exitUsage, "another bundle", "gate", "--policy", policy, "--key", key+publicSuffix, bad)
}
