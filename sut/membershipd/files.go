package membershipd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
	"github.com/unibus/unibus/sut/secret"
)

const (
	identityFile = "node.json" // in the data directory: whose it is
	lockFile     = "lock"      // in the data directory: held while a daemon runs on it
	secretMode   = 0o600
	dirMode      = 0o700
)

func readClusterPass(path string) (string, error) {
	b, err := secret.Read(path)
	if err != nil {
		return "", fmt.Errorf("read the cluster password: %w", err)
	}
	if len(b) == 0 {
		return "", fmt.Errorf("read the cluster password: %s is empty", path)
	}
	if bytes.ContainsAny(b, "\r\n") {
		return "", fmt.Errorf("read the cluster password: %s has more than one line", path)
	}
	return string(b), nil
}

// LoadIdentity reads a user nkey's seed from a file that only its owner may read.
func LoadIdentity(path string) (nkeys.KeyPair, error) {
	seed, err := secret.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read the nkey seed: %w", err)
	}
	kp, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read the nkey seed: %s does not hold one", path)
	}
	if pub, err := kp.PublicKey(); err != nil || !nkeys.IsValidPublicUserKey(pub) {
		return nil, fmt.Errorf("read the nkey seed: %s holds a key that is not a user's", path)
	}
	return kp, nil
}

// loadOrCreateIdentity returns the node's own identity, which is made once and kept for ever.
func loadOrCreateIdentity(path string) (nkeys.KeyPair, error) {
	kp, err := LoadIdentity(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return kp, err
	}
	if kp, err = nkeys.CreateUser(); err != nil {
		return nil, fmt.Errorf("create the internal identity: %w", err)
	}
	seed, err := kp.Seed()
	if err != nil {
		return nil, fmt.Errorf("create the internal identity: %w", err)
	}
	if err := writeNew(path, append(seed, '\n')); err != nil {
		return nil, fmt.Errorf("create the internal identity: %w", err)
	}
	return kp, nil
}

// writeNew writes a file that did not exist, so that it is there completely or not at all after a crash.
func writeNew(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the link below, or not wanted
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(secretMode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike a rename, this never replaces
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// staticKey is a client that may log in without any bucket.
type staticKey struct {
	admin  bool // administers the cluster
	system bool // is let into the account SYS, for the tools of NATS, and nowhere else
}

// What may stand behind a static key.
const (
	staticAdmin  = "admin"
	staticSystem = "system"
)

// readStaticKeys parses lines `<public user nkey> [admin|system]`.
func readStaticKeys(path string) (map[string]staticKey, error) {
	if path == "" {
		return map[string]staticKey{}, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the static keys: %w", err)
	}
	return parseStaticKeys(path, b)
}

func parseStaticKeys(path string, b []byte) (map[string]staticKey, error) {
	keys := map[string]staticKey{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if !nkeys.IsValidPublicUserKey(fields[0]) {
			return nil, fmt.Errorf("read the static keys: %s:%d does not begin with a public user nkey", path, n)
		}
		key := staticKey{}
		if len(fields) == 2 {
			key = staticKey{admin: fields[1] == staticAdmin, system: fields[1] == staticSystem}
		}
		if len(fields) > 2 || len(fields) == 2 && key == (staticKey{}) {
			return nil, fmt.Errorf("read the static keys: %s:%d: the only words after a key are %q and %q, and only one of them", path, n, staticAdmin, staticSystem)
		}
		if _, twice := keys[fields[0]]; twice {
			return nil, fmt.Errorf("read the static keys: %s:%d names a key for the second time", path, n)
		}
		keys[fields[0]] = key
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read the static keys: %w", err)
	}
	return keys, nil
}

// owner is what the data directory remembers. The server's name is the identity of its Raft peer: a store under another name would
// be a new member to the others, and the old one would count against the quorum for ever.
type owner struct {
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
}

// claimDataDir creates and locks the data directory, and refuses one that belongs to another node.
func claimDataDir(c Config) (release func() error, err error) {
	if err := os.MkdirAll(c.DataDir, dirMode); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(c.DataDir, lockFile), os.O_CREATE|os.O_RDWR, secretMode)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock the data directory: another daemon runs on %s: %w", c.DataDir, err)
	}
	if err := checkOwner(c); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock.Close, nil
}

func checkOwner(c Config) error {
	path := filepath.Join(c.DataDir, identityFile)
	want := owner{Name: c.Name, Cluster: c.ClusterName}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = json.Marshal(want); err != nil {
			return fmt.Errorf("claim the data directory: %w", err)
		}
		if err := writeNew(path, append(b, '\n')); err != nil {
			return fmt.Errorf("claim the data directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read whose the data directory is: %w", err)
	}
	var have owner
	if err := json.Unmarshal(b, &have); err != nil {
		return fmt.Errorf("read whose the data directory is: %s: %w", path, err)
	}
	if have != want && mutant.Planted != mutant.ForeignIdentity {
		return fmt.Errorf("%w: the data directory %s belongs to node %q of cluster %q, and this is %q of %q",
			ErrConfig, c.DataDir, have.Name, have.Cluster, c.Name, c.ClusterName)
	}
	return nil
}
