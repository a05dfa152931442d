package membershipd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
