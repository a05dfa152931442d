package check

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

func ackInOutage(h *history.History, c NoAck, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	judged := c.judged(h, w)
	i := pick(rng, h.Ops, func(op *history.Op) bool { return slices.Contains(judged, op) })
	if i < 0 {
		return "nothing was attempted in the window", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	op.Outcome, op.Err, op.Seq, op.Dup = history.OK, "", max(op.Seq, 1), false
	if op.Complete == 0 || op.Complete > w.to {
		op.Complete = w.to
	}
	return fmt.Sprintf("made operation %d, invoked in the window, acked", op.ID), true
}

func silence(h *history.History, c NoAck, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	if c.MaxSilenceSeconds <= 0 {
		return "the checker has no bound on silence", false
	}
	judged := c.judged(h, w)
	i := pick(rng, h.Ops, func(op *history.Op) bool { return op.Outcome != history.OK && slices.Contains(judged, op) })
	if i < 0 {
		return "nothing was attempted in vain in the window", false
	}
	h.Ops = slices.Clone(h.Ops)
	op := &h.Ops[i]
	op.Outcome, op.Complete = history.Unknown, op.Invoke+nanos(c.MaxSilenceSeconds)+1
	return fmt.Sprintf("made operation %d wait %g s for its answer", op.ID, c.MaxSilenceSeconds), true
}

func noAcks(h *history.History, c Availability, _ *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	return fmt.Sprintf("made every ack in the window unknown: %d of them", unack(h, newFilter(c.Kinds, c.Targets), w)), true
}

// unack makes every ack in w unknown, and returns how many there were.
func unack(h *history.History, f opFilter, w span) int {
	h.Ops = slices.Clone(h.Ops)
	n := 0
	for i := range h.Ops {
		if op := &h.Ops[i]; f.has(op) && op.Outcome == history.OK && w.has(op.Complete) {
			op.Outcome, op.Seq, op.Err = history.Unknown, 0, "timeout"
			n++
		}
	}
	return n
}

// stretchGap takes away the acks of a stretch that is a little longer than the bound, where clients were trying.
func stretchGap(h *history.History, c Availability, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	f, long := newFilter(c.Kinds, c.Targets), nanos(c.MaxGapSeconds)+1e6
	if c.MaxGapSeconds <= 0 {
		return "the checker has no bound on gaps", false
	}
	if w.to-w.from < 2*long {
		return "the window is too short for a gap and acks beside it", false
	}
	i := pick(rng, h.Ops, func(op *history.Op) bool {
		return f.has(op) && op.Outcome == history.OK && op.Invoke >= w.from && op.Complete <= w.to-long
	})
	if i < 0 {
		return "nothing was acked early enough in the window", false
	}
	gap := span{h.Ops[i].Invoke, h.Ops[i].Invoke + long}
	n := unack(h, f, gap)
	for i := range h.Ops {
		if op := &h.Ops[i]; f.has(op) && op.Outcome == history.OK && w.has(op.Complete) {
			return fmt.Sprintf("made the %d acks of %.3f s unknown", n, seconds(long)), true
		}
	}
	return "no acks would be left", false
}

func strandClient(h *history.History, c ClientGaps, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	lives := c.lives(h, w)
	if len(lives) == 0 {
		return "there are no clients", false
	}
	name, from := lives[rng.IntN(len(lives))].name, w.to-nanos(orDefault(c.EndSeconds, defaultEnd))-1
	h.Ops = slices.Clone(h.Ops)
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Client == name && op.Outcome == history.OK && op.Complete > from {
			op.Outcome, op.Seq, op.Err = history.Unknown, 0, "timeout"
		}
	}
	h.Deliveries = slices.DeleteFunc(slices.Clone(h.Deliveries), func(d history.Delivery) bool { return d.Client == name && d.At > from })
	return fmt.Sprintf("took the successes of %s in the end of the window away", name), true
}

