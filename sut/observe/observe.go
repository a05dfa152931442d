// Package observe asks the nodes of a cluster, each for itself, what they hold and whom they follow: over nats-server's monitoring
// endpoints, which membershipd serves too. Nothing here goes through a client connection, where a leader would answer for the others.
// Standard library only.
package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// requestTimeout bounds one monitoring request: a paused node accepts connections and never answers.
const requestTimeout = 1500 * time.Millisecond

// maxBody is far above any answer of a three-node test cluster.
const maxBody = 32 << 20

// ErrNoLeader means that no running node says that it leads the group.
var ErrNoLeader = errors.New("no node says that it leads")

// ErrNoGroup means that no node knows the group.
var ErrNoGroup = errors.New("no node knows the group")

// Stream is one node's own view of one stream.
type Stream struct {
	Target   string // ACCOUNT/STREAM
	First    uint64
	Last     uint64
	Msgs     uint64
	Bytes    uint64
	Deleted  int
	Replicas int    // configured R
	Leader   string // as this node sees it; "" for none
	Peers    []Peer // the other members, as the node sees them; only a leader knows whether they are current
}

// Peer is another member of a stream's group.
type Peer struct {
	Name    string
	Current bool
	Offline bool
	Lag     uint64
}

// View is one node's own view of everything.
type View struct {
	Node       cluster.NodeID
	Err        error  // the node did not answer; nothing else is meaningful
	MetaLeader string // "" for none
	MetaSize   int
	Streams    []Stream
}

// Stream returns the view's stream of that name, or nil.
func (v *View) Stream(target string) *Stream {
	for i := range v.Streams {
		if v.Streams[i].Target == target {
			return &v.Streams[i]
		}
	}
	return nil
}

// jsz is the part of nats-server's /jsz answer that is used here.
type jsz struct {
	Meta *struct {
		Leader string `json:"leader"`
		Size   int    `json:"cluster_size"`
	} `json:"meta_cluster"`
	Accounts []struct {
		Name    string `json:"name"`
		Streams []struct {
			Name    string `json:"name"`
			Cluster *struct {
				Leader   string `json:"leader"`
				Replicas []struct {
					Name    string `json:"name"`
					Current bool   `json:"current"`
					Offline bool   `json:"offline"`
					Lag     uint64 `json:"lag"`
				} `json:"replicas"`
			} `json:"cluster"`
			Config *struct {
				Replicas int `json:"num_replicas"`
			} `json:"config"`
			State struct {
				Msgs    uint64 `json:"messages"`
				Bytes   uint64 `json:"bytes"`
				First   uint64 `json:"first_seq"`
				Last    uint64 `json:"last_seq"`
				Deleted int    `json:"num_deleted"`
			} `json:"state"`
		} `json:"stream_detail"`
	} `json:"account_details"`
}

// client keeps no connections: a kept one to a node that was killed, or paused, would answer for the wrong life.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Get fetches a URL with a bound and returns status and body. An error means that there was no answer.
func Get(ctx context.Context, url string) (int, []byte, error) {
	code, _, body, err := get(ctx, url)
	return code, body, err
}

// Date is the time of whoever answers a GET of url, in whole seconds, as every answer in HTTP says it.
func Date(ctx context.Context, url string) (time.Time, error) {
	_, header, _, err := get(ctx, url)
	if err != nil {
		return time.Time{}, err
	}
	t, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("ask %s: read its date: %w", url, err)
	}
	return t, nil
}

func get(ctx context.Context, url string) (code int, header http.Header, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("ask %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("ask %s: %w", url, err)
	}
	defer func() { _ = resp.Body.Close() }() // read-only: nothing is lost
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody)); err != nil {
		return 0, nil, nil, fmt.Errorf("ask %s: %w", url, err)
	}
	return resp.StatusCode, resp.Header, body, nil
}

// Metric reads one series without labels from what membershipd offers to Prometheus.
func Metric(ctx context.Context, n cluster.Node, name string) (float64, error) {
	base, ok := strings.CutSuffix(n.Endpoints().Status, "/statusz")
	if !ok {
		return 0, fmt.Errorf("read %s: the node has no metrics", name)
	}
	code, body, err := Get(ctx, base+"/metrics")
	if err != nil || code != http.StatusOK {
		return 0, errors.Join(fmt.Errorf("read %s: HTTP status %d", name, code), err)
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			x, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			return x, nil
		}
	}
	return 0, fmt.Errorf("read %s: the node does not offer it", name)
}

