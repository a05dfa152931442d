package process

import (
	"errors"
	"fmt"
	"net"

	"github.com/unibus/unibus/sut/loopback"
)

// ErrPortTaken means that another program listens on a port that belongs to a node.
var ErrPortTaken = errors.New("another process listens there")

// ports are those of one node, the same for all of its lives.
type ports struct{ client, cluster, http, monitor loopback.Port }

// reserve takes four ports that nobody uses.
func reserve() (ports, error) {
	all, err := loopback.ReserveAll(4)
	if err != nil {
		return ports{}, err
	}
	return ports{client: all[0], cluster: all[1], http: all[2], monitor: all[3]}, nil
}

func (p *ports) all() []*loopback.Port {
	return []*loopback.Port{&p.client, &p.cluster, &p.http, &p.monitor}
}

// free is an error when somebody else listens on one of them.
func (p *ports) free() error {
	for _, one := range p.all() {
		l, err := net.Listen("tcp4", one.Addr)
		if err != nil {
			return fmt.Errorf("the port %s is taken: %w", one.Addr, errors.Join(ErrPortTaken, err))
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("try port %s: %w", one.Addr, err)
		}
	}
	return nil
}

func (p *ports) release() error {
	var errs []error
	for _, one := range p.all() {
		errs = append(errs, one.Release())
	}
	return errors.Join(errs...)
}