// healthFlip turns one answer that the check wants into one that it must not pass, if the check can end with code.
func healthFlip(code string) damage[HealthCheck] {
	return func(h *history.History, c HealthCheck, rng *rand.Rand) (string, bool) {
		if c.violation().code != code {
			return "the check wants " + c.Want, false
		}
		w, no := bounds(h, c.Window)
		if no != nil {
			return no.Reason, false
		}
		w.from += nanos(c.GraceSeconds)
		judged := func(x *history.Health) bool {
			return x.Probe == c.Probe && slices.Contains(c.Nodes, x.Node) && w.has(x.At)
		}
		i := pick(rng, h.Health, judged)
		if i < 0 {
			return "no sample is judged", false
		}
		if c.Want == WantEnds200 || c.Want == WantEndsNot200 { // only the node's last sample counts
			for k := range h.Health {
				if x := &h.Health[k]; judged(x) && x.Node == h.Health[i].Node && x.At >= h.Health[i].At {
					i = k
				}
			}
		}
		h.Health = slices.Clone(h.Health)
		x := &h.Health[i]
		if x.Code = http.StatusOK; code != CodeReadyNoQuorum {
			x.Code = http.StatusServiceUnavailable
		}
		return fmt.Sprintf("made %s answer %d at %d ns", x.Node, x.Code, x.At), true
	}
}

// dropReasons takes away what one node said for itself.
func dropReasons(h *history.History, c HealthCheck, rng *rand.Rand) (string, bool) {
	if len(c.ReasonContains) == 0 || len(c.Nodes) == 0 {
		return "the check wants no reason", false
	}
	node := c.Nodes[rng.IntN(len(c.Nodes))]
	h.Health = slices.Clone(h.Health)
	for i := range h.Health {
		if x := &h.Health[i]; x.Node == node && x.Probe == c.Probe {
			x.Reason = ""
		}
	}
	return fmt.Sprintf("took the reasons of %s away", node), true
}

// truth200 makes a node say ready in an outage.
func truth200(h *history.History, c HealthTruth, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	outages, _ := c.outages(h, w)
	i := pick(rng, h.Health, func(x *history.Health) bool {
		_, in := c.judged(outages, *x)
		return x.Probe == "ready" && w.has(x.At) && in
	})
	if i < 0 {
		return "no sample lies in an outage in which clients tried to write", false
	}
	h.Health = slices.Clone(h.Health)
	h.Health[i].Code = http.StatusOK
	return fmt.Sprintf("made %s say 200 in an outage, at %d ns", h.Health[i].Node, h.Health[i].At), true
}

// truthOutage makes all writes around a node's 200 fail, for three times the grace.
func truthOutage(h *history.History, c HealthTruth, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	is200 := func(x *history.Health) bool {
		return x.Probe == "ready" && w.has(x.At) && x.Code == http.StatusOK
	}
	f, grace := newFilter(nil, c.Targets), c.grace()
	// A few samples are tried: around most of them clients were writing.
	for range 16 {
		i := pick(rng, h.Health, is200)
		if i < 0 {
			break
		}
		at := h.Health[i].At
		cp := *h
		cp.Ops = slices.Clone(h.Ops)
		gap := span{at - grace - grace/2, at + grace + grace/2}
		for k := range cp.Ops {
			if op := &cp.Ops[k]; f.has(op) && op.Outcome == history.OK && gap.has(op.Complete) {
				op.Outcome, op.Seq, op.Err = history.Failed, 0, "no-responders"
			}
		}
		outages, _ := c.outages(&cp, w)
		if _, in := c.judged(outages, h.Health[i]); in {
			*h = cp
			return fmt.Sprintf("made the writes fail around %s's 200 at %d ns", h.Health[i].Node, at), true
		}
	}
	return "around no 200 were enough writes attempted", false
}

// unconverge changes what one event says.
func unconverge(f func(v *history.Convergence)) damage[Converged] {
	return func(h *history.History, _ Converged, rng *rand.Rand) (string, bool) {
		i := pick(rng, h.Events, func(e *history.Event) bool { return e.Kind == "converged" })
		if i < 0 {
			return "nothing converged", false
		}
		v, _ := h.Events[i].Convergence()
		f(&v)
		e := history.ConvergedEvent(h.Events[i].Name, v)
		e.At, e.Nodes = h.Events[i].At, h.Events[i].Nodes
		h.Events = slices.Clone(h.Events)
		h.Events[i] = e
		return fmt.Sprintf("changed what had converged at %q", e.Name), true
	}
}

func underReplicate(h *history.History, c Converged, rng *rand.Rand) (string, bool) {
	if c.buckets() < 0 {
		return "the check expects no buckets", false
	}
	return unconverge(func(v *history.Convergence) { v.Replicas = c.replicas() - 1 })(h, c, rng)
}

