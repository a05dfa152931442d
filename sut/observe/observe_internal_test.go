package observe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// within is a bound that only a hang reaches; shortLook is enough for a look at nodes that answer.
const (
	within    = time.Minute
	shortLook = 300 * time.Millisecond
)

func TestLeader(t *testing.T) {
	stream := func(leader string) copied {
		return copied{account: "BUS", stream: "ORDERS", replicas: 3, leader: leader}
	}
	for name, c := range map[string]struct {
		jsz   [3]string // of n1, n2, n3; "" for a node that does not answer
		group string
		want  cluster.NodeID
		err   error
	}{
		"meta":                        {[3]string{meta("n2"), meta("n2"), meta("n2")}, "meta", "n2", nil},
		"meta, nobody":                {[3]string{meta(""), meta(""), meta("")}, "meta", "", ErrNoLeader},
		"meta, only others say so":    {[3]string{meta("n2"), "", meta("n2")}, "meta", "", ErrNoLeader},
		"meta, it does not say so":    {[3]string{meta("n2"), meta(""), meta("n2")}, "meta", "", ErrNoLeader},
		"meta, only it says so":       {[3]string{meta(""), meta("n2"), ""}, "meta", "n2", nil},
		"meta, two say so":            {[3]string{meta("n1"), meta("n2"), meta("n2")}, "meta", "n2", nil},
		"meta, two, first followed":   {[3]string{meta("n1"), meta("n1"), meta("n3")}, "meta", "n1", nil},
		"meta, two, none followed":    {[3]string{"", meta("n2"), meta("n3")}, "meta", "n2", nil}, // the same for the same answers
		"meta, three say so":          {[3]string{meta("n1"), meta("n2"), meta("n3")}, "meta", "n1", nil},
		"meta, a stranger":            {[3]string{meta("n9"), meta("n9"), meta("n9")}, "meta", "", ErrNoLeader},
		"meta, nobody answers":        {[3]string{}, "meta", "", ErrNoGroup},
		"stream":                      {[3]string{meta("n1", stream("n3")), meta("n1", stream("n3")), meta("n1", stream("n3"))}, "BUS/ORDERS", "n3", nil},
		"stream, on one node only":    {[3]string{meta("n1"), meta("n1", stream("n2")), meta("n1")}, "BUS/ORDERS", "n2", nil},
		"stream, none":                {[3]string{meta("n1", stream("")), meta("n1", stream("")), meta("n1")}, "BUS/ORDERS", "", ErrNoLeader},
		"stream, two":                 {[3]string{meta("", stream("n1")), meta("n2", stream("n2")), meta("n2", stream("n2"))}, "BUS/ORDERS", "n2", nil},
		"stream, unknown":             {[3]string{meta("n1", stream("n1")), meta("n1"), meta("n1")}, "BUS/OTHER", "", ErrNoGroup},
		"stream, of another account":  {[3]string{meta("n1", stream("n1")), meta("n1"), meta("n1")}, "CONTROL/ORDERS", "", ErrNoGroup},
		"stream, its node is silent":  {[3]string{"", meta("n2", stream("n1")), meta("n2", stream("n1"))}, "BUS/ORDERS", "", ErrNoLeader},
		"stream, answers are garbage": {[3]string{"{", "[]", "null"}, "BUS/ORDERS", "", ErrNoGroup},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t)
			for i, n := range cl.nodes {
				n.jsz = always(c.jsz[i])
			}
			got, err := Leader(t.Context(), cl, c.group)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("leader %q, error %v; want %q, %v", got, err, c.want, c.err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), c.group+": ") {
				t.Errorf("the error does not name the group: %v", err)
			}
		})
	}
}

func TestPeers(t *testing.T) {
	cl := newCluster(t)
	cl.nodes[0].jsz = always(meta("n1", orders("n1", "n1", 5)))
	cl.nodes[1].jsz = always("")
	cl.nodes[2].jsz = always(meta("n1", copied{account: "BUS", stream: "ONE", replicas: 1, leader: "n3"}))
	for group, want := range map[string][]cluster.NodeID{
		"meta": {"n1", "n2", "n3"}, "BUS/ORDERS": {"n1", "n2", "n3"}, "BUS/ONE": {"n3"},
	} {
		if got, err := Peers(t.Context(), cl, group); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", group, got, err, want)
		}
	}
	if got, err := Peers(t.Context(), cl, "BUS/NONE"); !errors.Is(err, ErrNoGroup) || got != nil {
		t.Errorf("an unknown group: %v, %v", got, err)
	}
}

