package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/s2"
)

// A compressed block: "cmp", the algorithm, a size as a varint, an S2 stream of everything but the last record's checksum, and that
// checksum as it is. The size should be that before compression, but 2.11 and 2.12.1 write the compressed one: it is not used. The
// last record's checksum shows whether the end is there.
const (
	algS2        = 1
	maxS2Chunk   = 4 << 20 // decoded size of one chunk of an S2 stream
	chunkHead    = 4
	chunkCRC     = 4
	chunkData    = 0x00
	chunkPlain   = 0x01
	chunkSkip    = 0x80 // and above: may be skipped
	chunkStreamH = 0xff
)

var (
	compressMagic = []byte{'c', 'm', 'p', algS2}
	s2Magics      = [][]byte{[]byte("\xff\x06\x00\x00S2sTwO"), []byte("\xff\x06\x00\x00sNaPpY")}
)

// blockFile is one N.blk.
type blockFile struct {
	index uint32
	path  string
}

// blockFiles lists the blocks of a directory in order.
func blockFiles(dir string) ([]blockFile, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []blockFile
	for _, e := range es {
		n, ok := strings.CutSuffix(e.Name(), ".blk")
		if !ok || e.IsDir() {
			continue
		}
		i, err := strconv.ParseUint(n, 10, 32)
		if err != nil || strconv.FormatUint(i, 10) != n {
			continue
		}
		out = append(out, blockFile{uint32(i), filepath.Join(dir, e.Name())})
	}
	sortBlocks(out)
	return out, nil
}

// loader reads blocks into buffers that it uses again.
type loader struct {
	rawBuf []byte
	decBuf []byte
}

// loaded is a block in memory, valid until the next load.
type loaded struct {
	fileSize int64
	tail     [sumLen]byte // the last bytes of the file: the checksum of the last record
	buf      []byte       // decoded
	why      string       // "" or what could not be decoded
}

func (l *loader) load(path string) (loaded, error) {
	f, err := os.Open(path)
	if err != nil {
		return loaded{}, err
	}
	defer func() { _ = f.Close() }() // opened for reading
	b, err := readAll(f, maxBlockFile, l.rawBuf)
	if err != nil {
		return loaded{}, err
	}
	l.rawBuf = b
	out := loaded{fileSize: int64(len(b)), buf: b}
	if len(b) >= sumLen {
		copy(out.tail[:], b[len(b)-sumLen:])
	}
	if dec, why, ok := l.decompress(b); ok {
		out.buf, out.why = dec, why
	}
	return out, nil
}

// decompress is not ok where the block is not compressed: an uncompressed block may begin with the same four bytes by chance,
// but not with the head of an S2 stream behind them.
func (l *loader) decompress(b []byte) (dec []byte, why string, ok bool) {
	if !bytes.HasPrefix(b, compressMagic) {
		return nil, "", false
	}
	_, n := binary.Uvarint(b[len(compressMagic):])
	if n <= 0 {
		return nil, "", false
	}
	body := b[len(compressMagic)+n:]
	if !bytes.HasPrefix(body, s2Magics[0]) && !bytes.HasPrefix(body, s2Magics[1]) {
		return nil, "", false
	}
	if len(body) < sumLen {
		return nil, "the compressed block is too short", true
	}
	sum := body[len(body)-sumLen:]
	dec, why = inflate(l.decBuf[:0], body[:len(body)-sumLen])
	dec = append(dec, sum...)
	l.decBuf = dec
	return dec, why, true
}

// inflate decodes an S2 stream chunk by chunk. A chunk that does not decode is replaced by zeros, so that the offsets behind
// it stay right; one that decodes with a wrong CRC is kept, because the records have checksums of their own.
func inflate(dst, src []byte) (out []byte, why string) {
	note := func(off int, what string) {
		if why == "" {
			why = fmt.Sprintf("compressed chunk at offset %d: %s", off, what)
		}
	}
	for off := 0; off < len(src); {
		if len(src)-off < chunkHead {
			note(off, "cut short")
			return dst, why
		}
		kind := src[off]
		n := int(src[off+1]) | int(src[off+2])<<8 | int(src[off+3])<<16
		data := src[off+chunkHead:]
		if n > len(data) {
			note(off, "longer than the block")
			return dst, why
		}
		data = data[:n]
		if kind == chunkData || kind == chunkPlain {
			var bad string
			if dst, bad = chunk(dst, kind, data); bad != "" {
				note(off, bad)
			}
			if len(dst) > maxDecoded {
				return dst[:maxDecoded], "the block decodes to more than any release writes"
			}
		} else if kind < chunkSkip {
			note(off, "of an unknown kind")
			return dst, why
		}
		off += chunkHead + n
	}
	return dst, why
}

func chunk(dst []byte, kind byte, data []byte) (out []byte, bad string) {
	if len(data) < chunkCRC {
		return dst, "cut short"
	}
	data = data[chunkCRC:]
	if kind == chunkPlain {
		return append(dst, data...), ""
	}
	n, err := s2.DecodedLen(data)
	if err != nil || n > maxS2Chunk {
		return dst, "its size is impossible"
	}
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := s2.Decode(dst[at:], data); err != nil {
		clear(dst[at:])
		return dst, "does not decode"
	}
	return dst, ""
}
