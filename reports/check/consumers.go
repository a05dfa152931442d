package check

import (
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Consumers ("consumer") judges what consumers and watchers of one target were given, against what the target holds in the end.
// All pull clients of a target share one durable consumer; every ordered consumer and every watcher stands for itself.
type Consumers struct {
	Target        string   `json:"target"`                   // as in Delivery.Target
	Kinds         []string `json:"kinds,omitempty"`          // "pull", "ordered", "watch"; empty means those that the record has
	MinDeliveries int      `json:"min_deliveries,omitempty"` // fewer of any kind are Inconclusive; 0 means 1
	Complete      bool     `json:"complete,omitempty"`       // every drained item must have arrived (for watchers: every key's last)
	// SlackSeconds is for records that do not say when a pull was made: so soon after the confirmed ack of the first delivery a second one
	// may arrive, because the server may have sent it before it knew of the ack. 0 means 1.
	SlackSeconds float64 `json:"slack_seconds,omitempty"`
	// Clients are prefixes of the names of those who were to follow the target, for a claim about "ordered" or "watch" alone: who of them connected and was given
	// nothing at all has been skipped. Empty means that only those are known who were given something.
	Clients    []string `json:"clients,omitempty"`
	MinClients int      `json:"min_clients,omitempty"` // fewer of any kind who were given something are Inconclusive; 0 means not judged
}

const (
	kindPull    = "pull"
	kindOrdered = "ordered"
	kindWatch   = "watch"

	defaultSlack = 1.0
)

// arrivals is the evidence about one target.
type arrivals struct {
	rb      readback
	sent    map[string]int64                          // values that clients may have written, not certainly failed, and when the first attempt was made
	inOrder []history.Item                            // what the target holds, by sequence
	kinds   map[string]map[string][]*history.Delivery // kind -> client -> in order of arrival
	total   map[string]int

	skipped, again, order, differs, never violation
}

// Check implements Checker.
func (c Consumers) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	if len(c.Clients) > 0 && (len(c.Kinds) != 1 || c.Kinds[0] == kindPull) {
		return inconclusive(nil, CodeBadParams, "Clients are named, and the kinds are %q: one is wanted, in which each client stands for itself.", c.Kinds)
	}
	rb, no := drained(h, c.Target)
	if no != nil {
		return *no
	}
	a := newArrivals(h, c.Target, rb)
	kinds := c.Kinds
	if len(kinds) == 0 {
		kinds = sortedKeys(a.kinds)
	}
	if len(kinds) == 0 {
		return inconclusive(nil, CodeTooFewArrived, "The record has no delivery from %s.", c.Target)
	}
	figures := []Figure{count("items", len(rb.items))}
	var few *Result
	for _, kind := range kinds {
		if kind != kindPull && kind != kindOrdered && kind != kindWatch {
			return inconclusive(nil, CodeBadParams, "There is no kind of consumer %q.", kind)
		}
		figures = append(figures, count(kind+" clients", len(a.kinds[kind])), count(kind+" deliveries", a.total[kind]))
		if n := len(a.kinds[kind]); n < c.MinClients && few == nil {
			r := inconclusive(nil, CodeTooFewClients, "%d %s clients were given anything from %s, at least %d are needed.", n, kind, c.Target, c.MinClients)
			few = &r
		}
		if need := orDefault(c.MinDeliveries, 1); a.total[kind] < need && few == nil {
			r := inconclusive(nil, CodeTooFewArrived, "%d %s deliveries from %s are in the record, at least %d are needed.", a.total[kind], kind, c.Target, need)
			few = &r
		}
		c.judge(a, kind)
		if len(c.Clients) > 0 {
			figures = append(figures, count("silent", c.silent(h, a, kind)))
		}
	}
	figures = append(figures, count("skipped", a.skipped.count), count("redelivered_after_ack", a.again.count), count("out_of_order", a.order.count), count("delivered_differs", a.differs.count), count("never_sent", a.never.count), count("redelivered", a.redelivered()))
	a.tell(c.Target)
	if r, bad := found(figures, a.never, a.differs, a.skipped, a.again, a.order); bad {
		return r
	}
	if few != nil {
		few.Figures = figures
		return *few
	}
	n := 0
	for _, k := range kinds {
		n += a.total[k]
	}
	return passed(figures, "%d deliveries (%v) from %s skip nothing, are in order, and none came again after its confirmed ack.", n, kinds, c.Target)
}

