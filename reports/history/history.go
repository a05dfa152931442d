// Package history is the record of a run: what clients invoked and saw, what nodes said of themselves, what was done to them.
// It is all that a checker may look at. Standard library only.
//
// Times are nanoseconds on the harness's monotonic clock since the recorder was made; one process writes them, so they can be compared.
package history

import "fmt"

// Outcome of an operation, in the sense of Jepsen: ok, fail, info.
type Outcome uint8

// The zero value is the one that claims nothing.
const (
	Unknown Outcome = iota // may or may not have taken effect, now or later
	OK                     // took effect between invoke and complete
	Failed                 // certainly did not take effect, and never will
)

var outcomeNames = [...]string{"unknown", "ok", "failed"}

// String is the name used in files.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; an unknown word is an error.
func (o *Outcome) UnmarshalText(b []byte) error {
	for i, n := range outcomeNames {
		if n == string(b) {
			*o = Outcome(i)
			return nil
		}
	}
	return fmt.Errorf("unknown outcome %q", b)
}

// Kind of operation.
type Kind string

// Operations that workloads record. Target names the object in every case.
const (
	Publish Kind = "publish" // JetStream publish; Key is the subject, Value the unique message id, Seq the ack's sequence
	Put     Kind = "put"     // KV put, unconditional; Seq the new revision
	Create  Kind = "create"  // KV create: only if the key does not exist; Seq the new revision
	Update  Kind = "update"  // KV compare-and-set on Prev; Seq the new revision
	Get     Kind = "get"     // KV read answered by the stream's leader; Value "" with Seq 0 means that the key does not exist
	Direct  Kind = "direct"  // KV read by direct get: any replica may answer, no linearizability is claimed
	Request Kind = "request" // core request-reply; Value the unique request id
	Send    Kind = "send"    // core publish, at most once; Value the unique id. OK means that the client flushed it to a server.
	Append  Kind = "append"  // JetStream publish on a condition about the stream's end: its last sequence is Prev or, unless After is "", its last message id is After
	Make    Kind = "make"    // a stream made: Target is the stream, Value how it is to be replicated ("R3")
	// Access is one thing tried as a user at one node: Target is the user, Key the action and its subject ("publish a.b", "login"), Value the public
	// key that proved who it is. OK means that it was allowed and had its effect, Failed that the node refused it.
	Access Kind = "access"
)

// Op is one operation of one client. Exactly one attempt: a retry is a new Op (for a publish, with the same Value).
type Op struct {
	ID       int64   `json:"id"` // unique, in order of invocation
	Client   string  `json:"client"`
	Node     string  `json:"node,omitempty"` // the node that the client was connected to when it invoked; "" for none
	Kind     Kind    `json:"kind"`
	Target   string  `json:"target"`          // stream, bucket or subject. "control/settings" is membershipd's settings bucket through its control API.
	Key      string  `json:"key,omitempty"`   // subject or key
	Value    string  `json:"value,omitempty"` // what was written, or what was read
	Prev     uint64  `json:"prev,omitempty"`  // the revision that an Update expects, or the last sequence that an Append does
	After    string  `json:"after,omitempty"` // the last message id that an Append expects; "" for one that expects a sequence
	Invoke   int64   `json:"invoke"`
	Complete int64   `json:"complete,omitempty"` // 0 when the client never got an answer before the run ended
	Outcome  Outcome `json:"outcome"`
	Seq      uint64  `json:"seq,omitempty"`     // sequence or revision that the server answered with
	Dup      bool    `json:"dup,omitempty"`     // the publish ack said that the message id was there already
	Applied  string  `json:"applied,omitempty"` // nodes that confirmed that the change is in force there: "n1,n3"
	Err      string  `json:"err,omitempty"`     // "timeout", "no-responders", "disconnected", "conflict", "nats:10077", or the error's text
}

// Item is one message read back at the end, in stream order.
type Item struct {
	Target string `json:"target"`
	Seq    uint64 `json:"seq"`
	Key    string `json:"key,omitempty"` // subject or key
	Value  string `json:"value"`         // message id or value; for a KV delete marker Deleted is set
	Del    bool   `json:"del,omitempty"` // KV delete or purge marker
}

// Drain is the end of reading one target back. A drain that is not Complete proves nothing about absence.
type Drain struct {
	Target   string `json:"target"`
	At       int64  `json:"at"`
	Complete bool   `json:"complete"`
	Items    int    `json:"items"`   // how many Item records belong to it
	First    uint64 `json:"first"`   // the stream's first and last sequence, from its leader
	Last     uint64 `json:"last"`    //
	Missing  int    `json:"missing"` // num_deleted: sequences between them that the leader does not have
	Err      string `json:"err,omitempty"`
}

// Delivery is one message that arrived at a consumer, subscriber or watcher.
type Delivery struct {
	Client string  `json:"client"`
	Node   string  `json:"node,omitempty"`
	Kind   string  `json:"kind"`   // "pull", "ordered", "watch", "core"
	Target string  `json:"target"` // stream, bucket or subject
	Key    string  `json:"key,omitempty"`
	Value  string  `json:"value"`           // message id
	Seq    uint64  `json:"seq,omitempty"`   // stream sequence or revision
	Count  uint64  `json:"count,omitempty"` // how often the server says that it delivered it (1 is the first time)
	Asked  int64   `json:"asked,omitempty"` // when the client made the pull that this is an answer to; 0 where nothing was asked for
	At     int64   `json:"at"`
	Acked  int64   `json:"acked,omitempty"` // when a double ack was confirmed; 0 when it was not, or none was asked for
	Ack    Outcome `json:"ack"`             // outcome of the double ack: OK confirmed, Unknown no answer
}

