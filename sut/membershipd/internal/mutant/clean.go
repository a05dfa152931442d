//go:build !mutant

package mutant

// Planted is the bug of this build.
const Planted = None
