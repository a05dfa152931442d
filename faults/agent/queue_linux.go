package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Settings of a packet queue.
const (
	// queueLength is how many packets the kernel keeps for the agent; beyond that they are lost, as in a full router.
	queueLength = 16384
	// queueBase is the number of the first queue; each fault has one of its own.
	queueBase = 7000
	// queueSpan is how many numbers there are before they come round again.
	queueSpan = 10_000
	// queueBuffer is the socket's receive buffer in bytes: a queue full of descriptions of packets.
	queueBuffer = 32 << 20
	// maxPacket is the longest message: an IPv4 packet and what the kernel says of it.
	maxPacket = 65535 + 1024
	// verdictBatch is how many verdicts go to the kernel in one write.
	verdictBatch = 64
	// configBound is how long the kernel may take to confirm a setting.
	configBound = 2 * time.Second
)

// Numbers of linux/netfilter/nfnetlink_queue.h that package unix does not have.
const (
	queuePacket  = 0 // NFQNL_MSG_PACKET
	queueVerdict = 1 // NFQNL_MSG_VERDICT
	queueConfig  = 2 // NFQNL_MSG_CONFIG

	configBind = 1 // NFQNL_CFG_CMD_BIND

	cfgCommand = 1 // NFQA_CFG_CMD
	cfgParams  = 2 // NFQA_CFG_PARAMS
	cfgLength  = 3 // NFQA_CFG_QUEUE_MAXLEN
	cfgMask    = 4 // NFQA_CFG_MASK
	cfgFlags   = 5 // NFQA_CFG_FLAGS

	flagGSO = 4 // NFQA_CFG_F_GSO: large packets come whole, and unchecksummed

	copyMeta   = 1 // NFQNL_COPY_META
	copyPacket = 2 // NFQNL_COPY_PACKET

	attrPacketHeader  = 1  // NFQA_PACKET_HDR
	attrVerdictHeader = 2  // NFQA_VERDICT_HDR
	attrPayload       = 10 // NFQA_PAYLOAD
	attrLength        = 13 // NFQA_CAP_LEN: the packet's length, where less was copied

	verdictDrop   = 0
	verdictAccept = 1

	hookIn = 1 // NF_INET_LOCAL_IN

	netlinkHeader = 16
	queueHeader   = netlinkHeader + 4 // and a nfgenmsg
	attrHeader    = 4
)

// queue is an NFQUEUE read and answered over a netlink socket of its own, without a library in between: many verdicts go in one write, and one
// thread waits for packets and for due times alike.
type queue struct {
	fd     int
	number uint16
	in     []byte
	out    []byte // verdicts that were not sent yet
	n      int    // how many
}

// packet is what the kernel hands over.
type packet struct {
	id      uint32
	hook    byte
	length  int    // of the IP packet, where it was copied at least in part
	payload []byte // valid until the next read
}

// openQueue binds a queue; no packet comes before a rule sends some there. copied is how much of each packet is wanted, in bytes; 0 means nothing,
// and that large packets are not cut up for it.
func openQueue(number uint16, copied int) (*queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open packet queue: %w", explainQueue(err))
	}
	q := &queue{fd: fd, number: number, in: make([]byte, maxPacket)}
	if err := q.configure(copied); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet queue: %w", explainQueue(err)), unix.Close(fd))
	}
	return q, nil
}

func (q *queue) configure(copied int) error {
	if err := unix.Bind(q.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBuffer); err != nil {
		return err
	}
	// What does not fit is dropped and counted, as in any queue; the socket itself goes on.
	if err := unix.SetsockoptInt(q.fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1); err != nil {
		return err
	}
	bind := appendAttr(nil, cfgCommand, []byte{configBind, 0, 0, unix.AF_INET})
	if err := q.set(bind); err != nil {
		return err
	}
	params := append(binary.BigEndian.AppendUint32(nil, uint32(copied)), copyPacket) //nolint:gosec // at most 65535
	flags := uint32(0)
	if copied == 0 {
		params, flags = []byte{0, 0, 0, 0, copyMeta}, flagGSO
	}
	attrs := appendAttr(nil, cfgParams, params)
	attrs = appendAttr(attrs, cfgLength, binary.BigEndian.AppendUint32(nil, queueLength))
	attrs = appendAttr(attrs, cfgMask, binary.BigEndian.AppendUint32(nil, flagGSO))
	attrs = appendAttr(attrs, cfgFlags, binary.BigEndian.AppendUint32(nil, flags))
	return q.set(attrs)
}

