package agent

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// witnessBound is how long a witness may take to be connected.
	witnessBound = time.Second
	// witnessPatience is for a daemon that was started a moment ago to listen, asked every witnessEvery.
	witnessPatience = 3 * time.Second
	witnessEvery    = 20 * time.Millisecond
	// stateEstablished is a connection's state in /proc/net/tcp.
	stateEstablished = "01"
)

// connection is an established TCP connection with a peer.
type connection struct {
	peer        netip.Addr
	own, theirs uint16
}

// key is the connection as an element of a set: fields are padded to four bytes.
func (c connection) key() []byte {
	b := c.peer.AsSlice()
	b = append(binary.BigEndian.AppendUint16(b, c.own), 0, 0)
	return append(binary.BigEndian.AppendUint16(b, c.theirs), 0, 0)
}

// witness is a connection of the agent's own.
type witness struct{ conn *net.TCPConn }

// cutOff opens a witness to each peer, and lists all established connections with the peers.
func cutOff(peers []netip.Addr, port int) ([]witness, []connection, error) {
	var ws []witness
	fail := func(err error) ([]witness, []connection, error) {
		for _, w := range ws {
			_ = w.conn.Close()
		}
		return nil, nil, err
	}
	d := net.Dialer{Timeout: witnessBound, KeepAlive: -1}
	for _, p := range peers {
		conn, err := dialListening(d, netip.AddrPortFrom(p, uint16(port)).String()) //nolint:gosec // checked
		if err != nil {
			return fail(fmt.Errorf("connect a witness: %w", err))
		}
		ws = append(ws, witness{conn.(*net.TCPConn)})
	}
	conns, err := established(peers)
	if err != nil {
		return fail(err)
	}
	return ws, conns, nil
}

// dialListening tries again while the peer refuses: a daemon that has just been started listens a little later.
func dialListening(d net.Dialer, address string) (net.Conn, error) {
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		conn, err := d.Dial("tcp4", address)
		if err == nil || !errors.Is(err, unix.ECONNREFUSED) || time.Since(began) > witnessPatience {
			return conn, err
		}
	}
}

// probe sends a byte, and is 1 when something that was sent is not acknowledged.
func (w witness) probe() int {
	_ = w.conn.SetWriteDeadline(time.Now().Add(time.Millisecond)) // a full buffer shows in what is not acknowledged
	_, _ = w.conn.Write([]byte{'\n'})
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return 0
	}
	waiting := 0
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && (info.Unacked > 0 || info.Notsent_bytes > 0) {
			waiting = 1
		}
	})
	return waiting
}

// established lists the node's connections with the peers. Servers that listen on all addresses have theirs in the table of IPv6.
func established(peers []netip.Addr) ([]connection, error) {
	var out []connection
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if c, ok := parseConnection(line); ok && slices.Contains(peers, c.peer) && !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// parseConnection reads a line such as "0: 0100000A:184E 0200000A:D431 01 ...": addresses in words of the machine's byte order.
func parseConnection(line string) (c connection, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[3] != stateEstablished {
		return c, false
	}
	_, own, ok1 := parseEnd(f[1])
	peer, theirs, ok2 := parseEnd(f[2])
	return connection{peer, own, theirs}, ok1 && ok2
}

func parseEnd(s string) (netip.Addr, uint16, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), uint16(n), ok
}
