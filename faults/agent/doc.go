// Package agent is what faultd does inside a node's network and PID namespaces: signals to the daemon's process, its data directory,
// partitions in the kernel, connection attempts. The control stream is in protocol.go and builds everywhere; the server is Linux only.
//
// A partition lives in the kernel and has three ways to end by itself, so that no death can leave it behind:
//
//	the agent is killed          its netlink socket closes: the owned table vanishes, at once
//	the harness dies             its stream ends: the agent heals everything and exits
//	agent or harness is frozen   nobody renews: the set elements expire within Lease
package agent
