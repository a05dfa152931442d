package main

import "fmt"

// Exit codes of chaos. A usage error or anything else that went wrong is exitUsage: no command fails with a code that reads as a pass.
const (
	exitOK           = 0
	exitFail         = 1 // a claim failed
	exitUsage        = 2 // a bad proof, policy or argument; the harness failed
	exitInconclusive = 3 // nothing was shown: not run, missing, or not judged
)

// exitError is an error with the exit code that main ends with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }

func (e *exitError) Unwrap() error { return e.err }

// exitf makes an exitError; the format may wrap.
func exitf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}
