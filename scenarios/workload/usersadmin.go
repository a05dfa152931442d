package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Subjects of the control API for users, roles and rooms, as its clients know them.
const (
	usersAdd     = "unibus.v1.users.add"
	usersShow    = "unibus.v1.users.show"
	usersList    = "unibus.v1.users.list"
	usersDisable = "unibus.v1.users.disable"
	usersEnable  = "unibus.v1.users.enable"
	usersRotate  = "unibus.v1.users.rotate"
	usersSetRole = "unibus.v1.users.setrole"
	rolesPut     = "unibus.v1.roles.put"
	roomsCreate  = "unibus.v1.rooms.create"
	roomsGrant   = "unibus.v1.rooms.grant"
	roomsRevoke  = "unibus.v1.rooms.revoke"
)

// Settings of changes to users.
const (
	changeTimeout = 8 * time.Second // above every bound of the daemon's own: it is to say itself that it cannot
	changeRetry   = 200 * time.Millisecond
)

// change is the answer to a write.
type change struct {
	Revision uint64   `json:"revision"`
	Changed  bool     `json:"changed"`
	Applied  []string `json:"applied"`
}

// userRecord is a user as lists and shows have it.
type userRecord struct {
	Name        string `json:"name"`
	Key         string `json:"nkey"`
	Role        string `json:"role"`
	Disabled    bool   `json:"disabled"`
	Revision    uint64 `json:"revision"`
	Quarantined string `json:"quarantined"`
}

func (u userRecord) encode() string {
	if u.Quarantined != "" {
		return "quarantined: " + cut(u.Quarantined, maxErrWord)
	}
	return check.Encode(check.UserRecord{Key: u.Key, Role: u.Role, Disabled: u.Disabled})
}

// change carries out and records one change. op says which record becomes what.
func (c *client) change(ctx context.Context, op *history.Op, subject string, req any) history.Outcome {
	return c.changeWithin(ctx, changeTimeout, op, subject, req)
}

func (c *client) changeWithin(ctx context.Context, timeout time.Duration, op *history.Op, subject string, req any) history.Outcome {
	return c.do(ctx, op, timeout, func(ctx context.Context) error {
		var got change
		if err := c.call(ctx, subject, req, &got); err != nil {
			return err
		}
		if got.Revision == 0 {
			return fmt.Errorf("%w: no revision", errBadAnswer)
		}
		slices.Sort(got.Applied)
		op.Seq, op.Dup, op.Applied = got.Revision, !got.Changed, strings.Join(got.Applied, ",")
		return nil
	})
}

// person is a user of the harness: its present record as far as the harness knows it, and how it came about. One goroutine at a time changes it.
type person struct {
	name string
	pair nkeys.KeyPair

	mu     sync.Mutex
	record check.UserRecord
	rev    uint64
	in     map[string]bool                      // rooms
	behind map[string]func(ctx context.Context) // by record: the last change again, while some node has not confirmed it
}

func (p *person) now() check.UserRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

// rooms are those that the person is in, sorted.
func (p *person) rooms() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.in))
}

func newPerson(name string) (*person, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("create nkey: %w", err)
	}
	return &person{name: name, pair: pair}, nil
}

// admin makes changes until they are confirmed, and remembers which nodes have not confirmed them.
type admin struct {
	c     *client
	nodes []string
}

func newAdmin(ctx context.Context, e *Env, label string, home int) (*admin, error) {
	c, err := e.connect(ctx, e.label(label), home)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	c.awaitFirst(wait)
	a := &admin{c: c}
	for _, id := range cluster.IDs(e.Cluster) {
		a.nodes = append(a.nodes, string(id))
	}
	return a, nil
}

func (a *admin) close() { a.c.close() }

// errChangeRefused means that a change that the harness needs is none that the cluster makes.
var errChangeRefused = errors.New("a change was refused")

