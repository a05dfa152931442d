//go:build mutant && mutant_foreign_identity

package mutant

// Planted is the bug of this build: nobody looks whose data directory it is. A node joins with what another one has voted and stored.
const Planted = ForeignIdentity
