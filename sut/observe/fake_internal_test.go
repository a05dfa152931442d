package observe

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/unibus/unibus/sut/cluster"
)

// fakeNode answers as one node of a cluster would. The zero value's methods that are not here are never called.
type fakeNode struct {
	cluster.Node
	id     cluster.NodeID
	server *httptest.Server

	mu     sync.Mutex
	looks  int                   // how often /jsz was asked
	ready  bool                  //
	jsz    func(look int) string // the answer to the n-th look, from 1; "" for status 500
	status string                // of /statusz; "" where the kind has none
	frozen chan struct{}         // accepts and does not answer until it is closed
}

func (n *fakeNode) ID() cluster.NodeID { return n.id }

func (n *fakeNode) Endpoints() cluster.Endpoints {
	e := cluster.Endpoints{Ready: n.server.URL + "/healthz", Monitor: n.server.URL}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status != "" {
		e.Status = n.server.URL + "/statusz"
	}
	return e
}

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	frozen, ready, status, jsz := n.frozen, n.ready, n.status, n.jsz
	if r.URL.Path == "/jsz" {
		n.looks++
	}
	look := n.looks
	n.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-r.Context().Done():
		}
		return
	}
	body := ""
	switch r.URL.Path {
	case "/healthz":
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	case "/statusz":
		body = status
	case "/jsz":
		body = jsz(look)
	}
	if body == "" {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = fmt.Fprint(w, body) // the test's own client
}

func (n *fakeNode) set(f func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// fakeCluster is three ready nodes of plain nats-server that hold nothing and follow n1.
type fakeCluster struct {
	cluster.Cluster
	nodes []*fakeNode
}

func newCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{}
	for i := range 3 {
		n := &fakeNode{id: cluster.NodeID(fmt.Sprintf("n%d", i+1)), ready: true, jsz: always(meta("n1"))}
		n.server = httptest.NewServer(n)
		t.Cleanup(n.server.Close)
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *fakeCluster) Nodes() []cluster.Node {
	var ns []cluster.Node
	for _, n := range c.nodes {
		ns = append(ns, n)
	}
	return ns
}

func always(s string) func(int) string { return func(int) string { return s } }

// peer and copied are written as nats-server writes them.
type peer struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Lag     uint64 `json:"lag,omitempty"`
}

// copied is one node's copy of BUS/ORDERS at R3, or of another stream.
type copied struct {
	account, stream string
	replicas        int
	leader          string
	peers           []peer
	msgs            uint64
}

func meta(leader string, copies ...copied) string {
	type m = map[string]any
	byAccount := map[string][]m{}
	for _, c := range copies {
		byAccount[c.account] = append(byAccount[c.account], m{
			"name": c.stream, "cluster": m{"leader": c.leader, "replicas": c.peers}, "config": m{"num_replicas": c.replicas},
			"state": m{"messages": c.msgs, "bytes": 10 * c.msgs, "first_seq": 1, "last_seq": c.msgs},
		})
	}
	accounts := []m{}
	for name, streams := range byAccount {
		accounts = append(accounts, m{"name": name, "stream_detail": streams})
	}
	b, err := json.Marshal(m{"meta_cluster": m{"leader": leader, "cluster_size": 3}, "account_details": accounts})
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return string(b)
}

// orders is a node's copy of the stream: the leader knows whether the others are current, a follower does not.
func orders(node, leader string, msgs uint64, lagging ...string) copied {
	c := copied{account: "BUS", stream: "ORDERS", replicas: 3, leader: leader, msgs: msgs}
	for _, p := range []string{"n1", "n2", "n3"} {
		if p == node {
			continue
		}
		current := node == leader || p == leader
		for _, l := range lagging {
			current = current && p != l
		}
		c.peers = append(c.peers, peer{Name: p, Current: current})
	}
	return c
}
