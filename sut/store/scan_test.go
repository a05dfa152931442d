package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
)

func testHash(t testing.TB) *highwayhash.Digest64 {
	t.Helper()
	h, err := newHash("S-1")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// encode writes a record as nats-server would.
func encode(t testing.TB, b []byte, seq uint64, subject, header, payload string) []byte {
	t.Helper()
	size := minRecord + len(subject) + len(payload)
	bit := 0
	if header != "" {
		size += 4 + len(header)
		bit = headerBit
	}
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(size|bit))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, 1_700_000_000_000_000_000)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(subject)))
	b = append(b, subject...)
	if header != "" {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
		b = append(b, header...)
	}
	b = append(b, payload...)
	h := testHash(t)
	_, _ = h.Write(b[at+4 : at+20])
	_, _ = h.Write([]byte(subject + header + payload))
	return h.Sum(b)
}

func testBlock(t testing.TB, n int) []byte {
	t.Helper()
	var b []byte
	for i := range n {
		header := ""
		if i%3 == 0 {
			header = "NATS/1.0\r\nA: b\r\n\r\n"
		}
		b = encode(t, b, uint64(i+1), fmt.Sprintf("s.%d", i), header, fmt.Sprintf("payload %d", i))
		if i%5 == 4 {
			b = encode(t, b, uint64(i)|tombstoneBit, "", "", "")
		}
	}
	return b
}

// covers checks that good records and gaps fill the block without overlap, in order.
func covers(t *testing.T, b []byte) {
	t.Helper()
	at := map[int]int{}
	gaps := scan(b, testHash(t), 0, func(r raw) { at[r.off] = r.size })
	for _, g := range gaps {
		if _, ok := at[g.off]; ok || g.size <= 0 {
			t.Fatalf("gap at %d of %d bytes", g.off, g.size)
		}
		at[g.off] = g.size
	}
	off := 0
	for off < len(b) {
		size, ok := at[off]
		if !ok {
			t.Fatalf("nothing begins at %d of %d: %+v", off, len(b), gaps)
		}
		off += size
	}
	if off != len(b) {
		t.Fatalf("the pieces end at %d of %d", off, len(b))
	}
}

func FuzzScan(f *testing.F) {
	b := testBlock(f, 12)
	f.Add(b)
	f.Add(b[:len(b)-11])
	f.Add(append(bytes.Clone(b[:100]), b...))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{30, 0, 0, 0}, 100))
	f.Fuzz(func(t *testing.T, b []byte) { covers(t, b) })
}

