package scenarios

import (
	"slices"

	"github.com/unibus/unibus/faults"
)

// RequiredFamilies are those without which a default run shows nothing.
var RequiredFamilies = []string{
	"lone-node", "lone-node-control", "quorum-loss", "node-kill", "r1-spof", "dataplane-failover", "cold-start", "noop-faults",
}

// All lists every scenario. The longest first is the runner's business.
func All() []Scenario {
	return append([]Scenario{
		loneNode("n1"), loneNode("n2"), loneNode("n3"), loneLeader(false), loneLeader(true),
		quorumLoss(), nodeKill(), r1SPOF(), r1ToR3(), dataplaneFailover("kill", faults.Kill), dataplaneFailover("pause", faults.Pause),
		coldStart(), noopFaults(), everyFault(), clockJump(), clockStrobe(), clockDrift(), clockAge(), clockRunning(), oomKill(),
		exhausted("descriptors", "descriptors", "a follower of the stream, then its leader, can open no more files and connections: nothing acked lost, writes go on, all well after",
			faults.OutOfDescriptors),
		exhausted("threads", "threads", "a follower of the stream, then its leader, can start no more threads: nothing acked lost, writes go on, all well after",
			faults.OutOfThreads),
		nemesis(), placement(placementName, placementName),
		gracefulStop(), foreignDataDir(), seedImported(), rollingUpgrade(false), rollingUpgrade(true), certRotation(), flood(), acl(), authColdStart(), deployRehearsal(),
	}, slices.Concat(userAdds(), powerFailures(), partitions(), grayFailures(), sickDisks(), courses(), damagedData())...)
}
