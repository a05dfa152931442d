// Package suite runs scenarios as Ginkgo specs, so that Ginkgo's own tools apply: parallel processes, focus, timeouts, JUnit.
// The chaos command prepares a [Config], starts the suite and reads what it writes.
package suite

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/sut/cluster"
)

// Environment variables through which the command speaks to the suite's processes.
const (
	ConfigEnv   = "UNIBUS_CHAOS_CONFIG"   // path of the Config, as JSON
	ProgressEnv = "UNIBUS_CHAOS_PROGRESS" // path of a Unix socket that takes Progress lines as JSON
)

// Config is one run of the harness, prepared: binaries are built and images are made.
type Config struct {
	RunID     string              `json:"run_id"`
	Seed      uint64              `json:"seed"`
	Full      bool                `json:"full"`
	Nemesis   scenarios.Nemesis   `json:"nemesis"`
	Scenarios []string            `json:"scenarios"` // names, in the order to start them
	OutDir    string              `json:"out_dir"`   // absolute
	Backend   string              `json:"backend"`   // "docker" or "process"
	Sync      string              `json:"sync,omitempty"`
	Subject   Binary              `json:"subject"`
	Plain     Binary              `json:"plain"`                // nats-server for control scenarios
	Earlier   []Binary            `json:"earlier,omitempty"`    // what upgrades begin with, one of each kind at most
	NoUpgrade string              `json:"no_upgrade,omitempty"` // why one is missing
	Agent     string              `json:"agent"`                // path of the static faultd
	Holder    string              `json:"holder"`
	PowerFS   string              `json:"power_fs,omitempty"` // of cmd/powerfs; "" where it cannot run
	Harness   reports.Subject     `json:"harness"`
	Env       reports.Environment `json:"environment"`
}

// Binary is a cluster.Subject with its path, which proofs leave out.
type Binary struct {
	cluster.Subject
	File string `json:"file"`
}

// Resolve gives the subject its path back.
func (b Binary) Resolve() cluster.Subject {
	s := b.Subject
	s.Path = b.File
	return s
}

// ReadConfig reads the file that ConfigEnv names; ok is false when there is none.
func ReadConfig() (c Config, ok bool, err error) {
	path := os.Getenv(ConfigEnv)
	if path == "" {
		return Config{}, false, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, true, fmt.Errorf("read the run's configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, true, fmt.Errorf("read the run's configuration: %w", err)
	}
	return c, true, nil
}
