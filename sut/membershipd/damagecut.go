package membershipd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/unibus/unibus/sut/store"
)

const storeIndex = "index.db" // of a stream: a cache of what the blocks hold

// cutOff cuts every damaged stream off where its damage begins, if this node's own Raft log brings back all that stood behind: the embedded server syncs the
// blocks of replicated streams only when the log is cut back, so after a power failure their ends may be damaged, on all nodes at once, while the log, which
// is synced for every write, has it all. It returns what is left, for the others to be asked about.
func (g *storeGuard) cutOff(ctx context.Context, found []damage, now time.Time) (rest []damage, err error) {
	dirs, err := storeDirs(g.cfg.DataDir)
	if err != nil {
		return found, nil //nolint:nilerr // then nothing is cut; the audit has said so
	}
	byDir, damagedGroup := map[string]storeDir{}, map[string]bool{}
	for _, s := range dirs {
		if rel, err := filepath.Rel(g.cfg.DataDir, s.Dir); err == nil {
			byDir[rel] = s
		}
	}
	for _, d := range found {
		damagedGroup[d.Dir] = d.Group
	}
	var done []damage
	kept := ""
	for _, d := range found {
		s, ok := byDir[d.Dir]
		if !ok || d.Group || d.Replicas < 2 {
			rest = append(rest, d)
			continue
		}
		cut, err := replayable(ctx, s, dirs, func(group store.Stream) bool {
			rel, err := filepath.Rel(g.cfg.DataDir, group.Dir)
			return err == nil && !damagedGroup[rel]
		})
		if err != nil {
			g.log.Info("the Raft log of this node does not bring back what is damaged", "stream", d.Target, "why", err)
			rest = append(rest, d)
			continue
		}
		if kept == "" {
			if kept, err = g.keepDir(found, now); err != nil {
				return nil, err
			}
		}
		if err := g.cutOne(d, cut, filepath.Join(g.cfg.DataDir, kept)); err != nil {
			return nil, fmt.Errorf("cut off %s: %w", d.Target, err)
		}
		d.Why += fmt.Sprintf("; cut off behind sequence %d, the Raft log has the rest", cut.Intact)
		done = append(done, d)
	}
	if len(done) > 0 {
		g.mended(done, kept)
	}
	return rest, nil
}

var errNotInLog = errors.New("no whole Raft log goes back to what is intact")

// replayable returns where to cut, when a Raft log of this node brings back the rest.
func replayable(ctx context.Context, s storeDir, dirs []storeDir, whole func(store.Stream) bool) (store.Cut, error) {
	cut, err := s.Cut(ctx)
	if err != nil {
		return store.Cut{}, err
	}
	for _, group := range dirs {
		if !group.group || !whole(group.Stream) {
			continue
		}
		if ok, err := group.Replays(ctx, cut); err == nil && ok {
			return cut, nil
		}
	}
	return store.Cut{}, errNotInLog
}

// cutOne keeps what it takes away. The damage itself goes last: if the node dies before, the next audit finds it again.
func (g *storeGuard) cutOne(d damage, cut store.Cut, top string) error {
	blocks := filepath.Dir(cut.Path)
	rel, err := filepath.Rel(g.cfg.DataDir, blocks)
	if err != nil {
		return err
	}
	to := filepath.Join(top, rel)
	if err := os.MkdirAll(to, dirMode); err != nil {
		return err
	}
	aside := func(path string) error { return os.Rename(path, filepath.Join(to, filepath.Base(path))) }
	if err := aside(filepath.Join(blocks, storeIndex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, path := range cut.Behind {
		if err := aside(path); err != nil {
			return err
		}
	}
	if err := errors.Join(syncDir(blocks), syncDir(to)); err != nil {
		return err
	}
	if cut.Size == 0 {
		err = aside(cut.Path)
	} else {
		err = shorten(cut.Path, cut.Size, filepath.Join(to, filepath.Base(cut.Path)))
	}
	if err != nil {
		return err
	}
	g.log.Warn("a damaged stream was cut off, the Raft log of this node has the rest", "stream", d.Target, "behind_sequence", cut.Intact, "block", cut.Block, "offset", cut.Size,
		"blocks_behind", len(cut.Behind), "kept", to)
	return errors.Join(syncDir(blocks), syncDir(to))
}

// shorten cuts a file after a copy of all of it is safe.
func shorten(path string, size int64, kept string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // a block below the data directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	to, err := os.OpenFile(kept, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, secretMode) //nolint:gosec // below the data directory
	if err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync())
}
