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
	CapClock     Capability = "clock"     // a daemon's clock that is wrong
	CapResources Capability = "resources" // limits on a node's share of the machine
	CapCounts    Capability = "counts"    // limits on a daemon's descriptors and threads
	CapMemory    Capability = "memory"    // a limit on a daemon's memory, down to where the kernel kills it
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
	RunID     string  // labels everything that is made for one run of the harness, [a-z0-9-]
	Name      string  // unique within the run, [a-z0-9-]
	Subject   Subject //
	Size      int     // nodes; 0 means 3. They are named n1, n2, ...
	Replicas  int     // R of membershipd's own buckets; 0 means 3. Means nothing to plain nats-server.
	Sync      string  // "always", or nats-server's sync_interval such as "2m0s"; "" means "always"
	AdminKey  string  // public nkey of the harness's client: may do everything in account BUS, and administer membershipd
	SystemKey string  // public nkey of an operator in the account SYS; "" for none
	// PlainText does without TLS. Otherwise clients and routes are encrypted, with authorities that are made for this cluster (see Secured).
	PlainText bool
	SeedFile  []byte // of first admins, given to membershipd at every start; nil for none
	// Users of account BUS that plain nats-server has in its configuration, beside AdminKey. Those of membershipd are added while it runs, so that it
	// refuses a spec that has some.
	Users   []User
	PowerFS PowerFS   // the data is on a file system that can lose what was not synced (CapPowerFail)
	Log     io.Writer // progress of the backend itself, one line each; nil for none
}

// User is an nkey user in a configuration, with what it may publish and subscribe to; deny wins.
type User struct {
	Key                           string // public
	PublishAllow, PublishDeny     []string
	SubscribeAllow, SubscribeDeny []string
	Respond                       bool // answers to requests, wherever they ask for them
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
	OOMKilled bool      `json:"oom_killed"` // the kernel ended the last life for want of memory
	ExitCode  int       `json:"exit_code"`  // of the last life, when not running; 128+n for signal n; -1 if it never ran
}

// Endpoints are full URLs of a node. They stay the same across restarts.
type Endpoints struct {
	Client  string // nats://host:port
	Live    string // 200: the process runs
	Ready   string // 200: the node says that it can serve
	Status  string // JSON for people; "" for plain nats-server
	Monitor string // base URL of nats-server's monitoring, without trailing slash: + "/jsz", "/raftz", "/varz"
	Routes  string // host:port for the other nodes; "" where the harness cannot reach it
}