func TestNode(t *testing.T) {
	cl := newCluster(t)
	cl.nodes[0].jsz = always(meta("n2", orders("n1", "n1", 7, "n3"), copied{account: "A", stream: "S", replicas: 1, msgs: 2}))
	v := Node(t.Context(), cl.nodes[0])
	s := v.Stream("BUS/ORDERS")
	if v.Err != nil || v.Node != "n1" || v.MetaLeader != "n2" || v.MetaSize != 3 || len(v.Streams) != 2 || v.Streams[0].Target != "A/S" || s == nil {
		t.Fatalf("view %+v", v)
	}
	if s.Msgs != 7 || s.Last != 7 || s.First != 1 || s.Bytes != 70 || s.Replicas != 3 || s.Leader != "n1" || len(s.Peers) != 2 || !s.Peers[0].Current || s.Peers[1].Current {
		t.Errorf("stream %+v", s)
	}
	if v.Stream("BUS/NONE") != nil {
		t.Error("a stream that is not there was found")
	}
	for name, jsz := range map[string]string{"status 500": "", "half an answer": `{"meta_cluster":`, "another answer": `"no"`} {
		cl.nodes[0].set(func(n *fakeNode) { n.jsz = always(jsz) })
		if v := Node(t.Context(), cl.nodes[0]); v.Err == nil || v.Node != "n1" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	cl.nodes[0].server.Close()
	if v := Node(t.Context(), cl.nodes[0]); v.Err == nil {
		t.Errorf("a node that is gone: %+v", v)
	}
}

func TestAgreement(t *testing.T) {
	view := func(node string, copies ...copied) View {
		v := View{Node: cluster.NodeID(node)}
		for _, c := range copies {
			s := Stream{Target: c.account + "/" + c.stream, First: 1, Last: c.msgs, Msgs: c.msgs, Bytes: 10 * c.msgs, Replicas: c.replicas, Leader: c.leader}
			for _, p := range c.peers {
				s.Peers = append(s.Peers, Peer{Name: p.Name, Current: p.Current})
			}
			v.Streams = append(v.Streams, s)
		}
		return v
	}
	all := func(leaders [3]string, msgs [3]uint64, lagging ...string) (vs []View) {
		for i, n := range []string{"n1", "n2", "n3"} {
			vs = append(vs, view(n, orders(n, leaders[i], msgs[i], lagging...)))
		}
		return vs
	}
	n1 := [3]string{"n1", "n1", "n1"}
	one := copied{account: "BUS", stream: "ONE", replicas: 1, leader: "", msgs: 3}
	silent := all(n1, [3]uint64{5, 5, 5})
	silent[2] = View{Node: "n3", Err: errors.New("connection refused")}
	for name, c := range map[string]struct {
		views              []View
		current, identical bool
		why                string
	}{
		"nothing there":             {[]View{view("n1"), view("n2"), view("n3")}, true, true, ""},
		"all alike":                 {all(n1, [3]uint64{5, 5, 5}), true, true, ""},
		"empty":                     {all(n1, [3]uint64{}), true, true, ""},
		"one replica lags":          {all(n1, [3]uint64{5, 5, 5}, "n3"), false, false, "BUS/ORDERS: not current: n3"},
		"both lag":                  {all(n1, [3]uint64{5, 5, 5}, "n2", "n3"), false, false, "BUS/ORDERS: not current: n2, n3"},
		"a copy is missing":         {all(n1, [3]uint64{5, 5, 5})[:2], false, false, "BUS/ORDERS: 2 of 3 copies exist"},
		"copies differ":             {all(n1, [3]uint64{5, 5, 4}), true, false, "BUS/ORDERS: copies differ (1..5, 5 messages against 1..4, 4 messages)"},
		"no leader":                 {all([3]string{}, [3]uint64{5, 5, 5}), false, false, "BUS/ORDERS: the nodes do not agree on a leader"},
		"two leaders":               {all([3]string{"n1", "n2", "n2"}, [3]uint64{5, 5, 5}), false, false, "BUS/ORDERS: the nodes do not agree on a leader"},
		"one does not know":         {all([3]string{"n1", "n1", ""}, [3]uint64{5, 5, 5}), false, false, "BUS/ORDERS: the nodes do not agree on a leader"},
		"one does not answer":       {silent, false, false, "n3 does not answer: connection refused"},
		"R1":                        {[]View{view("n1"), view("n2", one), view("n3")}, true, true, ""},
		"the first of two is named": {[]View{view("n1", orders("n1", "n1", 1), copied{account: "A", stream: "S", replicas: 2}), view("n2"), view("n3")}, false, false, "A/S: 1 of 2 copies exist"},
	} {
		t.Run(name, func(t *testing.T) {
			current, identical, why := agreement(c.views, map[string]bool{})
			if current != c.current || identical != c.identical || why != c.why {
				t.Errorf("current %t, identical %t, %q; want %t, %t, %q", current, identical, why, c.current, c.identical, c.why)
			}
		})
	}
	t.Run("seen equal once", func(t *testing.T) {
		agreed := map[string]bool{}
		if _, _, why := agreement(all(n1, [3]uint64{5, 5, 5}), agreed); why != "" {
			t.Errorf("alike: %q", why)
		}
		if _, _, why := agreement(all(n1, [3]uint64{9, 8, 7}), agreed); why != "" {
			t.Errorf("written to since: %q", why)
		}
		if _, _, why := agreement(silent, agreed); why == "" {
			t.Error("a node that does not answer is not converged, whatever was seen before")
		}
	})
}

// statusz is what membershipd says of its buckets.
func statusz(names int, change func(i int, b map[string]any)) string {
	var bs []string
	for i := range names {
		b := map[string]any{"leader": "n1", "replicas": 3, "exists": true}
		if change != nil {
			change(i, b)
		}
		bs = append(bs, fmt.Sprintf(`{"name":"UNIBUS_%d","leader":%q,"replicas":%d,"current":true,"exists":%t}`, i, b["leader"], b["replicas"], b["exists"]))
	}
	return `{"buckets":[` + strings.Join(bs, ",") + `]}`
}

func TestWaitConverged(t *testing.T) {
	six := Want{Buckets: 6, Replicas: 3}
	for name, c := range map[string]struct {
		want    Want
		prepare func(*fakeCluster)
		ok      bool
		why     string
	}{
		"plain":       {Want{}, nil, true, ""},
		"membershipd": {six, func(c *fakeCluster) { c.everywhere(statusz(6, nil)) }, true, ""},
		"one is not ready": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, nil))
			c.nodes[1].ready = false
		}, false, "2 of 3 nodes say that they are ready"},
		"no status": {six, nil, false, "gives no status"},
		"status is garbage": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, nil))
			c.nodes[2].status = "<html>"
		}, false, "n3 gives no status"},
		"a bucket is missing on one": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, nil))
			c.nodes[2].status = statusz(5, nil)
		}, false, "a node sees 5 of 6 buckets"},
		"a bucket is known and not there": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, func(i int, b map[string]any) { b["exists"] = i != 3 }))
		}, false, "a node sees 5 of 6 buckets"},
		"too few replicas": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, func(i int, b map[string]any) {
				if i == 4 {
					b["replicas"] = 1
				}
			}))
		}, false, `sees bucket UNIBUS_4 at R1 with leader "n1"`},
		"R1 is wanted": {Want{Buckets: 6, Replicas: 1}, func(c *fakeCluster) {
			c.everywhere(statusz(6, func(_ int, b map[string]any) { b["replicas"] = 1 }))
		}, true, ""},
		"no leader": {six, func(c *fakeCluster) {
			c.everywhere(statusz(6, func(i int, b map[string]any) {
				if i == 0 {
					b["leader"] = ""
				}
			}))
		}, false, `sees bucket UNIBUS_0 at R3 with leader ""`},
		"copies differ": {Want{}, func(c *fakeCluster) {
			for i, n := range c.nodes {
				n.jsz = always(meta("n1", orders(string(n.id), "n1", uint64(5+i))))
			}
		}, false, "BUS/ORDERS: copies differ"},
		"alike in one look": {Want{}, func(c *fakeCluster) {
			for _, n := range c.nodes {
				n.jsz = func(look int) string { // written to: the followers are behind in each look but the third
					if look == 3 || n.id == "n1" {
						return meta("n1", orders(string(n.id), "n1", uint64(10*look)))
					}
					return meta("n1", orders(string(n.id), "n1", uint64(10*look-1)))
				}
			}
		}, true, ""},
		"never two streams in the same look": {Want{}, func(c *fakeCluster) {
			for _, n := range c.nodes {
				n.jsz = func(look int) string { // alike in turn
					a, b := orders(string(n.id), "n1", 5), orders(string(n.id), "n1", 5)
					b.stream = "OTHER"
					if n.id == "n2" && look%2 == 0 {
						a.msgs = 4
					} else if n.id == "n2" {
						b.msgs = 4
					}
					return meta("n1", a, b)
				}
			}
		}, true, ""},
		"one does not tell what it holds": {Want{}, func(c *fakeCluster) { c.nodes[0].jsz = always("") }, false, "n1 does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			cl := newCluster(t)
			if c.prepare != nil {
				c.prepare(cl)
			}
			bound := within
			if !c.ok {
				bound = 3 * shortLook
			}
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			p := WaitConverged(ctx, cl, c.want)
			if p.OK != c.ok || !strings.Contains(p.Why, c.why) || c.ok != (p.Why == "") {
				t.Errorf("%+v; want ok %t, %q", p, c.ok, c.why)
			}
			if c.ok && (!p.Current || !p.Identical || len(p.Ready) != 3 || p.Buckets != c.want.Buckets || p.Replicas != c.want.Replicas) {
				t.Errorf("it says that all is well, and %+v", p)
			}
		})
	}
}

func (c *fakeCluster) everywhere(status string) {
	for _, n := range c.nodes {
		n.status = status
	}
}

// TestFrozenNode: a paused process accepts connections and never answers. Nobody waits for it longer than a request may take.
func TestFrozenNode(t *testing.T) {
	cl := newCluster(t)
	thaw := make(chan struct{})
	cl.nodes[1].frozen = thaw
	took := func(f func()) time.Duration {
		began := time.Now()
		f()
		return time.Since(began)
	}
	const patience = 10 * requestTimeout // one request's bound, on a machine that has other things to do
	if d := took(func() {
		if l, err := Leader(t.Context(), cl, "meta"); l != "n1" || err != nil {
			t.Errorf("leader %q, %v", l, err)
		}
	}); d < requestTimeout/2 || d > patience {
		t.Errorf("asking for the leader took %v", d)
	}
	if d := took(func() {
		vs := All(t.Context(), cl)
		if vs[0].Err != nil || vs[1].Err == nil || vs[2].Err != nil {
			t.Errorf("views: %v, %v, %v", vs[0].Err, vs[1].Err, vs[2].Err)
		}
	}); d > patience {
		t.Errorf("asking all took %v", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), shortLook)
	defer cancel()
	if d := took(func() {
		if p := WaitConverged(ctx, cl, Want{}); p.OK || p.Why == "" {
			t.Errorf("converged with a frozen node: %+v", p)
		}
	}); d > patience {
		t.Errorf("a wait of %v took %v", shortLook, d)
	}
	cl.nodes[1].set(func(n *fakeNode) { n.frozen = nil })
	close(thaw)
	ctx, cancel = context.WithTimeout(t.Context(), within)
	defer cancel()
	if p := WaitConverged(ctx, cl, Want{}); !p.OK {
		t.Errorf("after it goes on: %+v", p)
	}
}

