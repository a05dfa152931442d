package ecosystem_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/unibus/unibus/sut/membershipd/control"
)

const (
	natsCommand = "github.com/nats-io/natscli/nats"
	natsVersion = "v0.5.1"
)

// controlDocument describes the control API, with a heading for each endpoint.
const controlDocument = "../membershipd/control/README.md"

var endpointHeading = regexp.MustCompile("(?m)^### `([a-z0-9.]+)`$")

// errNoModule means that the version can be neither found in a cache nor downloaded.
var errNoModule = errors.New("the module cannot be had")

// cli is the nats command, built once for this machine.
var cli = sync.OnceValues(buildCLI)

// buildCLI has the go command build a release in the user's cache, as sut/subject does with nats-server: about 35 s on two cores when nothing of
// it was ever built, nothing afterwards.
func buildCLI() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "unibus", "tools", fmt.Sprintf("nats-%s-%s-%s", natsVersion, runtime.GOOS, runtime.GOARCH))
	path := filepath.Join(dir, "nats")
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // empty by then, or not wanted
	if err := install(tmp); err != nil {
		return "", err
	}
	return path, os.Rename(filepath.Join(tmp, "nats"), path)
}

func install(dir string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: %w", errNoModule, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", natsCommand+"@"+natsVersion)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=", "GOARCH=")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	for _, sign := range []string{"dial tcp", "module lookup disabled", "403 Forbidden", "404 Not Found", "not available", "no such host"} {
		if bytes.Contains(out, []byte(sign)) {
			return fmt.Errorf("%w: %s", errNoModule, bytes.TrimSpace(out))
		}
	}
	return fmt.Errorf("go install: %w: %s", err, out)
}

// tool is the nats command with an identity.
type tool struct {
	path    string
	servers string
	login   []string
	env     []string
}

// nats returns the command for the owner of a seed file; inbox is the prefix that the user's replies come to, or "".
func (b *bus) nats(t *testing.T, seedFile, inbox string) tool {
	t.Helper()
	path, err := cli()
	if errors.Is(err, errNoModule) {
		t.Skipf("%s@%s: %v", natsCommand, natsVersion, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	login := []string{"--nkey", seedFile}
	if inbox != "" {
		login = append(login, "--inbox-prefix", inbox)
	}
	if b.caFile != "" {
		login = append(login, "--tlsca", b.caFile)
	}
	home := t.TempDir() // no context of whoever runs the test
	return tool{path: path, servers: strings.Join(b.servers(0), ","), login: login, env: []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "PATH=/usr/bin:/bin", "NATS_TIMEOUT=20s"}}
}

// at is the same, connected to one node only.
func (n tool) at(b *bus, node int) tool {
	n.servers = b.servers(node)[0]
	return n
}

func (n tool) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.path, append(append(args[:len(args):len(args)], "--server", n.servers), n.login...)...)
	cmd.Env = n.env
	return cmd
}

// result is what a command has printed, on both outputs, and how it ended.
type result struct {
	out  string
	code int
}

func (n tool) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	out, err := n.command(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("nats %s: %v: %s", strings.Join(args, " "), err, out)
	}
	r := result{out: string(out)}
	if exit != nil {
		r.code = exit.ExitCode()
	}
	return r
}

// does runs a command that must succeed and say all of that.
func (n tool) does(t *testing.T, args string, wants ...string) {
	t.Helper()
	r := n.run(t, strings.Fields(args)...)
	if r.code != 0 {
		t.Errorf("nats %s ends with %d: %s", args, r.code, r.out)
		return
	}
	for _, w := range wants {
		if !strings.Contains(r.out, w) {
			t.Errorf("nats %s does not say %q: %s", args, w, r.out)
		}
	}
}

// refused runs a command that must fail or say that the server did not allow it.
func (n tool) refused(t *testing.T, args string) {
	t.Helper()
	n.env = append(n.env[:len(n.env):len(n.env)], "NATS_TIMEOUT=2s") // what is refused has no answer to wait for
	r := n.run(t, strings.Fields(args)...)
	lower := strings.ToLower(r.out)
	if !strings.Contains(lower, "permissions violation") && !strings.Contains(lower, "authorization violation") {
		t.Errorf("nats %s was not refused (it ends with %d): %s", args, r.code, r.out)
	}
}

// background starts a command that waits for messages; wait returns what it has printed once it has ended.
func (n tool) background(t *testing.T, args ...string) (wait func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	var out bytes.Buffer
	cmd := n.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var err error
	ended := make(chan struct{})
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return func() string {
		t.Helper()
		<-ended
		if err != nil {
			t.Errorf("nats %s: %v: %s", strings.Join(args, " "), err, out.String())
		}
		return out.String()
	}
}

// TestNATSCommand runs the commands that people know against the cluster, with nothing but a seed file.
func TestNATSCommand(t *testing.T) {
	b := converged(t)
	n := b.nats(t, b.adminFile, "")
	t.Run("publish and subscribe", func(t *testing.T) { b.testSubscribe(t, n) })
	t.Run("request and reply", func(t *testing.T) { b.testReply(t, n) })
	b.converge(t) // building the command, which the first run does, leaves nothing for a cluster to run on
	t.Run("stream", func(t *testing.T) { testStream(t, n) })
	t.Run("kv", func(t *testing.T) { testKV(t, n) })
	t.Run("bench", func(t *testing.T) { testBench(t, n) })
	t.Run("check", func(t *testing.T) { testChecks(t, n) })
	t.Run("micro", func(t *testing.T) { testMicro(t, n) })
	t.Run("step down", func(t *testing.T) { n.does(t, "stream cluster step-down ORDERS", "Requesting leader step down") })
}

