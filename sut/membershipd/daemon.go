// Package membershipd is the unibus daemon: an embedded nats-server with JetStream, and the control plane on top of it.
//
// A node's life:
//
//	Run -> claim the data directory -> HTTP answers -> (rendezvous) -> audit of the store -> embedded server starts -> own connection -> control plane runs
//	                                                                                                               |
//	                       exit 0 <- HTTP closed <- lame duck <- control API stopped <- "shutting down" <- ctx done |
//	                       error  <---------------------------------------------------- fatal, JetStream disabled <-+
//
// A node that is alone is up, says why it is not ready, and keeps trying for ever. Only the very first start, which cannot succeed
// without all nodes, waits for them before it starts the embedded server.
package membershipd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/health"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	internalReconnect = 50 * time.Millisecond
	watchInterval     = 200 * time.Millisecond // between two looks whether JetStream still runs
	stopGrace         = 3 * time.Second        // in which the embedded server has to stop without a lame duck
	duckGrace         = 10 * time.Second       // beyond the lame duck: before it moves the clients the embedded server stops JetStream, which takes long on a slow disk
	routeGrace        = 500 * time.Millisecond // for what clients had sent to leave over the routes
	taskGrace         = 5 * time.Second        // in which everything else has to end
)

// ErrDiskLost ends a daemon whose disk has failed to sync: what the kernel had not written by then is lost, and says nothing. So does a disk that hangs: what
// waits for it holds up everything else sooner or later. The next start reads what there is, as soon as the disk takes writes again.
var ErrDiskLost = errors.New("the disk lost writes")

// ErrJetStreamLost ends a daemon whose embedded server has disabled JetStream, for example because the disk is full.
var ErrJetStreamLost = errors.New("JetStream was disabled by the embedded server")

// Daemon is one node.
type Daemon struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	now     func() time.Time // the clock that is compared with those of other nodes

	eval    *evaluator
	disk    *diskProber
	guard   *storeGuard
	metrics *metrics
	want    wanted
	beats   *heartbeats
	clocks  clocks
	fatal   chan error    // the first error that must end the process
	tls     *certificates // set by Run, before anything asks for them
	reloads chan struct{} // see Reload

	users *accessPlane
	seed  atomic.Pointer[seeder]

	stopping atomic.Bool
	meeting  atomic.Pointer[rendezvous] // while the node waits for all others before its first start
	running  atomic.Pointer[node]

	left []<-chan struct{} // tasks that did not end in time, used by Run alone
}

// node is what exists only once the embedded server runs.
type node struct {
	srv   *server.Server
	nc    *nats.Conn
	obs   *observer
	probe *prober
	boot  *bootstrap
	audit *auditor
}

// New checks the settings. Nothing runs yet, and nothing is written.
func New(cfg Config) (*Daemon, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg, now: time.Now, log: cfg.logger().With("node", cfg.Name), fatal: make(chan error, 1), reloads: make(chan struct{}, 1), beats: newHeartbeats(cfg.Name)}
	d.want.raise(cfg.Replicas)
	if mutant.Planted == mutant.BucketsAtR1 {
		d.want.n.Store(1)
	}
	d.clocks = clocks{size: len(cfg.Routes), leave: cfg.OnClock != OnClockIgnore, log: d.log, now: func() time.Time { return d.now() }}
	d.users = newAccessPlane(cfg, d.log)
	d.disk = newDiskProber(cfg.DataDir, d.log)
	d.guard = newStoreGuard(cfg, d.log)
	d.metrics = newMetrics(d)
	d.eval = newEvaluator(d.log, d.collect, d.changed)
	return d, nil
}

