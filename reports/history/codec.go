package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Format names the layout of the record; it is on the first line of every file.
const Format = "unibus-history/1"

// ErrCorrupt is wrapped by every error about the content of a record (as against reading it).
var ErrCorrupt = errors.New("history is not readable")

// header is the first line.
type header struct {
	Format string    `json:"format"`
	Start  time.Time `json:"start"` // wall clock at time 0, for people; never compared
}

// A line is a JSON array of a type letter and the record: ["op",{...}].
const (
	tOp       = "op"
	tItem     = "item"
	tDrain    = "drain"
	tDelivery = "delivery"
	tHealth   = "health"
	tReplica  = "replica"
	tConn     = "conn"
	tEvent    = "event"
)

// maxLine bounds a line, and so the memory that reading a damaged record can take.
const maxLine = 1 << 20

// Recorder writes a record as it happens. Methods are safe for concurrent use; the first write error is kept and returned by Close.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	w      *bufio.Writer
	err    error
	nextID int64
	done   int64
	ok     int64
	buf    bytes.Buffer
	closed bool
	// A node's reason is written only when it changes.
	reasons map[string]string
	mem     History
}

// NewRecorder writes the header to w and starts the clock.
func NewRecorder(w io.Writer) (*Recorder, error) {
	r := &Recorder{start: time.Now(), w: bufio.NewWriterSize(w, 1<<16), reasons: map[string]string{}}
	b, err := json.Marshal(header{Format: Format, Start: r.start.UTC()})
	if err != nil {
		return nil, fmt.Errorf("write history: %w", err)
	}
	if _, err := r.w.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("write history: %w", err)
	}
	return r, nil
}

// Now is the time on the record's clock.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// Start is the wall clock at time 0.
func (r *Recorder) Start() time.Time { return r.start }

// Invoke gives op its id and its time of invocation. Nothing is written until Complete.
func (r *Recorder) Invoke(op *Op) {
	r.mu.Lock() // also around the clock: ids are in order of invocation
	defer r.mu.Unlock()
	r.nextID++
	op.ID = r.nextID
	op.Invoke = r.Now()
}

// Complete writes op. The caller has set Outcome and what the answer said; Complete is stamped here unless the caller left
// the operation open (Abandon).
func (r *Recorder) Complete(op *Op) {
	op.Complete = r.Now()
	r.write(tOp, op, func(m *History) {
		m.Ops = append(m.Ops, *op)
		if op.Outcome == OK {
			r.ok++
		}
	})
}

// Abandon writes an operation that never got an answer: outcome Unknown, no time of completion.
func (r *Recorder) Abandon(op *Op) {
	op.Complete, op.Outcome = 0, Unknown
	r.write(tOp, op, func(m *History) { m.Ops = append(m.Ops, *op) })
}

// Item writes one message that was read back.
func (r *Recorder) Item(x Item) {
	r.write(tItem, &x, func(m *History) { m.Items = append(m.Items, x) })
}

// Drain writes the end of reading a target back.
func (r *Recorder) Drain(x Drain) {
	r.stamp(&x.At)
	r.write(tDrain, &x, func(m *History) { m.Drains = append(m.Drains, x) })
}

// Delivery writes a message that arrived.
func (r *Recorder) Delivery(x Delivery) {
	r.stamp(&x.At)
	r.write(tDelivery, &x, func(m *History) { m.Deliveries = append(m.Deliveries, x) })
}

// Health writes a poll of a node. The reason is left out where it repeats the node's last one.
func (r *Recorder) Health(x Health) {
	r.stamp(&x.At)
	x.Reason = clip(x.Reason)
	r.mu.Lock() // for both: a reason that is said must stand before the lines that rely on it
	defer r.mu.Unlock()
	line, key := x, x.Node+"/"+x.Probe
	if line.Reason == "" {
		line.Reason = noReason
	}
	if r.reasons[key] == line.Reason {
		line.Reason = ""
	} else {
		r.reasons[key] = line.Reason
	}
	b, err := json.Marshal(&line)
	r.put(tHealth, b, err, func(m *History) { m.Health = append(m.Health, x) })
}

// noReason stands in the file for an empty reason, because there "" means: as before.
const noReason = "-"

