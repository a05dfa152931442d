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
	MethodCounters  = "counters"   // CountersParams -> PartitionResult: what became of packets so far
	MethodSink      = "sink"       // SinkParams -> SinkResult: opens a socket for numbered datagrams
	MethodSpray     = "spray"      // SprayParams -> SprayResult: sends numbered datagrams to a peer's sink
	MethodDrain     = "drain"      // DrainParams -> DrainResult: what came in, and how; closes the sink
	MethodResolve   = "resolve"    // ResolveParams -> ResolveResult: asks the node's name server
	MethodClock     = "clock"      // ClockParams -> ClockResult: the daemon's CLOCK_REALTIME
	MethodClockRead = "clock-read" // -> ClockResult
	MethodCPU       = "cpu"        // CPUParams -> CPUResult: the daemon's share of the processors
	MethodCPURead   = "cpu-read"   // -> CPUResult
	MethodCount     = "count"      // CountParams -> CountResult: leaves the daemon no more descriptors or threads
	MethodCountRead = "count-read" // CountParams -> CountResult
	MethodExhaust   = "exhaust"    // ExhaustParams -> ExhaustResult: lowers the daemon's memory limit until the kernel kills it
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

// Action is what happens to the packets that a network fault is about.
type Action string

// Actions.
const (
	ActionDrop  Action = ""      // they vanish
	ActionShape Action = "shape" // they suffer an Impairment, each on its own
	// ActionReset answers every TCP packet with a RST, to the peer for what comes in, to the node itself for what goes out: connections break, and new ones
	// are refused.
	ActionReset Action = "reset"
	// ActionHalfOpen drops the packets of the TCP connections that there are between node and peers at that moment, and no others: neither end learns
	// of it, and new connections work.
	ActionHalfOpen Action = "half-open"
)

// PartitionParams asks for a network fault: something happens to packets from (In) and to (Out) the peers. A known ID replaces that fault.
type PartitionParams struct {
	ID    string   `json:"id"`
	Peers []string `json:"peers"` // IPv4 addresses; none means everybody, and then ports are needed
	In    bool     `json:"in"`
	Out   bool     `json:"out"`
	// OwnPorts and TheirPorts, where there are any, leave out the packets that use none of them, at the node's end and at the other one. Without peers
	// only one of the two may be given.
	OwnPorts   []int  `json:"own_ports,omitempty"`
	TheirPorts []int  `json:"their_ports,omitempty"`
	Action     Action `json:"action,omitempty"`
	// Witness, of a half-open fault, is a TCP port of the peers: the agent opens a connection to it on each peer first, which is then cut off with the
	// others, so that there is always one to be looked at.
	Witness int `json:"witness,omitempty"`
	Impairment
}

// Impairment is what a link does to each packet on its own. Chances are in a thousand; all of them may be combined.
type Impairment struct {
	Loss      int `json:"loss,omitempty"`
	Duplicate int `json:"duplicate,omitempty"` // arrives twice; Out only
	Corrupt   int `json:"corrupt,omitempty"`   // one bit behind the IP header is wrong
	Reorder   int `json:"reorder,omitempty"`   // is not delayed, and overtakes those that are: needs a delay
	// DelayMS +- JitterMS milliseconds is how late packets are, in the order in which they come.
	DelayMS  float64 `json:"delay_ms,omitempty"`
	JitterMS float64 `json:"jitter_ms,omitempty"`
	// RateKbit is how much passes in each direction, to all peers together, in 1000 bits of IP packets a second. What cannot be sent within 0.4 s is lost.
	RateKbit int    `json:"rate_kbit,omitempty"`
	Seed     uint64 `json:"seed,omitempty"` // drives all chances
}

// RenewResult says which partitions were renewed. One whose lease had run out is not brought back: it would have had a gap that nobody saw.
type RenewResult struct {
	Renewed []string `json:"renewed,omitempty"`
	Lapsed  []string `json:"lapsed,omitempty"`
}

// PartitionResult is a network fault as the kernel has it.
type PartitionResult struct {
	ID         string `json:"id"`
	Present    bool   `json:"present"`       // false when there is no such fault, or its lease ran out
	Via        string `json:"via,omitempty"` // the mechanism: "nft" or "nfqueue"
	DroppedIn  uint64 `json:"dropped_in"`    // packets, since the fault was made
	DroppedOut uint64 `json:"dropped_out"`   // packets
	SeenIn     uint64 `json:"seen_in"`       // packets that the rules looked at, whatever became of them
	SeenOut    uint64 `json:"seen_out"`      // packets
	Delayed    uint64 `json:"delayed"`       // packets that were held back
	Duplicated uint64 `json:"duplicated"`    // packets
	Corrupted  uint64 `json:"corrupted"`     // packets
	Reordered  uint64 `json:"reordered"`     // packets that overtook others
	Overrun    uint64 `json:"overrun"`       // packets for which a limited rate had no room; they count as dropped, too
	Overflow   uint64 `json:"overflow"`      // packets that the kernel lost because the agent was too slow: not meant
	// Connections is how many a half-open fault cut off; of its Witnesses, Unanswered have sent something that was not acknowledged.
	Connections int     `json:"connections,omitempty"`
	Witnesses   int     `json:"witnesses,omitempty"`
	Unanswered  int     `json:"unanswered,omitempty"`
	SinceMS     float64 `json:"since_ms,omitempty"` // milliseconds since the kernel had the rules
	Remaining   float64 `json:"remaining"`          // seconds of lease left, of the peer that runs out first
}

