//go:build linux

package agent

import (
	"testing"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// TestLateRenewal: a limit whose lease has run out is not renewed, also when the renewal comes before anybody has looked for what is overdue.
func TestLateRenewal(t *testing.T) {
	none := processes{proc: t.TempDir()} // no daemon runs
	late, early := time.Now().Add(-time.Millisecond), time.Now().Add(time.Minute)
	for _, tc := range []struct {
		name   string
		expiry time.Time
		kept   bool
	}{{"late", late, false}, {"in time", early, true}} {
		c := &cpu{proc: none, want: 0.5, expiry: tc.expiry}
		if err := c.renew(); err != nil || (c.want != 0) != tc.kept {
			t.Errorf("%s: processors %v, %v", tc.name, c.want, err)
		}
		k := newCounts(none, "")
		k.held[cluster.Descriptors] = &heldCount{expiry: tc.expiry}
		if err := k.renew(); err != nil || (k.held[cluster.Descriptors] != nil) != tc.kept {
			t.Errorf("%s: descriptors %+v, %v", tc.name, k.held, err)
		}
		m := &clock{proc: none, want: ClockParams{OffsetSeconds: 5}, expiry: tc.expiry}
		if err := m.renew(); err != nil || (m.want != ClockParams{}) != tc.kept || m.read().Applied {
			t.Errorf("%s: clock %+v, %v", tc.name, m.want, err)
		}
	}
}