func newArrivals(h *history.History, target string, rb readback) *arrivals {
	a := &arrivals{rb: rb, sent: map[string]int64{}, kinds: map[string]map[string][]*history.Delivery{}, total: map[string]int{},
		skipped: violation{code: CodeSkipped, promise: promiseConsumer},
		again:   violation{code: CodeRedelivered, promise: promiseConsumer},
		order:   violation{code: CodeOutOfOrder, promise: promiseConsumer},
		differs: violation{code: CodeDelivDiffers, promise: promiseLog},
		never:   violation{code: CodeNeverSent, promise: promiseLog},
	}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Target == target && writes[op.Kind] && op.Outcome != history.Failed {
			if at, ok := a.sent[op.Value]; !ok || op.Invoke < at {
				a.sent[op.Value] = op.Invoke
			}
		}
	}
	a.inOrder = slices.Clone(rb.items)
	slices.SortStableFunc(a.inOrder, func(x, y history.Item) int {
		switch {
		case x.Seq < y.Seq:
			return -1
		case x.Seq > y.Seq:
			return 1
		}
		return 0
	})
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		if d.Target != target || d.Kind != kindPull && d.Kind != kindOrdered && d.Kind != kindWatch {
			continue
		}
		if a.kinds[d.Kind] == nil {
			a.kinds[d.Kind] = map[string][]*history.Delivery{}
		}
		a.kinds[d.Kind][d.Client] = append(a.kinds[d.Kind][d.Client], d)
		a.total[d.Kind]++
	}
	return a
}

func (a *arrivals) tell(target string) {
	a.never.reason = fmt.Sprintf("%d deliveries from %s carry what no client sent.", a.never.count, target)
	a.differs.reason = fmt.Sprintf("%d deliveries from %s carry something else than what it holds at that sequence.", a.differs.count, target)
	a.skipped.reason = fmt.Sprintf("%d messages of %s were skipped.", a.skipped.count, target)
	a.again.reason = fmt.Sprintf("%d messages of %s were delivered again after their acknowledgement had been confirmed.", a.again.count, target)
	a.order.reason = fmt.Sprintf("%d deliveries from %s came out of order.", a.order.count, target)
}

// redelivered is how many deliveries were not the message's first, as the server counts.
func (a *arrivals) redelivered() int {
	n := 0
	for _, clients := range a.kinds {
		for _, ds := range clients {
			for _, d := range ds {
				if d.Count > 1 {
					n++
				}
			}
		}
	}
	return n
}

func (c Consumers) judge(a *arrivals, kind string) {
	held := readback{items: a.inOrder}
	for _, client := range sortedKeys(a.kinds[kind]) {
		for _, d := range a.kinds[kind][client] {
			it, ok := held.at(d.Seq)
			_, sent := a.sent[d.Value]
			switch {
			case hasPrefix(d.Key, reservedKeys):
			case !sent:
				a.never.count++
				a.never.seen.add(d.At, nil, "%s client %s was given %q at sequence %d", kind, d.Client, d.Value, d.Seq)
			case ok && it.Value != d.Value || !ok && kind != kindWatch: // a bucket forgets old revisions
				a.differs.count++
				a.differs.seen.add(d.At, nil, "%s client %s was given %q at sequence %d, which holds %q", kind, d.Client, d.Value, d.Seq, it.Value)
			}
		}
		switch kind {
		case kindOrdered:
			c.ordered(a, client, a.kinds[kind][client])
		case kindWatch:
			c.watch(a, client, a.kinds[kind][client])
		}
	}
	if kind == kindPull {
		c.pull(a)
	}
}

