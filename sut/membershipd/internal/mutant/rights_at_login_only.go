//go:build mutant && mutant_rights_at_login_only

package mutant

// Planted is the bug of this build: what a user may do is looked up when it logs in. Connections that are open go on with what they were given then.
const Planted = RightsAtLoginOnly
