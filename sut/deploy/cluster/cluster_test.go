package cluster_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
)

var scripts = []string{"generate-cluster-certs.sh", "deploy-cluster.sh", "backup-cluster.sh"}

// filled is a list of nodes without placeholders. Its addresses are for documentation.
const filled = `# a cluster
CLUSTER_NAME=demo
ROUTE_NETWORK=private
CLIENT_PORT=4222
ROUTE_PORT=6222
HTTP_PORT=8080
HTTP_BIND=loopback
MONITOR_PORT=
REPLICAS=3
SYNC=always
MAX_STORE=10G
NODE n1 192.0.2.1 root@192.0.2.1 10.1.2.1
NODE n2 192.0.2.2 root@192.0.2.2 10.1.2.2   # in the cellar
NODE n3 node-three.example.org ops@192.0.2.3 10.1.2.3
`

// desk is a workstation: a list of nodes, a folder for secrets, and an ssh that only writes down what it is asked.
type desk struct {
	t                 *testing.T
	dir, nodes, certs string
	calls             string // one line per call of ssh
	sent              string // everything that ssh was given to read
}

func newDesk(t *testing.T, nodes string) desk {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil || runtime.GOOS != "linux" {
		t.Skip("the scripts are for Linux with bash")
	}
	d := desk{t: t, dir: t.TempDir()}
	d.nodes, d.certs = filepath.Join(d.dir, "nodes.env"), filepath.Join(d.dir, "secrets")
	d.calls, d.sent = filepath.Join(d.dir, "calls"), filepath.Join(d.dir, "sent")
	d.write(d.nodes, nodes, 0o600)
	d.write(filepath.Join(d.dir, "bin", "ssh"), fmt.Sprintf("#!/bin/bash\nprintf '%%s\\n' \"$*\" >>%q\ncat >>%q\n", d.calls, d.sent), 0o755)
	d.write(filepath.Join(d.dir, "membershipd"), "#!/bin/sh\necho some version\n", 0o755)
	return d
}

func (d desk) write(path, content string, mode fs.FileMode) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		d.t.Fatal(err)
	}
}

// run gives everything that a script printed, and its exit code.
func (d desk) run(script string, args ...string) (string, int) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), "./"+script, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(d.dir, "bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (d desk) must(script string, args ...string) string {
	d.t.Helper()
	out, code := d.run(script, args...)
	if code != 0 {
		d.t.Fatalf("%s %q ended with %d:\n%s", script, args, code, out)
	}
	return out
}

// refused wants a failure that says why, and no word to any host.
func (d desk) refused(why, script string, args ...string) {
	d.t.Helper()
	out, code := d.run(script, args...)
	if code == 0 || !strings.Contains(out, why) {
		d.t.Errorf("%s %q ended with %d, want a refusal with %q:\n%s", script, args, code, why, out)
	}
	if calls := d.read(d.calls); calls != "" {
		d.t.Errorf("%s %q was refused, but spoke to hosts: %s", script, args, calls)
	}
}

func (d desk) read(path string) string {
	d.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	return string(b)
}

// made are the files of the filled list of nodes, made once: most tests only need that there are some.
var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "unibus-certs-")
	if err != nil {
		return "", err
	}
	nodes := filepath.Join(dir, "nodes.env")
	if err := os.WriteFile(nodes, []byte(filled), 0o600); err != nil {
		return dir, err
	}
	out, err := exec.Command("./generate-cluster-certs.sh", "--nodes", nodes, "--out", filepath.Join(dir, "secrets")).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := made(); err == nil {
		_ = os.RemoveAll(dir) // only a leftover
	}
	os.Exit(code)
}

// giveCerts gives the desk a copy of those.
func (d desk) giveCerts() {
	d.t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		d.t.Skip("openssl is not installed")
	}
	dir, err := made()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.CopyFS(d.certs, os.DirFS(filepath.Join(dir, "secrets"))); err != nil {
		d.t.Fatal(err)
	}
}

