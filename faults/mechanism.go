package faults

// Mechanism is what makes the fault, in a few words: whoever doubts it can look there.
func (e Entry) Mechanism() string {
	if m, ok := mechanisms[e.Name]; ok {
		return m
	}
	return mechanismsOfGroups[e.Group]
}

// Of most faults the group tells it.
var mechanismsOfGroups = map[string]string{
	"process":   "signals by the agent in the node's PID namespace; the engine starts it again",
	"disk":      "the node's file system is served from outside its container (FUSE), and answers as it is told",
	"network":   "nftables: a table that the kernel drops with its owner, elements that expire unless renewed",
	"clock":     "ptrace: code in the daemon's own memory (vDSO) adds an offset that expires",
	"resources": "limits of the daemon's control group, set by the agent",
}

// Of these it does not.
var mechanisms = map[string]string{
	"wipe":          "the agent removes the files of the stopped node",
	"kill-and-wipe": "SIGKILL, then the agent removes the files of the stopped node",
	"lossy":         shapedBy, "slow": shapedBy, "duplicate": shapedBy, "corrupt": shapedBy, "reorder": shapedBy, "throttle": shapedBy,
	"out-of-descriptors": "prlimit by the agent: the soft RLIMIT_NOFILE becomes the lowest number that is not in use",
	"out-of-threads":     "pids.max of the daemon's control group, set by the agent to what is in use",
	"reset":              "nftables: reject with a TCP RST, in a table that the kernel drops with its owner",
	"half-open":          "nftables: drop by connection, from a list that the agent took; new ones are not in it",
}

const shapedBy = "packets pass the agent (NFQUEUE with bypass, rules in an owned nftables table); the kernel's netem is not used"
