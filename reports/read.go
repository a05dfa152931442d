package reports

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"

	"github.com/unibus/unibus/reports/history"
)

// A bundle may come from anywhere: these bound what its record can make a reader unpack.
const (
	maxHistoryBytes = 4 << 30   // unpacked
	maxZstdWindow   = 128 << 20 // memory of the decoder
)

// ErrTooLarge is wrapped when a record would unpack to more than a reader should accept.
var ErrTooLarge = errors.New("the record is too large")

// readEvidence decodes evidence.json strictly and gives its digest too.
func readEvidence(dir string) (Evidence, string, error) {
	b, err := readSmall(dir, EvidenceFile)
	if err != nil {
		return Evidence{}, "", err
	}
	ev, err := decodeEvidence(b)
	if err != nil {
		return Evidence{}, "", err
	}
	s := sha256.Sum256(b)
	return ev, hex.EncodeToString(s[:]), nil
}

func decodeEvidence(b []byte) (Evidence, error) {
	var ev Evidence
	if err := strictJSON(b, &ev); err != nil {
		return Evidence{}, fmt.Errorf("%w: %s: %w", ErrTampered, EvidenceFile, err)
	}
	if ev.Format != EvidenceFormat {
		return Evidence{}, fmt.Errorf("%w: %s has format %q, this program reads %q", ErrTampered, EvidenceFile, ev.Format, EvidenceFormat)
	}
	return ev, nil
}

// ReadProof decodes proof.json strictly. It takes the file's word; Verify does not.
func ReadProof(dir string) (Proof, error) {
	b, err := readSmall(dir, ProofFile)
	if err != nil {
		return Proof{}, err
	}
	return decodeProof(b)
}

func decodeProof(b []byte) (Proof, error) {
	var p Proof
	if err := strictJSON(b, &p); err != nil {
		return Proof{}, fmt.Errorf("%w: %s: %w", ErrTampered, ProofFile, err)
	}
	if p.Format != ProofFormat {
		return Proof{}, fmt.Errorf("%w: %s has format %q, this program reads %q", ErrTampered, ProofFile, p.Format, ProofFormat)
	}
	return p, nil
}

// strictJSON refuses unknown fields and anything after the value.
func strictJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode: something follows the value")
	}
	return nil
}

// ReadHistory decodes a bundle's record. It compares no digest: that is what Verify is for.
func ReadHistory(dir string) (*history.History, error) {
	h, _, err := readHistory(dir, maxHistoryBytes)
	return h, err
}

// readHistory decodes the record and gives the digest of the file as it was read.
func readHistory(dir string, limit int64) (h *history.History, digest string, err error) {
	f, err := openIn(dir, HistoryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%w: %s is missing", ErrIncomplete, HistoryFile)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read history: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	in := io.TeeReader(f, sum)
	zr, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, "", fmt.Errorf("%w: unpack history: %w", ErrTampered, err)
	}
	defer zr.Close()
	h, err = history.Read(&bounded{r: zr, left: limit})
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrTampered, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, "", fmt.Errorf("read history: %w", err)
	}
	return h, hex.EncodeToString(sum.Sum(nil)), nil
}

// bounded ends a stream with ErrTooLarge when it has too many bytes. (history.Read bounds each line.)
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: it unpacks to more than is accepted", ErrTooLarge)
	}
	return n, err
}
