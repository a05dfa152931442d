package faults_test

import (
	"errors"
	"testing"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
)

// A fault that the file system has, but that hits nothing, is not in force.
func TestDiskFaultWithoutEffectIsNotInForce(t *testing.T) {
	for _, verb := range []string{"disk-full", "fsync-error", "write-error", "read-error", "slow-fsync", "lying-fsync", "slow-read"} {
		t.Run(verb, func(t *testing.T) {
			c := newFake(3)
			c.node("n2").disk.healthy = true
			e, ok := faults.Lookup(verb)
			if !ok {
				t.Fatal("it is not in the catalogue")
			}
			i, _ := newInjector(c)
			if err := i.Inject(t.Context(), e.Make("n2")); !errors.Is(err, faults.ErrNotInForce) {
				t.Errorf("inject: %v, want ErrNotInForce", err)
			}
			if left := c.node("n2").disk.fs.Faults(); len(left) > 0 {
				t.Errorf("left in force: %+v", left)
			}
		})
	}
}

func TestDiskFaultOfABystanderIsCaught(t *testing.T) {
	c := newFake(3)
	f := faults.FsyncError("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Heal(t.Context(), c) }()
	if o, ok, err := f.Bystander(t.Context(), c); err != nil || !ok || o.InForce {
		t.Errorf("bystanders that are well: %+v, %v, %v", o, ok, err)
	}
	if err := c.node("n3").SetDiskFault(t.Context(), cluster.DiskFault{ID: f.Name(), Kind: cluster.DiskSyncError}); err != nil {
		t.Fatal(err)
	}
	if o, ok, err := f.Bystander(t.Context(), c); err != nil || !ok || !o.InForce {
		t.Errorf("a bystander that is hit: %+v, %v, %v", o, ok, err)
	}
}
