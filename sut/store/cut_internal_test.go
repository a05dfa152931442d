package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// testSnapshot has the shape of a group's snapshot: head, state of the peers, state of the stream, checksum.
func testSnapshot(version byte, numbers ...uint64) []byte {
	b := make([]byte, snapshotHead-4)
	b = binary.LittleEndian.AppendUint32(b, 3)
	b = append(b, 'p', 'e', 'r', stateMagic, version)
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return append(b, make([]byte, sumLen)...)
}

func TestSnapshotLast(t *testing.T) {
	for version := byte(stateMinVersion); version <= stateMaxVersion; version++ {
		if last, ok := snapshotLast(testSnapshot(version, 300, 4000, 7, 306, 0, 0)); !ok || last != 306 {
			t.Errorf("version %d: %d %v", version, last, ok)
		}
	}
	whole := testSnapshot(1, 300, 4000, 7, 306, 2)
	for n := range len(whole) {
		if last, ok := snapshotLast(whole[:n]); ok {
			t.Errorf("%d of %d bytes have the last sequence %d", n, len(whole), last)
		}
	}
	for _, version := range []byte{0, stateMaxVersion + 1} {
		if last, ok := snapshotLast(testSnapshot(version, 300, 4000, 7, 306, 0)); ok {
			t.Errorf("version %d is not known, and has the last sequence %d", version, last)
		}
	}
}

func FuzzSnapshotLast(f *testing.F) {
	f.Add(testSnapshot(1, 300, 4000, 7, 306, 0, 0))
	f.Add(testSnapshot(2, 1<<63, 1, 1, 1<<63, 1, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if last, ok := snapshotLast(b); !ok && last != 0 {
			t.Errorf("not readable, and has the last sequence %d", last)
		}
	})
}

// testEntry has the shape of a record in a group's log: one append entry with the messages that are given.
func testEntry(op byte, ts int64, subjects ...string) []byte {
	b := make([]byte, entriesHead-2)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(subjects)))
	for _, s := range subjects {
		e := []byte{entryNormal, op}
		e = binary.LittleEndian.AppendUint64(e, 41)
		e = binary.LittleEndian.AppendUint64(e, uint64(ts))
		e = binary.LittleEndian.AppendUint16(e, uint16(len(s)))
		e = append(append(e, s...), "the rest of the message"...)
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(e))), e...)
	}
	return b
}

func TestCarries(t *testing.T) {
	marks := map[string]bool{mark(1234, []byte("orders.7")): true}
	for name, c := range map[string]struct {
		entry []byte
		want  bool
	}{
		"the message":              {testEntry(streamMsgOp, 1234, "orders.7"), true},
		"the second of three":      {testEntry(streamMsgOp, 1234, "orders.6", "orders.7", "orders.8"), true},
		"another subject":          {testEntry(streamMsgOp, 1234, "orders.70"), false},
		"another time":             {testEntry(streamMsgOp, 1235, "orders.7"), false},
		"another operation":        {testEntry(streamMsgOp+1, 1234, "orders.7"), false},
		"no message":               {testEntry(streamMsgOp, 1234), false},
		"cut inside of the second": {testEntry(streamMsgOp, 1234, "orders.6", "orders.7")[:entriesHead+60], false},
	} {
		if got := carries(c.entry, marks); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzCarries(f *testing.F) {
	marks := map[string]bool{mark(1234, []byte("orders.7")): true}
	whole := testEntry(streamMsgOp, 1234, "orders.6", "orders.7", "orders.8")
	f.Add(whole)
	f.Add(whole[:len(whole)-30])
	f.Add(testEntry(streamMsgOp, 1234, "", "orders.7"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !carries(b, marks) {
			return
		}
		for m := range marks {
			if !bytes.Contains(b, []byte(m[8:])) {
				t.Errorf("%q is not in the entry", m[8:])
			}
		}
	})
}

// TestOnlyOwnMessages: the log of another stream holds the messages of mirrors and sources with the same times, so that it would be taken for the stream's own.
func TestOnlyOwnMessages(t *testing.T) {
	for config, want := range map[string]error{
		`{"name":"S"}`: nil,
		`{"name":"S","mirror":null,"sources":[]}`:    nil,
		`{"name":"S","mirror":{"name":"ORDERS"}}`:    ErrNoCut,
		`{"name":"S","sources":[{"name":"ORDERS"}]}`: ErrNoCut,
		`{"name":"S",`: ErrMeta,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, metaFile), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (Stream{Dir: dir}).ownMessages(); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
	if err := (Stream{Dir: t.TempDir()}).ownMessages(); !errors.Is(err, ErrMeta) {
		t.Errorf("no configuration: %v", err)
	}
}
