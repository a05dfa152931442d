package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// rec is one message in a block, as long as the copy is known to hold it.
type rec struct {
	seq     uint64
	ts      int64
	off     uint32
	size    uint32
	subject uint32 // number of the subject; only where the stream limits messages per subject
	dead    bool
}

// block is one block during recovery.
type block struct {
	blockFile
	fileSize    int64
	tail        [sumLen]byte
	recs        []rec // in order of sequence, without placeholders
	tombs       []uint64
	maxTomb     uint64
	first, last uint64 // as nats-server would set them
	msgs, bytes uint64
	damage      []Damage
}

// recovery computes the live set of a stream the way nats-server does when it starts.
type recovery struct {
	stream   Stream
	dir      string // of the blocks
	asOf     time.Time
	load     loader
	blocks   []*block
	full     []*block // those with messages or placeholders
	subjects map[string]uint32
	ttls     map[uint64]int64 // messages with a time to live of their own, in seconds; -1 for never
	damage   []Damage

	first, last uint64
	msgs, bytes uint64
	maxTomb     uint64 // of an audit: the last sequence that a tombstone names
}

func recoverStream(ctx context.Context, s Stream, asOf time.Time) (*recovery, error) {
	r := &recovery{stream: s, asOf: asOf, subjects: map[string]uint32{}, ttls: map[uint64]int64{}}
	r.dir = blockDir(s.Dir)
	if keys, _ := filepath.Glob(filepath.Join(r.dir, "*.key")); len(keys) > 0 { // the pattern is well-formed
		return nil, ErrEncrypted
	}
	files, err := blockFiles(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read blocks: %w", err)
		}
		if err := r.readBlock(f); err != nil {
			return nil, err
		}
	}
	if err := r.settleState(); err != nil {
		return nil, err
	}
	r.dropOverlaps()
	r.settleFirst()
	r.enforceLimits()
	r.settleFirst()
	r.collectDamage()
	return r, nil
}

// blockDir is where recovery would look: an interrupted purge has put the block that remains aside.
func blockDir(dir string) string {
	if files, err := blockFiles(filepath.Join(dir, newMsgsDir)); err == nil && len(files) > 0 {
		return filepath.Join(dir, newMsgsDir)
	}
	return filepath.Join(dir, msgsDir)
}

// readBlock scans one block. A block that cannot be read at all is damage of the copy, not the end of reading.
func (r *recovery) readBlock(f blockFile) error {
	b := &block{blockFile: f}
	r.blocks = append(r.blocks, b)
	l, ok := r.loadBlock(b)
	if !ok {
		return nil
	}
	h, err := newHash(r.stream.Config.Name + "-" + strconv.FormatUint(uint64(f.index), 10))
	if err != nil {
		return err
	}
	b.init(indexBlock{})
	gaps := scan(l.buf, h, r.newest(), func(x raw) { r.add(b, x) })
	if len(b.recs) > 0 {
		r.full = append(r.full, b)
	}
	if l.why != "" {
		b.damage = append(b.damage, Damage{Block: f.index, Kind: Unreadable, Seq: firstGuess(gaps), Why: l.why})
	}
	for _, g := range gaps {
		d := Damage{Block: f.index, Kind: Checksum, Offset: int64(g.off), Length: int64(g.size), Seq: g.seq, Why: g.why}
		if g.overrun && l.why == "" {
			d.Kind = Torn
		}
		if g.tombstone {
			d.Why += " (it was a tombstone)"
		}
		b.damage = append(b.damage, d)
	}
	return nil
}

func (r *recovery) loadBlock(b *block) (loaded, bool) {
	l, err := r.load.load(b.path)
	if err != nil {
		b.damage = append(b.damage, Damage{Block: b.index, Kind: Unreadable, Why: err.Error()})
		return l, false
	}
	b.fileSize, b.tail = l.fileSize, l.tail
	return l, true
}

// newest is the last sequence that has been read so far.
func (r *recovery) newest() uint64 {
	if len(r.full) == 0 {
		return 0
	}
	recs := r.full[len(r.full)-1].recs
	return recs[len(recs)-1].seq
}

func firstGuess(gaps []gap) uint64 {
	if len(gaps) > 0 {
		return gaps[0].seq
	}
	return 0
}

// add keeps what recovery needs of a record.
func (r *recovery) add(b *block, x raw) {
	seq := x.seq &^ seqBits
	if x.seq&tombstoneBit != 0 {
		b.tombs = append(b.tombs, seq)
		b.maxTomb = max(b.maxTomb, seq)
		return
	}
	if n := len(b.recs); n > 0 && seq <= b.recs[n-1].seq {
		return // nats-server skips a sequence that does not move up
	}
	if x.seq&erasedBit != 0 || seq == 0 {
		b.recs = append(b.recs, rec{seq: seq, dead: true})
		return
	}
	b.recs = append(b.recs, r.keep(x))
}

