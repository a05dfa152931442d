//go:build mutant && mutant_buckets_at_r1

package mutant

// Planted is the bug of this build: the flag --replicas is checked, shown, and never handed on: all buckets have one replica, and the node thinks that this is what is wanted.
const Planted = BucketsAtR1
