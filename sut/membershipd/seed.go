package membershipd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
	"github.com/unibus/unibus/sut/secret"
)

const (
	settingSeed   = control.ReservedPrefix + "seed" // the record of the import, in the bucket of settings
	seedMarker    = "seed.json"                     // in the data directory: the same, so that it is known without quorum
	seedInterval  = time.Second                     // between two attempts
	seedUsersMax  = 16
	seedImporting = "importing"
	seedDone      = "done"
	seedRefused   = "refused" // users existed before any seed file was imported
)

// ErrSeed is wrapped by errors about a seed file. After the cluster has formed, another file than the one that was imported is refused.
var ErrSeed = errors.New("seed file")

// SeedFile is what a seed file holds: the first administrators of a cluster. It has no secret, but who can change it before the first start owns the cluster.
type SeedFile struct {
	Schema int                      `json:"schema"`
	Users  []control.UserAddRequest `json:"users"`
}

// AddToSeedFile adds a user to the seed file, which is made if it does not exist. The same name and key again changes nothing. The role must be a built-in one.
func AddToSeedFile(path, name, nkey, role string) (changed bool, err error) {
	f, err := readSeedFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = SeedFile{Schema: access.Schema}, nil
	}
	if err != nil {
		return false, err
	}
	for _, u := range f.Users {
		if u.Name == name && u.Key == nkey {
			return false, nil
		}
	}
	f.Users = append(f.Users, control.UserAddRequest{Name: name, Key: nkey, Role: role})
	if err := f.check(); err != nil {
		return false, err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return false, fmt.Errorf("encode the seed file: %w", err)
	}
	return true, writeOver(path, append(b, '\n'))
}

// check wants users that can be added one after the other, at least one administrator among them.
func (f SeedFile) check() error {
	if f.Schema != access.Schema {
		return fmt.Errorf("%w: its schema is %d, and this build knows %d", ErrSeed, f.Schema, access.Schema)
	}
	if len(f.Users) == 0 || len(f.Users) > seedUsersMax {
		return fmt.Errorf("%w: %d users, want 1 to %d", ErrSeed, len(f.Users), seedUsersMax)
	}
	names, keys, admin := map[string]bool{}, map[string]bool{}, false
	for _, u := range f.Users {
		if err := checkAdd(u); err != nil {
			return fmt.Errorf("%w: %w", ErrSeed, err)
		}
		if !slices.ContainsFunc(access.Builtins(), func(r access.Role) bool { return r.Name == u.Role }) {
			return fmt.Errorf("%w: the role %q of %q is not built in, and no other exists before the cluster does", ErrSeed, u.Role, u.Name)
		}
		if skeleton := access.Skeleton(u.Name); names[skeleton] || keys[u.Key] {
			return fmt.Errorf("%w: the name (or one that looks like it) or the key of %q is in it with another key or name", ErrSeed, u.Name)
		}
		names[access.Skeleton(u.Name)], keys[u.Key] = true, true
		admin = admin || u.Role == access.RoleAdmin
	}
	if !admin {
		return fmt.Errorf("%w: nobody in it has the role %q", ErrSeed, access.RoleAdmin)
	}
	return nil
}

func readSeedFile(path string) (SeedFile, error) {
	b, err := secret.Read(path)
	if err != nil {
		return SeedFile{}, fmt.Errorf("read the seed file: %w", err)
	}
	return parseSeedFile(b)
}

func parseSeedFile(b []byte) (SeedFile, error) {
	var f SeedFile
	if err := json.Unmarshal(b, &f); err != nil {
		return SeedFile{}, fmt.Errorf("%w: it is not the JSON of one: %w", ErrSeed, err)
	}
	return f, f.check()
}

