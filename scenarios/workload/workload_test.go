package workload_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// everything is one of each workload that plain nats-server can carry. Consumers come after what they consume.
func everything() *workload.Multi {
	return &workload.Multi{Label: "everything", Parts: []workload.Workload{
		&workload.Streams{Publishers: 3, Rate: 40, PayloadBytes: 200},
		&workload.KV{Clients: 6, Keys: 4, Rate: 20, Mix: workload.Mix{Put: 20, Create: 5, Update: 25, Get: 40, Direct: 10}},
		&workload.PullConsumer{Clients: 3, AckWait: 2 * time.Second},
		&workload.OrderedConsumer{Clients: 3},
		&workload.Watcher{Clients: 3},
		&workload.Subscribers{Clients: 3},
		&workload.Senders{Clients: 3, Rate: 20},
		&workload.Responders{},
		&workload.Requesters{Clients: 3, Rate: 20},
		&workload.HealthSampler{},
	}}
}

// drive sets a workload up, lets it run while during does things to the cluster, and reads everything back.
func drive(t *testing.T, b *bench, w workload.Workload, during func(ctx context.Context)) *history.History {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	defer w.Close()
	began := time.Now()
	phase := func(name string) {
		t.Logf("%s took %v", name, time.Since(began).Round(time.Millisecond))
		began = time.Now()
	}
	if err := w.Setup(ctx, b.env); err != nil {
		t.Fatalf("setup: %v", err)
	}
	phase("setup")
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.Run(run, b.env) }()
	during(ctx)
	phase("load")
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("run: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("Run did not return")
	}
	phase("stop")
	if err := w.Drain(ctx, b.env); err != nil {
		t.Errorf("drain: %v", err)
	}
	phase("drain")
	return b.history(t)
}

// awaitOK waits until n more operations of that kind have succeeded.
func (b *bench) awaitOK(ctx context.Context, t *testing.T, kind history.Kind, n int) {
	t.Helper()
	target := b.countOK(kind) + n
	eventually(ctx, t, fmt.Sprintf("%d more %s operations", n, kind), func() bool { return b.countOK(kind) >= target })
}

// clients is how many of everything's clients invoke operations (3 publish, 6 use the bucket, 3 send, 3 request) or are given messages (3 pull, 3 read in
// order, 3 watch, 3 subscribe).
const clients = 15 + 12

// served counts the clients that had a success after that time.
func (b *bench) served(after int64) int {
	clients := map[string]bool{}
	b.rec.Last(func(h *history.History) {
		for i := range h.Ops {
			if h.Ops[i].Invoke > after && h.Ops[i].Outcome == history.OK {
				clients[h.Ops[i].Client] = true
			}
		}
		for i := range h.Deliveries {
			if h.Deliveries[i].At > after {
				clients[h.Deliveries[i].Client] = true
			}
		}
	})
	return len(clients)
}

// leader asks for the leader of a stream.
func (b *bench) leader(ctx context.Context, t *testing.T, stream string) cluster.NodeID {
	t.Helper()
	nc, err := nats.Connect(b.c.nodes[0].Endpoints().Client, nats.Nkey(b.env.Identity.Public(), workload.Sign(b.env.Identity)))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.NodeID(s.CachedInfo().Cluster.Leader)
}

func (b *bench) countOK(kind history.Kind) int {
	n := 0
	b.rec.Last(func(h *history.History) {
		for i := range h.Ops {
			if h.Ops[i].Kind == kind && h.Ops[i].Outcome == history.OK {
				n++
			}
		}
	})
	return n
}

