//go:build mutant && mutant_healthz_process

package mutant

// Planted is the bug of this build: /healthz says that the process runs, and nothing about whether it can serve.
const Planted = HealthzProcess
