package docker_test

import (
	"encoding/json"
	"net"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// ahead tells by how much a node's clock is, as the daemon itself says.
func ahead(t *testing.T, n cluster.Node) time.Duration {
	t.Helper()
	_, body, err := observe.Get(t.Context(), n.Endpoints().Monitor+"/varz")
	if err != nil {
		t.Fatal(err)
	}
	var varz struct {
		Now time.Time `json:"now"`
	}
	if err := json.Unmarshal(body, &varz); err != nil || varz.Now.IsZero() {
		t.Fatalf("%v: %s", err, body)
	}
	return time.Until(varz.Now)
}

// TestStoppedAgentHeals stops the agent's container while it keeps a partition and a wrong clock: both end within the lease, and nobody has to do anything.
func TestStoppedAgentHeals(t *testing.T) {
	d, sub := backend(t)
	const run, wrong = "test-agent-stop", time.Hour
	c := newCluster(t, d, sub, run)
	startTogether(t, c)
	n1, n2 := c.Nodes()[0], c.Nodes()[1]
	at := func(n cluster.Node) cluster.Agent { return n.(cluster.Agented).Agent() }
	reached := func() bool {
		t.Helper()
		var r agent.DialResult
		p := agent.DialParams{Address: net.JoinHostPort(n1.(cluster.Agented).PeerAddr(), faults.RoutePort), TimeoutMS: 250}
		if err := at(n2).Call(t.Context(), agent.MethodDial, p, &r); err != nil {
			t.Fatal(err)
		}
		return r.Connected
	}
	until(t, "n1 is reached, and answers", func() bool {
		_, _, err := observe.Get(t.Context(), n1.Endpoints().Monitor+"/varz")
		return err == nil && reached()
	})
	cut := agent.PartitionParams{ID: "cut", Peers: []string{n2.(cluster.Agented).PeerAddr()}, In: true, Out: true}
	if err := at(n1).Call(t.Context(), agent.MethodPartition, cut, nil); err != nil {
		t.Fatal(err)
	}
	if err := at(n1).Call(t.Context(), agent.MethodClock, agent.ClockParams{OffsetSeconds: int64(wrong.Seconds())}, nil); err != nil {
		t.Fatal(err)
	}
	if reached() || ahead(t, n1) < wrong-time.Minute {
		t.Fatalf("not in force: n1 is reached, or its clock is only %v ahead", ahead(t, n1))
	}
	if err := at(n1).Call(t.Context(), agent.MethodRenew, nil, nil); err != nil { // a whole lease is ahead
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := engine(t).ContainerStop(t.Context(), containerID(t, run, "n1", "agent"), client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	stopped := time.Since(began)
	until(t, "n1 is reached again, with the right clock", func() bool { return reached() && ahead(t, n1) < time.Minute })
	took := time.Since(began)
	if took > stopped+agent.Lease+slackOfLease {
		t.Errorf("healed %v after docker stop began, which took %v", took, stopped)
	}
	t.Logf("docker stop took %v; partition and clock were healed %v after it began", stopped, took)
}

// slackOfLease is for seconds that the clock's expiry is rounded to, and a loaded machine.
const slackOfLease = 4 * time.Second

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick, late := time.NewTicker(20*time.Millisecond), time.After(bound)
	defer tick.Stop()
	for !f() {
		select {
		case <-late:
			t.Fatalf("not within %v: %s", bound, what)
		case <-tick.C:
		}
	}
}
