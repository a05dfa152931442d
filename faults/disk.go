package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// Place names a file in a node's data directory by what it is. nats-server v2.9 to v2.15 lay their stores out alike.
type Place struct {
	name string
	find func(files []cluster.FileInfo) (cluster.FileInfo, error)
}

// String is "block 1 of BUS/ORDERS".
func (p Place) String() string { return p.name }

// ErrNoFile means that a node has no file of that sort.
var ErrNoFile = errors.New("the node has no such file")

// Layout of a store below the data directory: jetstream/ACCOUNT/streams/STREAM and, for the logs of Raft groups, jetstream/SYSTEM/_js_/GROUP.
const (
	blockExt   = ".blk"
	streamGlob = "jetstream/%s/streams/%s/%s"
	raftGlob   = "jetstream/*/_js_/%s/%s"
	metaGroup  = "_meta_"
)

// StreamBlock is the n-th block of messages of a stream that is still there, counted from 1 for the oldest; 0 means the newest.
func StreamBlock(account, stream string, n int) Place {
	return Place{fmt.Sprintf("block %d of %s/%s", n, account, stream), func(files []cluster.FileInfo) (cluster.FileInfo, error) {
		found := glob(files, fmt.Sprintf(streamGlob, account, stream, "msgs/*"+blockExt))
		slices.SortFunc(found, func(a, b cluster.FileInfo) int { return blockNumber(a) - blockNumber(b) })
		if n > len(found) || len(found) == 0 {
			return cluster.FileInfo{}, fmt.Errorf("%w: %d blocks", ErrNoFile, len(found))
		}
		if n == 0 {
			n = len(found)
		}
		return found[n-1], nil
	}}
}

// StreamIndex is the index of a stream's blocks.
func StreamIndex(account, stream string) Place {
	return newest(fmt.Sprintf("index of %s/%s", account, stream), fmt.Sprintf(streamGlob, account, stream, "msgs/index.db"))
}

// ConsumerState is what a consumer has delivered and acknowledged.
func ConsumerState(account, stream, consumer string) Place {
	return newest(fmt.Sprintf("state of consumer %s of %s/%s", consumer, account, stream), fmt.Sprintf(streamGlob, account, stream, "obs/"+consumer+"/o.dat"))
}

// MetaSnapshot is the newest snapshot of the meta group.
func MetaSnapshot() Place {
	return newest("meta snapshot", fmt.Sprintf(raftGlob, metaGroup, "snapshots/snap.*"))
}

// StreamSnapshot is the newest snapshot of any stream's Raft group: in a cluster with one stream, of that one.
func StreamSnapshot() Place {
	return newest("stream snapshot", fmt.Sprintf(raftGlob, "S-*", "snapshots/snap.*"))
}

// RaftLog is the newest block of the log of a group whose name fits the pattern: "_meta_", "S-*" for streams, "C-*" for consumers.
func RaftLog(group string) Place {
	return newest("Raft log of "+group, fmt.Sprintf(raftGlob, group, "msgs/*"+blockExt))
}

// newest is the file that was changed last among those that fit; of equals the last by name.
func newest(name, pattern string) Place {
	return Place{name, func(files []cluster.FileInfo) (cluster.FileInfo, error) {
		found := glob(files, pattern)
		if len(found) == 0 {
			return cluster.FileInfo{}, ErrNoFile
		}
		return slices.MaxFunc(found, func(a, b cluster.FileInfo) int {
			return or2(a.Modified.Compare(b.Modified), strings.Compare(a.Path, b.Path))
		}), nil
	}}
}

func or2(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func glob(files []cluster.FileInfo, pattern string) []cluster.FileInfo {
	return slices.DeleteFunc(slices.Clone(files), func(f cluster.FileInfo) bool {
		ok, err := path.Match(pattern, f.Path)
		return err != nil || !ok
	})
}

func blockNumber(f cluster.FileInfo) int {
	n, err := strconv.Atoi(strings.TrimSuffix(path.Base(f.Path), blockExt))
	if err != nil {
		return 0
	}
	return n
}

// Damage makes the edit for one file of one node, whose bytes read returns.
type Damage struct {
	verb string
	edit func(f cluster.FileInfo, read func(offset int64, n int) ([]byte, error)) (cluster.Edit, error)
}

// BitFlip inverts the lowest bit of the byte at that share of the file, from 0 to 1.
func BitFlip(share float64) Damage {
	return Damage{"bit-flip", func(f cluster.FileInfo, read func(int64, int) ([]byte, error)) (cluster.Edit, error) {
		at := min(int64(share*float64(f.Size)), f.Size-1)
		b, err := read(max(at, 0), 1)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("flip a bit of %s: the file is empty", f.Path)
		}
		if err != nil {
			return cluster.Edit{}, err
		}
		return cluster.Edit{Path: f.Path, Kind: cluster.EditWrite, Offset: at, Data: []byte{b[0] ^ 1}}, nil
	}}
}

