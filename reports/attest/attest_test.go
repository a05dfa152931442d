package attest_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/attest"
)

var (
	binary = "sha256:" + strings.Repeat("ab", 32)
	made   = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	private, public, err := attest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	k, err := attest.ParsePrivate(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := attest.ParsePublic(public)
	if err != nil || !pub.Equal(k.Public()) {
		t.Fatalf("the halves do not belong together: %v", err)
	}
	return k
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func gateFile(t testing.TB, k ed25519.PrivateKey) []byte {
	t.Helper()
	s, err := attest.Gate(attest.Resource{Name: "membershipd", Digest: attest.SHA256(binary)}, attest.Resource{URI: "urn:unibus:policy:deploy"}, nil, made)
	if err != nil {
		t.Fatal(err)
	}
	file, err := attest.Sign(s, k)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// change edits the file's JSON as a map.
func change(t *testing.T, file []byte, edit func(m, envelope map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(file, &m); err != nil {
		t.Fatal(err)
	}
	edit(m, m["dsseEnvelope"].(map[string]any))
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAdmitted(t *testing.T) {
	k, other := newKey(t), newKey(t)
	file := gateFile(t, k)
	failed := attest.Statement{Type: attest.StatementType, Subject: []attest.Resource{{Digest: attest.SHA256(binary)}}, PredicateType: attest.SummaryType,
		Predicate: json.RawMessage(`{"verificationResult":"FAILED","timeVerified":"2026-11-25T12:00:00Z"}`)}
	failedFile, err := attest.Sign(failed, k)
	if err != nil {
		t.Fatal(err)
	}
	noTime := failed
	noTime.Predicate = json.RawMessage(`{"verificationResult":"PASSED"}`)
	noTimeFile, err := attest.Sign(noTime, k)
	if err != nil {
		t.Fatal(err)
	}
	payload := func(_, e map[string]any) {
		raw, err := base64.StdEncoding.DecodeString(e["payload"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e["payload"] = base64.StdEncoding.EncodeToString(bytes.Replace(raw, []byte("ab"), []byte("cd"), 1))
	}
	for name, c := range map[string]struct {
		file   []byte
		digest string
		maxAge time.Duration
		now    time.Time
		keys   []ed25519.PublicKey
		want   error
	}{
		"admitted":               {file, binary, time.Hour, made.Add(time.Minute), []ed25519.PublicKey{public(k)}, nil},
		"second of two keys":     {file, binary, 0, made, []ed25519.PublicKey{public(other), public(k)}, nil},
		"any age":                {file, binary, 0, made.Add(10_000 * time.Hour), []ed25519.PublicKey{public(k)}, nil},
		"clocks that differ":     {file, binary, time.Hour, made.Add(-time.Minute), []ed25519.PublicKey{public(k)}, nil},
		"other key":              {file, binary, 0, made, []ed25519.PublicKey{public(other)}, attest.ErrSignature},
		"no key":                 {file, binary, 0, made, nil, attest.ErrSignature},
		"empty key":              {file, binary, 0, made, []ed25519.PublicKey{nil}, attest.ErrSignature},
		"other binary":           {file, "sha256:" + strings.Repeat("cd", 32), 0, made, []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"no binary":              {file, "", 0, made, []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"old":                    {file, binary, time.Hour, made.Add(2 * time.Hour), []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"from the future":        {file, binary, time.Hour, made.Add(-time.Hour), []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"signed FAILED":          {failedFile, binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"without a time":         {noTimeFile, binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrNotAdmitted},
		"changed payload":        {change(t, file, payload), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrSignature},
		"no signature":           {change(t, file, func(_, e map[string]any) { e["signatures"] = []any{} }), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrSignature},
		"other payload type":     {change(t, file, func(_, e map[string]any) { e["payloadType"] = "text/plain" }), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
		"other media type":       {change(t, file, func(m, _ map[string]any) { m["mediaType"] = "x" }), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
		"no JSON":                {[]byte("{"), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
		"larger than it can be":  {bytes.Repeat([]byte(" "), 5<<20), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
		"a statement of nothing": {signRaw(t, k, attest.Statement{Type: attest.StatementType, PredicateType: attest.SummaryType}), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
		"another statement":      {signRaw(t, k, attest.Statement{Type: "x"}), binary, 0, made, []ed25519.PublicKey{public(k)}, attest.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := attest.Admitted(c.file, c.digest, c.maxAge, c.now, c.keys...)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func signRaw(t *testing.T, k ed25519.PrivateKey, s attest.Statement) []byte {
	t.Helper()
	if s.Predicate == nil {
		s.Predicate = json.RawMessage("{}")
	}
	file, err := attest.Sign(s, k)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKeyFiles: what is no ed25519 key is refused, and no error quotes a secret.
func TestKeyFiles(t *testing.T) {
	private, pub, err := attest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(private), "\n")[1]
	for name, file := range map[string][]byte{"nothing": nil, "text": []byte("key"), "other half": pub, "cut": private[:len(private)/2],
		"damaged": bytes.Replace(private, []byte(secret[:8]), []byte("AAAAAAAA"), 1)} {
		if _, err := attest.ParsePrivate(file); !errors.Is(err, attest.ErrKey) || strings.Contains(err.Error(), secret[8:]) {
			t.Errorf("private, %s: %v", name, err)
		}
	}
	if _, err := attest.ParsePublic(private); !errors.Is(err, attest.ErrKey) {
		t.Errorf("public, other half: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f)
	f.Add(gateFile(f, k))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":""}]}}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		if s, err := attest.Open(file, public(k)); err == nil && s.Type != attest.StatementType {
			t.Errorf("opened %q", s.Type)
		}
	})
}