func (d desk) makeCerts(args ...string) string {
	d.t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		d.t.Skip("openssl is not installed")
	}
	return d.must("generate-cluster-certs.sh", append([]string{"--nodes", d.nodes, "--out", d.certs}, args...)...)
}

// tree is every file below dir with mode and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		m[path] = info.Mode().String()
		if e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			m[path] += hex.EncodeToString(sum[:])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestScriptsPassShellcheck(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("shellcheck is not installed")
	}
	out, err := exec.CommandContext(t.Context(), "shellcheck", append([]string{"-x", "lib.bash"}, scripts...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestScriptsAreStrictAndSayHowTheyAreUsed(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	for _, s := range scripts {
		if !strings.Contains(d.read(s), "\nset -euo pipefail\n") {
			t.Errorf("%s has no strict mode", s)
		}
		if out := d.must(s, "--help"); !strings.HasPrefix(out, "Usage: "+s) {
			t.Errorf("%s --help says %q", s, out)
		}
		if out, code := d.run(s, "--no-such-option"); code != 2 || !strings.Contains(out, "--help") {
			t.Errorf("%s with a wrong option ends with %d: %s", s, code, out)
		}
	}
}

// everything that touches hosts, with arguments that are good otherwise.
func (d desk) actions() [][]string {
	binary := filepath.Join(d.dir, "membershipd")
	deploy := func(action string, more ...string) []string {
		return append([]string{"deploy-cluster.sh", action, "--nodes", d.nodes, "--secrets", d.certs}, more...)
	}
	return [][]string{
		deploy("install", "--binary", binary, "--without-proof", "a test of the script"),
		deploy("upgrade", "--binary", binary, "--without-proof", "a test of the script"),
		deploy("start"), deploy("stop"), deploy("config"), deploy("certs"), deploy("certs", "n2"),
		{"backup-cluster.sh", "backup", "--nodes", d.nodes, "--out", filepath.Join(d.dir, "backup")},
		{"backup-cluster.sh", "backup", "--nodes", d.nodes, "--out", filepath.Join(d.dir, "backup"), "--node", "n3"},
	}
}

func TestPlaceholdersAreRefused(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	template, err := os.ReadFile("nodes.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{string(template), strings.Replace(filled, "192.0.2.1 root", "<address> root", 1)} {
		d.write(d.nodes, content, 0o600)
		d.refused("placeholder", "generate-cluster-certs.sh", "--nodes", d.nodes, "--out", filepath.Join(d.dir, "other"))
		for _, a := range d.actions() {
			d.refused("placeholder", a[0], append(a[1:], "--yes")...)
		}
	}
}

func TestTheListOfNodesIsDataAndIsChecked(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	swap := func(from, to string) string {
		if !strings.Contains(filled, from) {
			t.Fatalf("the list has no %q", from)
		}
		return strings.Replace(filled, from, to, 1)
	}
	for _, c := range []struct{ content, why string }{
		{swap("NODE n3 node-three.example.org ops@192.0.2.3 10.1.2.3", ""), "lists 2 nodes"},
		{swap("NODE n3", "NODE n2"), "n2 is there twice"},
		{swap("10.1.2.3", "10.1.2.1"), "has the route address"},
		{swap("10.1.2.1", "203.0.113.9"), "not a private one"},
		{swap(" 10.1.2.1", ""), "not a private one"},
		{swap("demo", "$(touch "+d.dir+"/hacked)"), "neither NAME=value"},
		{swap("root@192.0.2.1", "-oProxyCommand=x"), "not user@host"},
		{swap("root@192.0.2.1", "root@h;id"), "not user@host"},
		{swap("NODE n1 192", "NODE n;1 192"), "not a node's name"},
		{swap("NODE n1 192.0.2.1", "NODE n1 `id`"), "neither a name nor"},
		{swap("4222", "70000"), "not a port"},
		{swap("4222", "0"), "not a port"},
		{swap("REPLICAS=3", "REPLICAS=5"), "more than there are nodes"},
		{swap("SYNC=always", ""), "SYNC is missing"},
		{swap("SYNC=always", "SYNC=always\nSYNC=2m"), "set twice"},
		{swap("SYNC=always", "SINK=always"), "no setting SINK"},
		{swap("private", "open"), "private or public"},
	} {
		d.write(d.nodes, c.content, 0o600)
		d.refused(c.why, "deploy-cluster.sh", "start", "--nodes", d.nodes, "--yes")
	}
	if _, err := os.Stat(filepath.Join(d.dir, "hacked")); err == nil {
		t.Error("the list of nodes was run as a program")
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	before, kit := tree(t, d.dir), tree(t, ".")
	for _, a := range d.actions() {
		out := d.must(a[0], a[1:]...)
		if !strings.Contains(out, "Dry run: nothing was changed.") || !strings.Contains(out, "would ") {
			t.Errorf("%q does not say what it would do:\n%s", a, out)
		}
		if bytes.Contains([]byte(out), []byte(strings.TrimSpace(d.read(filepath.Join(d.certs, "cluster.pass"))))) {
			t.Errorf("%q shows the password", a)
		}
	}
	same(t, before, tree(t, d.dir))
	same(t, kit, tree(t, "."))
}

func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path := range after {
		if before[path] != after[path] {
			t.Errorf("%s was changed", path)
		}
	}
	if len(before) != len(after) {
		t.Errorf("there were %d files and folders, and are %d", len(before), len(after))
	}
}

func TestDryRunSaysWhatIsDone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	install := d.actions()[0]
	dry := d.must(install[0], install[1:]...)
	d.must(install[0], append(install[1:], "--yes")...)
	sent := d.read(d.sent)
	// Every line of code that the dry run prints is what the hosts get; the one with the time of day excepted there is none that is not printed.
	for line := range strings.Lines(dry) {
		code, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    | ")
		if ok && !strings.Contains(sent, code) {
			t.Errorf("printed, but not sent: %s", code)
		}
	}
	calls := strings.Split(strings.TrimSpace(d.read(d.calls)), "\n")
	if len(calls) != 9 { // per node: a look whether a daemon runs, a copy, an installation
		t.Errorf("ssh was called %d times:\n%s", len(calls), strings.Join(calls, "\n"))
	}
	for _, c := range calls {
		if strings.Contains(c, strings.TrimSpace(d.read(filepath.Join(d.certs, "cluster.pass")))) {
			t.Errorf("the password is an argument: %s", c)
		}
		if !strings.Contains(c, "BatchMode=yes") || strings.Contains(c, "StrictHostKeyChecking") {
			t.Errorf("ssh was called with %s", c)
		}
		if strings.Contains(c, "ops@") != strings.Contains(c, "sudo -n") {
			t.Errorf("root is reached the wrong way: %s", c)
		}
	}
	for _, want := range []string{
		"UNIBUS_ROUTES=10.1.2.1:6222,10.1.2.2:6222,10.1.2.3:6222\n", "UNIBUS_CLUSTER_LISTEN=10.1.2.2:6222\n", "UNIBUS_NAME=n3\n",
		"UNIBUS_INTERNAL_ID_FILE=/var/lib/unibus/internal.nk\n", "UNIBUS_ENFORCE=true\n", "UNIBUS_HTTP_LISTEN=127.0.0.1:8080\n",
		"UNIBUS_CLIENT_ADVERTISE=node-three.example.org:4222\n",
	} {
		if !strings.Contains(sent, want) { // tar does not compress
			t.Errorf("the hosts did not get %q", want)
		}
	}
	if !strings.Contains(sent, `WITHOUT\ PROOF:\ a\ test\ of\ the\ script`) {
		t.Error("the reason is not logged on the hosts")
	}
}

// certificate reads the first one of a file.
func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

func pool(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(b) {
		t.Fatalf("%s holds no certificate", path)
	}
	return p
}

func verify(c *x509.Certificate, host string, roots *x509.CertPool, u x509.ExtKeyUsage) error {
	_, err := c.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{u}})
	return err
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.makeCerts()
	in := func(parts ...string) string { return filepath.Join(append([]string{d.certs}, parts...)...) }
	routes, clients := pool(t, in("route-trust.crt")), pool(t, in("client-trust.crt"))
	if certificate(t, in("route-ca.crt")).Equal(certificate(t, in("client-ca.crt"))) {
		t.Error("routes and clients have one authority")
	}
	hosts := map[string][]string{"n1": {"n1", "192.0.2.1", "10.1.2.1"}, "n2": {"n2", "192.0.2.2", "10.1.2.2"}, "n3": {"n3", "node-three.example.org", "10.1.2.3"}}
	for node, names := range hosts {
		route, client := certificate(t, in(node, "route.crt")), certificate(t, in(node, "client.crt"))
		for _, h := range names {
			for _, u := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				if err := verify(route, h, routes, u); err != nil {
					t.Errorf("the route certificate of %s is not good for %s, usage %v: %v", node, h, u, err)
				}
			}
		}
		for _, h := range append(names[:2:2], "127.0.0.1", "localhost") {
			if err := verify(client, h, clients, x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("the client certificate of %s is not good for %s: %v", node, h, err)
			}
		}
		for _, bad := range []error{
			verify(route, names[0], clients, x509.ExtKeyUsageServerAuth), verify(client, names[0], routes, x509.ExtKeyUsageServerAuth),
			verify(client, names[0], clients, x509.ExtKeyUsageClientAuth), verify(route, "n9", routes, x509.ExtKeyUsageServerAuth),
		} {
			if bad == nil {
				t.Errorf("a certificate of %s is good for what it must not be", node)
			}
		}
		if life := route.NotAfter.Sub(route.NotBefore); life > 398*24*time.Hour || life < 300*24*time.Hour {
			t.Errorf("the route certificate of %s lives for %v", node, life)
		}
		for _, kind := range []string{"route", "client"} {
			if _, err := tls.LoadX509KeyPair(in(node, kind+".crt"), in(node, kind+".key")); err != nil {
				t.Errorf("%s of %s: %v", kind, node, err)
			}
		}
	}
	for path, what := range tree(t, d.certs) {
		if !strings.HasPrefix(what, "-rw-------") && !strings.HasPrefix(what, "drwx------") {
			t.Errorf("%s can be read by others: %s", path, what[:10])
		}
	}
	if pass := strings.TrimSpace(d.read(in("cluster.pass"))); len(pass) != 48 {
		t.Errorf("the password has %d characters", len(pass))
	}
}

