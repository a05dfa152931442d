package scenarios

import (
	"fmt"
	"slices"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios about power failures.
const (
	powerFamily = "power-failure"
	// shortSync stands for nats-server's sync_interval of two minutes, of which these scenarios need one to have passed.
	shortSync   = "10s"
	pastOneSync = 13 * time.Second
	darkFor     = 3 * time.Second
	halfLost    = 50 // percent
	meetFor     = 10 * time.Second
	afterwards  = 75 * time.Second // until clients are served again, by disks that lost different tails
)

// onJournal is a file system that treats directory entries as ext4 and XFS do.
func onJournal() cluster.PowerFS {
	return cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled}
}

// powerFailure fails the power of all three nodes at once, twice: first nothing that was not synced survives, then half of it.
func powerFailure() Scenario {
	rounds := []struct {
		name string
		keep int
	}{{"all-lost", allLost}, {"half-lost", halfLost}}
	return Scenario{
		Name: "power-failure", Family: powerFamily, Only: membershipd, Seconds: 75, Power: onJournal(), Sync: "always",
		Doc:   "the power of all three nodes fails at the same moment under load, and what was not synced is gone, all of it or half: nothing acked is lost",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, rd := range rounds {
				steps = append(steps, powerFail(rd.name, faults.All(), rd.keep), hold("without power", darkFor), heal(rd.name),
					converge("after "+rd.name), moreOps(opsBetween, opsWithin))
			}
			return append(steps, stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			return slices.Concat([]reports.Claim{
				streamIntact(200), kvLinear(100), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), faultsInForce(len(rounds)),
				exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 1, MinAfter: 20, Drained: drained(r)}),
			}, loadIntact(), settingsIntact(r))
		},
	}
}

// powerFailureControl is the same on plain nats-server with its default way to sync, once an interval: the tail of what was acked must be missing.
func powerFailureControl() Scenario {
	return Scenario{
		Name: "power-failure-control", Family: powerFamily, Control: true, Seconds: 50, Power: onJournal(), Sync: shortSync,
		Doc:   "negative control: plain nats-server, which syncs once an interval, loses acked messages when the power of all three nodes fails",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), converge("first start"), loadUp(streamLoad()), moreOps(steadyBefore, opsWithin), hold("past one sync interval", pastOneSync),
				powerFail("cut", faults.All(), allLost), hold("without power", darkFor), heal("cut"),
				moreOps(opsBetween, afterwards), stopLoad(), // not all replicas may ever agree again: see copies-agree of power-failure for what is wanted
			}
		},
		Claims: func(r *Run) []reports.Claim {
			return []reports.Claim{
				control("stream-intact", fmt.Sprintf("Nothing acked is lost. (Must fail: sync_interval is %s.)", shortSync), check.CodeAckedMissing,
					check.StreamAccounting{Target: ordersStream, MinAcked: 200}),
				faultsInForce(1),
				exercised(check.Preconditions{MinOps: 300, MinBefore: 100, MinDuring: 1, MinAfter: 20, Drained: []string{ordersStream}}),
			}
		},
	}
}

// onePowerFailure fails the power of one node while another one is down: of three copies of a message one never was, one is lost, and the third is outvoted.
//
//	     publish | kill n1 | publish     | n3 loses power, kill n2 | start n1, n3 | publish | start n2
//	n1      x        -          -                  -                     x             x         x
//	n2      x        x          x                  -                     -             -         x   (alone with the second part)
//	n3      x        x     x, not synced         lost                    x             x         x
func onePowerFailure(isControl bool) Scenario {
	s := Scenario{
		Name: "power-failure-one", Family: powerFamily, Only: membershipd, Nightly: true, Seconds: 75, Power: onJournal(), Sync: "always",
		Doc:   "one power failure while another node is down, and the third then dies: what the first two had acked is still there",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail},
		Steps: func(p *Plan) []Step {
			ids := others()
			p.Rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			last := converge("at the end")
			if isControl {
				last = hold("replicas meet", meetFor) // copies that stay different are for the claims to judge, and no reason to end the steps
			}
			return onePowerSteps(ids[0], ids[1], ids[2], last)
		},
	}
	intact := streamIntact(200)
	if isControl {
		s.Name, s.Only, s.Control, s.Sync = "power-failure-one-control", "", true, shortSync
		s.Doc = "negative control: plain nats-server, which syncs once an interval, loses acked messages to one power failure while another node is down"
		intact = control("stream-intact", fmt.Sprintf("Nothing acked is lost. (Must fail: sync_interval is %s.)", shortSync), check.CodeAckedMissing,
			check.StreamAccounting{Target: ordersStream, MinAcked: 200})
	}
	s.Claims = func(r *Run) []reports.Claim {
		cs := []reports.Claim{intact, faultsInForce(3),
			exercised(check.Preconditions{MinOps: 300, MinBefore: 60, MinDuring: 60, MinAfter: 20, Drained: []string{ordersStream}})}
		if !isControl {
			cs = append(cs, convergedEach(r), copiesAgree(ordersCopies))
		}
		return cs
	}
	return s
}

func onePowerSteps(absent, alone, dark cluster.NodeID, last Step) []Step {
	return []Step{
		startAll(), converge("first start"), loadUp(streamLoad()), moreOps(steadyBefore, opsWithin), hold("past one sync interval", pastOneSync),
		inject("absent", faults.Kill, faults.Named(absent)), moreOps(steadyBefore, opsWithin),
		powerFail("dark", faults.Named(dark), allLost), inject("alone", faults.Kill, faults.Named(alone)),
		heal("absent"), heal("dark"), moreOps(steadyBefore, opsWithin),
		heal("alone"), moreOps(opsBetween, opsWithin), stopLoad(), last,
	}
}

// powerFailures are the scenarios of this file.
func powerFailures() []Scenario {
	return []Scenario{powerFailure(), powerFailureControl(), onePowerFailure(false), onePowerFailure(true)}
}
