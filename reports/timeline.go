package reports

import (
	"fmt"
	"slices"

	"github.com/unibus/unibus/reports/history"
)

// timeline merges events, connection changes and changes of health by time. The sort is stable, so that it is the same every time.
func timeline(h *history.History) []timed {
	var xs []timed
	for _, e := range h.Events {
		xs = append(xs, timed{e.At, eventLine{Kind: e.Kind, Name: e.Name, Stage: e.Stage, Nodes: e.Nodes, Detail: e.Detail, Noop: e.Noop, Data: e.Data}})
	}
	for _, c := range h.Conns {
		x := eventLine{Kind: "conn", Name: c.Client, Detail: c.State}
		if c.Node != "" {
			x.Nodes = []string{c.Node}
		}
		if c.Err != "" {
			x.Detail += ": " + c.Err
		}
		xs = append(xs, timed{c.At, x})
	}
	xs = append(xs, healthChanges(h)...)
	slices.SortStableFunc(xs, func(a, b timed) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return xs
}

// healthChanges are the samples whose status differs from the one before on the same node and endpoint.
func healthChanges(h *history.History) []timed {
	var xs []timed
	last := map[string]int{}
	for _, s := range h.Health {
		key := s.Node + "/" + s.Probe
		if code, ok := last[key]; ok && code == s.Code {
			continue
		}
		last[key] = s.Code
		said := fmt.Sprintf("%d", s.Code)
		if s.Code == 0 {
			said = "no answer"
		}
		if s.Reason != "" && s.Reason != "-" {
			said += ": " + s.Reason
		}
		xs = append(xs, timed{s.At, eventLine{Kind: "health", Name: s.Probe, Nodes: []string{s.Node}, Detail: said}})
	}
	return xs
}
