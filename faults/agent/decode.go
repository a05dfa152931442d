package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
)

const (
	// maxLine bounds one request: far above a partition with maxPeers.
	maxLine = 64 << 10
	// maxPeers bounds a partition.
	maxPeers = 256
	// maxID bounds a partition's id.
	maxID = 128
	// permilleWhole is the whole of an Impairment's chances.
	permilleWhole = 1000
	// maxRate bounds a rate, in kbit/s.
	maxRate = 10_000_000
	// maxPorts bounds the ports of a fault.
	maxPorts = 16
	// maxDelayMS bounds a delay: packets that come later are as good as lost.
	maxDelayMS = 10_000
	// maxSpray bounds a spray.
	maxSpray = 10_000
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
	if p.ID == "" || len(p.ID) > maxID {
		return nil, badRequest("a network fault needs an id of 1 to %d bytes", maxID)
	}
	if !p.In && !p.Out {
		return nil, badRequest("fault %q is about neither incoming nor outgoing packets", p.ID)
	}
	if err := p.checkScope(); err != nil {
		return nil, err
	}
	if err := p.checkAction(); err != nil {
		return nil, err
	}
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, s := range p.Peers {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			return nil, badRequest("peer %q of fault %q is not a node's IPv4 address", s, p.ID)
		}
		if !seen[a] {
			out = append(out, a)
		}
		seen[a] = true
	}
	return out, nil
}

// checkScope refuses a fault that is about everything, and one that is about nothing.
func (p PartitionParams) checkScope() error {
	switch {
	case len(p.Peers) > maxPeers || len(p.OwnPorts) > maxPorts || len(p.TheirPorts) > maxPorts:
		return badRequest("fault %q has more than %d peers or %d ports", p.ID, maxPeers, maxPorts)
	case len(p.Peers) == 0 && (len(p.OwnPorts) == 0) == (len(p.TheirPorts) == 0):
		return badRequest("fault %q needs peers, or ports of one end", p.ID)
	}
	for _, port := range slices.Concat(p.OwnPorts, p.TheirPorts) {
		if port < 1 || port > 65535 {
			return badRequest("fault %q names port %d", p.ID, port)
		}
	}
	return nil
}

func (p PartitionParams) checkAction() error {
	switch p.Action {
	case ActionShape:
		if p.Duplicate > 0 && p.In {
			return badRequest("fault %q duplicates packets: that is for outgoing ones", p.ID)
		}
		return p.check(p.ID)
	case ActionHalfOpen:
		if len(p.Peers) == 0 || len(p.OwnPorts)+len(p.TheirPorts) > 0 || !p.In || !p.Out || p.Witness < 1 || p.Witness > 65535 {
			return badRequest("fault %q is half-open: it needs peers, both directions, the port of a witness, and nothing else", p.ID)
		}
	case ActionDrop, ActionReset:
	default:
		return badRequest("fault %q: there is no action %q", p.ID, p.Action)
	}
	if p.Impairment != (Impairment{}) {
		return badRequest("fault %q impairs links, and has another action", p.ID)
	}
	return nil
}

// check says what is wrong with an impairment.
func (i Impairment) check(id string) error {
	for _, c := range []int{i.Loss, i.Duplicate, i.Corrupt, i.Reorder} {
		if c < 0 || c >= permilleWhole {
			return badRequest("fault %q has a chance of %d in a thousand: want 1 to 999, or 0 for none", id, c)
		}
	}
	switch {
	case i.DelayMS < 0 || i.DelayMS > maxDelayMS || i.JitterMS < 0 || i.JitterMS > i.DelayMS:
		return badRequest("fault %q delays by %v +- %v ms: want up to %v, and no more jitter than delay", id, i.DelayMS, i.JitterMS, float64(maxDelayMS))
	case i.Reorder > 0 && i.DelayMS == 0:
		return badRequest("fault %q reorders packets: that needs a delay, for some to overtake the others", id)
	case i.RateKbit < 0 || i.RateKbit > maxRate:
		return badRequest("fault %q limits the rate to %d kbit/s: want 1 to %d, or 0 for no limit", id, i.RateKbit, maxRate)
	case i == Impairment{Seed: i.Seed}:
		return badRequest("fault %q impairs nothing", id)
	}
	return nil
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