// Node is one member of a cluster. Methods are safe for concurrent use.
type Node interface {
	ID() NodeID
	Endpoints() Endpoints
	State(ctx context.Context) (State, error)
	// Start starts the daemon with the same addresses, identity and volume as before. It does not wait for readiness.
	// ErrRunning if it runs already.
	Start(ctx context.Context) error
	// Signal sends SIGKILL, SIGTERM, SIGSTOP, SIGCONT or SIGHUP to the daemon, and returns when the kernel has taken it,
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
	ErrOtherKind  = errors.New("the node was made for another program")
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

// FileInfo is one regular file of a node's data directory.
type FileInfo struct {
	Path     string    `json:"path"` // relative to the data directory, with slashes
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// EditKind is a way to damage a file.
type EditKind string

// Ways to damage a file.
const (
	EditWrite    EditKind = "write"    // Data over what is at Offset
	EditTruncate EditKind = "truncate" // everything from Offset on is cut off
	EditRemove   EditKind = "remove"   // the whole file
)

// Edit is one damage to one file.
type Edit struct {
	Path   string   `json:"path"`
	Kind   EditKind `json:"kind"`
	Offset int64    `json:"offset"`
	Data   []byte   `json:"data,omitempty"`
}

// Edited is what an edit did, as the file itself says.
type Edited struct {
	Path       string   `json:"path"`
	Kind       EditKind `json:"kind"`
	Offset     int64    `json:"offset"`
	Before     []byte   `json:"before"` // the bytes from Offset on, some tens of them at most
	After      []byte   `json:"after"`
	SizeBefore int64    `json:"size_before"`
	SizeAfter  int64    `json:"size_after"` // -1 for a file that is gone
}

// Editable is implemented by nodes whose files can be read and damaged one by one (CapStorage).
type Editable interface {
	Files(ctx context.Context) ([]FileInfo, error)
	// ReadFile returns up to n bytes from offset on, 32 KiB at most.
	ReadFile(ctx context.Context, path string, offset int64, n int) ([]byte, error)
	// Edit damages a file; the daemon must not run (ErrRunning). An edit that would change nothing is an error.
	Edit(ctx context.Context, e Edit) (Edited, error)
}

// Replaceable is implemented by nodes whose program can be exchanged for another build of it: an upgrade, or going back.
type Replaceable interface {
	// Replace makes every later Start run s, with the same arguments, addresses, identity and volume. The daemon must not run (ErrRunning),
	// and s must be of the kind that the node was made with (ErrOtherKind). What earlier builds wrote to the log stays in it.
	Replace(ctx context.Context, s Subject) error
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

// Authority signs certificates; both parts are PEM. The key is a secret: it is never written where evidence is collected.
type Authority struct{ Cert, Key []byte }

// Trust is what a cluster's certificates are signed with, and what its clients believe. The zero value means plain text.
type Trust struct {
	Client   Authority // signs what nodes show to clients
	Route    Authority // signs what nodes show to each other
	Believed []byte    // PEM bundle: the authorities that clients of the harness accept from their next connection on
}

// Secured is implemented by clusters that can be encrypted.
type Secured interface {
	Trust() Trust
	// SetTrust says what holds from now on. It changes no file of any node (see Rekeyed) and no connection.
	SetTrust(Trust)
}

// Names of the files of a node's certificates, which are the same for every subject.
const (
	FileClientCert = "tls.crt"     // what the node shows to clients
	FileClientKey  = "tls.key"     //
	FileClientCA   = "tls-ca.crt"  // a bundle
	FileRouteCert  = "cluster.crt" // what the node shows to other nodes, both ways
	FileRouteKey   = "cluster.key" //
	FileRouteCA    = "cluster-ca.crt"
)

// Rekeyed is implemented by nodes whose certificates can be replaced, whether the daemon runs or not. They stay when it is started again.
type Rekeyed interface {
	// Hosts are the names and addresses that the node's certificates must be good for.
	Hosts() []string
	// PutSecrets replaces files by name (FileClientCert, ...), all in one step as far as the backend can. The daemon is not told:
	// membershipd notices, or is sent SIGHUP, which is also what nats-server needs.
	PutSecrets(ctx context.Context, files map[string][]byte) error
}

// CPU is what the kernel says of a node's processor time.
type CPU struct {
	Limit     float64       `json:"limit"`     // processors; 0 means no limit
	Periods   uint64        `json:"periods"`   // of the scheduler's bandwidth control in which the node wanted to run
	Throttled uint64        `json:"throttled"` // those of them in which it was stopped for having used up its share
	Ago       time.Duration `json:"-"`         // how long ago the limit was set in the present life; 0 where the backend does not say
}

// Resourced is implemented by nodes whose share of the machine can be limited (CapResources).
type Resourced interface {
	// LimitCPU gives the daemon so many processors at most, now and, from a moment after their start, in its later lives; 0 lifts the limit. It ends with the
	// agent's control stream, and when that is not renewed.
	LimitCPU(ctx context.Context, processors float64) error
	// CPU reads the kernel's limit and count, of the present life.
	CPU(ctx context.Context) (CPU, error)
}

// CountKind is something that the kernel counts for a daemon, and limits.
type CountKind string

// What is counted.
const (
	Descriptors CountKind = "descriptors" // files and sockets that are open
	Threads     CountKind = "threads"
)

// Count is what the kernel says of what a daemon has of something. No limit is the highest number.
type Count struct {
	Limit     uint64        `json:"limit"`
	Used      uint64        `json:"used"`
	Free      uint64        `json:"free"`      // how many more the kernel would give
	Refused   uint64        `json:"refused"`   // times that it gave none; it does not count that of descriptors
	Exhausted bool          `json:"exhausted"` // the limit was set by the harness, in the present life
	Ended     bool          `json:"ended"`     // it was set in a life that has ended, and not yet in another one
	Ago       time.Duration `json:"-"`         // how long ago it was set
}

// CountLimited is implemented by nodes whose descriptors and threads can be limited (CapCounts).
type CountLimited interface {
	// Exhaust leaves the daemon no more of something than it has, or lifts that; later lives have it from a moment after their start. It ends with the
	// agent's control stream, and when that is not renewed.
	Exhaust(ctx context.Context, what CountKind, on bool) error
	// Count reads the kernel's limit and count, of the present life.
	Count(ctx context.Context, what CountKind) (Count, error)
}

// Exhausted says how a daemon's memory was used up.
type Exhausted struct {
	Kills  uint64        // processes that the kernel killed for it
	Usage  uint64        // bytes, before
	Limit  uint64        // bytes, the last limit
	Failed uint64        // times that the limit stood in the way
	Took   time.Duration // until the process was gone
}

// MemoryLimited is implemented by nodes whose memory can be limited (CapMemory).
type MemoryLimited interface {
	// ExhaustMemory lowers the daemon's memory limit until the kernel has killed it. The next life has no limit.
	ExhaustMemory(ctx context.Context) (Exhausted, error)
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
