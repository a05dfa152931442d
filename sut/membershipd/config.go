package membershipd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Defaults and bounds of the settings.
const (
	// EnvPrefix precedes the name of a flag, in upper case and with underscores, in the environment.
	EnvPrefix = "UNIBUS_"
	// StoreKV keeps the control plane in replicated JetStream buckets. It is the only store so far.
	StoreKV = "kv"
	// SyncAlways flushes every write before it is acknowledged.
	SyncAlways = "always"

	defaultReplicas  = 3
	defaultLameDuck  = 2 * time.Second
	defaultMaxMemory = 256 << 20
	defaultMaxStore  = 10 << 30

	minClusterSize = 3         // below that no node may be lost
	minMaxStore    = 512 << 20 // the control plane reserves most of this for itself (see reserved)
	maxLameDuck    = 10 * time.Minute
)

// Config is everything that a node is told from outside. The zero value is not usable: see [DefaultConfig] and [Config.Check].
type Config struct {
	Name             string
	ClusterName      string
	DataDir          string
	ClientListen     string
	ClientAdvertise  string
	ClusterListen    string
	ClusterAdvertise string
	HTTPListen       string
	MonitorListen    string
	Routes           []string // host:port of all nodes, this one included
	Store            string
	Replicas         int
	Sync             string // SyncAlways, or a duration
	ClusterPassFile  string
	InternalIDFile   string // "" means internal.nk in DataDir
	StaticKeysFile   string // "" means none
	// Enforce gives every user exactly the permissions of its role and rooms. Without it every user may do everything in account BUS.
	Enforce bool
	// AuthMaxStaleness is how long users are let in after this node last knew that it had their latest records; 0 means for ever.
	AuthMaxStaleness time.Duration
	SeedFile         string // the first administrators, imported once when the cluster forms; "" means none
	TLSCert          string // what clients are shown, PEM; "" means plain text
	TLSKey           string
	TLSCA            string // bundle of the authorities of clients' certificates; needed by TLSVerify only
	TLSClientAuth    string // TLSNone or TLSVerify
	ClusterTLSCert   string // what the other nodes are shown, PEM; "" means plain text
	ClusterTLSKey    string
	ClusterTLSCA     string // bundle of the authorities of routes
	LameDuck         time.Duration
	MaxMemory        int64
	MaxStore         int64
	OnDamage         string // what to do when the audit of the store finds damage: OnDamageRebuild, OnDamageStayOut or OnDamageIgnore
	OnClock          string // what to do when the clock is not that of the others, at a start: OnClockStayOut or OnClockIgnore
	Version          string

	// Log receives everything that the daemon and its embedded server have to say; nil discards it.
	Log *slog.Logger
}

// DefaultConfig has every setting that does not depend on the host.
func DefaultConfig() Config {
	return Config{
		ClusterName:   "unibus",
		ClientListen:  "0.0.0.0:4222",
		ClusterListen: "0.0.0.0:6222",
		HTTPListen:    "127.0.0.1:8080",
		Store:         StoreKV,
		Replicas:      defaultReplicas,
		Sync:          SyncAlways,
		TLSClientAuth: TLSNone,
		Enforce:       true,
		LameDuck:      defaultLameDuck,
		MaxMemory:     defaultMaxMemory,
		MaxStore:      defaultMaxStore,
		OnDamage:      OnDamageRebuild,
		OnClock:       OnClockStayOut,
		Version:       "devel",
	}
}

// ErrConfig is wrapped by every error that a change of the settings would mend.
var ErrConfig = errors.New("configuration")

