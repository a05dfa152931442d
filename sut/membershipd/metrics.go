package membershipd

import (
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/unibus/unibus/sut/membershipd/health"
)

// metrics has a registry of its own, so that several daemons can run in one process.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	logins   *prometheus.CounterVec
	// snapshots counts the streams that were snapshotted for a replica that did not catch up.
	snapshots prometheus.Counter
}

func newMetrics(d *Daemon) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "unibus_api_requests_total", Help: "Requests to the control API that this node answered."}, []string{"endpoint", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "unibus_api_request_seconds", Help: "Time to answer a request to the control API.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}}, []string{"endpoint"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "unibus_logins_total", Help: "Clients that proved a key, by whether they were let in; those that did not prove one are not counted."}, []string{"outcome"}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "unibus_catchup_snapshots_total", Help: "Snapshots of streams that this node leads, taken for a replica that did not catch up."}),
	}
	// Garbage collection: with the live heap, which is what an operator watches to see what users and streams take.
	runtimeMetrics := collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)})
	m.registry.MustRegister(collectors.NewGoCollector(runtimeMetrics), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.requests, m.latency, m.logins, m.snapshots, &nodeCollector{d: d}, tlsCollector{d: d})
	return m
}

func (m *metrics) count(endpoint, code string, took time.Duration) {
	m.requests.WithLabelValues(endpoint, code).Inc()
	m.latency.WithLabelValues(endpoint).Observe(took.Seconds())
}

func (m *metrics) login(ok bool) {
	outcome := "refused"
	if ok {
		outcome = "accepted"
	}
	m.logins.WithLabelValues(outcome).Inc()
}

// nodeCollector reads the latest judgement when it is scraped.
type nodeCollector struct {
	d *Daemon
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("unibus_"+name, help, labels, nil)
}

