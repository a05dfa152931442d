// Package mutant plants bugs in the daemon, to show that the harness finds them. A release has none of this: [Planted] is a constant, every place that
// asks for a bug compares constants, and the compiler drops what cannot be reached. A test of the project looks into the binary for it.
//
//	clean.go              //go:build !mutant                        Planted = None
//	healthz_process.go    //go:build mutant && mutant_healthz_process    Planted = HealthzProcess
//	...                   one file for each bug, which says what the mistake is
//
// Exactly one bug can be planted: without its own tag, or with two, the package does not compile. 'chaos mutants' builds them, one after the other,
// and says which claim catches each.
package mutant

import "sync/atomic"

// Bug is a planted bug, by the name that 'chaos mutants --mutant' takes. Its build tag is "mutant_" and the name with underscores.
type Bug string

// None is what every build has that was not asked for a bug.
const None Bug = ""

// Lost is what [IndexLostOnReconnect] remembers of this process. No release touches it.
var Lost atomic.Bool

// The bugs. What each does wrong stands in its own file.
const (
	AcksBeforeMajority     Bug = "acks-before-majority"
	AuditSkipped           Bug = "audit-skipped"
	BootstrapGivesUp       Bug = "bootstrap-gives-up"
	BootstrapRecreates     Bug = "bootstrap-recreates"
	BucketsAtR1            Bug = "buckets-at-r1"
	CASIgnored             Bug = "cas-ignored"
	DiskKeepsDisabled      Bug = "disk-keeps-disabled"
	ForeignIdentity        Bug = "foreign-identity"
	ForgottenKept          Bug = "forgotten-kept"
	HealthzCached          Bug = "healthz-cached"
	HealthzProcess         Bug = "healthz-process"
	IndexLostOnReconnect   Bug = "index-lost-on-reconnect"
	LameDuckDrops          Bug = "lame-duck-drops"
	ResourcesNotAsked      Bug = "resources-not-asked"
	RightsAtLoginOnly      Bug = "rights-at-login-only"
	RoomRevokeOpen         Bug = "room-revoke-open"
	SeedTwice              Bug = "seed-twice"
	SuccessBeforeConfirmed Bug = "success-before-confirmed"
	SyncNotAlways          Bug = "sync-not-always"
	WatcherSkips           Bug = "watcher-skips"
)
