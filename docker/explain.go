package docker

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers test for.
var (
	ErrNoEngine = errors.New("no Docker engine answers")
	// ErrSilentEngine is of an engine that is there and may well have containers of ours.
	ErrSilentEngine = errors.New("the Docker engine takes connections, but does not answer")
	ErrDiskFull     = errors.New("the disk of the Docker engine is full")
	ErrPortTaken    = errors.New("a port that the cluster needs is taken")
	ErrNoNetwork    = errors.New("the Docker engine has no address range left for another network ('chaos sweep' removes what dead runs left)")
	ErrNameTaken    = errors.New("a cluster of that run and name is there already")
)

// signs are what the engine says, which gives most of its errors as text only.
var signs = []struct {
	text string
	err  error
}{
	{"no space left on device", ErrDiskFull},
	{"port is already allocated", ErrPortTaken},
	{"address already in use", ErrPortTaken},
	{"could not find an available, non-overlapping", ErrNoNetwork},
	{"all predefined address pools have been fully subnetted", ErrNoNetwork},
	{"is already in use by container", ErrNameTaken},
	{"network with name unibus-", ErrNameTaken},
	{"Cannot connect to the Docker daemon", ErrNoEngine},
	{"connection refused", ErrNoEngine},
	{"docker.sock: connect:", ErrNoEngine},
}

// one makes a single sentence of the errors of several nodes, which mostly have the same cause.
func one(err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err
	}
	all := joined.Unwrap()
	if len(all) == 1 {
		return all[0]
	}
	return fmt.Errorf("%w (%d more nodes failed)", all[0], len(all)-1)
}

// explain puts a sentence before an engine's error where there is one.
func explain(err error) error {
	if err == nil {
		return nil
	}
	for _, s := range signs {
		if strings.Contains(err.Error(), s.text) && !errors.Is(err, s.err) {
			return fmt.Errorf("%w: %w", s.err, err)
		}
	}
	return err
}
