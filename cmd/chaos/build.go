package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/unibus/unibus/docker"
	"github.com/unibus/unibus/faults/powerfs/host"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/scenarios/suite"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/subject"
)

// usage marks an error as bad input, or as a machine that lacks what is needed.
func usage(err error) error { return &exitError{code: exitUsage, err: err} }

func newSession(f *runFlags, out io.Writer) *session {
	began := time.Now()
	return &session{flags: f, out: out, named: f.scenario != "", began: began, note: notes(f, out, began)}
}

// build makes the binaries, and on Docker their images, once for all processes of the suite.
func (s *session) build(ctx context.Context) error {
	opts := subject.Options{}
	if s.cfg.Backend == docker.Name {
		opts.GOOS = "linux"
	}
	opts.Source = s.tree
	began := time.Now()
	sub, err := s.underTest(ctx, opts)
	if err != nil {
		return usage(err)
	}
	version, err := subject.Embedded(s.tree)
	if err != nil {
		return usage(err)
	}
	plain, err := subject.Resolve(ctx, string(cluster.NATSServer)+"@"+version, opts)
	if err != nil {
		return usage(err)
	}
	s.cfg.Subject, s.cfg.Plain = suite.Binary{Subject: sub, File: sub.Path}, suite.Binary{Subject: plain, File: plain.Path}
	if s.cfg.Backend == docker.Name {
		if s.cfg.Agent, err = subject.Agent(ctx, opts); err != nil {
			return usage(err)
		}
		if s.cfg.Holder, err = subject.Holder(ctx, opts); err != nil {
			return usage(err)
		}
	}
	if host.Unavailable() == "" {
		if s.cfg.PowerFS, err = subject.PowerFS(ctx, opts); err != nil {
			return usage(err)
		}
	}
	if err := s.buildEarlier(ctx, opts, sub, plain); err != nil {
		return err
	}
	s.note("built %s (%s) in %v", sub, short(sub.Digest), time.Since(began).Round(time.Second))
	return s.describe(ctx)
}

// underTest is the binary that was given, or else one that is built or in the cache.
func (s *session) underTest(ctx context.Context, opts subject.Options) (cluster.Subject, error) {
	if s.flags.binary == "" {
		return subject.Resolve(ctx, s.flags.sut, opts)
	}
	sub, err := subject.ResolveFile(cluster.Membershipd, s.flags.binary)
	if err != nil {
		return sub, fmt.Errorf("--binary: %w", err)
	}
	return sub, nil
}

// buildEarlier makes what upgrades begin with, if one of the chosen scenarios is one. That it cannot be had is the scenario's NOT RUN, except where
// the user named a file.
func (s *session) buildEarlier(ctx context.Context, opts subject.Options, sub, plain cluster.Subject) error {
	targets := map[cluster.Kind]cluster.Subject{}
	for _, sc := range s.list {
		switch {
		case sc.Upgrade && sc.Control:
			targets[plain.Kind] = plain
		case sc.Upgrade:
			targets[sub.Kind] = sub
		}
	}
	for kind, to := range targets {
		from, err := s.earlier(ctx, opts, to, kind == sub.Kind)
		if err != nil {
			return err
		}
		if from.Path == "" {
			continue
		}
		s.cfg.Earlier = append(s.cfg.Earlier, suite.Binary{Subject: from, File: from.Path})
		s.note("upgrades begin with %s %s (%s)", kind, from.Version, short(from.Digest))
	}
	return nil
}

// earlier is one of them; without a path if it cannot be had.
func (s *session) earlier(ctx context.Context, opts subject.Options, to cluster.Subject, underTest bool) (cluster.Subject, error) {
	if s.flags.previous != "" && underTest {
		from, err := subject.ResolveFile(to.Kind, s.flags.previous)
		if err != nil {
			return from, usage(fmt.Errorf("--previous: %w", err))
		}
		return from, nil
	}
	from, err := subject.Previous(ctx, to, opts)
	if err == nil {
		return from, nil
	}
	s.cfg.NoUpgrade = err.Error()
	s.note("no previous build of %s: %v", to.Kind, err)
	return cluster.Subject{}, ctx.Err()
}

// thisHarness is this very program, as proofs name it.
func thisHarness() reports.Subject {
	h := reports.Subject{Kind: "chaos", Version: harnessVersion()}
	if exe, err := os.Executable(); err == nil {
		if d, err := subject.Digest(exe); err == nil {
			h.Digest = d
		}
	}
	return h
}

// describe fills in what proofs say about harness and machine, and makes the images.
func (s *session) describe(ctx context.Context) error {
	s.cfg.Env = hostEnvironment(s.flags.procs)
	s.cfg.Env.Backend = s.cfg.Backend
	s.cfg.Harness = thisHarness()
	if s.cfg.Backend != docker.Name {
		return nil
	}
	engine, err := docker.Engine(ctx)
	if err != nil {
		return usage(err)
	}
	s.cfg.Env.Engine = engine
	d, err := docker.New(ctx, docker.Options{Holder: s.cfg.Holder, Agent: s.cfg.Agent})
	if err != nil {
		return usage(err)
	}
	defer func() { _ = d.Close() }() // only built images
	began := time.Now()
	paths := []string{s.cfg.Subject.File, s.cfg.Plain.File}
	for _, e := range s.cfg.Earlier {
		paths = append(paths, e.File)
	}
	for _, path := range paths {
		if err := d.Prepare(ctx, path); err != nil {
			return usage(err)
		}
	}
	s.cfg.Env.Images = d.Images()
	s.note("images FROM scratch are there (%v)", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// prepareBench prepares as much as benchmarks need.
func (s *session) prepareBench(ctx context.Context) error {
	s.cfg = suite.Config{RunID: newRunID(), Seed: 1}
	var err error
	if s.tree, err = subject.FindSource("."); err != nil {
		return usage(err)
	}
	if err := s.chooseBackend(ctx); err != nil {
		return err
	}
	return s.build(ctx)
}

func short(digest string) string {
	if len(digest) > 19 {
		return digest[:19]
	}
	return digest
}
