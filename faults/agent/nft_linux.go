package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableOwner is NFT_TABLE_F_OWNER: the kernel removes the table when the socket that made it closes, however that comes about.
const tableOwner = 2

// Offsets of the addresses in an IPv4 header.
const (
	offsetSource      = 12
	offsetDestination = 16
)

// table is one partition in the kernel: a table of its own, owned by a socket of its own, so that an error in one partition
// cannot touch another.
//
//	set a, set b        the peers, each element with a timeout
//	chain in, chain out source (destination) in a: count, drop; in b: count, drop
//
// Renewing replaces the elements of a, then those of b. On some kernels a lookup that runs while a replacement is committed may find
// neither the old element nor the new one; with two sets, the other one still drops that packet.
//
// Where only some packets are lost there is one set, or each packet would have two chances: count; then, for a random part of them, count, drop.
// Where they are late there is one set too: count, queue.
type table struct {
	conn   *nftables.Conn
	table  *nftables.Table
	sets   []*nftables.Set
	chains map[direction]*nftables.Chain
	peers  []netip.Addr
	loss   int // in a thousand; 0 for all
	delay  bool
	queue  uint16 // where packets go that are late
}

type direction string

const (
	incoming direction = "in"
	outgoing direction = "out"
)

// reading is what the kernel says of a table.
type reading struct {
	present   bool
	dropped   map[direction]uint64
	seen      map[direction]uint64
	remaining time.Duration
}

// newTable puts a partition in force. On error nothing is left.
func newTable(name string, peers []netip.Addr, p PartitionParams, queue uint16) (*table, error) {
	var raw *netlink.Conn
	keep := nftables.WithSockOptions(func(c *netlink.Conn) error { raw = c; return nil })
	conn, err := nftables.New(nftables.AsLasting(), keep)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", explain(err))
	}
	t := &table{
		conn: conn, peers: peers, loss: p.Loss, delay: p.DelayMS > 0, queue: queue, chains: map[direction]*nftables.Chain{},
		table: &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4},
	}
	if err := t.fill(raw, p.In, p.Out); err != nil {
		return nil, errors.Join(err, conn.CloseLasting()) // closing removes whatever was made
	}
	return t, nil
}

func (t *table) fill(raw *netlink.Conn, in, out bool) error {
	if err := makeOwned(raw, t.table); err != nil {
		return fmt.Errorf("make owned table: %w", explain(err))
	}
	if err := checkOwned(raw, t.table); err != nil {
		return err
	}
	names := []string{"a", "b"}
	if t.loss > 0 || t.delay {
		names = names[:1]
	}
	for _, name := range names {
		s := &nftables.Set{Table: t.table, Name: name, KeyType: nftables.TypeIPAddr, HasTimeout: true, Timeout: Lease}
		t.sets = append(t.sets, s)
		if err := t.conn.AddSet(s, t.elements()); err != nil {
			return fmt.Errorf("add set: %w", err)
		}
	}
	if in {
		t.addChain(incoming, nftables.ChainHookInput, offsetSource)
	}
	if out {
		t.addChain(outgoing, nftables.ChainHookOutput, offsetDestination)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("add drop rules: %w", explain(err))
	}
	return nil
}

func (t *table) addChain(d direction, hook *nftables.ChainHook, offset uint32) {
	ch := t.conn.AddChain(&nftables.Chain{
		Name: string(d), Table: t.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw,
	})
	t.chains[d] = ch
	for _, s := range t.sets {
		match := []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID},
		}
		if t.delay {
			t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: append(match, &expr.Counter{}, toQueue(t.queue))})
			continue
		}
		if t.loss > 0 {
			t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: append(slices.Clone(match), &expr.Counter{})})
			match = append(match, t.some()...)
		}
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: append(match, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
}

// some matches a random part of the packets. The kernel's generator writes in the machine's byte order and its comparison reads as bytes come.
func (t *table) some() []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: permille, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(t.loss))}, //nolint:gosec // 1 to 999
	}
}

// rules is how many there are in each chain.
func (t *table) rules() int {
	if t.loss > 0 {
		return 2
	}
	return len(t.sets)
}

func (t *table) elements() []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range t.peers {
		out = append(out, nftables.SetElement{Key: p.AsSlice(), Timeout: Lease})
	}
	return out
}

// renew gives every element a full lease again.
func (t *table) renew() error {
	for _, s := range t.sets {
		t.conn.FlushSet(s)
		if err := t.conn.SetAddElements(s, t.elements()); err != nil {
			return fmt.Errorf("renew lease: %w", err)
		}
		if err := t.conn.Flush(); err != nil {
			return fmt.Errorf("renew lease: %w", err)
		}
	}
	return nil
}

