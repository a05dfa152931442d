package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How long a server, or a cluster of three, may take on a loaded machine.
const serverPatience = 60 * time.Second

// serverEnv names the binary of another release of nats-server, to check the formats against that one.
const serverEnv = "STORE_TEST_NATS_SERVER"

// serverBinary builds nats-server once for all tests of the package.
var serverBinary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv(serverEnv); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "nats-server-")
	if err != nil {
		return "", err
	}
	builtDir = dir
	bin := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return bin, nil
})

// builtDir is where the binary was built, if it was.
var builtDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// server is one nats-server process.
type server struct {
	t     testing.TB
	dir   string // store_dir
	conf  string
	cmd   *exec.Cmd
	done  chan struct{}
	ports struct {
		Nats       []string `json:"nats"`
		Monitoring []string `json:"monitoring"`
	}
	nc *nats.Conn
	js jetstream.JetStream
}

func newServer(t testing.TB, extra string) *server {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a nats-server")
	}
	s := &server{t: t, dir: filepath.Join(t.TempDir(), "data")}
	s.configure(fmt.Sprintf("server_name: one\nlisten: 127.0.0.1:-1\nhttp: 127.0.0.1:-1\njetstream { store_dir: %q, max_file_store: 4GB }\n%s\n", s.dir, extra))
	s.start()
	return s
}

func (s *server) configure(conf string) {
	s.t.Helper()
	s.conf = filepath.Join(s.t.TempDir(), "nats.conf")
	if err := os.WriteFile(s.conf, []byte(conf), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) launch() {
	s.t.Helper()
	bin, err := serverBinary()
	if err != nil {
		s.t.Fatal(err)
	}
	portsDir := s.t.TempDir()
	s.cmd = exec.Command(bin, "-c", s.conf, "--ports_file_dir", portsDir)
	log, err := os.Create(filepath.Join(portsDir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // a signal ends it
		_ = log.Close()
		close(done)
	}(s.cmd, s.done)
	s.t.Cleanup(func() { s.stop(syscall.SIGKILL) })
	s.wait("ports", func() error {
		select {
		case <-s.done:
			b, err := os.ReadFile(log.Name())
			s.t.Fatalf("nats-server ended: %s %v", b, err)
		default:
		}
		files, err := filepath.Glob(filepath.Join(portsDir, "*.ports"))
		if err != nil || len(files) == 0 {
			return errors.New("no file of ports yet")
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &s.ports)
	})
}

func (s *server) start() {
	s.t.Helper()
	s.launch()
	s.connect()
	s.wait("JetStream", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := s.js.AccountInfo(ctx)
		return err
	})
}

func (s *server) connect() {
	s.t.Helper()
	var err error
	if s.nc, err = nats.Connect(s.ports.Nats[0], nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		s.t.Fatal(err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.nc.Close)
}

func (s *server) stop(sig syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	if s.nc != nil {
		s.nc.Close()
	}
	_ = s.cmd.Process.Signal(sig) // it may be gone
	select {
	case <-s.done:
	case <-time.After(serverPatience):
		s.t.Error("nats-server does not end")
	}
	s.cmd = nil
}

// wait tries until f succeeds.
func (s *server) wait(what string, f func() error) {
	s.t.Helper()
	deadline := time.NewTimer(serverPatience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("wait for %s: %v", what, err)
		}
	}
}

// streamState is what /jsz says of a stream on this very server.
type streamState struct {
	Msgs       uint64 `json:"messages"`
	Bytes      uint64 `json:"bytes"`
	First      uint64 `json:"first_seq"`
	Last       uint64 `json:"last_seq"`
	NumDeleted int    `json:"num_deleted"`
}

var errNoStream = errors.New("the server does not list the stream")

func (s *server) jsz(stream string) (streamState, error) {
	resp, err := http.Get(s.ports.Monitoring[0] + "/jsz?accounts=1&streams=1&config=1")
	if err != nil {
		return streamState{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		Accounts []struct {
			Streams []struct {
				Name  string      `json:"name"`
				State streamState `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return streamState{}, err
	}
	for _, a := range body.Accounts {
		for _, st := range a.Streams {
			if st.Name == stream {
				return st.State, nil
			}
		}
	}
	return streamState{}, fmt.Errorf("%w %s", errNoStream, stream)
}

func (s *server) state(stream string) streamState {
	s.t.Helper()
	st, err := s.jsz(stream)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// message is one message as a client reads it.
type message struct {
	seq     uint64
	time    int64
	subject string
	header  nats.Header
	data    string
}

// messages reads a whole stream through the server.
func (s *server) messages(stream string) []message {
	s.t.Helper()
	want := s.state(stream).Msgs
	if want == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatal(err)
	}
	if st.CachedInfo().Config.Retention == jetstream.WorkQueuePolicy {
		return s.oneByOne(ctx, st) // an ordered consumer is not allowed there
	}
	c, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		s.t.Fatal(err)
	}
	it, err := c.Messages()
	if err != nil {
		s.t.Fatal(err)
	}
	defer it.Stop()
	var out []message
	for uint64(len(out)) < want {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			s.t.Fatalf("message %d of %d: %v", len(out), want, err)
		}
		md, err := m.Metadata()
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, message{md.Sequence.Stream, md.Timestamp.UnixNano(), m.Subject(), m.Headers(), string(m.Data())})
	}
	return out
}

func (s *server) oneByOne(ctx context.Context, st jetstream.Stream) []message {
	s.t.Helper()
	var out []message
	for seq := st.CachedInfo().State.FirstSeq; seq <= st.CachedInfo().State.LastSeq; seq++ {
		m, err := st.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, message{m.Sequence, m.Time.UnixNano(), m.Subject, m.Header, string(m.Data)})
	}
	return out
}

// publish sends n messages without waiting for each.
func (s *server) publish(n int, subject func(int) string, size int) {
	s.t.Helper()
	s.publishEach(n, func(i int) *nats.Msg {
		return &nats.Msg{Subject: subject(i), Data: payload(i, size)}
	})
}

func (s *server) publishEach(n int, msg func(int) *nats.Msg) {
	s.t.Helper()
	js, err := jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		s.t.Fatal(err)
	}
	var acks []jetstream.PubAckFuture
	for i := range n {
		a, err := js.PublishMsgAsync(msg(i), jetstream.WithStallWait(serverPatience))
		if err != nil {
			s.t.Fatal(err)
		}
		acks = append(acks, a)
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			s.t.Fatal(err)
		case <-time.After(serverPatience):
			s.t.Fatal("no ack")
		}
	}
}

func (s *server) create(cfg jetstream.StreamConfig) jetstream.Stream {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverPatience)
	defer cancel()
	cfg.Storage = jetstream.FileStorage
	st, err := s.js.CreateStream(ctx, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// payload differs from message to message and does not compress to nothing.
func payload(i, size int) []byte {
	var b strings.Builder
	for x := uint64(i)*2654435761 + 1; b.Len() < size; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		fmt.Fprintf(&b, "%x.", x%1_000_003)
	}
	return []byte(b.String()[:size])
}
