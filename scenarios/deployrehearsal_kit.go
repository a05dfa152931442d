package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/cluster"
	launch "github.com/unibus/unibus/sut/subject"
)

// withoutProof is the reason that the rehearsal gives: its own bundle is the proof that is being made.
const withoutProof = "a rehearsal of the runbook: this is the proof that is being made"

// secondVersion is what the second build calls itself.
const secondVersion = "rehearsal-second-build"

// kit is the administrator's workstation: the scripts of the source tree, a list of nodes, secrets, and two builds of the daemon.
type kit struct {
	r       *Run
	fleet   machines
	tree    string
	dir     string // scripts
	desk    string // everything that is written
	second  string // the second build
	lines   string // what the last command printed
	atStart map[cluster.NodeID]string
	msgs    uint64 // of the orders stream, at the backup
}

// open finds the things of the run; it does so once.
func (k *kit) open(r *Run) error {
	if k.r == r {
		return nil
	}
	f, ok := r.Cluster.(machines)
	if !ok {
		return errors.New("the nodes are not whole hosts")
	}
	tree, err := launch.FindSource(".")
	if err != nil {
		return err
	}
	k.r, k.fleet, k.tree, k.desk = r, f, tree, f.Desk()
	k.dir = filepath.Join(tree, "sut", "deploy", "cluster")
	k.second = filepath.Join(k.desk, "second", "membershipd")
	k.atStart = map[cluster.NodeID]string{}
	return nil
}

func (k *kit) path(parts ...string) string {
	return filepath.Join(append([]string{k.desk}, parts...)...)
}
func (k *kit) nodes() string                { return k.path("nodes.env") }
func (k *kit) secrets(p ...string) string   { return k.path(append([]string{"secrets"}, p...)...) }
func (k *kit) first() string                { return k.r.Cluster.Spec().Subject.Path }
func (k *kit) url(id cluster.NodeID) string { return "tls://" + k.fleet.Address(id) + ":4222" }

// last is the end of what the last command printed.
func (k *kit) last() string {
	const keep = 400
	s := strings.TrimSpace(k.lines)
	if len(s) > keep {
		s = "... " + s[len(s)-keep:]
	}
	return s
}

// run runs a program, keeps what it prints in the bundle, and returns its exit code.
func (k *kit) run(ctx context.Context, program string, args ...string) (int, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	k.lines = out.String()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("run %s: %w", filepath.Base(program), err)
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return cmd.ProcessState.ExitCode(), k.transcribe(program, args, cmd.ProcessState.ExitCode(), time.Since(began))
}

// transcribe keeps the rehearsal readable: each command with its output, as an operator would have seen it.
func (k *kit) transcribe(program string, args []string, exit int, took time.Duration) error {
	f, err := os.OpenFile(filepath.Join(k.r.bundle.LogDir(), "runbook.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write the transcript: %w", err)
	}
	line := strings.ReplaceAll(strings.Join(append([]string{filepath.Base(program)}, args...), " "), k.desk, "$DESK")
	_, err = fmt.Fprintf(f, "$ %s\n%s[exit %d after %.1f s]\n\n", line, strings.ReplaceAll(k.lines, k.desk, "$DESK"), exit, took.Seconds())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the transcript: %w", err)
	}
	return nil
}

func (k *kit) certs(ctx context.Context, args ...string) (int, error) {
	return k.run(ctx, filepath.Join(k.dir, "generate-cluster-certs.sh"), append([]string{"--nodes", k.nodes(), "--out", k.secrets()}, args...)...)
}

func (k *kit) deploy(ctx context.Context, action string, args ...string) (int, error) {
	base := []string{action, "--nodes", k.nodes(), "--secrets", k.secrets(), "--ssh-config", k.fleet.SSHConfig()}
	return k.run(ctx, filepath.Join(k.dir, "deploy-cluster.sh"), append(base, args...)...)
}