// Run is the node's whole life. It returns nil after a shutdown that ctx asked for, and an error for everything else.
func (d *Daemon) Run(ctx context.Context) error {
	d.started = time.Now()
	if mutant.Planted != mutant.None {
		d.log.Error("there is a planted bug in this build, which is good for nothing but to be found", "bug", mutant.Planted)
	}
	release, err := claimDataDir(d.cfg)
	if err != nil {
		return err
	}
	defer func() { d.release(release) }()
	secrets, err := d.loadSecrets()
	if err != nil {
		return err
	}
	d.users.key = secrets.publicKey
	if d.tls, err = newCertificates(d.cfg); err != nil {
		return err
	}
	if err := d.users.load(); err != nil {
		return err
	}
	stopHTTP, err := d.listenHTTP(ctx)
	if err != nil {
		return err
	}
	defer stopHTTP()
	life, stop := context.WithCancel(context.WithoutCancel(ctx)) // goes on while clients are moved away
	var tasks sync.WaitGroup
	defer d.await(&tasks)
	defer stop()
	last, err := lastAlive(d.cfg.DataDir) // before the probe of the disk
	if err != nil {
		return err
	}
	tasks.Go(func() { d.eval.run(life) })
	tasks.Go(func() { d.tls.watch(life, d.reloads) })
	tasks.Go(func() { d.disk.run(life) })
	if !d.disk.wait(ctx) {
		return nil
	}
	if met, err := d.meet(ctx); !met {
		return err
	}
	if right, err := d.checkClock(ctx, secrets, last); !right {
		return err
	}
	if whole, err := d.mend(ctx, secrets); !whole {
		return err
	}
	if there, err := d.refetch(ctx, secrets); !there {
		return err
	}
	return d.runServer(ctx, life, secrets)
}

// await waits until the tasks have ended, but not for ever: one of them may be at a disk that hangs.
func (d *Daemon) await(tasks *sync.WaitGroup) {
	if done, inTime := within(taskGrace, tasks.Wait); !inTime {
		d.log.Warn("not everything ended in time: the disk may hang")
		d.left = append(d.left, done)
	}
}

// within does something that may hang, and waits for no longer than limit. done is closed when it is done, whenever that is.
func within(limit time.Duration, do func()) (done <-chan struct{}, inTime bool) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		do()
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-over:
		return over, true
	case <-t.C:
		return over, false
	}
}

// release gives the data directory up, once nothing of this daemon can write there any more.
func (d *Daemon) release(directory func() error) {
	left := d.left
	end := func() {
		for _, done := range left {
			<-done
		}
		_ = directory() // the process ends
	}
	if len(left) > 0 {
		go end()
		return
	}
	end()
}

// meet waits for the other nodes if this is the first start. It returns false when ctx ended first, or with an error.
func (d *Daemon) meet(ctx context.Context) (bool, error) {
	fresh, err := storeIsNew(d.cfg)
	if err != nil || !fresh {
		return err == nil, err
	}
	r := newRendezvous(d.cfg, d.tls.of(listenerRoutes).config(), d.eval.kick)
	d.meeting.Store(r)
	d.eval.kick()
	d.log.Info("the store is new: wait until all nodes are there", "cluster_size", len(d.cfg.Routes))
	met, err := r.wait(ctx)
	d.meeting.Store(nil)
	return met, err
}

// secrets are what a node must be able to read before it starts.
type secrets struct {
	routePass string
	identity  nkeys.KeyPair
	publicKey string
	static    staticDirectory
	seed      *SeedFile // nil for none
}

// identify says who the owner of a key is to the control API, at this moment.
func (s secrets) identify(users *accessPlane, publicKey string) (caller, error) {
	if publicKey == s.publicKey || users.applied.isNode(publicKey) { // it is let in only from that node's own host
		return caller{key: publicKey, control: access.ControlWrite}, nil
	}
	if k, ok := s.static[publicKey]; ok && !k.system { // whoever is let into SYS alone has no way to the control API
		c := caller{key: publicKey, control: access.ControlRead}
		if k.admin {
			c.control = access.ControlWrite
		}
		return c, nil
	}
	name, level, err := users.caller(publicKey)
	return caller{key: publicKey, name: name, control: level}, err
}

// reserved says whether a key logs in without a record, so that no user may have it.
func (s secrets) reserved(publicKey string) bool {
	_, static := s.static[publicKey]
	return static || publicKey == s.publicKey
}

func (d *Daemon) loadSecrets() (s secrets, err error) {
	if s.routePass, err = readClusterPass(d.cfg.ClusterPassFile); err != nil {
		return s, err
	}
	if s.identity, err = loadOrCreateIdentity(d.cfg.internalIDFile()); err != nil {
		return s, err
	}
	if s.publicKey, err = s.identity.PublicKey(); err != nil {
		return s, fmt.Errorf("read the internal identity: %w", err)
	}
	if s.static, err = readStaticKeys(d.cfg.StaticKeysFile); err != nil {
		return s, err
	}
	s.seed, err = loadSeed(d.cfg, d.log)
	return s, err
}

