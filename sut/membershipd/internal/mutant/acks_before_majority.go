//go:build mutant && mutant_acks_before_majority

package mutant

// Planted is the bug of this build: a setting is handed to the leader of its bucket, and the caller hears "done" before a majority has it. Without a quorum the leader
// takes it too.
const Planted = AcksBeforeMajority
