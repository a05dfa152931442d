package powerfs_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/powerfs"
	"github.com/unibus/unibus/sut/cluster"
)

func (d disk) fault(f cluster.DiskFault) {
	d.t.Helper()
	f.ID = "f"
	d.must(d.SetFault(f, time.Minute))
}

func (d disk) state(t *testing.T) cluster.DiskFaultState {
	t.Helper()
	fs := d.Faults()
	if len(fs) != 1 {
		t.Fatalf("faults in force: %+v, want one", fs)
	}
	return fs[0]
}

// A full disk writes what fits, refuses the rest, lets what is there be overwritten, and takes what is freed.
func TestFullDisk(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, pages(1)[:100])
	d.fault(cluster.DiskFault{Kind: cluster.DiskFull, FreeBytes: powerfs.PageSize})
	h, err := d.Open(f, false, false)
	d.must(err)
	if n, err := d.Write(h, pages(2, 2, 2), 50); n != 2*powerfs.PageSize-50 || err != nil {
		t.Errorf("wrote %d bytes, %v: want up to the end of the only page that was left", n, err)
	}
	if n, err := d.Write(h, []byte("x"), 2*powerfs.PageSize); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d bytes, %v: want ENOSPC", n, err)
	}
	if n, err := d.Write(h, []byte("over"), 10); n != 4 || err != nil {
		t.Errorf("overwrote %d bytes, %v", n, err)
	}
	if _, err := d.Mkdir(powerfs.RootIno, "dir", 0o700, powerfs.Owner{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("mkdir: %v, want ENOSPC", err)
	}
	d.must(d.Allocate(h, 10)) // it has that much
	if err := d.Allocate(h, 5*powerfs.PageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocate: %v, want ENOSPC", err)
	}
	if s := d.state(t); s.Hit != 3 || s.Bytes != powerfs.PageSize+50+1 {
		t.Errorf("counted %d refusals and %d bytes", s.Hit, s.Bytes)
	}
	d.truncate(f, 0)
	if _, err := d.Write(h, []byte("x"), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write into what was freed: %v, want ENOSPC: somebody else has taken it", err)
	}
	if free := d.Free(100); free != 0 {
		t.Errorf("%d pages are free", free)
	}
	d.ClearFault("f")
	if n, err := d.Write(h, pages(3), 0); n != powerfs.PageSize || err != nil || d.Free(100) != 100 {
		t.Errorf("after the fault: %d bytes, %v", n, err)
	}
}

// After an fsync that failed the pages are seen, a later one that works does not write them, and the power takes them away.
func TestFailedSyncLosesThePages(t *testing.T) {
	d := newDisk(t, powerfs.Journaled)
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, pages(1))
	d.fsync(f)
	d.write(f, 0, pages(2, 2))
	d.fault(cluster.DiskFault{Kind: cluster.DiskSyncError})
	d.with(f, func(h *powerfs.Handle) {
		if err := d.Fsync(h); !errors.Is(err, syscall.EIO) {
			t.Errorf("fsync: %v", err)
		}
	})
	if s := d.state(t); s.Hit != 1 || s.Bytes != 2*powerfs.PageSize {
		t.Errorf("state %+v", s)
	}
	d.ClearFault("f")
	d.fsync(f)
	if !bytes.Equal(d.content(f), pages(2, 2)) {
		t.Error("what was written is not seen any more")
	}
	if u := d.Usage(); u.PendingPages != 2 {
		t.Errorf("%d pages count as not durable, want 2", u.PendingPages)
	}
	rec := d.PowerFail(allKept)
	if want := append(pages(1), make([]byte, powerfs.PageSize)...); !bytes.Equal(d.content(f), want) {
		t.Error("what no sync has written is durable")
	}
	if rec.DroppedPages != 2 || rec.PendingPages != 2 {
		t.Errorf("record %+v", rec)
	}
}

func TestLyingSyncMakesNothingDurable(t *testing.T) {
	d := newDisk(t, powerfs.Journaled)
	d.fault(cluster.DiskFault{Kind: cluster.DiskLyingSync})
	f := d.create(powerfs.RootIno, "f")
	d.write(f, 0, pages(1))
	d.fsync(f)
	d.must(d.Fsyncdir(powerfs.RootIno))
	if s := d.state(t); s.Hit != 2 || s.Bytes != powerfs.PageSize {
		t.Errorf("state %+v", s)
	}
	d.PowerFail(nothingKept)
	if _, there := d.lookup(powerfs.RootIno, "f"); there {
		t.Error("the file is durable")
	}
}

