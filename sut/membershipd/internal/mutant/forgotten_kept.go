//go:build mutant && mutant_forgotten_kept

package mutant

// Planted is the bug of this build: a node whose clock was wrong leaves, waits until it is right, and starts with its copies as they are, whatever they have
// forgotten meanwhile.
const Planted = ForgottenKept
