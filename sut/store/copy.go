package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"time"
)

// Kind of damage.
type Kind string

// Kinds of damage. The first three can be what a crash leaves behind, see Damage.Crash.
const (
	Torn         Kind = "torn"          // the last block ends inside of a record
	BehindIndex  Kind = "behind-index"  // index.db remembers a later sequence than the blocks hold
	BadIndex     Kind = "bad-index"     // index.db is not readable; it is only a cache
	Checksum     Kind = "checksum"      // a record that does not verify
	Unreadable   Kind = "unreadable"    // a block, or a part of one, that cannot be read or decompressed
	MissingBlock Kind = "missing-block" // a current index.db counts messages in a block that is not there
	EmptyBlock   Kind = "empty-block"   // a block without content that is not the last one
	Miscount     Kind = "miscount"      // a block does not hold what a current index counts in it
)

// Damage is one place where a copy is not what nats-server wrote.
type Damage struct {
	Block  uint32 `json:"block"`
	Kind   Kind   `json:"kind"`
	Offset int64  `json:"offset"`        // in the block, after decompression
	Length int64  `json:"length"`        // up to the next readable record
	Seq    uint64 `json:"seq,omitempty"` // guess: the sequence of the message that stood there; 0 where none can be made
	Why    string `json:"why"`
	Last   bool   `json:"last,omitempty"`  // in the last block, which is being written to: the power may have failed before all of it was synced
	Crash  bool   `json:"crash,omitempty"` // a process that was killed may have left this, without anything acknowledged being lost
}

// Copy is what one node holds of one stream.
type Copy struct {
	Stream  Stream
	First   uint64   // as the server would report it
	Last    uint64   //
	Msgs    uint64   // live messages that can be read
	Bytes   uint64   // their size as nats-server counts it: that of the records
	Deleted int      // sequences between First and Last that are not live
	Damaged []Damage // in order of block and offset
	// Digest is sha256 over every live message in order: sequence and timestamp (8 bytes each, little endian), then subject, header
	// and payload, each behind its length (4 bytes). Replicas have the same timestamps: the leader gives them.
	Digest string

	state *recovery
}

// Corrupt counts the damage that a crash alone does not explain.
func (c Copy) Corrupt() int {
	n := 0
	for _, d := range c.Damaged {
		if !d.Crash {
			n++
		}
	}
	return n
}

// Message is a live message. Its slices are valid until the next one.
type Message struct {
	Seq     uint64
	Time    int64 // nanoseconds since 1970, set by the leader
	Subject string
	Header  []byte // as on the wire, with its first line; nil for none
	Payload []byte
}

// digestFormat is hashed first, so that another layout can never give the same digest.
const digestFormat = "unibus-store/1\n"

// Read reads the copy as nats-server would find it if it started now.
func (s Stream) Read(ctx context.Context) (Copy, error) { return s.ReadAt(ctx, time.Now()) }

// ReadAt reads the copy as nats-server would find it at that time, which decides what the stream's maximum age removes. Copies
// that are compared must be read with the same time.
func (s Stream) ReadAt(ctx context.Context, at time.Time) (Copy, error) {
	if s.Err != nil {
		return Copy{}, s.Err
	}
	r, err := recoverStream(ctx, s, at)
	if err != nil {
		return Copy{}, fmt.Errorf("read stream %s: %w", s.Target(), err)
	}
	c := Copy{Stream: s, First: r.first, Last: r.last, Msgs: r.msgs, Bytes: r.bytes, Damaged: r.damage, state: r}
	if r.last >= r.first && r.last > 0 && r.last-r.first+1 > r.msgs {
		c.Deleted = int(r.last - r.first + 1 - r.msgs)
	}
	d := newDigest()
	err = c.messages(ctx, func(m Message) bool { d.add(m); return true })
	if err != nil {
		return Copy{}, fmt.Errorf("read stream %s: %w", s.Target(), err)
	}
	c.Digest = d.sum()
	return c, nil
}

// Messages calls yield for every live message in order of sequence, until it returns false. The blocks are read again for it.
func (c Copy) Messages(yield func(Message) bool) error {
	return c.messages(context.Background(), yield)
}

func (c Copy) messages(ctx context.Context, yield func(Message) bool) error {
	if c.state == nil {
		return errors.New("the copy was not read")
	}
	var load loader
	for _, b := range c.state.blocks {
		if b.msgs == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		l, err := load.load(b.path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
		if l.fileSize != b.fileSize || l.tail != b.tail {
			return fmt.Errorf("%w: block %d", ErrChanged, b.index)
		}
		if more, err := b.messages(l.buf, yield); err != nil || !more {
			return err
		}
	}
	return nil
}

func (b *block) messages(buf []byte, yield func(Message) bool) (more bool, err error) {
	for i := range b.recs {
		p := &b.recs[i]
		if p.dead {
			continue
		}
		if int64(p.off)+int64(p.size) > int64(len(buf)) {
			return false, fmt.Errorf("%w: block %d", ErrChanged, b.index)
		}
		x, why := parse(buf[:p.off+p.size], int(p.off), nil)
		if why != "" || x.seq != p.seq || x.ts != p.ts {
			return false, fmt.Errorf("%w: block %d", ErrChanged, b.index)
		}
		if !yield(Message{Seq: x.seq, Time: x.ts, Subject: string(x.subject), Header: x.header, Payload: x.payload}) {
			return false, nil
		}
	}
	return true, nil
}

// digest is the running sum over messages.
type digest struct {
	h   hash.Hash
	buf []byte
}

func newDigest() *digest {
	d := &digest{h: sha256.New()}
	_, _ = d.h.Write([]byte(digestFormat)) // a hash never fails to write
	return d
}

func (d *digest) add(m Message) {
	d.buf = appendMessage(d.buf[:0], m)
	_, _ = d.h.Write(d.buf) // a hash never fails to write
}

func (d *digest) sum() string { return hex.EncodeToString(d.h.Sum(nil)) }

// appendMessage encodes a message without ambiguity.
func appendMessage(b []byte, m Message) []byte {
	b = binary.LittleEndian.AppendUint64(b, m.Seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Time))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Subject)))
	b = append(b, m.Subject...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Header)))
	b = append(b, m.Header...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Payload)))
	return append(b, m.Payload...)
}
