package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/unibus/unibus/sut/membershipd"
)

const serveExample = `  membershipd serve --name n1 --data-dir /var/lib/unibus --routes n1:6222,n2:6222,n3:6222 \
    --cluster-pass-file /etc/unibus/cluster.pass --static-keys-file /etc/unibus/keys --http-listen 0.0.0.0:8080

  UNIBUS_NAME=n1 UNIBUS_DATA_DIR=/var/lib/unibus UNIBUS_ROUTES=n1:6222,n2:6222,n3:6222 \
    UNIBUS_CLUSTER_PASS_FILE=/etc/unibus/cluster.pass membershipd serve`

// serveFlags are those that need more than a plain variable.
type serveFlags struct {
	routes              string
	maxMemory, maxStore string
	logLevel, logFormat string
}

func newServe(getenv func(string) string) *cobra.Command {
	cfg := membershipd.DefaultConfig()
	var f serveFlags
	c := &cobra.Command{
		Use: "serve", Short: "Run a node", Args: cobra.NoArgs, Example: serveExample,
		Long: `Run a node until SIGTERM or SIGINT, which move leaders and clients to the other nodes first; a second signal ends it at once.
SIGHUP reads certificates, keys and authorities again, which also happens by itself when the files change.
Every flag can also be given in the environment: --data-dir as UNIBUS_DATA_DIR. The flag wins. Secrets are given as files only.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := fillFromEnv(c.Flags(), getenv); err != nil {
				return err
			}
			if err := f.apply(&cfg, c.ErrOrStderr()); err != nil {
				return err
			}
			d, err := membershipd.New(cfg)
			if err != nil {
				return err
			}
			defer onHangup(d.Reload)()
			return failed(d.Run(c.Context()))
		},
	}
	addServeFlags(c, &cfg, &f)
	return c
}

// onHangup calls f at every SIGHUP, until the function that it returns is called.
func onHangup(f func()) (stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ch:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

func addServeFlags(c *cobra.Command, cfg *membershipd.Config, f *serveFlags) {
	fl := c.Flags()
	fl.StringVar(&cfg.Name, "name", "", "name of this node; must stay the same for ever")
	fl.StringVar(&cfg.ClusterName, "cluster-name", cfg.ClusterName, "name of the cluster")
	fl.StringVar(&cfg.DataDir, "data-dir", "", "directory for everything that persists")
	fl.StringVar(&cfg.ClientListen, "client-listen", cfg.ClientListen, "`host:port` for NATS clients")
	fl.StringVar(&cfg.ClientAdvertise, "client-advertise", "", "`host:port` that clients are told, if it is another one")
	fl.StringVar(&cfg.ClusterListen, "cluster-listen", cfg.ClusterListen, "`host:port` for routes")
	fl.StringVar(&cfg.ClusterAdvertise, "cluster-advertise", "", "`host:port` that the other nodes are told, if it is another one")
	fl.StringVar(&cfg.HTTPListen, "http-listen", cfg.HTTPListen, "`host:port` for /livez /healthz /readyz /servez /statusz /metrics")
	fl.StringVar(&cfg.MonitorListen, "monitor-listen", "", "`host:port` for nats-server's own monitoring, which has no authentication; empty for none")
	fl.StringVar(&f.routes, "routes", "", "`host:port,...` of the routes of all nodes, this one included; their number is the size of the cluster: 3 to 7")
	fl.StringVar(&cfg.Store, "store", cfg.Store, "where the control plane is kept: kv")
	fl.IntVar(&cfg.Replicas, "replicas", cfg.Replicas, "replicas of the control plane's buckets; never scaled down")
	fl.StringVar(&cfg.Sync, "sync", cfg.Sync, "when writes are flushed to disk: always, or a `duration`")
	fl.StringVar(&cfg.ClusterPassFile, "cluster-pass-file", "", "`file` with the password of the routes, mode 0600 or 0400")
	fl.StringVar(&cfg.InternalIDFile, "internal-id-file", "", "`file` with the nkey seed of this node; made at the first start (default DATA-DIR/internal.nk)")
	fl.StringVar(&cfg.StaticKeysFile, "static-keys-file", "", "`file` with lines \"PUBLIC-USER-NKEY [admin|system]\": who may log in without a record; system is for the tools of NATS, in the account SYS")
	fl.StringVar(&cfg.TLSCert, "tls-cert", "", "`file` with the certificate that clients are shown; empty for plain text")
	fl.StringVar(&cfg.TLSKey, "tls-key", "", "`file` with its key, mode 0600 or 0400")
	fl.StringVar(&cfg.TLSCA, "tls-ca", "", "`file` with the authorities of clients' certificates, for --tls-client-auth verify")
	fl.StringVar(&cfg.TLSClientAuth, "tls-client-auth", cfg.TLSClientAuth, "whether clients need a certificate: none or verify")
	fl.StringVar(&cfg.ClusterTLSCert, "cluster-tls-cert", "", "`file` with this node's certificate for routes, good for both sides; empty for plain text")
	fl.StringVar(&cfg.ClusterTLSKey, "cluster-tls-key", "", "`file` with its key, mode 0600 or 0400")
	fl.StringVar(&cfg.ClusterTLSCA, "cluster-tls-ca", "", "`file` with the authorities of routes: others than those of clients")
	fl.BoolVar(&cfg.Enforce, "enforce", cfg.Enforce, "give every user exactly the permissions of its role and rooms")
	fl.DurationVar(&cfg.AuthMaxStaleness, "auth-max-staleness", 0, "let users in for this `duration` after their records were last known to be current; 0 for ever")
	fl.StringVar(&cfg.SeedFile, "seed-file", "", "`file` with the first administrators, made by \"user add --store seed\"; imported once, when the cluster forms")
	fl.DurationVar(&cfg.LameDuck, "lame-duck", cfg.LameDuck, "how long clients are moved away after SIGTERM")
	fl.StringVar(&cfg.OnDamage, "on-damage", cfg.OnDamage, "when checksums of the store do not hold: rebuild (from a majority without this node), stay-out, or ignore, which does not look")
	fl.StringVar(&cfg.OnClock, "on-clock", cfg.OnClock, "when the clock is not that of the others: stay-out until it is, at a start and, by ending, while the node runs; or ignore, which only reports while it runs")
	fl.StringVar(&f.maxMemory, "max-memory", "256M", "JetStream's limit for memory, with K, M or G")
	fl.StringVar(&f.maxStore, "max-store", "10G", "JetStream's limit for files, with K, M or G; 320M of it are kept for the control plane")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
}

func (f *serveFlags) apply(cfg *membershipd.Config, logs io.Writer) (err error) {
	cfg.Version = buildVersion()
	cfg.Routes = membershipd.ParseRoutes(f.routes)
	if cfg.MaxMemory, err = membershipd.ParseBytes(f.maxMemory); err != nil {
		return fmt.Errorf("--max-memory: %w", err)
	}
	if cfg.MaxStore, err = membershipd.ParseBytes(f.maxStore); err != nil {
		return fmt.Errorf("--max-store: %w", err)
	}
	cfg.Log, err = f.logger(logs)
	return err
}

func (f *serveFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", f.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", f.logFormat)
}
