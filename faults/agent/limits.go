package agent

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