func (f SeedFile) digest() string {
	b, err := json.Marshal(f)
	if err != nil {
		return "" // never the digest of anything
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// writeOver replaces a file completely or not at all; nobody else can read it.
func writeOver(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	_, err = tmp.Write(content)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// seedState is what the cluster remembers of its import.
type seedState struct {
	State  string    `json:"state"` // importing, done or refused
	Digest string    `json:"digest"`
	Node   string    `json:"node"`
	When   time.Time `json:"when"`
}

// seeder imports the seed file of this node, once in the cluster's life.
//
//	no record of an import, and no user  -> claim it: "importing" -> add the users -> "done"
//	"importing" with this file's digest  -> a node died while it did that: go on
//	"done" with this file's digest       -> nothing to do; say that the flag can go
//	anything else                        -> the file is refused
type seeder struct {
	api    *api
	log    *slog.Logger
	dir    string
	file   *SeedFile
	status atomic.Pointer[string]
}

// loadSeed reads the seed file, if there is one, and refuses it if this node knows already that another one was imported.
func loadSeed(c Config, log *slog.Logger) (*SeedFile, error) {
	if c.SeedFile == "" {
		return nil, nil
	}
	marker, known := readSeedMarker(c.DataDir)
	f, err := readSeedFile(c.SeedFile)
	if errors.Is(err, fs.ErrNotExist) && known {
		log.Warn("the seed file is gone, which is in order: the cluster has its users. Take the flag away", "file", c.SeedFile)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case !known, mutant.Planted == mutant.SeedTwice:
		return &f, nil
	case marker.Digest == f.digest() && marker.State == seedDone:
		log.Warn("the seed file was imported when the cluster formed, and is not looked at again. Take the flag away", "file", c.SeedFile, "imported", marker.When)
		return nil, nil
	}
	return nil, fmt.Errorf("%w: %w: refused: the cluster has had its first users since %s, by node %s. Add others with \"user add --store kv\", and take --seed-file away",
		ErrConfig, ErrSeed, marker.When.Format(time.RFC3339), marker.Node)
}

func readSeedMarker(dir string) (seedState, bool) {
	b, err := os.ReadFile(filepath.Join(dir, seedMarker))
	if err != nil {
		return seedState{}, false
	}
	var s seedState
	return s, json.Unmarshal(b, &s) == nil && s.State != ""
}

// run goes on until the cluster has decided about the file.
func (s *seeder) run(ctx context.Context) {
	if s.file == nil {
		return
	}
	for ctx.Err() == nil {
		done, err := s.step(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Debug("seed: try again", "error", err)
		}
		if done {
			return
		}
		sleep(ctx, seedInterval)
	}
}

func (s *seeder) step(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := s.api.read(ctx, settingSeed)
	if err != nil {
		return false, err
	}
	var have seedState
	if m.seq > 0 {
		if err := json.Unmarshal(m.data, &have); err != nil {
			return true, s.refuse(have, "the record of the import cannot be read")
		}
	}
	switch {
	case m.seq == 0:
		return s.claim(ctx)
	case (have.State == seedImporting || mutant.Planted == mutant.SeedTwice) && have.Digest == s.file.digest():
		return s.add(ctx, have, m.seq)
	}
	return true, s.settle(have)
}

// claim is refused to a cluster that has users already, whoever added them.
func (s *seeder) claim(ctx context.Context) (bool, error) {
	if err := s.api.catchUp(ctx, access.Users); err != nil {
		return false, err
	}
	if !s.api.plane.loaded() {
		return false, errors.New("the users are not loaded yet")
	}
	state := seedState{State: seedImporting, Digest: s.file.digest(), Node: s.api.node, When: time.Now().UTC()}
	if stats := s.api.plane.index.Stats(); stats.Users+stats.Quarantined > 0 {
		state.State = seedRefused
	}
	_, err := s.write(ctx, state, 0)
	return false, err // the next step reads what came of it
}

func (s *seeder) write(ctx context.Context, state seedState, expect uint64) (uint64, error) {
	body, err := json.Marshal(state)
	if err != nil {
		return 0, err
	}
	return s.api.write(ctx, s.caller(), "seed.import", settingSeed, string(body), &expectation{seq: expect})
}

// caller is who the audit trail says it was.
func (s *seeder) caller() caller {
	return caller{key: "seed-file", control: access.ControlWrite, own: true}
}

func (s *seeder) add(ctx context.Context, state seedState, expect uint64) (bool, error) {
	for _, u := range s.file.Users {
		_, err := s.api.commit(ctx, s.caller(), "seed.import", access.Users, func(caller) (plan, error) {
			if mutant.Planted == mutant.SeedTwice {
				return plan{key: u.Name, record: access.User{Schema: access.Schema, Name: u.Name, Key: u.Key, Role: u.Role, Created: time.Now().UTC()}}, nil
			}
			return s.api.planAdd(u, nil)
		})
		var e *control.Error
		if errors.As(err, &e) && e.Code == control.Conflict {
			s.log.Error("a user of the seed file is not added", "user", u.Name, "error", err)
			continue
		}
		if err != nil {
			return false, err
		}
	}
	state.State = seedDone
	_, err := s.write(ctx, state, expect)
	if err == nil {
		s.log.Info("the seed file is imported", "users", len(s.file.Users))
	}
	if mutant.Planted == mutant.SeedTwice {
		return err == nil, err
	}
	return false, err
}

// settle remembers on disk what the cluster has decided.
func (s *seeder) settle(have seedState) error {
	b, err := json.Marshal(have)
	if err != nil {
		return err
	}
	if err := writeOver(filepath.Join(s.dir, seedMarker), append(b, '\n')); err != nil {
		return err
	}
	switch {
	case have.State == seedDone && have.Digest == s.file.digest():
		s.tell("imported")
		return nil
	case have.State == seedRefused:
		return s.refuse(have, "the cluster had users before")
	}
	return s.refuse(have, "another one was imported")
}

func (s *seeder) refuse(have seedState, why string) error {
	s.tell("refused: " + why)
	s.log.Error("the seed file is refused; take --seed-file away", "why", why, "decided", have.When, "by", have.Node)
	return nil
}

func (s *seeder) tell(what string) { s.status.Store(&what) }
