package loopback_test

import (
	"net"
	"testing"

	"github.com/unibus/unibus/sut/loopback"
)

// A reserved port can be bound again and again by the one who knows it, and nobody gets it by chance.
func TestReserved(t *testing.T) {
	all, err := loopback.ReserveAll(8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := loopback.ReleaseAll(all); err != nil {
			t.Error(err)
		}
	}()
	taken := map[string]bool{}
	for _, p := range all {
		if taken[p.Addr] {
			t.Errorf("%s was given out twice", p.Addr)
		}
		taken[p.Addr] = true
		for range 2 {
			l, err := net.Listen("tcp4", p.Addr)
			if err != nil {
				t.Fatalf("its owner cannot listen on %s: %v", p.Addr, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2000 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if taken[l.Addr().String()] {
			t.Errorf("the reserved port %s was given to a stranger", l.Addr())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleaseIsIdempotent(t *testing.T) {
	p, err := loopback.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	}
}