// errNotConfirmed means that ctx ended before a change was.
var errNotConfirmed = errors.New("a change was not confirmed in time")

// confirm makes one attempt after the other until one is confirmed.
func (a *admin) confirm(ctx context.Context, attempt func(ctx context.Context) history.Op) (history.Op, error) {
	for {
		op := attempt(ctx)
		if op.Outcome == history.OK {
			return op, nil
		}
		if op.Err == "invalid" || op.Err == "denied" {
			return op, fmt.Errorf("%w: %s %s: %s", errChangeRefused, op.Target, op.Key, op.Err) // it will not become right by being asked again
		}
		if !pause(ctx, changeRetry) {
			return op, fmt.Errorf("%w: %s %s: %s", errNotConfirmed, op.Target, op.Key, op.Err)
		}
	}
}

// put confirms a record that does not depend on what it was before.
func (a *admin) put(ctx context.Context, kind history.Kind, target, key string, record any, subject string, req any) (history.Op, error) {
	return a.confirm(ctx, func(ctx context.Context) history.Op {
		op := history.Op{Kind: kind, Target: target, Key: key, Value: check.Encode(record)}
		a.c.change(ctx, &op, subject, req)
		return op
	})
}

func (a *admin) role(ctx context.Context, name string, r check.RoleRecord) error {
	type grant struct {
		Name   string `json:"name"`
		Access string `json:"access"`
	}
	grants := func(m map[string]string) (gs []grant) {
		for n, l := range m {
			gs = append(gs, grant{n, l})
		}
		slices.SortFunc(gs, func(a, b grant) int { return strings.Compare(a.Name, b.Name) })
		return gs
	}
	_, err := a.put(ctx, history.Put, check.TargetRoles, name, r, rolesPut, map[string]any{"name": name, "publish": r.Publish, "subscribe": r.Subscribe, "deny": r.Deny,
		"streams": grants(r.Streams), "buckets": grants(r.Buckets), "control": r.Control})
	return err
}

// room makes a room; its owner is a member from then on, which the harness records by granting it.
func (a *admin) room(ctx context.Context, name, owner string, r check.RoomRecord) error {
	_, err := a.put(ctx, history.Create, check.TargetRooms, name, r, roomsCreate, map[string]any{"name": name, "owner": owner, "subjects": r.Subjects})
	return err
}

// member gives a person a level in a room; "" takes it out. again does the same once more.
func (a *admin) member(ctx context.Context, p *person, room, level string) (history.Op, error) {
	do := func(ctx context.Context) history.Op {
		op := history.Op{Kind: history.Put, Target: check.TargetMembers, Key: room + "." + p.name, Value: check.Encode(check.MemberRecord{Level: level})}
		if level == "" {
			a.c.change(ctx, &op, roomsRevoke, map[string]string{"room": room, "user": p.name})
		} else {
			a.c.change(ctx, &op, roomsGrant, map[string]string{"room": room, "user": p.name, "level": level})
		}
		return op
	}
	op, err := a.confirm(ctx, do)
	if err == nil {
		p.mu.Lock()
		if p.in == nil {
			p.in = map[string]bool{}
		}
		if p.in[room] = true; level == "" {
			delete(p.in, room)
		}
		p.mu.Unlock()
	}
	a.remember(p, op, err, do)
	return op, err
}

// add makes the user.
func (a *admin) add(ctx context.Context, p *person, role string) (history.Op, error) {
	key, err := p.pair.PublicKey()
	if err != nil {
		return history.Op{}, fmt.Errorf("read the public key: %w", err)
	}
	rec := check.UserRecord{Key: key, Role: role}
	do := func(ctx context.Context) history.Op {
		op := history.Op{Kind: history.Create, Target: check.TargetUsers, Key: p.name, Value: check.Encode(rec)}
		a.c.change(ctx, &op, usersAdd, map[string]string{"name": p.name, "nkey": key, "role": role})
		return op
	}
	op, err := a.confirm(ctx, do)
	if err == nil {
		p.mu.Lock()
		p.record, p.rev = rec, op.Seq
		p.mu.Unlock()
	}
	a.remember(p, op, err, do)
	return op, err
}

