package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

// Settings of Access.
const (
	aclUsers    = 14
	aclFixed    = 2                      // users whose rights never change, so that every seed has a reader and a writer, each in a room
	aclWorkers  = 4                      // that try things side by side
	aclThink    = 8 * time.Millisecond   // a worker's pause between two attempts
	aclEvery    = 250 * time.Millisecond // a change of some user's rights
	canaryPause = 60 * time.Millisecond  // between two changes of a canary
	probePause  = 5 * time.Millisecond   // between two attempts of a probe
	probeFor    = 3 * time.Second        // after the confirmation
	settleFor   = 20 * time.Second       // for every node to confirm the last change, at the end
	setupFor    = 30 * time.Second
)

// Access is users who try everything at every node while what they may do changes: roles, rooms, keys, and whether they may come in at all. Canaries
// are users of whom one thing is tried at every node without a pause while one thing about them changes: they measure how soon a change is in effect.
type Access struct {
	Users    int // 0 means 14; at least 3
	Canaries int // 0 means 2

	env       *Env
	admin     *admin // makes the matrix's changes; canaries have one each
	witnesses []*witness
	people    []*person
	roles     []string
	rooms     []string
	canaries  []*canary

	mu     sync.Mutex
	agents map[string]*agent // by user, key and node
	old    map[string]nkeys.KeyPair
}

// canary is a user with an administrator of its own.
type canary struct {
	name  string // begins the names of the users that it is one after the other
	p     *person
	admin *admin
}

var _ Workload = (*Access)(nil)

// Name implements Workload.
func (w *Access) Name() string { return "users who try everything" }

// Setup implements Workload: streams, roles, rooms and users.
func (w *Access) Setup(ctx context.Context, e *Env) error {
	w.Users, w.Canaries = max(or(w.Users, aclUsers), aclFixed+1), or(w.Canaries, 2)
	w.env, w.agents, w.old = e, map[string]*agent{}, map[string]nkeys.KeyPair{}
	ctx, cancel := context.WithTimeout(ctx, setupFor)
	defer cancel()
	for _, n := range e.Cluster.Nodes() {
		w.witnesses = append(w.witnesses, newWitness(ctx, e, n))
	}
	var err error
	if w.admin, err = newAdmin(ctx, e, "acl-admin", 0); err != nil {
		return err
	}
	if err := w.makeStreams(ctx); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(e.Seed, hash("acl setup")))
	if err := w.makeRoles(ctx, rng); err != nil {
		return err
	}
	if err := w.makeUsers(ctx, rng); err != nil {
		return err
	}
	return w.makeCanaries(ctx)
}

func (w *Access) makeStreams(ctx context.Context) error {
	for _, s := range []jetstream.StreamConfig{
		{Name: aclStream, Subjects: []string{"acl.orders.>"}, Replicas: 3, MaxMsgs: 1000},
		{Name: aclVictim, Subjects: []string{"aclx.victim"}, Storage: jetstream.MemoryStorage, Replicas: 1},
		{Name: "KV_" + aclBucket, Subjects: []string{"$KV." + aclBucket + ".>"}, Replicas: 3, MaxMsgsPerSubject: 1, AllowRollup: true, AllowDirect: true, DenyDelete: true},
		{Name: "KV_" + aclForeign, Subjects: []string{"$KV." + aclForeign + ".>"}, Replicas: 3, MaxMsgsPerSubject: 1, AllowRollup: true, AllowDirect: true, DenyDelete: true},
	} {
		err := until(ctx, setupFor, changeRetry, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := w.admin.c.js.CreateOrUpdateStream(ctx, s)
			return err
		})
		if err != nil {
			return fmt.Errorf("create stream %s: %w", s.Name, err)
		}
	}
	return nil
}

// Roles that mean the same in every run, beside those that the seed draws.
const (
	roleWriter = "acl-writer"
	roleReader = "acl-reader"
	roleNone   = "acl-none"
	roleLoud   = "acl-loud" // the canaries' two
	roleQuiet  = "acl-quiet"
)