// has fits the events of one stage of the faults that are judged.
func (c Faults) has(stage history.Stage) func(e *history.Event) bool {
	return func(e *history.Event) bool {
		return e.Kind == "fault" && e.Stage == stage && hasPrefix(e.Name, c.Names)
	}
}

// dropStage removes one stage of one fault.
func dropStage(h *history.History, c Faults, rng *rand.Rand, stage history.Stage) (string, bool) {
	i := pick(rng, h.Events, c.has(stage))
	if i < 0 {
		return fmt.Sprintf("no fault was %s", stage), false
	}
	name := h.Events[i].Name
	h.Events = slices.DeleteFunc(slices.Clone(h.Events), func(e history.Event) bool {
		return e.Kind == "fault" && e.Name == name && e.Stage == stage
	})
	return fmt.Sprintf("removed that %s was %s", name, stage), true
}

func dropInForce(h *history.History, c Faults, rng *rand.Rand) (string, bool) {
	return dropStage(h, c, rng, history.StageInForce)
}

func dropHealed(h *history.History, c Faults, rng *rand.Rand) (string, bool) {
	return dropStage(h, c, rng, history.StageHealed)
}

// measure makes one probe of a stage say that the fault is in force.
func measure(h *history.History, c Faults, rng *rand.Rand, stage history.Stage) (string, bool) {
	i := pick(rng, h.Events, c.has(stage))
	if i < 0 {
		return fmt.Sprintf("no fault has a probe %q", stage), false
	}
	h.Events = slices.Clone(h.Events)
	e := &h.Events[i]
	data := map[string]any{}
	maps.Copy(data, e.Data)
	data[dataInForce] = true
	e.Data = data
	return fmt.Sprintf("made the probe %q of %s say that the fault is in force", stage, e.Name), true
}

func hitBystander(h *history.History, c Faults, rng *rand.Rand) (string, bool) {
	return measure(h, c, rng, history.StageBystand)
}

func thereBefore(h *history.History, c Faults, rng *rand.Rand) (string, bool) {
	return measure(h, c, rng, history.StageAbsent)
}

// takes says whether the check judges deliveries of this kind.
func (c Consumers) takes(kind string) bool {
	known := kind == kindPull || kind == kindOrdered || kind == kindWatch
	return known && (len(c.Kinds) == 0 || slices.Contains(c.Kinds, kind))
}

// dropDelivery removes a message from what was delivered: from all pull clients, or from the middle of what an ordered one was given.
func dropDelivery(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	first, last := map[string]uint64{}, map[string]uint64{}
	for _, d := range h.Deliveries {
		if d.Target == c.Target && d.Kind == kindOrdered {
			if _, ok := first[d.Client]; !ok {
				first[d.Client] = d.Seq
			}
			last[d.Client] = max(last[d.Client], d.Seq)
		}
	}
	i := pick(rng, h.Deliveries, func(d *history.Delivery) bool {
		switch {
		case d.Target != c.Target || !c.takes(d.Kind):
			return false
		case d.Kind == kindPull:
			return c.Complete
		}
		return d.Kind == kindOrdered && d.Seq > first[d.Client] && d.Seq < last[d.Client]
	})
	if i < 0 {
		return "no delivery whose absence would be noticed", false
	}
	gone := h.Deliveries[i]
	kept := slices.DeleteFunc(slices.Clone(h.Deliveries), func(d history.Delivery) bool {
		return d.Target == gone.Target && d.Kind == gone.Kind && d.Seq == gone.Seq && (d.Kind == kindPull || d.Client == gone.Client)
	})
	if !slices.ContainsFunc(kept, func(d history.Delivery) bool { return d.Target == gone.Target && d.Kind == gone.Kind }) {
		return "no delivery would be left", false
	}
	h.Deliveries = kept
	return fmt.Sprintf("took sequence %d away from %s client %s", gone.Seq, gone.Kind, gone.Client), true
}

func redeliverAcked(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Deliveries, func(d *history.Delivery) bool {
		return d.Target == c.Target && d.Kind == kindPull && c.takes(d.Kind) && d.Ack == history.OK && d.Acked > 0
	})
	if i < 0 {
		return "no ack of a pull client was confirmed", false
	}
	return deliverAgain(h, i, nanos(orDefault(c.SlackSeconds, defaultSlack))), true
}