// update changes the user by compare-and-set, so that an attempt without an answer cannot come true later.
func (a *admin) update(ctx context.Context, p *person, subject string, to check.UserRecord, with map[string]any) (history.Op, error) {
	var lost bool
	do := func(ctx context.Context) history.Op {
		if lost {
			a.look(ctx, p)
		}
		p.mu.Lock()
		rev := p.rev
		p.mu.Unlock()
		req := map[string]any{"name": p.name, "expect": rev}
		for k, v := range with {
			req[k] = v
		}
		op := history.Op{Kind: history.Update, Target: check.TargetUsers, Key: p.name, Value: check.Encode(to), Prev: rev}
		lost = a.c.change(ctx, &op, subject, req) != history.OK
		if !lost {
			p.mu.Lock()
			p.rev, p.record = op.Seq, to
			p.mu.Unlock()
		}
		return op
	}
	op, err := a.confirm(ctx, do)
	a.remember(p, op, err, do)
	return op, err
}

// look learns the user's present revision.
func (a *admin) look(ctx context.Context, p *person) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var got userRecord
	if err := a.c.call(ctx, usersShow, map[string]string{"name": p.name}, &got); err != nil {
		return // the next attempt then conflicts, and looks again
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rev = got.Revision
}

// remember notes how to ask again while some node has not confirmed the last change of a record, or nobody has because the load was stopped meanwhile.
func (a *admin) remember(p *person, op history.Op, err error, again func(ctx context.Context) history.Op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	record := op.Target + " " + op.Key
	if p.behind == nil {
		p.behind = map[string]func(ctx context.Context){}
	}
	delete(p.behind, record)
	applied := strings.Split(op.Applied, ",")
	if err == nil && !slices.ContainsFunc(a.nodes, func(n string) bool { return !slices.Contains(applied, n) }) {
		return
	}
	p.behind[record] = func(ctx context.Context) { a.remember(p, again(ctx), nil, again) }
}

// settle asks once more for what some node has not confirmed. True means that every node has confirmed everything.
func (p *person) settle(ctx context.Context) bool {
	p.mu.Lock()
	var asks []func(ctx context.Context)
	for _, again := range p.behind {
		asks = append(asks, again)
	}
	p.mu.Unlock()
	for _, again := range asks {
		again(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.behind) == 0
}

// The changes of a user.

func (a *admin) setRole(ctx context.Context, p *person, role string) (history.Op, error) {
	to := p.now()
	to.Role = role
	return a.update(ctx, p, usersSetRole, to, map[string]any{"role": role})
}

func (a *admin) disable(ctx context.Context, p *person) (history.Op, error) {
	to := p.now()
	to.Disabled = true
	return a.update(ctx, p, usersDisable, to, nil)
}

func (a *admin) enable(ctx context.Context, p *person) (history.Op, error) {
	to := p.now()
	to.Disabled = false
	return a.update(ctx, p, usersEnable, to, nil)
}

// rotate gives the user another key, and returns the old one.
func (a *admin) rotate(ctx context.Context, p *person) (old nkeys.KeyPair, op history.Op, err error) {
	next, err := newPerson(p.name)
	if err != nil {
		return nil, history.Op{}, err
	}
	key, err := next.pair.PublicKey()
	if err != nil {
		return nil, history.Op{}, fmt.Errorf("read the public key: %w", err)
	}
	to := p.now()
	to.Key = key
	op, err = a.update(ctx, p, usersRotate, to, map[string]any{"nkey": key})
	old = p.pair
	if err == nil {
		p.mu.Lock()
		p.pair = next.pair
		p.mu.Unlock()
	}
	return old, op, err
}

// drawOf picks one of several.
func drawOf[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }
