package faults

import (
	"errors"
	"fmt"

	"github.com/unibus/unibus/sut/cluster"
)

// Errors that callers test for.
var (
	ErrUnscoped    = errors.New("a fault without victims is refused: it would hit nothing, or everything")
	ErrUnknownNode = errors.New("the cluster has no such node")
	ErrUnsupported = errors.New("the backend's nodes cannot do this")
	ErrNoTarget    = errors.New("no node fits the selector")

	ErrAlready    = errors.New("the fault looks in force before it was injected")
	ErrNotInForce = errors.New("the fault was not seen in force")
	ErrNotHealed  = errors.New("the fault was not seen gone after it was healed")
	ErrBystander  = errors.New("the fault was seen on a node that it must not touch")
)

// StageError is one of the errors above with what the probe saw last.
type StageError struct {
	Fault string
	Last  Observation
	Err   error
}

// Error gives the fault, what went wrong and the probe's last words.
func (e *StageError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Fault, e.Err, e.Last.Detail) }

// Unwrap gives the error that callers test for.
func (e *StageError) Unwrap() error { return e.Err }

func nodeError(id cluster.NodeID, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, id, err)
}
