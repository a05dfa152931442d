// Package attest signs what a run or a gate found, and checks such signatures: an in-toto Statement v1 in a DSSE envelope, signed with
// ed25519, in a Sigstore bundle v0.3. Standard library only, no network, no transparency log: whoever holds the public key can check it
// with this package, or with `cosign verify-blob-attestation --key KEY --insecure-ignore-tlog`.
//
//	Statement ──marshal──> payload ──PAE──> ed25519 ──> DSSE envelope ──> Sigstore bundle (a JSON file)
//
// A signature says who vouches for a statement, not that the statement is good news: a signed FAILED verifies as well. Callers must look
// at the result too ([TestResult.Result], [Summary.Result]).
package attest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Types of the documents that this package reads and writes.
const (
	StatementType = "https://in-toto.io/Statement/v1"               // in-toto attestation framework, Statement layer v1
	payloadType   = "application/vnd.in-toto+json"                  // in-toto, DSSE envelope layer
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json" // sigstore/protobuf-specs, Bundle v0.3
	maxBundle     = 4 << 20                                         // bytes; real ones have ten kilobytes
)

// What can be wrong with an attestation. Every error of Open wraps one of them.
var (
	ErrFormat    = errors.New("the attestation cannot be read")
	ErrSignature = errors.New("no trusted key signed the attestation")
	// ErrNotAdmitted: a gate's statement is genuine and does not let this binary pass.
	ErrNotAdmitted = errors.New("the gate's statement does not admit it")
)

// clockSlack is how far in the future a statement may have been made, for clocks that differ.
const clockSlack = 5 * time.Minute

// Digest is algorithm -> hex; this package writes sha256 alone.
type Digest map[string]string

// SHA256 makes a Digest from "sha256:<hex>" or bare hex.
func SHA256(s string) Digest { return Digest{"sha256": strings.TrimPrefix(s, "sha256:")} }

// Resource names something with its digest: in-toto's ResourceDescriptor.
type Resource struct {
	Name   string `json:"name,omitempty"`
	URI    string `json:"uri,omitempty"`
	Digest Digest `json:"digest,omitempty"`
}

// Statement is in-toto's: what is said (predicate) about what (subject).
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Resource      `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// About tells whether the statement has a subject with that digest ("sha256:<hex>").
func (s Statement) About(digest string) bool {
	want := SHA256(digest)["sha256"]
	for _, r := range s.Subject {
		if want != "" && r.Digest["sha256"] == want {
			return true
		}
	}
	return false
}

// envelope is DSSE's.
type envelope struct {
	Payload     []byte      `json:"payload"` // encoding/json writes and reads it as base64, as DSSE wants it
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig   []byte `json:"sig"`
	KeyID string `json:"keyid,omitempty"` // a hint; nothing is decided by it
}

// bundle is Sigstore's, with a bare public key for verification material: there is no certificate and no log entry.
type bundle struct {
	MediaType string `json:"mediaType"`
	Material  struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	Envelope envelope `json:"dsseEnvelope"`
}

// pae is DSSE's pre-authentication encoding: what is really signed.
func pae(payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload)), payload...)
}

// Sign makes the bundle's file.
func Sign(s Statement, key ed25519.PrivateKey) ([]byte, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("sign statement: the key is no ed25519 private key")
	}
	id, err := KeyID(pub)
	if err != nil {
		return nil, err
	}
	b := bundle{MediaType: bundleType, Envelope: envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{Sig: ed25519.Sign(key, pae(payload))}}}}
	b.Material.PublicKey.Hint = base64.StdEncoding.EncodeToString(id[:])
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	return append(out, '\n'), nil
}

// Open reads a bundle's file and returns what one of the trusted keys signed. The payload is looked at only after its signature was checked.
func Open(file []byte, trusted ...ed25519.PublicKey) (Statement, error) {
	b, err := decode(file)
	if err != nil {
		return Statement{}, err
	}
	if !signedByAny(b.Envelope, trusted) {
		return Statement{}, fmt.Errorf("%w (%d keys are trusted)", ErrSignature, len(trusted))
	}
	var s Statement
	d := json.NewDecoder(bytes.NewReader(b.Envelope.Payload))
	if err := d.Decode(&s); err != nil {
		return Statement{}, fmt.Errorf("%w: its statement: %w", ErrFormat, err)
	}
	switch {
	case d.More():
		return Statement{}, fmt.Errorf("%w: something follows its statement", ErrFormat)
	case s.Type != StatementType:
		return Statement{}, fmt.Errorf("%w: it holds a %q, not a %q", ErrFormat, s.Type, StatementType)
	case len(s.Subject) == 0:
		return Statement{}, fmt.Errorf("%w: it speaks of nothing", ErrFormat)
	}
	return s, nil
}

func decode(file []byte) (bundle, error) {
	if len(file) > maxBundle {
		return bundle{}, fmt.Errorf("%w: it is larger than %d bytes", ErrFormat, maxBundle)
	}
	var b bundle
	if err := json.Unmarshal(file, &b); err != nil {
		return bundle{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	switch {
	case b.MediaType != bundleType:
		return bundle{}, fmt.Errorf("%w: its media type is %q, this program reads %q", ErrFormat, b.MediaType, bundleType)
	case b.Envelope.PayloadType != payloadType:
		return bundle{}, fmt.Errorf("%w: its payload is %q, this program reads %q", ErrFormat, b.Envelope.PayloadType, payloadType)
	}
	return b, nil
}

func signedByAny(e envelope, trusted []ed25519.PublicKey) bool {
	msg := pae(e.Payload)
	for _, s := range e.Signatures {
		for _, k := range trusted {
			if len(k) == ed25519.PublicKeySize && ed25519.Verify(k, msg, s.Sig) {
				return true
			}
		}
	}
	return false
}
