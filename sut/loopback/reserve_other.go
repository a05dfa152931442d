//go:build !linux

package loopback

import (
	"fmt"
	"net"
)

// reserve only chooses: a port that is bound here could not be bound by the daemon.
func reserve() (Port, error) {
	l, err := net.Listen("tcp4", address(0))
	if err != nil {
		return Port{}, fmt.Errorf("listen: %w", err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return Port{}, fmt.Errorf("listen: %w", err)
	}
	return Port{Addr: addr}, nil
}
