package membershipd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestJudgeClock(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		offsets []clockOffset
		same    bool
		why     string // a part of it
	}{
		"nobody answers":                             {nil, false, ""},
		"a ready node has the same":                  {[]clockOffset{{"n1", true, 9 * time.Second}}, true, ""},
		"one that is not ready has the same":         {[]clockOffset{{"n1", false, -9 * time.Second}}, true, ""},
		"a ready node has another":                   {[]clockOffset{{"n1", true, hour}}, false, "1h0m0s ahead of that of n1"},
		"two ready nodes have another":               {[]clockOffset{{"n2", true, -hour}, {"n1", true, -hour}}, false, "1h0m0s behind that of n1, 1h0m0s behind that of n2"},
		"who is ready counts more":                   {[]clockOffset{{"n1", true, hour}, {"n2", false, 0}}, false, "n1"},
		"one of the ready ones has the same":         {[]clockOffset{{"n1", true, hour}, {"n2", true, 0}}, true, ""},
		"one that is not ready has another":          {[]clockOffset{{"n1", false, hour}}, false, ""},
		"two that are not ready agree on another":    {[]clockOffset{{"n1", false, hour}, {"n2", false, hour + time.Second}}, false, "n2"},
		"two that are not ready have two others":     {[]clockOffset{{"n1", false, hour}, {"n2", false, -hour}}, false, ""},
		"one has the same, the other one another":    {[]clockOffset{{"n1", false, 0}, {"n2", false, -hour}}, true, ""},
		"at the limit it is the same":                {[]clockOffset{{"n1", true, clockApart}}, true, ""},
		"beyond the limit it is another, and behind": {[]clockOffset{{"n1", true, -clockApart - 1}}, false, "behind"},
	} {
		same, why := judgeClock(c.offsets)
		if same != c.same || (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, %q", name, same, why)
		}
	}
}

// awayFor makes a stopped node one that was last there so long ago.
func (c *inProcess) awayFor(i int, d time.Duration) {
	c.t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(c.confs[i].DataDir, diskProbeFile), then, then); err != nil {
		c.t.Fatal(err)
	}
}

func (c *inProcess) reasons(i int) string { return strings.Join(c.nodes[i].eval.view().Reasons, "; ") }

// TestWrongClock: a node whose clock is an hour ahead stays out and says why; it starts once its clock is right, and at once where nobody is to look.
func TestWrongClock(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()

	c.stop(2)
	c.clock[2].Store(int64(time.Hour))
	c.start(2)
	untilTrue(t, "the node says that its clock is wrong", func() bool { return strings.Contains(c.reasons(2), "1h0m0s ahead of that of n1") })
	if c.nodes[2].running.Load() != nil {
		t.Error("its server runs")
	}
	const meanwhile = "MEANWHILE"
	js, err := jetstream.New(c.nodes[0].running.Load().nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: meanwhile, Subjects: []string{meanwhile}, Replicas: 3}); err != nil {
		t.Errorf("a stream cannot be made while a node stays out, and could if it were dead: %v", err)
	}
	if _, err := js.Publish(t.Context(), meanwhile, []byte("one")); err != nil {
		t.Error(err)
	}
	c.clock[2].Store(0)
	c.ready(2)
	untilTrue(t, "the node has its replica of what was made meanwhile", func() bool { return c.holds(2, meanwhile) == 1 })

	c.stop(2)
	c.clock[2].Store(-int64(time.Hour)) // it was there in what is its future
	c.start(2)
	untilTrue(t, "the node says that its clock is behind", func() bool { return strings.Contains(c.reasons(2), "1h0m0s behind that of n2") })
	c.stop(2)
	c.confs[2].OnClock = OnClockIgnore
	c.start(2)
	c.ready(2)
}

// TestClockColdStart: all nodes were away for a day. Those whose clocks agree start, the one whose clock does not stays out until it does.
func TestClockColdStart(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	for i := range c.nodes {
		c.stop(i)
		c.awayFor(i, 24*time.Hour)
	}
	c.clock[1].Store(int64(10 * time.Minute))
	for i := range c.nodes {
		c.start(i)
	}
	c.ready(0, 2)
	untilTrue(t, "the third node says that its clock is wrong", func() bool { return strings.Contains(c.reasons(1), "10m0s ahead") })
	c.clock[1].Store(0)
	c.ready(1)
}

