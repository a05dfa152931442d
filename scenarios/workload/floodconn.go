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
	"strings"
	"syscall"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// Settings of raw connections.
const (
	rawTimeout  = 30 * time.Second // to be logged in: thousands of handshakes wait for two processors
	rawReadSize = 512              // bytes of buffer; there are thousands of them
)

// Answers of a server to a login.
var (
	errRefused = errors.New("the server refused the login")
	errNoHello = errors.New("the server did not say INFO")
)

// rawConn is a connection that speaks the NATS protocol by hand: a tenth of the memory of a real client, and able to misbehave.
type rawConn struct {
	net.Conn
	r     *bufio.Reader
	nonce string
}

// hello is the part of the server's INFO that a login needs.
type hello struct {
	Nonce       string `json:"nonce"`
	TLSRequired bool   `json:"tls_required"`
}

// login is what a connection says of itself. The zero value says nothing of who it is.
type login struct {
	NKey      string `json:"nkey,omitempty"`
	Signature string `json:"sig,omitempty"`
	Name      string `json:"name,omitempty"`
	Lang      string `json:"lang"`
	Version   string `json:"version"`
	Protocol  int    `json:"protocol"`
	Verbose   bool   `json:"verbose"`
	Pedantic  bool   `json:"pedantic"`
}

// dialRaw connects to a node and reads its INFO. Nothing is encrypted yet.
func dialRaw(ctx context.Context, n cluster.Node, receiveBuffer int) (*rawConn, hello, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return shrink(c, receiveBuffer) }}
	addr := n.Endpoints().Client
	if i := strings.Index(addr, "://"); i >= 0 {
		addr = addr[i+3:]
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, hello{}, fmt.Errorf("dial %s: %w", n.ID(), err)
	}
	c := &rawConn{Conn: conn, r: bufio.NewReaderSize(conn, rawReadSize)}
	if until, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(until) // a connection that takes no deadline ends by itself
	}
	line, err := c.line()
	if err != nil {
		return nil, hello{}, errors.Join(fmt.Errorf("greet %s: %w", n.ID(), err), conn.Close())
	}
	var h hello
	info, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok || json.Unmarshal(info, &h) != nil {
		return nil, hello{}, errors.Join(fmt.Errorf("greet %s: %w", n.ID(), errNoHello), conn.Close())
	}
	c.nonce = h.Nonce
	return c, h, nil
}

// shrink makes the kernel buffer little for a subscriber that does not read; 0 leaves it alone.
func shrink(c syscall.RawConn, bytes int) error {
	if bytes == 0 {
		return nil
	}
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes) }), err)
}

// line reads to the end of a line of any length.
func (c *rawConn) line() ([]byte, error) {
	var all []byte
	for {
		part, more, err := c.r.ReadLine()
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
		if !more {
			return all, nil
		}
	}
}

// secure does the TLS handshake if the node asks for it.
func (c *rawConn) secure(ctx context.Context, e *Env, h hello) error {
	if !h.TLSRequired {
		return nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if roots := authorities(e.Cluster); roots != nil {
		pool, err := roots()
		if err != nil {
			return err
		}
		conf.RootCAs = pool
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return fmt.Errorf("name the server: %w", err)
	}
	conf.ServerName = host
	t := tls.Client(c.Conn, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("shake hands: %w", err)
	}
	c.Conn, c.r = t, bufio.NewReaderSize(t, rawReadSize)
	return nil
}

// connectRaw is a connection that is logged in as the harness's user.
func (e *Env) connectRaw(ctx context.Context, n cluster.Node, name string, receiveBuffer int) (*rawConn, error) {
	ctx, cancel := context.WithTimeout(ctx, rawTimeout)
	defer cancel()
	c, h, err := dialRaw(ctx, n, receiveBuffer)
	if err != nil {
		return nil, err
	}
	if err := c.secure(ctx, e, h); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	sig, err := e.Identity.sign([]byte(c.nonce))
	if err == nil {
		err = c.login(login{NKey: e.Identity.Public(), Signature: base64.RawURLEncoding.EncodeToString(sig), Name: name})
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, c.SetDeadline(time.Time{})
}

// login says who this is and waits for the answer: errRefused if the server does not take it.
func (c *rawConn) login(l login) error {
	l.Lang, l.Version, l.Protocol = "go", "0", 1
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	if _, err := fmt.Fprintf(c, "CONNECT %s\r\nPING\r\n", b); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return c.answer()
}

// answer reads until the server answers a PING (nil), refuses (errRefused), or says nothing (the error of the connection).
func (c *rawConn) answer() error {
	for {
		line, err := c.line()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return fmt.Errorf("%w: closed", errRefused)
		case err != nil:
			return err
		case bytes.HasPrefix(line, []byte("-ERR")):
			return fmt.Errorf("%w: %s", errRefused, line)
		case bytes.Equal(line, []byte("PONG")):
			return nil
		}
	}
}

// pong answers the server's PINGs until the connection ends, and counts nothing else.
func (c *rawConn) pong() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if bytes.Equal(line, []byte("PING")) {
			if _, err := io.WriteString(c, "PONG\r\n"); err != nil {
				return err
			}
		}
	}
}
