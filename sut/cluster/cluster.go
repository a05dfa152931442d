// Package cluster says what the harness needs of a cluster under test: interfaces and plain values, standard library only.
//
// Two backends implement it: containers (package docker) and child processes on 127.0.0.1 (package sut/process).
// What only one of them can do is an optional interface ([Storage], [Agented]) together with a [Capability].
package cluster

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"
)

// NodeID is a node's stable name, for example "n1". It is nats-server's server_name, so it is the Raft peer's identity too.
type NodeID string

// Kind is the program that a node runs.
type Kind string

// The programs that can be put under test.
const (
	Membershipd Kind = "membershipd" // this project's daemon
	NATSServer  Kind = "nats-server" // a released, unmodified nats-server: the control
)

// Subject is the exact binary under test.
type Subject struct {
	Kind    Kind   `json:"kind"`
	Version string `json:"version"`          // "v2.15.2", or the daemon's own version string
	Path    string `json:"-"`                // static binary on this host
	Digest  string `json:"digest"`           // "sha256:<hex>" of that binary
	Source  string `json:"source,omitempty"` // module or package that it was built from
}

// String gives the form that --sut takes: "membershipd" or "nats-server@v2.15.2".
func (s Subject) String() string {
	if s.Kind == Membershipd {
		return string(Membershipd)
	}
	return string(s.Kind) + "@" + s.Version
}

// Capability is something that a backend may or may not be able to do.
// A scenario that requires a missing one is NOT RUN, with the reason.
type Capability string

// Capabilities of backends.
const (
	CapLifecycle Capability = "lifecycle" // start, kill, stop, pause nodes
	CapStorage   Capability = "storage"   // wipe a stopped node's volume, read its files
	CapNetwork   Capability = "network"   // faults on traffic between nodes
	CapResources Capability = "resources" // limits on a node's share of the machine
)

// Capabilities maps each capability that a backend lacks to the reason. A capability that is not a key is there.
type Capabilities map[Capability]string

// Missing returns the reason why the first of the needed capabilities that is missing cannot be used here, or "".
func (m Capabilities) Missing(needs ...Capability) string {
	for _, c := range needs {
		if why := m[c]; why != "" {
			return why
		}
	}
	return ""
}

// Spec says what cluster is wanted. The zero value is not usable: RunID, Name and Subject are required.
type Spec struct {
	RunID    string    // labels everything that is made for one run of the harness, [a-z0-9-]
	Name     string    // unique within the run, [a-z0-9-]
	Subject  Subject   //
	Size     int       // nodes; 0 means 3. They are named n1, n2, ...
	Replicas int       // R of membershipd's own buckets; 0 means 3. Means nothing to plain nats-server.
	Sync     string    // "always", or nats-server's sync_interval such as "2m0s"; "" means "always"
	AdminKey string    // public nkey of the harness's client: may do everything in account BUS, and administer membershipd
	Log      io.Writer // progress of the backend itself, one line each; nil for none
}

// Backend makes clusters.
type Backend interface {
	// Name is "docker" or "process".
	Name() string
	Capabilities() Capabilities
	// NewCluster makes addresses, volumes and (in containers) the pods. No daemon runs yet: see Node.Start.
	// On error nothing is left behind.
	NewCluster(ctx context.Context, spec Spec) (Cluster, error)
	Close() error
}

// Cluster is a set of nodes that know of each other.
type Cluster interface {
	Spec() Spec
	Nodes() []Node // in order n1, n2, ...
	// Collect writes logs below dir: dir/<node>/daemon.log, dir/<node>/agent.log where there is an agent.
	// It works on running and on stopped nodes and does as much as it can before it returns the joined errors.
	Collect(ctx context.Context, dir string) error
	// Close stops and removes everything that NewCluster and Start made; idempotent, joins errors.
	Close(ctx context.Context) error
}

