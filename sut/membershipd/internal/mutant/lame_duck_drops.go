//go:build mutant && mutant_lame_duck_drops

package mutant

// Planted is the bug of this build: a node that is to stop diverts what its clients publish, "to drain", to a subject that nobody reads. The clients are served as if it arrived.
const Planted = LameDuckDrops