// deliverAgain delivers once more what had been acked, in answer to a pull that was made afterwards.
func deliverAgain(h *history.History, i int, slack int64) string {
	d := h.Deliveries[i]
	d.At = d.Acked + slack + 1e9
	if d.Asked > 0 {
		d.Asked = d.Acked + 1
	}
	d.Count++
	d.Ack, d.Acked = history.Unknown, 0
	h.Deliveries = append(slices.Clone(h.Deliveries), d)
	return fmt.Sprintf("delivered sequence %d again after its confirmed ack", d.Seq)
}

// swapDeliveries swaps two deliveries in a row of one watcher. To an ordered consumer that would be a skipped message too.
func swapDeliveries(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	last, before := map[string]int{}, map[int]int{}
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		if d.Target != c.Target || d.Kind != kindWatch || !c.takes(d.Kind) {
			continue
		}
		if j, ok := last[d.Client]; ok {
			before[i] = j
		}
		last[d.Client] = i
	}
	var is []int
	for i := range h.Deliveries {
		if _, ok := before[i]; ok {
			is = append(is, i)
		}
	}
	if len(is) == 0 {
		return "no watcher was given two values", false
	}
	i := is[rng.IntN(len(is))]
	j := before[i]
	h.Deliveries = slices.Clone(h.Deliveries)
	a, b := &h.Deliveries[i], &h.Deliveries[j]
	a.At, b.At = b.At, a.At
	*a, *b = *b, *a
	return fmt.Sprintf("swapped revisions %d and %d of watcher %s", a.Seq, b.Seq, a.Client), true
}

func deliverNeverSent(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	i := pick(rng, h.Deliveries, func(d *history.Delivery) bool {
		return d.Target == c.Target && c.takes(d.Kind) && !hasPrefix(d.Key, reservedKeys)
	})
	if i < 0 {
		return "nothing was delivered", false
	}
	h.Deliveries = slices.Clone(h.Deliveries)
	h.Deliveries[i].Value = foreign
	return fmt.Sprintf("changed what %s was given at sequence %d", h.Deliveries[i].Client, h.Deliveries[i].Seq), true
}

// silenceConsumer takes everything away that one client was given, of those that the check knows to have connected.
func silenceConsumer(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	rb, no := drained(h, c.Target)
	if no != nil || len(c.Kinds) != 1 {
		return "the check does not pass", false
	}
	a := newArrivals(h, c.Target, rb)
	conns := c.connections(h, rb.drain.At)
	clients := sortedKeys(conns)
	i := pick(rng, clients, func(client *string) bool {
		return len(a.kinds[c.Kinds[0]][*client]) > 0 && len(c.owed(a, c.Kinds[0], conns[*client])) > 0
	})
	if i < 0 {
		return "no client whose silence would be noticed", false
	}
	h.Deliveries = silenced(h.Deliveries, clients[i], c.Target)
	return fmt.Sprintf("took all deliveries to %s client %s away", c.Kinds[0], clients[i]), true
}

// forgetConsumer takes one client out of the record, as if it had never connected. What a pull client was given goes to another one: they share a consumer.
func forgetConsumer(h *history.History, c Consumers, rng *rand.Rand) (string, bool) {
	if len(c.Kinds) != 1 {
		return "the check is not about one kind", false
	}
	var clients []string
	for _, d := range h.Deliveries {
		if d.Target == c.Target && d.Kind == c.Kinds[0] && !slices.Contains(clients, d.Client) {
			clients = append(clients, d.Client)
		}
	}
	if len(clients) == 0 || len(clients) != c.MinClients {
		return "there are other numbers of clients than are needed", false
	}
	i := rng.IntN(len(clients))
	gone, heir := clients[i], clients[(i+1)%len(clients)]
	h.Conns = unconnected(h.Conns, gone)
	if c.Kinds[0] != kindPull || gone == heir {
		h.Deliveries = silenced(h.Deliveries, gone, c.Target)
		return fmt.Sprintf("took %s client %s out of the record", c.Kinds[0], gone), true
	}
	h.Deliveries = slices.Clone(h.Deliveries)
	for i := range h.Deliveries {
		if d := &h.Deliveries[i]; d.Client == gone && d.Target == c.Target {
			d.Client = heir
		}
	}
	return fmt.Sprintf("gave what pull client %s was given to %s", gone, heir), true
}
