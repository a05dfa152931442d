package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
)

// Settings of the rolling upgrade.
const (
	upgradeGap      = 30 // seconds; bound for the longest stretch without an acked publish to the orders
	upgradeStranded = 10 // seconds
	upgradePrefix   = "upgrade-"
	skippedPrefix   = "skipped-"
	mixedFor        = 3 * time.Second // with both builds in the cluster, after it has converged
)

// rollingUpgrade goes from the previous build to the one under test under load, a node at a time: first those that do not lead the meta group, its leader
// last. On plain nats-server the stores that the older minor version wrote are taken over by the newer one.
func rollingUpgrade(isControl bool) Scenario {
	name, doc := "rolling-upgrade", "every node of a cluster of the previous build (this daemon around the nats-server of the minor version before) replaced by this build under load, meta leader last"
	if isControl {
		name, doc = "rolling-upgrade-plain", "the same with plain nats-server: stores of the minor version before are taken over by the embedded version"
	}
	return Scenario{
		Name: name, Family: "rolling-upgrade", Control: isControl, Nightly: isControl, Upgrade: true, Seconds: 100,
		Doc:   doc,
		Needs: []cluster.Capability{cluster.CapLifecycle},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start, previous build"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin), mark("upgrade"),
				upgradeOne(skippedPrefix+"1", false), converge("after a restart without an upgrade"), seeBuild(skippedPrefix + "1")}
			for i := range 3 {
				step := fmt.Sprintf("%s%d", upgradePrefix, i+1)
				steps = append(steps, upgradeOne(step, true), converge("after "+step), seeBuild(step), hold("both builds side by side", mixedFor), moreOps(opsBetween, opsWithin))
			}
			return append(steps, mark("upgraded"), stopLoad(), converge("at the end"))
		},
		Claims: upgradeClaims,
	}
}

func upgradeClaims(r *Run) []reports.Claim {
	w := window("upgrade", "upgraded")
	wanted := [][2]string{{"after", "wanted"}}
	changed := [][2]string{{"before", "after"}, {"server_before", "server_after"}}
	cs := []reports.Claim{
		claim("upgraded", "Each node ends with the new build, by its own word: another binary with another nats-server in it than before.",
			check.Measured{Names: []string{upgradePrefix}, Min: 3, Nodes: 3, Same: wanted, Differ: changed}),
		claim("leader-last", "The nodes that do not lead the meta group go first.",
			check.Measured{Names: []string{upgradePrefix + "1", upgradePrefix + "2"}, Min: 2, Bounds: []check.Bound{check.Exactly("led_meta", 0)}}),
		control("skipped-upgrade", "Each node ends with the new build. (Must fail: this node was restarted, its binary not replaced.)", check.CodeStillSame,
			check.Measured{Names: []string{skippedPrefix}, Same: wanted, Differ: changed}),
		streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...),
		claim("write-gap", fmt.Sprintf("Writes go on: the longest stretch without an acked publish to the orders is reported, and stays under %d s.", upgradeGap),
			check.Availability{Window: w, Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: upgradeGap, MinOK: 100}),
		claim("no-client-stranded", "Every publisher and key-value client is served again.",
			check.ClientGaps{Window: w, MinClients: publishers, EndSeconds: upgradeStranded}),
		truthful(),
		exercised(check.Preconditions{MinOps: 800, Marks: []string{"upgrade", "upgraded"}, Drained: drained(r)}),
	}
	return append(cs, settingsIntact(r)...)
}

// build is what a node says of the program that it runs.
type build struct {
	id     string // digest of membershipd's binary; the version of plain nats-server
	server string // version of nats-server in it
}