// fail ends the daemon; the first reason counts.
func (d *Daemon) fail(err error) {
	select {
	case d.fatal <- err:
	default:
	}
}

func (d *Daemon) newServer(s secrets) (*server.Server, error) {
	opts, err := serverOptions(d.cfg, s.routePass, d.tls)
	if err != nil {
		return nil, err
	}
	auth := &authenticator{log: d.log, outcome: d.metrics.login,
		directories: []directory{internalDirectory{s.publicKey}, s.static, userDirectory{plane: d.users, log: d.log}}}
	opts.CustomClientAuthentication = auth
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errServer, err)
	}
	auth.account = srv.LookupAccount
	end := func(cid uint64) { _ = srv.DisconnectClientByID(cid) } // an error means that it is gone
	d.users.close.Store(&end)
	srv.SetLoggerV2(&serverLog{log: d.log.With("from", "nats-server"), fatal: d.fatal}, false, false, false)
	return srv, nil
}

// runServer starts the embedded server, which may take long when there is much to recover, and stays until the end.
func (d *Daemon) runServer(ctx, life context.Context, s secrets) error {
	srv, err := d.newServer(s)
	if err != nil {
		return err
	}
	d.log.Info("start", "version", d.cfg.Version, "replicas", d.cfg.Replicas, "sync", d.cfg.Sync, "cluster_size", len(d.cfg.Routes))
	up := make(chan struct{})
	go func() {
		srv.Start()
		close(up)
	}()
	select {
	case <-up:
	case err := <-d.fatal:
		d.abandon(srv)
		return err
	case <-ctx.Done():
		d.stopping.Store(true)
		d.eval.kick()
		d.abandon(srv)
		return nil
	}
	return d.runControlPlane(ctx, life, srv, s)
}

