//go:build mutant && mutant_cas_ignored

package mutant

// Planted is the bug of this build: the control API reads the expected revision of a write and does not use it: of two who change the same, both hear "done".
const Planted = CASIgnored