func (k *kit) saveOrRestore(ctx context.Context, action string, args ...string) (int, error) {
	base := []string{action, "--nodes", k.nodes(), "--ssh-config", k.fleet.SSHConfig()}
	return k.run(ctx, filepath.Join(k.dir, "backup-cluster.sh"), append(base, args...)...)
}

// admin runs membershipd on the workstation as the first admin, through one node.
func (k *kit) admin(ctx context.Context, through cluster.NodeID, args ...string) (int, error) {
	return k.run(ctx, k.first(), append(args, "--server", k.url(through), "--ca", k.secrets("client-trust.crt"), "--nkey-file", k.secrets("admin.nk"))...)
}

// newKey makes a user's key and returns the public half.
func (k *kit) newKey(ctx context.Context, file string) (string, error) {
	exit, err := k.run(ctx, k.first(), "key", "new", file)
	if err != nil || exit != 0 {
		return "", errors.Join(err, fmt.Errorf("make a key: %s", k.last()))
	}
	return strings.TrimSpace(k.lines), nil
}

// writeNodes fills in the template, as an administrator would: what stands in angle brackets, and nothing of the rest but what the harness needs to look.
func (k *kit) writeNodes(replicas int) error {
	b, err := os.ReadFile(filepath.Join(k.dir, "nodes.env"))
	if err != nil {
		return fmt.Errorf("fill in nodes.env: %w", err)
	}
	s := string(b)
	for from, to := range map[string]string{
		"<cluster-name>": "rehearsal", "<private-or-public>": "private", "HTTP_BIND=loopback": "HTTP_BIND=node", "MONITOR_PORT=\n": "MONITOR_PORT=8222\n",
		"REPLICAS=3": fmt.Sprintf("REPLICAS=%d", replicas),
	} {
		if !strings.Contains(s, from) {
			return fmt.Errorf("fill in nodes.env: it has no %q", from)
		}
		s = strings.ReplaceAll(s, from, to)
	}
	for _, id := range cluster.IDs(k.r.Cluster) {
		user := "root"
		if id == "n3" { // one administrator is not root
			user = "ops"
		}
		a := k.fleet.Address(id)
		s = strings.ReplaceAll(s, fmt.Sprintf("<address-of-%s>", id), a)
		s = strings.ReplaceAll(s, fmt.Sprintf("<root@host-of-%s>", id), user+"@"+a)
	}
	if err := os.WriteFile(k.nodes(), []byte(s), 0o600); err != nil {
		return fmt.Errorf("fill in nodes.env: %w", err)
	}
	return nil
}

// believe makes the harness's own clients trust what the runbook tells clients to trust.
func (k *kit) believe() error {
	b, err := os.ReadFile(k.secrets("client-trust.crt"))
	if err != nil {
		return fmt.Errorf("read what clients trust: %w", err)
	}
	t := k.fleet.Trust()
	t.Believed = b
	k.fleet.SetTrust(t)
	return nil
}

// build makes the second build the way that the deploy script makes one, with another version.
func (k *kit) build(ctx context.Context) (int, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version="+secondVersion, "-o", k.second, "./cmd/membershipd")
	cmd.Dir, cmd.Env = k.tree, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("build the second version: %w: %s", err, out)
	}
	return 0, nil
}

// login connects as a user to one node and no other; it returns the node's name and the fingerprint of the certificate that it showed.
func (k *kit) login(ctx context.Context, seed, trust string, id cluster.NodeID) (node, fingerprint string, err error) {
	c, err := client.Connect(ctx, client.Options{Servers: []string{k.url(id)}, SeedFile: seed, CAFile: trust, Name: "rehearsal"})
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	s, err := c.TLSConnectionState()
	if err != nil {
		return "", "", fmt.Errorf("read the state of TLS: %w", err)
	}
	return c.ConnectedServerName(), s.PeerCertificates[0].SerialNumber.String(), nil
}