// abandon shuts the server down, but does not wait for ever for one that hangs in its start.
func (d *Daemon) abandon(srv *server.Server) {
	_, inTime := within(stopGrace, func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !inTime {
		d.log.Warn("the embedded server did not stop in time")
	}
}

func (d *Daemon) runControlPlane(ctx, life context.Context, srv *server.Server, s secrets) error {
	select {
	case err := <-d.fatal: // said during the start, which returned all the same
		d.abandon(srv)
		return err
	default:
	}
	nc, err := connectInternal(srv, s, internalName)
	if err != nil {
		d.abandon(srv)
		return err
	}
	sys, err := connectInternal(srv, s, systemName)
	if err != nil {
		nc.Close()
		d.abandon(srv)
		return err
	}
	life, stop := context.WithCancel(life)
	var tasks sync.WaitGroup
	stopAPI, err := d.startTasks(life, &tasks, srv, nc, sys, s)
	if err == nil {
		err = d.waitForEnd(ctx, srv)
	}
	d.stopping.Store(true)
	d.eval.kick()
	if stopAPI != nil {
		err = errors.Join(err, stopAPI()) // the other nodes answer the control API from now on
	}
	stop()
	d.await(&tasks)
	nc.Close()
	sys.Close()
	if err != nil {
		d.abandon(srv)
		return err
	}
	d.lameDuck(srv)
	return nil
}

// connectInternal logs in over a pipe, as the node's own identity; the name chooses the account.
func connectInternal(srv *server.Server, s secrets, name string) (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Name(name), nats.Nkey(s.publicKey, s.identity.Sign),
		nats.MaxReconnects(-1), nats.ReconnectWait(internalReconnect), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // what matters is seen by the health evaluator
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	return nc, nil
}

func (d *Daemon) startTasks(ctx context.Context, tasks *sync.WaitGroup, srv *server.Server, nc, sys *nats.Conn, s secrets) (stopAPI func() error, err error) {
	js := jsAPI{nc: nc}
	remote := newRemoteInfos(js)
	told := newResources(sys)
	n := &node{srv: srv, nc: nc, obs: newObserver(d.cfg.Name, srv, remote, d.beats, told.told)}
	n.probe = newProber(js, d.log, d.record(s), d.eval.kick)
	n.boot = &bootstrap{js: js, log: d.log, facts: d.facts, want: &d.want, size: len(d.cfg.Routes), kicks: make(chan struct{}, 1), onWant: d.eval.kick}
	changed := func() { _ = nc.Publish(subjectAudit, nil) } // a hint: the auditor looks on its own, too
	n.audit = newAuditor(js, d.log, func() bool { f, ok := d.facts(); return ok && leads(f) }, changed)
	d.running.Store(n)
	d.eval.kick()
	tasks.Go(func() { d.failOn(d.beats.run(ctx, nc)) })
	tasks.Go(func() { d.failOn(told.run(ctx, func() []*server.RouteInfo { return routesOf(srv) })) })
	tasks.Go(func() { d.failOn(n.boot.followSetting(ctx, nc)) })
	tasks.Go(func() { remote.run(ctx) })
	tasks.Go(func() { n.boot.run(ctx) })
	tasks.Go(func() { n.probe.run(ctx) })
	tasks.Go(func() { n.audit.run(ctx) })
	tasks.Go(func() { newCatchup(srv, d.log, d.metrics.snapshots).run(ctx) })
	var followers [access.NumBuckets]*follower
	for b := range access.Bucket(access.NumBuckets) {
		followers[b] = newFollower(b, js, d.users)
		tasks.Go(func() { followers[b].run(ctx) })
	}
	d.users.applied.onWritten(func(r access.Revisions) {
		for b, f := range followers {
			f.hint(r[b])
		}
	})
	tasks.Go(func() { d.users.keep(ctx, nc) })
	tasks.Go(func() { d.failOn(d.users.tend(ctx, nc, func(cid uint64) bool { return srv.GetClient(cid) != nil })) })
	sub, err := nc.Subscribe(subjectAudit, func(*nats.Msg) { n.audit.kick() })
	if err != nil {
		return nil, fmt.Errorf("listen for changes: %w", err)
	}
	ready := func() bool { return d.eval.view().Ready }
	asked, err := nc.Subscribe(subjectReplicas, func(m *nats.Msg) { answerReplicas(srv, d.cfg.Name, ready, m) })
	if err != nil {
		return nil, fmt.Errorf("listen for questions about replicas: %w", err)
	}
	clock, err := nc.Subscribe(subjectClock, func(m *nats.Msg) { d.answerClock(ready, m) })
	if err != nil {
		return nil, fmt.Errorf("listen for questions about the time: %w", err)
	}
	tasks.Go(func() { d.failOn(d.watchClock(ctx, nc)) })
	context.AfterFunc(ctx, func() { _ = errors.Join(sub.Unsubscribe(), asked.Unsubscribe(), clock.Unsubscribe()) })
	tasks.Go(func() { d.auditRebuilds(ctx, js, s) })
	a := &api{
		js: js, log: d.log, node: d.cfg.Name, size: len(d.cfg.Routes), plane: d.users, follow: followers, reserved: s.reserved,
		identify: func(key string) (caller, error) { return s.identify(d.users, key) },
		health:   d.eval.view, status: d.status, want: &d.want, count: d.metrics.count,
		wantSet: func(r int) { d.wantSet(n, r) },
		wrote:   changed,
		trail:   n.audit,
	}
	for b := range a.writing {
		a.writing[b] = make(chan struct{}, 1)
	}
	seed := &seeder{api: a, log: d.log, dir: d.cfg.DataDir, file: s.seed}
	d.seed.Store(seed)
	tasks.Go(func() { seed.run(ctx) })
	svc, err := a.serve(ctx, nc)
	if err != nil {
		return nil, err
	}
	return func() error {
		err := svc.Stop()
		a.finish(ctx)
		return errors.Join(err, nc.Flush())
	}, nil
}

// subjectAudit tells the auditors, in CONTROL, that there is something to do.
const subjectAudit = "unibus.internal.changed"

func (d *Daemon) failOn(err error) {
	if err != nil {
		d.fail(err)
	}
}

func (d *Daemon) wantSet(n *node, replicas int) {
	n.boot.raise(strconv.Itoa(replicas))
	_ = n.nc.Publish(subjectWant, []byte(strconv.Itoa(replicas))) // a hint: the setting is read regularly
}

func (d *Daemon) record(s secrets) nodeRecord {
	client, cluster := d.cfg.ClientAdvertise, d.cfg.ClusterAdvertise
	if client == "" {
		client = d.cfg.ClientListen
	}
	if cluster == "" {
		cluster = d.cfg.ClusterListen
	}
	return nodeRecord{Name: d.cfg.Name, PublicKey: s.publicKey, Client: client, Cluster: cluster, Version: d.cfg.Version, Started: d.started.UTC()}
}

// waitForEnd returns nil when ctx ends, and an error when the node cannot go on.
func (d *Daemon) waitForEnd(ctx context.Context, srv *server.Server) error {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			d.log.Info("shut down", "lame_duck", d.cfg.LameDuck)
			return nil
		case err := <-d.fatal:
			return err
		case <-t.C:
			if !srv.JetStreamEnabled() {
				return ErrJetStreamLost
			}
			if err := d.disk.lost(); err != nil {
				return err
			}
		}
	}
}