// Health is one poll of a node's own opinion.
type Health struct {
	Node   string `json:"node"`
	Probe  string `json:"probe"`            // "live" or "ready"
	At     int64  `json:"at"`               // when the request was sent
	Took   int64  `json:"took"`             // until the answer, or until it was given up
	Code   int    `json:"code"`             // HTTP status; 0 for no answer at all
	Reason string `json:"reason,omitempty"` // what the node said, cut to 300 bytes; only on change, "" repeats the last one
}

// Replica is one node's own copy of one stream.
type Replica struct {
	Node     string `json:"node"`
	Target   string `json:"target"` // ACCOUNT/STREAM
	At       int64  `json:"at"`
	Source   string `json:"source"` // "jsz": the running node's own monitoring; "blocks": read from the stopped node's files
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Msgs     uint64 `json:"msgs"`
	Bytes    uint64 `json:"bytes"`
	Deleted  int    `json:"deleted"`          // sequences missing between first and last
	Digest   string `json:"digest,omitempty"` // "blocks": sha256 over (sequence, subject, header, payload) of every live message
	Damaged  int    `json:"damaged"`          // "blocks": records whose own checksum is wrong
	Replicas int    `json:"replicas"`         // configured R
	Leader   string `json:"leader,omitempty"` // "jsz": who this node thinks leads
	Lag      uint64 `json:"lag,omitempty"`
	Err      string `json:"err,omitempty"` // the copy could not be read; nothing else is meaningful
}

// Conn is a change of a client's connection.
type Conn struct {
	Client string `json:"client"`
	At     int64  `json:"at"`
	State  string `json:"state"` // "connected", "disconnected", "reconnected", "closed"
	Node   string `json:"node,omitempty"`
	Err    string `json:"err,omitempty"`
}

// Stage of a fault, in the order in which a run goes through them.
type Stage string

// Stages of a fault. Each is an Event with Kind "fault".
const (
	StageAbsent  Stage = "absent"    // the probe before: not in force
	StageDecided Stage = "decided"   // the harness begins to inject
	StageInForce Stage = "in-force"  // the probe says that it is in force
	StageHealing Stage = "healing"   // the harness begins to heal
	StageHealed  Stage = "healed"    // the probe says that it is gone
	StageNotSeen Stage = "not-seen"  // the probe never saw it in force, or never saw it gone (Detail says which)
	StageStillOn Stage = "still-on"  // a probe in the middle of the hold: still in force
	StageBystand Stage = "bystander" // the probe on an unaffected node: not in force there
)

// Event is anything else on the time axis.
type Event struct {
	At     int64          `json:"at"`
	Kind   string         `json:"kind"` // "mark", "phase", "fault", "leader", "converged", "node", "note", "measured"
	Name   string         `json:"name"` // a mark's unique name; a fault's name "kill[n2]#3"; a leader's group "meta" or "BUS/ORDERS"
	Stage  Stage          `json:"stage,omitempty"`
	Nodes  []string       `json:"nodes,omitempty"`
	Detail string         `json:"detail,omitempty"`
	Noop   bool           `json:"noop,omitempty"` // a fault that was deliberately not injected
	Data   map[string]any `json:"data,omitempty"` // figures; numbers are float64 after a round trip
}

// Convergence is what a "converged" event carries in Data, see ConvergedEvent and Event.Convergence.
type Convergence struct {
	OK        bool     `json:"ok"`
	Seconds   float64  `json:"seconds"`       // from the last start to converged, or to giving up
	Ready     []string `json:"ready"`         // nodes whose ready endpoint said 200
	Buckets   int      `json:"buckets"`       // control-plane buckets that were seen (0 for plain nats-server)
	Replicas  int      `json:"replicas"`      // the smallest configured R among them
	Current   bool     `json:"current"`       // every replica of every stream current, on every node's own word
	Identical bool     `json:"identical"`     // every node's own copies agree
	Why       string   `json:"why,omitempty"` // what was still missing when the wait ended
}

// History is a whole run in memory. Slices are in the order of the record, which is the order of completion.
type History struct {
	Ops        []Op
	Items      []Item
	Drains     []Drain
	Deliveries []Delivery
	Health     []Health
	Replicas   []Replica
	Conns      []Conn
	Events     []Event
}

// Mark returns the time of the mark with that name.
func (h *History) Mark(name string) (int64, bool) {
	for i := range h.Events {
		if h.Events[i].Kind == "mark" && h.Events[i].Name == name {
			return h.Events[i].At, true
		}
	}
	return 0, false
}

// End is the latest time that the record speaks of.
func (h *History) End() int64 {
	var end int64
	for i := range h.Ops {
		end = max(end, h.Ops[i].Invoke, h.Ops[i].Complete)
	}
	for i := range h.Events {
		end = max(end, h.Events[i].At)
	}
	for i := range h.Health {
		end = max(end, h.Health[i].At+h.Health[i].Took)
	}
	for i := range h.Deliveries {
		end = max(end, h.Deliveries[i].At)
	}
	return end
}