// Node asks one node for its own view.
func Node(ctx context.Context, n cluster.Node) View {
	v := View{Node: n.ID()}
	code, body, err := Get(ctx, n.Endpoints().Monitor+"/jsz?accounts=true&streams=true&config=true")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("ask %s for /jsz: status %d", n.ID(), code)
	}
	if err != nil {
		v.Err = err
		return v
	}
	var j jsz
	if err := json.Unmarshal(body, &j); err != nil {
		v.Err = fmt.Errorf("read /jsz of %s: %w", n.ID(), err)
		return v
	}
	fill(&v, &j)
	return v
}

func fill(v *View, j *jsz) {
	if j.Meta != nil {
		v.MetaLeader, v.MetaSize = j.Meta.Leader, j.Meta.Size
	}
	for _, a := range j.Accounts {
		for _, s := range a.Streams {
			st := Stream{Target: a.Name + "/" + s.Name, First: s.State.First, Last: s.State.Last, Msgs: s.State.Msgs, Bytes: s.State.Bytes, Deleted: s.State.Deleted}
			if s.Config != nil {
				st.Replicas = s.Config.Replicas
			}
			if s.Cluster != nil {
				st.Leader = s.Cluster.Leader
				for _, p := range s.Cluster.Replicas {
					st.Peers = append(st.Peers, Peer{Name: p.Name, Current: p.Current, Offline: p.Offline, Lag: p.Lag})
				}
			}
			v.Streams = append(v.Streams, st)
		}
	}
	slices.SortFunc(v.Streams, func(a, b Stream) int { return strings.Compare(a.Target, b.Target) })
}

// All asks every node at once; the views are in the cluster's order.
func All(ctx context.Context, c cluster.Cluster) []View {
	nodes := c.Nodes()
	vs := make([]View, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { vs[i] = Node(ctx, n) })
	}
	wg.Wait()
	return vs
}

// Leader finds who leads a group: "meta", or a stream as "ACCOUNT/STREAM". Only a node that says so itself counts; where two do
// (one of them cut off and not yet aware of it), the one that more nodes follow.
func Leader(ctx context.Context, c cluster.Cluster, group string) (cluster.NodeID, error) {
	return leaderOf(All(ctx, c), group)
}

func leaderOf(vs []View, group string) (cluster.NodeID, error) {
	votes, self, known := map[string]int{}, map[string]bool{}, false
	for i := range vs {
		l, ok := vs[i].leader(group)
		known = known || ok
		if !ok || l == "" {
			continue
		}
		votes[l]++
		if l == string(vs[i].Node) {
			self[l] = true
		}
	}
	best := ""
	for l := range self {
		if best == "" || votes[l] > votes[best] || votes[l] == votes[best] && l < best {
			best = l
		}
	}
	switch {
	case !known:
		return "", fmt.Errorf("%s: %w", group, ErrNoGroup)
	case best == "":
		return "", fmt.Errorf("%s: %w", group, ErrNoLeader)
	}
	return cluster.NodeID(best), nil
}

func (v *View) leader(group string) (string, bool) {
	if v.Err != nil {
		return "", false
	}
	if group == "meta" {
		return v.MetaLeader, true
	}
	s := v.Stream(group)
	if s == nil {
		return "", false
	}
	return s.Leader, true
}

// Peers lists the nodes that hold a replica of a group, leader included, in order; for "meta" all nodes.
// A node that does not answer counts if another member names it.
func Peers(ctx context.Context, c cluster.Cluster, group string) ([]cluster.NodeID, error) {
	if group == "meta" {
		return cluster.IDs(c), nil
	}
	found := map[cluster.NodeID]bool{}
	for _, v := range All(ctx, c) {
		s := v.Stream(group)
		if v.Err != nil || s == nil {
			continue
		}
		found[v.Node] = true
		for _, p := range s.Peers {
			found[cluster.NodeID(p.Name)] = true
		}
	}
	var ids []cluster.NodeID
	for _, id := range cluster.IDs(c) {
		if found[id] {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: %w", group, ErrNoGroup)
	}
	return ids, nil
}
