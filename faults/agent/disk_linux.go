package agent

import (
	"errors"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/datadir"
)

// files lists the regular files of the data directory.
func (s storage) files() ([]cluster.FileInfo, error) {
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // read-only
	fs, err := datadir.Files(root)
	return fs, permitted(err)
}

func (s storage) read(p ReadParams) ([]byte, error) {
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // read-only
	b, err := datadir.Read(root, p.Path, p.Offset, p.Bytes)
	return b, diskError(err)
}

func (s storage) probe(p DiskProbeParams) (cluster.DiskProbe, error) {
	root, err := s.open()
	if err != nil {
		return cluster.DiskProbe{}, err
	}
	defer func() { _ = root.Close() }() // the probe has its own errors
	found, err := datadir.Probe(root, p.Under)
	return found, permitted(err)
}

// edit is refused while the daemon runs, and fails when it was started meanwhile: then nobody knows what it saw.
func (r *session) edit(e cluster.Edit) (cluster.Edited, error) {
	if err := r.refuseRunning(); err != nil {
		return cluster.Edited{}, err
	}
	root, err := r.data.open()
	if err != nil {
		return cluster.Edited{}, err
	}
	defer func() { _ = root.Close() }() // the edit has its own errors
	done, err := datadir.Apply(root, e)
	if err != nil {
		return done, diskError(err)
	}
	return done, r.refuseRunning()
}

// diskError gives an error the code that tells what was not done from what failed half-way.
func diskError(err error) error {
	if errors.Is(err, datadir.ErrBadEdit) || errors.Is(err, datadir.ErrNoChange) {
		return badRequest("%v", err)
	}
	return permitted(err)
}