func (r *recovery) keep(x raw) rec {
	out := rec{seq: x.seq, ts: x.ts, off: uint32(x.off), size: uint32(x.size)}
	c := r.stream.Config
	if c.MaxMsgsPer > 0 {
		n, ok := r.subjects[string(x.subject)]
		if !ok {
			n = uint32(len(r.subjects))
			r.subjects[string(x.subject)] = n
		}
		out.subject = n
	}
	if c.AllowMsgTTL && len(x.header) > 0 {
		if ttl := messageTTL(x.header); ttl != 0 {
			r.ttls[x.seq] = ttl
		}
	}
	return out
}

// init forgets what is known of a block's state, except what an index has said.
func (b *block) init(x indexBlock) { b.first, b.last, b.msgs, b.bytes = x.first, 0, 0, 0 }

// rebuild computes the block's state from its records, which is what recovery does without a current index. x is what an old
// N.idx remembers of deletions at the block's head.
func (b *block) rebuild(x indexBlock) {
	b.init(x)
	var last uint64
	needFirst := true
	for i := range b.recs {
		p := &b.recs[i]
		if placeholder := p.size == 0; placeholder || p.seq < b.first {
			p.dead = true
			if p.seq >= b.first {
				last = max(last, p.seq)
				if b.msgs == 0 {
					b.first = p.seq + 1
				}
			}
			continue
		}
		if needFirst {
			b.first, needFirst = p.seq, false
		}
		if p.seq <= last {
			p.dead = true
			continue
		}
		last = p.seq
		if p.dead = x.deleted.has(p.seq); !p.dead {
			b.msgs, b.bytes = b.msgs+1, b.bytes+uint64(p.size)
		}
	}
	b.last = last
	if b.msgs > 0 {
		return
	}
	switch {
	case b.first > 0:
		b.last = b.first - 1
	case b.maxTomb > 0:
		b.first = b.maxTomb + 1
		b.last = max(b.last, b.maxTomb)
		if last > 0 {
			b.last = last
		}
	}
}

// adopt takes the block's state from an index and says where the records disagree with it.
func (b *block) adopt(x indexBlock) {
	b.init(x)
	b.last = x.last
	var last uint64
	for i := range b.recs {
		p := &b.recs[i]
		p.dead = p.size == 0 || p.seq < x.first || p.seq > x.last || p.seq <= last || x.deleted.has(p.seq)
		last = max(last, p.seq)
		if !p.dead {
			b.msgs, b.bytes = b.msgs+1, b.bytes+uint64(p.size)
		}
	}
	if b.msgs == x.msgs() && b.bytes == x.bytes {
		return
	}
	if b.fileSize == 0 {
		b.damage = append(b.damage, Damage{Block: b.index, Kind: EmptyBlock, Seq: x.first,
			Why: fmt.Sprintf("the index counts %d messages in this block, its file is empty", x.msgs())})
		return
	}
	if len(b.damage) == 0 {
		b.damage = append(b.damage, Damage{Block: b.index, Kind: Miscount,
			Why: fmt.Sprintf("the index counts %d messages of %d bytes in this block, it holds %d of %d", x.msgs(), x.bytes, b.msgs, b.bytes)})
	}
}

// settleState decides between index.db and the blocks, and sets the totals.
func (r *recovery) settleState() error {
	x, err := readIndex(r.dir, r.stream.Config.Name)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case errors.Is(err, errIndex):
		r.damage = append(r.damage, Damage{Kind: BadIndex, Why: err.Error()})
	case err != nil:
		return fmt.Errorf("read index: %w", err)
	}
	if x == nil {
		r.rebuild()
		return nil
	}
	if r.current(x) {
		r.adopt(x)
		return nil
	}
	r.rebuild()
	r.remember(x)
	return nil
}

// current tells whether nats-server would believe this index.db: its last block ends with the record that it knows, there is no
// later one, and all of its blocks are there.
func (r *recovery) current(x *indexState) bool {
	if !x.consistent() || len(r.blocks) == 0 || len(x.blocks) == 0 {
		return false
	}
	lb := r.blocks[len(r.blocks)-1]
	if lb.index < x.lastBlock {
		r.damage = append(r.damage, Damage{Block: x.lastBlock, Kind: MissingBlock, Seq: x.blocks[len(x.blocks)-1].first,
			Why: "index.db calls this the last block, its file is missing"})
		return false
	}
	if lb.index != x.lastBlock || lb.tail != x.lastSum || x.blocks[len(x.blocks)-1].index != x.lastBlock {
		return false
	}
	all := true
	for i, ib := range x.blocks {
		if ib.msgs() == 0 && i != len(x.blocks)-1 || r.block(ib.index) != nil {
			continue
		}
		all = false
		r.damage = append(r.damage, Damage{Block: ib.index, Kind: MissingBlock, Seq: ib.first,
			Why: fmt.Sprintf("index.db counts %d messages in this block, its file is missing", ib.msgs())})
	}
	return all
}

