package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
)

const (
	// maxLine bounds one request: far above a partition with maxPeers.
	maxLine = 64 << 10
	// maxPeers bounds a partition.
	maxPeers = 256
	// maxID bounds a partition's id.
	maxID = 128
	// permille is the whole of PartitionParams.Loss.
	permille = 1000
	// maxDelayMS bounds a delay: packets that come later are as good as lost.
	maxDelayMS = 10_000
	// maxBurst bounds a burst.
	maxBurst = 10_000
)

// errLineTooLong means that a line was longer than maxLine; the rest of it was skipped.
var errLineTooLong = fmt.Errorf("a request is longer than %d bytes", maxLine)

// call is a request as the server sees it: its parameters are decoded once the method is known.
type call struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

func badRequest(format string, args ...any) error {
	return &Error{Code: CodeBadRequest, Text: fmt.Sprintf(format, args...)}
}

// readLine returns the next line without its end. io.EOF means that nothing follows; a last line without an end is dropped, because
// its writer died in the middle of it.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return bytes.TrimSpace(line), err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return nil, errLineTooLong
}

// newLineReader gives readLine its bound.
func newLineReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxLine) }

// decodeCall reads one line. The call carries the id, where it can be read, even if the rest is refused.
func decodeCall(line []byte) (call, error) {
	var c call
	if err := json.Unmarshal(line, &c); err != nil {
		var id struct {
			ID uint64 `json:"id"`
		}
		_ = json.Unmarshal(line, &id) // best effort: without an id the answer goes to id 0
		return call{ID: id.ID}, badRequest("the request is not understood: %v", err)
	}
	if c.Method == "" {
		return c, badRequest("the request names no method")
	}
	return c, nil
}

// decodeParams is strict: a misspelt field would make a fault other than the one that was asked for.
func decodeParams[T any](raw json.RawMessage) (T, error) {
	var p T
	if len(raw) == 0 || string(raw) == "null" {
		return p, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, badRequest("the parameters are not understood: %v", err)
	}
	return p, nil
}

// addrs checks the parameters and returns the peers' addresses, each once.
func (p PartitionParams) addrs() ([]netip.Addr, error) {
	switch {
	case p.ID == "" || len(p.ID) > maxID:
		return nil, badRequest("a partition needs an id of 1 to %d bytes", maxID)
	case !p.In && !p.Out:
		return nil, badRequest("partition %q drops neither incoming nor outgoing packets", p.ID)
	case p.DelayMS != 0 && (p.In || p.Loss != 0):
		return nil, badRequest("partition %q is a delay: it is for outgoing packets, and loses none", p.ID)
	case p.DelayMS < 0 || p.DelayMS > maxDelayMS || p.JitterMS < 0 || p.JitterMS > p.DelayMS:
		return nil, badRequest("partition %q delays by %v +- %v ms: want up to %v, and no more jitter than delay", p.ID, p.DelayMS, p.JitterMS, float64(maxDelayMS))
	case p.Loss < 0 || p.Loss >= permille:
		return nil, badRequest("partition %q drops %d packets in a thousand: want 1 to 999, or 0 for all of them", p.ID, p.Loss)
	case len(p.Peers) == 0 || len(p.Peers) > maxPeers:
		return nil, badRequest("partition %q needs 1 to %d peers", p.ID, maxPeers)
	}
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, s := range p.Peers {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			return nil, badRequest("peer %q of partition %q is not a node's IPv4 address", s, p.ID)
		}
		if !seen[a] {
			out = append(out, a)
		}
		seen[a] = true
	}
	return out, nil
}

// signal checks the parameters.
func (p SignalParams) signal() (syscall.Signal, error) {
	switch s := syscall.Signal(p.Signal); s {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGCONT, syscall.SIGHUP:
		return s, nil
	default:
		return 0, badRequest("signal %d is none of SIGKILL, SIGTERM, SIGSTOP, SIGCONT, SIGHUP", p.Signal)
	}
}
