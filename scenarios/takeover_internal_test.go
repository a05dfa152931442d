package scenarios

import (
	"testing"

	"github.com/unibus/unibus/sut/cluster"
)

func TestTakeover(t *testing.T) {
	for name, c := range map[string]struct {
		looks []cluster.NodeID // one a second, from 1
		want  takeover
	}{
		"nobody else":         {[]cluster.NodeID{"n1", "n1"}, takeover{looks: 2, seconds: 2, was: "n1"}},
		"another":             {[]cluster.NodeID{"n1", "n2", "n2"}, takeover{looks: 3, seconds: 2, moved: true, changes: 1, was: "n2"}},
		"after an election":   {[]cluster.NodeID{"n1", "", "", "n3"}, takeover{looks: 4, leaderless: 2, seconds: 4, moved: true, changes: 1, was: "n3"}},
		"there and back":      {[]cluster.NodeID{"n2", "", "n1"}, takeover{looks: 3, leaderless: 1, seconds: 1, moved: true, changes: 2, was: "n1"}},
		"the same once more":  {[]cluster.NodeID{"", "n1"}, takeover{looks: 2, leaderless: 1, seconds: 2, was: "n1"}},
		"nobody leads at all": {[]cluster.NodeID{"", ""}, takeover{looks: 2, leaderless: 2, seconds: 2, was: "n1"}},
	} {
		got := takeover{was: "n1"}
		for i, id := range c.looks {
			got.see(id, float64(i+1))
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