func (b *bus) testSubscribe(t *testing.T, n tool) {
	subscriber := n.at(b, 1).background(t, "sub", "eco.sub", "--count", "2")
	b.awaitInterest(t, 0, "eco.sub")
	n.at(b, 0).does(t, "pub eco.sub one", "Published 3 bytes")
	n.at(b, 0).does(t, "pub eco.sub two -H Eco:yes", "Published 3 bytes")
	if out := subscriber(); !strings.Contains(out, "one") || !strings.Contains(out, "Eco: yes") || !strings.Contains(out, "two") {
		t.Errorf("the subscriber got: %s", out)
	}
}

func (b *bus) testReply(t *testing.T, n tool) {
	n.at(b, 2).background(t, "reply", "eco.rpc", "pong to {{Request}}")
	b.awaitInterest(t, 0, "eco.rpc")
	n.at(b, 0).does(t, "request eco.rpc ping", "pong to ping")
}

// testStream makes what the checks look at later.
func testStream(t *testing.T, n tool) {
	n.does(t, "stream add ORDERS --subjects orders.> --replicas 3 --storage file --defaults", "ORDERS", "Replicas: 3")
	n.does(t, "pub orders.1 first --jetstream", "Stored in Stream: ORDERS")
	n.does(t, "pub orders.2 second --jetstream", "Sequence: 2")
	n.does(t, "stream info ORDERS", "Messages: 2", "Leader:", "Replica:")
	n.does(t, "stream ls", "ORDERS")
	n.does(t, "stream report", "ORDERS", "n1", "n2", "n3")
	n.does(t, "stream get ORDERS 1", "first")
	n.does(t, "stream subjects ORDERS", "orders.2")
	n.does(t, "consumer add ORDERS WORK --pull --ack explicit --deliver all --replicas 3 --defaults", "WORK", "Ack Policy: Explicit")
	n.does(t, "consumer next ORDERS WORK", "first", "Acknowledged message")
	n.does(t, "consumer info ORDERS WORK", "Unprocessed Messages: 1")
	n.does(t, "consumer ls ORDERS", "WORK")
	n.does(t, "consumer report ORDERS", "WORK", "Explicit")
}

func testKV(t *testing.T, n tool) {
	n.does(t, "kv add CFG --replicas 3 --history 4", "CFG", "Replica")
	n.does(t, "kv put CFG colour blue", "blue")
	n.does(t, "kv put CFG colour green", "green")
	n.does(t, "kv get CFG colour --raw", "green")
	n.does(t, "kv history CFG colour", "blue", "green")
	n.does(t, "kv ls", "CFG")
	n.does(t, "kv ls CFG", "colour")
	n.does(t, "kv status CFG", "History Kept: 4")
	n.does(t, "kv del CFG colour --force")
	if r := n.run(t, "kv", "get", "CFG", "colour", "--raw"); r.code == 0 {
		t.Errorf("a deleted key is still there: %s", r.out)
	}
}

func testBench(t *testing.T, n tool) {
	n.does(t, "bench pub eco.bench --msgs 1000 --no-progress", "msgs/sec")
	n.does(t, "bench js pub sync eco.js --create --stream ECOBENCH --msgs 50 --replicas 3 --no-progress", "msgs/sec")
	n.does(t, "bench js fetch --stream ECOBENCH --msgs 50 --no-progress", "msgs/sec")
	n.does(t, "stream rm ECOBENCH --force")
}

// testChecks: each is a plug-in for a monitoring system, and says OK at the beginning of its line.
func testChecks(t *testing.T, n tool) {
	for _, check := range []string{
		"connection --connect-warn 20s --connect-critical 30s --rtt-warn 20s --rtt-critical 30s --req-warn 20s --req-critical 30s",
		"jetstream", "stream --stream ORDERS --peer-expect 3", "consumer --stream ORDERS --consumer WORK", "kv --bucket CFG",
		"message --stream ORDERS --subject orders.1", "request --subject " + control.SubjectStatus,
	} {
		r := n.run(t, append([]string{"server", "check"}, strings.Fields(check)...)...)
		if r.code != 0 || !strings.HasPrefix(r.out, "OK ") {
			t.Errorf("nats server check %s ends with %d: %s", check, r.code, r.out)
		}
	}
	n.does(t, "server check jetstream --format prometheus", "# TYPE")
}

// testMicro: the control API can be found, with exactly the endpoints that its document describes, which any node answers, and one of each that the node alone does.
func testMicro(t *testing.T, n tool) {
	n.does(t, "micro ls", "unibus", "unibus control API")
	n.does(t, "micro stats unibus", "unibus")
	n.does(t, "micro ping unibus --timeout 4s", "unibus") // it waits for more answers until then
	n.does(t, "request "+control.SubjectStatus+" {}", `"ready":true`)
	var found struct {
		Info struct {
			Metadata  map[string]string `json:"metadata"`
			Endpoints []struct {
				Subject string `json:"subject"`
			} `json:"endpoints"`
		} `json:"info"`
	}
	r := n.run(t, "micro", "info", "unibus", "--json")
	if err := json.Unmarshal([]byte(r.out), &found); err != nil {
		t.Fatalf("nats micro info: %v: %s", err, r.out)
	}
	var registered, documented []string
	for _, e := range found.Info.Endpoints {
		registered = append(registered, e.Subject)
	}
	doc, err := os.ReadFile(controlDocument)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range endpointHeading.FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1], control.At(m[1], found.Info.Metadata["node"]))
	}
	slices.Sort(registered)
	slices.Sort(documented)
	if !slices.Equal(registered, documented) {
		t.Errorf("the nodes answer on %v,\nand the document has %v", registered, documented)
	}
}
