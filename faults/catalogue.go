package faults

import "github.com/unibus/unibus/sut/cluster"

// Entry is one verb of the catalogue.
type Entry struct {
	Name  string               `json:"name"`
	Group string               `json:"group"` // process, network, disk, clock, resources
	Needs []cluster.Capability `json:"needs"`
	Doc   string               `json:"doc"`
	Make  Verb                 `json:"-"`
}

// Catalogue lists all verbs.
func Catalogue() []Entry {
	life, net, disk := cluster.CapLifecycle, cluster.CapNetwork, cluster.CapStorage
	clock, res, sick, mem, counts := cluster.CapClock, cluster.CapResources, cluster.CapDiskFaults, cluster.CapMemory, cluster.CapCounts
	return []Entry{
		{"kill", "process", caps(life), "SIGKILL; healing starts the node again", Kill},
		{"stop", "process", caps(life), "SIGTERM, and the clean exit that follows; healing starts the node again", Stop},
		{"pause", "process", caps(life), "SIGSTOP: the process stands still with its sockets open; healing sends SIGCONT", Pause},
		{"restart", "process", caps(life), "SIGTERM and a new start at once", Restart},
		{"wipe", "disk", caps(disk), "everything in the data directory of a stopped node is removed", Wipe},
		{"power-failure", "disk", caps(life, cluster.CapPowerFail), "SIGKILL, and about half of what was not synced is gone: pages of 4 KiB and directory entries; healing starts the node again",
			PowerFailure(cluster.PowerLoss{Seed: 1, KeepPercent: 50})},
		{"disk-full", "disk", caps(sick), "no page of 4 KiB is left on the node's disk (ENOSPC), and what is freed is taken", DiskFull},
		{"fsync-error", "disk", caps(sick), "fsync fails (EIO), and what it should have written never will be, as on Linux", FsyncError},
		{"write-error", "disk", caps(sick), "writing to files fails (EIO)", WriteError},
		{"read-error", "disk", caps(sick), "reading from files fails (EIO)", ReadError},
		{"slow-fsync", "disk", caps(sick), "each fsync takes 100 +- 20 ms longer", SlowFsync(CommonDelay, CommonJitter, 0)},
		{"lying-fsync", "disk", caps(sick), "fsync says that it succeeded, and nothing is durable", LyingFsync},
		{"slow-read", "disk", caps(sick), "each read from a file takes 100 +- 20 ms longer", SlowRead(CommonDelay, CommonJitter, 0)},
		{"kill-and-wipe", "disk", caps(life, disk), "SIGKILL and a lost volume; healing starts the node with nothing", KillAndWipe},
		{"isolate", "network", caps(net), "no packet passes between the node and any other node, both ways; clients still reach it", Isolate},
		{"sever", "network", caps(net), "no packet passes between the victims, both ways; the other nodes still reach each of them (a bridge)", Sever},
		{"lossy", "network", caps(net), "one packet in twenty is lost between the node and the others, in each direction, at random", Lossy(CommonLoss)},
		{"slow", "network", caps(net), "what the node sends to the others is 100 +- 20 ms late, in order", Slow(CommonDelay, CommonJitter, 0)},
		{"duplicate", "network", caps(net), "one packet in twenty between the node and the others arrives twice, in each direction", Duplicate(CommonDuplicate)},
		{"corrupt", "network", caps(net), "one packet in twenty between the node and the others has a wrong bit, in each direction", Corrupt(CommonCorrupt)},
		{"reorder", "network", caps(net), "one packet in four between the node and the others overtakes the rest, which is 20 ms late", Reorder(CommonReorder)},
		{"throttle", "network", caps(net), "the node sends 2 Mbit/s to the others together, and each of them as much to it", Throttle(CommonRate)},
		{"reset", "network", caps(net), "every TCP packet between the node and the others is answered with RST, at both ends", Reset},
		{"half-open", "network", caps(net), "the connections between the node and the others carry nothing any more, and neither end is told; new ones work", HalfOpen},
		{"dns-failure", "network", caps(net), "the node's name server does not answer", DNSFailure},
		{"split", "network", caps(net), "no packet passes between the victims and the others, both ways; each half is whole", Split},
		{"cut-routes", "network", caps(net), "no route between the node and the others; all other ports pass", CutRoutes},
		{"cut-clients", "network", caps(net), "no client reaches the node; its routes pass", CutClients},
		{"ring", "network", caps(net), "each node hears a majority, no two the same; with three nodes each hears one other, and no connection works", Ring},
		{"clock-forward", "clock", caps(clock), "the daemon's clock jumps an hour ahead", Jump(CommonJump)},
		{"clock-back", "clock", caps(clock), "the daemon's clock jumps an hour back", Jump(-CommonJump)},
		{"clock-strobe", "clock", caps(clock), "the daemon's clock is right, 30 s ahead, right and 30 s behind, for 250 ms each, over and over", Strobe(CommonSwing, CommonPeriod)},
		{"clock-drift", "clock", caps(clock), "the daemon's clock runs ten per cent too fast", Drift(CommonDrift)},
		{"starve", "resources", caps(res), "the daemon gets a twentieth of a processor, until its life ends if the agent is killed or stays frozen", Starve(StarvedCPU)},
		{"oom-kill", "resources", caps(life, mem), "the daemon's memory limit is lowered until the kernel kills it for want of memory; healing starts the node again, without a limit", OutOfMemory},
		{"out-of-descriptors", "resources", caps(counts), "the daemon can open no more files and connections than it has; one that gives up for it has the limit again", OutOfDescriptors},
		{"out-of-threads", "resources", caps(counts), "the daemon can start no more threads than it has; a Go program that needs one ends", OutOfThreads},
		{"deafen", "network", caps(net), "nothing that other nodes send reaches the node; what it sends arrives", Deafen},
		{"mute", "network", caps(net), "nothing that the node sends reaches other nodes; what they send arrives", Mute},
	}
}

// More is how many victims beyond the first a verb needs to make sense of a cluster of three.
func (e Entry) More() int {
	switch e.Name {
	case "sever": // one from another
		return 1
	case "ring":
		return 2
	default:
		return 0
	}
}

// Lookup finds a verb of the catalogue by its name.
func Lookup(name string) (Entry, bool) {
	for _, e := range Catalogue() {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

func caps(c ...cluster.Capability) []cluster.Capability { return c }
