package scenarios

import (
	"fmt"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

// EveryFault is the name of the scenario that goes through the catalogue.
const EveryFault = "every-fault"

// How long faults stay: longer than an agent's lease, so that renewing it is tested too, but for those whose mechanism is another one's.
const (
	everyFaultHold = 5 * time.Second
	shortFaultHold = time.Second
)

func holdOf(v faults.Entry) time.Duration {
	if v.Group == "network" && v.Name != "isolate" && v.Name != "lossy" && v.Name != "half-open" {
		return shortFaultHold
	}
	return everyFaultHold
}

// everyFault takes each verb of the catalogue, in its order, through all its stages under load, on nodes that the seed picks.
func everyFault() Scenario {
	return Scenario{
		Name: EveryFault, Family: "faults", Seconds: 310, Nightly: true,
		Doc:   "each fault of the catalogue, one after the other under load: measured absent, in force, still in force, and gone; no bystander hit",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork, cluster.CapStorage, cluster.CapResources, cluster.CapMemory, cluster.CapCounts, cluster.CapClock, cluster.CapPowerFail, cluster.CapDiskFaults},
		Power: cluster.PowerFS{Enabled: true, Entries: cluster.EntriesJournaled},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), supervise(), converge("first start"), loadUp(basicLoad(p, streamLoad())...), moreOps(steadyBefore, opsWithin)}
			for _, v := range faults.Catalogue() {
				steps = append(steps, onceOver(p, v)...)
			}
			return append(steps, moreOps(opsBetween, opsWithin), stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			var cs []reports.Claim
			for _, v := range faults.Catalogue() {
				cs = append(cs, claim("fault-"+v.Name, fmt.Sprintf("%s was absent before, measured in force while it was wanted, and gone after it was healed.", v.Name),
					check.Faults{Min: 1, Names: []string{v.Name + " "}}))
			}
			return append(cs, streamIntact(100), kvWritesLinear(60), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...),
				exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 50, MinAfter: 20, Drained: drained(r)}))
		},
	}
}

// victimsOf takes as many nodes as a verb needs.
func victimsOf(v faults.Entry, ids ...cluster.NodeID) []cluster.NodeID {
	return ids[:1+v.More()]
}

// onceOver is one verb's turn. A verb on a stopped node has it stopped first, and the load rests while a volume is lost: see nemesis.
func onceOver(p *Plan, v faults.Entry) []Step {
	ids := others()
	p.Rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	sel := faults.Named(victimsOf(v, ids...)...)
	steps := []Step{inject(v.Name, v.Make, sel), hold(v.Name, holdOf(v)), heal(v.Name), converge("after " + v.Name)}
	switch v.Name {
	case "wipe":
		stop := "stop-for-" + v.Name
		steps = []Step{pauseLoad(), converge("before " + v.Name), inject(stop, faults.Stop, sel), inject(v.Name, v.Make, sel), heal(v.Name), heal(stop),
			converge("after " + v.Name), resumeLoad()}
	case "kill-and-wipe":
		steps = append(append([]Step{pauseLoad(), converge("before " + v.Name)}, steps...), resumeLoad())
	}
	return steps
}
