package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	clockEvery  = 5 * time.Second        // between two questions of a node that runs
	clockGlance = 100 * time.Millisecond // between two looks whether the clock has jumped
	clockAgain  = time.Second            // after which a node that is outvoted asks once more
	clockKept   = 4 * clockEvery         // what was heard longer ago is not told any more
	clockSlow   = 2 * replicasPatience   // a question that took longer was asked by a process that stood still meanwhile

	clockNote       = "clock-wrong.json" // in the data directory of a node that ran with a wrong clock, until what it may have forgotten was fetched
	clockNoteWithin = 2 * time.Second    // in which it is written, or not: the disk may hang, and the node has to end
)

// ErrClockWrong ends a daemon whose clock is not the one on which a quorum of others agree. The next start waits until it is.
var ErrClockWrong = errors.New("the clock is wrong")

// clocks compares the clock of a node that runs with those of the others, again and again, and tells what it heard: a clock that goes wrong under a running
// server has streams with an age drop messages before their time, from that node's copies only, and nothing that the server says of itself shows it.
type clocks struct {
	size  int                  // of the cluster
	leave bool                 // end the node when it is outvoted
	log   *slog.Logger         // for what changes
	now   func() time.Time     // the clock that is compared
	ask   func() []clockOffset // one question to all others

	mu    sync.Mutex
	at    time.Time
	heard []clockOffset
}

// watchClock compares until ctx ends, or this node is outvoted; then it leaves a note for the next start, and the error.
func (d *Daemon) watchClock(ctx context.Context, nc *nats.Conn) error {
	c := &d.clocks
	c.ask = func() []clockOffset { return d.askClocks(ctx, nc) }
	due := make(chan struct{}, 1)
	go metronome(ctx, c.now, due)
	err := c.follow(ctx, due)
	if err == nil {
		return nil
	}
	if _, inTime := within(clockNoteWithin, func() {
		if err := d.noteClock(err.Error()); err != nil {
			d.log.Error("what this node forgets may stay forgotten: the note for the next start could not be written", "why", err)
		}
	}); !inTime {
		d.log.Error("what this node forgets may stay forgotten: the note for the next start could not be written in time")
	}
	return err
}

// metronome says when to ask: now and then, and at once when the clock has jumped against the time that went by.
func metronome(ctx context.Context, now func() time.Time, due chan<- struct{}) {
	t := time.NewTicker(clockGlance)
	defer t.Stop()
	began := time.Now()
	ahead := func() time.Duration { return now().Round(0).Sub(began.Round(0)) - time.Since(began) }
	was, asked := ahead(), began
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		is := ahead()
		if (is-was).Abs() <= clockApart && time.Since(asked) < clockEvery {
			continue
		}
		was, asked = is, time.Now()
		select {
		case due <- struct{}{}:
		default: // the last question is not even asked yet
		}
	}
}

// follow says so when the clock goes wrong, and when it is right again. It asks when that is due, and returns an error when the node has to leave.
func (c *clocks) follow(ctx context.Context, due <-chan struct{}) error {
	wrong := false
	var again <-chan time.Time // set while an outvoted node is about to ask once more
	for {
		offsets := c.look()
		switch same, why := judgeClock(offsets); {
		case why != "" && !wrong:
			wrong = true
			c.log.Error("clocks are apart: streams with an age drop messages before their time, or keep them for too long", "why", why)
		case same && wrong:
			wrong = false
			c.log.Info("this node's clock is that of the others again")
		}
		switch why := outvoted(offsets, c.size); {
		case why == "" || !c.leave:
			again = nil
		case again != nil:
			return fmt.Errorf("%w: %s", ErrClockWrong, why)
		default:
			again = time.After(clockAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-due:
		}
	}
}

// look asks once. What a process heard that stood still meanwhile says nothing.
func (c *clocks) look() []clockOffset {
	began := time.Now()
	offsets := c.ask()
	if time.Since(began) > clockSlow {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.heard = time.Now(), offsets
	return offsets
}

// outvoted says why a node that runs has to leave, or nothing: so many others that they are a quorum without it are ready, have another time than this
// node, and the same among themselves. With fewer, nobody can say who is right, or the cluster could not do without this node.
func outvoted(offsets []clockOffset, size int) string {
	var apart []clockOffset
	for _, o := range offsets {
		if o.ready && o.by.Abs() > clockApart {
			apart = append(apart, o)
		}
	}
	if len(apart) < size/2+1 || spread(apart) > clockApart {
		return ""
	}
	return clockWords(apart)
}

// ahead gives by how much this node's clock is ahead of another one's, in seconds; nil where that was not heard lately.
func (c *clocks) ahead(node string) *float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > clockKept {
		return nil
	}
	for _, o := range c.heard {
		if o.node == node {
			s := o.by.Seconds()
			return &s
		}
	}
	return nil
}

func (d *Daemon) clockNotePath() string { return filepath.Join(d.cfg.DataDir, clockNote) }

func (d *Daemon) noteClock(why string) error {
	body, err := json.Marshal(struct {
		Why string `json:"why"`
	}{why})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.clockNotePath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, secretMode)
	if err != nil {
		return err
	}
	_, err = f.Write(append(body, '\n'))
	return errors.Join(err, f.Sync(), f.Close(), syncDir(d.cfg.DataDir))
}

// leftForClock is true when this node ran with a wrong clock, and nobody has yet looked what that has cost it.
func (d *Daemon) leftForClock() (bool, error) {
	switch _, err := os.Stat(d.clockNotePath()); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, fmt.Errorf("look whether this node's clock was wrong: %w", err)
	}
}