// upgradeOne stops the next node with SIGTERM, replaces its binary (or, for the control, does not) and starts it again.
func upgradeOne(name string, replace bool) Step {
	return Step{"stop, replace, start: " + name, func(ctx context.Context, r *Run) error {
		id, led, err := r.nextToUpgrade(ctx)
		if err != nil {
			return err
		}
		was, err := r.buildOf(ctx, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		r.picked[name] = []cluster.NodeID{id}
		if r.upgrades == nil {
			r.upgrades = map[string]upgrade{}
		}
		r.upgrades[name] = upgrade{before: was, ledMeta: led}
		if replace {
			r.picked[upgradePrefix] = append(r.picked[upgradePrefix], id)
		}
		return r.restartAs(ctx, id, replace)
	}}
}

// restartAs stops a node cleanly and starts it again, as the build under test if replace is set.
func (r *Run) restartAs(ctx context.Context, id cluster.NodeID, replace bool) error {
	n := r.node(id)
	if err := n.Signal(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	wctx, cancel := context.WithTimeout(ctx, exitTimeout)
	defer cancel()
	if err := n.WaitExit(wctx); err != nil {
		return fmt.Errorf("wait for %s to end: %w", id, err)
	}
	r.Rec.Event(history.Event{Kind: "node", Name: "stopped with SIGTERM", Nodes: []string{string(id)}})
	if replace {
		re, ok := n.(cluster.Replaceable)
		if !ok {
			return fmt.Errorf("the program of %s cannot be replaced", id)
		}
		if err := re.Replace(ctx, r.subject); err != nil {
			return err
		}
	}
	return r.start(ctx, 0, id)
}

// nextToUpgrade is a node that is not upgraded yet: one that does not lead the meta group, as long as there is one.
func (r *Run) nextToUpgrade(ctx context.Context) (id cluster.NodeID, ledMeta bool, err error) {
	var leader cluster.NodeID
	err = r.until(ctx, convergeTimeout, "meta leader", func(ctx context.Context) bool {
		views := observe.All(ctx, r.Cluster)
		for _, v := range views {
			if v.Err != nil || v.MetaLeader == "" || v.MetaLeader != views[0].MetaLeader {
				return false
			}
		}
		leader = cluster.NodeID(views[0].MetaLeader)
		return true
	})
	if err != nil {
		return "", false, err
	}
	for _, n := range r.Cluster.Nodes() {
		if slices.Contains(r.picked[upgradePrefix], n.ID()) {
			continue
		}
		if id = n.ID(); id != leader {
			return id, false, nil
		}
	}
	return id, true, nil
}

// seeBuild asks the node that a step restarted what it runs now, and records it beside what it ran before.
func seeBuild(name string) Step {
	return Step{"ask what runs after " + name, func(ctx context.Context, r *Run) error {
		id := r.picked[name][0]
		is, err := r.buildOf(ctx, id)
		if err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		u, wanted := r.upgrades[name], r.subject.Digest
		if r.Plan.Kind != cluster.Membershipd {
			wanted = r.subject.Version
		}
		r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Nodes: []string{string(id)}, Data: map[string]any{
			"before": u.before.id, "after": is.id, "wanted": wanted, "server_before": u.before.server, "server_after": is.server, "led_meta": flag(u.ledMeta)}})
		return nil
	}}
}

// upgrade is what was known of a node before it was stopped.
type upgrade struct {
	before  build
	ledMeta bool
}

// buildOf asks a node itself: /statusz for the digest of its binary, and nats-server's monitoring for its version.
func (r *Run) buildOf(ctx context.Context, id cluster.NodeID) (b build, err error) {
	var varz struct {
		Version string `json:"version"`
	}
	ends := r.node(id).Endpoints()
	if err := askJSON(ctx, ends.Monitor+"/varz", &varz); err != nil {
		return b, err
	}
	b.server = "v" + varz.Version
	if ends.Status == "" {
		b.id = b.server
		return b, nil
	}
	var status struct {
		Digest string `json:"digest"`
	}
	err = askJSON(ctx, ends.Status, &status)
	b.id = status.Digest
	return b, err
}

// askJSON reads a node's answer.
func askJSON(ctx context.Context, url string, into any) error {
	code, body, err := observe.Get(ctx, url)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("ask %s: status %d", url, code)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", url, err)
	}
	return nil
}

// flag is a truth value as a figure.
func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
