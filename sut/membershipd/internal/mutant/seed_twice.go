//go:build mutant && mutant_seed_twice

package mutant

// Planted is the bug of this build: the seed file is imported at every start, over what is there. Who was disabled since is an admin again.
const Planted = SeedTwice
