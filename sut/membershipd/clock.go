package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// What a node does when its clock is not that of the others.
const (
	// OnClockStayOut ends a node that runs, and lets one that starts wait until it is.
	OnClockStayOut = "stay-out"
	// OnClockIgnore does not look at a start, and only reports while it runs.
	OnClockIgnore = "ignore"
)

const (
	subjectClock = "unibus.internal.clock" // in CONTROL, which no user can reach
	clockApart   = 10 * time.Second        // NTP keeps milliseconds; ages and windows of messages are minutes
	clockAway    = time.Minute             // who was away for so long, by its own clock, asks
	clockSilence = 3                       // questions without any answer: nobody is there
	clockUnclear = 10                      // questions whose answers decide nothing
)

// clockAnswer is what another node says of the time.
type clockAnswer struct {
	Node  string    `json:"node"`
	Ready bool      `json:"ready"`
	Time  time.Time `json:"time"`
}

// clockOffset is by how much this node's clock is ahead of another one's.
type clockOffset struct {
	node  string
	ready bool
	by    time.Duration
}

// lastAlive is when this node last wrote its probe of the disk, by its own clock then; zero for a node that never did.
func lastAlive(dataDir string) (time.Time, error) {
	st, err := os.Stat(filepath.Join(dataDir, diskProbeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look when this node was last there: %w", err)
	}
	return st.ModTime(), nil
}

// answerClock is asked by others.
func (d *Daemon) answerClock(ready func() bool, m *nats.Msg) {
	body, err := json.Marshal(clockAnswer{Node: d.cfg.Name, Ready: ready(), Time: d.now().UTC()})
	if err == nil {
		_ = m.Respond(body) // who asks asks again
	}
}

// checkClock returns true when the embedded server may start, as far as the clock is concerned; false when ctx ended first, or with an error.
//
// At its start nats-server drops from this node's copies what is older than its stream's maximum age, by this node's clock, whatever the other copies have:
// with a clock that is ahead, messages go long before their time, the copies stay different, and no node says so. So a node that was away for a while, or
// that comes from the future, first asks the others for the time.
//
//	was here a moment ago, and not ended by its clock -------------------------> start
//	asks, as long as it takes: a node that is ready, or else anyone, has the same time -> start
//	                           those that are ready, or else two others, have another -> stay out, ask again
//	                           nobody answers, or nothing can be decided -------------> start
func (d *Daemon) checkClock(ctx context.Context, s secrets, last time.Time) (bool, error) {
	away := d.now().Sub(last)
	left, err := d.leftForClock()
	if err != nil {
		return false, err
	}
	if d.cfg.OnClock == OnClockIgnore || !left && (last.IsZero() || away > -clockApart && away < clockAway) {
		return true, nil
	}
	d.log.Info("this node was away for a while by its own clock, or its clock was wrong: it asks the others for the time", "away", away.Round(time.Second))
	d.guard.because("the clock is being compared with those of the others")
	defer d.guard.because("")
	nc, stop, err := d.quietServer(s)
	if err != nil {
		return false, err
	}
	defer stop()
	if _, err := nc.Subscribe(subjectClock, func(m *nats.Msg) { d.answerClock(func() bool { return false }, m) }); err != nil {
		return false, fmt.Errorf("listen for questions about the time: %w", err)
	}
	t := time.NewTicker(replicasInterval)
	defer t.Stop()
	silent, unclear, held := 0, 0, ""
	for {
		offsets := d.askClocks(ctx, nc)
		same, why := judgeClock(offsets)
		switch {
		case same:
			return true, nil
		case why != "":
			if held == "" {
				d.log.Error("this node's clock is wrong: it stays out", "why", why, "on_clock", d.cfg.OnClock)
			}
			held = why
			d.guard.because(why + ". This node stays out until its clock is right")
		case len(offsets) == 0:
			silent++
		default:
			unclear++
		}
		if held == "" && (silent >= clockSilence || unclear >= clockUnclear) {
			d.log.Warn("nobody can say whether this node's clock is right: it starts", "answers", len(offsets))
			return true, nil
		}
		select {
		case err := <-d.fatal:
			return false, err
		case <-ctx.Done():
			return false, nil
		case <-t.C:
		}
	}
}

// askClocks asks once.
func (d *Daemon) askClocks(ctx context.Context, nc *nats.Conn) (offsets []clockOffset) {
	asked := d.now()
	for _, m := range askAll(ctx, nc, subjectClock, nil) {
		var a clockAnswer
		if json.Unmarshal(m.Data, &a) != nil || a.Node == d.cfg.Name || !nameForm.MatchString(a.Node) ||
			slices.ContainsFunc(offsets, func(o clockOffset) bool { return o.node == a.Node }) {
			continue
		}
		// The answer came within replicasPatience, which is much less than what is tolerated.
		offsets = append(offsets, clockOffset{a.Node, a.Ready, asked.Round(0).Sub(a.Time)})
	}
	return offsets
}

// judgeClock says that this node's clock is that of the others, or why it is not; or nothing, where that cannot be said.
func judgeClock(offsets []clockOffset) (same bool, why string) {
	var ready, other []clockOffset
	agree, readyAgree := false, false
	for _, o := range offsets {
		if o.by.Abs() <= clockApart {
			agree = true
			readyAgree = readyAgree || o.ready
			continue
		}
		other = append(other, o)
		if o.ready {
			ready = append(ready, o)
		}
	}
	switch {
	case readyAgree:
		return true, ""
	case len(ready) > 0:
		return false, clockWords(ready)
	case agree:
		return true, ""
	case len(other) > 1 && spread(other) <= 2*clockApart:
		return false, clockWords(other)
	}
	return false, ""
}

func spread(offsets []clockOffset) time.Duration {
	low, high := offsets[0].by, offsets[0].by
	for _, o := range offsets {
		low, high = min(low, o.by), max(high, o.by)
	}
	return high - low
}

func clockWords(offsets []clockOffset) string {
	var words []string
	for _, o := range offsets {
		way := "ahead of"
		if o.by < 0 {
			way = "behind"
		}
		words = append(words, fmt.Sprintf("%s %s that of %s", o.by.Abs().Round(time.Second), way, o.node))
	}
	slices.Sort(words)
	return "this node's clock is " + strings.Join(words, ", ")
}
