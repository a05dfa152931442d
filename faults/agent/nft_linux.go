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

// Offsets of the addresses in an IPv4 header, and of the ports in one of TCP or UDP.
const (
	offsetSource      = 12
	offsetDestination = 16
	offsetPortFrom    = 0
	offsetPortTo      = 2
	offsetTCPFlags    = 13
	flagRST           = 4
)

// table is one fault in the kernel: a table of its own, owned by a socket of its own, so that an error in one fault cannot touch another.
//
//	set a, set b        whom it is about, each element with a timeout: peers, or ports, or connections
//	chain in, chain out it is about a packet that comes in (goes out), by a: count, act; by b: count, act
//
// Renewing replaces the elements of a, then those of b. On some kernels a lookup that runs while a replacement is committed may find
// neither the old element nor the new one; with two sets, the other one still drops that packet.
//
// Where packets go to a shaper there is one set: one that passes by it now and then is as good as a packet that was spared.
type table struct {
	conn   *nftables.Conn
	table  *nftables.Table
	sets   []*nftables.Set
	chains map[direction]*nftables.Chain
	rules  map[direction]int // how many there are in each chain
	scope
}

// scope says which packets a fault is about, and what becomes of them.
type scope struct {
	PartitionParams
	peers []netip.Addr
	conns []connection // of a half-open fault
	queue uint16       // of a shaper
}

// keys are the elements of the table's sets.
func (s *scope) keys() (nftables.SetDatatype, [][]byte) {
	var keys [][]byte
	switch {
	case s.Action == ActionHalfOpen:
		for _, c := range s.conns {
			keys = append(keys, c.key())
		}
		return nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService), keys
	case len(s.peers) > 0:
		for _, p := range s.peers {
			keys = append(keys, p.AsSlice())
		}
		return nftables.TypeIPAddr, keys
	default:
		for _, p := range slices.Concat(s.OwnPorts, s.TheirPorts) {
			keys = append(keys, binary.BigEndian.AppendUint16(nil, uint16(p))) //nolint:gosec // checked
		}
		return nftables.TypeInetService, keys
	}
}

type direction string

const (
	incoming direction = "in"
	outgoing direction = "out"
)

// reading is what the kernel says of a table.
type reading struct {
	present   bool
	seen      map[direction]uint64 // packets that the rules acted on
	remaining time.Duration
}

// newTable puts a fault in force. On error nothing is left.
func newTable(name string, sc scope) (*table, error) {
	var raw *netlink.Conn
	keep := nftables.WithSockOptions(func(c *netlink.Conn) error { raw = c; return nil })
	conn, err := nftables.New(nftables.AsLasting(), keep)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", explain(err))
	}
	t := &table{
		conn: conn, scope: sc, chains: map[direction]*nftables.Chain{}, rules: map[direction]int{},
		table: &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4},
	}
	if err := t.fill(raw); err != nil {
		return nil, errors.Join(err, conn.CloseLasting()) // closing removes whatever was made
	}
	return t, nil
}

func (t *table) fill(raw *netlink.Conn) error {
	if err := makeOwned(raw, t.table); err != nil {
		return fmt.Errorf("make owned table: %w", explain(err))
	}
	if err := checkOwned(raw, t.table); err != nil {
		return err
	}
	names := []string{"a", "b"}
	if t.Action == ActionShape {
		names = names[:1]
	}
	kind, _ := t.keys()
	for _, name := range names {
		s := &nftables.Set{Table: t.table, Name: name, KeyType: kind, Concatenation: t.Action == ActionHalfOpen, HasTimeout: true, Timeout: Lease}
		t.sets = append(t.sets, s)
		if err := t.conn.AddSet(s, t.elements()); err != nil {
			return fmt.Errorf("add set: %w", err)
		}
	}
	if t.In {
		t.addChain(incoming, nftables.ChainHookInput)
	}
	if t.Out {
		t.addChain(outgoing, nftables.ChainHookOutput)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("add rules: %w", explain(err))
	}
	return nil
}

