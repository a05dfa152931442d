package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// CoreDelivered ("core-delivered") demands that core messages reach everybody who listened. NATS delivers them at most once, so that only those are
// judged that nothing excuses: the sender's server had taken the message (it answered a PING behind it, on the connection that the message went over), and the
// subscriber was connected, to one node, from SettleSeconds before the message was sent until SettleSeconds after it was taken.
type CoreDelivered struct {
	Window        Window  `json:"window"`         // messages that were sent and taken in it
	Target        string  `json:"target"`         // subject
	SettleSeconds float64 `json:"settle_seconds"` // for a subscription to be known at every node, and a message to arrive; 0 means 1
	MinPairs      int     `json:"min_pairs"`      // of a message and a subscriber that must be judged; 0 means 1
	// Clients are prefixes of the subscribers' names: those who connected are judged, also where nothing was ever delivered to them. Empty means that only those are
	// known who were given something: one that never got anything cannot be told from one that never listened.
	Clients    []string `json:"clients,omitempty"`
	MinClients int      `json:"min_clients,omitempty"` // fewer subscribers who were given something are Inconclusive; 0 means not judged
}

const defaultSettle = 1.0

// listening is one subscriber with the stretches in which it stayed connected to one node.
type listening struct {
	client string
	spans  []span
	got    map[string]bool
}

// Check implements Checker.
func (c CoreDelivered) Check(h *history.History) Result {
	if r, bad := unsound(h); bad {
		return r
	}
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	listeners := c.listeners(h)
	lost := violation{code: CodeSkipped, promise: promiseCore}
	pairs, sent := 0, 0
	for _, op := range c.taken(h, w) {
		sent++
		for _, l := range listeners {
			if !l.whole(op.Invoke-c.settle(), op.Complete+c.settle()) {
				continue
			}
			pairs++
			if !l.got[op.Value] {
				lost.count++
				lost.seen.add(op.Invoke, []int64{op.ID}, "%s sent %s through %s %.3f s into the window, which took it; %s, connected all the time, never got it", op.Client, op.Value, orDash(op.Node), seconds(op.Invoke-w.from), l.client)
			}
		}
	}
	figures := []Figure{count("sent", sent), count("subscribers", len(listeners)), count("pairs", pairs), count("not_delivered", lost.count)}
	lost.reason = fmt.Sprintf("%d of %d deliveries of messages that a server had taken, to subscribers that stayed connected, did not happen.", lost.count, pairs)
	if r, bad := found(figures, lost); bad {
		return r
	}
	if n := heard(listeners); n < c.MinClients {
		return inconclusive(figures, CodeTooFewClients, "%d subscribers were given anything, at least %d are needed.", n, c.MinClients)
	}
	if need := orDefault(c.MinPairs, 1); pairs < need {
		return inconclusive(figures, CodeTooFewArrived, "%d pairs of a message and a subscriber could be judged, at least %d are needed.", pairs, need)
	}
	return passed(figures, "All %d deliveries of %d messages, that a server had taken, to subscribers that stayed connected happened.", pairs, sent)
}

func (c CoreDelivered) settle() int64 { return nanos(orDefault(c.SettleSeconds, defaultSettle)) }

// taken is the messages that a server had taken, in the window.
func (c CoreDelivered) taken(h *history.History, w span) []*history.Op {
	var ops []*history.Op
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind == history.Send && op.Target == c.Target && op.Outcome == history.OK && w.has(op.Invoke) && w.has(op.Complete) {
			ops = append(ops, op)
		}
	}
	return ops
}

// heard counts the listeners that anything was delivered to.
func heard(listeners []*listening) (n int) {
	for _, l := range listeners {
		if len(l.got) > 0 {
			n++
		}
	}
	return n
}

