package reports

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/unibus/unibus/reports/history"
)

// FaultRun is one fault of a run with what its probes measured. Times are ns in the record, 0 where a stage is missing.
type FaultRun struct {
	Name      string   `json:"name"` // "kill[n2]#3"
	Nodes     []string `json:"nodes,omitempty"`
	Noop      bool     `json:"noop,omitempty"` // deliberately not injected
	Decided   int64    `json:"decided"`
	InForce   int64    `json:"in_force,omitempty"`
	Healing   int64    `json:"healing,omitempty"`
	Healed    int64    `json:"healed,omitempty"`
	Measured  string   `json:"measured,omitempty"`  // what the probe saw in force
	Gone      string   `json:"gone,omitempty"`      // what the probe saw after healing
	Bystander string   `json:"bystander,omitempty"` // what the probe saw on an unaffected node
	NotSeen   string   `json:"not_seen,omitempty"`  // which probe never saw what it should
}

// Until is when the fault's last known stage was.
func (f FaultRun) Until() int64 { return max(f.Decided, f.InForce, f.Healing, f.Healed) }

// Faults lists the faults of a record in the order in which they were decided.
func Faults(h *history.History) []FaultRun {
	runs := []FaultRun{}
	at := map[string]int{}
	for i := range h.Events {
		e := &h.Events[i]
		if e.Kind != "fault" {
			continue
		}
		k, ok := at[e.Name]
		if !ok {
			k = len(runs)
			at[e.Name] = k
			runs = append(runs, FaultRun{Name: e.Name, Decided: e.At})
		}
		runs[k].take(e)
	}
	return runs
}

func (f *FaultRun) take(e *history.Event) {
	f.Noop = f.Noop || e.Noop
	if len(f.Nodes) == 0 && e.Stage != history.StageBystand {
		f.Nodes = e.Nodes
	}
	// A stage is what the harness reached; in_force is what the probe measured then, and has the last word.
	measured, said := e.Data["in_force"].(bool)
	switch e.Stage {
	case history.StageDecided:
		f.Decided = e.At
	case history.StageInForce:
		if said && !measured {
			f.NotSeen = "in force: " + e.Detail
			return
		}
		f.InForce, f.Measured = e.At, e.Detail
	case history.StageHealing:
		f.Healing = e.At
	case history.StageHealed:
		if measured {
			f.NotSeen = "gone: " + e.Detail
			return
		}
		f.Healed, f.Gone = e.At, e.Detail
	case history.StageNotSeen:
		f.NotSeen = e.Detail
	case history.StageBystand:
		f.Bystander = e.Detail
	}
}

// eventLine is one line of events.jsonl.
type eventLine struct {
	T      string         `json:"t"` // "+12.345s"
	Kind   string         `json:"kind"`
	Name   string         `json:"name"`
	Stage  history.Stage  `json:"stage,omitempty"`
	Nodes  []string       `json:"nodes,omitempty"`
	Detail string         `json:"detail,omitempty"`
	Noop   bool           `json:"noop,omitempty"`
	Data   map[string]any `json:"data,omitempty"`
}

// timed is an event line with its time, to merge the sources.
type timed struct {
	at   int64
	line eventLine
}

// eventLines is the record's timeline for people: events, changes of connections, and changes of what nodes say of themselves.
func eventLines(h *history.History) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	for _, x := range timeline(h) {
		x.line.T = stamp(x.at)
		if err := enc.Encode(x.line); err != nil { // decoded from JSON, so that it always encodes again
			fmt.Fprintf(&buf, "{%q:%q}\n", "error", err.Error())
		}
	}
	return buf.Bytes()
}

// stamp is a time of the record as people read it.
func stamp(ns int64) string { return fmt.Sprintf("+%.3fs", float64(ns)/1e9) }
