//go:build mutant && mutant_bootstrap_gives_up

package mutant

// Planted is the bug of this build: bootstrap is a step of the start and no loop. Who cannot create a bucket then, because there is no leader yet or a
// peer is missing, does not try again.
const Planted = BootstrapGivesUp
