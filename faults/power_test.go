package faults_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
)

func TestPowerFailureRecordsWhatWasLost(t *testing.T) {
	c := newFake(3)
	f := faults.PowerFailure(cluster.PowerLoss{Seed: 7, KeepPercent: 30})("n1", "n2")
	if faults.PowerRecord(f) != nil {
		t.Error("there is a record before the injection")
	}
	i, s := newInjector(c)
	if err := i.Inject(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	rec := faults.PowerRecord(f)
	if len(rec) != 2 || rec["n1"].DroppedBytes != 8192 || rec["n1"].KeepPercent != 30 {
		t.Errorf("record %+v", rec)
	}
	if rec["n1"].Seed == rec["n2"].Seed || rec["n1"].Seed == 0 {
		t.Error("two disks draw the same lots")
	}
	o := s.seen["in-force"]
	if o.Figures["n2.dropped_bytes"] != 8192 || o.Figures["n2.power_cuts"] != 1 || o.Figures["n2.power_cuts_before"] != 0 || !strings.Contains(o.Detail, "lost 2 of 2 unsynced pages") {
		t.Errorf("observation %+v", o)
	}
	if err := i.Heal(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if st, err := c.node("n2").State(t.Context()); err != nil || !st.Running {
		t.Errorf("n2 was not started again: %+v, %v", st, err)
	}
}

// A kill is not a power failure: the probe must tell them apart.
func TestPowerFailureThatIsMerelyAKillIsNotInForce(t *testing.T) {
	c := newFake(3)
	c.node("n2").power.spares = true
	i, _ := newInjector(c)
	err := i.Inject(t.Context(), faults.PowerFailure(cluster.PowerLoss{})("n2"))
	if !errors.Is(err, faults.ErrNotInForce) {
		t.Fatalf("inject: %v, want ErrNotInForce", err)
	}
}

func TestPowerFailureOfABystanderIsCaught(t *testing.T) {
	c := newFake(3)
	f := faults.PowerFailure(cluster.PowerLoss{})("n2")
	if err := f.Inject(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.node("n3").power.cuts++
	if o, ok, err := f.Bystander(t.Context(), c); err != nil || !ok || !o.InForce {
		t.Errorf("bystander: %+v, %v, %v", o, ok, err)
	}
}