func TestErrorsOfReadAndWrite(t *testing.T) {
	for _, c := range []struct {
		kind       cluster.DiskFaultKind
		sync       bool
		write, get error
	}{
		{cluster.DiskReadError, false, nil, syscall.EIO},
		{cluster.DiskWriteError, false, syscall.EIO, nil},
		{cluster.DiskSyncError, true, syscall.EIO, nil}, // O_SYNC
		{cluster.DiskSyncError, false, nil, nil},
	} {
		d := newDisk(t, powerfs.Strict)
		f := d.create(powerfs.RootIno, "f")
		d.fault(cluster.DiskFault{Kind: c.kind})
		h, err := d.Open(f, false, c.sync)
		d.must(err)
		if _, err := d.Write(h, []byte("x"), 0); !errors.Is(err, c.write) {
			t.Errorf("%s: write: %v, want %v", c.kind, err, c.write)
		}
		if _, err := d.Read(h, make([]byte, 1), 0); !errors.Is(err, c.get) {
			t.Errorf("%s: read: %v, want %v", c.kind, err, c.get)
		}
	}
}

// Only what is under the directory is hit, where it was put last; and as often as the seed says.
func TestScopeAndChance(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	dir := d.mkdir(powerfs.RootIno, "in")
	out := d.create(powerfs.RootIno, "in-no-way")
	in := d.create(dir, "f")
	d.fault(cluster.DiskFault{Kind: cluster.DiskWriteError, Under: "in", PerMille: 300, Seed: 7})
	hits := 0
	for range 1000 {
		d.with(in, func(h *powerfs.Handle) {
			if _, err := d.Write(h, []byte("x"), 0); err != nil {
				hits++
			}
		})
		d.write(out, 0, []byte("x"))
	}
	if s := d.state(t); s.Seen != 1000 || s.Hit != uint64(hits) || hits < 240 || hits > 360 {
		t.Errorf("%d hits of 1000, state %+v", hits, s)
	}
	d.must(d.Rename(dir, "f", powerfs.RootIno, "f", false))
	d.write(in, 0, []byte("x"))
	if s := d.state(t); s.Seen != 1000 {
		t.Error("a file that was moved away still counts")
	}
}

func TestDelayEndsWithItsFault(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	if late, _ := d.Delay(powerfs.OpSync, f); late != 0 {
		t.Errorf("late by %v without a fault", late)
	}
	d.fault(cluster.DiskFault{Kind: cluster.DiskSlowSync, DelayMS: 100, JitterMS: 20})
	if late, _ := d.Delay(powerfs.OpRead, f); late != 0 {
		t.Errorf("a read is late by %v", late)
	}
	late, ended := d.Delay(powerfs.OpSync, f)
	if late < 80*time.Millisecond || late > 120*time.Millisecond {
		t.Errorf("late by %v, want 100 +- 20 ms", late)
	}
	d.ClearFault("f")
	select {
	case <-ended:
	default:
		t.Error("what waits is not let go")
	}
	d.ClearFault("f")
}

// A fault that nobody renews ends by itself, and cannot be renewed any more.
func TestLease(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	f := d.create(powerfs.RootIno, "f")
	const lease = 200 * time.Millisecond
	d.must(d.SetFault(cluster.DiskFault{ID: "f", Kind: cluster.DiskSlowSync, DelayMS: 60_000}, lease))
	_, ended := d.Delay(powerfs.OpSync, f)
	began := time.Now()
	for time.Since(began) < 3*lease {
		d.RenewFaults(lease)
		d.state(t)
		<-time.After(lease / 10)
	}
	<-ended // the test's own bound, if it is never closed
	if len(d.Faults()) > 0 {
		t.Error("it is still in force")
	}
	d.RenewFaults(lease)
	if len(d.Faults()) > 0 {
		t.Error("it was brought back")
	}
}

func TestFaultsThatCannotBeMeant(t *testing.T) {
	d := newDisk(t, powerfs.Strict)
	for what, f := range map[string]cluster.DiskFault{
		"no id":              {Kind: cluster.DiskFull},
		"no kind":            {ID: "f"},
		"another kind":       {ID: "f", Kind: "melted"},
		"no delay":           {ID: "f", Kind: cluster.DiskSlowRead},
		"too much delay":     {ID: "f", Kind: cluster.DiskSlowRead, DelayMS: 1e6},
		"too much jitter":    {ID: "f", Kind: cluster.DiskSlowRead, DelayMS: 1, JitterMS: 2},
		"a delay for errors": {ID: "f", Kind: cluster.DiskReadError, DelayMS: 1},
		"all in a thousand":  {ID: "f", Kind: cluster.DiskReadError, PerMille: 1000},
		"a way out":          {ID: "f", Kind: cluster.DiskReadError, Under: "../x"},
		"half a full disk":   {ID: "f", Kind: cluster.DiskFull, Under: "x"},
		"space elsewhere":    {ID: "f", Kind: cluster.DiskReadError, FreeBytes: 1},
	} {
		if err := d.SetFault(f, time.Minute); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	if len(d.Faults()) > 0 {
		t.Error("something is in force")
	}
}
