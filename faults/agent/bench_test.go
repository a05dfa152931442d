//go:build linux

package agent_test

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/unibus/unibus/faults/agent"
)

// shapedPaths are an impairment that the kernel hands over whole packets for, and one for which it cuts them up and copies them.
func shapedPaths() map[string]*agent.Impairment {
	return map[string]*agent.Impairment{
		"none": nil, "described": {Loss: 1, Seed: 1}, "copied": {Corrupt: 1, Seed: 1}, "rated": {RateKbit: 9_000_000, Seed: 1}, "late": {DelayMS: 2, Seed: 1},
	}
}

func (p *pod) impair(b testing.TB, i *agent.Impairment) {
	b.Helper()
	if i == nil {
		return
	}
	params := agent.PartitionParams{ID: "x", Peers: []string{peerAddr}, Out: true, Action: agent.ActionShape, Impairment: *i}
	if err := p.agent.call(agent.MethodPartition, params, nil); err != nil {
		b.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(agent.Lease / 4)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				_ = p.agent.call(agent.MethodRenew, nil, nil)
			}
		}
	}()
	b.Cleanup(func() { close(stop); <-done })
}

// BenchmarkShaperThroughput sends over TCP to a peer through the agent.
func BenchmarkShaperThroughput(b *testing.B) {
	const chunk = 1 << 20
	for name, i := range shapedPaths() {
		b.Run(name, func(b *testing.B) {
			p := newPod(b)
			var l net.Listener
			p.peer.do(b, func() (err error) { l, err = net.Listen("tcp4", net.JoinHostPort(peerAddr, "0")); return err })
			defer func() { _ = l.Close() }()
			got := make(chan int64, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					got <- 0
					return
				}
				n, _ := io.Copy(io.Discard, c)
				got <- n
			}()
			var c net.Conn
			p.node.do(b, func() (err error) { c, err = net.Dial("tcp4", l.Addr().String()); return err })
			p.impair(b, i)
			data := make([]byte, chunk)
			b.ResetTimer()
			began := time.Now()
			for range b.N {
				if _, err := c.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
			n := <-got
			b.ReportMetric(float64(n)*8/1e6/time.Since(began).Seconds(), "Mbit/s")
			if n != int64(b.N)*chunk {
				b.Errorf("%d bytes of %d arrived", n, int64(b.N)*chunk)
			}
		})
	}
}

// BenchmarkShaperLatency sends 5,000 datagrams a second to a peer through the agent: what it adds is the difference to "none".
func BenchmarkShaperLatency(b *testing.B) {
	const every = time.Second / 5000
	for name, i := range shapedPaths() {
		b.Run(name, func(b *testing.B) {
			p := newPod(b)
			from, to := p.udp(b, p.node, nodeAddr), p.udp(b, p.peer, peerAddr)
			p.impair(b, i)
			took := make(chan []time.Duration, 1)
			epoch := time.Now()
			go func() {
				var ways []time.Duration
				buf := make([]byte, 64)
				for {
					if _, _, err := to.ReadFrom(buf); err != nil {
						took <- ways
						return
					}
					ways = append(ways, time.Since(epoch)-time.Duration(binary.BigEndian.Uint64(buf)))
				}
			}()
			buf := make([]byte, 64)
			t := time.NewTicker(every)
			defer t.Stop()
			b.ResetTimer()
			began := time.Now()
			for n := range b.N {
				for time.Since(began) < time.Duration(n)*every { // a late tick is made up for
					<-t.C
				}
				binary.BigEndian.PutUint64(buf, uint64(time.Since(epoch)))
				if _, err := from.WriteTo(buf, to.LocalAddr()); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			_ = to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			ways := <-took
			if len(ways) < b.N*9/10 {
				b.Fatalf("%d of %d arrived", len(ways), b.N)
			}
			slices.Sort(ways)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
			reportMedian(b, ways)
		})
	}
}
