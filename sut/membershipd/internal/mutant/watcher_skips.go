//go:build mutant && mutant_watcher_skips

package mutant

// Planted is the bug of this build: the watcher of the users passes over some records as if they were none of its business; their revisions count as seen.
const Planted = WatcherSkips
