//go:build mutant && mutant_index_lost_on_reconnect

package mutant

// Planted is the bug of this build: a feed of the users' index that was interrupted once is resumed, and what comes from then on is counted as seen and not taken over.
const Planted = IndexLostOnReconnect
