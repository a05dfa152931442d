package membershipd

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

// Settings of the embedded server that operators have no say in.
const (
	routeUser = "unibus"

	// A peer whose packets are dropped is noticed after two unanswered pings.
	routePingInterval = time.Second
	routeMaxPingsOut  = 2
	writeDeadline     = 4 * time.Second

	clientPingInterval = 20 * time.Second
	clientMaxPingsOut  = 2
	authTimeout        = 5.0 // seconds; a loaded machine needs more than the default of two

	// Lame duck, as the embedded server does it: leaders are moved (it waits a second for that if there were any), JetStream stops,
	// clients are told, and after the grace period closed one by one for the rest of the duration.
	leaderTransfer  = time.Second
	minClientMove   = 200 * time.Millisecond
	graceDivisor    = 10
	connectAttempts = 30 // failed attempts to reach a route between two lines in the log
)

// serverOptions translates the settings for the embedded server. routePass is in no string that the server logs or shows.
func serverOptions(c Config, routePass string, certs *certificates) (*server.Options, error) {
	o := &server.Options{}
	if err := o.ProcessConfigString(fmt.Sprintf(accountsConfig, usersStore(c))); err != nil {
		return nil, fmt.Errorf("define the accounts: %w", err)
	}
	o.ServerName = c.Name
	o.NoSigs = true
	o.DisableJetStreamBanner = true
	o.AlwaysEnableNonce = true
	o.AuthTimeout = authTimeout
	o.WriteDeadline = writeDeadline
	o.PingInterval = clientPingInterval
	o.MaxPingsOut = clientMaxPingsOut
	o.ConnectErrorReports = connectAttempts
	o.ReconnectErrorReports = connectAttempts
	setLameDuck(o, c.LameDuck)
	if err := setAddresses(o, c); err != nil {
		return nil, err
	}
	setRoutes(o, c, routePass)
	setTLS(o, certs)
	return o, setJetStream(o, c)
}

// storeMargin is the part of the store, one in so many, for what users write until the embedded server has counted it, which it does every second or so.
const storeMargin = 20

// usersStore is how many bytes all streams of users may have in files, on all nodes together: what the control plane does not keep for itself.
func usersStore(c Config) int64 {
	return int64(len(c.Routes)) * (c.MaxStore - c.MaxStore/storeMargin - reserved())
}

func setLameDuck(o *server.Options, d time.Duration) {
	o.LameDuckDuration = max(d-leaderTransfer, minClientMove)
	o.LameDuckGracePeriod = o.LameDuckDuration / graceDivisor
}

func setAddresses(o *server.Options, c Config) (err error) {
	if o.Host, o.Port, err = splitAddress(c.ClientListen); err != nil {
		return fmt.Errorf("client address: %w", err)
	}
	if o.Cluster.Host, o.Cluster.Port, err = splitAddress(c.ClusterListen); err != nil {
		return fmt.Errorf("route address: %w", err)
	}
	if c.MonitorListen != "" {
		if o.HTTPHost, o.HTTPPort, err = splitAddress(c.MonitorListen); err != nil {
			return fmt.Errorf("monitoring address: %w", err)
		}
	}
	o.Host, o.Cluster.Host = anyHost(o.Host), anyHost(o.Cluster.Host)
	o.ClientAdvertise, o.Cluster.Advertise = c.ClientAdvertise, c.ClusterAdvertise
	return nil
}

func anyHost(h string) string {
	if h == "" {
		return net.IPv4zero.String()
	}
	return h
}

// setRoutes lists all nodes: that is what tells the embedded server how many members the meta group has.
func setRoutes(o *server.Options, c Config, pass string) {
	o.Cluster.Name = c.ClusterName
	o.Cluster.Username, o.Cluster.Password = routeUser, pass
	o.Cluster.AuthTimeout = authTimeout
	o.Cluster.PingInterval, o.Cluster.MaxPingsOut = routePingInterval, routeMaxPingsOut
	o.Cluster.WriteDeadline = writeDeadline
	for _, r := range c.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: r, User: url.UserPassword(routeUser, pass)})
	}
}

// setTLS encrypts the listeners that have certificates. The routes' verification of both sides has to be asked for here: only the
// embedded server's own configuration language implies it.
func setTLS(o *server.Options, certs *certificates) {
	if k := certs.of(listenerClients); k != nil {
		o.TLSConfig, o.TLSTimeout = k.config(), tlsTimeout
		o.TLS, o.TLSVerify = true, k.clientAuth == tls.RequireAndVerifyClientCert
	}
	if k := certs.of(listenerRoutes); k != nil {
		o.Cluster.TLSConfig, o.Cluster.TLSTimeout = k.config(), tlsTimeout
	}
}

func setJetStream(o *server.Options, c Config) error {
	interval, err := c.syncInterval()
	if err != nil {
		return err
	}
	o.JetStream = true
	o.StoreDir = c.DataDir // the server makes the directory "jetstream" in it
	o.JetStreamMaxMemory, o.JetStreamMaxStore = c.MaxMemory, c.MaxStore
	o.SyncAlways, o.SyncInterval = interval == 0, interval
	if mutant.Planted == mutant.SyncNotAlways {
		o.SyncAlways, o.SyncInterval = false, 10*time.Second
	}
	return nil
}