func (r *recovery) block(index uint32) *block {
	i := sort.Search(len(r.blocks), func(i int) bool { return r.blocks[i].index >= index })
	if i < len(r.blocks) && r.blocks[i].index == index {
		return r.blocks[i]
	}
	return nil
}

func (r *recovery) adopt(x *indexState) {
	known := make(map[uint32]indexBlock, len(x.blocks))
	for i, ib := range x.blocks {
		if ib.msgs() > 0 || i == len(x.blocks)-1 {
			known[ib.index] = ib
		}
	}
	for _, b := range r.blocks {
		ib, ok := known[b.index]
		if !ok { // left over: the server does not look at it
			for i := range b.recs {
				b.recs[i].dead = true
			}
			b.damage = nil
			continue
		}
		b.adopt(ib)
		r.msgs, r.bytes = r.msgs+b.msgs, r.bytes+b.bytes
	}
	r.first, r.last = x.first, x.last
}

// rebuild computes the totals from the blocks and applies the tombstones.
func (r *recovery) rebuild() {
	var tombs []uint64
	for _, b := range r.blocks {
		if !b.fromOwnIndex() {
			tombs = append(tombs, b.tombs...)
		}
		if b.first == 0 {
			r.noteEmpty(b)
			continue
		}
		if r.msgs == 0 {
			r.first, r.last = 0, 0
		}
		if r.first == 0 || b.first < r.first && b.msgs > 0 {
			r.first = b.first
		}
		r.last = max(r.last, b.last)
		r.msgs, r.bytes = r.msgs+b.msgs, r.bytes+b.bytes
	}
	for _, seq := range tombs {
		r.remove(seq)
	}
}

// fromOwnIndex takes the block's state from an N.idx of a release before 2.10 if there is a current one, else from the records.
func (b *block) fromOwnIndex() bool {
	x, sum, err := readBlockIndex(b.path, b.index)
	if err != nil {
		b.rebuild(indexBlock{})
		return false
	}
	if b.fileSize == 0 && x.msgs() == 0 || b.fileSize >= sumLen && bytes.Equal(sum[:], b.tail[:]) {
		b.adopt(x)
		for i := range b.damage { // 2.9 writes N.idx late: a crash alone leaves it behind what was erased in the block
			b.damage[i].Crash = b.damage[i].Kind == Miscount
		}
		return true
	}
	b.rebuild(x) // stale, but nats-server goes on from what it remembers
	return false
}

// noteEmpty judges a block without a single record. The last one may be like that: it was just made.
func (r *recovery) noteEmpty(b *block) {
	if b != r.blocks[len(r.blocks)-1] && b.fileSize == 0 && len(b.damage) == 0 {
		b.damage = append(b.damage, Damage{Block: b.index, Kind: EmptyBlock, Why: "the block's file is empty"})
	}
}

// remember compares the rebuilt state with an index.db that is not current but may know of a later sequence.
func (r *recovery) remember(x *indexState) {
	if x.last <= r.last {
		return
	}
	r.damage = append(r.damage, Damage{Kind: BehindIndex, Seq: r.last + 1, Block: x.lastBlock,
		Why: fmt.Sprintf("index.db remembers sequence %d, the blocks end at %d", x.last, r.last)})
	if r.stream.Config.async() {
		return // the raft log may hold them: nats-server takes the blocks' word
	}
	r.last = x.last
}

// remove applies a deletion, if the message is there.
func (r *recovery) remove(seq uint64) {
	b, i := r.lookup(seq)
	if b != nil && !b.recs[i].dead {
		r.drop(b, &b.recs[i])
	}
}

func (r *recovery) lookup(seq uint64) (*block, int) {
	n := sort.Search(len(r.full), func(i int) bool {
		recs := r.full[i].recs
		return recs[len(recs)-1].seq >= seq
	})
	if n == len(r.full) {
		return nil, 0
	}
	b := r.full[n]
	i := sort.Search(len(b.recs), func(i int) bool { return b.recs[i].seq >= seq })
	if b.recs[i].seq != seq {
		return nil, 0
	}
	return b, i
}

// dropOverlaps leaves every sequence to the first block that has it: blocks that overlap are never written.
func (r *recovery) dropOverlaps() {
	var last uint64
	for _, b := range r.full {
		n := 0
		for i := range b.recs {
			p := &b.recs[i]
			if p.dead {
				continue
			}
			if p.seq <= last {
				r.drop(b, p)
				n++
			}
			last = max(last, p.seq)
		}
		if n > 0 {
			b.damage = append(b.damage, Damage{Block: b.index, Kind: Miscount,
				Why: fmt.Sprintf("%d messages have sequences that an earlier block holds", n)})
		}
	}
}