// listeners are the clients that anything was delivered to, and those of the given names that ever connected.
func (c CoreDelivered) listeners(h *history.History) []*listening {
	by := map[string]*listening{}
	for _, d := range h.Deliveries {
		if d.Kind != "core" || d.Target != c.Target {
			continue
		}
		if by[d.Client] == nil {
			by[d.Client] = &listening{client: d.Client, got: map[string]bool{}}
		}
		by[d.Client].got[d.Value] = true
	}
	for _, x := range h.Conns {
		if len(c.Clients) > 0 && hasPrefix(x.Client, c.Clients) && by[x.Client] == nil {
			by[x.Client] = &listening{client: x.Client, got: map[string]bool{}}
		}
	}
	conns := slices.Clone(h.Conns)
	slices.SortStableFunc(conns, func(a, b history.Conn) int { return int(max(min(a.At-b.At, 1), -1)) })
	open := map[string]int64{}
	end := func(client string, at int64) {
		if from, is := open[client]; is && by[client] != nil {
			by[client].spans = append(by[client].spans, span{from, at})
		}
		delete(open, client)
	}
	for _, x := range conns {
		end(x.Client, x.At) // whatever happened to the connection, what was before is over
		if x.State == "connected" || x.State == "reconnected" {
			open[x.Client] = x.At
		}
	}
	var out []*listening
	for _, client := range sortedKeys(by) {
		end(client, h.End())
		out = append(out, by[client])
	}
	return out
}

// whole tells whether the subscriber was connected to one node all the time from a to b.
func (l *listening) whole(a, b int64) bool {
	return slices.ContainsFunc(l.spans, func(s span) bool { return s.from <= a && b <= s.to })
}

// dropCore takes one delivery away that the claim counts on.
func dropCore(h *history.History, c CoreDelivered, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	listeners, sent := c.listeners(h), c.taken(h, w)
	rng.Shuffle(len(sent), func(i, j int) { sent[i], sent[j] = sent[j], sent[i] })
	for _, op := range sent {
		for _, l := range listeners {
			if !l.got[op.Value] || !l.whole(op.Invoke-c.settle(), op.Complete+c.settle()) {
				continue
			}
			h.Deliveries = slices.DeleteFunc(slices.Clone(h.Deliveries), func(d history.Delivery) bool {
				return d.Client == l.client && d.Target == c.Target && d.Value == op.Value
			})
			return fmt.Sprintf("took the delivery of %s to %s away", op.Value, l.client), true
		}
	}
	return "no delivery is counted on", false
}

// silenceSubscriber takes everything away that was delivered to a subscriber that the claim counts on.
func silenceSubscriber(h *history.History, c CoreDelivered, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	listeners, sent := c.listeners(h), c.taken(h, w)
	i := pick(rng, listeners, func(l **listening) bool {
		known := slices.ContainsFunc(h.Conns, func(x history.Conn) bool { return x.Client == (*l).client })
		return known && hasPrefix((*l).client, c.Clients) && len((*l).got) > 0 &&
			slices.ContainsFunc(sent, func(op *history.Op) bool { return (*l).whole(op.Invoke-c.settle(), op.Complete+c.settle()) })
	})
	if i < 0 {
		return "no subscriber of the given names is counted on", false
	}
	h.Deliveries = silenced(h.Deliveries, listeners[i].client, c.Target)
	return fmt.Sprintf("took all deliveries to %s away", listeners[i].client), true
}

// forgetSubscriber takes a subscriber out of the record, as if it had never connected.
func forgetSubscriber(h *history.History, c CoreDelivered, rng *rand.Rand) (string, bool) {
	listeners := c.listeners(h)
	i := pick(rng, listeners, func(l **listening) bool { return len((*l).got) > 0 })
	if i < 0 || heard(listeners) != c.MinClients {
		return "there are other numbers of subscribers than are needed", false
	}
	h.Deliveries, h.Conns = silenced(h.Deliveries, listeners[i].client, c.Target), unconnected(h.Conns, listeners[i].client)
	return fmt.Sprintf("took %s out of the record", listeners[i].client), true
}

// silenced is all deliveries without those of one target to one client.
func silenced(ds []history.Delivery, client, target string) []history.Delivery {
	return slices.DeleteFunc(slices.Clone(ds), func(d history.Delivery) bool { return d.Client == client && d.Target == target })
}

// unconnected is all connections without those of one client.
func unconnected(conns []history.Conn, client string) []history.Conn {
	return slices.DeleteFunc(slices.Clone(conns), func(x history.Conn) bool { return x.Client == client })
}