// silent notes what those missed who connected and were given nothing, and returns how many they are: no delivery shows that they exist, only their connection does.
func (c Consumers) silent(h *history.History, a *arrivals, kind string) (n int) {
	conns := c.connections(h, a.rb.drain.At)
	for _, client := range sortedKeys(conns) {
		if len(a.kinds[kind][client]) > 0 {
			continue
		}
		n++
		if owed := c.owed(a, kind, conns[client]); len(owed) > 0 {
			a.skipped.count += len(owed)
			a.skipped.seen.add(conns[client].since, nil, "%s client %s, connected since %.3f s, was never given anything: of sequences %d to %d it missed %d", kind, client,
				seconds(conns[client].since), owed[0].Seq, owed[len(owed)-1].Seq, len(owed))
		}
	}
	return n
}

// connection is what the record says of a client's connection.
type connection struct {
	since int64 // the first one
	open  bool  // in the end
}

// connections are those of the clients that are to follow the target, who were ever connected before it was read back.
func (c Consumers) connections(h *history.History, end int64) map[string]connection {
	conns, last := map[string]connection{}, map[string]int64{}
	for _, x := range h.Conns {
		was, known := conns[x.Client]
		up := x.State == "connected" || x.State == "reconnected"
		if !hasPrefix(x.Client, c.Clients) || x.At > end || !known && !up {
			continue
		}
		if !known || up && x.At < was.since {
			was.since = x.At
		}
		if x.At >= last[x.Client] {
			was.open, last[x.Client] = up, x.At
		}
		conns[x.Client] = was
	}
	return conns
}

// owed is what a client with that connection must have been given: where not everything has to arrive, what was written after it had connected, unless its connection
// was lost in the end.
func (c Consumers) owed(a *arrivals, kind string, x connection) []history.Item {
	switch {
	case c.Complete && kind == kindOrdered:
		return a.inOrder
	case c.Complete:
		latest := a.latest()
		return slices.DeleteFunc(slices.Clone(a.inOrder), func(it history.Item) bool { return latest[it.Key].Seq != it.Seq })
	case !x.open:
		return nil
	}
	return slices.DeleteFunc(slices.Clone(a.inOrder), func(it history.Item) bool {
		at, ok := a.sent[it.Value]
		return !ok || at <= x.since || hasPrefix(it.Key, reservedKeys)
	})
}

// latest is the last value of every key.
func (a *arrivals) latest() map[string]history.Item {
	latest := map[string]history.Item{}
	for _, it := range a.inOrder {
		if !hasPrefix(it.Key, reservedKeys) {
			latest[it.Key] = it
		}
	}
	return latest
}

// pull judges all pull clients as one durable consumer.
func (c Consumers) pull(a *arrivals) {
	slack := nanos(orDefault(c.SlackSeconds, defaultSlack))
	confirmed := map[uint64]*history.Delivery{} // sequence -> the delivery whose ack was confirmed first
	got := map[uint64]bool{}
	for _, client := range sortedKeys(a.kinds[kindPull]) {
		for _, d := range a.kinds[kindPull][client] {
			got[d.Seq] = true
			if old, ok := confirmed[d.Seq]; d.Ack == history.OK && d.Acked > 0 && (!ok || d.Acked < old.Acked) {
				confirmed[d.Seq] = d
			}
		}
	}
	for _, client := range sortedKeys(a.kinds[kindPull]) {
		for _, d := range a.kinds[kindPull][client] {
			if first, ok := confirmed[d.Seq]; ok && sentAfter(d, first.Acked, slack) {
				a.again.count++
				a.again.seen.add(d.At, nil, "sequence %d came to %s %.3f s after its ack by %s had been confirmed (the server counts %d deliveries)", d.Seq, client, seconds(d.At-first.Acked), first.Client, d.Count)
			}
		}
	}
	if !c.Complete {
		return
	}
	for _, it := range a.inOrder {
		if !got[it.Seq] {
			a.skipped.count++
			a.skipped.seen.add(a.rb.drain.At, nil, "sequence %d (%q) was delivered to no pull client", it.Seq, it.Value)
		}
	}
}

