package faults

import (
	"errors"
	"fmt"
	"slices"

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

// StageError is one of the errors above with what the probe saw last: a probe had the last word.
type StageError struct {
	Fault string
	Last  Observation
	Err   error
}

// Error gives the fault, what went wrong and the probe's last words.
func (e *StageError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Fault, e.Err, e.Last.Detail) }

// Unwrap gives the error that callers test for.
func (e *StageError) Unwrap() error { return e.Err }

// Seen tells whether an error of an [Injector] is the word of probes and of nothing else: each part of it is a [*StageError]. With any other part the harness
// itself has failed, and what that means for the cluster nobody knows.
func Seen(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !Seen(e) })
	}
	var se *StageError
	return errors.As(err, &se)
}

func nodeError(id cluster.NodeID, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, id, err)
}
