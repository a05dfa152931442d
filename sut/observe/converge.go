package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// pollInterval is the time between two looks while waiting for convergence.
const pollInterval = 100 * time.Millisecond

// Progress is what has been seen of convergence: all nodes ready, every stream led, every replica current, every node's own copies equal,
// and for membershipd the six buckets at R and every node ready to be given new streams.
type Progress struct {
	OK        bool
	Ready     []string // nodes whose ready endpoint said 200 in the last look
	Buckets   int      // control-plane buckets that a node reported; the smallest number over the nodes
	Replicas  int      // the smallest configured R among them
	Current   bool
	Identical bool
	Why       string // the first thing that was missing in the last look
}

// status is the part of membershipd's /statusz that convergence needs.
type status struct {
	Peers []struct {
		Name      string `json:"name"`
		Placeable *bool  `json:"placeable"` // nil from builds that do not say it
	} `json:"peers"`
	Buckets []struct {
		Name     string `json:"name"`
		Leader   string `json:"leader"`
		Replicas int    `json:"replicas"`
		Current  bool   `json:"current"`
		Exists   bool   `json:"exists"`
	} `json:"buckets"`
}

// Want says what convergence means for a cluster.
type Want struct {
	Buckets  int // 0 for plain nats-server
	Replicas int // of the buckets
}

// WaitConverged looks again and again until everything has been seen, or ctx ends; then Progress says what was still missing.
// A stream that is being written to need not look equal on all nodes in one instant: it counts once it has been seen equal in some look
// since the wait began.
func WaitConverged(ctx context.Context, c cluster.Cluster, want Want) Progress {
	agreed := map[string]bool{}
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	var last Progress
	for {
		p := look(ctx, c, want, agreed)
		if p.OK || ctx.Err() == nil || last.Why == "" {
			last = p // a look that the deadline cut short says less than the one before
		}
		if p.OK {
			return p
		}
		select {
		case <-ctx.Done():
			return last
		case <-t.C:
		}
	}
}

func look(ctx context.Context, c cluster.Cluster, want Want, agreed map[string]bool) Progress {
	ready, statuses := askReady(ctx, c)
	p := Progress{Ready: ready}
	if n := len(c.Nodes()); len(ready) < n {
		p.Why = fmt.Sprintf("%d of %d nodes say that they are ready", len(ready), n)
		return p
	}
	if why := p.buckets(statuses, want); why != "" {
		p.Why = why
		return p
	}
	p.Current, p.Identical, p.Why = agreement(All(ctx, c), agreed)
	p.OK = p.Why == ""
	return p
}

// buckets fills in the control plane's part and says what is missing.
func (p *Progress) buckets(statuses map[cluster.NodeID]*status, want Want) string {
	if want.Buckets == 0 {
		return ""
	}
	p.Buckets, p.Replicas = -1, -1
	why := ""
	for id, s := range statuses {
		if s == nil {
			p.Buckets, p.Replicas = 0, 0
			return fmt.Sprintf("%s gives no status", id)
		}
		for _, peer := range s.Peers {
			if peer.Placeable != nil && !*peer.Placeable {
				why = fmt.Sprintf("%s cannot have new streams placed on %s yet", id, peer.Name)
			}
		}
		n := 0
		for _, b := range s.Buckets {
			if !b.Exists {
				continue
			}
			n++
			if p.Replicas < 0 || b.Replicas < p.Replicas {
				p.Replicas = b.Replicas
			}
			if b.Leader == "" || b.Replicas < want.Replicas {
				why = fmt.Sprintf("%s sees bucket %s at R%d with leader %q", id, b.Name, b.Replicas, b.Leader)
			}
		}
		if p.Buckets < 0 || n < p.Buckets {
			p.Buckets = n
		}
	}
	if p.Buckets < want.Buckets {
		return fmt.Sprintf("a node sees %d of %d buckets", p.Buckets, want.Buckets)
	}
	return why
}

func askReady(ctx context.Context, c cluster.Cluster) ([]string, map[cluster.NodeID]*status) {
	nodes := c.Nodes()
	ok := make([]bool, len(nodes))
	sts := make([]*status, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			code, _, err := Get(ctx, n.Endpoints().Ready)
			ok[i] = err == nil && code == http.StatusOK
			if u := n.Endpoints().Status; u != "" {
				sts[i] = getStatus(ctx, u)
			}
		})
	}
	wg.Wait()
	var ready []string
	m := map[cluster.NodeID]*status{}
	for i, n := range nodes {
		if ok[i] {
			ready = append(ready, string(n.ID()))
		}
		m[n.ID()] = sts[i]
	}
	return ready, m
}

func getStatus(ctx context.Context, url string) *status {
	_, body, err := Get(ctx, url)
	if err != nil {
		return nil
	}
	var s status
	if json.Unmarshal(body, &s) != nil {
		return nil
	}
	return &s
}

// agreement compares every node's own copies. It returns the first thing that does not hold.
func agreement(vs []View, agreed map[string]bool) (current, identical bool, why string) {
	copies := map[string][]*Stream{}
	for i := range vs {
		if vs[i].Err != nil {
			return false, false, fmt.Sprintf("%s does not answer: %v", vs[i].Node, vs[i].Err)
		}
		for j := range vs[i].Streams {
			s := &vs[i].Streams[j]
			copies[s.Target] = append(copies[s.Target], s)
		}
	}
	current, identical = true, true
	for target, ss := range copies {
		if agreed[target] {
			continue
		}
		cur, same, w := streamAgrees(target, ss)
		current, identical = current && cur, identical && same
		if w != "" && (why == "" || w < why) {
			why = w
		}
		agreed[target] = cur && same
	}
	return current, identical, why
}

func streamAgrees(target string, ss []*Stream) (current, same bool, why string) {
	first := ss[0]
	if r := first.Replicas; r > 0 && len(ss) < r {
		return false, false, fmt.Sprintf("%s: %d of %d copies exist", target, len(ss), r)
	}
	leaders := map[string]bool{}
	for _, s := range ss {
		leaders[s.Leader] = true
	}
	if first.Replicas > 1 && (len(leaders) != 1 || leaders[""]) {
		return false, false, fmt.Sprintf("%s: the nodes do not agree on a leader", target)
	}
	var lag []string
	for _, s := range ss {
		for _, p := range s.Peers {
			if !p.Current && p.Name != s.Leader && s.hasCurrentView() {
				lag = append(lag, p.Name)
			}
		}
	}
	if len(lag) > 0 {
		return false, false, fmt.Sprintf("%s: not current: %s", target, strings.Join(lag, ", "))
	}
	for _, s := range ss[1:] {
		if s.First != first.First || s.Last != first.Last || s.Msgs != first.Msgs || s.Bytes != first.Bytes {
			return true, false, fmt.Sprintf("%s: copies differ (%d..%d, %d messages against %d..%d, %d messages)",
				target, first.First, first.Last, first.Msgs, s.First, s.Last, s.Msgs)
		}
	}
	return true, true, ""
}

// hasCurrentView tells whether this view's peers carry the leader's knowledge: a follower's list marks all others "not current".
func (s *Stream) hasCurrentView() bool {
	for _, p := range s.Peers {
		if p.Name == s.Leader {
			return false // the leader lists the others, never itself
		}
	}
	return true
}
