// Package loopback reserves TCP ports of 127.0.0.1 for programs that are started later.
//
// The usual way, to listen on port 0 and to close the listener again, gives the port back: the kernel may hand it to a connection that
// goes out, or to another listener, before the program binds it. Here the port stays taken until it is released. Standard library only.
package loopback

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Host is the address whose ports are reserved.
const Host = "127.0.0.1"

// Port is one reserved port.
type Port struct {
	Addr string // host:port
	hold func() error
}

// Reserve takes a port that nobody uses. A program that listens as Go's net package does can bind it, once or again and again.
// The reservation ends with Release or with this process.
func Reserve() (Port, error) {
	p, err := reserve()
	if err != nil {
		return Port{}, fmt.Errorf("reserve port: %w", err)
	}
	return p, nil
}

// ReserveAll takes n ports, or none.
func ReserveAll(n int) ([]Port, error) {
	var all []Port
	for range n {
		p, err := Reserve()
		if err != nil {
			return nil, errors.Join(err, ReleaseAll(all))
		}
		all = append(all, p)
	}
	return all, nil
}

// Release gives the port back; idempotent.
func (p *Port) Release() error {
	if p.hold == nil {
		return nil
	}
	hold := p.hold
	p.hold = nil
	return hold()
}

// ReleaseAll releases all of them.
func ReleaseAll(all []Port) error {
	var errs []error
	for i := range all {
		errs = append(errs, all[i].Release())
	}
	return errors.Join(errs...)
}

func address(n int) string { return net.JoinHostPort(Host, strconv.Itoa(n)) }