var (
	descInfo        = gauge("info", "Always 1; the labels tell the node's name and version.", "node", "version")
	descReady       = gauge("ready", "1 if the node says that it is ready.")
	descHave        = gauge("quorum_have", "Nodes that take part, this one included.")
	descNeed        = gauge("quorum_need", "Nodes that must take part.")
	descSize        = gauge("cluster_size", "Nodes that are configured.")
	descLeader      = gauge("meta_leader", "1 for the node that this one takes for the meta leader.", "leader")
	descIsLeader    = gauge("is_meta_leader", "1 if this node leads the meta group.")
	descReplicas    = gauge("bucket_replicas", "Replicas of a control-plane stream.", "bucket")
	descWant        = gauge("bucket_want_replicas", "Wanted replicas of every control-plane stream.")
	descCurrent     = gauge("bucket_current", "1 if the stream can be written and this node's replica is current.", "bucket")
	descLag         = gauge("bucket_lag", "Entries that a replica is behind.", "bucket")
	descBytes       = gauge("bucket_bytes", "Bytes that a control-plane stream takes, history included.", "bucket")
	descMaxBytes    = gauge("bucket_max_bytes", "Bytes that a control-plane stream may take.", "bucket")
	descPeer        = gauge("peer_seen_seconds", "Since another node was last heard of; -1 for never.", "peer")
	descClock       = gauge("clock_ahead_seconds", "By how much this node's clock is ahead of another one's, within a second.", "peer")
	descProbe       = gauge("probe_age_seconds", "Since the last write through a quorum was begun; -1 for never.")
	descAge         = gauge("judgement_age_seconds", "Since readiness was last judged.")
	descDegraded    = gauge("posture_degraded", "1 if the loss of one more node may stop the control plane.")
	descRoutes      = gauge("routes", "Open routes.")
	descConnections = gauge("connections", "Open client connections, the node's own included.")
	descUsers       = gauge("users", "Users that this node knows, disabled ones included.")
	descQuarantined = gauge("quarantined_records", "Records of users, roles, rooms and members that were not understood; they grant nothing.")
	descUsersAge    = gauge("users_age_seconds", "Since the users were last known to be current; -1 for never.")
	descUsersLoaded = gauge("users_loaded", "1 once everything about users was read.")
	descApplied     = gauge("users_applied_revision", "Last revision of a bucket that is in force on this node.", "bucket")
	descSessions    = gauge("user_sessions", "Open connections of users.")
	descEnforce     = gauge("enforce", "1 if every user has exactly the permissions of its role and rooms.")
	descKicked      = prometheus.NewDesc("unibus_sessions_closed_total", "Connections that were closed because their user's rights changed.", nil, nil)
	descRewinds     = prometheus.NewDesc("unibus_users_rewinds_total", "Buckets that had to be read anew because they went backwards.", nil, nil)
	descAuditBytes  = gauge("store_audit_bytes", "Bytes of the store that were read and verified before this start.")
	descAuditTook   = gauge("store_audit_seconds", "How long that took.")
	descDamaged     = gauge("store_damaged", "1 while the node stays out because its store is damaged.")
	descRebuilt     = gauge("store_rebuilt", "Streams and Raft groups that were given up before this start, to be got back from other nodes.")
	descProbeFailed = prometheus.NewDesc("unibus_probe_failures_total", "Probe writes that failed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInfo, descReady, descHave, descNeed, descSize, descLeader, descIsLeader, descReplicas, descWant,
		descCurrent, descLag, descBytes, descMaxBytes, descPeer, descClock, descProbe, descAge, descDegraded, descRoutes, descConnections, descProbeFailed,
		descUsers, descQuarantined, descUsersAge, descUsersLoaded, descApplied, descSessions, descEnforce, descKicked, descRewinds,
		descAuditBytes, descAuditTook, descDamaged, descRebuilt} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.d.status()
	set(descInfo, 1, s.Node, s.Version)
	set(descReady, one(s.Ready))
	set(descHave, float64(s.Quorum.Have))
	set(descNeed, float64(s.Quorum.Need))
	set(descSize, float64(s.ClusterSize))
	if s.MetaLeader != "" {
		set(descLeader, 1, s.MetaLeader)
	}
	set(descIsLeader, one(s.MetaLeader == s.Node))
	set(descWant, float64(s.Posture.Replicas))
	set(descProbe, s.ProbeSeconds)
	set(descAge, s.AgeSeconds)
	set(descDegraded, one(s.Posture.State != health.PostureOK))
	for _, p := range s.Peers {
		set(descPeer, p.SeenSeconds, p.Name)
		if p.ClockAheadSeconds != nil {
			set(descClock, *p.ClockAheadSeconds, p.Name)
		}
	}
	streams := s.Buckets
	if s.Audit.Name != "" {
		streams = append(streams[:len(streams):len(streams)], s.Audit)
	}
	for _, b := range streams {
		set(descReplicas, float64(b.Replicas), b.Name)
		set(descCurrent, one(b.Current), b.Name)
		set(descLag, float64(b.Lag), b.Name)
		if b.MaxBytes > 0 {
			set(descBytes, float64(b.Bytes), b.Name)
			set(descMaxBytes, float64(b.MaxBytes), b.Name)
		}
	}
	set(descUsers, float64(s.Access.Users))
	set(descQuarantined, float64(s.Access.Quarantines))
	set(descUsersAge, s.Access.AgeSeconds)
	set(descUsersLoaded, one(s.Access.Loaded))
	set(descSessions, float64(s.Access.Sessions))
	set(descEnforce, one(s.Posture.Enforce))
	set(descAuditBytes, float64(s.Store.AuditedBytes))
	set(descAuditTook, s.Store.AuditSeconds)
	set(descDamaged, one(len(s.Store.Damaged) > 0))
	set(descRebuilt, float64(c.d.guard.rebuilt.Load()))
	for bucket, revision := range s.Access.Applied {
		set(descApplied, float64(revision), bucket)
	}
	ch <- prometheus.MustNewConstMetric(descKicked, prometheus.CounterValue, float64(c.d.users.kicked.Load()))
	ch <- prometheus.MustNewConstMetric(descRewinds, prometheus.CounterValue, float64(s.Access.Rewinds))
	routes, clients, failures := c.d.counts()
	set(descRoutes, float64(routes))
	set(descConnections, float64(clients))
	ch <- prometheus.MustNewConstMetric(descProbeFailed, prometheus.CounterValue, float64(failures))
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
