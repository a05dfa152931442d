package scenarios

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the rehearsal.
const (
	maxExposure  = 1.99 // of 'systemd-analyze security': below 2.0
	upgradedGap  = 30   // seconds; longest stretch without an acked publish while nodes are restarted one by one
	certsGap     = 10   // the same while certificates are replaced and nothing is restarted
	deadGap      = 30   // the same from pulling the plug to the new host's being configured
	strandedSecs = 15
	// ranPrefix begins the names of what the runbook's commands ended with.
	ranPrefix = "ran: "
	// refusedPrefix begins those of commands that had to refuse.
	refusedPrefix = "refused: "
	// sawPrefix begins those of what was looked at afterwards.
	sawPrefix = "saw: "
)

// machines is a cluster of hosts on which nothing is installed. Package docker/hosts has one.
type machines interface {
	cluster.Cluster
	cluster.Secured
	SSHConfig() string
	Desk() string
	Address(id cluster.NodeID) string
	Run(ctx context.Context, id cluster.NodeID, script string) (string, error)
	ReplaceHost(ctx context.Context, id cluster.NodeID) error
}

// onHosts puts the backend that makes whole machines in the place of the usual one for a scenario that wants it, or says why there is none.
func onHosts(ctx context.Context, s Scenario, set Settings) (_ Settings, done func(), lack string) {
	done = func() {}
	switch {
	case !s.Hosts || s.Applies(set.Subject.Kind, cluster.Capabilities{}) != "":
		return set, done, ""
	case set.Hosts == nil:
		return set, done, "needs whole hosts, which are made in containers: there is no engine"
	}
	b, err := set.Hosts(ctx)
	if err != nil {
		return set, done, err.Error()
	}
	set.Backend = b
	return set, func() { _ = b.Close() }, "" // the cluster is gone by then
}

// deployRehearsal follows the runbook of sut/deploy/cluster on three hosts, by calling its scripts.
//
//	a workstation (here) ──ssh──> n1, n2, n3: Debian, systemd, sshd, nothing else
func deployRehearsal() Scenario {
	k := &kit{}
	return Scenario{
		Name: "deploy-rehearsal", Family: "deploy-rehearsal", Only: membershipd, Hosts: true, Nightly: true, Replicas: 1, Seconds: 420,
		Doc:   "the runbook of the deploy kit, from the first line to the last, on three hosts with systemd: install, first start, users, R1 to R3, upgrade, certificates, a dead host, backup and restore",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(p *Plan) []Step {
			var steps []Step
			steps = append(steps, k.prepare()...)
			steps = append(steps, k.firstStart()...)
			steps = append(steps, k.users()...)
			steps = append(steps, k.scaleUp(p)...)
			steps = append(steps, k.upgrade()...)
			steps = append(steps, k.certificates()...)
			steps = append(steps, k.deadHost()...)
			steps = append(steps, stopLoad(), converge("after the load"))
			return append(steps, k.backup()...)
		},
		Claims: rehearsalClaims,
	}
}

