// Package health decides whether a node may call itself ready.
//
// It is a pure function from observed facts ([Facts]) to a judgement ([Judge]), so that every way in which a node can be wrong about
// itself is a row in a table of tests. It knows nothing of NATS: the daemon collects the facts.
package health

// Status is the JSON document that a node gives of itself (/statusz, and the control API's cluster.status).
type Status struct {
	Node          string   `json:"node"`
	Version       string   `json:"version"`
	Digest        string   `json:"digest"` // "sha256:<hex>" of the running binary
	Ready         bool     `json:"ready"`
	Reason        string   `json:"reason"`  // the first of Reasons, "" when ready
	Reasons       []string `json:"reasons"` // why the node is not ready
	ClusterSize   int      `json:"cluster_size"`
	Quorum        Quorum   `json:"quorum"`
	MetaLeader    string   `json:"meta_leader"`
	Peers         []Peer   `json:"peers"`   // the other nodes that this node knows of
	Buckets       []Bucket `json:"buckets"` // the six control-plane buckets
	Audit         Bucket   `json:"audit"`   // the audit stream
	Posture       Posture  `json:"posture"`
	Access        Access   `json:"access"`
	TLS           TLS      `json:"tls"`
	Store         Store    `json:"store"`
	ProbeSeconds  float64  `json:"probe_seconds"`  // since the last successful write through a quorum was begun; -1 for never
	AgeSeconds    float64  `json:"age_seconds"`    // since this judgement was made
	UptimeSeconds float64  `json:"uptime_seconds"` // since the process started
}

// Access says what this node knows of the users.
type Access struct {
	Loaded      bool              `json:"loaded"` // everything was read since the process started
	Users       int               `json:"users"`
	Roles       int               `json:"roles"` // the built-in ones included
	Rooms       int               `json:"rooms"`
	Members     int               `json:"members"`
	Quarantined []Quarantined     `json:"quarantined"` // the first of them
	Quarantines int               `json:"quarantines"` // how many
	Applied     map[string]uint64 `json:"applied"`     // last revision by bucket: users, roles, rooms, members
	AgeSeconds  float64           `json:"age_seconds"` // since all that was last known to be current; -1 for never
	Stale       bool              `json:"stale"`       // too old to let users in
	Sessions    int               `json:"sessions"`    // open connections of users
	Rewinds     uint64            `json:"rewinds"`     // buckets that had to be read anew because they went backwards
	Seed        string            `json:"seed"`        // what became of the seed file, "" without one
}

// Quarantined is a stored record that was not understood. It grants nothing.
type Quarantined struct {
	Bucket   string `json:"bucket"`
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Why      string `json:"why"`
}

// Quorum counts the nodes that take part, this one included.
type Quorum struct {
	Have int `json:"have"`
	Need int `json:"need"`
}

// Peer is another node as seen from this one.
type Peer struct {
	Name        string  `json:"name"`
	SeenSeconds float64 `json:"seen_seconds"` // since it was last heard of; -1 for never in this process's life
	Current     bool    `json:"current"`      // it counts towards the quorum
	Connected   bool    `json:"connected"`    // there is a route to it
	Placeable   bool    `json:"placeable"`    // it told its resources since the newest route to it came up: new streams can be placed on it
	// ClockAheadSeconds is by how much the clock of the node that says this is ahead of the peer's, within a second; null where that is not known.
	ClockAheadSeconds *float64 `json:"clock_ahead_seconds"`
}

// Bucket is one control-plane bucket, or the audit stream, as seen from this node.
type Bucket struct {
	Name         string `json:"name"`
	Leader       string `json:"leader"`
	Replicas     int    `json:"replicas"`
	WantReplicas int    `json:"want_replicas"`
	Current      bool   `json:"current"` // it can be written, and this node's replica (if it holds one) is up to date
	Lag          uint64 `json:"lag"`     // entries that this node's replica, or for the leader the slowest replica, is behind
	Exists       bool   `json:"exists"`
	Local        bool   `json:"local"`     // this node holds a replica
	Bytes        uint64 `json:"bytes"`     // that it takes, history included
	MaxBytes     uint64 `json:"max_bytes"` // that it may take; 0 while that is not known
}

// States of a posture.
const (
	PostureOK       = "OK"
	PostureDegraded = "DEGRADED"
)

// Posture says how much the cluster can bear, which is not the same as whether it serves now.
type Posture struct {
	State    string `json:"state"` // OK, or DEGRADED: the loss of one more node may stop the control plane
	Why      string `json:"why"`
	Enforce  bool   `json:"enforce"`
	TLS      bool   `json:"tls"`
	ACL      bool   `json:"acl"`
	Sync     string `json:"sync"`
	Replicas int    `json:"replicas"` // effective R: the larger of the flag and the cluster-wide setting
}

// Store says what the audit found before the embedded server was started.
type Store struct {
	Policy       string   `json:"policy"`        // rebuild, stay-out or ignore
	AuditedBytes int64    `json:"audited_bytes"` // read; 0 for a new store
	AuditSeconds float64  `json:"audit_seconds"`
	Partial      bool     `json:"partial"` // there was no time for all of it
	Damaged      []string `json:"damaged"` // that keeps the node out, in words
	Rebuilt      []string `json:"rebuilt"` // that was given up before this start to be fetched again, in words
	Kept         string   `json:"kept"`    // where, below the data directory; "" for nowhere
}