func TestEveryWorkload(t *testing.T) {
	b := newBench(t, 3)
	b.c.start(t)
	h := drive(t, b, everything(), func(ctx context.Context) {
		b.awaitOK(ctx, t, history.Publish, 150)
		b.awaitOK(ctx, t, history.Update, 20)
	})
	checkOps(t, h)
	checkStream(t, h)
	checkBucket(t, h)
	checkDeliveries(t, h)
	checkClients(t, h, nil)
	checkHealth(t, h)
	ops, ok, failed, unknown := b.env.Stats()
	if int(ops) != len(h.Ops) || ok+failed+unknown != ops {
		t.Errorf("stats: %d operations, %d ok, %d failed, %d unknown; the record has %d", ops, ok, failed, unknown, len(h.Ops))
	}
	for _, o := range h.Ops {
		// Nothing happens to this cluster, but clients do get in each other's way.
		if o.Outcome != history.OK && o.Err != "conflict" && o.Err != "nats:10164" {
			t.Errorf("in a healthy cluster: %+v", o)
		}
	}
}

// The node that leads the stream dies under load and comes back: no client is stranded, what was acked is there, and the consumers skip nothing.
func TestLeaderKilled(t *testing.T) {
	b := newBench(t, 3)
	b.c.start(t)
	var victim cluster.NodeID
	var after int64
	h := drive(t, b, everything(), func(ctx context.Context) {
		b.awaitOK(ctx, t, history.Publish, 60)
		victim = b.leader(ctx, t, "ORDERS")
		n := cluster.Find(b.c, victim)
		if err := n.Signal(ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitExit(ctx); err != nil {
			t.Fatal(err)
		}
		b.awaitOK(ctx, t, history.Publish, 60) // an election later
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		awaitReady(ctx, t, n)
		after = b.rec.Now()
		b.awaitOK(ctx, t, history.Publish, 60)
		b.awaitOK(ctx, t, history.Update, 10)
		eventually(ctx, t, "every client is served again", func() bool { return b.served(after) == clients })
	})
	checkOps(t, h)
	checkStream(t, h)
	checkBucket(t, h)
	checkDeliveries(t, h)
	checkClients(t, h, func(o *history.Op) bool { return o.Invoke > after })
	noticed := false
	for _, c := range h.Conns {
		noticed = noticed || c.Node == string(victim) && c.State == "disconnected"
	}
	if !noticed {
		t.Errorf("no client noticed that %s died", victim)
	}
	logGaps(t, h)
}

// Without a quorum nothing is acked, every operation comes back within its timeout, and no outcome claims more than it can.
func TestLoneNode(t *testing.T) {
	b := newBench(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := b.c.nodes[1].Start(ctx); err != nil {
		t.Fatal(err)
	}
	w := &workload.Multi{Parts: []workload.Workload{
		&workload.Streams{Existing: true, Publishers: 2, Rate: 20, Timeout: time.Second},
		&workload.KV{Existing: true, Clients: 2, Rate: 20, Timeout: time.Second},
	}}
	defer w.Close()
	if err := w.Setup(ctx, b.env); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.Run(run, b.env) }()
	eventually(ctx, t, "30 operations", func() bool { ops, _, _, _ := b.env.Stats(); return ops >= 30 })
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h := b.history(t)
	unheard := 0
	for _, o := range h.Ops {
		switch {
		case o.Outcome == history.OK:
			t.Errorf("acked without a quorum: %+v", o)
		case o.Kind == history.Publish && o.Outcome == history.Failed && o.Err == "no-responders":
			unheard++
		case o.Kind == history.Publish && (o.Outcome != history.Unknown || o.Err != "timeout"): // the node may be too busy to say that nobody is there
			t.Errorf("a publish that no stream heard: %+v", o)
		case o.Complete-o.Invoke > int64(15*time.Second):
			t.Errorf("silence: %+v", o)
		}
	}
	if unheard == 0 {
		t.Error("no publish was told that no stream heard it")
	}
}

// With no node at all operations fail for certain, and at once.
func TestNotConnected(t *testing.T) {
	b := newBench(t, 3)
	w := &workload.Streams{Existing: true, Publishers: 1, Rate: 50, NoRetry: true}
	defer w.Close()
	setup, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // no use in waiting for a connection
	defer cancel()
	if err := w.Setup(setup, b.env); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if err := w.Run(run, b.env); err != nil {
		t.Fatal(err)
	}
	h := b.history(t)
	if len(h.Ops) == 0 {
		t.Fatal("nothing was tried")
	}
	for _, o := range h.Ops {
		if o.Outcome != history.Failed || o.Err != "not-connected" || o.Node != "" {
			t.Errorf("got %+v", o)
		}
	}
}

// A paused node answers nothing and breaks nothing: operations in flight end Unknown, and its clients move on.
func TestPausedNode(t *testing.T) {
	b := newBench(t, 1)
	b.c.start(t)
	w := &workload.Streams{Publishers: 2, Rate: 50, Timeout: 700 * time.Millisecond}
	var from int64
	h := drive(t, b, w, func(ctx context.Context) {
		b.awaitOK(ctx, t, history.Publish, 20)
		n := b.c.nodes[0]
		if err := n.Signal(ctx, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		from = b.rec.Now()
		eventually(ctx, t, "operations of unknown fate", func() bool { _, _, _, u := b.env.Stats(); return u >= 5 })
		if err := n.Signal(ctx, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		b.awaitOK(ctx, t, history.Publish, 20)
	})
	checkStream(t, h)
	unknown := 0
	for _, o := range h.Ops {
		if o.Outcome == history.Unknown {
			unknown++
			if o.Err != "timeout" && o.Err != "disconnected" {
				t.Errorf("unknown for another reason: %+v", o)
			}
			if o.Complete < from {
				t.Errorf("unknown before the pause: %+v", o)
			}
		}
	}
	if unknown == 0 {
		t.Error("nothing was unknown")
	}
}

// logGaps shows the longest time that each client went without success: a figure, not a claim.
func logGaps(t *testing.T, h *history.History) {
	t.Helper()
	at := map[string][]int64{}
	for _, o := range h.Ops {
		if o.Outcome == history.OK {
			at[o.Client] = append(at[o.Client], o.Complete)
		}
	}
	for _, d := range h.Deliveries {
		at[d.Client] = append(at[d.Client], d.At)
	}
	for _, c := range slices.Sorted(maps.Keys(at)) {
		slices.Sort(at[c])
		var gap int64
		for i := 1; i < len(at[c]); i++ {
			gap = max(gap, at[c][i]-at[c][i-1])
		}
		t.Logf("%-10s %5d successes, longest gap %v", c, len(at[c]), time.Duration(gap).Round(time.Millisecond))
	}
	n := map[string]int{}
	for _, o := range h.Ops {
		n[fmt.Sprintf("%s %v %s", o.Kind, o.Outcome, o.Err)]++
	}
	t.Logf("outcomes: %v", n)
}

// checkOps looks at what every operation must have.
func checkOps(t *testing.T, h *history.History) {
	t.Helper()
	written := map[string]string{}
	for _, o := range h.Ops {
		if o.ID == 0 || o.Client == "" || o.Target == "" || o.Complete < o.Invoke || o.Invoke == 0 {
			t.Errorf("not whole: %+v", o)
		}
		if (o.Outcome == history.OK) != (o.Err == "") {
			t.Errorf("outcome and error disagree: %+v", o)
		}
		switch o.Kind {
		case history.Publish, history.Put, history.Create, history.Update:
			if o.Outcome == history.OK && o.Seq == 0 {
				t.Errorf("acked without a sequence: %+v", o)
			}
			if who, ok := written[o.Value]; ok && (who != o.Client || o.Kind != history.Publish) {
				t.Errorf("the value was written before: %+v", o)
			}
			written[o.Value] = o.Client
		}
	}
}

// checkStream accounts for every id: acked ones are there at their sequence, and nothing is there that was not sent.
func checkStream(t *testing.T, h *history.History) {
	t.Helper()
	items := checkDrain(t, h, "ORDERS")
	at := map[string]uint64{}
	for _, x := range items {
		if at[x.Value] != 0 {
			t.Errorf("%s is at %d and %d", x.Value, at[x.Value], x.Seq)
		}
		at[x.Value] = x.Seq
	}
	sent := map[string]bool{}
	for _, o := range h.Ops {
		if o.Target != "ORDERS" {
			continue
		}
		sent[o.Value] = true
		if o.Outcome == history.OK && at[o.Value] != o.Seq {
			t.Errorf("acked at %d, is at %d: %+v", o.Seq, at[o.Value], o)
		}
	}
	for v := range at {
		if !sent[v] {
			t.Errorf("%s was never sent", v)
		}
	}
}

// checkBucket accounts for every revision that was kept.
func checkBucket(t *testing.T, h *history.History) {
	t.Helper()
	items := checkDrain(t, h, "kv-orders")
	last := map[string]history.Item{}
	sent := map[string]history.Op{}
	for _, o := range h.Ops {
		if o.Target == "kv-orders" && o.Kind != history.Get && o.Kind != history.Direct {
			sent[o.Value] = o
		}
	}
	for _, x := range items {
		o, ok := sent[x.Value]
		if !ok || o.Key != x.Key || o.Outcome == history.Failed || (o.Outcome == history.OK && o.Seq != x.Seq) {
			t.Errorf("revision %+v comes from %+v", x, o)
		}
		last[x.Key] = x
	}
	reads := 0
	for _, o := range h.Ops {
		if o.Target != "kv-orders" || o.Outcome != history.OK {
			continue
		}
		if o.Kind == history.Get && o.Value != "" {
			reads++
			if w, ok := sent[o.Value]; !ok || w.Outcome == history.Failed || w.Key != o.Key {
				t.Errorf("read what nobody wrote: %+v", o)
			}
		}
		if o.Kind != history.Direct && o.Seq > last[o.Key].Seq {
			t.Errorf("beyond the last revision %d: %+v", last[o.Key].Seq, o)
		}
	}
	if reads == 0 {
		t.Error("no read returned a value")
	}
}

func checkDrain(t *testing.T, h *history.History, target string) []history.Item {
	t.Helper()
	var items []history.Item
	for _, x := range h.Items {
		if x.Target == target {
			if len(items) > 0 && x.Seq <= items[len(items)-1].Seq {
				t.Errorf("items are out of order at %d", x.Seq)
			}
			items = append(items, x)
		}
	}
	for _, d := range h.Drains {
		if d.Target != target {
			continue
		}
		if !d.Complete || d.Items != len(items) || d.Items == 0 {
			t.Errorf("drain of %s: %+v with %d items", target, d, len(items))
		}
		if target != "control/settings" && uint64(d.Items+d.Missing) != d.Last-d.First+1 {
			t.Errorf("drain of %s does not add up: %+v", target, d)
		}
		return items
	}
	t.Fatalf("no drain of %s", target)
	return nil
}

// checkDeliveries demands that the ordered consumers and watchers skipped nothing, and that the pull consumers between them got everything.
func checkDeliveries(t *testing.T, h *history.History) {
	t.Helper()
	seqs := map[string]map[string][]uint64{} // kind, client
	core := map[string]int{}
	confirmed := map[uint64]bool{}
	pulled := map[uint64]string{}
	for _, d := range h.Deliveries {
		switch d.Kind {
		case "ordered", "watch":
			if seqs[d.Kind] == nil {
				seqs[d.Kind] = map[string][]uint64{}
			}
			seqs[d.Kind][d.Client] = append(seqs[d.Kind][d.Client], d.Seq)
		case "pull":
			pulled[d.Seq] = d.Value
			if d.Ack == history.OK {
				confirmed[d.Seq] = true
			}
			if d.Count == 0 || (d.Ack == history.OK) != (d.Acked >= d.At) {
				t.Errorf("pull delivery %+v", d)
			}
		case "core":
			core[d.Client]++
		}
	}
	for _, x := range h.Items {
		if x.Target == "ORDERS" && pulled[x.Seq] != x.Value {
			t.Errorf("the workers got %q at %d, stored is %q", pulled[x.Seq], x.Seq, x.Value)
		}
	}
	if len(confirmed) == 0 {
		t.Error("no ack was confirmed")
	}
	if len(seqs["ordered"]) != 3 || len(seqs["watch"]) != 3 || len(core) != 3 {
		t.Errorf("clients that were given something: %d ordered, %d watching, %d core", len(seqs["ordered"]), len(seqs["watch"]), len(core))
	}
	for kind, target := range map[string]string{"ordered": "ORDERS", "watch": "kv-orders"} {
		for client, got := range seqs[kind] {
			checkGapless(t, client, got, lastOf(h, target))
		}
	}
}

func lastOf(h *history.History, target string) uint64 {
	for _, d := range h.Drains {
		if d.Target == target {
			return d.Last
		}
	}
	return 0
}

func checkGapless(t *testing.T, client string, got []uint64, last uint64) {
	t.Helper()
	for i := 1; i < len(got); i++ {
		if got[i] <= got[i-1] {
			t.Errorf("%s was given %d after %d", client, got[i], got[i-1])
		}
		if strings.HasPrefix(client, "ordered") && got[i] != got[i-1]+1 {
			t.Errorf("%s skipped from %d to %d", client, got[i-1], got[i])
		}
	}
	if got[len(got)-1] != last {
		t.Errorf("%s ended at %d of %d", client, got[len(got)-1], last)
	}
}

// checkClients demands that every client of every kind had a success (after a moment that the caller may give), and that clients are spread.
func checkClients(t *testing.T, h *history.History, counts func(*history.Op) bool) {
	t.Helper()
	okays := map[string]int{}
	for i := range h.Ops {
		if o := &h.Ops[i]; o.Outcome == history.OK && (counts == nil || counts(o)) {
			okays[o.Client]++
		}
	}
	home := map[string]string{}
	for _, c := range h.Conns {
		if home[c.Client] == "" && c.State == "connected" {
			home[c.Client] = c.Node
		}
	}
	for label, n := range map[string]int{"pub": 3, "kv": 6, "send": 3, "req": 3} {
		for i := range n {
			c := fmt.Sprintf("%s-%d", label, i)
			if okays[c] == 0 {
				t.Errorf("%s was stranded", c)
			}
			if want := fmt.Sprintf("n%d", i%3+1); home[c] != want {
				t.Errorf("%s sits on %q, want %s", c, home[c], want)
			}
		}
	}
}

func checkHealth(t *testing.T, h *history.History) {
	t.Helper()
	n := map[string]int{}
	for _, s := range h.Health {
		n[s.Node+"/"+s.Probe]++
		if s.Code != 200 {
			t.Errorf("a healthy node said %+v", s)
		}
	}
	if len(n) != 6 {
		t.Errorf("probes: %v", n)
	}
}

// A workload that is set going again after a pause writes new values: an id that came back would be dropped by the stream, or kept twice.
func TestValuesDoNotComeBackAfterAPause(t *testing.T) {
	b := newBench(t, 3)
	w := &workload.Streams{Existing: true, Publishers: 2, Rate: 50, NoRetry: true}
	defer w.Close()
	setup, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // no node runs: what is published does not matter
	defer cancel()
	if err := w.Setup(setup, b.env); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		run, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := w.Run(run, b.env)
		stop()
		if err != nil {
			t.Fatal(err)
		}
	}
	h := b.history(t)
	seen := map[string]bool{}
	for _, o := range h.Ops {
		if seen[o.Value] {
			t.Fatalf("%s was sent twice", o.Value)
		}
		seen[o.Value] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d values were sent", len(seen))
	}
}
