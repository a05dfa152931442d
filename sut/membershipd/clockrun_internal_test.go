package membershipd

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ahead tells whether node i says that its clock is ahead of node j's by so much, within what an answer may take.
func (c *inProcess) ahead(i, j int, by time.Duration) bool {
	for _, p := range c.nodes[i].status().Peers {
		if p.Name == c.confs[j].Name && p.ClockAheadSeconds != nil {
			return (time.Duration(*p.ClockAheadSeconds*float64(time.Second)) - by).Abs() < clockApart
		}
	}
	return false
}

func (c *inProcess) sameClocks() bool {
	return c.ahead(0, 1, 0) && c.ahead(0, 2, 0) && c.ahead(1, 0, 0) && c.ahead(1, 2, 0) && c.ahead(2, 0, 0) && c.ahead(2, 1, 0)
}

// TestClockGoesWrong: a node whose clock jumps under it leaves, because the others agree, stays out while it is wrong, and fetches again what has an age, and
// nothing else.
func TestClockGoesWrong(t *testing.T) {
	const aged, ageless, short = "AGED", "AGELESS", "SHORT"
	c := newInProcess(t, nil)
	c.startAll()
	untilTrue(t, "all clocks are the same to all", c.sameClocks)
	js, err := jetstream.New(c.nodes[0].running.Load().nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]jetstream.StreamConfig{
		aged: {MaxAge: time.Hour}, short: {AllowMsgTTL: true}, ageless: {},
	} {
		s.Name, s.Subjects, s.Replicas = name, []string{name}, 3
		if _, err := js.CreateStream(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), name, []byte("one")); err != nil {
			t.Fatal(err)
		}
		untilTrue(t, "all have a copy", func() bool { return c.holds(0, name) == 1 && c.holds(1, name) == 1 && c.holds(2, name) == 1 })
	}

	c.clock[2].Store(int64(time.Hour))
	untilTrue(t, "the node leaves", c.left[2].Load)
	c.stop(2)
	c.start(2)
	untilTrue(t, "it stays out", func() bool { return strings.Contains(c.reasons(2), "1h0m0s ahead of that of n1") })
	if c.nodes[2].running.Load() != nil {
		t.Error("its server runs")
	}
	c.clock[2].Store(0)
	c.ready(2)
	untilTrue(t, "it has what was fetched again", func() bool { return c.holds(2, aged) == 1 && c.holds(2, short) == 1 && c.holds(2, ageless) == 1 })
	rebuilt := strings.Join(c.nodes[2].status().Store.Rebuilt, "; ")
	for name, want := range map[string]bool{aged: true, short: true, "KV_UNIBUS_nodes": true, ageless: false, "KV_UNIBUS_users": false} {
		if strings.Contains(rebuilt, "/"+name+":") != want {
			t.Errorf("%s was fetched again: %t; it is told of: %s", name, !want, rebuilt)
		}
	}
	if old, err := filepath.Glob(filepath.Join(c.confs[2].DataDir, damagedDir, "*")); err != nil || len(old) > 0 {
		t.Errorf("what the others have is kept: %v, %v", old, err)
	}
	if left, err := c.nodes[2].leftForClock(); left || err != nil {
		t.Errorf("the note is still there: %v, %v", left, err)
	}
}

// TestClockNobodyDecides: two nodes whose clocks are apart go on, and say so. A node that is told not to look goes on, too.
func TestClockNobodyDecides(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	c.stop(1)
	c.clock[2].Store(int64(time.Hour))
	untilTrue(t, "the jump is seen from both sides", func() bool { return c.ahead(2, 0, time.Hour) && c.ahead(0, 2, -time.Hour) })
	untilTrue(t, "what was heard of one who is gone is not told for ever", func() bool {
		for _, p := range c.nodes[0].status().Peers {
			if p.Name == c.confs[1].Name {
				return p.ClockAheadSeconds == nil
			}
		}
		return false
	})
	if c.left[0].Load() || c.left[2].Load() {
		t.Error("one of two nodes left, and nobody can say who is right")
	}
	c.clock[2].Store(0)
	untilTrue(t, "the clock is right again", func() bool { return c.ahead(2, 0, 0) && c.ahead(0, 2, 0) })

	c.confs[1].OnClock = OnClockIgnore
	c.start(1)
	c.ready(0, 1, 2)
	c.clock[1].Store(-int64(time.Hour))
	untilTrue(t, "the others see that it is behind", func() bool { return c.ahead(0, 1, time.Hour) && c.ahead(2, 1, time.Hour) && c.ahead(1, 0, -time.Hour) })
	<-time.After(2 * clockAgain) // in which one that looks would have left
	if c.left[1].Load() {
		t.Error("a node left that was told not to look")
	}
}

