package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// How a cluster came to be down before a cold start.
const (
	afterFirst = "first start"       // it never ran: empty stores
	afterClean = "clean stop of all" // SIGTERM
	afterKill  = "SIGKILL of all"
	afterWipe  = "clean stop, one volume wiped"
)

// startCase is one cold start.
type startCase struct {
	order   []cluster.NodeID
	stagger time.Duration
	after   string
}

func (c startCase) String() string {
	return fmt.Sprintf("%s, then %s %v apart", c.after, joinIDs(c.order), c.stagger)
}

var (
	startOrders = [][]cluster.NodeID{
		{"n1", "n2", "n3"}, {"n1", "n3", "n2"}, {"n2", "n1", "n3"}, {"n2", "n3", "n1"}, {"n3", "n1", "n2"}, {"n3", "n2", "n1"},
	}
	staggers  = []time.Duration{0, time.Second, 5 * time.Second}
	stopKinds = []string{afterClean, afterKill, afterWipe}
)

// coldStart starts the cluster in every order, with every stagger, after every sort of stop. The default takes a sample in which
// each of them occurs; FULL takes the whole product.
func coldStart() Scenario {
	var first []startCase
	var later []startCase
	return Scenario{
		Name: "cold-start", Family: "cold-start", Seconds: 130,
		Doc:   "every start order, stagger and sort of stop: converged each time without a human, all data from before still there",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(p *Plan) []Step {
			first, later = startCases(p.Rand, p.Full)
			var steps []Step
			for i, c := range first {
				if i > 0 {
					steps = append(steps, emptyAll())
				}
				steps = append(steps, coldStartOf(i, c)...)
			}
			steps = append(steps, loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin))
			for i, c := range later {
				steps = append(steps, bringDown(c)...)
				steps = append(steps, coldStartOf(len(first)+i, c)...)
				steps = append(steps, moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			n := len(first) + len(later)
			cs := []reports.Claim{
				convergedEach(r), streamIntact(100), kvLinear(100), kvDurable(), copiesAgree(dataCopies(r)...),
				exercised(check.Preconditions{MinOps: 300, Drained: drained(r), Marks: caseMarks(n)}),
			}
			return append(cs, settingsIntact(r)...)
		},
	}
}

// startCases draws the sample, or lists the product.
func startCases(rng *rand.Rand, full bool) (first, later []startCase) {
	if full {
		for _, o := range startOrders {
			for _, s := range staggers {
				first = append(first, startCase{o, s, afterFirst})
				for _, k := range stopKinds {
					later = append(later, startCase{o, s, k})
				}
			}
		}
		return first, later
	}
	orders := append([][]cluster.NodeID(nil), startOrders...)
	rng.Shuffle(len(orders), func(i, j int) { orders[i], orders[j] = orders[j], orders[i] })
	kinds := []string{afterFirst, afterClean, afterKill, afterWipe, afterClean, afterKill}
	spread := append(append([]time.Duration(nil), staggers...), staggers...)
	rng.Shuffle(len(spread), func(i, j int) { spread[i], spread[j] = spread[j], spread[i] })
	for i, o := range orders {
		c := startCase{o, spread[i], kinds[i]}
		if c.after == afterFirst {
			first = append(first, c)
		} else {
			later = append(later, c)
		}
	}
	return first, later
}

func caseMark(i int) string { return fmt.Sprintf("start-%d", i+1) }

func caseMarks(n int) []string {
	var ms []string
	for i := range n {
		ms = append(ms, caseMark(i))
	}
	return ms
}

func coldStartOf(i int, c startCase) []Step {
	return []Step{mark(caseMark(i)), start(c.stagger, c.order...), converge(fmt.Sprintf("start %d: %v", i+1, c))}
}

// bringDown stops the cluster the way that the case wants. A volume is wiped only when its peers hold everything that was acked: a replica
// that comes back empty may not be counted on by Raft, and losing an entry that only it and one other had would be nobody's bug.
func bringDown(c startCase) []Step {
	switch c.after {
	case afterClean:
		return []Step{stopAll(syscall.SIGTERM)}
	case afterKill:
		return []Step{stopAll(syscall.SIGKILL)}
	}
	victim := c.order[len(c.order)-1]
	return []Step{
		pauseLoad(), converge("before the wipe"), stopAll(syscall.SIGTERM), wipe(victim), resumeLoad(),
	}
}

// wipe empties a stopped node's volume and records what was there.
func wipe(id cluster.NodeID) Step {
	return Step{"wipe the volume of " + string(id), func(ctx context.Context, r *Run) error { return r.wipe(ctx, r.node(id)) }}
}

func (r *Run) wipe(ctx context.Context, n cluster.Node) error {
	st, ok := n.(cluster.Storage)
	if !ok {
		return fmt.Errorf("%s has no storage that can be wiped", n.ID())
	}
	was, err := st.Wipe(ctx)
	if err != nil {
		return fmt.Errorf("wipe %s: %w", n.ID(), err)
	}
	r.Rec.Event(history.Event{Kind: "node", Name: "wiped", Nodes: []string{string(n.ID())},
		Data: map[string]any{"files": float64(was.Files), "bytes": float64(was.Bytes)}})
	return nil
}

// emptyAll makes the cluster one that never ran.
func emptyAll() Step {
	return Step{"kill all nodes and wipe all volumes", func(ctx context.Context, r *Run) error {
		if err := r.stopAll(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		return r.eachNode(func(n cluster.Node) error { return r.wipe(ctx, n) })
	}}
}
