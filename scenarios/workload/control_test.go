package workload_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/scenarios/workload"
)

// settings is a control API with the contract's answers, over a map. Every tenth put is answered with an error that it is told to use.
type settings struct {
	mu   sync.Mutex
	rev  uint64
	data map[string]setting
	puts int
}

type setting struct {
	Name     string  `json:"name"`
	Value    string  `json:"value"`
	Revision uint64  `json:"revision"`
	Expect   *uint64 `json:"expect,omitempty"`
}

func (s *settings) put(r micro.Request) (any, string) {
	var in setting
	if err := json.Unmarshal(r.Data(), &in); err != nil || in.Name == "" || in.Value == "" {
		return nil, "invalid"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	switch s.puts % 20 {
	case 7:
		return nil, "unavailable"
	case 14:
		s.store(in) // it was done, and the answer says that nobody knows
		return nil, "unknown"
	}
	if in.Expect != nil && *in.Expect != s.data[in.Name].Revision {
		return nil, "conflict"
	}
	return map[string]uint64{"revision": s.store(in)}, ""
}

func (s *settings) store(in setting) uint64 {
	s.rev++
	s.data[in.Name] = setting{Name: in.Name, Value: in.Value, Revision: s.rev}
	return s.rev
}

func (s *settings) get(r micro.Request) (any, string) {
	var in setting
	if err := json.Unmarshal(r.Data(), &in); err != nil {
		return nil, "invalid"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.data[in.Name]; ok {
		return x, ""
	}
	return nil, "not_found"
}

func (s *settings) list(micro.Request) (any, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []setting{{Name: "unibus.replicas", Value: "3", Revision: 1}} // not the workload's own
	for _, x := range s.data {
		out = append(out, x)
	}
	return map[string]any{"settings": out}, ""
}

func (s *settings) serve(t *testing.T, nc *nats.Conn) {
	t.Helper()
	svc, err := micro.AddService(nc, micro.Config{Name: "unibus", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(micro.Request) (any, string){"put": s.put, "get": s.get, "list": s.list} {
		h := micro.HandlerFunc(func(r micro.Request) {
			out, code := f(r)
			if code != "" {
				_ = r.Error(code, "a sentence about it", nil)
				return
			}
			_ = r.RespondJSON(out)
		})
		if err := svc.AddEndpoint(name, h, micro.WithEndpointSubject("unibus.v1.settings."+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestControl(t *testing.T) {
	b := newBench(t, 1)
	b.c.start(t)
	nc, err := nats.Connect(b.c.nodes[0].Endpoints().Client, nats.Nkey(b.env.Identity.Public(), workload.Sign(b.env.Identity)))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	(&settings{data: map[string]setting{}}).serve(t, nc)
	h := drive(t, b, &workload.Control{Clients: 3, Keys: 3, Rate: 100}, func(ctx context.Context) {
		eventually(ctx, t, "300 operations", func() bool { ops, _, _, _ := b.env.Stats(); return ops >= 300 })
	})
	checkOps(t, h)
	items := checkDrain(t, h, "control/settings")
	if len(items) != 3 {
		t.Errorf("%d settings of its own: %+v", len(items), items)
	}
	words := map[string]history.Outcome{}
	kinds := map[history.Kind]int{}
	sent := map[string]history.Op{}
	for _, o := range h.Ops {
		kinds[o.Kind]++
		words[o.Err] = o.Outcome
		if o.Kind != history.Get {
			sent[o.Value] = o
		}
	}
	for _, x := range items {
		if o := sent[x.Value]; o.Key != x.Key || o.Outcome == history.Failed || (o.Outcome == history.OK && o.Seq != x.Seq) {
			t.Errorf("%+v comes from %+v", x, o)
		}
	}
	want := map[string]history.Outcome{"": history.OK, "conflict": history.Failed, "unavailable": history.Failed, "unknown": history.Unknown}
	if fmt.Sprint(words) != fmt.Sprint(want) {
		t.Errorf("outcomes %v, want %v", words, want)
	}
	if kinds[history.Put] == 0 || kinds[history.Create] == 0 || kinds[history.Update] == 0 || kinds[history.Get] == 0 {
		t.Errorf("kinds %v", kinds)
	}
}