func TestOutvoted(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		offsets []clockOffset
		size    int
		out     bool
	}{
		"nobody answers":                      {nil, 3, false},
		"all others":                          {[]clockOffset{{"n2", true, hour}, {"n3", true, hour}}, 3, true},
		"one is not ready":                    {[]clockOffset{{"n2", true, hour}, {"n3", false, hour}}, 3, false},
		"one of two that are left":            {[]clockOffset{{"n2", true, hour}}, 3, false},
		"one has the same":                    {[]clockOffset{{"n2", true, hour}, {"n3", true, 0}}, 3, false},
		"the others do not agree":             {[]clockOffset{{"n2", true, hour}, {"n3", true, -hour}}, 3, false},
		"the others agree, more or less":      {[]clockOffset{{"n2", true, -hour}, {"n3", true, -hour - clockApart}}, 3, true},
		"at the limit it is the same":         {[]clockOffset{{"n2", true, clockApart}, {"n3", true, clockApart}}, 3, false},
		"three of five":                       {[]clockOffset{{"n2", true, hour}, {"n3", true, hour}, {"n4", true, hour}, {"n5", true, 0}}, 5, true},
		"two of five":                         {[]clockOffset{{"n2", true, hour}, {"n3", true, hour}, {"n4", true, 0}, {"n5", true, 0}}, 5, false},
		"two of four that are left":           {[]clockOffset{{"n2", true, hour}, {"n3", true, hour}}, 5, false},
		"one that does not matter is not one": {[]clockOffset{{"n2", true, hour}, {"n3", true, hour}, {"n4", false, -hour}}, 3, true},
	} {
		if why := outvoted(c.offsets, c.size); (why != "") != c.out {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// asked plays answers, one for each question, and ends ctx with the last one.
func (c *clocks) asked(t *testing.T, answers ...[]clockOffset) (ctx context.Context, due <-chan struct{}) {
	ctx, cancel := context.WithCancel(t.Context())
	c.ask = func() []clockOffset {
		a := answers[0]
		if answers = answers[1:]; len(answers) == 0 {
			cancel()
		}
		return a
	}
	all := make(chan struct{}, len(answers))
	for range answers[1:] { // the first question is asked at once
		all <- struct{}{}
	}
	return ctx, all
}

// TestClockLog: the log has it once when the clock goes wrong, and once when it is right again; answers that decide nothing change nothing.
func TestClockLog(t *testing.T) {
	var out strings.Builder
	c := clocks{size: 3, log: slog.New(slog.NewTextHandler(&out, nil))}
	if err := c.follow(c.asked(t,
		[]clockOffset{{"n1", true, 0}},
		[]clockOffset{{"n1", true, time.Hour}, {"n2", true, time.Hour}},
		[]clockOffset{{"n1", true, time.Hour}},
		nil,
		[]clockOffset{{"n1", true, time.Hour}},
		[]clockOffset{{"n1", true, time.Second}},
	)); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 || !strings.Contains(out.String(), "1h0m0s ahead of that of n1, 1h0m0s ahead of that of n2") {
		t.Errorf("%d errors: %s", n, out.String())
	}
	if n := strings.Count(out.String(), "level=INFO"); n != 1 || !strings.HasSuffix(out.String(), "this node's clock is that of the others again\"\n") {
		t.Errorf("%d notes: %s", n, out.String())
	}
}

// TestClockLeavesTwiceAsked: a node leaves when it is outvoted two times in a row, and only where it is to leave.
func TestClockLeavesTwiceAsked(t *testing.T) {
	both := []clockOffset{{"n2", true, time.Hour}, {"n3", true, time.Hour}}
	same := []clockOffset{{"n2", true, 0}, {"n3", true, 0}}
	for name, c := range map[string]struct {
		leave   bool
		answers [][]clockOffset
		left    bool
	}{
		"twice in a row":      {true, [][]clockOffset{same, both, both}, true},
		"not in a row":        {true, [][]clockOffset{both, same, both, nil, both, same}, false},
		"told not to look":    {false, [][]clockOffset{both, both, both}, false},
		"once, and the end":   {true, [][]clockOffset{both}, false},
		"from the first word": {true, [][]clockOffset{both, both}, true},
	} {
		k := clocks{size: 3, leave: c.leave, log: slog.New(slog.DiscardHandler)}
		if err := k.follow(k.asked(t, c.answers...)); errors.Is(err, ErrClockWrong) != c.left || err != nil && !c.left {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClockMetronome: a question is due now and then, and at once when the clock jumps, to either side.
func TestClockMetronome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		due := make(chan struct{}, 1)
		go metronome(t.Context(), func() time.Time { return time.Now().Add(time.Duration(off.Load())) }, due)
		wait := func(what string, least, most time.Duration) {
			t.Helper()
			began := time.Now()
			<-due
			if d := time.Since(began); d < least || d > most {
				t.Errorf("%s: after %v", what, d)
			}
		}
		wait("now and then", clockEvery-clockGlance, clockEvery+clockGlance)
		off.Store(int64(time.Hour))
		wait("a jump ahead", 0, clockGlance)
		off.Store(-int64(time.Hour))
		wait("a jump back", 0, clockGlance)
		off.Add(int64(clockApart))
		wait("too small a jump", clockEvery-clockGlance, clockEvery+clockGlance)
	})
}

// TestClockSlowAnswer: what a process heard that stood still between question and answer says nothing of its clock.
func TestClockSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		c := clocks{size: 3, leave: true, log: slog.New(slog.NewTextHandler(&out, nil))}
		far := []clockOffset{{"n1", true, -time.Minute}, {"n2", true, -time.Minute}}
		ctx, due := c.asked(t, []clockOffset{{"n1", true, time.Second}}, far, far)
		ask, questions := c.ask, 0
		c.ask = func() []clockOffset {
			if questions++; questions > 1 {
				<-time.After(clockSlow + 1)
			}
			return ask()
		}
		err := c.follow(ctx, due)
		if by := c.ahead("n1"); err != nil || questions != 3 || out.Len() > 0 || by == nil || *by != 1 {
			t.Errorf("after %d questions: %v, ahead %v, %q", questions, err, by, out.String())
		}
		<-time.After(clockKept)
		if by := c.ahead("n1"); by != nil {
			t.Errorf("what was heard long ago is told: %v", *by)
		}
	})
}

