package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// StreamMetadata ("stream-metadata") holds every later description of a stream against the first one: nobody deletes, resets or changes the
// stream in these scenarios, and so it must still be there, be the same one, have the same configuration and not have lost its end.
// It is about the cluster's memory of the stream; its messages are StreamAccounting's business.
type StreamMetadata struct {
	Target string `json:"target"`         // the stream, as in Op.Target
	Min    int    `json:"min,omitempty"`  // descriptions or denials that are needed; 0 means 2
	Last   string `json:"last,omitempty"` // the name of the observation that must be among them; "" for none
	// KeepsStart, when true, is for a stream from which nothing may leave: its first sequence must stay what it was.
	KeepsStart bool `json:"keeps_start,omitempty"`
}

const promiseMetadata = "NATS (JetStream documentation, clustering): the meta group keeps the streams and their configuration by Raft; a stream stays until it is deleted."

// Codes of this checker.
const (
	CodeStreamGone    = "stream-gone"
	CodeStreamReset   = "stream-reset"
	CodeConfigChanged = "config-changed"
	CodeUnanswered    = "unanswered" // nobody could say what became of the stream
)

// named is a Metadata with where it stands in the record.
type named struct {
	history.Metadata

	name string
	at   int64
}

// start is the first sequence, which an empty stream has yet to give.
func (m named) start() uint64 {
	if m.Msgs == 0 {
		return m.Last + 1
	}
	return m.First
}

// Check implements Checker.
func (c StreamMetadata) Check(h *history.History) Result {
	seen, r := c.observations(h)
	if r != nil {
		return *r
	}
	gone := violation{code: CodeStreamGone, promise: promiseMetadata}
	reset := violation{code: CodeStreamReset, promise: promiseMetadata}
	changed := violation{code: CodeConfigChanged, promise: promiseMetadata}
	start := violation{code: CodeStartLost, promise: promiseLog}
	var first *named
	var last, begins uint64
	answered, silent := 0, 0
	for i := range seen {
		m := &seen[i]
		switch {
		case m.Status == history.StreamSilence:
			silent++
			continue
		case m.Status == history.StreamFound && first == nil:
			first = m
		case first == nil: // it was not there yet
			continue
		case m.Status == history.StreamAbsent:
			gone.count++
			gone.seen.add(m.at, nil, "%s: the cluster says that there is no stream %s, which held %d messages (%s); health of the nodes: %s", m.name, c.Target, first.Msgs, first.name, healthWords(m.Healthz))
		case m.Created != first.Created || m.Last < last:
			reset.count++
			reset.seen.add(m.at, nil, "%s: %s was created %s and ends at %d; before it was created %s and ended at %d; health of the nodes: %s", m.name, c.Target, m.Created, m.Last, first.Created, last, healthWords(m.Healthz))
		case m.Config != first.Config:
			changed.count++
			changed.seen.add(m.at, nil, "%s: the configuration of %s is %s, it was %s", m.name, c.Target, m.Config, first.Config)
		case c.KeepsStart && begins > 0 && m.start() != begins:
			start.count++
			start.seen.add(m.at, nil, "%s: %s begins at sequence %d (%d messages), it began at %d", m.name, c.Target, m.start(), m.Msgs, begins)
		}
		answered++
		last = max(last, m.Last)
		if begins == 0 {
			begins = m.start()
		}
	}
	figures := []Figure{count("observations", len(seen)), count("answered", answered), count("unanswered", silent), count("gone", gone.count),
		count("reset", reset.count), count("config_changed", changed.count), count("start_lost", start.count)}
	gone.reason = fmt.Sprintf("%d of %d times the cluster did not know %s any more, though nobody had deleted it.", gone.count, answered, c.Target)
	reset.reason = fmt.Sprintf("%d of %d times %s was another stream or had lost its end.", reset.count, answered, c.Target)
	changed.reason = fmt.Sprintf("%d of %d times %s had another configuration.", changed.count, answered, c.Target)
	start.reason = fmt.Sprintf("%d of %d times %s had lost its start.", start.count, answered, c.Target)
	if r, bad := found(figures, gone, reset, changed, start); bad {
		return r
	}
	if r := c.unanswered(seen, figures); r != nil {
		return *r
	}
	if need := orDefault(c.Min, 2); answered < need {
		return inconclusive(figures, CodeTooFewEvents, "%s was described %d times, %d are needed.", c.Target, answered, need)
	}
	return passed(figures, "%s was there all %d times, the same stream with the same configuration.", c.Target, answered)
}

// observations are those of the target, in order of time.
func (c StreamMetadata) observations(h *history.History) ([]named, *Result) {
	var seen []named
	for _, e := range h.Events {
		m, ok := e.Metadata()
		if !ok || m.Target != c.Target {
			continue
		}
		if m.Status != history.StreamFound && m.Status != history.StreamAbsent && m.Status != history.StreamSilence {
			r := inconclusive(nil, CodeBadRecord, "The observation %s of %s has the status %q, which does not exist.", e.Name, c.Target, m.Status)
			return nil, &r
		}
		seen = append(seen, named{m, e.Name, e.At})
	}
	if len(seen) == 0 {
		r := inconclusive(nil, CodeNoOps, "Nobody asked what the cluster knows of %s.", c.Target)
		return nil, &r
	}
	slices.SortStableFunc(seen, func(a, b named) int { return int(min(max(a.at-b.at, -1), 1)) })
	return seen, nil
}

// unanswered says so where the last word, or the one that the claim names, was silence: a stream that nobody can ask for is neither kept nor lost.
func (c StreamMetadata) unanswered(seen []named, figures []Figure) *Result {
	m := seen[len(seen)-1]
	if c.Last != "" {
		i := slices.IndexFunc(seen, func(m named) bool { return m.name == c.Last })
		if i < 0 {
			r := inconclusive(figures, CodeNoMark, "The record has no observation %q of %s.", c.Last, c.Target)
			return &r
		}
		m = seen[i]
	}
	if m.Status != history.StreamSilence {
		return nil
	}
	r := inconclusive(figures, CodeUnanswered, "%s: nobody could say what became of %s (%s); health of the nodes: %s.", m.name, c.Target, orDash(m.Err), healthWords(m.Healthz))
	return &r
}

// healthWords is "n1 200, n2 200, n3 503".
func healthWords(codes map[string]int) string {
	var ws []string
	for _, n := range sortedKeys(codes) {
		w := fmt.Sprint(codes[n])
		if codes[n] == 0 {
			w = "no answer"
		}
		ws = append(ws, n+" "+w)
	}
	return orDash(strings.Join(ws, ", "))
}
