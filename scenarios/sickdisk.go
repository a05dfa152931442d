package scenarios

import (
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of the scenarios about sick disks.
const (
	diskFamily = "sick-disk"
	sickFor    = 30 * time.Second
	// ownUp is how long a node whose disk fails may still call itself ready.
	ownUp = 8
	// diskGap bounds the stretch without an acked publish, in seconds: until the node gives up, and two elections of up to 9 s each, as a vote may be split.
	diskGap   = 25
	slowSync  = 250 * time.Millisecond
	slowShake = 100 * time.Millisecond
)

// sickDisks are the scenarios of this file.
func sickDisks() []Scenario {
	full := sickDisk("disk-full", "full", "nothing fits on the leader's disk any more", faults.DiskFull, true)
	full.Nightly = false
	return []Scenario{
		full,
		sickDisk("disk-eio", "eio", "every fsync of the leader fails", faults.FsyncError, true),
		sickDisk("slow-disk", "slow", "every fsync of the leader takes 250 +- 100 ms longer", faults.SlowFsync(slowSync, slowShake, 1), false),
		lyingFsync(),
	}
}

// sickDisk lets the stream leader's disk be unwell under load. Daemons that give up are started again, as in production.
func sickDisk(name, fault, doc string, verb faults.Verb, fails bool) Scenario {
	s := Scenario{
		Name: name, Family: diskFamily, Nightly: true, Seconds: 80, Power: onJournal(),
		Doc:   doc + ": nothing acked is lost, what clients see is bounded or reported, all converged once the disk is well",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapDiskFaults},
		Steps: func(p *Plan) []Step {
			return []Step{
				startAll(), supervise(), converge("first start"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin),
				inject(fault, verb, faults.Leader(ordersCopies)), mark(fault), hold("the disk is unwell", sickFor), mark(fault + "-end"), heal(fault),
				converge("after " + fault), moreOps(opsBetween, opsWithin), stopLoad(), converge("at the end"),
			}
		},
	}
	s.Claims = func(r *Run) []reports.Claim {
		cs := []reports.Claim{
			diskServes(fault, fails),
			streamIntact(200), kvWritesLinear(60), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(1),
			exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 50, MinAfter: 20, Drained: drained(r)}),
		}
		for _, id := range r.picked[fault] {
			if fails {
				cs = append(cs, claim("owns-up", fmt.Sprintf("%s, whose disk fails, does not say that it is ready, later than %d s into it.", id, ownUp),
					check.HealthCheck{Probe: "ready", Nodes: []string{string(id)}, Window: window(fault, fault+"-end"), GraceSeconds: ownUp, Want: check.WantNever200, MinHz: minHealthHz}))
			}
		}
		return append(cs, settingsIntact(r)...)
	}
	return s
}

// diskServes claims that writes go on. A disk that is merely slow ends no leader's term in nats-server: how long nothing is acked is reported, and only that something is, is claimed.
func diskServes(fault string, fails bool) reports.Claim {
	c := check.Availability{Window: window(fault, fault+"-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MinOK: 20}
	text := "Some writes go through; the longest stretch without an acked publish is reported."
	if fails {
		c.MaxGapSeconds = diskGap
		text = fmt.Sprintf("Writes go on: no stretch without an acked publish is longer than %d s.", diskGap)
	}
	return claim(fault+"-serves", text, c)
}

// lyingFsync is what sync=always is worth on disks that only say that they have written.
func lyingFsync() Scenario {
	return Scenario{
		Name: "lying-fsync", Family: diskFamily, Only: membershipd, Nightly: true, Seconds: 60, Power: onJournal(), Sync: "always",
		Doc:   "negative control of power-failure: on disks whose fsync lies, the power of all three nodes fails, and acked messages are gone although every one was synced",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapPowerFail, cluster.CapDiskFaults},
		Steps: func(*Plan) []Step {
			return []Step{
				startAll(), supervise(), converge("first start"), loadUp(streamLoad()), moreOps(steadyBefore, opsWithin),
				inject("lie", faults.LyingFsync, faults.All()), moreOps(steadyBefore, opsWithin),
				powerFail("cut", faults.All(), allLost), heal("lie"), hold("without power", darkFor), heal("cut"),
				moreOps(opsBetween, afterwards), stopLoad(), // replicas need not agree again: see powerFailureControl
			}
		},
		Claims: func(*Run) []reports.Claim {
			return []reports.Claim{
				control("stream-intact", "Nothing acked is lost. (Must fail: fsync lied on all three nodes.)", check.CodeAckedMissing,
					check.StreamAccounting{Target: ordersStream, MinAcked: 200}),
				faultsInForce(2),
				exercised(check.Preconditions{MinOps: 300, MinBefore: 100, MinDuring: 60, MinAfter: 20, Drained: []string{ordersStream}}),
			}
		},
	}
}
