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

// Settings of the scenarios in which faults follow one another. Most times are shorter than an election or a start takes: what overlaps is what is tested.
const (
	loopDown    = 200 * time.Millisecond
	loopUp      = 700 * time.Millisecond // a daemon is hardly up
	loopRounds  = 8
	huntDown    = 500 * time.Millisecond
	huntRounds  = 4
	restartHold = time.Second // a restart is in force once the node runs again: what is served from then on counts, until all is well
	stormHold   = 800 * time.Millisecond
	stormGap    = 300 * time.Millisecond
	stormLong   = 4 * time.Second // the others elect somebody else meanwhile
	stormEach   = 3
	flapDown    = 400 * time.Millisecond
	flapUp      = 400 * time.Millisecond
	flapRounds  = 8
	twoLead     = time.Second
	twoHold     = 4 * time.Second
	// courseGap bounds the stretch without an acked publish to the orders, in seconds: as in node-kill, elections of up to 9 s that split votes repeat.
	courseGap = 25
	// courseReturn is how long the load goes on after the last blow: longer than courseGap, as a stream that is dead from some blow on must be seen. In it
	// clients return, too, whose last attempt went to a node that had died: it times out first, and then they try again.
	courseReturn = 26 * time.Second
)

// course is faults that follow one another under the standard load.
type course struct {
	name, doc string
	seconds   int
	needs     []cluster.Capability
	nightly   bool
	// processes, when true, says that nothing but processes come and go: no deposed leader lives on to answer reads.
	processes bool
	blows     func(p *Plan) sequence
}

// courses are rounds that operators, supervisors and bad cables make, and an enemy.
func courses() []Scenario {
	leader, follower, life := faults.Leader(ordersCopies), faults.Follower(ordersCopies), cluster.CapLifecycle
	return []Scenario{
		course{
			name: "rolling-restart", seconds: 80, nightly: true, processes: true, needs: []cluster.Capability{life},
			doc: "each node restarted in an order by seed, the next one when all is well: nothing acked lost, the longest stretch without an ack is reported and bounded",
			blows: func(p *Plan) sequence {
				var s sequence
				for _, id := range shuffled(p) {
					s = append(s, calmly(strikeWith("restart", faults.Restart, faults.Named(id), restartHold, 0)))
				}
				return s
			},
		}.scenario(),
		course{
			name: "crash-loop", seconds: 50, nightly: true, processes: true, needs: []cluster.Capability{life},
			doc: "a node is killed again and again as soon as it is up, as by a supervisor's bad day: the others serve, nothing acked is lost, it converges at last",
			blows: func(p *Plan) sequence {
				return repeat(loopRounds, strikeWith("kill", faults.Kill, faults.Named(shuffled(p)[0]), loopDown, loopUp))
			},
		}.scenario(),
		course{
			name: "pause-storm", seconds: 60, nightly: true, needs: []cluster.Capability{life},
			doc: "the leader and random nodes stand still, shorter and longer than an election takes, in quick turns: nothing acked lost, no lost update by a leader that wakes up",
			blows: func(*Plan) sequence {
				return repeat(stormEach,
					strikeWith("pause", faults.Pause, faults.Random(minorityMax), stormHold, stormGap),
					strikeWith("pause", faults.Pause, leader, stormHold, stormGap),
					strikeWith("pause", faults.Pause, leader, stormLong, stormGap))
			},
		}.scenario(),
		course{
			name: "flapping-link", seconds: 40, needs: []cluster.Capability{life, cluster.CapNetwork},
			doc: "one link between two nodes is cut and mended again and again, faster than an election takes: nothing acked lost, writes go on",
			blows: func(p *Plan) sequence {
				return repeat(flapRounds, strikeWith("sever", faults.Sever, faults.Named(shuffled(p)[:2]...), flapDown, flapUp))
			},
		}.scenario(),
		course{
			name: "leader-hunt", seconds: 45, processes: true, needs: []cluster.Capability{life},
			doc: "whoever leads the stream is killed at once, again and again, as soon as somebody else does: nothing acked lost, writes return each time",
			blows: func(*Plan) sequence {
				return repeat(huntRounds, strikeWith("kill", faults.Kill, leader, huntDown, 0))
			},
		}.scenario(),
		course{
			name: "two-faults", seconds: 70, nightly: true, needs: []cluster.Capability{life, cluster.CapNetwork},
			doc: "two faults in force at a time: the leader is killed while a follower is far away, stands still while one is throttled, and is restarted while one loses packets",
			blows: func(*Plan) sequence {
				lame := func(word string, v faults.Verb) blow { return strikeWith(word, v, follower, 0, 0) }
				return sequence{
					calmly(both(lame("slow", faults.Slow(faults.CommonDelay, faults.CommonJitter, 1)), strikeWith("kill", faults.Kill, leader, twoHold, 0), twoLead)),
					calmly(both(lame("throttle", faults.Throttle(faults.CommonRate)), strikeWith("pause", faults.Pause, leader, twoHold, 0), twoLead)),
					calmly(both(lame("lossy", faults.Lossy(faults.CommonLoss)), strikeWith("restart", faults.Restart, leader, twoHold, 0), twoLead)),
				}
			},
		}.scenario(),
	}
}

func (c course) scenario() Scenario {
	return Scenario{
		Name: c.name, Family: "sequence", Seconds: c.seconds, Nightly: c.nightly, Doc: c.doc, Needs: c.needs,
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin), mark("blows")}
			steps = append(steps, c.blows(p).steps("blow")...)
			return append(steps, converge("after the last blow"), moreOps(opsBetween, opsWithin), hold("every client returns", courseReturn), mark("blows-end"),
				stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			kv := kvWritesLinear
			if c.processes {
				kv = kvLinear
			}
			cs := []reports.Claim{
				claim("serves", fmt.Sprintf("Writes go on: the longest stretch without an acked publish to the orders is reported, and stays under %d s.", courseGap),
					check.Availability{Window: window("blows", "blows-end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MaxGapSeconds: courseGap, MinOK: 50}),
				claim("no-client-stranded", "Every publisher and key-value client is served again.",
					check.ClientGaps{Window: window("blows", "blows-end"), Clients: []string{"pub", "kv"}, MinClients: publishers + kvClients, EndSeconds: 10}),
				streamIntact(200), kv(kvOpsWanted / 2), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(r.injections()),
				exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 20, MinAfter: 20, Drained: drained(r)}),
			}
			return slices.Concat(cs, loadIntact(), settingsIntact(r))
		},
	}
}
