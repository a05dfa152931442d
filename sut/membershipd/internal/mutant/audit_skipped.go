//go:build mutant && mutant_audit_skipped

package mutant

// Planted is the bug of this build: a node starts on its store as it is, and says that it looked.
const Planted = AuditSkipped
