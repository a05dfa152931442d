//go:build mutant && mutant_sync_not_always

package mutant

// Planted is the bug of this build: --sync always is what the status shows, and the embedded server is told to sync every ten seconds.
const Planted = SyncNotAlways