func FuzzDecompress(f *testing.F) {
	f.Add(compressed(f, testBlock(f, 40)))
	f.Add([]byte("cmp\x01\x80\x80\x01\xff\x06\x00\x00S2sTwO\x00\x09\x00\x00abcd\xff\xff\xff\x01x12345678"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l loader
		if dec, _, ok := l.decompress(b); ok {
			if len(dec) > maxDecoded+sumLen {
				t.Fatalf("%d bytes from %d", len(dec), len(b))
			}
			covers(t, dec[:min(len(dec), 1<<16)])
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte{indexMagic, 4, 1, 1, 1, 0, 1, 0, 1, 1, 'a', 1, 1, 1, 1, 1, 30, 1, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{idxMagic, idxOldVersion, 1, 30, 1, 0, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 1})
	f.Add([]byte{setMagic, 2, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := decodeIndex(b); err == nil {
			x.consistent()
		}
		if x, _, err := decodeBlockIndex(b, 1); err == nil {
			x.deleted.has(x.first)
		}
		if s, _, err := decodeSet(b); err == nil {
			for base := range s {
				s.has(base)
			}
		}
	})
}

// compressed is a block as nats-server compresses it.
func compressed(t testing.TB, b []byte) []byte {
	t.Helper()
	var body bytes.Buffer
	w := s2.NewWriter(&body)
	if _, err := w.Write(b[:len(b)-sumLen]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := binary.AppendUvarint(bytes.Clone(compressMagic), uint64(len(b)))
	return append(append(out, body.Bytes()...), b[len(b)-sumLen:]...)
}

func TestDecompress(t *testing.T) {
	want := testBlock(t, 60_000) // more than one chunk
	var l loader
	got, why, ok := l.decompress(compressed(t, want))
	if !ok || why != "" || !bytes.Equal(got, want) {
		t.Fatalf("ok %v, %q, %d bytes of %d", ok, why, len(got), len(want))
	}
	// An uncompressed block whose first length happens to spell "cmp" and 1 is none.
	if _, _, ok := l.decompress(append([]byte("cmp\x01"), make([]byte, 100)...)); ok {
		t.Error("an uncompressed block was decompressed")
	}
}

// TestBrokenChunk checks that a chunk which does not decode costs only its own records.
func TestBrokenChunk(t *testing.T) {
	want := testBlock(t, 60_000)
	b := compressed(t, want)
	for _, at := range []int{40, len(b) / 2, len(b) - 100} {
		c := bytes.Clone(b)
		for i := range 16 {
			c[at+i] ^= 0xa5
		}
		var l loader
		got, why, ok := l.decompress(c)
		if !ok || len(got) != len(want) {
			t.Fatalf("at %d: ok %v, %q, %d bytes of %d", at, ok, why, len(got), len(want))
		}
		n := 0
		gaps := scan(got, testHash(t), 0, func(r raw) { n++ })
		if len(gaps) == 0 || n < 20_000 || n >= 72_000 {
			t.Errorf("at %d: %d records, %d gaps, %q", at, n, len(gaps), why)
		}
	}
}

// TestGarbageIsCheap bounds the work on blocks that are made to be expensive: every offset looks like the head of a long record.
func TestGarbageIsCheap(t *testing.T) {
	b := make([]byte, 8<<20)
	for i := 0; i < len(b)-20; i += 20 {
		binary.LittleEndian.PutUint32(b[i:], 4<<20)
		binary.LittleEndian.PutUint64(b[i+4:], 7)
		binary.LittleEndian.PutUint64(b[i+12:], 2*minTime)
	}
	random := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for name, b := range map[string][]byte{"heads": b, "random": random, "zeros": make([]byte, 8<<20)} {
		start := time.Now()
		gaps := scan(b, testHash(t), 0, func(raw) { t.Errorf("%s: a record was found", name) })
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if len(gaps) > 2 {
			t.Errorf("%s: got %d gaps, the first %+v", name, len(gaps), gaps[0])
		}
	}
}

// TestGuesses checks the sequences that are guessed for bad records.
func TestGuesses(t *testing.T) {
	for _, c := range []struct{ seq, low, next, want uint64 }{
		{5, 4, 6, 5},         // what stands there fits
		{77, 4, 6, 5},        // it does not, the neighbours leave one
		{77, 4, 100, 77},     // it may be
		{0, 4, 0, 5},         // the end of the block
		{1 << 60, 4, 0, 5},   // impossible, at the end
		{1 << 60, 0, 9, 8},   // at the beginning
		{0, 0, 1, 0},         // there is no sequence below 1
		{0, 0, 0, 0},         // nothing is known
		{4, 4, 5, 0},         // there is no room between the neighbours
		{1 << 60, 0, 0, 0},   // nothing else is known
		{12345, 0, 0, 12345}, // nothing speaks against it
	} {
		if got := guess(c.seq, c.low, c.next); got != c.want {
			t.Errorf("guess(%d, %d, %d) = %d, want %d", c.seq, c.low, c.next, got, c.want)
		}
	}
}

func TestSets(t *testing.T) {
	for _, words := range []int{setOldWords, setWords} {
		b := []byte{setMagic, 2}
		if words == setOldWords {
			b[1] = 1
		}
		span := uint64(words * bitsPerWord)
		b = binary.LittleEndian.AppendUint32(b, 2)
		b = binary.LittleEndian.AppendUint32(b, 3)
		for _, base := range []uint64{3 * span, span} {
			b = binary.LittleEndian.AppendUint64(b, base)
			for i := range words {
				w := uint64(0)
				if i == words-1 {
					w = 1 << 63
				}
				b = binary.LittleEndian.AppendUint64(b, w)
			}
			b = binary.LittleEndian.AppendUint16(b, 1)
		}
		s, rest, err := decodeSet(append(b, 42))
		if err != nil || len(rest) != 1 || rest[0] != 42 {
			t.Fatalf("%d words: rest %v, %v", words, rest, err)
		}
		for _, seq := range []uint64{4*span - 1, 2*span - 1} {
			if !s.has(seq) || s.has(seq-1) || s.has(seq+1) {
				t.Errorf("%d words: set is wrong around %d", words, seq)
			}
		}
		for n := range b {
			if _, _, err := decodeSet(b[:n]); err == nil {
				t.Fatalf("%d words: %d of %d bytes were enough", words, n, len(b))
			}
		}
	}
}

func TestMessageTTL(t *testing.T) {
	for h, want := range map[string]int64{
		"NATS/1.0\r\nNats-TTL: 10\r\n\r\n":    10,
		"NATS/1.0\r\nNats-TTL:1m\r\n\r\n":     60,
		"NATS/1.0\r\nNats-TTL: never\r\n\r\n": -1,
		"NATS/1.0\r\nNats-TTL: x\r\n\r\n":     0,
		"NATS/1.0\r\nA: b\r\n\r\n":            0,
	} {
		if got := messageTTL([]byte(h)); got != want {
			t.Errorf("%q: got %d, want %d", h, got, want)
		}
	}
}