// Names become subject tokens, keys of a bucket and the identity of a Raft peer.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// Check says what is wrong with the settings, in one sentence. It does not touch the disk.
func (c Config) Check() error {
	for _, check := range []func() error{c.checkNames, c.checkAddresses, c.checkCluster, c.checkTLS, c.checkStore} {
		if err := check(); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	return nil
}

func (c Config) checkNames() error {
	switch {
	case c.Name == "":
		return errors.New("--name is required: the node's name, which must stay the same for ever")
	case !nameForm.MatchString(c.Name):
		return fmt.Errorf("--name %q: want letters, digits, '-' and '_', at most 63", c.Name)
	case !nameForm.MatchString(c.ClusterName):
		return fmt.Errorf("--cluster-name %q: want letters, digits, '-' and '_', at most 63", c.ClusterName)
	case c.DataDir == "":
		return errors.New("--data-dir is required: the directory that holds everything that persists")
	}
	return nil
}

func (c Config) checkAddresses() error {
	for _, a := range []struct {
		flag, addr string
		optional   bool
	}{
		{"client-listen", c.ClientListen, false},
		{"client-advertise", c.ClientAdvertise, true},
		{"cluster-listen", c.ClusterListen, false},
		{"cluster-advertise", c.ClusterAdvertise, true},
		{"http-listen", c.HTTPListen, false},
		{"monitor-listen", c.MonitorListen, true},
	} {
		if a.addr == "" && a.optional {
			continue
		}
		if _, _, err := splitAddress(a.addr); err != nil {
			return fmt.Errorf("--%s %q: %w", a.flag, a.addr, err)
		}
	}
	return nil
}

// maxClusterSize is what the settings allow: a key's history has room for the writes that are under way on all nodes, and one more (see settingRoom).
const maxClusterSize = 7

func (c Config) checkCluster() error {
	if len(c.Routes) < minClusterSize || len(c.Routes) > maxClusterSize {
		return fmt.Errorf("--routes lists %d nodes: it must list all nodes of the cluster, this one included, and a cluster has at least %d and at most %d",
			len(c.Routes), minClusterSize, maxClusterSize)
	}
	seen := map[string]bool{}
	for _, r := range c.Routes {
		if host, _, err := splitAddress(r); err != nil || host == "" {
			return fmt.Errorf("--routes: %q is not host:port", r)
		}
		if seen[r] {
			return fmt.Errorf("--routes lists %s twice, and its length is the size of the cluster", r)
		}
		seen[r] = true
	}
	switch {
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return fmt.Errorf("--replicas %d: want 1, 3 or 5", c.Replicas)
	case c.Replicas > len(c.Routes):
		return fmt.Errorf("--replicas %d is more than the %d nodes of the cluster", c.Replicas, len(c.Routes))
	case c.ClusterPassFile == "":
		return errors.New("--cluster-pass-file is required: routes are authenticated by the password in it")
	case c.AuthMaxStaleness < 0:
		return fmt.Errorf("--auth-max-staleness %s: want 0, which means for ever, or more", c.AuthMaxStaleness)
	case c.LameDuck < 0 || c.LameDuck > maxLameDuck:
		return fmt.Errorf("--lame-duck %s: want 0 to %s", c.LameDuck, maxLameDuck)
	}
	return nil
}

func (c Config) checkStore() error {
	switch {
	case c.Store != StoreKV:
		return fmt.Errorf("--store %q: the only store is %q", c.Store, StoreKV)
	case c.MaxMemory < 1<<20:
		return fmt.Errorf("--max-memory %d: want at least 1M", c.MaxMemory)
	case c.MaxStore < minMaxStore:
		return fmt.Errorf("--max-store %d: want at least %dM, which the control plane needs for itself", c.MaxStore, minMaxStore>>20)
	}
	switch c.OnDamage {
	case OnDamageRebuild, OnDamageStayOut, OnDamageIgnore:
	default:
		return fmt.Errorf("--on-damage %q: want %s, %s or %s", c.OnDamage, OnDamageRebuild, OnDamageStayOut, OnDamageIgnore)
	}
	if c.OnClock != OnClockStayOut && c.OnClock != OnClockIgnore {
		return fmt.Errorf("--on-clock %q: want %s or %s", c.OnClock, OnClockStayOut, OnClockIgnore)
	}
	_, err := c.syncInterval()
	return err
}

// syncInterval is 0 for SyncAlways.
func (c Config) syncInterval() (time.Duration, error) {
	if c.Sync == SyncAlways {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Sync)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--sync %q: want %q or a duration such as 2m", c.Sync, SyncAlways)
	}
	return d, nil
}

func (c Config) internalIDFile() string {
	if c.InternalIDFile != "" {
		return c.InternalIDFile
	}
	return filepath.Join(c.DataDir, "internal.nk")
}

func (c Config) accessDir() string { return filepath.Join(c.DataDir, accessDir) }

func (c Config) logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// splitAddress wants host:port with a port that is really a port: 0 would mean "the default" to the embedded server.
func splitAddress(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New("want host:port")
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("the port %q is not a number from 1 to 65535", p)
	}
	return host, port, nil
}

// ParseRoutes splits a comma-separated list of addresses.
func ParseRoutes(s string) []string {
	var routes []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimPrefix(strings.TrimSpace(part), "nats://")
		if part != "" {
			routes = append(routes, part)
		}
	}
	return routes
}

// ParseBytes reads a number of bytes with an optional suffix K, M, G or T (powers of 1024).
func ParseBytes(s string) (int64, error) {
	digits, shift := strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B"), 0
	for i, suffix := range []string{"K", "M", "G", "T"} {
		if cut, ok := strings.CutSuffix(digits, suffix); ok {
			digits, shift = cut, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size: want a number with an optional K, M, G or T", s)
	}
	return n << shift, nil
}
