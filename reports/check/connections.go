package check

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// Connections ("connections") demands that clients keep their connections through a stretch of the run.
type Connections struct {
	Window     Window   `json:"window"`
	Clients    []string `json:"clients,omitempty"`     // prefixes of names; empty means all
	MaxEnded   int      `json:"max_ended,omitempty"`   // connections that may end
	MinClients int      `json:"min_clients,omitempty"` // that must have been connected when the stretch began; 0 means 1
}

// Check implements Checker.
func (c Connections) Check(h *history.History) Result {
	w, no := bounds(h, c.Window)
	if no != nil {
		return *no
	}
	ended := violation{code: CodeDisconnected, promise: promiseKept}
	open := c.open(h, w.from)
	for _, x := range h.Conns {
		if !c.ends(x) || !w.has(x.At) {
			continue
		}
		ended.count++
		ended.seen.add(x.At, nil, "%s lost its connection to %s %.3f s into the window (%s): %s", x.Client, orDash(x.Node), seconds(x.At-w.from), x.State, orDash(x.Err))
	}
	figures := []Figure{count("disconnected", ended.count), count("clients", len(open)), secs("window_s", w.to-w.from)}
	ended.reason = fmt.Sprintf("%d connections of clients ended, %d may.", ended.count, c.MaxEnded)
	if ended.count <= c.MaxEnded {
		ended.count = 0
	}
	if r, bad := found(figures, ended); bad {
		return r
	}
	if need := orDefault(c.MinClients, 1); len(open) < need {
		return inconclusive(figures, CodeTooFewClients, "%d clients were connected when the window began, at least %d are needed.", len(open), need)
	}
	return passed(figures, "%d clients were connected when the window began; %g connections ended in its %.1f s.", len(open), figures[0].Value, seconds(w.to-w.from))
}

func (c Connections) ends(x history.Conn) bool {
	return (x.State == "disconnected" || x.State == "closed") && hasPrefix(x.Client, c.Clients)
}

// open lists the clients that are connected at a time.
func (c Connections) open(h *history.History, at int64) map[string]bool {
	on := map[string]bool{}
	conns := slices.Clone(h.Conns)
	slices.SortStableFunc(conns, func(a, b history.Conn) int { return int(max(min(a.At-b.At, 1), -1)) })
	for _, x := range conns {
		if x.At > at || !hasPrefix(x.Client, c.Clients) {
			continue
		}
		if c.ends(x) {
			delete(on, x.Client)
		} else {
			on[x.Client] = true
		}
	}
	return on
}

// disconnect makes more clients lose their connections than may.
func disconnect(h *history.History, c Connections, rng *rand.Rand) (string, bool) {
	w, no := bounds(h, c.Window)
	if no != nil {
		return no.Reason, false
	}
	i := pick(rng, h.Conns, func(x *history.Conn) bool { return hasPrefix(x.Client, c.Clients) })
	if i < 0 {
		return "there are no clients", false
	}
	h.Conns = slices.Clone(h.Conns)
	for range c.MaxEnded + 1 {
		x := h.Conns[i]
		x.State, x.At, x.Err = "disconnected", w.from+rng.Int64N(max(1, w.to-w.from)), "made up"
		h.Conns = append(h.Conns, x)
	}
	return fmt.Sprintf("made %s lose its connection", h.Conns[i].Client), true
}