// TestRefetchKeepsAcks: a node whose copy of a stream was fetched again knows, when it leads a consumer of it, what was acknowledged before.
func TestRefetchKeepsAcks(t *testing.T) {
	const stream, durable, all, acked = "AGED", "worker", 10, 5
	c := newInProcess(t, nil)
	c.startAll()
	js, err := jetstream.New(c.nodes[0].running.Load().nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{stream}, Replicas: 3, MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for range all {
		if _, err := js.Publish(t.Context(), stream, nil); err != nil {
			t.Fatal(err)
		}
	}
	worker, err := js.CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range acked {
		m, err := worker.Next()
		if err == nil {
			err = m.DoubleAck(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	if err := c.nodes[2].noteClock("for the test"); err != nil {
		t.Fatal(err)
	}
	c.stop(2)
	c.start(2)
	c.ready(2)
	untilTrue(t, "the copy was fetched again", func() bool {
		return c.holds(2, stream) == all && strings.Contains(strings.Join(c.nodes[2].status().Store.Rebuilt, ";"), "/"+stream+":")
	})
	nc := c.nodes[0].running.Load().nc
	untilTrue(t, "the node leads the consumer", func() bool {
		info, err := worker.Info(t.Context())
		if err != nil || info.Cluster == nil {
			return false
		}
		if info.Cluster.Leader == c.confs[2].Name {
			return true
		}
		_, _ = nc.Request("$JS.API.CONSUMER.LEADER.STEPDOWN."+stream+"."+durable, []byte(`{"placement":{"preferred":"`+c.confs[2].Name+`"}}`), time.Second) // it is asked for again
		<-time.After(time.Second)
		return false
	})
	if info, err := worker.Info(t.Context()); err != nil || info.AckFloor.Stream != acked {
		t.Errorf("acknowledged up to %+v, %v", info.AckFloor, err)
	}
	m, err := worker.Next()
	if err != nil {
		t.Fatal(err)
	}
	if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != acked+1 {
		t.Errorf("the next message is %+v, %v", meta, err)
	}
}
