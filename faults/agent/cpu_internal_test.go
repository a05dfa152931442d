//go:build linux

package agent

import (
	"testing"

	"github.com/unibus/unibus/sut/cluster"
)

func TestParseGroups(t *testing.T) {
	const v1 = "9:name=systemd:/docker/a\n3:cpuset:/docker/c\n2:cpu,cpuacct:/docker/b\n0::/docker/z\n"
	for _, tc := range []struct {
		name, in, path string
		v2, ok         bool
	}{
		{"version 1, with another controller", v1, "/docker/b", false, true},
		{"version 2", "0::/system.slice/docker-a.scope\n", "/system.slice/docker-a.scope", true, true},
		{"version 2, for a controller that version 1 lacks", "3:cpuset:/docker/c\n0::/docker/z\n", "/docker/z", true, true},
		{"a path with colons", "2:cpu:/a:b\n", "/a:b", false, true},
		{"neither", "3:cpuset:/docker/c\n", "", false, false},
		{"nothing", "", "", false, false},
	} {
		if path, v2, ok := parseGroups(tc.in, "cpu"); path != tc.path || v2 != tc.v2 || ok != tc.ok {
			t.Errorf("%s: %q, %v, %v", tc.name, path, v2, ok)
		}
	}
}

func TestParseQuota(t *testing.T) {
	for in, want := range map[string]float64{"-1\n": 0, "5000\n": 0.05, "max 100000\n": 0, "5000 100000\n": 0.05, "10000 20000\n": 0.5, "": 0} {
		if got := parseQuota(in); got != (cluster.CPU{Limit: want}) {
			t.Errorf("%q: %+v, want %v", in, got, want)
		}
	}
}

func TestParseThrottled(t *testing.T) {
	periods, throttled := parseThrottled("usage_usec 7\nnr_periods 12\nnr_throttled 5\nthrottled_time 99\nodd\n")
	if periods != 12 || throttled != 5 {
		t.Errorf("%d, %d", periods, throttled)
	}
}
