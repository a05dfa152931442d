//go:build linux

// Command faultd runs beside a node, in its network and PID namespaces, and applies faults that the harness asks for over standard
// input and output. It heals everything when that stream ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/unibus/unibus/faults/agent"
)

// version is set by the linker (-X main.version=...); without it the module's own version is used.
var version string

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("faultd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	daemons := fs.String("daemon", "membershipd,nats-server", "`names` of the programs that may be the node's daemon, separated by commas")
	dataDir := fs.String("data-dir", "", "the node's data `directory`; without it usage and wipe are refused")
	cgroups := fs.String("cgroups", "", "the `directory` where the host's control groups are mounted; without it limits on processor and memory are refused")
	showVersion := fs.Bool("version", false, "print the version and exit")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case fs.NArg() > 0:
		_, _ = fmt.Fprintf(stderr, "faultd: unexpected argument %q\n", fs.Arg(0))
		return exitUsage
	case *showVersion:
		_, _ = fmt.Fprintln(stdout, versionString())
		return exitOK
	}
	names := splitNames(*daemons)
	if len(names) == 0 {
		_, _ = fmt.Fprintln(stderr, "faultd: --daemon names no program")
		return exitUsage
	}
	return serve(&agent.Server{
		Version: versionString(), Daemon: names, DataDir: *dataDir, Cgroups: *cgroups, Log: slog.New(slog.NewTextHandler(stderr, nil)),
	}, stdin, stdout)
}

func serve(s *agent.Server, stdin io.Reader, stdout io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	err := s.Serve(ctx, stdin, stdout)
	if err != nil && !errors.Is(err, context.Canceled) {
		s.Log.Error("faultd ends", "error", err)
		return exitFailed
	}
	return exitOK
}

func splitNames(list string) []string {
	var names []string
	for n := range strings.SplitSeq(list, ",") {
		if n = strings.TrimSpace(n); n != "" {
			names = append(names, n)
		}
	}
	return names
}

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