// read asks the kernel. A table whose lease ran out for some peer is not present, though its rules are still there.
func (t *table) read() (reading, error) {
	r := reading{dropped: map[direction]uint64{}, seen: map[direction]uint64{}}
	for d, ch := range t.chains {
		rules, err := t.conn.GetRules(t.table, ch)
		if err != nil {
			return r, fmt.Errorf("read rules: %w", err)
		}
		if len(rules) != t.rules() {
			return r, fmt.Errorf("read rules: %d of %d are there", len(rules), t.rules())
		}
		for i, rule := range rules {
			switch n := counted(rule); {
			case t.delay:
				r.seen[d] = n
			case t.loss == 0:
				r.dropped[d] += n
				r.seen[d] += n
			case i == 0:
				r.seen[d] = n
			default:
				r.dropped[d] = n
			}
		}
	}
	left, err := t.leases()
	if err != nil {
		return r, err
	}
	r.remaining = Lease
	for _, p := range t.peers {
		r.remaining = min(r.remaining, left[p])
	}
	r.present = r.remaining > 0
	return r, nil
}

func counted(rule *nftables.Rule) (n uint64) {
	for _, e := range rule.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			n += c.Packets
		}
	}
	return n
}

// leases returns what is left of each peer's lease, in the set that has more of it.
func (t *table) leases() (map[netip.Addr]time.Duration, error) {
	left := map[netip.Addr]time.Duration{}
	for _, s := range t.sets {
		elems, err := t.conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("read set: %w", err)
		}
		for _, e := range elems {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				left[a] = max(left[a], e.Expires)
			}
		}
	}
	return left, nil
}

// remove takes the table out of the kernel. Closing the socket does it too, should the request fail.
func (t *table) remove() error {
	t.conn.DelTable(t.table)
	err := t.conn.Flush()
	if cerr := t.conn.CloseLasting(); cerr != nil {
		return errors.Join(err, fmt.Errorf("close netlink: %w", cerr))
	}
	return nil
}

// makeOwned sends NEWTABLE with the owner flag on the lasting socket: the library cannot set flags.
func makeOwned(c *netlink.Conn, t *nftables.Table) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner)},
	})
	if err != nil {
		return err
	}
	batch := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES)}
	}
	newTable := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE),
			Flags: netlink.Request | netlink.Create | netlink.Excl | netlink.Acknowledge,
		},
		Data: append(nfgenmsg(byte(t.Family), 0), attrs...),
	}
	if _, err := c.SendMessages([]netlink.Message{batch(unix.NFNL_MSG_BATCH_BEGIN), newTable, batch(unix.NFNL_MSG_BATCH_END)}); err != nil {
		return err
	}
	_, err = c.Receive()
	return err
}

// nfgenmsg is the header of every netfilter message.
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// checkOwned reads the flag back: a kernel that ignored it would leave the partition behind when the agent dies.
// (The library's own reading of flags is in the machine's byte order; the kernel's is not.)
func checkOwned(c *netlink.Conn, t *nftables.Table) error {
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)}})
	if err != nil {
		return err
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE), Flags: netlink.Request},
		Data:   append(nfgenmsg(byte(t.Family), 0), name...),
	})
	if err != nil {
		return fmt.Errorf("read table: %w", err)
	}
	var flags uint32
	for _, m := range msgs {
		if flags, err = tableFlags(m.Data); err != nil {
			return fmt.Errorf("read table: %w", err)
		}
	}
	if flags&tableOwner == 0 {
		return errNoOwner
	}
	return nil
}

func tableFlags(b []byte) (uint32, error) {
	if len(b) < len(nfgenmsg(0, 0)) {
		return 0, errors.New("the answer is too short")
	}
	ad, err := netlink.NewAttributeDecoder(b[len(nfgenmsg(0, 0)):])
	if err != nil {
		return 0, err
	}
	ad.ByteOrder = binary.BigEndian
	var flags uint32
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_FLAGS {
			flags = ad.Uint32()
		}
	}
	return flags, ad.Err()
}

var (
	errNoOwner = &Error{Code: CodeUnsupported,
		Text: "this kernel has no owned nftables tables (Linux 5.12 or later with nf_tables): a partition could outlive the agent, so it is refused"}
	errNoAdmin = &Error{Code: CodeUnsupported, Text: "the agent lacks the capability NET_ADMIN"}
)

// explain turns the errors of a kernel or a container that cannot do it into sentences.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return errNoAdmin
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (%w)", errNoOwner, err)
	default:
		return err
	}
}