func TestNothingIsReplacedUnasked(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	before := tree(t, d.certs)
	d.makeCerts()
	same(t, before, tree(t, d.certs))

	d.makeCerts("--rotate", "n2")
	for path, was := range before {
		changed := tree(t, d.certs)[path] != was
		want := strings.Contains(path, string(filepath.Separator)+"n2"+string(filepath.Separator))
		if changed != want {
			t.Errorf("--rotate n2: %s changed: %t", path, changed)
		}
	}
	if err := verify(certificate(t, filepath.Join(d.certs, "n2", "route.crt")), "n2", pool(t, filepath.Join(d.certs, "route-trust.crt")), x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if out := d.makeCerts("--check"); strings.Count(out, "GMT") != 8 {
		t.Errorf("--check says %s", out)
	}
	d.refused("expire within 500 days", "generate-cluster-certs.sh", "--nodes", d.nodes, "--out", d.certs, "--check", "--warn", "500")
}

// A change of the authority: whatever step the other node is at, one step behind or ahead, both accept each other.
func TestAnotherAuthority(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	first := certificate(t, filepath.Join(d.certs, "route-ca.crt"))
	type stage struct {
		leaf  *x509.Certificate
		trust *x509.CertPool
	}
	at := func() stage {
		return stage{certificate(t, filepath.Join(d.certs, "n1", "route.crt")), pool(t, filepath.Join(d.certs, "route-trust.crt"))}
	}
	stages := []stage{at()}
	for _, action := range []string{"--new-ca", "--switch-ca", "--drop-old-ca"} {
		d.makeCerts(action, "route")
		stages = append(stages, at())
	}
	for i := range stages {
		for _, j := range []int{i - 1, i, i + 1} {
			if j < 0 || j >= len(stages) {
				continue
			}
			if err := verify(stages[i].leaf, "n1", stages[j].trust, x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("a node at step %d is not accepted at step %d: %v", i, j, err)
			}
		}
	}
	if verify(stages[0].leaf, "n1", stages[3].trust, x509.ExtKeyUsageServerAuth) == nil {
		t.Error("the old authority is still trusted at the end")
	}
	if first.Equal(certificate(t, filepath.Join(d.certs, "route-ca.crt"))) {
		t.Error("the authority is still the first one")
	}
	for action, why := range map[string]string{"--switch-ca": "no next", "--drop-old-ca": "no old"} {
		d.refused(why, "generate-cluster-certs.sh", "--nodes", d.nodes, "--out", d.certs, action, "route")
	}
}

func TestProofIsDemanded(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	d.giveCerts()
	binary := filepath.Join(d.dir, "membershipd")
	for _, action := range []string{"install", "upgrade"} {
		for _, yes := range [][]string{nil, {"--yes"}} {
			args := append([]string{action, "--nodes", d.nodes, "--secrets", d.certs, "--binary", binary}, yes...)
			d.refused("a proof is demanded", "deploy-cluster.sh", args...)
			d.refused("needs a reason", "deploy-cluster.sh", append(args, "--without-proof", "because")...)
			d.refused("needs a reason", "deploy-cluster.sh", append(args, "--without-proof", "two lines\nof reason")...)
			d.refused("exclude each other", "deploy-cluster.sh", append(args, "--proof", d.dir, "--without-proof", "a good reason")...)
			d.refused("exclude each other", "deploy-cluster.sh", append(args, "--statement", d.dir, "--without-proof", "a good reason")...)
			d.refused("exclude each other", "deploy-cluster.sh", append(args, "--statement", d.dir, "--proof", d.dir)...)
			d.refused("needs --proof-key", "deploy-cluster.sh", append(args, "--statement", d.dir)...)
		}
	}
}

// TestTheProofMustBeOfTheBinary uses the real gate on a real bundle.
func TestTheProofMustBeOfTheBinary(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the chaos command")
	}
	d := newDesk(t, filled)
	d.giveCerts()
	chaos, binary := filepath.Join(d.dir, "chaos"), filepath.Join(d.dir, "membershipd")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", chaos, "../../../cmd/chaos").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	proof := bundle(t, filepath.Join(d.dir, "proof"), binary)
	policy := filepath.Join(d.dir, "policy.yaml")
	d.write(policy, "format: unibus-policy/1\nname: test\nrequire: [{scenario: demo, claims: all}]\nmax_age: 1h\n", 0o600)
	other := filepath.Join(d.dir, "other")
	d.write(other, "#!/bin/sh\necho another version\n", 0o755)
	args := func(binary string, more ...string) []string {
		return append([]string{"install", "--nodes", d.nodes, "--secrets", d.certs, "--chaos", chaos, "--binary", binary, "--proof", proof}, more...)
	}
	key, statement := filepath.Join(d.dir, "proof.key"), filepath.Join(d.dir, "gate.json")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), chaos, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("keygen", key)
	d.refused("the bundle is not signed", "deploy-cluster.sh", args(binary, "--policy", policy, "--proof-key", key+".pub", "--yes")...)
	run("sign", "--key", key, proof)
	run("gate", "--policy", policy, "--sign", key, "--statement", statement, proof)
	stated := func(binary string) []string {
		return []string{"install", "--nodes", d.nodes, "--secrets", d.certs, "--chaos", chaos, "--binary", binary, "--statement", statement, "--proof-key", key + ".pub"}
	}
	d.refused("another binary", "deploy-cluster.sh", append(stated(other), "--yes")...)
	d.must("deploy-cluster.sh", stated(binary)...)
	d.must("deploy-cluster.sh", args(binary, "--policy", policy, "--proof-key", key+".pub")...)
	d.refused("the gate does not pass", "deploy-cluster.sh", args(other, "--policy", policy, "--yes")...)
	d.refused("the gate does not pass", "deploy-cluster.sh", args(binary, "--yes")...) // the built-in policy wants more than one scenario
	d.must("deploy-cluster.sh", args(binary, "--policy", policy, "--yes")...)
	if sent := d.read(d.sent); !strings.Contains(sent, `proof:\ gate\ pass:`) {
		t.Error("the hosts do not learn what the proof was")
	}
}

