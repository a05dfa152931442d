package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

const (
	sweepPatience = 30 * time.Second // with what is in use
	sweepPause    = 200 * time.Millisecond
)

// SweepOptions says what to remove. The zero value removes what dead harnesses of this host left.
type SweepOptions struct {
	RunID  string // everything of this run, whether its harness lives or not
	Images bool   // the images too, which are a cache otherwise
}

// SweepReport counts what was removed.
type SweepReport struct {
	Containers int `json:"containers"`
	Networks   int `json:"networks"`
	Volumes    int `json:"volumes"`
	Images     int `json:"images"`
}

// sweeper removes by label.
type sweeper struct {
	cli  testcontainersClient
	opts SweepOptions
	host string
	rep  SweepReport

	errs []error // of the last pass
	busy bool    // something was in use
}

type testcontainersClient = *testcontainers.DockerClient

// Sweep removes containers, networks and volumes that carry the project's label and whose harness is dead, or that belong to one run. What a living
// harness uses is never touched.
func Sweep(ctx context.Context, opts SweepOptions) (SweepReport, error) {
	b, err := New(ctx, Options{})
	if err != nil {
		return SweepReport{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return SweepReport{}, fmt.Errorf("name this host: %w", err)
	}
	s := &sweeper{cli: b.cli, opts: opts, host: host}
	err = s.passes(ctx)
	if opts.Images {
		err = errors.Join(err, s.images(ctx))
	}
	return s.rep, errors.Join(err, b.Close())
}

// passes goes over everything again while something is still in use: another sweep may be at the same things, and the engine may still be busy with what the
// dead harness asked for last.
func (s *sweeper) passes(ctx context.Context) error {
	began := time.Now()
	for {
		s.errs, s.busy = nil, false
		s.containers(ctx)
		s.networks(ctx)
		s.volumes(ctx)
		if !s.busy || time.Since(began) > sweepPatience {
			return errors.Join(s.errs...)
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(s.errs, ctx.Err())...)
		case <-time.After(sweepPause):
		}
	}
}

func ours() client.Filters { return make(client.Filters).Add("label", labelProject+"=1") }

func (s *sweeper) wanted(labels map[string]string) bool {
	if s.opts.RunID != "" {
		return labels[labelRun] == s.opts.RunID
	}
	return dead(labels, s.host)
}

// removed counts a removal, or keeps its error. What somebody else has removed meanwhile is not counted.
func (s *sweeper) removed(n *int, what string, err error) {
	switch {
	case err == nil:
		*n++
	case !errdefs.IsNotFound(err):
		s.busy = s.busy || errdefs.IsConflict(err) || errdefs.IsPermissionDenied(err) // the engine forbids to remove a network with endpoints
		s.errs = append(s.errs, fmt.Errorf("remove %s: %w", what, err))
	}
}

func (s *sweeper) containers(ctx context.Context) {
	r, err := s.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours()})
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("list containers: %w", err))
		return
	}
	// Holders last: the others live in their namespaces.
	for _, holders := range []bool{false, true} {
		for _, c := range r.Items {
			if s.wanted(c.Labels) && (c.Labels[labelRole] == "holder") == holders {
				_, err := s.cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				s.removed(&s.rep.Containers, "container "+c.ID, err)
			}
		}
	}
}

func (s *sweeper) networks(ctx context.Context) {
	r, err := s.cli.NetworkList(ctx, client.NetworkListOptions{Filters: ours()})
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("list networks: %w", err))
		return
	}
	for _, n := range r.Items {
		if s.wanted(n.Labels) {
			_, err := s.cli.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
			s.removed(&s.rep.Networks, "network "+n.Name, err)
		}
	}
}

func (s *sweeper) volumes(ctx context.Context) {
	r, err := s.cli.VolumeList(ctx, client.VolumeListOptions{Filters: ours()})
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("list volumes: %w", err))
		return
	}
	for _, v := range r.Items {
		if s.wanted(v.Labels) {
			_, err := s.cli.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true})
			s.removed(&s.rep.Volumes, "volume "+v.Name, err)
		}
	}
}

// images removes the cache; one that a container still uses stays, and is no error.
func (s *sweeper) images(ctx context.Context) error {
	r, err := s.cli.ImageList(ctx, client.ImageListOptions{Filters: ours()})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, i := range r.Items {
		if _, err := s.cli.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{}); err == nil {
			s.rep.Images++
		}
	}
	return nil
}
