package membershipd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
	"github.com/unibus/unibus/sut/store"
)

// refetchWithin is how long a node waits for a majority that has what it may have forgotten. Then it starts with what it has: the others have more, and
// without this node there may be no quorum.
const refetchWithin = time.Minute

// refetch gives up this node's copies of streams that forget by time, if it ran with a wrong clock, so that they are fetched again from the others. A copy
// that has forgotten messages before their time has no damage that anything could see, is never completed by nats-server, and may lead. It returns true when
// the server may start.
func (d *Daemon) refetch(ctx context.Context, s secrets) (bool, error) {
	left, err := d.leftForClock()
	if err != nil || !left || d.cfg.OnClock == OnClockIgnore || mutant.Planted == mutant.ForgottenKept {
		return err == nil, err
	}
	aged, err := d.agedStreams()
	if err != nil {
		return false, err
	}
	if len(aged) > 0 {
		mended, err := d.refetchAll(ctx, s, aged)
		if err != nil || ctx.Err() != nil {
			return false, err
		}
		if !mended {
			d.log.Error("nobody has all of what this node may have forgotten while its clock was wrong: it starts with what it has, and looks again at the next start",
				"streams", strings.Join(list(aged), "; "))
			return true, nil
		}
	}
	if err := os.Remove(d.clockNotePath()); err != nil {
		return false, fmt.Errorf("remove the note about this node's clock: %w", err)
	}
	return true, syncDir(d.cfg.DataDir)
}

// refetchAll returns false when no majority has it all in time.
func (d *Daemon) refetchAll(ctx context.Context, s secrets, aged []damage) (bool, error) {
	g := d.guard
	const head = "this node's clock was wrong while it ran: what has an age is to be fetched again"
	d.log.Warn(head, "streams", strings.Join(list(aged), "; "))
	g.because(head)
	defer g.because("")
	limited, cancel := context.WithTimeout(ctx, refetchWithin)
	defer cancel()
	dirs, err := d.askOthers(limited, s, aged, func(why string) { g.because(head + ": " + why) })
	if err != nil || len(dirs) == 0 {
		return false, err
	}
	kept, err := g.moveAside(aged, dirs, time.Now())
	if err != nil {
		return false, err
	}
	if err := os.RemoveAll(filepath.Join(d.cfg.DataDir, kept)); err != nil { // the others have all of it, and more
		return false, fmt.Errorf("remove what is to be fetched again: %w", err)
	}
	g.mended(aged, "")
	return true, nil
}

// agedStreams are this node's copies of replicated streams that forget by time.
func (d *Daemon) agedStreams() (aged []damage, err error) {
	dirs, err := storeDirs(d.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	for _, s := range dirs {
		if s.group || !forgets(s.Config) {
			continue
		}
		if s.Config.Replicas < 2 {
			d.log.Error("a stream has one replica, and it was here: what it forgot while this node's clock was wrong is lost", "stream", s.Target())
			continue
		}
		one := s.damage(d.cfg.DataDir)
		one.Why = "this node's clock was wrong while it ran"
		aged = append(aged, one)
	}
	return aged, nil
}

func forgets(c store.Config) bool { return c.MaxAge > 0 || c.AllowMsgTTL }