// bundle writes a proof about a binary.
func bundle(t *testing.T, dir, binary string) string {
	t.Helper()
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	b, err := reports.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Recorder().Mark("done")
	subject := reports.Subject{Kind: "membershipd", Version: "v1", Digest: "sha256:" + hex.EncodeToString(sum[:])}
	c := check.Preconditions{MinOps: -1, Marks: []string{"done"}}
	ev := reports.Evidence{
		Run: "r1", Scenario: "demo", Family: "demo", Doc: "a test", Seed: 1, Command: "none", Started: time.Now().UTC(), Seconds: 1, Subject: subject,
		Harness: reports.Subject{Kind: "chaos", Version: "v1", Digest: subject.Digest}, Env: reports.Environment{Backend: "docker", Clusters: 1},
		Claims: []reports.Claim{{ID: "done", Text: "It was done.", Spec: check.Of(c), Expect: check.Pass}},
	}
	if err := b.Seal(ev); err != nil {
		t.Fatal(err)
	}
	p, err := reports.Judge(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := reports.Finish(dir, p); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRestoreRefusesADamagedBackup(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	from := filepath.Join(d.dir, "backup")
	d.refused("holds no backup", "backup-cluster.sh", "restore", "--nodes", d.nodes, "--from", from, "--yes")
	content := "not what was saved"
	sum := sha256.Sum256([]byte("what was saved"))
	d.write(filepath.Join(from, "n1.tar.gz"), content, 0o600)
	d.write(filepath.Join(from, "SHA256SUMS"), hex.EncodeToString(sum[:])+"  n1.tar.gz\n", 0o600)
	d.refused("damaged", "backup-cluster.sh", "restore", "--nodes", d.nodes, "--from", from, "--yes")
}

// TestRunbookIsAboutTheseScripts keeps the page and the scripts together: every action and option that it names is there, and whatever it calls with --yes
// is marked.
func TestRunbookIsAboutTheseScripts(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled)
	page := d.read("README.md")
	usage := map[string]string{}
	for _, s := range scripts {
		usage[s] = d.must(s, "--help")
	}
	command := regexp.MustCompile(`\./([a-z-]+\.sh)([^\n` + "`" + `#]*)`)
	option := regexp.MustCompile(`--[a-z-]+`)
	found := command.FindAllStringSubmatchIndex(page, -1)
	if len(found) < 10 {
		t.Errorf("the page has %d commands", len(found))
	}
	for _, m := range found {
		script, args := page[m[2]:m[3]], page[m[4]:m[5]]
		if !slices.Contains(scripts, script) {
			t.Errorf("the page calls %s, which is not there", script)
			continue
		}
		for _, o := range option.FindAllString(args, -1) {
			if !strings.Contains(usage[script], o) {
				t.Errorf("%s does not know %s", script, o)
			}
		}
		before := page[:m[0]]
		section := before[strings.LastIndex(before, "\n## ")+1:]
		if strings.Contains(args, "--yes") && !strings.Contains(section, "**HUMAN**") {
			t.Errorf("%s%s changes hosts and is not marked HUMAN", script, args)
		}
	}
}
