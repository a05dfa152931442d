//go:build mutant && mutant_bootstrap_recreates

package mutant

// Planted is the bug of this build: the bootstrap loop takes a bucket that does not answer for one that is broken, deletes it and makes it anew. Nobody answers during an
// election, and it has no patience either.
const Planted = BootstrapRecreates
