package workload

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/cluster"
)

// wire is a connection to one node that speaks NATS's protocol itself. The library reports a refusal on the side, at some later time; here what the node
// says comes in the order in which it says it: a PONG without an error before it proves that what was sent before the PING was not refused.
//
// One goroutine reads; any may write.
type wire struct {
	conn net.Conn
	br   *bufio.Reader
	wmu  sync.Mutex
}

// Limits of a connection.
const (
	wireTimeout = 2 * time.Second // one step: connect, log in, or a round trip
	maxWireLine = 1 << 16
	maxWireBody = 8 << 20
)

// Errors of a wire.
var (
	errLoginRefused = errors.New("the node refused the login")
	errWire         = errors.New("the connection is of no more use")
)

// wireMsg is what arrived: a message, the node's complaint about a permission, or a PONG.
type wireMsg struct {
	kind    string // "MSG", "ERR", "PONG"
	subject string
	sid     string
	reply   string
	header  string
	data    []byte
}

// dialWire connects and logs in. errLoginRefused is the node's own word.
func (e *Env) dialWire(ctx context.Context, n cluster.Node, key nkeys.KeyPair, name string) (*wire, error) {
	u, err := url.Parse(n.Endpoints().Client)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	ctx, cancel := context.WithTimeout(ctx, wireTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	w := &wire{conn: conn, br: bufio.NewReaderSize(conn, maxWireLine)}
	if err := w.login(ctx, e, u.Hostname(), key, name); err != nil {
		_ = w.conn.Close() // the login's error says more
		return nil, err
	}
	return w, nil
}

// info is the part of a node's greeting that matters.
type info struct {
	Nonce       string `json:"nonce"`
	TLSRequired bool   `json:"tls_required"`
}

func (w *wire) login(ctx context.Context, e *Env, host string, key nkeys.KeyPair, name string) error {
	w.until(time.Now().Add(wireTimeout))
	line, err := w.line()
	if err != nil {
		return err
	}
	var in info
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &in); err != nil {
		return fmt.Errorf("%w: read the greeting: %w", errWire, err)
	}
	if err := w.encrypt(ctx, e, host, in); err != nil {
		return err
	}
	hello, err := connectLine(in, key, name)
	if err != nil {
		return err
	}
	if err := w.send(hello + "PING\r\n"); err != nil {
		return err
	}
	m, err := w.read()
	switch {
	case err != nil:
		return err
	case m.kind == "ERR" && strings.Contains(string(m.data), "Authorization Violation"):
		return errLoginRefused
	case m.kind != "PONG":
		return fmt.Errorf("%w: %s %s after the login", errWire, m.kind, m.data)
	}
	return nil
}

// encrypt does what the greeting asks for, if the cluster is one that should ask.
func (w *wire) encrypt(ctx context.Context, e *Env, host string, in info) error {
	roots := authorities(e.Cluster)
	if (roots != nil) != in.TLSRequired {
		return fmt.Errorf("%w: the node wants TLS: %t, the cluster has it: %t", errWire, in.TLSRequired, roots != nil)
	}
	if roots == nil {
		return nil
	}
	pool, err := roots()
	if err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	c := tls.Client(w.conn, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host, RootCAs: pool})
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	w.conn, w.br = c, bufio.NewReaderSize(c, maxWireLine)
	w.until(time.Now().Add(wireTimeout))
	return nil
}

func connectLine(in info, key nkeys.KeyPair, name string) (string, error) {
	sig, err := key.Sign([]byte(in.Nonce))
	if err != nil {
		return "", fmt.Errorf("sign the nonce: %w", err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return "", fmt.Errorf("sign the nonce: %w", err)
	}
	b, err := json.Marshal(map[string]any{"verbose": false, "pedantic": false, "tls_required": in.TLSRequired, "nkey": public, "sig": base64.RawURLEncoding.EncodeToString(sig),
		"name": name, "lang": "wire", "version": "1", "protocol": 1, "headers": true, "no_responders": true})
	return "CONNECT " + string(b) + "\r\n", err
}

// until bounds all that follows.
func (w *wire) until(t time.Time) {
	_ = w.conn.SetDeadline(t) // fails only on a closed connection, which the next read reports
}

func (w *wire) send(s string) error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if _, err := io.WriteString(w.conn, s); err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	return nil
}

