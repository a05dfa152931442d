//go:build mutant && mutant_bootstrap_gives_up

package mutant

// Planted is the bug of this build: the bootstrap loop ends with its first error, as if it were a step of the start. What was missing then is missing for ever.
const Planted = BootstrapGivesUp
