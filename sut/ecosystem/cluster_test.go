package ecosystem_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/observe"
	"github.com/unibus/unibus/sut/process"
	"github.com/unibus/unibus/sut/subject"
)

const (
	// bound is far above what anything here takes on a loaded machine.
	bound = 2 * time.Minute
	poll  = 50 * time.Millisecond

	size    = 3
	buckets = 6
)

// bus is the cluster that all tests of this package share.
type bus struct {
	cluster.Cluster
	dir       string // for files of the clients
	admin     nkeys.KeyPair
	adminFile string
	sysFile   string // of the operator in the account SYS
	sysKey    string //
	caFile    string // "" when the cluster talks plain text
	close     func() error
}

// shared is set up by the first test that needs it and closed by TestMain.
var shared struct {
	once sync.Once
	bus  *bus
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if b := shared.bus; b != nil {
		if err := b.close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// converged returns the shared cluster, with all nodes ready.
func converged(t *testing.T) *bus {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	shared.once.Do(func() { shared.bus, shared.err = startBus() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.bus.converge(t)
	return shared.bus
}

func startBus() (*bus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	s, err := subject.Resolve(ctx, string(cluster.Membershipd), subject.Options{})
	if err != nil {
		return nil, err
	}
	b := &bus{}
	if b.dir, err = os.MkdirTemp("", "unibus-ecosystem-"); err != nil {
		return nil, err
	}
	if b.admin, b.adminFile, err = newSeedFile(b.dir, "admin"); err != nil {
		return nil, err
	}
	public, err := b.admin.PublicKey()
	if err != nil {
		return nil, err
	}
	sys, sysFile, err := newSeedFile(b.dir, "system")
	if err != nil {
		return nil, err
	}
	b.sysFile = sysFile
	if b.sysKey, err = sys.PublicKey(); err != nil {
		return nil, err
	}
	backend := process.New(process.Options{Dir: b.dir})
	b.close = func() error {
		if err := backend.Close(); err != nil {
			return err
		}
		return os.RemoveAll(b.dir)
	}
	b.Cluster, err = backend.NewCluster(ctx, cluster.Spec{RunID: "ecosystem", Name: "bus", Subject: s, Size: size, AdminKey: public, SystemKey: b.sysKey})
	if err != nil {
		return b, err
	}
	for _, n := range b.Nodes() {
		if err := n.Start(ctx); err != nil {
			return b, err
		}
	}
	return b, b.trust()
}

// trust writes down what clients believe, if the cluster is encrypted.
func (b *bus) trust() error {
	secured, ok := b.Cluster.(cluster.Secured)
	if !ok || len(secured.Trust().Believed) == 0 {
		return nil
	}
	b.caFile = filepath.Join(b.dir, "ca.crt")
	return os.WriteFile(b.caFile, secured.Trust().Believed, 0o600)
}

// newSeedFile makes a user's key and the file that clients log in with.
func newSeedFile(dir, name string) (nkeys.KeyPair, string, error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", err
	}
	seed, err := kp.Seed()
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, name+".nk")
	return kp, path, os.WriteFile(path, append(seed, '\n'), 0o600)
}

func (b *bus) converge(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if p := observe.WaitConverged(ctx, b, observe.Want{Buckets: buckets, Replicas: size}); !p.OK {
		t.Fatalf("the cluster does not converge: %s", p.Why)
	}
}

// servers are the URLs of all nodes, beginning with the i-th.
func (b *bus) servers(i int) []string {
	var urls []string
	for j := range b.Nodes() {
		urls = append(urls, b.Nodes()[(i+j)%size].Endpoints().Client)
	}
	return urls
}

// get reads a page of a node.
func get(t *testing.T, url string) []byte {
	t.Helper()
	code, body, err := observe.Get(t.Context(), url)
	if err != nil || code != http.StatusOK {
		t.Fatalf("GET %s: %d, %v", url, code, err)
	}
	return body
}

// await waits for a condition; what says what it is.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain for %s", bound, what)
		case <-tick.C:
		}
	}
}

// awaitInterest waits until that node would deliver messages on a subject to somebody, here or on another node.
func (b *bus) awaitInterest(t *testing.T, node int, subject string) {
	t.Helper()
	monitor := b.Nodes()[node].Endpoints().Monitor
	await(t, "interest in "+subject, func() bool {
		seen := string(get(t, monitor+"/connz?subs=true")) + string(get(t, monitor+"/routez?subs=true"))
		return strings.Contains(seen, `"`+subject+`"`)
	})
}
