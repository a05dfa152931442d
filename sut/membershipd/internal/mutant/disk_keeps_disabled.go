//go:build mutant && mutant_disk_keeps_disabled

package mutant

// Planted is the bug of this build: the copy of the users on disk learns of new users and new keys, and not of users who were disabled. A node that starts without a
// quorum lets them in.
const Planted = DiskKeepsDisabled
