//go:build mutant && mutant_index_lost_on_reconnect

package mutant

// Planted is the bug of this build: when the consumer that feeds the users' index is lost with its node, no other one is made: the index stays as it was.
const Planted = IndexLostOnReconnect