// Truncate cuts a file off at that share of it, from 0 to 1.
func Truncate(share float64) Damage {
	return Damage{"truncate", func(f cluster.FileInfo, _ func(int64, int) ([]byte, error)) (cluster.Edit, error) {
		return cluster.Edit{Path: f.Path, Kind: cluster.EditTruncate, Offset: int64(share * float64(f.Size))}, nil
	}}
}

// Delete removes a file.
func Delete() Damage {
	return Damage{"delete", func(f cluster.FileInfo, _ func(int64, int) ([]byte, error)) (cluster.Edit, error) {
		return cluster.Edit{Path: f.Path, Kind: cluster.EditRemove}, nil
	}}
}

// Rollback puts an earlier copy of a piece of the file back: a write that the disk lost later.
func Rollback(c Chunk) Damage {
	return Damage{"rollback", func(f cluster.FileInfo, _ func(int64, int) ([]byte, error)) (cluster.Edit, error) {
		if f.Path != c.Path {
			return cluster.Edit{}, fmt.Errorf("roll %s back: the earlier copy is of %s", f.Path, c.Path)
		}
		return cluster.Edit{Path: f.Path, Kind: cluster.EditWrite, Offset: c.Offset, Data: c.Data}, nil
	}}
}

// Chunk is a piece of a file as it was.
type Chunk struct {
	Path   string
	Offset int64
	Data   []byte
}

// ReadChunk copies up to n bytes of a node's file, for a Rollback; 32 KiB at most. The daemon may run.
func ReadChunk(ctx context.Context, node cluster.Node, p Place, offset int64, n int) (Chunk, error) {
	e, f, err := locate(ctx, node, p)
	if err != nil {
		return Chunk{}, err
	}
	b, err := e.ReadFile(ctx, f.Path, offset, n)
	return Chunk{Path: f.Path, Offset: offset, Data: b}, nodeError(node.ID(), "read "+p.name+" of", err)
}

// locate finds the file of one node.
func locate(ctx context.Context, node cluster.Node, p Place) (cluster.Editable, cluster.FileInfo, error) {
	e, ok := node.(cluster.Editable)
	if !ok {
		return nil, cluster.FileInfo{}, fmt.Errorf("reach files of %s: %w", node.ID(), ErrUnsupported)
	}
	files, err := e.Files(ctx)
	if err != nil {
		return nil, cluster.FileInfo{}, nodeError(node.ID(), "list files of", err)
	}
	f, err := p.find(files)
	return e, f, nodeError(node.ID(), "find the "+p.name+" of", err)
}

// Disk damages the same place of every victim; the daemons must not run. Nothing brings the bytes back but the node's peers once it is
// started: healing forgets the fault. The bytes before and after stand in the probe's observation.
func Disk(d Damage, p Place) Verb {
	return func(victims ...cluster.NodeID) Fault {
		return &disk{target: newTarget(d.verb+" "+p.name+" of ", victims), damage: d, place: p}
	}
}

// disk is one damage at one place of stopped nodes.
type disk struct {
	target

	damage Damage
	place  Place

	mu     sync.Mutex
	done   map[cluster.NodeID]cluster.Edited
	before map[cluster.NodeID]cluster.FileInfo // the file of each other node, for the bystander's probe
	healed bool
}

// Needs lists the capabilities that a backend must have.
func (d *disk) Needs() []cluster.Capability { return []cluster.Capability{cluster.CapStorage} }

