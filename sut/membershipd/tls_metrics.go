package membershipd

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descTLS          = gauge("tls_enabled", "1 if the listener is encrypted.", "listener")
	descTLSNotAfter  = gauge("tls_not_after_seconds", "When what is in force expires, in Unix time; of the authorities the first.", "listener", "kind")
	descTLSStale     = gauge("tls_reload_failed", "1 if the files hold certificates that cannot be used, and older ones are in force.", "listener")
	descTLSReloads   = prometheus.NewDesc("unibus_tls_reloads_total", "Times that changed certificates were put in force.", []string{"listener"}, nil)
	descTLSRefusals  = prometheus.NewDesc("unibus_tls_reload_failures_total", "Times that changed certificates could not be used.", []string{"listener"}, nil)
	tlsListenerNames = []string{listenerClients, listenerRoutes}
)

// tlsCollector reads the certificates in force when it is scraped.
type tlsCollector struct{ d *Daemon }

// Describe implements prometheus.Collector.
func (c tlsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descTLS, descTLSNotAfter, descTLSStale, descTLSReloads, descTLSRefusals} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c tlsCollector) Collect(ch chan<- prometheus.Metric) {
	for _, name := range tlsListenerNames {
		s := c.d.tls.of(name).status(time.Now())
		ch <- prometheus.MustNewConstMetric(descTLS, prometheus.GaugeValue, one(s.Enabled), name)
		if !s.Enabled {
			continue
		}
		ch <- prometheus.MustNewConstMetric(descTLSNotAfter, prometheus.GaugeValue, float64(s.NotAfter.Unix()), name, "certificate")
		if s.AuthorityNotAfter != nil {
			ch <- prometheus.MustNewConstMetric(descTLSNotAfter, prometheus.GaugeValue, float64(s.AuthorityNotAfter.Unix()), name, "authority")
		}
		ch <- prometheus.MustNewConstMetric(descTLSStale, prometheus.GaugeValue, one(s.ReloadError != ""), name)
		ch <- prometheus.MustNewConstMetric(descTLSReloads, prometheus.CounterValue, float64(s.Reloads), name)
		ch <- prometheus.MustNewConstMetric(descTLSRefusals, prometheus.CounterValue, float64(s.ReloadFailures), name)
	}
}
