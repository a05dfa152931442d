package workload_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
	"github.com/unibus/unibus/sut/cluster"
)

// fixed is a cluster of which only the health endpoints matter.
type fixed struct {
	cluster.Cluster
	nodes []cluster.Node
}

func (f fixed) Nodes() []cluster.Node { return f.nodes }

type fixedNode struct {
	cluster.Node
	id cluster.NodeID
	ep cluster.Endpoints
}

func (f fixedNode) ID() cluster.NodeID           { return f.id }
func (f fixedNode) Endpoints() cluster.Endpoints { return f.ep }

// A node that hangs and one that is gone are sampled as often as a healthy one, and answer 0.
func TestHealthSampler(t *testing.T) {
	stop := make(chan struct{})
	var hung atomic.Int64
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }))
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, good.URL, http.StatusFound)
			return
		}
		http.Error(w, "no quorum"+strings.Repeat(".", 1000), http.StatusServiceUnavailable)
	}))
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hung.Add(1)
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	defer good.Close()
	defer bad.Close()
	defer hangs.Close()
	defer close(stop)

	c := fixed{nodes: []cluster.Node{
		fixedNode{id: "good", ep: cluster.Endpoints{Live: good.URL, Ready: good.URL}},
		fixedNode{id: "bad", ep: cluster.Endpoints{Live: bad.URL + "/moved", Ready: bad.URL}},
		fixedNode{id: "hangs", ep: cluster.Endpoints{Live: hangs.URL, Ready: hangs.URL}},
		fixedNode{id: "gone", ep: cluster.Endpoints{Live: gone.URL, Ready: gone.URL}},
	}}
	rec, err := history.NewRecorder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	e := &workload.Env{Cluster: c, Recorder: rec}
	w := &workload.HealthSampler{Hz: 12}
	if err := w.Setup(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	const span = 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	if err := w.Run(ctx, e); err != nil {
		t.Fatal(err)
	}
	type key struct{ node, probe string }
	want := map[key]int{
		{"good", "live"}: 200, {"good", "ready"}: 200, {"bad", "live"}: 302, {"bad", "ready"}: 503,
		{"hangs", "live"}: 0, {"hangs", "ready"}: 0, {"gone", "live"}: 0, {"gone", "ready"}: 0,
	}
	n := map[key]int{}
	rec.Last(func(h *history.History) {
		for _, s := range h.Health {
			k := key{s.Node, s.Probe}
			n[k]++
			if s.Code != want[k] {
				t.Errorf("%v said %d, want %d", k, s.Code, want[k])
			}
			if s.At <= 0 || s.Took <= 0 || s.Took > int64(span) || len(s.Reason) > 300 {
				t.Errorf("sample %+v", s)
			}
		}
	})
	for k := range want {
		if hz := float64(n[k]) / span.Seconds(); hz < 3 { // 12 are asked for, and a busy machine gives fewer
			t.Errorf("%v was sampled at %.1f Hz", k, hz)
		}
	}
	if hung.Load() == 0 {
		t.Error("the hanging node was never asked")
	}
}

func TestHealthSamplerWithoutEndpoints(t *testing.T) {
	w := &workload.HealthSampler{}
	e := &workload.Env{Cluster: fixed{}}
	if err := w.Setup(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context(), e); err == nil {
		t.Error("nothing to sample is not an error")
	}
}
