package access

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"time"
)

// ErrDamaged is wrapped by errors about a copy of the index on disk that is not what was written. Nothing of it is used.
var ErrDamaged = errors.New("damaged")

// Lineage tells streams of the same name apart: when each was created.
type Lineage [NumBuckets]string

// Header begins a snapshot.
type Header struct {
	Schema     int       `json:"schema"`
	Generation uint64    `json:"generation"` // journals of this and later generations continue it
	Saved      time.Time `json:"saved"`
	Revisions  Revisions `json:"revisions"`
	Lineage    Lineage   `json:"lineage"`
}

// A snapshot is text: the header as a line of JSON, a line "<bucket> <revision> <key> <record as JSON>" for each record, a line
// "quarantined <bucket> <revision> <key> <quoted reason>" for each record that was not understood, and the checksum of all that in the last line.
const (
	quarantinedWord = "quarantined"
	checksumPrefix  = "sha256 "
	maxSnapshotLine = MaxRecord + 1024
)

// dumped is a record on its way to a snapshot.
type dumped struct {
	bucket   Bucket
	key      string
	revision uint64
	value    any
	why      string // of a quarantined one
}

// dump copies the records under the lock; what is slow happens afterwards.
func (x *Index) dump() (Revisions, []dumped) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]dumped, 0, len(x.users)+len(x.roles)+len(x.rooms)+len(x.rights))
	for _, u := range x.users {
		all = append(all, dumped{bucket: Users, key: u.Name, revision: u.revision, value: u.User})
	}
	for _, r := range x.roles {
		if r.revision > 0 {
			all = append(all, dumped{bucket: Roles, key: r.Name, revision: r.revision, value: r.Role})
		}
	}
	for _, r := range x.rooms {
		all = append(all, dumped{bucket: Rooms, key: r.Name, revision: r.revision, value: r.Room})
	}
	for name, rooms := range x.rights {
		for room, level := range rooms {
			m := Member{Schema: Schema, Room: room, User: name, Level: level}
			all = append(all, dumped{bucket: Members, key: MemberKey(room, name), revision: 1, value: m})
		}
	}
	for b, byKey := range x.quarantine {
		for _, q := range byKey {
			all = append(all, dumped{bucket: b, key: q.Key, revision: q.Revision, why: q.Why})
		}
	}
	return x.revisions, all
}

// WriteSnapshot writes everything that the index knows. The header's schema, time and revisions are filled in.
func (x *Index) WriteSnapshot(out io.Writer, h Header) error {
	revisions, all := x.dump()
	h.Schema, h.Saved, h.Revisions = Schema, time.Now().UTC(), revisions
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(out, sum), 1<<16)
	head, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode the header: %w", err)
	}
	_, _ = w.Write(append(head, '\n')) // Flush returns the first error
	for _, d := range all {
		if err := d.write(w); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	if _, err := io.WriteString(out, checksumPrefix+hex.EncodeToString(sum.Sum(nil))+"\n"); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

func (d dumped) write(w io.Writer) error {
	if d.why != "" {
		_, err := fmt.Fprintf(w, "%s %s %d %s %q\n", quarantinedWord, d.bucket, d.revision, d.key, d.why)
		return err
	}
	value, err := json.Marshal(d.value)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", d.bucket, d.key, err)
	}
	_, err = fmt.Fprintf(w, "%s %d %s %s\n", d.bucket, d.revision, d.key, value)
	return err
}

// ReadSnapshot makes an index of a snapshot, all or nothing.
func ReadSnapshot(in io.Reader) (*Index, Header, error) {
	sum := sha256.New()
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 1<<16), maxSnapshotLine)
	var h Header
	if !sc.Scan() {
		return nil, h, fmt.Errorf("snapshot: %w: it has no header", ErrDamaged)
	}
	if err := json.Unmarshal(sc.Bytes(), &h); err != nil {
		return nil, h, fmt.Errorf("snapshot: %w: header: %w", ErrDamaged, err)
	}
	if h.Schema != Schema {
		return nil, h, fmt.Errorf("snapshot: %w: its schema is %d, and this build knows %d", ErrInvalid, h.Schema, Schema)
	}
	addLine(sum, sc.Bytes())
	x := NewIndex()
	for sc.Scan() {
		line := sc.Bytes()
		if want, ok := bytes.CutPrefix(line, []byte(checksumPrefix)); ok {
			return x.finish(h, string(want), sum, sc)
		}
		addLine(sum, line)
		if err := x.addLine(string(line)); err != nil {
			return nil, h, err
		}
	}
	return nil, h, fmt.Errorf("snapshot: %w: it ends before its checksum (%w)", ErrDamaged, errors.Join(sc.Err(), io.ErrUnexpectedEOF))
}

