package docker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Labels of everything that is made here.
const (
	labelProject = "io.unibus.chaos" // "1"
	labelRun     = "io.unibus.run"
	labelCluster = "io.unibus.cluster"
	labelNode    = "io.unibus.node"
	labelRole    = "io.unibus.role"
	labelPID     = "io.unibus.owner.pid"
	labelStart   = "io.unibus.owner.start" // start time of that process: a pid alone comes back
	labelBoot    = "io.unibus.owner.boot"
	labelHost    = "io.unibus.owner.host"
)

// owner identifies the harness process that made something.
type owner struct{ pid, start, boot, host string }

func self() (owner, error) {
	host, err := os.Hostname()
	if err != nil {
		return owner{}, fmt.Errorf("name this host: %w", err)
	}
	pid := os.Getpid()
	return owner{pid: strconv.Itoa(pid), start: startTime(pid), boot: bootID(), host: host}, nil
}

func (o owner) labels() map[string]string {
	return map[string]string{labelProject: "1", labelPID: o.pid, labelStart: o.start, labelBoot: o.boot, labelHost: o.host}
}

// dead tells whether the owner that these labels name certainly does not live any more. Something of another host is left alone: its owner
// cannot be looked at from here.
func dead(labels map[string]string, host string) bool {
	if labels[labelProject] != "1" || labels[labelHost] != host {
		return false
	}
	if b := bootID(); b != "" && labels[labelBoot] != b {
		return true
	}
	pid, err := strconv.Atoi(labels[labelPID])
	if err != nil {
		return false
	}
	start := startTime(pid)
	if start == "" {
		return hasProc() || !exists(pid)
	}
	return start != labels[labelStart]
}

// hasProc tells whether /proc speaks for this system: then a process without a start time is gone, or a zombie, which signals still reach.
func hasProc() bool { return startTime(os.Getpid()) != "" }

// exists asks the kernel where /proc does not say.
func exists(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer func() { _ = p.Release() }() // nothing is held
	return p.Signal(nullSignal) == nil
}

// startTime is field 22 of /proc/PID/stat, or "" where there is no such process (or no /proc).
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const state, start = 0, 19 // counted from the state, which is field 3
	if len(f) <= start || f[state] == "Z" {
		return ""
	}
	return f[start]
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
