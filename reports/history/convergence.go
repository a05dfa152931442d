package history

import (
	"encoding/json"
	"fmt"
)

// convergedKind is the Kind of the events that carry a Convergence.
const convergedKind = "converged"

// ConvergedEvent makes the event that records c. Its Data holds what JSON would, so that an event looks the same before and
// after a round trip through a file.
func ConvergedEvent(name string, c Convergence) Event {
	e := Event{Kind: convergedKind, Name: name, Detail: c.Why}
	b, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(b, &e.Data)
	}
	if err != nil { // NaN or infinite seconds: the event stays, without figures, and then reads as no convergence
		e.Data, e.Detail = nil, fmt.Sprintf("convergence does not encode: %v", err)
	}
	return e
}

// Convergence reads back what ConvergedEvent put in. It is false for other events, and for one whose Data is not exactly a Convergence.
func (e Event) Convergence() (Convergence, bool) {
	var c Convergence
	if e.Kind != convergedKind || e.Data == nil {
		return c, false
	}
	b, err := json.Marshal(e.Data)
	if err != nil {
		return c, false
	}
	if err := strictly(b, &c); err != nil {
		return Convergence{}, false
	}
	return c, true
}
