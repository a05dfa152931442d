// Command membershipd runs a node of a unibus cluster, and administers a running cluster.
//
// Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signals()
	defer stop()
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// signals returns a context that ends with the first SIGTERM or SIGINT; the second ends the process at once.
func signals() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-ch
		cancel()
		<-ch
		os.Exit(exitFailed)
	}()
	return ctx, cancel
}

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	root := newRoot(getenv) //nolint:contextcheck // the commands take the context from ExecuteContext below
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintln(stderr, "membershipd: "+explain(err)) // nobody is left to tell
	return exitCode(err)
}

// errFailed marks what was understood, tried and did not work; every other error is one of usage.
type errFailed struct{ error }

// Unwrap implements errors.Unwrap.
func (e errFailed) Unwrap() error { return e.error }

// exactly wants so many arguments, and says which.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return fmt.Errorf("want %d argument(s), got %d: %s", n, len(args), c.UseLine())
	}
}

func failed(err error) error {
	if err == nil {
		return nil
	}
	return errFailed{err}
}

func exitCode(err error) int {
	var refused *control.Error
	var tried errFailed
	switch {
	case errors.Is(err, membershipd.ErrConfig):
		return exitUsage
	case errors.As(err, &refused), errors.As(err, &tried):
		return exitFailed
	}
	return exitUsage
}