// clip cuts a reason to 300 bytes, between characters: half a character would not survive the file.
func clip(s string) string {
	const limit = 300
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	n := limit
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Replica writes one node's own copy of one stream.
func (r *Recorder) Replica(x Replica) {
	r.stamp(&x.At)
	r.write(tReplica, &x, func(m *History) { m.Replicas = append(m.Replicas, x) })
}

// Conn writes a change of a client's connection.
func (r *Recorder) Conn(x Conn) {
	r.stamp(&x.At)
	r.write(tConn, &x, func(m *History) { m.Conns = append(m.Conns, x) })
}

// Event writes anything else on the time axis.
func (r *Recorder) Event(x Event) {
	r.stamp(&x.At)
	r.write(tEvent, &x, func(m *History) { m.Events = append(m.Events, x) })
}

// Mark writes a named moment.
func (r *Recorder) Mark(name string) { r.Event(Event{Kind: "mark", Name: name}) }

// Counts is how many operations have been written so far, and how many of them with outcome OK.
func (r *Recorder) Counts() (ops, ok int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done, r.ok
}

// Last calls f with the record so far, under the recorder's lock: f must be quick and keep nothing.
func (r *Recorder) Last(f func(h *History)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.mem)
}

func (r *Recorder) stamp(at *int64) {
	if *at == 0 {
		*at = r.Now()
	}
}

func (r *Recorder) write(t string, v any, keep func(*History)) {
	b, err := json.Marshal(v)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(t, b, err, keep)
}

// put writes one line; the lock is held.
func (r *Recorder) put(t string, b []byte, err error, keep func(*History)) {
	if r.closed {
		return // a straggler after Close: the record is sealed
	}
	if err != nil {
		r.fail(err)
		return
	}
	r.buf.Reset()
	r.buf.WriteString(`["` + t + `",`)
	r.buf.Write(b)
	r.buf.WriteString("]\n")
	if r.buf.Len() > maxLine {
		r.fail(fmt.Errorf("a record of type %s has %d bytes, at most %d can be read back", t, r.buf.Len(), maxLine))
		return
	}
	if _, err := r.w.Write(r.buf.Bytes()); err != nil {
		r.fail(err)
		return
	}
	if t == tOp {
		r.done++
	}
	keep(&r.mem)
}

func (r *Recorder) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("write history: %w", err)
	}
}

// Close seals the record. Later writes are dropped. It returns the first error of any write.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.err
	}
	r.closed = true
	if err := r.w.Flush(); err != nil {
		r.fail(err)
	}
	return r.err
}

// Read decodes a whole record. A line that is not one of ours, or cut short, is ErrCorrupt with its number.
func Read(rd io.Reader) (*History, error) {
	br := bufio.NewReaderSize(rd, maxLine)
	h := &History{}
	reasons := map[string]string{}
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("%w: line %d is longer than %d bytes", ErrCorrupt, n, maxLine)
		}
		if errors.Is(err, io.EOF) && len(line) == 0 {
			if n == 1 {
				return nil, fmt.Errorf("%w: empty", ErrCorrupt)
			}
			return h, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read history: %w", err)
		}
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: line %d is cut short", ErrCorrupt, n)
		}
		if n == 1 {
			var hd header
			if err := strictly(line, &hd); err != nil || hd.Format != Format {
				return nil, fmt.Errorf("%w: line 1 is not a %s header", ErrCorrupt, Format)
			}
			continue
		}
		if err := h.decode(line, reasons); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrCorrupt, n, err)
		}
	}
}

func (h *History) decode(line []byte, reasons map[string]string) error {
	rest, ok := bytes.CutPrefix(line, []byte(`["`))
	if !ok {
		return errors.New("not a record")
	}
	t, body, ok := bytes.Cut(rest, []byte(`",`))
	if !ok {
		return errors.New("not a record")
	}
	body, ok = bytes.CutSuffix(body, []byte("]\n"))
	if !ok {
		return errors.New("not a record")
	}
	switch string(t) {
	case tOp:
		return push(&h.Ops, body)
	case tItem:
		return push(&h.Items, body)
	case tDrain:
		return push(&h.Drains, body)
	case tDelivery:
		return push(&h.Deliveries, body)
	case tHealth:
		if err := push(&h.Health, body); err != nil {
			return err
		}
		x := &h.Health[len(h.Health)-1]
		key := x.Node + "/" + x.Probe
		if x.Reason != "" {
			reasons[key] = x.Reason
		} else {
			x.Reason = reasons[key]
		}
		if x.Reason == noReason {
			x.Reason = ""
		}
		return nil
	case tReplica:
		return push(&h.Replicas, body)
	case tConn:
		return push(&h.Conns, body)
	case tEvent:
		return push(&h.Events, body)
	}
	return fmt.Errorf("unknown record type %q", t)
}

func push[T any](s *[]T, body []byte) error {
	var x T
	if len(body) == 0 || body[0] != '{' { // null would decode, to a record of zeros
		return errors.New("not a record")
	}
	if err := strictly(body, &x); err != nil {
		return err
	}
	*s = append(*s, x)
	return nil
}

// strictly decodes one JSON value: no unknown fields, nothing after it.
func strictly(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(bytes.TrimRight(b, " \t\r\n"))) {
		return errors.New("something follows the value")
	}
	return nil
}