// set sends one message of settings and waits until the kernel confirms it.
func (q *queue) set(attrs []byte) error {
	m := beginMessage(nil, queueConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, q.number)
	m = append(m, attrs...)
	endMessage(m, 0)
	if err := unix.Sendto(q.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for end := time.Now().Add(configBound); time.Now().Before(end); {
		if _, err := unix.Poll(fds, int(configBound.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n, _, err := unix.Recvfrom(q.fd, q.in, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n >= netlinkHeader+4 && binary.NativeEndian.Uint16(q.in[4:]) == unix.NLMSG_ERROR {
			if code := int32(binary.NativeEndian.Uint32(q.in[netlinkHeader:])); code != 0 { //nolint:gosec // an errno
				return unix.Errno(-code)
			}
			return nil
		}
	}
	return unix.ETIMEDOUT
}

func explainQueue(err error) error {
	return &Error{Code: CodeUnsupported, Text: fmt.Sprintf("this kernel or the agent's capabilities have no NFQUEUE (nfnetlink_queue, NET_ADMIN): %v", err)}
}

func beginMessage(b []byte, kind, flags int, number uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0) // the length, see endMessage
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NFNL_SUBSYS_QUEUE<<8|kind))
	b = binary.NativeEndian.AppendUint16(b, uint16(flags)) //nolint:gosec // two bits
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)                  // sequence and port
	return append(b, nfgenmsg(unix.AF_UNSPEC, number)...)
}

// endMessage fills in the length of the message that begins at from.
func endMessage(b []byte, from int) {
	binary.NativeEndian.PutUint32(b[from:], uint32(len(b)-from)) //nolint:gosec // short
}

func appendAttr(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(data))) //nolint:gosec // at most 65539: a packet is shorter
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// read returns the next packet, and false when there is none yet.
func (q *queue) read() (packet, bool) {
	for {
		n, _, err := unix.Recvfrom(q.fd, q.in, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return packet{}, false
		}
		if p, ok := parsePacket(q.in[:n]); ok {
			return p, true
		} // else the error of a verdict: the kernel did not have that packet any more
	}
}

// parsePacket reads one message of the kernel's.
func parsePacket(b []byte) (packet, bool) {
	var p packet
	if len(b) < queueHeader || binary.NativeEndian.Uint16(b[4:]) != unix.NFNL_SUBSYS_QUEUE<<8|queuePacket {
		return p, false
	}
	known := false
	for b = b[queueHeader:]; len(b) >= attrHeader; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeader || n > len(b) {
			return p, false
		}
		data := b[attrHeader:n]
		switch binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case attrPacketHeader:
			if len(data) < 7 {
				return p, false
			}
			p.id, p.hook, known = binary.BigEndian.Uint32(data), data[6], true
		case attrPayload:
			p.payload = data
			p.length = max(p.length, len(data))
		case attrLength:
			if len(data) >= 4 {
				p.length = max(p.length, int(binary.BigEndian.Uint32(data)))
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return p, known
}

// verdict decides on a packet, with another payload unless that is nil. It is sent with those that follow, at the latest by flush.
func (q *queue) verdict(id uint32, what uint32, payload []byte) {
	from := len(q.out)
	q.out = beginMessage(q.out, queueVerdict, unix.NLM_F_REQUEST, q.number)
	var header [8]byte
	binary.BigEndian.PutUint32(header[:], what)
	binary.BigEndian.PutUint32(header[4:], id)
	q.out = appendAttr(q.out, attrVerdictHeader, header[:])
	if payload != nil {
		q.out = appendAttr(q.out, attrPayload, payload)
	}
	endMessage(q.out, from)
	if q.n++; q.n >= verdictBatch || len(q.out) > maxPacket/2 {
		q.flush()
	}
}

// flush sends what verdict has gathered. A failure means that the kernel does not have those packets any more.
func (q *queue) flush() {
	if q.n == 0 {
		return
	}
	for {
		err := unix.Sendto(q.fd, q.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	q.out, q.n = q.out[:0], 0
}

func (q *queue) close() error {
	if err := unix.Close(q.fd); err != nil {
		return fmt.Errorf("close packet queue: %w", err)
	}
	return nil
}

// queueLosses is how many packets the kernel could not hand over, for want of room in the queue or the socket.
func queueLosses(number uint16) (lost uint64) {
	b, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
	if err != nil {
		return 0 // it only says more than was asked for
	}
	for line := range strings.Lines(string(b)) {
		// queue, port, waiting, copy mode, copy range, lost in the queue, lost in the socket, ...
		var q, ignored uint32
		var inQueue, inSocket uint64
		if _, err := fmt.Sscan(line, &q, &ignored, &ignored, &ignored, &ignored, &inQueue, &inSocket); err == nil && q == uint32(number) {
			lost += inQueue + inSocket
		}
	}
	return lost
}

// toQueue is the xtables target NFQUEUE in its second revision (struct xt_NFQ_info_v2: number, how many, bypass): nf_tables' own
// queue expression is a module that many kernels do not have.
func toQueue(number uint16) expr.Any {
	info := xt.Unknown([]byte{byte(number), byte(number >> 8), 1, 0, 1, 0})
	return &expr.Target{Name: "NFQUEUE", Rev: 2, Info: &info}
}
