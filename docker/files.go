package docker

import (
	"context"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

var _ cluster.Editable = (*pod)(nil)

// Files implements cluster.Editable: the agent sees the volume too.
func (p *pod) Files(ctx context.Context) (fs []cluster.FileInfo, err error) {
	err = p.ctl.Call(ctx, agent.MethodFiles, nil, &fs)
	return fs, err
}

// ReadFile implements cluster.Editable.
func (p *pod) ReadFile(ctx context.Context, path string, offset int64, n int) (b []byte, err error) {
	err = p.ctl.Call(ctx, agent.MethodRead, agent.ReadParams{Path: path, Offset: offset, Bytes: n}, &b)
	return b, err
}

// Edit implements cluster.Editable. No daemon can be started meanwhile.
func (p *pod) Edit(ctx context.Context, e cluster.Edit) (done cluster.Edited, err error) {
	p.starting.Lock()
	defer p.starting.Unlock()
	err = p.ctl.Call(ctx, agent.MethodEdit, e, &done)
	return done, err
}