// HealParams names the partition to remove; all of them for an empty ID.
type HealParams struct {
	ID string `json:"id"`
}

// CountersParams names the partition to read.
type CountersParams struct {
	ID string `json:"id"`
}

// SinkParams opens a socket for numbered datagrams.
type SinkParams struct {
	ID string `json:"id"`
}

// SinkResult says where it is.
type SinkResult struct {
	Port int `json:"port"` // UDP, on all the node's addresses
}

// SprayParams sends numbered datagrams to a sink, one after the other, as fast as they go. They carry no UDP checksum, so that damage arrives to be seen.
type SprayParams struct {
	Address string `json:"address"` // host:port of the sink
	Count   int    `json:"count"`   // 1 to 10,000
	Bytes   int    `json:"bytes"`   // of each, without headers: 32 to 1400
}

// SprayResult says how many the node's kernel took. Those that a rule dropped at once count.
type SprayResult struct {
	Sent int `json:"sent"`
}

// DrainParams closes a sink, once so many datagrams have come or none has for a while.
type DrainParams struct {
	ID      string  `json:"id"`
	Want    int     `json:"want"`     // different datagrams
	QuietMS float64 `json:"quiet_ms"` // ends the wait
	BoundMS float64 `json:"bound_ms"` // ends the wait, too
}

// DrainResult is what came in, measured where it came in.
type DrainResult struct {
	Received   int     `json:"received"`   // different ones, undamaged
	Duplicated int     `json:"duplicated"` // more of one that had come already
	Corrupted  int     `json:"corrupted"`  // damaged
	Reordered  int     `json:"reordered"`  // came after a later one
	LeastMS    float64 `json:"least_ms"`   // time on the way
	MedianMS   float64 `json:"median_ms"`
	MostMS     float64 `json:"most_ms"`
	// FirstMS and LastMS are when the first and the last one came, on the machine's monotonic clock; Bytes is what came after the first, in IP packets.
	FirstMS float64 `json:"first_ms"`
	LastMS  float64 `json:"last_ms"`
	Bytes   int     `json:"bytes"`
}

// ResolveParams asks for a name's addresses, through the node's own name server.
type ResolveParams struct {
	Name      string `json:"name"`
	TimeoutMS int    `json:"timeout_ms"` // 0 means one second
}

// ResolveResult is how that ended.
type ResolveResult struct {
	Addresses []string `json:"addresses,omitempty"`
	Error     string   `json:"error,omitempty"`
	TookMS    float64  `json:"took_ms"`
}

// ClockParams asks for the daemon's clock to be wrong, in this life and in later ones, until it is asked for the zero value or the lease runs out. What is
// given adds up; monotonic clocks stay right. Drift and swing begin when they are asked for.
type ClockParams struct {
	OffsetSeconds int64 `json:"offset_seconds"`
	// DriftPPM is by how much the clock is too fast, in millionths; one that is too slow has less than 0.
	DriftPPM int64 `json:"drift_ppm,omitempty"`
	// The clock strobes: for PeriodMS milliseconds each it is right, SwingMS ahead, right, SwingMS behind, and so on.
	SwingMS  int64 `json:"swing_ms,omitempty"`
	PeriodMS int64 `json:"period_ms,omitempty"`
}

// Ahead is by how much such a clock is ahead when the true clock has gone on by elapsed.
func (p ClockParams) Ahead(elapsed time.Duration) time.Duration {
	ahead := time.Duration(p.OffsetSeconds)*time.Second + time.Duration(float64(elapsed)*float64(p.DriftPPM)/million)
	if p.PeriodMS > 0 {
		switch elapsed / p.period() % 4 {
		case 1:
			ahead += p.swing()
		case 3:
			ahead -= p.swing()
		}
	}
	return ahead
}

const million = 1_000_000

func (p ClockParams) period() time.Duration { return time.Duration(p.PeriodMS) * time.Millisecond }

func (p ClockParams) swing() time.Duration { return time.Duration(p.SwingMS) * time.Millisecond }

// ClockResult is what the agent does to the daemon's clock. Whether the daemon believes it has to be asked of the daemon.
type ClockResult struct {
	Applied   bool    `json:"applied"`   // in the present life, with a lease that has not run out
	Remaining float64 `json:"remaining"` // seconds of lease left
	SinceMS   float64 `json:"since_ms"`  // milliseconds since it was first applied
	ClockParams
}

// CPUParams asks for the daemon's processor time to be limited, in this life and in later ones, until it is asked for 0 or the lease runs out.
type CPUParams struct {
	Processors float64 `json:"processors"`
}

// CPUResult is what the kernel says of the control group that the daemon's present life is in.
type CPUResult struct {
	cluster.CPU
	AgoMS     float64 `json:"ago_ms"`    // how long ago the agent set the limit in the present life; 0 if it did not
	Remaining float64 `json:"remaining"` // seconds of lease left
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
	Reset     bool    `json:"reset"`    // a RST came
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