// lameDuck moves leaders and clients to the other nodes, then stops the server. It does not take longer than it was given.
func (d *Daemon) lameDuck(srv *server.Server) {
	if mutant.Planted == mutant.LameDuckDrops {
		if bus, err := srv.LookupAccount(accountBus); err == nil {
			_ = bus.AddMapping(">", "unibus.draining.>")
		}
	}
	_, inTime := within(d.cfg.LameDuck+duckGrace, func() {
		if d.cfg.LameDuck > 0 {
			srv.LameDuckShutdown()
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !inTime {
		d.log.Warn("the lame duck took too long")
		_, _ = within(stopGrace, func() { closeClients(srv) })
		d.abandon(srv)
	}
}

// closeClients ends the connections of clients while the routes are still open: a server that is shut down closes both at once, and with them goes what it
// had taken from a client and not passed on.
func closeClients(srv *server.Server) {
	all, err := srv.Connz(&server.ConnzOptions{Limit: server.DEFAULT_MAX_CONNECTIONS})
	if err != nil {
		return // then the server is past that
	}
	for _, c := range all.Conns {
		_ = srv.DisconnectClientByID(c.Cid) // an error means that it is gone
	}
	<-time.After(routeGrace)
}

// collect gathers the facts of this moment.
func (d *Daemon) collect() health.Facts {
	f := health.Facts{
		Node: d.cfg.Name, ClusterSize: len(d.cfg.Routes), ShuttingDown: d.stopping.Load(),
		WantReplicas: d.want.get(), Sync: d.cfg.Sync, ProbeAge: d.probeAge(), UsersLoaded: d.users.loaded(), Enforce: d.cfg.Enforce,
	}
	f.DiskAge, f.DiskError = d.disk.facts()
	f.Store = d.guard.facts()
	if r := d.meeting.Load(); r != nil {
		f.Gathering, f.Peers = true, r.present()
	}
	n := d.running.Load()
	if n == nil {
		return f
	}
	f.Started = n.srv.Running()
	f.Internal = n.nc.IsConnected()
	n.obs.observe(&f)
	return f
}

func (d *Daemon) facts() (health.Facts, bool) {
	s := d.eval.latest.Load()
	if s == nil || time.Since(s.at) > health.StaleLimit {
		return health.Facts{}, false
	}
	return s.facts, true
}

func (d *Daemon) probeAge() time.Duration {
	if n := d.running.Load(); n != nil {
		return n.probe.age()
	}
	return health.Never
}

// changed wakes those who wait for what the evaluator has just seen.
func (d *Daemon) changed(before, after *snapshot) {
	n := d.running.Load()
	if n == nil || before == nil {
		return
	}
	if nodesLeader(before.facts) != nodesLeader(after.facts) || before.Quorum.Have < after.Quorum.Have {
		n.probe.kick()
	}
	if !leads(before.facts) && leads(after.facts) {
		n.boot.kick()
		n.audit.kick()
	}
}

// nodesLeader is the leader of the bucket that the probe writes to.
func nodesLeader(f health.Facts) string {
	for _, b := range f.Buckets {
		if b.Name == BucketNodes {
			return b.Group.Leader + b.Leader
		}
	}
	return ""
}

func (d *Daemon) counts() (routes, clients int, probeFailures uint64) {
	n := d.running.Load()
	if n == nil {
		return 0, 0, 0
	}
	return n.srv.NumRoutes(), n.srv.NumClients(), n.probe.failed.Load()
}
