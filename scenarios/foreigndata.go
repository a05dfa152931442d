package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the foreign-data scenario.
const (
	foreignData = "foreign-data"
	foreignFor  = 8 * time.Second
	ownerFile   = "node.json" // in a data directory: whose it is
)

// foreignDataDir starts a node on a data directory that says that it is another node's, as after a volume was mounted in the wrong place.
func foreignDataDir() Scenario {
	var victim, other cluster.NodeID
	return Scenario{
		Name: foreignData, Family: foreignData, Only: cluster.Membershipd, Seconds: 35,
		Doc:   "a node started on a data directory that belongs to another node: it refuses to run, and the others go on",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(p *Plan) []Step {
			ids := []cluster.NodeID{"n1", "n2", "n3"}
			p.Rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			victim, other = ids[0], ids[1]
			return []Step{
				startAll(), converge("first start"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin),
				renameOwner(victim, victim, other), mark("foreign"), start(0, victim), hold("the directory is another node's", foreignFor), mark("own"),
				renameOwner(victim, other, victim), start(0, victim), converge("with its own directory again"), moreOps(opsBetween, opsWithin), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			w, me := window("foreign", "own"), []string{string(victim)}
			cs := []reports.Claim{
				claim("refuses-to-run", fmt.Sprintf("%s does not run on a directory that is %s's: not even /livez is 200.", victim, other),
					check.HealthCheck{Probe: "live", Nodes: me, Window: w, Want: check.WantNever200, MinHz: minHealthHz}),
				claim("others-serve", "The other two serve meanwhile.", check.Availability{Window: w, Kinds: []string{"publish"}, Targets: []string{ordersStream}, MinOK: 20}),
				streamIntact(200), kvLinear(100), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...),
				exercised(check.Preconditions{MinOps: 300, Marks: []string{"foreign", "own"}, Drained: drained(r)}),
			}
			return append(cs, settingsIntact(r)...)
		},
	}
}

// renameOwner stops a node, if it runs, and writes into its data directory whose it is.
func renameOwner(id, from, to cluster.NodeID) Step {
	return Step{fmt.Sprintf("stop %s, and write that its data directory is %s's", id, to), func(ctx context.Context, r *Run) error {
		n := r.node(id)
		ctx, cancel := context.WithTimeout(ctx, exitTimeout)
		defer cancel()
		if err := n.Signal(ctx, syscall.SIGTERM); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			return fmt.Errorf("stop %s: %w", id, err)
		}
		if err := n.WaitExit(ctx); err != nil {
			return fmt.Errorf("wait for %s to end: %w", id, err)
		}
		done, err := editOwner(ctx, n, from, to)
		if err != nil {
			return fmt.Errorf("edit the owner of %s: %w", id, err)
		}
		r.Rec.Event(history.Event{Kind: "note", Name: "owner of the data directory", Nodes: []string{string(id)},
			Detail: fmt.Sprintf("%s at %d: %q is now %q", done.Path, done.Offset, done.Before, done.After)})
		return nil
	}}
}

func editOwner(ctx context.Context, n cluster.Node, from, to cluster.NodeID) (cluster.Edited, error) {
	e, ok := n.(cluster.Editable)
	if !ok {
		return cluster.Edited{}, errors.New("its files cannot be edited")
	}
	b, err := e.ReadFile(ctx, ownerFile, 0, 4096)
	if err != nil {
		return cluster.Edited{}, err
	}
	at := bytes.Index(b, []byte(`"`+from+`"`))
	if at < 0 || len(from) != len(to) {
		return cluster.Edited{}, fmt.Errorf("%s does not name %s: %s", ownerFile, from, b)
	}
	return e.Edit(ctx, cluster.Edit{Path: ownerFile, Kind: cluster.EditWrite, Offset: int64(at), Data: []byte(`"` + to + `"`)})
}
