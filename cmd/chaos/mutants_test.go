package main

import (
	"testing"

	"github.com/unibus/unibus/scenarios"
)

// TestMutantsShareNoFolder: runs that go on at a time write to folders of their own.
func TestMutantsShareNoFolder(t *testing.T) {
	all := scenarios.Mutants()
	seen := map[string]string{}
	for _, job := range append(cleanRuns(all), all...) {
		dir := mutantFolder(job)
		if other, ok := seen[dir]; ok {
			t.Errorf("%s in %s writes to %s, and so does %s", job.Name, job.Scenario, dir, other)
		}
		seen[dir] = job.Name + " in " + job.Scenario
	}
	if clean := len(cleanRuns(all)); clean < 5 || len(seen) != clean+len(all) {
		t.Errorf("%d folders for %d clean runs and %d bugs", len(seen), clean, len(all))
	}
}
