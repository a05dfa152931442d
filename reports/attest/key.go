package attest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// PEM block types of the two key files.
const (
	privateBlock = "PRIVATE KEY" // PKCS #8
	publicBlock  = "PUBLIC KEY"  // PKIX, what cosign's --key reads
)

// ErrKey is wrapped by errors about a key's file.
var ErrKey = errors.New("the key cannot be used")

// NewKey makes a key pair as PEM: private in PKCS #8, public in PKIX form. The private one is a secret.
func NewKey() (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode private key: %w", err)
	}
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: pubDER}), nil
}

// ParsePrivate reads a private key file. Errors do not quote it.
func ParsePrivate(file []byte) (ed25519.PrivateKey, error) {
	b, _ := pem.Decode(file)
	if b == nil || b.Type != privateBlock {
		return nil, fmt.Errorf("%w: want PEM with a %q", ErrKey, privateBlock)
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no PKCS #8 key", ErrKey)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is a %T, want ed25519", ErrKey, k)
	}
	return key, nil
}

// ParsePublic reads a public key file.
func ParsePublic(file []byte) (ed25519.PublicKey, error) {
	b, _ := pem.Decode(file)
	if b == nil || b.Type != publicBlock {
		return nil, fmt.Errorf("%w: want PEM with a %q", ErrKey, publicBlock)
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no PKIX key", ErrKey)
	}
	key, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is a %T, want ed25519", ErrKey, k)
	}
	return key, nil
}

// KeyID is the sha256 of the key's PKIX form, which is how Sigstore bundles hint at a key.
func KeyID(k ed25519.PublicKey) ([sha256.Size]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encode public key: %w", err)
	}
	return sha256.Sum256(der), nil
}
