package room

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func testRoom(t *testing.T, pressure *atomic.Int64) Room {
	t.Helper()
	return Room{Dir: filepath.Join(t.TempDir(), "room"), Limit: 80, Every: time.Millisecond, Pressure: func() (float64, error) { return float64(pressure.Load()), nil }}
}

func enter(t *testing.T, r Room) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leave, err := r.Enter(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// full holds that there is no room, for that reason.
func full(t *testing.T, r Room, want string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := ""
	leave, err := r.Enter(ctx, func(why string) {
		said = why
		cancel()
	})
	if !errors.Is(err, context.Canceled) || leave != nil || !strings.Contains(said, want) {
		t.Errorf("want %q: it waits for %q, %v", want, said, err)
	}
}

func TestWhoIsAloneNeverWaits(t *testing.T) {
	var p atomic.Int64
	p.Store(100)
	r := testRoom(t, &p)
	for range 3 {
		enter(t, r)()
	}
}

func TestPressureHoldsUp(t *testing.T) {
	var p atomic.Int64
	p.Store(79)
	r := testRoom(t, &p)
	first, second := enter(t, r), enter(t, r)
	defer second()
	p.Store(80)
	full(t, r, "busy with 2 others")
	first()
	full(t, r, "busy with 1 others")
	done := make(chan func())
	go func() {
		leave, err := r.Enter(context.Background(), func(string) { p.Store(10) })
		if err != nil {
			t.Error(err)
			leave = func() {}
		}
		done <- leave
	}()
	(<-done)()
}

func TestOneAfterTheOther(t *testing.T) {
	var p atomic.Int64
	r := testRoom(t, &p)
	r.Apart = time.Hour
	defer enter(t, r)()
	p.Store(1)
	full(t, r, "just begun")
	p.Store(0) // nothing to be told of: a machine with room for many
	defer enter(t, r)()
}

func TestNobodyTells(t *testing.T) {
	var p atomic.Int64
	r := testRoom(t, &p)
	r.Apart, r.Pressure = time.Hour, func() (float64, error) { return 0, ErrNoPressure }
	defer enter(t, r)()
	defer enter(t, r)()
}

const childEnv = "UNIBUS_ROOM_TEST_DIR"

// TestMain lets a child process be inside until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		r := Room{Dir: dir, Limit: 80, Every: time.Millisecond, Pressure: func() (float64, error) { return 0, nil }}
		if _, err := r.Enter(context.Background(), nil); err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString("inside\n")
		select {}
	}
	os.Exit(m.Run())
}

// TestDeadLeaveToo: a process that was killed does not keep its room.
func TestDeadLeaveToo(t *testing.T) {
	var p atomic.Int64
	r := testRoom(t, &p)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+r.Dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	p.Store(100)
	full(t, r, "busy with 1 others")
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
	enter(t, r)()
	if left, err := filepath.Glob(filepath.Join(r.Dir, inside+"*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestForeignFolder(t *testing.T) {
	var p atomic.Int64
	r := testRoom(t, &p)
	if err := os.Symlink(t.TempDir(), r.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enter(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a link in its place: %v", err)
	}
}

func TestParsePressure(t *testing.T) {
	const kernel = "some avg10=92.85 avg60=65.68 avg300=75.22 total=2143843418\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
	if p, err := parsePressure(kernel); err != nil || p != 92.85 {
		t.Errorf("%v, %v", p, err)
	}
	for _, s := range []string{"", "some", "some avg60=1", "some avg10=x", "some avg10=-1", "some avg10=NaN", "some avg10=101", "full avg10=3"} {
		if p, err := parsePressure(s); !errors.Is(err, ErrNoPressure) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}