func (w *wire) line() (string, error) {
	b, err := w.br.ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("%w: %w", errWire, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// read returns the next thing that the node says. PINGs are answered, new greetings passed over. Complaints other than about permissions come as "ERR" too.
func (w *wire) read() (wireMsg, error) {
	for {
		line, err := w.line()
		if err != nil {
			return wireMsg{}, err
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "PING":
			if err := w.send("PONG\r\n"); err != nil {
				return wireMsg{}, err
			}
		case "INFO", "+OK":
		case "PONG":
			return wireMsg{kind: "PONG"}, nil
		case "-ERR":
			return wireMsg{kind: "ERR", data: []byte(strings.Trim(rest, "'"))}, nil
		case "MSG", "HMSG":
			return w.message(verb == "HMSG", strings.Fields(rest))
		default:
			return wireMsg{}, fmt.Errorf("%w: the node says %q", errWire, verb)
		}
	}
}

func (w *wire) message(headers bool, f []string) (wireMsg, error) {
	sizes := 1
	if headers {
		sizes = 2
	}
	if len(f) != 2+sizes && len(f) != 3+sizes {
		return wireMsg{}, fmt.Errorf("%w: a message with %d fields", errWire, len(f))
	}
	m := wireMsg{kind: "MSG", subject: f[0], sid: f[1]}
	if len(f) == 3+sizes {
		m.reply = f[2]
	}
	total, err := strconv.Atoi(f[len(f)-1])
	if err != nil || total < 0 || total > maxWireBody {
		return wireMsg{}, fmt.Errorf("%w: a message of %q bytes", errWire, f[len(f)-1])
	}
	body := make([]byte, total+2)
	if _, err := io.ReadFull(w.br, body); err != nil {
		return wireMsg{}, fmt.Errorf("%w: %w", errWire, err)
	}
	m.data = bytes.TrimSuffix(body, []byte("\r\n"))
	if headers {
		n, err := strconv.Atoi(f[len(f)-2])
		if err != nil || n < 0 || n > total {
			return wireMsg{}, fmt.Errorf("%w: a header of %q bytes", errWire, f[len(f)-2])
		}
		m.header, m.data = string(m.data[:n]), m.data[n:]
	}
	return m, nil
}

// pub is the protocol of one message; header is "Name: value" or "".
func pub(subject, reply, header string, body []byte) string {
	var s strings.Builder
	to := subject
	if reply != "" {
		to += " " + reply
	}
	if header == "" {
		fmt.Fprintf(&s, "PUB %s %d\r\n", to, len(body))
	} else {
		header = "NATS/1.0\r\n" + header + "\r\n\r\n"
		fmt.Fprintf(&s, "HPUB %s %d %d\r\n%s", to, len(header), len(header)+len(body), header)
	}
	s.Write(body)
	s.WriteString("\r\n")
	return s.String()
}

// trip sends and waits for the PONG. refused is what the node said of permissions on the way; keep gets the messages that arrived.
func (w *wire) trip(s string, keep func(wireMsg)) (refused string, err error) {
	w.until(time.Now().Add(wireTimeout))
	if err := w.send(s + "PING\r\n"); err != nil {
		return "", err
	}
	for {
		m, err := w.read()
		switch {
		case err != nil:
			return refused, err
		case m.kind == "PONG":
			return refused, nil
		case m.kind == "ERR" && strings.HasPrefix(strings.ToLower(string(m.data)), "permissions violation"):
			refused = string(m.data)
		case m.kind == "ERR":
			return refused, fmt.Errorf("%w: %s", errWire, m.data)
		case keep != nil:
			keep(m)
		}
	}
}

// await reads until a message fits.
func (w *wire) await(within time.Duration, fits func(wireMsg) bool) (wireMsg, error) {
	w.until(time.Now().Add(within))
	for {
		m, err := w.read()
		if err != nil {
			return m, err
		}
		if m.kind == "ERR" {
			return m, fmt.Errorf("%w: %s", errWire, m.data)
		}
		if m.kind == "MSG" && fits(m) {
			return m, nil
		}
	}
}

func (w *wire) close() { _ = w.conn.Close() } // nothing depends on how it ends

// witness is an administrator at one node, who sees what is published there, answers requests, and publishes for others to receive.
type witness struct {
	env  *Env
	node cluster.Node
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	w    *wire // nil while it is not connected and listening
	seen map[string]chan struct{}
}

// Subjects of the witness. Everything that users try with core messages is below witnessAll.
const (
	witnessAll = "acl.>"
	witnessSvc = "acl.svc."
)

// newWitness lives until it is closed, longer than the setup that makes it.
func newWitness(ctx context.Context, e *Env, n cluster.Node) *witness {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	v := &witness{env: e, node: n, stop: stop, done: make(chan struct{}), seen: map[string]chan struct{}{}}
	go v.run(ctx)
	return v
}

func (v *witness) run(ctx context.Context) {
	defer close(v.done)
	for ctx.Err() == nil {
		v.listen(ctx)
		pause(ctx, 100*time.Millisecond)
	}
}

// listen connects once and goes on until the connection ends.
func (v *witness) listen(ctx context.Context) {
	w, err := v.env.dialWire(ctx, v.node, v.env.Identity.pair, "witness")
	if err != nil {
		return
	}
	defer w.close()
	defer context.AfterFunc(ctx, w.close)()
	if refused, err := w.trip("SUB "+witnessAll+" 1\r\n", nil); refused != "" || err != nil {
		return
	}
	w.until(time.Time{})
	v.set(w)
	defer v.set(nil)
	for {
		m, err := w.read()
		if err != nil {
			return
		}
		if m.kind != "MSG" {
			continue
		}
		v.note(string(m.data))
		if m.reply != "" && strings.HasPrefix(m.subject, witnessSvc) {
			if err := w.send(pub(m.reply, "", "", m.data)); err != nil {
				return
			}
		}
	}
}

func (v *witness) set(w *wire) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.w = w
}

func (v *witness) note(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ch := v.seen[id]; ch != nil {
		close(ch)
		delete(v.seen, id)
	}
}

// expect returns a channel that is closed when a message with that id has come, and a function that gives it up; false when nobody listens.
func (v *witness) expect(id string) (<-chan struct{}, func(), bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ch := make(chan struct{})
	v.seen[id] = ch
	return ch, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.seen, id)
	}, v.w != nil
}

// publish sends a message from the same node; false when the witness is not connected.
func (v *witness) publish(subject, id string) bool {
	v.mu.Lock()
	w := v.w
	v.mu.Unlock()
	return w != nil && w.send(pub(subject, "", "", []byte(id))) == nil
}

func (v *witness) up() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.w != nil
}

func (v *witness) close() {
	v.stop()
	<-v.done
}