func (w *Access) makeRoles(ctx context.Context, rng *rand.Rand) error {
	all := map[string]check.RoleRecord{
		roleWriter: {Publish: []string{"acl.news.>", "acl.svc.*", "acl.orders.*"}, Deny: []string{"acl.news.secret.>"}, Buckets: map[string]string{aclBucket: "write"},
			Streams: map[string]string{aclStream: "consume"}, Control: "read"},
		roleReader: {Subscribe: []string{"acl.news.>"}, Deny: []string{"acl.news.secret.>"}, Buckets: map[string]string{aclBucket: "read"}, Streams: map[string]string{aclStream: "read"}},
		roleNone:   {},
		roleLoud:   {Publish: []string{"acl.free.>"}},
		roleQuiet:  {Subscribe: []string{"acl.free.>"}},
	}
	for i := range 4 {
		all[fmt.Sprintf("acl-r%d", i)] = drawRole(rng)
	}
	w.roles = []string{"member", check.AdminRole}
	for name := range all {
		w.roles = append(w.roles, name)
	}
	slices.Sort(w.roles)
	for _, name := range w.roles {
		if r, ok := all[name]; ok {
			if err := w.admin.role(ctx, name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// drawRole makes a role of the subjects that users try.
func drawRole(rng *rand.Rand) check.RoleRecord {
	some := func(p float64, of ...string) (out []string) {
		for _, s := range of {
			if rng.Float64() < p {
				out = append(out, s)
			}
		}
		return out
	}
	r := check.RoleRecord{
		Publish:   some(0.4, "acl.news.*", "acl.news.>", "acl.free.x", "acl.room.a.*", "acl.svc.x", "acl.svc.>", "acl.orders.x"),
		Subscribe: some(0.4, "acl.news.x", "acl.news.>", "acl.free.>", "acl.room.>", "acl.room.c.*.x", "acl.orders.>"),
		Deny:      some(0.3, "acl.news.secret.>", "acl.room.b.>", "acl.free.x", "acl.svc.x"),
		Control:   drawOf(rng, "", "", "read"),
	}
	if l := drawOf(rng, "", "read", "write"); l != "" {
		r.Buckets = map[string]string{drawOf(rng, aclBucket, aclForeign): l}
	}
	if l := drawOf(rng, "", "read", "consume"); l != "" {
		r.Streams = map[string]string{drawOf(rng, aclStream, aclVictim): l}
	}
	return r
}

func (w *Access) makeUsers(ctx context.Context, rng *rand.Rand) error {
	owner, err := newPerson("acl-owner")
	if err != nil {
		return err
	}
	if _, err := w.admin.add(ctx, owner, check.AdminRole); err != nil { // the last administrator cannot be changed: this one stays
		return err
	}
	w.rooms = []string{"acl-a", "acl-b", "acl-c"}
	for i, subjects := range [][]string{{"acl.room.a.>"}, {"acl.room.b.x"}, {"acl.room.c.*.x", "acl.news.secret.x"}} {
		if err := w.admin.room(ctx, w.rooms[i], owner.name, check.RoomRecord{Subjects: subjects}); err != nil {
			return err
		}
	}
	for i := range w.Users {
		p, err := newPerson(fmt.Sprintf("acl-u%02d", i))
		if err != nil {
			return err
		}
		role, room := w.roles[i%len(w.roles)], rng.IntN(len(w.rooms)+1)
		if i < aclFixed {
			role, room = []string{roleReader, roleWriter}[i], i
		}
		if _, err := w.admin.add(ctx, p, role); err != nil {
			return err
		}
		if room < len(w.rooms) {
			if _, err := w.admin.member(ctx, p, w.rooms[room], drawOf(rng, "member", "observer", "owner")); err != nil {
				return err
			}
		}
		w.people = append(w.people, p)
	}
	return nil
}

func (w *Access) makeCanaries(ctx context.Context) error {
	for i := range w.Canaries {
		a, err := newAdmin(ctx, w.env, "canary-admin", i)
		if err != nil {
			return err
		}
		p, err := newPerson(fmt.Sprintf("canary-%d", i))
		if err != nil {
			return err
		}
		w.canaries = append(w.canaries, &canary{name: p.name, p: p, admin: a})
		if _, err := a.add(ctx, p, roleQuiet); err != nil {
			return err
		}
	}
	return nil
}

// agent is the connection of a user with a key to a node.
func (w *Access) agent(user string, pair nkeys.KeyPair, v *witness) (*agent, error) {
	a, err := newAgent(w.env, user, pair, v)
	if err != nil {
		return nil, err
	}
	id := user + " " + a.key + " " + string(v.node.ID())
	w.mu.Lock()
	defer w.mu.Unlock()
	if have := w.agents[id]; have != nil {
		return have, nil
	}
	w.agents[id] = a
	return a, nil
}

// Run implements Workload.
func (w *Access) Run(ctx context.Context, e *Env) error {
	if w.admin == nil {
		return errNotSetUp
	}
	errs := make([]error, aclWorkers+1+len(w.canaries))
	var wg sync.WaitGroup
	for i := range aclWorkers {
		rng := rand.New(rand.NewPCG(e.Seed, hash(fmt.Sprintf("acl worker %d", i))))
		wg.Go(func() { errs[i] = w.work(ctx, rng) })
	}
	wg.Go(func() { errs[aclWorkers] = w.changes(ctx, rand.New(rand.NewPCG(e.Seed, hash("acl changes")))) })
	for i, c := range w.canaries {
		rng := rand.New(rand.NewPCG(e.Seed, hash(c.p.name)))
		wg.Go(func() { errs[aclWorkers+1+i] = w.sing(ctx, c, rng) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// work tries one thing after the other, as anybody, anywhere.
func (w *Access) work(ctx context.Context, rng *rand.Rand) error {
	for pause(ctx, aclThink) {
		p := w.people[rng.IntN(len(w.people))]
		v := w.witnesses[rng.IntN(len(w.witnesses))]
		key := drawOf(rng, w.tries(p.name)...)
		if !v.up() {
			continue
		}
		pair := w.pairOf(p, rng)
		a, err := w.agent(p.name, pair, v)
		if err != nil {
			return err
		}
		a.try(ctx, key)
	}
	return nil
}

// pairOf is the user's key, or sometimes the one that it had before.
func (w *Access) pairOf(p *person, rng *rand.Rand) nkeys.KeyPair {
	w.mu.Lock()
	old := w.old[p.name]
	w.mu.Unlock()
	if old != nil && rng.IntN(10) == 0 {
		return old
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pair
}

// tries is everything that a user tries.
func (w *Access) tries(user string) []string {
	other := w.people[0].name
	if other == user {
		other = w.people[1].name
	}
	keys := []string{
		check.ActLogin, check.ActStatus, check.ActRead + " users.list",
		check.ActInbox + " " + other, check.ActInbox + " " + user,
		check.ActInfo + " " + aclStream, check.ActInfo + " " + aclVictim, check.ActConsume + " " + aclStream, check.ActDivert + " " + aclStream,
		check.ActManage + " create " + aclScratch, check.ActManage + " delete " + aclVictim, check.ActManage + " purge " + aclVictim,
		check.ActStore + " acl.orders.x",
		check.ActRequest + " acl.svc.x", check.ActRequest + " acl.svc.x.y",
	}
	for _, s := range []string{"acl.news.x", "acl.news.x.y", "acl.news.secret.x", "acl.free.x", "acl.room.a.x", "acl.room.a.x.y", "acl.room.b.x", "acl.room.b.x.y", "acl.room.c.k.x"} {
		keys = append(keys, check.ActPublish+" "+s)
	}
	for _, s := range []string{"acl.news.>", "acl.news.*", "acl.news.secret.x", "acl.free.>", "acl.room.>", "acl.room.a.>", "acl.room.b.*", "acl.room.b.x", "acl.room.c.*.x", "acl.orders.>",
		"acl.>", ">", "*.news.x", "$JS.API.>", "$KV.>", "_INBOX.>", "unibus.v1.>"} {
		keys = append(keys, check.ActSubscribe+" "+s)
	}
	for _, b := range []string{aclBucket, aclForeign} {
		keys = append(keys, check.ActKVGet+" "+b+".k", check.ActKVPut+" "+b+".k", check.ActRollup+" "+b+".k")
	}
	for _, s := range []string{"settings.put", "users.add", "users.disable", "users.setrole", "roles.put", "cluster.scale"} {
		keys = append(keys, check.ActWrite+" "+s)
	}
	return keys
}

// changes changes one user after the other.
func (w *Access) changes(ctx context.Context, rng *rand.Rand) error {
	for pause(ctx, aclEvery) {
		p := w.people[aclFixed+rng.IntN(len(w.people)-aclFixed)]
		err := w.changeOne(ctx, p, rng)
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, p := range w.people {
			p.settle(ctx)
		}
	}
	return nil
}

// roomSubjects is one subject of each room.
var roomSubjects = map[string]string{"acl-a": "acl.room.a.x", "acl-b": "acl.room.b.x", "acl-c": "acl.room.c.k.x"}

// visit lets a person publish to a room at every node. Before a change it opens the connections that the change has to reach, and afterwards it shows
// whether it did: left to chance, hardly anybody uses at the right moment what was just taken away.
func (w *Access) visit(ctx context.Context, p *person, room string) {
	p.mu.Lock()
	pair := p.pair
	p.mu.Unlock()
	for _, v := range w.witnesses {
		if !v.up() {
			continue
		}
		if a, err := w.agent(p.name, pair, v); err == nil {
			a.try(ctx, check.ActPublish+" "+roomSubjects[room])
		}
	}
}

func (w *Access) changeOne(ctx context.Context, p *person, rng *rand.Rand) (err error) {
	now := p.now()
	switch k := rng.IntN(10); {
	case now.Disabled && k < 7:
		_, err = w.admin.enable(ctx, p)
	case k < 2:
		_, err = w.admin.disable(ctx, p)
	case k < 5:
		_, err = w.admin.setRole(ctx, p, drawOf(rng, w.roles...))
	case k < 9:
		// Taking somebody out of a room means something only for who is in it.
		room, level := drawOf(rng, w.rooms...), drawOf(rng, "member", "observer", "owner")
		if in := p.rooms(); len(in) > 0 && rng.IntN(2) == 0 {
			room, level = drawOf(rng, in...), ""
		}
		w.visit(ctx, p, room)
		if _, err = w.admin.member(ctx, p, room, level); err == nil {
			w.visit(ctx, p, room)
		}
	default:
		var old nkeys.KeyPair
		if old, _, err = w.admin.rotate(ctx, p); err == nil {
			w.mu.Lock()
			w.old[p.name] = old
			w.mu.Unlock()
		}
	}
	return err
}

// note is one change of a canary, and what shows it.
type note struct {
	shows  string          // the attempt
	wanted history.Outcome // its answer afterwards
	change func(ctx context.Context) (history.Op, error)
	key    func() nkeys.KeyPair // with which it is tried
}

// sing changes a canary again and again, and watches every node for the effect.
func (w *Access) sing(ctx context.Context, c *canary, rng *rand.Rand) error {
	for n := 0; pause(ctx, canaryPause); n++ {
		s, err := w.nextNote(c, n, rng)
		if err != nil {
			return err
		}
		if err := w.watch(ctx, c, s); err != nil && ctx.Err() == nil {
			return err
		}
		for ctx.Err() == nil && !c.p.settle(ctx) && pause(ctx, changeRetry) {
			continue // the next sample would be blurred by this one
		}
	}
	return nil
}

// nextNote goes through the sorts of changes in turn.
func (w *Access) nextNote(c *canary, n int, rng *rand.Rand) (note, error) {
	p, a := c.p, c.admin
	s := note{shows: check.ActPublish + " acl.free.x", wanted: history.OK, key: func() nkeys.KeyPair { return p.pair }}
	switch n % 6 {
	case 0:
		s.change = func(ctx context.Context) (history.Op, error) { return a.setRole(ctx, p, roleLoud) }
	case 1:
		s.wanted = history.Failed
		s.change = func(ctx context.Context) (history.Op, error) { return a.setRole(ctx, p, roleQuiet) }
	case 2:
		s.shows, s.wanted = check.ActLogin, history.Failed
		s.change = func(ctx context.Context) (history.Op, error) { return a.disable(ctx, p) }
	case 3:
		s.shows = check.ActLogin
		s.change = func(ctx context.Context) (history.Op, error) { return a.enable(ctx, p) }
	case 4:
		room, level := drawOf(rng, w.rooms[:2]...), "member"
		s.shows = check.ActPublish + map[string]string{"acl-a": " acl.room.a.x", "acl-b": " acl.room.b.x"}[room]
		s.change = func(ctx context.Context) (history.Op, error) { return a.member(ctx, p, room, level) }
	default: // a user who was not there before
		fresh, err := newPerson(fmt.Sprintf("%s-%d", c.name, n))
		if err != nil {
			return s, err
		}
		c.p = fresh
		s.shows, s.key = check.ActLogin, func() nkeys.KeyPair { return fresh.pair }
		s.change = func(ctx context.Context) (history.Op, error) { return a.add(ctx, fresh, roleQuiet) }
	}
	return s, nil
}

// watch makes a change while every node is tried, until each that confirmed it shows it.
func (w *Access) watch(ctx context.Context, c *canary, s note) error {
	probing, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	errs := make([]error, len(w.witnesses))
	for i, v := range w.witnesses {
		a, err := newAgent(w.env, c.p.name, s.key(), v)
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer a.close()
			errs[i] = w.probe(probing, a, s)
		})
	}
	_, err := s.change(ctx)
	if err != nil {
		stop()
		return err
	}
	t := time.AfterFunc(probeFor, stop)
	wg.Wait()
	t.Stop()
	return errors.Join(errs...)
}

// probe tries until the answer is the one that the change brings.
func (w *Access) probe(ctx context.Context, a *agent, s note) error {
	for ctx.Err() == nil {
		if a.witness.up() {
			if out, did := a.try(ctx, s.shows); did && out == s.wanted {
				return nil
			}
		}
		pause(ctx, probePause)
	}
	return nil
}

// Settle waits until every node has confirmed every change. The workload must be at rest.
func (w *Access) Settle(ctx context.Context) error {
	return until(ctx, settleFor, changeRetry, func(ctx context.Context) error {
		for _, p := range w.people {
			if !p.settle(ctx) {
				return fmt.Errorf("%w: what %s may do", errNotConfirmed, p.name)
			}
		}
		return nil
	})
}

// Sweep lets everybody try everything everywhere. The workload must be at rest.
func (w *Access) Sweep(ctx context.Context) {
	type job struct {
		p *person
		v *witness
	}
	jobs := make(chan job)
	var wg sync.WaitGroup
	for range aclWorkers {
		wg.Go(func() {
			for j := range jobs {
				w.sweep(ctx, j.p, j.v)
			}
		})
	}
	for _, p := range w.people {
		for _, v := range w.witnesses {
			jobs <- job{p, v}
		}
	}
	close(jobs)
	wg.Wait()
}

// Drain implements Workload: nothing is read back, see Settle and Sweep.
func (w *Access) Drain(context.Context, *Env) error { return nil }

// sweep tries everything as one user at one node.
func (w *Access) sweep(ctx context.Context, p *person, v *witness) {
	a, err := w.agent(p.name, p.pair, v)
	if err != nil {
		return // a key that has no public key does not get so far
	}
	for _, key := range w.tries(p.name) {
		if ctx.Err() != nil {
			return
		}
		out, did := a.try(ctx, key)
		if !did && out == history.Failed {
			return // the user may not come in: one refusal says it all
		}
	}
}

// Close implements Workload.
func (w *Access) Close() {
	w.mu.Lock()
	agents := w.agents
	w.agents = map[string]*agent{}
	w.mu.Unlock()
	for _, a := range agents {
		a.close()
	}
	for _, v := range w.witnesses {
		v.close()
	}
	w.witnesses = nil
	if w.admin != nil {
		w.admin.close()
	}
	for _, c := range w.canaries {
		c.admin.close()
	}
}
