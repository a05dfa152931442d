package agent

import (
	"encoding/json"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// The control stream: the harness writes one JSON request per line to the agent's standard input and reads one JSON
// response per line from its standard output (package docker attaches both). When the input ends the agent heals everything and exits.
//
// While the harness wants its faults it sends MethodRenew at least once a second. A network fault is in the kernel as set elements that
// expire after Lease: a frozen agent, a frozen harness and a lost stream all end in healed traffic.

// Request is one call.
type Request struct {
	ID     uint64 `json:"id"`
	Method string `json:"method"`
	Params any    `json:"params,omitempty"`
}

// Response answers the request with the same ID. Requests are answered in any order, but those that change the network
// (partition, heal, renew) take effect in the order in which they came, and so do signal and wipe.
type Response struct {
	ID     uint64          `json:"id"`
	Error  *Error          `json:"error,omitempty"` // nil means success
	Result json.RawMessage `json:"result,omitempty"`
}

// Code is the kind of an error.
type Code string

// Codes.
const (
	CodeBadRequest  Code = "bad_request" // not understood; nothing was done
	CodeNotRunning  Code = "not_running" // the daemon does not run
	CodeRunning     Code = "running"     // the daemon runs, and must not
	CodeUnsupported Code = "unsupported" // this kernel, or the agent's capabilities, cannot do it
	CodeFailed      Code = "failed"      // anything else; it may have been done in part
)

// Methods.
const (
	MethodHello     = "hello"      // -> HelloResult: the agent is up
	MethodRenew     = "renew"      // -> RenewResult: renews the lease of every fault in force
	MethodProcess   = "process"    // -> ProcessResult: the daemon's process
	MethodSignal    = "signal"     // SignalParams: to the daemon's process
	MethodUsage     = "usage"      // -> cluster.Usage shape: of the data directory
	MethodFiles     = "files"      // -> []cluster.FileInfo: of the data directory
	MethodRead      = "read"       // ReadParams -> []byte: a piece of one of those files
	MethodEdit      = "edit"       // cluster.Edit -> cluster.Edited; refused while the daemon runs
	MethodDiskProbe = "disk-probe" // DiskProbeParams -> cluster.DiskProbe: a file written, synced and read there
	MethodWipe      = "wipe"       // -> what was there; refused while the daemon runs
	MethodPartition = "partition"  // PartitionParams -> PartitionResult
	MethodHeal      = "heal"       // HealParams: removes one fault, or all for an empty id; idempotent
	MethodCounters  = "counters"   // CountersParams -> PartitionResult: packets dropped so far
	MethodBurst     = "burst"      // BurstParams -> BurstResult: datagrams to a peer, for the rules to count
	MethodClock     = "clock"      // ClockParams -> ClockResult: the daemon's CLOCK_REALTIME
	MethodClockRead = "clock-read" // -> ClockResult
	MethodDial      = "dial"       // DialParams -> DialResult: a TCP connection attempt from inside the node's namespace
)

// Lease is how long a network fault stays in the kernel without a MethodRenew.
const Lease = 4 * time.Second

// HelloResult says who answers.
type HelloResult struct {
	Version string  `json:"version"` // of the agent
	PID     int     `json:"pid"`     // the agent's own, in the node's PID namespace
	Kernel  string  `json:"kernel"`  // release of the kernel, as uname says it
	Lease   float64 `json:"lease"`   // seconds
}

// ProcessResult is what /proc says of the daemon's process.
type ProcessResult struct {
	Running   bool   `json:"running"` // there is such a process and it is no zombie; a paused one counts
	Paused    bool   `json:"paused"`  // stopped by a signal (state T)
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot: tells one life from the next
	Comm      string `json:"comm"`
}

// SignalParams asks for a signal to the daemon's process: SIGKILL, SIGTERM, SIGSTOP, SIGCONT or SIGHUP.
type SignalParams struct {
	Signal int `json:"signal"`
}

// PartitionParams asks for packets from (In) and to (Out) the peers to be dropped, some of them lost, or all of them late. A known ID replaces that partition.
type PartitionParams struct {
	ID    string   `json:"id"`
	Peers []string `json:"peers"` // IPv4 addresses
	In    bool     `json:"in"`
	Out   bool     `json:"out"`
	// Loss is how many packets in a thousand are dropped, each one at random; 0 means all of them.
	Loss int `json:"loss,omitempty"`
	// DelayMS, when it is not 0, makes packets late instead of dropping them, by DelayMS +- JitterMS milliseconds, in the order in which they come.
	// Out only. Seed drives the jitter.
	DelayMS  float64 `json:"delay_ms,omitempty"`
	JitterMS float64 `json:"jitter_ms,omitempty"`
	Seed     uint64  `json:"seed,omitempty"`
}

// RenewResult says which partitions were renewed. One whose lease had run out is not brought back: it would have had a gap that nobody saw.
type RenewResult struct {
	Renewed []string `json:"renewed,omitempty"`
	Lapsed  []string `json:"lapsed,omitempty"`
}

// PartitionResult is a partition as the kernel has it.
type PartitionResult struct {
	ID         string  `json:"id"`
	Present    bool    `json:"present"`     // false when there is no such partition, or its lease ran out
	DroppedIn  uint64  `json:"dropped_in"`  // packets, since the partition was made
	DroppedOut uint64  `json:"dropped_out"` // packets
	SeenIn     uint64  `json:"seen_in"`     // packets that the rules looked at, dropped or not
	SeenOut    uint64  `json:"seen_out"`    // packets
	Delayed    uint64  `json:"delayed"`     // packets that the agent held back
	Remaining  float64 `json:"remaining"`   // seconds of lease left, of the peer that runs out first
}

// HealParams names the partition to remove; all of them for an empty ID.
type HealParams struct {
	ID string `json:"id"`
}

// CountersParams names the partition to read.
type CountersParams struct {
	ID string `json:"id"`
}

// BurstParams asks for UDP datagrams to an address where nobody has to listen.
type BurstParams struct {
	Address string `json:"address"` // host:port
	Count   int    `json:"count"`   // 1 to 10,000
}

// BurstResult says how many the node's kernel took.
type BurstResult struct {
	Sent int `json:"sent"`
}

// ClockParams asks for the daemon's clock to be moved, in this life and in later ones, until it is asked for 0 or the lease runs out.
type ClockParams struct {
	OffsetSeconds int64 `json:"offset_seconds"`
}

// ClockResult is what the agent does to the daemon's clock. Whether the daemon believes it has to be asked of the daemon.
type ClockResult struct {
	Applied       bool    `json:"applied"` // in the present life, with a lease that has not run out
	OffsetSeconds int64   `json:"offset_seconds"`
	Remaining     float64 `json:"remaining"` // seconds of lease left
}

// DialParams asks for one TCP connection attempt from inside the node's network namespace.
type DialParams struct {
	Address   string `json:"address"`    // host:port
	TimeoutMS int    `json:"timeout_ms"` // 0 means one second
}

// DialResult is how that attempt ended.
type DialResult struct {
	Connected bool    `json:"connected"`
	Answered  bool    `json:"answered"` // connected, or refused by the other end: packets pass both ways
	Error     string  `json:"error,omitempty"`
	TookMS    float64 `json:"took_ms"`
}

// Error is a failed call, as the agent put it.
type Error struct {
	Code Code   `json:"code"` // the kind, for programs
	Text string `json:"text"` // a sentence
}

// Error gives the agent's sentence.
func (e *Error) Error() string { return e.Text }

// Unwrap gives the error of package cluster that the code stands for, if there is one.
func (e *Error) Unwrap() error {
	switch e.Code {
	case CodeNotRunning:
		return cluster.ErrNotRunning
	case CodeRunning:
		return cluster.ErrRunning
	default:
		return nil
	}
}

// Err is nil for a success, else an [*Error].
func (r Response) Err() error {
	if r.Error == nil {
		return nil
	}
	return r.Error
}
