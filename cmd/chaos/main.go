// Command chaos tests a cluster of membershipd, or of plain nats-server, under faults, and writes proofs that others can check again.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	// The first signal cancels: scenarios stop, clusters are removed, evidence is kept. A second one ends at once; 'chaos sweep' then cleans up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-ctx.Done(); stop() }()
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := rootCmd() //nolint:contextcheck // cobra hands the context to each command
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage
	var e *exitError
	if errors.As(err, &e) {
		code, err = e.code, e.err
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos: "+oneLine(err.Error()))
	}
	return code
}

// oneLine makes one sentence of joined errors.
func oneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

// flagError says what a flag wants, in words of the command line.
func flagError(_ *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return usage(err)
	}
	wants := map[string]string{
		"uint64": "a whole number from 0 to 18446744073709551615", "int": "a whole number", "bool": "true or false", "duration": "a duration such as 2m",
	}[bad.GetFlag().Value.Type()]
	if wants == "" {
		return usage(err)
	}
	return usage(fmt.Errorf("--%s %q is not %s", bad.GetFlag().Name, bad.GetValue(), wants))
}

func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "chaos",
		Short: "Test a three-node cluster under faults, and prove what it survives",
		Long: `chaos starts three-node clusters in containers (or as child processes where there is no Docker), breaks them on purpose,
records what every client saw, judges the record, and writes a proof that anybody can check again from the evidence alone.

Exit codes: 0 pass, 1 fail, 2 bad input or a proof that does not hold, 3 inconclusive or not run.`,
		Example: `  chaos run                                  every scenario that is not nightly ('chaos list'), with its controls
  chaos run --scenario node-kill --seed 7    one of them
  chaos run --sut nats-server@v2.15.2        the same faults on plain nats-server
  chaos verify proofs/node-kill              check a proof again
  chaos gate proofs                          pass or stop a deploy
  chaos doctor                               what this machine can do`,
		SilenceUsage: true, SilenceErrors: true, DisableSuggestions: true,
		Version: harnessVersion(),
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(runCmd(), shrinkCmd(), soakCmd(), matrixCmd(), listCmd(), benchCmd(), faultsCmd(), doctorCmd(), sweepCmd(), verifyCmd(), gateCmd(), mutantsCmd(), mergeCmd(), keygenCmd(), signCmd(), admitCmd(), reportCmd(), storeCmd(), trackRecordCmd())
	return root
}

// harnessVersion is the module's version, or the commit that it was built from.
func harnessVersion() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := bi.Main.Version
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += "+" + s.Value[:12]
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v
}