func (t *table) addChain(d direction, hook *nftables.ChainHook) {
	ch := t.conn.AddChain(&nftables.Chain{
		Name: string(d), Table: t.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw,
	})
	t.chains[d] = ch
	for _, s := range t.sets {
		for _, match := range t.matches(d, s) {
			t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: ch, Exprs: append(match, t.act(d)...)})
			t.rules[d]++
		}
	}
}

// matches lists the ways in which a packet is one that the fault is about.
func (t *table) matches(d direction, s *nftables.Set) [][]expr.Any {
	address, own, theirs := uint32(offsetSource), uint32(offsetPortTo), uint32(offsetPortFrom)
	if d == outgoing {
		address, own, theirs = offsetDestination, offsetPortFrom, offsetPortTo
	}
	peer := &expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: 4}
	port := func(register, offset uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	}
	lookup := &expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: s.Name, SetID: s.ID}
	switch {
	case t.Action == ActionHalfOpen:
		return [][]expr.Any{append(isTCP(), peer, port(unix.NFT_REG32_01, own), port(unix.NFT_REG32_02, theirs), lookup)}
	case len(t.peers) == 0 && len(t.OwnPorts) > 0:
		return [][]expr.Any{{port(unix.NFT_REG32_00, own), lookup}}
	case len(t.peers) == 0:
		return [][]expr.Any{{port(unix.NFT_REG32_00, theirs), lookup}}
	case len(t.OwnPorts)+len(t.TheirPorts) == 0:
		return [][]expr.Any{{peer, lookup}}
	}
	var out [][]expr.Any
	for offset, ports := range map[uint32][]int{own: t.OwnPorts, theirs: t.TheirPorts} {
		for _, p := range ports {
			is := &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_01, Data: binary.BigEndian.AppendUint16(nil, uint16(p))} //nolint:gosec // checked
			out = append(out, []expr.Any{peer, lookup, port(unix.NFT_REG32_01, offset), is})
		}
	}
	return out
}

func isTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// act is what becomes of a packet.
func (t *table) act(d direction) []expr.Any {
	switch t.Action {
	case ActionShape:
		do := []expr.Any{&expr.Counter{}, toQueue(t.queue)}
		if t.Duplicate > 0 && d == outgoing { // not the copies
			return append([]expr.Any{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: binary.NativeEndian.AppendUint32(nil, copyMark)},
			}, do...)
		}
		return do
	case ActionReset: // but no RST: those of the kernel's own answers have to pass
		return append(isTCP(),
			&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseTransportHeader, Offset: offsetTCPFlags, Len: 1},
			&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 1, Mask: []byte{flagRST}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: []byte{0}},
			&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	default:
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	}
}

func (t *table) elements() []nftables.SetElement {
	_, keys := t.keys()
	var out []nftables.SetElement
	for _, k := range keys {
		out = append(out, nftables.SetElement{Key: k, Timeout: Lease})
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
	r := reading{seen: map[direction]uint64{}}
	for d, ch := range t.chains {
		rules, err := t.conn.GetRules(t.table, ch)
		if err != nil {
			return r, fmt.Errorf("read rules: %w", err)
		}
		if len(rules) != t.rules[d] {
			return r, fmt.Errorf("read rules: %d of %d are there", len(rules), t.rules[d])
		}
		for _, rule := range rules {
			r.seen[d] += counted(rule)
		}
	}
	left, err := t.leases()
	if err != nil {
		return r, err
	}
	r.remaining = Lease
	_, keys := t.keys()
	for _, k := range keys {
		r.remaining = min(r.remaining, left[string(k)])
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

// leases returns what is left of each element's lease, in the set that has more of it.
func (t *table) leases() (map[string]time.Duration, error) {
	left := map[string]time.Duration{}
	for _, s := range t.sets {
		elems, err := t.conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("read set: %w", err)
		}
		for _, e := range elems {
			left[string(e.Key)] = max(left[string(e.Key)], e.Expires)
		}
	}
	return left, nil
}

// empty ends the fault: no packet is one that it is about any more.
func (t *table) empty() error {
	for _, s := range t.sets {
		t.conn.FlushSet(s)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("empty sets: %w", err)
	}
	return nil
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
