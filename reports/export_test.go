package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/unibus/unibus/reports/history"
)

// Internals that the external tests look at.
var (
	DecodeEvidence = decodeEvidence
	DecodeProof    = decodeProof
	ParseManifest  = func(b []byte) error { _, err := parseManifest(b); return err }
	RenderTable    = renderTable
	RunChecker     = runChecker
	JudgeEvidence  = judgeEvidence
	RendererTag    = rendererTag
	ReportHTML     = reportHTML
	Finite         = finite
)

// MaxDots is the most operations that a chart draws.
const MaxDots = maxDots

// ReadHistoryLimit reads a record with another bound on its unpacked size.
func ReadHistoryLimit(dir string, limit int64) error {
	_, _, err := readHistory(dir, limit)
	return err
}

// Rehash writes the manifest for the files as they are now: what somebody who edits a bundle would do.
func Rehash(dir string) error {
	m, err := hashTree(dir)
	if err != nil {
		return err
	}
	return m.write(dir)
}

// Replace closes the record and writes h in its place: a recorder stamps operations with its own clock, and tests need theirs.
func (b *Bundle) Replace(h *history.History) error {
	if err := b.closeRecord(); err != nil {
		return err
	}
	buf, err := EncodeHistory(h)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, HistoryFile), Pack(buf), 0o644)
}

// Pack compresses a record.
func Pack(record []byte) []byte {
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		return nil
	}
	return zw.EncodeAll(record, nil)
}

// EncodeHistory writes h in the form of a record.
func EncodeHistory(h *history.History) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"format\":%q,\"start\":\"2026-01-02T03:04:05Z\"}\n", history.Format)
	var err error
	line := func(t string, v any) {
		j, e := json.Marshal(v)
		if e != nil {
			err = e
		}
		fmt.Fprintf(&b, "[%q,%s]\n", t, j)
	}
	each(h.Ops, "op", line)
	each(h.Items, "item", line)
	each(h.Drains, "drain", line)
	each(h.Deliveries, "delivery", line)
	each(h.Health, "health", line)
	each(h.Replicas, "replica", line)
	each(h.Conns, "conn", line)
	each(h.Events, "event", line)
	return b.Bytes(), err
}

func each[T any](xs []T, name string, line func(string, any)) {
	for i := range xs {
		line(name, &xs[i])
	}
}
