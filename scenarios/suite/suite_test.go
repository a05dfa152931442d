package suite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios"
	"github.com/unibus/unibus/scenarios/suite"
)

// A scenario that hangs is interrupted by Ginkgo after this long, and then has the grace period to remove its cluster.
const (
	specTimeout = 30 * time.Minute // for the room that it needs, too
	fullTimeout = 3 * time.Hour
	gracePeriod = 3 * time.Minute
)

// TestScenarios is the entry that the chaos command starts. Without a prepared configuration there is no cluster to test: the unit tests of
// the packages run alone, and say so.
func TestScenarios(t *testing.T) {
	cfg, ok, err := suite.ReadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Skip("scenarios run through 'make chaos' (go run ./cmd/chaos run), which builds what they need")
	}
	list, err := cfg.Select()
	if err != nil {
		t.Fatal(err)
	}
	set, err := cfg.Open(t.Context(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := set.Backend.Close(); err != nil {
			t.Errorf("close the backend: %v", err)
		}
	}()
	progress, gone, err := progressTo(os.Getenv(suite.ProgressEnv))
	if err != nil {
		t.Fatal(err)
	}
	set.Progress = progress
	specs(list, set, cfg, gone)
	sc, rc := GinkgoConfiguration()
	rc.GithubOutput = os.Getenv("GITHUB_ACTIONS") == "true"
	RunSpecs(t, "unibus chaos", sc, rc)
}

func specs(list []scenarios.Scenario, set scenarios.Settings, cfg suite.Config, gone <-chan struct{}) {
	timeout := specTimeout + 3*cfg.Nemesis.For // its waits for convergence are not in its length
	if cfg.Full {
		timeout = fullTimeout
	}
	Describe("a cluster of three", func() {
		for _, s := range list {
			It(s.Name+": "+s.Doc, Label(s.Family), SpecTimeout(timeout), GracePeriod(gracePeriod), func(ctx SpecContext) {
				run, stop := until(ctx, gone)
				defer stop()
				leave, err := suite.Enter(run, s.Name, set.Progress)
				if err != nil {
					Fail("the harness failed: " + err.Error())
				}
				defer leave()
				p, dir, err := scenarios.Execute(run, s, set)
				if err != nil {
					Fail("the harness failed: " + err.Error())
				}
				AddReportEntry("proof", dir)
				switch p.Status {
				case reports.StatusPass:
				case reports.StatusNotRun:
					Skip("NOT RUN: " + p.Why)
				default:
					Fail(string(p.Status) + ": " + p.Why)
				}
			})
		}
	})
}

// errGone ends scenarios whose command died without a word, by SIGKILL or with its machine's memory: nobody waits for them, and nobody will
// interrupt them.
var errGone = errors.New("the command that started this run is gone")

// until gives a context that also ends when gone is closed. It is not a signal to this process: Ginkgo takes a second one as the wish to
// skip the removal of clusters.
func until(ctx context.Context, gone <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-gone:
			cancel(errGone)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// progressTo sends each line to the command's socket. The command never writes to it, so that whatever ends the wait to read means that it is
// gone; then the channel is closed. Without a path there is no command, and a scenario runs to its end.
func progressTo(path string) (func(scenarios.Progress), <-chan struct{}, error) {
	if path == "" {
		return nil, nil, nil
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn) // how it ended does not matter
		close(gone)
	}()
	var mu sync.Mutex
	enc := json.NewEncoder(conn)
	return func(p scenarios.Progress) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(p) // only a display
	}, gone, nil
}