func addLine(sum hash.Hash, line []byte) {
	_, _ = sum.Write(line) // a hash takes everything
	_, _ = sum.Write([]byte{'\n'})
}

func (x *Index) finish(h Header, want string, sum hash.Hash, sc *bufio.Scanner) (*Index, Header, error) {
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return nil, h, fmt.Errorf("snapshot: %w: its checksum is %s, and it says %q", ErrDamaged, got, want)
	}
	if sc.Scan() {
		return nil, h, fmt.Errorf("snapshot: %w: it goes on after its checksum", ErrDamaged)
	}
	x.revisions = h.Revisions
	return x, h, nil
}

func (x *Index) addLine(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	quarantined := word == quarantinedWord
	if quarantined {
		word, rest, _ = strings.Cut(rest, " ")
	}
	b, ok := bucketOf(word)
	revision, rest2, ok2 := strings.Cut(rest, " ")
	key, value, ok3 := strings.Cut(rest2, " ")
	n, err := strconv.ParseUint(revision, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || key == "" {
		return fmt.Errorf("snapshot: %w: a line is no record", ErrDamaged)
	}
	if !quarantined {
		x.apply(Record{Bucket: b, Key: key, Revision: n, Value: []byte(value)})
		return nil
	}
	why, err := strconv.Unquote(value)
	if err != nil || why == "" {
		return fmt.Errorf("snapshot: %w: a line is no record", ErrDamaged)
	}
	x.quarantine[b][key] = Quarantine{Bucket: b, Key: key, Revision: n, Why: why}
	return nil
}

func bucketOf(word string) (Bucket, bool) {
	for b := range Bucket(NumBuckets) {
		if b.String() == word {
			return b, true
		}
	}
	return 0, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A journal is text: a line "<crc32c of the rest> <bucket> <revision> <quoted key> <quoted value>" for each record.
func appendJournal(buf []byte, r Record) []byte {
	line := fmt.Appendf(nil, "%s %d %q %q", r.Bucket, r.Revision, r.Key, r.Value)
	return fmt.Appendf(buf, "%08x %s\n", crc32.Checksum(line, castagnoli), line)
}

// parseJournal reads the records of a journal. good is the length of what is whole: a line at the very end that is not is one that was being
// written when the node died, and nobody was told of it. Anything else that is not a record is damage.
func parseJournal(text []byte) (records []Record, good int, err error) {
	for good < len(text) {
		end := bytes.IndexByte(text[good:], '\n')
		if end < 0 {
			return records, good, nil
		}
		r, err := parseJournalLine(string(text[good : good+end]))
		if err != nil {
			if good+end+1 == len(text) {
				return records, good, nil
			}
			return nil, 0, fmt.Errorf("journal: %w at byte %d: %w", ErrDamaged, good, err)
		}
		records = append(records, r)
		good += end + 1
	}
	return records, good, nil
}

func parseJournalLine(line string) (Record, error) {
	var sum uint32
	crc, rest, _ := strings.Cut(line, " ")
	n, err := strconv.ParseUint(crc, 16, 32)
	if sum = uint32(n); err != nil || len(crc) != 8 || crc32.Checksum([]byte(rest), castagnoli) != sum {
		return Record{}, errors.New("the checksum is wrong")
	}
	word, rest, _ := strings.Cut(rest, " ")
	b, ok := bucketOf(word)
	revision, rest, _ := strings.Cut(rest, " ")
	rev, err := strconv.ParseUint(revision, 10, 64)
	if !ok || err != nil {
		return Record{}, errors.New("it is no record")
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return Record{}, errors.New("its key is not quoted")
	}
	key, err1 := strconv.Unquote(quoted)
	value, err2 := strconv.Unquote(strings.TrimPrefix(rest[len(quoted):], " "))
	if err := errors.Join(err1, err2); err != nil {
		return Record{}, fmt.Errorf("it is not quoted: %w", err)
	}
	return Record{Bucket: b, Key: key, Revision: rev, Value: []byte(value)}, nil
}