func rehearsalClaims(r *Run) []reports.Claim {
	saw := func(id, text, what string, min int, bounds ...check.Bound) reports.Claim {
		return claim(id, text, check.Measured{Names: []string{sawPrefix + what}, Min: min, Bounds: bounds})
	}
	equal := func(id, text, what string, min int) reports.Claim {
		return claim(id, text, check.Measured{Names: []string{sawPrefix + what}, Min: min, Same: [][2]string{{"is", "wanted"}}})
	}
	gap := func(id, text, from, to string, secs float64) reports.Claim {
		return claim(id, fmt.Sprintf("%s: the longest stretch without an acked publish to the orders is reported, and stays under %g s.", text, secs),
			check.Availability{Window: window(from, to), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: secs, MinOK: 50})
	}
	cs := []reports.Claim{
		claim("runbook-works", "Every command of the runbook ended well.",
			check.Measured{Names: []string{ranPrefix}, Min: countSteps(r, ranPrefix), Bounds: []check.Bound{check.Exactly("exit", 0)}}),
		claim("refusals", "What must be refused was: placeholders, a missing proof, a user's name with another key, a host that runs already.",
			check.Measured{Names: []string{refusedPrefix}, Min: countSteps(r, refusedPrefix), Bounds: []check.Bound{check.AtLeast("exit", 1)}}),
		saw("dry-run", "A dry run leaves nothing on any host.", "nothing installed", 3, check.Exactly("files", 0)),
		control("installed-is-seen", "An installation leaves nothing on any host. (Must fail: it does, and the look at hosts sees it.)", check.CodeOutOfBounds,
			check.Measured{Names: []string{sawPrefix + "an installation"}, Min: 3, Bounds: []check.Bound{check.Exactly("files", 0)}}),
		saw("sandboxed", "systemd-analyze security rates the unit below 2.0.", "exposure", 3, check.AtMost("exposure", maxExposure)),
		equal("reason-is-logged", "Every host has a log of what was installed, and why without a proof.", "reason", 3),
		equal("posture", "Each node says TLS, enforcement, sync policy and quorum, as the runbook wants them.", "posture", 6),
		equal("user-everywhere", "A user that was added on one node logs in on each.", "login", 9),
		equal("upgraded", "After the rolling upgrade each node runs the second build, by its own word, and after the way back the first.", "version", 6),
		equal("certificates", "Each node shows the new certificate; the old authority's is not accepted any more.", "certificate", 6),
		equal("replaced", "The new host has another address than the dead one.", "new host", 1),
		equal("restored", "After the restore the cluster is as it was at the backup: messages, users, and nothing of what came later.", "restored", 6),
		gap("upgrade-gap", "Writes go on during the rolling upgrade", "upgrade", "upgraded", upgradedGap),
		gap("certs-gap", "Writes go on while certificates and authorities are replaced", "certs", "certs-done", certsGap),
		gap("dead-host-gap", "Writes go on while a dead host is replaced", "dead", "replaced", deadGap),
		claim("no-client-stranded", "Every publisher is served again.", check.ClientGaps{Window: window("upgrade", "replaced"), MinClients: publishers, EndSeconds: strandedSecs}),
		streamIntact(300), kvLinear(kvOpsWanted), kvDurable(), converged3(r), copiesAgree(dataCopies(r)...), truthful(),
		exercised(check.Preconditions{MinOps: 500, Marks: []string{"upgrade", "upgraded", "certs", "certs-done", "dead", "replaced"}, Drained: drained(r)}),
	}
	return append(cs, settingsIntact(r)...)
}

// countSteps counts the steps of the plan with that prefix.
func countSteps(r *Run, prefix string) (n int) {
	for _, st := range r.steps {
		if strings.HasPrefix(st.Name, prefix) {
			n++
		}
	}
	return n
}

// ran is a step of the runbook: a command that must end well. One that does not ends the rehearsal, and the record says so.
func (k *kit) ran(what string, do func(ctx context.Context) (exit int, err error)) Step {
	return Step{ranPrefix + what, func(ctx context.Context, r *Run) error {
		exit, err := k.command(ctx, r, ranPrefix+what, do)
		if err == nil && exit != 0 {
			err = fmt.Errorf("%w: %s ended with %d: %s", errGiveUp, what, exit, k.last())
		}
		return err
	}}
}

// refused is a command that must not do what it is asked.
func (k *kit) refused(what string, do func(ctx context.Context) (exit int, err error)) Step {
	return Step{refusedPrefix + what, func(ctx context.Context, r *Run) error {
		_, err := k.command(ctx, r, refusedPrefix+what, do)
		return err
	}}
}

// command does one and records how it ended, and how long it took.
func (k *kit) command(ctx context.Context, r *Run, name string, do func(ctx context.Context) (int, error)) (int, error) {
	if err := k.open(r); err != nil {
		return 0, err
	}
	began := time.Now()
	exit, err := do(ctx)
	if err != nil {
		return 0, err
	}
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: name, Data: map[string]any{"exit": float64(exit), "seconds": time.Since(began).Seconds()}})
	return exit, nil
}

// saw records what is there, beside what there should be.
func saw(r *Run, what string, id cluster.NodeID, is, wanted any) {
	e := history.Event{Kind: check.KindMeasured, Name: sawPrefix + what, Data: map[string]any{"is": fmt.Sprint(is), "wanted": fmt.Sprint(wanted)}}
	if id != "" {
		e.Nodes = []string{string(id)}
	}
	r.Rec.Event(e)
}

// sawFigure records a number.
func sawFigure(r *Run, what string, id cluster.NodeID, figure string, v float64) {
	r.Rec.Event(history.Event{Kind: check.KindMeasured, Name: sawPrefix + what, Nodes: []string{string(id)}, Data: map[string]any{figure: v}})
}

// look is a step that only looks, at each host in turn. What cannot be seen ends the rehearsal.
func (k *kit) look(what string, at func(ctx context.Context, r *Run, id cluster.NodeID) error) Step {
	return Step{"look at " + what, func(ctx context.Context, r *Run) error {
		if err := k.open(r); err != nil {
			return err
		}
		for _, id := range cluster.IDs(r.Cluster) {
			if err := at(ctx, r, id); err != nil && !errors.Is(err, errGiveUp) {
				return fmt.Errorf("%w: look at %s of %s: %w", errGiveUp, what, id, err)
			} else if err != nil {
				return err
			}
		}
		return nil
	}}
}
