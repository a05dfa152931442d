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
	clock, res, sick := cluster.CapClock, cluster.CapResources, cluster.CapDiskFaults
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
		{"clock-forward", "clock", caps(clock), "the daemon's clock jumps an hour ahead", Jump(CommonJump)},
		{"clock-back", "clock", caps(clock), "the daemon's clock jumps an hour back", Jump(-CommonJump)},
		{"starve", "resources", caps(res), "the daemon gets a twentieth of a processor", Starve(StarvedCPU)},
		{"deafen", "network", caps(net), "nothing that other nodes send reaches the node; what it sends arrives", Deafen},
		{"mute", "network", caps(net), "nothing that the node sends reaches other nodes; what they send arrives", Mute},
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
