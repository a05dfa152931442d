package membershipd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
	"github.com/unibus/unibus/sut/store"
)

// What a node does when the audit of its store, before every start, finds damage.
const (
	// OnDamageRebuild moves damaged streams aside when a majority of the other nodes holds all that was committed to them, and gets them back from there.
	OnDamageRebuild = "rebuild"
	// OnDamageStayOut waits for a human.
	OnDamageStayOut = "stay-out"
	// OnDamageIgnore audits nothing.
	OnDamageIgnore = "ignore"
)

const (
	damagedDir    = "damaged" // in the data directory: what was moved aside, by time
	damagedWhy    = "why.json"
	jetstreamDir  = "jetstream"
	auditWithin   = 2 * time.Minute // a store that is not read by then is started as it is, and that is said
	damagesShown  = 5
	termVoteFile  = "tav.idx" // of a Raft group: how this node voted, which it must not forget
	damagedRefuse = "the store is damaged"
)

// damage is a stream's directory, or a Raft group's, that does not hold what the embedded server wrote.
type damage struct {
	Group    bool   `json:"group"`  // a Raft group; else a stream
	Target   string `json:"target"` // "BUS/ORDERS", or the group's name
	Dir      string `json:"dir"`    // below the data directory
	Replicas int    `json:"-"`      // as configured; 0 if not known
	Why      string `json:"why"`
	// Tail is true where all of it is in the last block of what other nodes have, too: what was not synced when the power failed looks like that. The
	// embedded server cuts such a block off at the first bad record, and Raft brings back what was committed.
	Tail bool `json:"tail"`
}

func (d damage) String() string {
	what := "stream "
	if d.Group {
		what = "Raft group "
	}
	return what + d.Target + ": " + d.Why
}

// storeGuard audits the store before the embedded server starts. nats-server drops the rest of a block at the first bad checksum, says nothing, and may
// then lead with what is left; so a node with damaged data counts as a failed node until it is rebuilt.
//
//	audit -> clean ------------------------------------------------------------------------> start
//	      -> damaged -> stay-out: wait for a human
//	                 -> rebuild: cut off what the node's own Raft log brings back ------------> start, replay
//	                    ask the others about the rest, over a server without JetStream, until a
//	                    majority without this node holds it all -> move it aside ------------> start, catch up
//	                    or so many of them stay out themselves that there will be none
//	                    (a power failure of all), and only ends of streams are damaged ------> start, let Raft mend it
type storeGuard struct {
	cfg     Config
	log     *slog.Logger
	read    atomic.Int64 // bytes so far
	reason  atomic.Pointer[string]
	told    atomic.Pointer[health.Store]
	moved   []damage // set before the server starts
	rebuilt atomic.Int64
}

func newStoreGuard(cfg Config, log *slog.Logger) *storeGuard {
	g := &storeGuard{cfg: cfg, log: log}
	g.told.Store(&health.Store{Policy: cfg.OnDamage, Damaged: []string{}, Rebuilt: []string{}})
	return g
}

// facts say why the server does not start yet, or "".
func (g *storeGuard) facts() string {
	if r := g.reason.Load(); r != nil {
		return *r
	}
	return ""
}

func (g *storeGuard) because(why string) { g.reason.Store(&why) }

func (g *storeGuard) tell(change func(*health.Store)) {
	s := *g.told.Load()
	change(&s)
	g.told.Store(&s)
}