// State is what the operating system says of a node's daemon.
type State struct {
	Running   bool      `json:"running"`    // a process exists (paused counts)
	Paused    bool      `json:"paused"`     // it is stopped by a signal (state T)
	PID       int       `json:"pid"`        // in the node's own namespace; 0 when not running
	StartTime uint64    `json:"start_time"` // clock ticks since boot (field 22 of /proc/PID/stat): tells one life from the next
	Started   time.Time `json:"started"`    // when Start was last called
	ExitCode  int       `json:"exit_code"`  // of the last life, when not running; 128+n for signal n; -1 if it never ran
}

// Endpoints are full URLs of a node. They stay the same across restarts.
type Endpoints struct {
	Client  string // nats://host:port
	Live    string // 200: the process runs
	Ready   string // 200: the node says that it can serve
	Status  string // JSON for people; "" for plain nats-server
	Monitor string // base URL of nats-server's monitoring, without trailing slash: + "/jsz", "/raftz", "/varz"
}

// Node is one member of a cluster. Methods are safe for concurrent use.
type Node interface {
	ID() NodeID
	Endpoints() Endpoints
	State(ctx context.Context) (State, error)
	// Start starts the daemon with the same addresses, identity and volume as before. It does not wait for readiness.
	// ErrRunning if it runs already.
	Start(ctx context.Context) error
	// Signal sends SIGKILL, SIGTERM, SIGSTOP or SIGCONT to the daemon, and returns when the kernel has taken it,
	// which for SIGTERM is long before the daemon is gone. ErrNotRunning if there is no process.
	Signal(ctx context.Context, sig syscall.Signal) error
	// WaitExit returns when no daemon process is left and Start may be called, or with ctx's error.
	WaitExit(ctx context.Context) error
	// Logs is what the daemon has written so far, all lives.
	Logs(ctx context.Context) (io.ReadCloser, error)
}

// Errors that callers test for.
var (
	ErrRunning    = errors.New("the node's daemon runs already")
	ErrNotRunning = errors.New("the node's daemon does not run")
)

// Usage is how much a node's data directory holds.
type Usage struct {
	Files int   `json:"files"` // regular files
	Bytes int64 `json:"bytes"`
}

// Storage is implemented by nodes whose data directory the harness can reach (CapStorage).
type Storage interface {
	Usage(ctx context.Context) (Usage, error)
	// Wipe removes everything in the data directory but not the directory; the daemon must not run (ErrRunning).
	// It returns what was there before.
	Wipe(ctx context.Context) (Usage, error)
	// CopyStore writes the data directory's regular files below dir. Meant for a stopped node.
	CopyStore(ctx context.Context, dir string) error
}

// Agent is the fault agent that runs beside a node. Methods and their parameters are those of package faults/agent.
type Agent interface {
	// Call sends one request and waits for its answer; params and result are encoded as JSON. result may be nil.
	Call(ctx context.Context, method string, params, result any) error
}

// Agented is implemented by nodes with a fault agent (CapNetwork).
type Agented interface {
	Agent() Agent
	// PeerAddr is the node's IP address on the cluster's own network, as other nodes see it.
	PeerAddr() string
}

// CPU is what the kernel says of a node's processor time.
type CPU struct {
	Limit     float64 `json:"limit"`     // processors; 0 means no limit
	Periods   uint64  `json:"periods"`   // of the scheduler's bandwidth control in which the node wanted to run
	Throttled uint64  `json:"throttled"` // those of them in which it was stopped for having used up its share
}

// Resourced is implemented by nodes whose share of the machine can be limited (CapResources).
type Resourced interface {
	// LimitCPU gives the daemon so many processors at most, now and in its later lives; 0 lifts the limit.
	LimitCPU(ctx context.Context, processors float64) error
	// CPU reads the limit that the engine has recorded and the kernel's count.
	CPU(ctx context.Context) (CPU, error)
}

// Find returns the node with that id, or nil.
func Find(c Cluster, id NodeID) Node {
	for _, n := range c.Nodes() {
		if n.ID() == id {
			return n
		}
	}
	return nil
}

// IDs lists the ids of all nodes in order.
func IDs(c Cluster) []NodeID {
	var ids []NodeID
	for _, n := range c.Nodes() {
		ids = append(ids, n.ID())
	}
	return ids
}
