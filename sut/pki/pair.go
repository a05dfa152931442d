package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const fileMode = 0o600

// Pair is a certificate and its key, as PEM.
type Pair struct {
	Cert []byte
	Key  []byte // secret
}

// TLS makes of it what crypto/tls takes.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Cert, p.Key) }

// NotAfter is when the certificate expires.
func (p Pair) NotAfter() (time.Time, error) {
	certs, err := Parse(p.Cert)
	if err != nil {
		return time.Time{}, err
	}
	return certs[0].NotAfter, nil
}

// Write stores certificate and key, readable for their owner alone. Each file is replaced as a whole; the key comes first, and who reads between
// the two sees a pair that does not match.
func (p Pair) Write(certFile, keyFile string) error {
	if err := WriteFile(keyFile, p.Key); err != nil {
		return err
	}
	return WriteFile(certFile, p.Cert)
}

// WriteFile replaces a file, readable for its owner alone. Readers see the old content or the new.
func WriteFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(fileMode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // not wanted any more
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Parse reads all certificates of a bundle; it is an error if there is none, or if one of them is damaged.
func Parse(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		if block.Type != certificateBlock {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("read certificates: %w: %s", ErrPEM, certificateBlock)
	}
	return certs, nil
}

// Pool trusts the authorities of a bundle.
func Pool(bundle []byte) (*x509.CertPool, error) {
	certs, err := Parse(bundle)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p, nil
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
