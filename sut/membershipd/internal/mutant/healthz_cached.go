//go:build mutant && mutant_healthz_cached

package mutant

// Planted is the bug of this build: a good answer of /healthz is kept for a minute, to spare the node the load balancers' questions.
const Planted = HealthzCached
