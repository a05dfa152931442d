package loopback

import (
	"fmt"
	"syscall"
)

// reserve binds a socket that never listens. On Linux the daemon can still bind the same port, because both set SO_REUSEADDR and only
// one listens; but nobody is given the port by chance, neither a connection that goes out nor a listener on port 0. The kernel gives the
// reservation up when this process dies.
func reserve() (Port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return Port{}, fmt.Errorf("open socket: %w", err)
	}
	n, err := bindAny(fd)
	if err != nil {
		_ = syscall.Close(fd) // nothing is bound
		return Port{}, err
	}
	return Port{Addr: address(n), hold: func() error { return syscall.Close(fd) }}, nil
}

func bindAny(fd int) (int, error) {
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	// After bind: before it, the kernel might choose a port that somebody else has bound in the same way.
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("share port: %w", err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("read port: %w", err)
	}
	in4, ok := sa.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("read port: unexpected address %T", sa)
	}
	return in4.Port, nil
}