// audit reads the whole store. It returns what is damaged; an error only when ctx ended.
func (g *storeGuard) audit(ctx context.Context) ([]damage, error) {
	dirs, err := storeDirs(g.cfg.DataDir)
	if err != nil {
		return []damage{{Target: "*", Dir: jetstreamDir, Why: err.Error()}}, nil
	}
	if len(dirs) == 0 {
		return nil, nil
	}
	g.because("the store is being audited")
	defer g.because("")
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, auditWithin)
	defer cancel()
	found := g.auditAll(within, dirs)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	took, size, partial := time.Since(began), g.read.Load(), within.Err() != nil
	g.tell(func(s *health.Store) { s.AuditedBytes, s.AuditSeconds, s.Partial = size, took.Seconds(), partial })
	level := slog.LevelInfo
	if partial {
		level = slog.LevelWarn
	}
	g.log.Log(ctx, level, "the store was audited", "directories", len(dirs), "bytes", size, "took", took.Round(time.Millisecond),
		"mib_per_second", int(float64(size)/(1<<20)/max(took.Seconds(), 1e-3)), "complete", !partial, "damaged", len(found))
	return found, nil
}

type storeDir struct {
	store.Stream

	group bool
}

// storeDirs lists the streams and Raft groups of the store; none where there is no store yet.
func storeDirs(dataDir string) (out []storeDir, err error) {
	if _, err := os.Stat(filepath.Join(dataDir, jetstreamDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, kind := range []struct {
		group bool
		list  func(string) ([]store.Stream, error)
	}{{false, store.Streams}, {true, store.RaftGroups}} {
		found, err := kind.list(dataDir)
		if err != nil {
			return nil, fmt.Errorf("list the store: %w", err)
		}
		for _, s := range found {
			out = append(out, storeDir{s, kind.group})
		}
	}
	return out, nil
}

func (g *storeGuard) auditAll(ctx context.Context, dirs []storeDir) (found []damage) {
	var mu sync.Mutex
	var tasks sync.WaitGroup
	next := make(chan storeDir)
	for range runtime.GOMAXPROCS(0) {
		tasks.Go(func() {
			for s := range next {
				if d, bad := g.auditOne(ctx, s); bad {
					mu.Lock()
					found = append(found, d)
					mu.Unlock()
				}
			}
		})
	}
	for _, s := range dirs {
		next <- s
	}
	close(next)
	tasks.Wait()
	return found
}

// damage names the directory as something to be moved aside; why is for the caller to say.
func (s storeDir) damage(dataDir string) damage {
	d := damage{Group: s.group, Target: s.Target(), Dir: s.Dir, Replicas: s.Config.Replicas}
	if s.group {
		d.Target = s.Name
	}
	if rel, err := filepath.Rel(dataDir, s.Dir); err == nil {
		d.Dir = rel
	}
	return d
}

func (g *storeGuard) auditOne(ctx context.Context, s storeDir) (d damage, bad bool) {
	if ctx.Err() != nil {
		return damage{}, false
	}
	d = s.damage(g.cfg.DataDir)
	a, err := s.Audit(ctx)
	g.read.Add(a.Bytes)
	switch {
	case ctx.Err() != nil && len(a.Damaged) == 0:
		return damage{}, false
	case errors.Is(err, store.ErrEncrypted):
		g.log.Warn("an encrypted stream cannot be audited", "stream", s.Target())
		return damage{}, false
	case err != nil:
		d.Why = err.Error()
	case len(a.Damaged) == 0:
		return damage{}, false
	default:
		d.Tail = (s.group || d.Replicas > 1) && !slices.ContainsFunc(a.Damaged, func(x store.Damage) bool { return !x.Last })
		first := a.Damaged[0]
		d.Why = fmt.Sprintf("block %d at offset %d: %s (%s)", first.Block, first.Offset, first.Why, first.Kind)
		if more := len(a.Damaged) - 1; more > 0 {
			d.Why += fmt.Sprintf(", and %d more", more)
		}
	}
	return d, true
}

// rebuildable says which directories must go for the damage to be mended by the others, and why it must wait; the one or the other.
//
// A directory may go when the group's leader is another node and, without this one, a majority of the group has all that was committed. The leader of a
// group has all of that itself, because it was elected by those who have.
func rebuildable(found []damage, said []replicaAnswer, self string, clusterSize int) (gone []string, wait string) {
	witnesses := 0
	words := map[string]groupWord{}
	for _, a := range said {
		if a.Node == self {
			continue
		}
		if a.Ready {
			witnesses++
		}
		for target, w := range a.Words {
			if have, ok := words[target]; !ok || w.Leader && !have.Leader {
				words[target] = w
			}
		}
	}
	for _, d := range found {
		w, known := words[d.Target]
		switch {
		case d.Target == "*" || d.Group && d.Target == metaGroup:
			return nil, "what all streams depend on is damaged (" + d.String() + "): replace this node as the runbook says"
		case !d.Group && d.Replicas == 1:
			return nil, fmt.Sprintf("%s has one replica, and this is it: restore it from a backup, or start with --on-damage=%s", d.Target, OnDamageIgnore)
		case known && w.Leader && w.Covered >= w.Size/2+1:
			gone = append(gone, d.Dir)
			gone = append(gone, w.other(d)...)
		case !known && (d.Group || d.Replicas > 1) && witnesses == clusterSize-1: // all know, and nobody has it: it was deleted meanwhile
			gone = append(gone, d.Dir)
		case witnesses == 0:
			return nil, "no other node that is ready answers"
		default:
			return nil, fmt.Sprintf("no majority without this node is known to hold all of %s", d.Target)
		}
	}
	return gone, ""
}

// deadlocked says whether waiting has no end: so many other nodes stay out for their own damage that there is no majority without this one, and none will
// come. If then only ends are damaged here, the node may start as plain nats-server would. After a power failure of all nodes that is the way back: what was
// acknowledged is in the synced logs of the groups.
func deadlocked(found []damage, said []replicaAnswer, self string, clusterSize int) bool {
	if slices.ContainsFunc(found, func(d damage) bool { return !d.Tail }) {
		return false
	}
	out := map[string]bool{}
	for _, a := range said {
		if a.Held && a.Node != self {
			out[a.Node] = true
		}
	}
	return clusterSize-1-len(out) < clusterSize/2+1
}

// other is the directory of the stream of a damaged Raft group, or of the group of a damaged stream.
func (w groupWord) other(d damage) []string {
	account, name, ok := strings.Cut(w.Stream, "/")
	switch {
	case d.Group && ok && nameIsDir(account) && nameIsDir(name):
		return []string{filepath.Join(jetstreamDir, account, "streams", name)}
	case !d.Group && nameIsDir(w.Group):
		return []string{filepath.Join(jetstreamDir, accountSystem, "_js_", w.Group)}
	}
	return nil
}

// nameIsDir is true for what can only be a directory's own name.
func nameIsDir(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, `/\`)
}

// moveAside renames the directories into a directory of their own, Raft groups first: with its group's log gone and its data still there, a stream is
// found again by the next start, which is not so the other way round.
func (g *storeGuard) moveAside(found []damage, dirs []string, now time.Time) (kept string, err error) {
	kept, err = g.keepDir(found, now)
	if err != nil {
		return "", err
	}
	top := filepath.Join(g.cfg.DataDir, kept)
	done := map[string]bool{}
	for _, groups := range []bool{true, false} {
		for _, dir := range dirs {
			group := filepath.Base(filepath.Dir(dir)) == "_js_"
			if group != groups || done[dir] {
				continue
			}
			done[dir] = true
			if err := g.moveOne(dir, filepath.Join(top, dir), group); err != nil {
				return "", fmt.Errorf("move data aside: %w", err)
			}
		}
	}
	return kept, nil
}

// keepDir makes the directory for what is moved aside now, with the reason in it.
func (g *storeGuard) keepDir(found []damage, now time.Time) (kept string, err error) {
	kept = filepath.Join(damagedDir, now.UTC().Format("20060102T150405.000Z"))
	why, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		return "", err
	}
	top := filepath.Join(g.cfg.DataDir, kept)
	if err = os.MkdirAll(top, dirMode); err == nil {
		err = os.WriteFile(filepath.Join(top, damagedWhy), append(why, '\n'), secretMode)
	}
	if err != nil {
		return "", fmt.Errorf("move data aside: %w", err)
	}
	return kept, nil
}

func (g *storeGuard) moveOne(rel, to string, group bool) error {
	from := filepath.Join(g.cfg.DataDir, rel)
	if err := os.MkdirAll(filepath.Dir(to), dirMode); err != nil {
		return err
	}
	if err := os.Rename(from, to); errors.Is(err, fs.ErrNotExist) {
		return nil // the other half of a stream that has none here
	} else if err != nil {
		return err
	}
	g.log.Warn("data was moved aside, to be fetched again", "from", rel, "to", to)
	if group {
		if err := keepVote(to, from); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(filepath.Dir(to)), syncDir(filepath.Dir(from)))
}

// keepVote copies the term and vote of a Raft group: a node that forgets them may vote twice.
func keepVote(from, to string) error {
	vote, err := os.ReadFile(filepath.Join(from, termVoteFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Mkdir(to, 0o750) // as the embedded server makes it
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, termVoteFile), vote, secretMode)
	}
	if err != nil {
		return fmt.Errorf("keep the vote: %w", err)
	}
	return syncDir(to)
}

// list is for people: the first few.
func list(found []damage) []string {
	var out []string
	for _, d := range found {
		if len(out) == damagesShown {
			out = append(out, fmt.Sprintf("and %d more", len(found)-damagesShown))
			break
		}
		out = append(out, d.String())
	}
	return out
}

// mend returns true when the server may start: the store is clean, is not looked at, or what was damaged is out of the way.
func (d *Daemon) mend(ctx context.Context, s secrets) (bool, error) {
	g := d.guard
	if d.cfg.OnDamage == OnDamageIgnore {
		d.log.Warn("the store is not audited: damaged data may be served", "on_damage", d.cfg.OnDamage)
		return true, nil
	}
	found, err := g.audit(ctx)
	if err != nil {
		return false, nil //nolint:nilerr // ctx ended: a polite end
	}
	if len(found) == 0 || mutant.Planted == mutant.AuditSkipped {
		return true, nil
	}
	for _, f := range list(found) {
		d.log.Error(damagedRefuse, "what", f, "on_damage", d.cfg.OnDamage)
	}
	g.tell(func(s *health.Store) { s.Damaged = list(found) })
	head := fmt.Sprintf("%s: %s; this node stays out", damagedRefuse, strings.Join(list(found), "; "))
	if d.cfg.OnDamage == OnDamageStayOut {
		g.because(head + ", because --on-damage=" + OnDamageStayOut)
		<-ctx.Done()
		return false, nil
	}
	if found, err = g.cutOff(ctx, found, time.Now()); err != nil {
		return false, err
	}
	g.tell(func(s *health.Store) { s.Damaged = append([]string{}, list(found)...) })
	if len(found) == 0 {
		g.because("")
		return true, nil
	}
	g.because(head + " until the others have answered")
	dirs, err := d.askOthers(ctx, s, found, func(why string) { g.because(head + ": " + why) })
	if err != nil || dirs == nil {
		return false, err
	}
	if len(dirs) == 0 {
		d.log.Warn("the ends of streams are damaged, and there will be no majority without this node: it starts, and Raft mends them", "what", strings.Join(list(found), "; "))
		g.tell(func(s *health.Store) { s.Damaged = []string{} })
		g.because("")
		return true, nil
	}
	kept, err := g.moveAside(found, dirs, time.Now())
	if err != nil {
		return false, err
	}
	g.mended(found, kept)
	g.tell(func(s *health.Store) { s.Damaged = []string{} })
	g.because("")
	return true, nil
}

// mended is told of what was cut off, of what was moved aside and is kept there, and of what was removed to be fetched again.
func (g *storeGuard) mended(found []damage, kept string) {
	g.moved = append(g.moved, found...)
	g.rebuilt.Store(int64(len(g.moved)))
	g.tell(func(s *health.Store) { s.Rebuilt, s.Kept = list(g.moved), cmp.Or(kept, s.Kept) })
}
