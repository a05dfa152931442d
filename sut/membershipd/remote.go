package membershipd

import (
	"context"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	remoteInterval = 300 * time.Millisecond  // between two questions to the leader of a bucket that is not held here
	remoteTimeout  = 1500 * time.Millisecond // questions overlap: one that is asked during an election is never answered
)

// remoteInfos asks the leaders of streams of which this node holds no replica (R1 elsewhere). A leader that answers is up.
type remoteInfos struct {
	js jsAPI

	mu     sync.Mutex
	wanted []string
	infos  map[string]remoteInfo
}

type remoteInfo struct {
	asked    time.Time // when the question was sent that was answered last
	leader   string
	replicas int
	bytes    uint64
	maxBytes uint64
}

func newRemoteInfos(js jsAPI) *remoteInfos {
	return &remoteInfos{js: js, infos: map[string]remoteInfo{}}
}

// want replaces the list of streams to ask for.
func (r *remoteInfos) want(streams []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = streams
}

func (r *remoteInfos) fill(f *health.BucketFacts, stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, ok := r.infos[stream]
	if !ok {
		return
	}
	f.Replicas, f.Leader, f.RemoteAge = info.replicas, info.leader, time.Since(info.asked)
	f.Bytes, f.MaxBytes = info.bytes, info.maxBytes
}

func (r *remoteInfos) run(ctx context.Context) {
	t := time.NewTicker(remoteInterval)
	defer t.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		r.mu.Lock()
		streams := r.wanted
		r.mu.Unlock()
		for _, s := range streams {
			wg.Go(func() { r.ask(ctx, s) })
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *remoteInfos) ask(ctx context.Context, stream string) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	asked := time.Now()
	info, err := r.js.streamInfo(ctx, stream)
	if err != nil || info.Cluster == nil {
		return // the age of the last answer says it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if asked.After(r.infos[stream].asked) {
		r.infos[stream] = remoteInfo{asked: asked, leader: info.Cluster.Leader, replicas: info.Config.Replicas,
			bytes: info.State.Bytes, maxBytes: uint64(max(info.Config.MaxBytes, 0))}
	}
}