// Inject is refused as a whole while one of the victims runs.
func (d *disk) Inject(ctx context.Context, c cluster.Cluster) error {
	victims, err := d.stopped(ctx, c, "damage "+d.place.name+" of")
	if err != nil {
		return err
	}
	others := d.filesOf(ctx, without(c, d.victims))
	done, err := ask(victims, func(n cluster.Node) (cluster.Edited, error) { return d.damageOne(ctx, n) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done, d.before, d.healed = done, others, false
	return err
}

func (d *disk) damageOne(ctx context.Context, n cluster.Node) (cluster.Edited, error) {
	e, f, err := locate(ctx, n, d.place)
	if err != nil {
		return cluster.Edited{}, err
	}
	edit, err := d.damage.edit(f, func(offset int64, k int) ([]byte, error) { return e.ReadFile(ctx, f.Path, offset, k) })
	if err != nil {
		return cluster.Edited{}, nodeError(n.ID(), "damage "+d.place.name+" of", err)
	}
	done, err := e.Edit(ctx, edit)
	return done, nodeError(n.ID(), "damage "+d.place.name+" of", err)
}

// filesOf finds the same place of other nodes that do not run: files of a running one change by themselves.
func (d *disk) filesOf(ctx context.Context, nodes []cluster.Node) map[cluster.NodeID]cluster.FileInfo {
	found := map[cluster.NodeID]cluster.FileInfo{}
	for _, n := range nodes {
		if s, err := n.State(ctx); err != nil || s.Running {
			continue
		}
		if _, f, err := locate(ctx, n, d.place); err == nil {
			found[n.ID()] = f
		}
	}
	return found
}

// Heal forgets the fault.
func (d *disk) Heal(_ context.Context, c cluster.Cluster) error {
	if _, err := d.nodes(c); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.healed = true
	return nil
}

func (d *disk) noted() (map[cluster.NodeID]cluster.Edited, map[cluster.NodeID]cluster.FileInfo, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.done), maps.Clone(d.before), d.healed
}

// InForce reads the damaged place again: the bytes really are others than before, and the daemon has not run since.
func (d *disk) InForce(ctx context.Context, c cluster.Cluster) (Observation, error) {
	victims, err := d.nodes(c)
	if err != nil {
		return Observation{}, err
	}
	state, err := states(ctx, victims)
	if err != nil {
		return Observation{}, err
	}
	done, _, healed := d.noted()
	found := map[cluster.NodeID]finding{}
	for _, n := range victims {
		e, injected := done[n.ID()]
		if !injected {
			found[n.ID()] = finding{detail: "the " + d.place.name + " is as it was"}
			continue
		}
		f, err := look(ctx, n, e)
		if err != nil {
			return Observation{}, err
		}
		if healed || state[n.ID()].Running {
			f.presence = none
		}
		f.detail += " (" + describe(state[n.ID()]) + ")"
		found[n.ID()] = f
	}
	return summarize(d.victims, found), nil
}

// look compares the file with what it was before the edit.
func look(ctx context.Context, n cluster.Node, e cluster.Edited) (finding, error) {
	ed, ok := n.(cluster.Editable)
	if !ok {
		return finding{}, fmt.Errorf("reach files of %s: %w", n.ID(), ErrUnsupported)
	}
	files, err := ed.Files(ctx)
	if err != nil {
		return finding{}, nodeError(n.ID(), "list files of", err)
	}
	f := finding{figures: map[string]float64{"offset": float64(e.Offset), "size_before": float64(e.SizeBefore), "size": -1}}
	i := slices.IndexFunc(files, func(x cluster.FileInfo) bool { return x.Path == e.Path })
	if i < 0 {
		f.presence, f.detail = full, fmt.Sprintf("%s is gone, it had %d bytes: %s...", e.Path, e.SizeBefore, hexOf(e.Before))
		return f, nil
	}
	now, err := ed.ReadFile(ctx, e.Path, e.Offset, max(1, len(e.Before)))
	if err != nil {
		return finding{}, nodeError(n.ID(), "read "+e.Path+" of", err)
	}
	f.figures["size"] = float64(files[i].Size)
	f.detail = fmt.Sprintf("%s at %d: %s, before %s; %d bytes, before %d", e.Path, e.Offset, hexOf(now), hexOf(e.Before), files[i].Size, e.SizeBefore)
	if files[i].Size != e.SizeBefore || !bytes.Equal(now, e.Before) {
		f.presence = full
	}
	return f, nil
}

// hexOf is some bytes for a sentence.
func hexOf(b []byte) string {
	if len(b) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%x", b[:min(len(b), 16)])
}

// Bystander looks whether the same place of another stopped node has changed.
func (d *disk) Bystander(ctx context.Context, c cluster.Cluster) (Observation, bool, error) {
	return d.bystanderExcept(ctx, c, d.victims)
}

func (d *disk) bystanderExcept(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	_, before, _ := d.noted()
	others := slices.DeleteFunc(without(c, exclude), func(n cluster.Node) bool { _, known := before[n.ID()]; return !known })
	now := d.filesOf(ctx, others)
	var ids []cluster.NodeID
	found := map[cluster.NodeID]finding{}
	stray := false
	for id, f := range now {
		ids = append(ids, id)
		same := f == before[id]
		stray = stray || !same
		found[id] = finding{detail: fmt.Sprintf("%s: %d bytes, changed %s, the same as before: %t", f.Path, f.Size, f.Modified.UTC().Format(time.RFC3339Nano), same)}
	}
	if len(ids) == 0 {
		return Observation{}, false, nil
	}
	slices.Sort(ids)
	o := summarize(ids, found)
	o.InForce, o.Partial = stray, false
	return o, true, nil
}
