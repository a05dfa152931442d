// Package replicas writes down, for the record of a run, what package store reads from the files of stopped nodes.
package replicas

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/store"
)

// Source is how a record of a run names copies that were read from files.
const Source = "blocks"

// Read reads every stream below root and returns one record per stream. A stream that cannot be read has Err set; the error
// is for the store as a whole. The times of the records are left to whoever writes them down.
func Read(ctx context.Context, root, nodeID string) ([]history.Replica, error) {
	return ReadAt(ctx, root, nodeID, time.Now())
}

// ReadAt is Read at a given time, see Stream.ReadAt: nodes that are compared must be read with the same one.
func ReadAt(ctx context.Context, root, nodeID string, at time.Time) ([]history.Replica, error) {
	streams, err := store.Streams(root)
	if err != nil {
		return nil, fmt.Errorf("read store of %s: %w", nodeID, err)
	}
	out := make([]history.Replica, 0, len(streams))
	for _, s := range streams {
		c, err := s.ReadAt(ctx, at)
		if ctxErr := ctx.Err(); err != nil && ctxErr != nil && errors.Is(err, ctxErr) {
			return nil, fmt.Errorf("read store of %s: %w", nodeID, err)
		}
		out = append(out, Record(nodeID, s, c, err))
	}
	return out, nil
}

// Record is the record of one copy, or of the failure to read it.
func Record(nodeID string, s store.Stream, c store.Copy, err error) history.Replica {
	r := history.Replica{Node: nodeID, Target: s.Target(), Source: Source, Replicas: s.Config.Replicas}
	if err != nil {
		r.Err = err.Error()
		return r
	}
	r.First, r.Last, r.Msgs, r.Bytes = c.First, c.Last, c.Msgs, c.Bytes
	r.Deleted, r.Digest, r.Damaged = c.Deleted, c.Digest, c.Corrupt()
	return r
}
