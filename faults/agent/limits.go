package agent

import "github.com/unibus/unibus/sut/cluster"

// CountParams asks for the daemon to be left no more of something than it has, in this life and in later ones, until it is asked for the opposite or the lease
// runs out. MethodCountRead looks at What alone.
type CountParams struct {
	What    cluster.CountKind `json:"what"`
	Exhaust bool              `json:"exhaust"` // false lifts the limit
}

// CountResult is what the kernel says of the daemon's present life.
type CountResult struct {
	cluster.Count
	AgoMS     float64 `json:"ago_ms"`    // how long ago the agent set the limit in the life that has it; 0 if it did not
	Remaining float64 `json:"remaining"` // seconds of lease left
}

// ExhaustParams asks for the daemon's memory limit to be lowered until the kernel kills it for want of memory.
type ExhaustParams struct {
	BoundMS int `json:"bound_ms"` // how long that may take, up to 60,000; then the limit is lifted again
}

// ExhaustResult says how that went. The limit ends with the daemon's control group, which is made anew at each start.
type ExhaustResult struct {
	Kills  uint64  `json:"kills"`  // by the kernel for want of memory, counted in the daemon's control group
	Failed uint64  `json:"failed"` // times that memory was wanted and the limit stood in the way (control groups of version 1 count that)
	Limit  uint64  `json:"limit"`  // bytes, the last
	Usage  uint64  `json:"usage"`  // bytes, before
	TookMS float64 `json:"took_ms"`
}
