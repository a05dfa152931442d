// Package store reads the JetStream file store of a stopped nats-server, so that each replica's own copy of a stream can be judged
// from the files of that node and not from what a leader says about it. It writes nothing and needs no running server.
//
// It computes what the server's own recovery would compute: index.db where it is current, else the blocks with their tombstones,
// then the stream's limits. It departs from recovery in one way, on purpose: nats-server drops the rest of a block at the first
// bad record and says nothing, this package lists the damage and reads on behind it.
//
// The record layout is the same from nats-server 2.9 to 2.15. What differs is beside the blocks: 2.9 keeps an N.idx per block and
// has neither tombstones nor index.db; 2.10 writes index.db version 1, 2.11 version 2 (a count of TTLs per block), 2.12 version 3
// (a count of schedules), 2.15 version 4 (the last block of every subject). All of them are read.
package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/minio/highwayhash"
)

// Names that nats-server gives to the parts of a store.
const (
	jetstreamDir = "jetstream"    // below store_dir
	streamsDir   = "streams"      // below an account
	raftDir      = "_js_"         // below the system account: logs of the raft groups
	msgsDir      = "msgs"         // below a stream
	newMsgsDir   = "__new_msgs__" // a purge that was interrupted: holds the block that replaces msgs
	metaFile     = "meta.inf"
	metaSumFile  = "meta.sum"
	metaKeyFile  = "meta.key" // only where the store is encrypted
	indexFile    = "index.db"
)

// Bounds on what is read into memory. The largest block that any release writes is far below.
const (
	maxMetaFile  = 16 << 20
	maxIndexFile = 512 << 20
	maxBlockFile = 256 << 20
	maxDecoded   = 64 << 20 // a compressed block after decompression: the largest block and the largest record fit twice
)

// Errors about a store as a whole. Damage inside of blocks is not an error, see Copy.Damaged.
var (
	ErrNoStore   = errors.New("there is no JetStream store")
	ErrEncrypted = errors.New("the store is encrypted")
	ErrMeta      = errors.New("the stream's meta data is not readable")
	ErrChanged   = errors.New("the store changed while it was read: is the node still running?")
)

// Config is what meta.inf says of a stream, as far as it decides about the copy.
type Config struct {
	Name        string        `json:"name"`
	Created     time.Time     `json:"Created"`
	Subjects    []string      `json:"subjects,omitempty"`
	Retention   string        `json:"retention"`
	Storage     string        `json:"storage"`
	Discard     string        `json:"discard"`
	Replicas    int           `json:"num_replicas"`
	MaxMsgs     int64         `json:"max_msgs"`
	MaxBytes    int64         `json:"max_bytes"`
	MaxAge      time.Duration `json:"max_age"`
	MaxMsgsPer  int64         `json:"max_msgs_per_subject"`
	FirstSeq    uint64        `json:"first_seq,omitempty"`
	Compression string        `json:"compression"`
	AllowMsgTTL bool          `json:"allow_msg_ttl,omitempty"`
	MarkerTTL   time.Duration `json:"subject_delete_marker_ttl,omitempty"`
	PersistMode string        `json:"persist_mode,omitempty"`
}

// async tells whether nats-server may hold acked records of this stream in memory only: the raft log has them.
func (c Config) async() bool { return c.Replicas > 1 || c.PersistMode == "async" }

// Stream is one stream's directory, or one raft group's log, which has the same layout.
type Stream struct {
	Account string
	Name    string // the directory's name, which is the stream's
	Dir     string
	Config  Config
	// Err is why the meta data could not be read: ErrEncrypted, ErrMeta or an error of the file system. Read returns it.
	Err error
}

// Target is how a record of a run names the stream.
func (s Stream) Target() string { return s.Account + "/" + s.Name }

// Streams finds the streams of all accounts, in order of account and name. root is the server's store_dir or the jetstream
// directory below it. A stream whose meta data cannot be read is listed too, with Err set.
func Streams(root string) ([]Stream, error) { return find(root, streamsDir) }

// RaftGroups finds the logs of the raft groups, the meta group among them. Account is the system account.
func RaftGroups(root string) ([]Stream, error) { return find(root, raftDir) }

func find(root, kind string) ([]Stream, error) {
	base, err := storeBase(root)
	if err != nil {
		return nil, err
	}
	accounts, err := subdirs(base)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	var out []Stream
	for _, acc := range accounts {
		names, err := subdirs(filepath.Join(base, acc, kind))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list streams of account %s: %w", acc, err)
		}
		for _, n := range names {
			out = append(out, open(acc, n, filepath.Join(base, acc, kind, n)))
		}
	}
	return out, nil
}

// storeBase is the directory that holds the accounts.
func storeBase(root string) (string, error) {
	below := filepath.Join(root, jetstreamDir)
	if fi, err := os.Stat(below); err == nil && fi.IsDir() {
		return below, nil
	}
	names, err := subdirs(root)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	if filepath.Base(filepath.Clean(root)) == jetstreamDir {
		return root, nil
	}
	for _, n := range names {
		for _, kind := range []string{streamsDir, raftDir} {
			if fi, err := os.Stat(filepath.Join(root, n, kind)); err == nil && fi.IsDir() {
				return root, nil
			}
		}
	}
	return "", fmt.Errorf("%w below %s", ErrNoStore, root)
}

func subdirs(dir string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range es {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// open reads the meta data of one directory.
func open(account, name, dir string) Stream {
	s := Stream{Account: account, Name: name, Dir: dir}
	s.Config, s.Err = readMeta(dir, name)
	return s
}

func readMeta(dir, name string) (Config, error) {
	if _, err := os.Stat(filepath.Join(dir, metaKeyFile)); err == nil {
		return Config{}, ErrEncrypted
	}
	b, err := readFile(filepath.Join(dir, metaFile), maxMetaFile)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	sum, err := readFile(filepath.Join(dir, metaSumFile), maxMetaFile)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	h, err := newHash(name)
	if err != nil {
		return Config{}, err
	}
	_, _ = h.Write(b) // a hash never fails to write
	if hex.EncodeToString(h.Sum(nil)) != string(bytes.TrimSpace(sum)) {
		return Config{}, fmt.Errorf("%w: checksum of %s is wrong", ErrMeta, metaFile)
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	if c.Name != name {
		return Config{}, fmt.Errorf("%w: the directory %s holds the stream %q", ErrMeta, name, c.Name)
	}
	return c, nil
}

// newHash is nats-server's checksum with the key that it derives from a name.
func newHash(name string) (*highwayhash.Digest64, error) {
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return nil, fmt.Errorf("make checksum: %w", err)
	}
	return h, nil
}

// readFile reads a whole file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing can be lost
	return readAll(f, limit, nil)
}

func readAll(f *os.File, limit int64, buf []byte) ([]byte, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than any release writes", f.Name(), fi.Size())
	}
	if int64(cap(buf)) < fi.Size() {
		buf = make([]byte, fi.Size())
	}
	buf = buf[:fi.Size()]
	if _, err := io.ReadFull(f, buf); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return buf, nil
}