func (r *recovery) drop(b *block, p *rec) {
	p.dead = true
	b.msgs, b.bytes = b.msgs-1, b.bytes-uint64(p.size)
	r.msgs, r.bytes = r.msgs-1, r.bytes-uint64(p.size)
}

// live calls f for every live message, oldest first, until it returns false.
func (r *recovery) live(f func(*block, *rec) bool) {
	for _, b := range r.blocks {
		for i := range b.recs {
			if p := &b.recs[i]; !p.dead && !f(b, p) {
				return
			}
		}
	}
}

// enforceLimits removes what recovery would remove. Limits leave no tombstone when they remove a message, so that after a SIGKILL
// the blocks still hold it.
func (r *recovery) enforceLimits() {
	c := r.stream.Config
	if c.Discard != "new" {
		r.live(func(b *block, p *rec) bool {
			over := c.MaxMsgs > 0 && r.msgs > uint64(c.MaxMsgs) || c.MaxBytes > 0 && r.bytes > uint64(c.MaxBytes)
			if over {
				r.drop(b, p)
			}
			return over
		})
	}
	r.enforceAge()
	if c.MaxMsgsPer > 0 {
		r.enforcePerSubject(uint64(c.MaxMsgsPer))
	}
	if c.FirstSeq > 0 && r.first < c.FirstSeq {
		r.live(func(b *block, p *rec) bool { r.drop(b, p); return true })
		r.last = max(r.last, c.FirstSeq-1)
	}
}

// enforceAge is measured at one moment for all replicas, so that copies that expired the same messages at different times agree.
func (r *recovery) enforceAge() {
	c, now := r.stream.Config, r.asOf.UnixNano()
	if c.MarkerTTL > 0 {
		return // expiry is a decision of the leader there
	}
	if c.MaxAge > 0 {
		r.live(func(b *block, p *rec) bool {
			old := p.ts <= now-int64(c.MaxAge)
			if old && r.ttls[p.seq] >= 0 {
				r.drop(b, p)
			}
			return old
		})
	}
	for seq, ttl := range r.ttls {
		b, i := r.lookup(seq)
		if ttl > 0 && b != nil && !b.recs[i].dead && b.recs[i].ts+ttl*int64(time.Second) <= now {
			r.drop(b, &b.recs[i])
		}
	}
}

func (r *recovery) enforcePerSubject(limit uint64) {
	count := make([]uint64, len(r.subjects))
	for i := len(r.blocks) - 1; i >= 0; i-- {
		b := r.blocks[i]
		for j := len(b.recs) - 1; j >= 0; j-- {
			p := &b.recs[j]
			if p.dead {
				continue
			}
			if count[p.subject]++; count[p.subject] > limit {
				r.drop(b, p)
			}
		}
	}
}

// settleFirst sets the first sequence to the oldest live message, or behind the last one.
func (r *recovery) settleFirst() {
	if r.msgs == 0 {
		if r.last > 0 || r.first > 0 {
			r.first = r.last + 1
		}
		return
	}
	r.live(func(_ *block, p *rec) bool { r.first = p.seq; return false })
}

// collectDamage puts the damage of the blocks in order and decides what a crash may have left.
func (r *recovery) collectDamage() {
	for i, b := range r.blocks {
		for _, d := range b.damage {
			if d.Kind == Torn && i != len(r.blocks)-1 {
				d.Kind = Checksum // only the last block is being written to
			}
			d.Last = i == len(r.blocks)-1
			r.damage = append(r.damage, d)
		}
	}
	for i := range r.damage {
		d := &r.damage[i]
		d.Crash = d.Crash || d.Kind == Torn || d.Kind == BadIndex || d.Kind == BehindIndex && r.stream.Config.async()
	}
	sort.SliceStable(r.damage, func(i, j int) bool {
		a, b := r.damage[i], r.damage[j]
		return a.Block < b.Block || a.Block == b.Block && a.Offset < b.Offset
	})
}

// messageTTL reads the header Nats-TTL: seconds, -1 for never, 0 for none.
func messageTTL(header []byte) int64 {
	for line := range strings.SplitSeq(string(header), "\r\n") {
		v, ok := strings.CutPrefix(line, "Nats-TTL:")
		if !ok {
			continue
		}
		v = strings.TrimSpace(v)
		if strings.EqualFold(v, "never") {
			return -1
		}
		if d, err := time.ParseDuration(v); err == nil && d >= time.Second {
			return int64(d / time.Second)
		}
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 0 && n < int64(time.Hour) {
			return n
		}
		return 0
	}
	return 0
}
