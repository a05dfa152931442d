package health_test

import (
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

func TestExpired(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	good, bad := health.TLSListener{Enabled: true, NotAfter: now.Add(time.Second)}, health.TLSListener{Enabled: true, NotAfter: now.Add(-time.Second)}
	for name, tc := range map[string]struct {
		t    health.TLS
		want string
	}{
		"plain text":   {health.TLS{}, ""},
		"both good":    {health.TLS{Clients: good, Routes: good}, ""},
		"clients":      {health.TLS{Clients: bad, Routes: good}, "clients"},
		"routes":       {health.TLS{Clients: good, Routes: bad}, "routes"},
		"both expired": {health.TLS{Clients: bad, Routes: bad}, "routes"},
	} {
		if got, ok := tc.t.Expired(now); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, ok, tc.want)
		}
	}
}