// TestClockAlone: a node that was away and hears of nobody starts all the same, and asks nobody where it was there a moment ago.
func TestClockAlone(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	for i := range c.nodes {
		c.stop(i)
	}
	c.awayFor(0, time.Hour)
	c.start(0)
	untilTrue(t, "it is asking", func() bool { return strings.Contains(c.reasons(0), "the clock is being compared") })
	untilTrue(t, "its server runs", func() bool { return c.nodes[0].running.Load() != nil })
	c.stop(0)
	c.start(0)
	untilTrue(t, "its server runs at once", func() bool {
		if r := c.reasons(0); strings.Contains(r, "clock") {
			t.Fatalf("it asks for the time: %q", r)
		}
		return c.nodes[0].running.Load() != nil
	})
}

// TestClockGoesWrong: what a running node says of the clocks, when its own jumps and when it is right again.
func TestClockGoesWrong(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	// ahead tells whether node i says that its clock is ahead of node j's by so much, within what an answer may take.
	ahead := func(i, j int, by time.Duration) bool {
		for _, p := range c.nodes[i].status().Peers {
			if p.Name == c.confs[j].Name && p.ClockAheadSeconds != nil {
				return (time.Duration(*p.ClockAheadSeconds*float64(time.Second)) - by).Abs() < clockApart
			}
		}
		return false
	}
	untilTrue(t, "all clocks are the same to all", func() bool {
		return ahead(0, 1, 0) && ahead(0, 2, 0) && ahead(1, 0, 0) && ahead(1, 2, 0) && ahead(2, 0, 0) && ahead(2, 1, 0)
	})
	c.clock[2].Store(int64(time.Hour))
	untilTrue(t, "the jump is seen from both sides", func() bool {
		return ahead(2, 0, time.Hour) && ahead(2, 1, time.Hour) && ahead(0, 2, -time.Hour) && ahead(1, 2, -time.Hour) && ahead(0, 1, 0)
	})
	c.clock[2].Store(0)
	untilTrue(t, "the clock is right again", func() bool { return ahead(2, 0, 0) && ahead(1, 2, 0) })
	c.stop(1)
	untilTrue(t, "what was heard is not told for ever", func() bool {
		for _, p := range c.nodes[0].status().Peers {
			if p.Name == c.confs[1].Name {
				return p.ClockAheadSeconds == nil
			}
		}
		return false
	})
}

// TestClockLog: the log has it once when the clock goes wrong, and once when it is right again; answers that decide nothing change nothing.
func TestClockLog(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	answers := [][]clockOffset{
		{{"n1", true, 0}},
		{{"n1", true, time.Hour}, {"n2", true, time.Hour}},
		{{"n1", true, time.Hour}},
		nil,
		{{"n1", true, time.Hour}},
		{{"n1", true, time.Second}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time, len(answers))
	for range answers[1:] { // the first question is asked at once
		ticks <- time.Time{}
	}
	var c clocks
	c.follow(ctx, log, ticks, func(context.Context) []clockOffset {
		a := answers[0]
		if answers = answers[1:]; len(answers) == 0 {
			cancel()
		}
		return a
	})
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 || !strings.Contains(out.String(), "1h0m0s ahead of that of n1, 1h0m0s ahead of that of n2") {
		t.Errorf("%d errors: %s", n, out.String())
	}
	if n := strings.Count(out.String(), "level=INFO"); n != 1 || !strings.HasSuffix(out.String(), "this node's clock is that of the others again\"\n") {
		t.Errorf("%d notes: %s", n, out.String())
	}
}

// TestClockSlowAnswer: what a process heard that stood still between question and answer says nothing of its clock.
func TestClockSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		ticks := make(chan time.Time, 1)
		ticks <- time.Time{}
		var c clocks
		asked := 0
		c.follow(ctx, slog.New(slog.NewTextHandler(&out, nil)), ticks, func(context.Context) []clockOffset {
			if asked++; asked == 1 {
				return []clockOffset{{"n1", true, time.Second}}
			}
			<-time.After(clockSlow + 1)
			cancel()
			return []clockOffset{{"n1", true, -time.Minute}}
		})
		if by := c.ahead("n1"); asked != 2 || out.Len() > 0 || by == nil || *by != 1 {
			t.Errorf("after %d questions: ahead %v, %q", asked, by, out.String())
		}
		<-time.After(clockKept)
		if by := c.ahead("n1"); by != nil {
			t.Errorf("what was heard long ago is told: %v", *by)
		}
	})
}