// sentAfter tells whether the server sent d after an ack had been confirmed at that time. What answers a pull that was made later was sent later, however long
// anything else took on its way; where the record does not say when the pull was made, the time of arrival less the slack must do.
func sentAfter(d *history.Delivery, confirmed, slack int64) bool {
	if d.Asked > 0 {
		return d.Asked > confirmed
	}
	return d.At > confirmed+slack
}

// ordered demands every message the stream holds, one after the other, from the first that the client was given.
func (c Consumers) ordered(a *arrivals, client string, ds []*history.Delivery) {
	next := 0 // index into inOrder of what must come next
	if !c.Complete && len(ds) > 0 {
		next = a.index(ds[0].Seq)
	}
	var last uint64
	for _, d := range ds {
		if d.Seq <= last {
			a.order.count++
			a.order.seen.add(d.At, nil, "ordered client %s was given sequence %d after %d", client, d.Seq, last)
			continue
		}
		last = d.Seq
		i := a.index(d.Seq)
		a.skip(client, next, i, d.At)
		next = max(next, i)
		if i < len(a.inOrder) && a.inOrder[i].Seq == d.Seq {
			next = i + 1
		}
	}
	if c.Complete {
		a.skip(client, next, len(a.inOrder), a.rb.drain.At)
	}
}

// skip notes that client never got inOrder[from:to].
func (a *arrivals) skip(client string, from, to int, at int64) {
	if from >= to {
		return
	}
	a.skipped.count += to - from
	a.skipped.seen.add(at, nil, "ordered client %s was never given sequences %d to %d", client, a.inOrder[from].Seq, a.inOrder[to-1].Seq)
}

// index of the first item at or after seq.
func (a *arrivals) index(seq uint64) int {
	i, _ := slices.BinarySearchFunc(a.inOrder, seq, func(it history.Item, s uint64) int {
		if it.Seq < s {
			return -1
		}
		return 1
	})
	return i
}

// watch demands ascending revisions, everything that was written after the watcher had begun and that the bucket still has and, if complete, the last value of
// every key. What was written before may have been replaced when the watcher began.
func (c Consumers) watch(a *arrivals, client string, ds []*history.Delivery) {
	var last uint64
	got := map[uint64]bool{}
	for _, d := range ds {
		got[d.Seq] = true
		if d.Seq <= last {
			a.order.count++
			a.order.seen.add(d.At, nil, "watcher %s was given revision %d after %d", client, d.Seq, last)
			continue
		}
		last = d.Seq
	}
	a.unwatched(client, ds, got, last)
	if !c.Complete {
		return
	}
	latest := a.latest()
	for _, key := range sortedKeys(latest) {
		if it := latest[key]; !got[it.Seq] {
			a.skipped.count++
			a.skipped.seen.add(a.rb.drain.At, nil, "watcher %s was never given the last value of key %q (revision %d)", client, key, it.Seq)
		}
	}
}

// unwatched notes the revisions that a watcher went past.
func (a *arrivals) unwatched(client string, ds []*history.Delivery, got map[uint64]bool, last uint64) {
	if len(ds) == 0 {
		return
	}
	for _, it := range a.inOrder {
		if it.Seq >= last {
			return
		}
		if at, ok := a.sent[it.Value]; ok && at > ds[0].At && !got[it.Seq] && !hasPrefix(it.Key, reservedKeys) {
			a.skipped.count++
			a.skipped.seen.add(a.rb.drain.At, nil, "watcher %s was never given revision %d of key %q (%q), which was written after it had begun, and was given %d", client, it.Seq, it.Key, it.Value, last)
		}
	}
}