// TestConvergesWhenTheLastNodeGetsReady: the wait looks again.
func TestConvergesWhenTheLastNodeGetsReady(t *testing.T) {
	cl := newCluster(t)
	cl.nodes[2].ready = false
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	done := make(chan Progress, 1)
	go func() { done <- WaitConverged(ctx, cl, Want{}) }()
	first, stop := context.WithTimeout(t.Context(), shortLook)
	defer stop()
	select {
	case p := <-done:
		t.Fatalf("it ended with a node that is not ready: %+v", p)
	case <-first.Done():
	}
	cl.nodes[2].set(func(n *fakeNode) { n.ready = true })
	if p := <-done; !p.OK {
		t.Errorf("%+v", p)
	}
}

func TestGetHasABound(t *testing.T) {
	cl := newCluster(t)
	if code, _, err := Get(t.Context(), cl.nodes[0].Endpoints().Ready); err != nil || code != http.StatusOK {
		t.Errorf("status %d, %v", code, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Get(ctx, cl.nodes[0].Endpoints().Ready); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller has given up: %v", err)
	}
	if _, _, err := Get(t.Context(), "://"); err == nil {
		t.Error("no error for what is no address")
	}
}

func TestDate(t *testing.T) {
	there := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	said := there.Format(http.TimeFormat)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", said)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	if got, err := Date(t.Context(), srv.URL); err != nil || !got.Equal(there) {
		t.Errorf("%v, %v", got, err)
	}
	said = "yesterday"
	if got, err := Date(t.Context(), srv.URL); err == nil {
		t.Errorf("%q is the date %v", said, got)
	}
	srv.Close()
	if _, err := Date(t.Context(), srv.URL); err == nil {
		t.Error("nobody answers, and there is a date")
	}
}
