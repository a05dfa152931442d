package history

import (
	"encoding/json"
	"fmt"
)

// metadataKind is the Kind of the events that carry a Metadata.
const metadataKind = "metadata"

// What a cluster said of a stream when it was asked.
const (
	StreamFound   = "found"       // its leader described it
	StreamAbsent  = "not-found"   // the meta leader said that there is no such stream
	StreamSilence = "unavailable" // nobody answered, or no leader was there to answer
)

// Metadata is what the cluster says of one stream at one moment, asked through the client API, with each node's own opinion of its health at that moment.
type Metadata struct {
	Target   string         `json:"target"` // the stream, as in Op.Target
	Status   string         `json:"status"`
	Created  string         `json:"created,omitempty"` // RFC 3339 with nanoseconds; another one means another stream of the same name
	Config   string         `json:"config,omitempty"`  // the configuration, as JSON
	Replicas int            `json:"replicas"`          // configured R
	Leader   string         `json:"leader,omitempty"`
	First    uint64         `json:"first"`
	Last     uint64         `json:"last"`
	Msgs     uint64         `json:"msgs"`
	Healthz  map[string]int `json:"healthz,omitempty"` // node -> HTTP status of its ready endpoint; 0 for no answer
	Err      string         `json:"err,omitempty"`     // the last answer that was not a description
}

// MetadataEvent makes the event that records m under a name such as "before". Its Data holds what JSON would.
func MetadataEvent(name string, m Metadata) Event {
	e := Event{Kind: metadataKind, Name: name, Detail: m.Target + " " + m.Status}
	b, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(b, &e.Data)
	}
	if err != nil { // plain strings and numbers always encode
		e.Data, e.Detail = nil, fmt.Sprintf("metadata does not encode: %v", err)
	}
	return e
}

// Metadata reads back what MetadataEvent put in. It is false for other events, and for one whose Data is not exactly a Metadata.
func (e Event) Metadata() (Metadata, bool) {
	var m Metadata
	if e.Kind != metadataKind || e.Data == nil {
		return m, false
	}
	b, err := json.Marshal(e.Data)
	if err != nil {
		return m, false
	}
	if err := strictly(b, &m); err != nil {
		return Metadata{}, false
	}
	return m, true
}
